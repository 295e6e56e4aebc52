"""What a publisher says: one class for each message, and `parse_all` for the messages of a datagram.

`requests` makes what a client asks.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Callable, Dict, Iterator, NamedTuple, Optional, Tuple, Type, TypeVar, Union

from .attributes import Attributes, Malformed
from .flow_key import COOKIE, KEY, FlowKey

FAMILY = 0x776F
NLMSG_ERROR = 2
NLMSG_DONE = 3
VERSION = 1
NLMSGHDR = struct.Struct("<IHHII")
GENLMSGHDR = struct.Struct("<BBH")
TOKEN_LENGTH = 16

(INSTANCE, EVENT, LEVEL, QUEUED, ON_WIRE, DECODED, ACKED, ORIGIN, ORIGIN_SEQ) = range(2, 11)
(K, M, PEER_ID, GONE_REASON, LANE, PROFILE, SBN, RANGE, PEER, LEASE, GROUPS, TOKEN) = range(12, 24)
(SINCE, VERSION_OF_STATE, COUNT, NOTIFIED, VIOLATIONS, PACKETS, HEARTBEAT, HEAD) = range(24, 32)
(VIOLATED, EARLY, SURVIVES_BURST) = range(32, 35)


class Command(enum.IntEnum):
    """The commands of family FAMILY."""

    FLOW = 1
    BLOCK = 2
    STATE = 3
    VIOLATION = 4
    HEARTBEAT = 5
    BARRIER = 6
    CHALLENGE = 7
    SUBSCRIBE = 8
    UNSUBSCRIBE = 9
    GET_FLOWS = 10
    REGISTER = 11
    FLUSH = 12


class Level(enum.IntEnum):
    """How safe bytes are, as the publisher says it."""

    QUEUED = 1
    ON_WIRE = 2
    DECODED = 3
    ACKED = 4


class Event(enum.IntEnum):
    """Why a flow is reported."""

    NEW = 1
    PROTECTED = 2
    GONE = 3


class Origin(enum.IntEnum):
    """What position 0 is: the first byte of the stream, or the first byte that the appliance saw."""

    START = 0
    MIDDLE = 1


class GoneReason(enum.IntEnum):
    """Why a flow is gone."""

    CLOSED = 1
    IDLE = 2
    EVICTED = 3
    REPLACED = 4


class LinkState(enum.IntEnum):
    """The state of the link to a peer."""

    UP = 1
    DEGRADED = 2
    DOWN = 3
    DRAINING = 4


class StateReason(enum.IntEnum):
    """Why a link is not up."""

    NONE = 0
    NO_REPORTS = 1
    VIOLATION = 2
    SEND_ERRORS = 3
    NO_TIMESTAMPS = 4
    NO_SESSION = 5
    ADMINISTRATOR = 6
    TARGET_NOT_REACHABLE = 7
    MODEL_VIOLATED = 8
    BYPASS = 9


@dataclass(frozen=True)
class Flow:
    """A flow and its positions, in bytes from position 0; None where nothing is known, not even 0."""

    key: FlowKey
    instance: int
    event: Event
    level: Level
    origin: Origin
    peer_id: int
    gone_reason: Optional[GoneReason] = None
    origin_seq: Optional[int] = None
    queued: Optional[int] = None
    early: Optional[int] = None
    on_wire: Optional[int] = None
    decoded: Optional[int] = None
    acked: Optional[int] = None
    violated: Optional[int] = None
    packets: Optional[int] = None
    cookie: Optional[int] = None
    block: Optional[Tuple[int, int]] = None
    """Source and repair symbols of the block that was the last to raise a position."""
    survives_burst_us: int = 0


@dataclass(frozen=True)
class Peer:
    """The link to a peer. Heartbeats leave the name out."""

    id: int
    state: LinkState
    reason: StateReason
    name: Optional[str] = None


@dataclass(frozen=True)
class Range:
    """Bytes of one instance of a flow, from `start` up to and without `end`."""

    key: FlowKey
    instance: int
    start: int
    end: int


@dataclass(frozen=True)
class Block:
    """A block was decided. Without a level it failed. At most eight ranges are named."""

    peer_id: int
    lane: int
    profile: int
    sbn: int
    k: int
    m: int
    level: Optional[Level]
    ranges: Tuple[Range, ...]


@dataclass(frozen=True)
class Violation:
    """Bytes that were called protected are lost."""

    number: int
    peer_id: int
    ranges: Tuple[Range, ...]


@dataclass(frozen=True)
class Heartbeat:
    """Proof of life. The header's seq is that of the last notification."""

    version: int
    violations: int
    peers: Tuple[Peer, ...]


