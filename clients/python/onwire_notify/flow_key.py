"""The 5-tuple of a flow, and a part of one as a filter."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass, replace
from typing import Optional, Tuple, Union

from .attributes import NESTED, Attributes, Malformed, emit

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]

TCP = 6
UDP = 17

KEY = 1
COOKIE = 11
_PROTOCOL, _SOURCE, _DESTINATION, _SOURCE_PORT, _DESTINATION_PORT = range(1, 6)


@dataclass(frozen=True, order=False)
class FlowKey:
    """A flow: IP protocol number, addresses and ports. A port is 0 where the protocol has none."""

    protocol: int
    source: Address
    destination: Address
    source_port: int
    destination_port: int

    @staticmethod
    def tcp(source: Tuple[str, int], destination: Tuple[str, int]) -> FlowKey:
        """The key of a TCP connection, from two pairs of address and port."""
        return FlowKey(TCP, address(source[0]), address(destination[0]), source[1], destination[1])

    @staticmethod
    def of_socket(connection: socket.socket) -> FlowKey:
        """The key of what this program sends on a connected TCP or UDP socket."""
        protocols = {socket.SOCK_STREAM: TCP, socket.SOCK_DGRAM: UDP}
        protocol = protocols.get(connection.type)
        if connection.family not in (socket.AF_INET, socket.AF_INET6) or protocol is None:
            raise ValueError("a flow is what a connected TCP or UDP socket sends")
        near, far = connection.getsockname(), connection.getpeername()
        return FlowKey(protocol, address(near[0]), address(far[0]), near[1], far[1])

    @staticmethod
    def parse(value: bytes) -> FlowKey:
        """From the value of the attribute `key`, whole."""
        fields = Attributes(value)
        source, destination = (_parse_address(fields.bytes(kind)) for kind in (_SOURCE, _DESTINATION))
        if source.version != destination.version:
            raise Malformed("the two addresses of a key are of different kinds")
        ports = []
        for kind in (_SOURCE_PORT, _DESTINATION_PORT):
            port = fields.bytes(kind)
            if len(port) != 2:
                raise Malformed(f"a port of {len(port)} bytes")
            ports.append(int.from_bytes(port, "big"))
        return FlowKey(fields.u8(_PROTOCOL), source, destination, ports[0], ports[1])

    def emit(self) -> bytes:
        """As an attribute."""
        return Filter.exactly(self).emit()

    def __str__(self) -> str:
        name = {TCP: "tcp", UDP: "udp"}.get(self.protocol, f"protocol {self.protocol}")
        source = host_and_port(self.source, self.source_port)
        return f"{name} {source} > {host_and_port(self.destination, self.destination_port)}"


@dataclass(frozen=True)
class Filter:
    """Selects flows: all parts that are not None must be equal."""

    protocol: Optional[int] = None
    source: Optional[Address] = None
    destination: Optional[Address] = None
    source_port: Optional[int] = None
    destination_port: Optional[int] = None
    cookie: Optional[int] = None

    @staticmethod
    def exactly(key: FlowKey) -> Filter:
        """Selects one flow."""
        return Filter(key.protocol, key.source, key.destination, key.source_port, key.destination_port)

    def without_whole_key(self) -> Filter:
        """The same for a dump: a page about a whole key would say nothing about links and violations."""
        parts = (self.protocol, self.source, self.destination, self.source_port, self.destination_port)
        return self if None in parts else replace(self, protocol=None)

    def may_select(self, key: FlowKey) -> bool:
        """Whether the parts of the key agree. The cookie of a flow is not known here."""
        parts = (
            (self.protocol, key.protocol),
            (self.source, key.source),
            (self.destination, key.destination),
            (self.source_port, key.source_port),
            (self.destination_port, key.destination_port),
        )
        return all(mine is None or mine == its for mine, its in parts)

    def emit(self) -> bytes:
        """As attributes: nothing where no part is named."""
        parts = b""
        if self.protocol is not None:
            parts += emit(_PROTOCOL, bytes([self.protocol]))
        for kind, part in ((_SOURCE, self.source), (_DESTINATION, self.destination)):
            if part is not None:
                parts += emit(kind, part.packed)
        for kind, port in ((_SOURCE_PORT, self.source_port), (_DESTINATION_PORT, self.destination_port)):
            if port is not None:
                parts += emit(kind, port.to_bytes(2, "big"))
        result = emit(KEY | NESTED, parts) if parts else b""
        if self.cookie is not None:
            result += emit(COOKIE, self.cookie.to_bytes(8, "little"))
        return result


def address(text: str) -> Address:
    """An address from text. IPv4 within IPv6 is IPv4: so the appliance sees the packets. A zone is left out."""
    parsed = ipaddress.ip_address(text.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed


def host_and_port(host: Address, port: int) -> str:
    """`10.1.0.1:5432`, or `[fd00::1]:5432`."""
    return f"[{host}]:{port}" if host.version == 6 else f"{host}:{port}"


def _parse_address(value: bytes) -> Address:
    if len(value) not in (4, 16):
        raise Malformed(f"an address of {len(value)} bytes")
    return ipaddress.ip_address(value)
