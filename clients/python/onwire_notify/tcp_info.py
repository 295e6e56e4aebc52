"""What the kernel of Linux knows of a socket: how many bytes were written into it, and which socket it is."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from typing import NamedTuple

# Offsets in `struct tcp_info` of linux/tcp.h.
_STATE_AT = 0
_BYTES_ACKED_AT = 120
_NOTSENT_BYTES_AT = 144
_BYTES_SENT_AT = 200
_BYTES_RETRANS_AT = 208
_LENGTH = 256
_SO_COOKIE = 57
# TCP_SYN_SENT and TCP_SYN_RECV: there the kernel says that nothing is queued, whatever is.
_BEGINNING = (2, 3)
_TRIES = 16


class _Info(NamedTuple):
    is_beginning: bool
    acked: int
    sent: int
    """Sent, without repetitions, and waiting: what was written, unless a send failed on this host."""


class Written:
    """Counts the bytes that were written into one TCP socket since it was connected.

    The kernel counts a send that fails on this host, because there is no route, again when it succeeds. So the sum of
    what was sent is too high after the appliance's route was away. What is acknowledged and what is in the queue is exact,
    but for the SYN, which counts as a byte where this end connected. That is seen as long as no send has failed.
    """

    def __init__(self) -> None:
        self._counts_syn = False

    def count(self, connection: socket.socket) -> int:
        """Needs no privilege, and Linux 4.19. Never less than what was written before the call."""
        before = _info(connection)
        for _ in range(_TRIES):
            queued = _queued(connection)
            after = _info(connection)
            if before.is_beginning or after.is_beginning:
                # TCP Fast Open sends bytes with the SYN.
                return after.sent
            if before.acked == after.acked:
                acked = after.acked + queued
                self._counts_syn = self._counts_syn or after.sent == acked - 1
                return min(after.sent, acked - int(self._counts_syn))
            # Bytes were acknowledged in between, so they may be in neither or in both.
            before = after
        return before.sent


def bytes_written(connection: socket.socket) -> int:
    """Bytes that were written into a TCP socket of which nothing is known yet."""
    return Written().count(connection)


def socket_cookie(connection: socket.socket) -> int:
    """A number that no other socket of this boot has, unlike its descriptor and its addresses."""
    return int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8), "little")


def _info(connection: socket.socket) -> _Info:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LENGTH)
    if len(info) < _BYTES_RETRANS_AT + 8:
        raise OSError("this kernel does not count the bytes of a TCP socket; Linux 4.19 does")
    acked, sent, again = (
        int(struct.unpack_from("=Q", info, at)[0]) for at in (_BYTES_ACKED_AT, _BYTES_SENT_AT, _BYTES_RETRANS_AT)
    )
    (waiting,) = struct.unpack_from("=I", info, _NOTSENT_BYTES_AT)
    return _Info(info[_STATE_AT] in _BEGINNING, acked, sent - again + int(waiting))


def _queued(connection: socket.socket) -> int:
    """Bytes that are not acknowledged, sent or not."""
    return int(struct.unpack("=i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))[0])