@dataclass(frozen=True)
class Barrier:
    """The answer to a barrier. Without a level it failed."""

    level: Optional[Level]


@dataclass(frozen=True)
class Challenge:
    """The answer to a request for a subscription without a valid token."""

    token: bytes


@dataclass(frozen=True)
class Subscribed:
    """A subscription was granted or renewed. Times in milliseconds."""

    lease_ms: int
    heartbeat_ms: int
    violations: int


@dataclass(frozen=True)
class Done:
    """The end of a page."""

    count: int
    since: int
    version: int
    head: int
    notified: int
    violations: int


@dataclass(frozen=True)
class Acknowledged:
    """A request was passed on to the appliance."""


@dataclass(frozen=True)
class Refused:
    """A request was refused, with a positive errno, a text, and where in the request the fault is."""

    errno: int
    text: str
    offset: Optional[int]


Message = Union[
    Flow, Block, Peer, Violation, Heartbeat, Barrier, Challenge, Subscribed, Done, Acknowledged, Refused
]


class Header(NamedTuple):
    """What a message carries besides its kind. Port 0 marks a notification, others repeat a request's numbers."""

    flags: int
    seq: int
    port: int


def parse_all(data: bytes) -> Iterator[Tuple[Header, Message]]:
    """The messages behind an envelope. One that cannot be read is left out; an impossible length ends them."""
    at = 0
    while len(data) - at >= NLMSGHDR.size:
        length, kind, flags, seq, port = NLMSGHDR.unpack_from(data, at)
        if not NLMSGHDR.size <= length <= len(data) - at:
            return
        try:
            yield Header(flags, seq, port), parse(kind, data[at + NLMSGHDR.size : at + length])
        except Malformed:
            pass
        at += length + -length % 4


def parse(kind: int, body: bytes) -> Message:
    """One message, from its type and what follows the `nlmsghdr`."""
    if len(body) < GENLMSGHDR.size:
        raise Malformed(f"a message of {len(body)} bytes")
    if kind == NLMSG_ERROR:
        return _parse_error(body)
    if kind == NLMSG_DONE:
        if body[:4] != bytes(4):
            raise Malformed("the end of a page has an error number")
        return _parse_done(Attributes(body[4:]))
    if kind != FAMILY:
        raise Malformed(f"type {kind:#x} is unknown")
    command, version, _ = GENLMSGHDR.unpack_from(body)
    parser = _PARSERS.get(command)
    if version != VERSION or parser is None:
        raise Malformed(f"command {command} of version {version} is unknown")
    return parser(Attributes(body[GENLMSGHDR.size :]))


def _parse_error(body: bytes) -> Message:
    number = int.from_bytes(body[:4], "little", signed=True)
    if len(body) < 4 + NLMSGHDR.size:
        raise Malformed("an answer without the header of its request")
    if number == 0:
        return Acknowledged()
    if number > 0:
        raise Malformed(f"error number {number} is above 0")
    fields = Attributes(body[4 + NLMSGHDR.size :])
    text = fields.bytes(1).rstrip(b"\0").decode("utf-8", "replace") if 1 in fields else ""
    return Refused(-number, text, fields.u32(2) if 2 in fields else None)


def _parse_done(fields: Attributes) -> Message:
    return Done(
        fields.u32(COUNT),
        fields.u64(SINCE),
        fields.u64(VERSION_OF_STATE),
        fields.u64(HEAD),
        fields.u32(NOTIFIED),
        fields.u64(VIOLATIONS),
    )


_Number = TypeVar("_Number", bound=enum.IntEnum)


def _one_of(kind: Type[_Number], number: int) -> _Number:
    """A number that the message cannot be read without."""
    try:
        return kind(number)
    except ValueError:
        raise Malformed(f"{number} is no {kind.__name__}") from None


def _or_else(kind: Type[_Number], number: int, unknown: Optional[_Number]) -> Optional[_Number]:
    """A number of which a later publisher may know more."""
    try:
        return kind(number)
    except ValueError:
        return unknown


