"""What the kernel of Linux knows of a socket: how many bytes were written into it, and which socket it is."""

from __future__ import annotations

import socket
import struct

_BYTES_SENT = struct.Struct("=QQ")
_NOTSENT = struct.Struct("=I")
# Offsets in `struct tcp_info` of linux/tcp.h: tcpi_notsent_bytes, and tcpi_bytes_sent before tcpi_bytes_retrans.
_NOTSENT_AT = 144
_BYTES_SENT_AT = 200
_LENGTH = 256
_SO_COOKIE = 57


def bytes_written(connection: socket.socket) -> int:
    """Bytes that were written into a TCP socket since it was connected. Needs no privilege, and Linux 4.19."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LENGTH)
    if len(info) < _BYTES_SENT_AT + _BYTES_SENT.size:
        raise OSError("this kernel does not count the bytes of a TCP socket; Linux 4.19 does")
    sent, again = _BYTES_SENT.unpack_from(info, _BYTES_SENT_AT)
    (waiting,) = _NOTSENT.unpack_from(info, _NOTSENT_AT)
    return int(sent - again + waiting)


def socket_cookie(connection: socket.socket) -> int:
    """A number that no other socket of this boot has, unlike its descriptor and its addresses."""
    return int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8), "little")
