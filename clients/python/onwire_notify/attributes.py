"""Attributes: a length of 16 bits, a type of 16 bits, a value, and zeros up to a multiple of four bytes.

Knows no message: `messages` and `requests` say which attribute means what.
"""

from __future__ import annotations

import struct
from typing import Dict, Iterator, List, Tuple

NESTED = 0x8000
_TYPE = 0x3FFF
_HEADER = struct.Struct("<HH")


class Malformed(ValueError):
    """Bytes that are not a message, or a message without what it must have."""


def emit(kind: int, value: bytes) -> bytes:
    """One attribute with its padding. `kind` may carry the flag NESTED."""
    return _HEADER.pack(_HEADER.size + len(value), kind) + value + bytes(-len(value) % 4)


def emit_u32(kind: int, value: int) -> bytes:
    """An attribute with a number of 32 bits."""
    return emit(kind, struct.pack("<I", value))


def emit_u64(kind: int, value: int) -> bytes:
    """An attribute with a number of 64 bits."""
    return emit(kind, struct.pack("<Q", value))


def split(data: bytes) -> Iterator[Tuple[int, bytes]]:
    """The types and values of a list of attributes. Raises Malformed where a length is impossible."""
    at = 0
    while at < len(data):
        if len(data) - at < _HEADER.size:
            raise Malformed(f"{len(data) - at} bytes are left over behind the last attribute")
        length, kind = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= length <= len(data) - at:
            raise Malformed(f"an attribute of {length} bytes where {len(data) - at} are left")
        yield kind & _TYPE, data[at + _HEADER.size : at + length]
        at += length + -length % 4


class Attributes:
    """The attributes of one message or nest. Of a type that occurs twice the last one counts, except in `all`."""

    def __init__(self, data: bytes) -> None:
        self._values: Dict[int, List[bytes]] = {}
        for kind, value in split(data):
            self._values.setdefault(kind, []).append(value)

    def __contains__(self, kind: int) -> bool:
        return kind in self._values

    def all(self, kind: int) -> List[bytes]:
        """Every value of this type, in order."""
        return self._values.get(kind, [])

    def bytes(self, kind: int) -> bytes:
        """The value of an attribute that must be there."""
        values = self._values.get(kind)
        if values is None:
            raise Malformed(f"attribute {kind} is missing")
        return values[-1]

    def number(self, kind: int, size: int) -> int:
        """A number of `size` bytes that must be there."""
        value = self.bytes(kind)
        if len(value) != size:
            raise Malformed(f"attribute {kind} has {len(value)} bytes, not {size}")
        return int.from_bytes(value, "little")

    def u8(self, kind: int) -> int:
        """A number of 8 bits that must be there."""
        return self.number(kind, 1)

    def u16(self, kind: int) -> int:
        """A number of 16 bits that must be there."""
        return self.number(kind, 2)

    def u32(self, kind: int) -> int:
        """A number of 32 bits that must be there."""
        return self.number(kind, 4)

    def u64(self, kind: int) -> int:
        """A number of 64 bits that must be there."""
        return self.number(kind, 8)