def _parse_flow(fields: Attributes) -> Message:
    def position(kind: int) -> Optional[int]:
        return fields.u64(kind) if kind in fields else None

    reason = _or_else(GoneReason, fields.u8(GONE_REASON), None) if GONE_REASON in fields else None
    return Flow(
        key=FlowKey.parse(fields.bytes(KEY)),
        instance=fields.u64(INSTANCE),
        event=_one_of(Event, fields.u8(EVENT)),
        level=_one_of(Level, fields.u8(LEVEL)),
        origin=_one_of(Origin, fields.u8(ORIGIN)),
        peer_id=fields.u32(PEER_ID),
        gone_reason=reason,
        origin_seq=fields.u32(ORIGIN_SEQ) if ORIGIN_SEQ in fields else None,
        queued=position(QUEUED),
        early=position(EARLY),
        on_wire=position(ON_WIRE),
        decoded=position(DECODED),
        acked=position(ACKED),
        violated=position(VIOLATED),
        packets=position(PACKETS),
        cookie=position(COOKIE),
        block=(fields.u16(K), fields.u16(M)) if K in fields and M in fields else None,
        survives_burst_us=fields.u32(SURVIVES_BURST) if SURVIVES_BURST in fields else 0,
    )


def _parse_range(value: bytes) -> Range:
    fields = Attributes(value)
    start, end = fields.u64(3), fields.u64(4)
    if start > end:
        raise Malformed(f"a range from {start} to {end}")
    return Range(FlowKey.parse(fields.bytes(1)), fields.u64(2), start, end)


def _parse_peer(value: bytes) -> Peer:
    fields = Attributes(value)
    state = _or_else(LinkState, fields.u8(3), LinkState.DOWN) or LinkState.DOWN
    reason = _or_else(StateReason, fields.u8(4), StateReason.NONE)
    name = fields.bytes(2).decode("utf-8", "replace") if 2 in fields else None
    return Peer(fields.u32(1), state, reason or StateReason.NONE, name)


def _parse_ranges(fields: Attributes) -> Tuple[Range, ...]:
    return tuple(_parse_range(value) for value in fields.all(RANGE))


def _parse_block(fields: Attributes) -> Message:
    return Block(
        peer_id=fields.u32(PEER_ID),
        lane=fields.u8(LANE),
        profile=fields.u8(PROFILE),
        sbn=fields.u64(SBN),
        k=fields.u16(K),
        m=fields.u16(M),
        level=_parse_level(fields),
        ranges=_parse_ranges(fields),
    )


def _parse_level(fields: Attributes) -> Optional[Level]:
    return _one_of(Level, fields.u8(LEVEL)) if LEVEL in fields else None


def _parse_state(fields: Attributes) -> Message:
    peer = _parse_peer(fields.bytes(PEER))
    if peer.name is None:
        raise Malformed("the state of a link without its name")
    return peer


def _parse_violation(fields: Attributes) -> Message:
    return Violation(fields.u64(VIOLATIONS), fields.u32(PEER_ID), _parse_ranges(fields))


def _parse_heartbeat(fields: Attributes) -> Message:
    peers = tuple(_parse_peer(value) for value in fields.all(PEER))
    return Heartbeat(fields.u64(VERSION_OF_STATE), fields.u64(VIOLATIONS), peers)


def _parse_challenge(fields: Attributes) -> Message:
    token = fields.bytes(TOKEN)
    if len(token) != TOKEN_LENGTH:
        raise Malformed(f"a token of {len(token)} bytes")
    return Challenge(token)


def _parse_subscribed(fields: Attributes) -> Message:
    return Subscribed(fields.u32(LEASE), fields.u32(HEARTBEAT), fields.u64(VIOLATIONS))


_PARSERS: Dict[int, Callable[[Attributes], Message]] = {
    Command.FLOW: _parse_flow,
    Command.BLOCK: _parse_block,
    Command.STATE: _parse_state,
    Command.VIOLATION: _parse_violation,
    Command.HEARTBEAT: _parse_heartbeat,
    Command.BARRIER: lambda fields: Barrier(_parse_level(fields)),
    Command.CHALLENGE: _parse_challenge,
    Command.SUBSCRIBE: _parse_subscribed,
}
