"""What a client asks: each function makes the bytes of one request, without the envelope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from .attributes import emit, emit_u32, emit_u64
from .flow_key import COOKIE, Filter, FlowKey
from .messages import (
    COUNT,
    FAMILY,
    GENLMSGHDR,
    GROUPS,
    HEAD,
    LEASE,
    NLMSGHDR,
    SINCE,
    TOKEN,
    TOKEN_LENGTH,
    VERSION,
    Command,
)

REQUEST = 1
ACK = 4
DUMP = 0x300

GROUP_FLOWS = 1
GROUP_BLOCKS = 2

NO_TOKEN = bytes(TOKEN_LENGTH)
MOST_OF_PAGE = 48


@dataclass(frozen=True)
class Wish:
    """What a subscription is to be: its lease, its groups, and which flows."""

    lease_ms: int = 1000
    groups: int = GROUP_FLOWS
    filter: Filter = Filter()


def subscribe(seq: int, port: int, wish: Wish, token: bytes = NO_TOKEN) -> bytes:
    """Begins or renews a subscription."""
    body = emit_u32(LEASE, wish.lease_ms) + emit_u32(GROUPS, wish.groups) + emit(TOKEN, token)
    return _request(Command.SUBSCRIBE, REQUEST | ACK, seq, port, body + wish.filter.emit())


def unsubscribe(seq: int, port: int) -> bytes:
    """Ends a subscription."""
    return _request(Command.UNSUBSCRIBE, REQUEST | ACK, seq, port)


def get_flows(
    seq: int, port: int, since: int, count: int, wanted: Filter = Filter(), head: Optional[int] = None
) -> bytes:
    """A page of what changed after `since`; with a whole key in `wanted`, that flow alone."""
    body = emit_u64(SINCE, since) + emit_u32(COUNT, count)
    if head is not None:
        body += emit_u64(HEAD, head)
    return _request(Command.GET_FLOWS, REQUEST | DUMP, seq, port, body + wanted.emit())


def register(seq: int, port: int, key: FlowKey, cookie: int) -> bytes:
    """Puts a number on a flow."""
    return _request(Command.REGISTER, REQUEST | ACK, seq, port, key.emit() + emit_u64(COOKIE, cookie))


def flush(seq: int, port: int) -> bytes:
    """Closes the open blocks now."""
    return _request(Command.FLUSH, REQUEST | ACK, seq, port)


def barrier(seq: int, port: int) -> bytes:
    """Asks when all that the appliance has read so far is protected."""
    return _request(Command.BARRIER, REQUEST | ACK, seq, port)


def _request(command: Command, flags: int, seq: int, port: int, body: bytes = b"") -> bytes:
    length = NLMSGHDR.size + GENLMSGHDR.size + len(body)
    return NLMSGHDR.pack(length, FAMILY, flags, seq, port) + GENLMSGHDR.pack(command, VERSION, 0) + body
