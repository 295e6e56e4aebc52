"""A publisher in a thread, on a loopback socket: it grants, answers and repeats heartbeats by itself."""

from __future__ import annotations

import socket
import threading
import time
from typing import Callable, Dict, List, Optional, Tuple

from onwire_notify import messages as m
from onwire_notify.flow_key import FlowKey
from onwire_notify.messages import Command, Flow

from .publisher import KEY, TOKEN, Publisher, generic

HEARTBEAT = 0.02


class LivePublisher:
    """Knows the flows that a test gives it. All methods may be called from the test's thread."""

    def __init__(self, *flows: Flow, lease_ms: int = 30_000) -> None:
        # A test on a busy machine must not lose contact because nothing runs for a second.
        self._lease_ms = lease_ms
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.005)
        self.address: Tuple[str, int] = self._socket.getsockname()
        self._publisher = Publisher()
        self._flows: Dict[FlowKey, Flow] = {flow.key: flow for flow in flows}
        self._lock = threading.Lock()
        self._client: Optional[Tuple[str, int]] = None
        self._is_over = threading.Event()
        self.on_flush: Callable[[], None] = lambda: None
        self.barrier_level: Optional[m.Level] = m.Level.ON_WIRE
        self.was_left = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def __enter__(self) -> LivePublisher:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._socket.close()

    def publish(self, flow: Flow) -> None:
        """A change of a flow."""
        with self._lock:
            self._flows[flow.key] = flow
            self._send(self._publisher.flow(flow))

    def violate(self, *ranges: m.Range) -> None:
        """A loss."""
        with self._lock:
            self._send(self._publisher.violate(*ranges))

    def _send(self, datagram: bytes) -> None:
        if self._client is not None:
            self._socket.sendto(datagram, self._client)

    def _serve(self) -> None:
        beat_at = 0.0
        while not self._is_over.is_set():
            try:
                datagram, client = self._socket.recvfrom(2048)
            except (TimeoutError, socket.timeout):
                datagram = b""
            flushed = False
            with self._lock:
                if datagram and datagram[32:48] == KEY.tag(datagram[:32] + datagram[48:]):
                    flushed = self._answer(datagram, client)
                if time.monotonic() >= beat_at and self._publisher.port:
                    beat_at = time.monotonic() + HEARTBEAT
                    self._send(self._publisher.heartbeat(1))
            if flushed:
                self.on_flush()

    def _answer(self, datagram: bytes, client: Tuple[str, int]) -> bool:
        publisher = self._publisher
        ((command, seq, _, fields),) = publisher.hear([datagram])
        if command is Command.SUBSCRIBE:
            if client != self._client and fields.bytes(m.TOKEN) != TOKEN:
                self._socket.sendto(publisher.challenge(seq), client)
            else:
                publisher.number = publisher.number if client == self._client else 0
                self._client = client
                self._send(publisher.grant(seq, self._lease_ms))
        elif client != self._client:
            return False
        elif command is Command.GET_FLOWS:
            keys: List[bytes] = fields.all(1)
            found = self._flows.get(FlowKey.parse(keys[0])) if keys else None
            self._send(publisher.page(seq, *([found] if found is not None else []), version=1))
        elif command is Command.BARRIER:
            level = b"" if self.barrier_level is None else b"\5\0\4\0" + bytes([self.barrier_level, 0, 0, 0])
            self._send(publisher.send(generic(Command.BARRIER, level, seq, publisher.port)))
        elif command in (Command.FLUSH, Command.REGISTER):
            copy = m.NLMSGHDR.pack(16, m.FAMILY, 1, seq, publisher.port)
            answer = m.NLMSGHDR.pack(36, m.NLMSG_ERROR, 0x100, seq, publisher.port) + bytes(4) + copy
            self._send(publisher.send(answer))
            return command is Command.FLUSH
        elif command is Command.UNSUBSCRIBE:
            self.was_left = True
        return False
