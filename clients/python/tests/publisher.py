"""A publisher for tests: it makes the bytes that `messages` reads, and says only what a test tells it to."""

from __future__ import annotations

import struct
from typing import Dict, List, Optional, Sequence, Tuple

from onwire_notify import messages as m
from onwire_notify.attributes import NESTED, Attributes, emit, emit_u32, emit_u64
from onwire_notify.envelope import FROM_PUBLISHER, LENGTH, Envelope, Key, seal
from onwire_notify.flow_key import COOKIE, Filter, FlowKey
from onwire_notify.messages import Command

KEY = Key(1, bytes(range(32)))
TOKEN = b"0123456789abcdef"
MULTI = 2

Sent = Tuple[Command, int, int, Attributes]


def generic(command: Command, body: bytes, seq: int, port: int, flags: int = 0) -> bytes:
    """A message of the family."""
    head = m.GENLMSGHDR.pack(command, m.VERSION, 0)
    return m.NLMSGHDR.pack(m.NLMSGHDR.size + len(head) + len(body), m.FAMILY, flags, seq, port) + head + body


def flow_body(flow: m.Flow) -> bytes:
    """The attributes of a flow."""
    body = flow.key.emit() + emit_u64(m.INSTANCE, flow.instance)
    for kind, byte in ((m.EVENT, flow.event), (m.LEVEL, flow.level), (m.ORIGIN, flow.origin)):
        body += emit(kind, bytes([byte]))
    if flow.gone_reason is not None:
        body += emit(m.GONE_REASON, bytes([flow.gone_reason]))
    body += emit_u32(m.PEER_ID, flow.peer_id)
    if flow.origin_seq is not None:
        body += emit_u32(m.ORIGIN_SEQ, flow.origin_seq)
    positions = (
        (m.QUEUED, flow.queued),
        (m.ON_WIRE, flow.on_wire),
        (m.DECODED, flow.decoded),
        (m.ACKED, flow.acked),
        (m.VIOLATED, flow.violated),
        (m.PACKETS, flow.packets),
        (m.EARLY, flow.early),
        (COOKIE, flow.cookie),
    )
    for kind, position in positions:
        if position is not None:
            body += emit_u64(kind, position)
    if flow.block is not None:
        body += emit(m.K, struct.pack("<H", flow.block[0])) + emit(m.M, struct.pack("<H", flow.block[1]))
    if flow.survives_burst_us:
        body += emit_u32(m.SURVIVES_BURST, flow.survives_burst_us)
    return body


def peer_body(peer: m.Peer) -> bytes:
    """The attribute of a link."""
    body = emit_u32(1, peer.id)
    if peer.name is not None:
        body += emit(2, peer.name.encode())
    return emit(m.PEER | NESTED, body + emit(3, bytes([peer.state])) + emit(4, bytes([peer.reason])))


def violation_body(violation: m.Violation) -> bytes:
    """The attributes of a violation."""
    body = emit_u64(m.VIOLATIONS, violation.number) + emit_u32(m.PEER_ID, violation.peer_id)
    for lost in violation.ranges:
        key = Filter.exactly(lost.key).emit()
        numbers = emit_u64(2, lost.instance) + emit_u64(3, lost.start) + emit_u64(4, lost.end)
        body += emit(m.RANGE | NESTED, key + numbers)
    return body


