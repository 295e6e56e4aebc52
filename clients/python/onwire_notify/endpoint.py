"""A socket and a clock for `core`; `client` and `aio` wait on it, each in its way."""

from __future__ import annotations

import socket
import time
from typing import Dict, Optional, Tuple, Union

from .claims import Need
from .core import Core, Status
from .envelope import Key
from .flow_key import FlowKey
from .requests import Wish
from .tcp_info import Written, socket_cookie

DEFAULT_PORT = 7118
_MOST_BYTES = 2048
_MOST_IN_A_TURN = 4096
_BUFFER = 4 << 20

Where = Union[str, Tuple[str, int]]

# The time in which a machine sleeps must count: a lease ends in it.
_CLOCK: Optional[int] = getattr(time, "CLOCK_BOOTTIME", None)


def now() -> float:
    """Seconds of a clock that never goes back."""
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)


def split_host(where: Where) -> Tuple[str, int]:
    """Host and port of `HOST`, `HOST:PORT`, `[IPV6]` or `[IPV6]:PORT`."""
    if not isinstance(where, str):
        return where
    if where.startswith("["):
        host, closed, rest = where[1:].partition("]")
        if not closed or rest and not rest.startswith(":"):
            raise ValueError(f"`{where}` is no address; allowed is HOST, HOST:PORT, [IPV6] or [IPV6]:PORT")
        port = rest[1:]
    elif where.count(":") > 1:
        host, port = where, ""
    else:
        host, _, port = where.partition(":")
    if not host or port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"`{where}` is no address; allowed is HOST or HOST:PORT with a port from 1 to 65535")
    return host, int(port) if port else DEFAULT_PORT


class Endpoint:
    """One run of a client with its socket. Not for several threads at once."""

    def __init__(self, where: Where, key: Key, wish: Wish, survives_burst_us: int, is_following: bool) -> None:
        host, port = split_host(where)
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        self.socket = socket.socket(family, kind, protocol)
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            # Only datagrams from there arrive, and a port where nobody listens is an error that `turn` ignores.
            self.socket.connect(address)
            self.socket.setblocking(False)
        except OSError:
            self.socket.close()
            raise
        self.core = Core(key, now(), wish, survives_burst_us, is_following)
        self._sockets: Dict[FlowKey, Tuple[int, Written]] = {}
        self.taken = 0
        """Datagrams that arrived."""

    def turn(self) -> bool:
        """Takes what has arrived and sends what is due. False: more has arrived than a turn takes, so say nothing."""
        has_all = self._receive()
        for datagram in self.core.poll(now()):
            try:
                self.socket.send(datagram)
            except OSError:
                # Lost, as on any path: it is sent again.
                pass
        return has_all

    def timeout(self) -> float:
        """Seconds until `turn` has something to do, if nothing arrives."""
        at = now()
        return max(0.0, self.core.timeout(at) - at)

    def close(self) -> None:
        """Ends the subscription."""
        if self.socket.fileno() < 0:
            return
        try:
            if self.core.run:
                self.socket.send(self.core.farewell())
        except OSError:
            pass
        self.socket.close()

    def watch_socket(self, connection: socket.socket) -> FlowKey:
        """Watches what this connected socket sends. Another socket with the same addresses is another flow."""
        key = FlowKey.of_socket(connection)
        cookie = socket_cookie(connection)
        if key not in self._sockets or self._sockets[key][0] != cookie:
            self.core.unwatch(key)
            self._sockets[key] = (cookie, Written())
        self.core.watch(key, now())
        return key

    def forget(self, key: FlowKey) -> None:
        """Watches a flow no more."""
        self._sockets.pop(key, None)
        self.core.unwatch(key)

    def written(self, key: FlowKey, connection: socket.socket) -> int:
        """Bytes that were written into a socket that is watched."""
        return self._sockets[key][1].count(connection)

    def status(self, key: FlowKey, offset: int, need: Need, connection: Optional[socket.socket]) -> Status:
        """Whether bytes are protected. With the connection it is known how much was written into it."""
        if connection is not None and self.core.highest(key) > self.written(key, connection):
            reason = "the appliance has seen more bytes than were written: another connection has these addresses"
            return Status(False, None, reason, is_final=True)
        return self.core.status(key, offset, need, now())

    def _receive(self) -> bool:
        for _ in range(_MOST_IN_A_TURN):
            try:
                datagram = self.socket.recv(_MOST_BYTES)
            except (BlockingIOError, InterruptedError):
                return True
            except ConnectionError:
                # The answer of a host where nobody listens.
                continue
            except OSError:
                return True
            self.taken += 1
            self.core.handle_datagram(datagram, now())
        return False