class Publisher:
    """One run of a publisher, for one client. `requests` takes what the client sends."""

    def __init__(self, epoch: int = 0x1111_2222_3333_4444, key: Key = KEY) -> None:
        self.epoch = epoch
        self.key = key
        self.client = 0
        self.port = 0
        self.counter = 0
        self.number = 0
        self.violations = 0
        self.requests: List[Sent] = []

    def hear(self, datagrams: Sequence[bytes]) -> List[Sent]:
        """Takes the client's datagrams; returns their requests, the last of each number."""
        heard: Dict[int, Sent] = {}
        for datagram in datagrams:
            self.client = int.from_bytes(datagram[8:16], "little")
            body = datagram[LENGTH:]
            _, _, _, seq, self.port = m.NLMSGHDR.unpack_from(body)
            command = Command(body[m.NLMSGHDR.size])
            receiver = int.from_bytes(datagram[16:24], "little")
            heard[seq] = (command, seq, receiver, Attributes(body[m.NLMSGHDR.size + m.GENLMSGHDR.size :]))
        self.requests.extend(heard.values())
        return list(heard.values())

    def send(self, *messages: bytes, flags: int = FROM_PUBLISHER) -> bytes:
        """A datagram with these messages."""
        self.counter += 1
        return seal(self.key, Envelope(self.epoch, self.client, self.counter), b"".join(messages), flags)

    def challenge(self, seq: int, token: bytes = TOKEN) -> bytes:
        """A challenge."""
        return self.send(generic(Command.CHALLENGE, emit(m.TOKEN, token), seq, self.port))

    def grant(self, seq: int, lease_ms: int = 1000) -> bytes:
        """A lease, of a new subscription where `number` is set to 0."""
        body = emit_u32(m.LEASE, lease_ms) + emit_u32(m.HEARTBEAT, 100) + emit_u64(m.VIOLATIONS, self.violations)
        return self.send(generic(Command.SUBSCRIBE, body, seq, self.port))

    def heartbeat(self, version: int = 0, peers: Sequence[m.Peer] = ()) -> bytes:
        """A heartbeat."""
        body = emit_u64(m.VERSION_OF_STATE, version) + emit_u64(m.VIOLATIONS, self.violations)
        body += b"".join(peer_body(peer) for peer in peers)
        return self.send(generic(Command.HEARTBEAT, body, self.number, 0))

    def notify(self, command: Command, body: bytes) -> bytes:
        """The next notification."""
        self.number += 1
        return self.send(generic(command, body, self.number, 0))

    def flow(self, flow: m.Flow) -> bytes:
        """The next notification, about a flow."""
        return self.notify(Command.FLOW, flow_body(flow))

    def violate(self, *ranges: m.Range) -> bytes:
        """The next notification, about lost bytes."""
        self.violations += 1
        return self.notify(Command.VIOLATION, violation_body(m.Violation(self.violations, 1, ranges)))

    def done(
        self, seq: int, count: int, since: int = 0, version: int = 0, head: int = 0, notified: Optional[int] = None
    ) -> bytes:
        """The message at the end of a page."""
        body = bytes(4) + emit_u32(m.COUNT, count) + emit_u64(m.SINCE, since) + emit_u64(m.VERSION_OF_STATE, version)
        body += emit_u64(m.HEAD, head) + emit_u32(m.NOTIFIED, self.number if notified is None else notified)
        body += emit_u64(m.VIOLATIONS, self.violations)
        return m.NLMSGHDR.pack(m.NLMSGHDR.size + len(body), m.NLMSG_DONE, MULTI, seq, self.port) + body

    def page(self, seq: int, *flows: m.Flow, version: int = 0) -> bytes:
        """A whole page of flows that completes a dump, or answers a lookup."""
        return self.send(
            *(generic(Command.FLOW, flow_body(flow), seq, self.port, MULTI) for flow in flows),
            self.done(seq, len(flows), version=version, head=version),
        )


def lookups(requests: Sequence[Sent], key: FlowKey) -> List[int]:
    """The numbers of the requests for this flow alone."""
    wanted = Attributes(key.emit()).bytes(1)
    return [seq for command, seq, _, it in requests if command is Command.GET_FLOWS and it.all(1) == [wanted]]


def dumps(requests: Sequence[Sent]) -> List[Tuple[int, int]]:
    """The numbers of the requests for pages, and since when."""
    pages = [it for it in requests if it[0] is Command.GET_FLOWS and 1 not in it[3]]
    return [(seq, it.u64(m.SINCE)) for _, seq, _, it in pages]
