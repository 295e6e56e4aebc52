"""The 48 bytes before the messages of a datagram: who sends it to whom, and a proof of that.

Nothing is encrypted. `Opener` is the only way from a datagram to messages.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple, Optional

MAGIC = b"OWNT"
VERSION = 1
FROM_PUBLISHER = 1
LENGTH = 48
MOST_BYTES = 1232
_SIGNED = 32
_FIELDS = struct.Struct("<4sBBHQQQ")
_WINDOW = 1024
# A publisher that restarts has a new epoch; only this many runs can have sent something to one run of a client.
_EPOCHS = 16


@dataclass(frozen=True)
class Key:
    """A shared secret of 16 to 64 bytes, and its number at the publisher."""

    id: int
    secret: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.id <= 0xFFFF:
            raise ValueError(f"the number of a key is 0 to 65535, not {self.id}")
        if not 16 <= len(self.secret) <= 64:
            raise ValueError(f"a secret has 16 to 64 bytes, not {len(self.secret)}")

    def tag(self, signed: bytes) -> bytes:
        """What proves that a holder of the secret made these bytes."""
        return hmac.new(self.secret, signed, hashlib.sha256).digest()[: LENGTH - _SIGNED]

    def __repr__(self) -> str:
        return f"Key(id={self.id})"


class Envelope(NamedTuple):
    """The numbers of an envelope."""

    sender: int
    receiver: int
    counter: int


def seal(key: Key, envelope: Envelope, messages: bytes, flags: int = 0) -> bytes:
    """A datagram. Flags are 0 from a client."""
    head = _FIELDS.pack(MAGIC, VERSION, flags, key.id, *envelope)
    return head + key.tag(head + messages) + messages


class Opener:
    """Opens the datagrams that a publisher sends to one run of a client, each counter of each epoch once."""

    def __init__(self, key: Key, epoch: int) -> None:
        self._key = key
        self._epoch = epoch
        self._windows: OrderedDict[int, ReplayWindow] = OrderedDict()
        self.dropped = 0
        """Datagrams that failed a check."""

    def open(self, datagram: bytes) -> Optional[Envelope]:
        """The envelope of a genuine datagram that was not seen before; its messages begin at LENGTH. None: drop it."""
        envelope = self._open(datagram)
        if envelope is None:
            self.dropped += 1
        return envelope

    def _open(self, datagram: bytes) -> Optional[Envelope]:
        if not LENGTH <= len(datagram) <= MOST_BYTES:
            return None
        magic, version, flags, key_id, sender, receiver, counter = _FIELDS.unpack_from(datagram)
        if (magic, version, flags, key_id) != (MAGIC, VERSION, FROM_PUBLISHER, self._key.id):
            return None
        tag = self._key.tag(datagram[:_SIGNED] + datagram[LENGTH:])
        if not hmac.compare_digest(tag, datagram[_SIGNED:LENGTH]):
            return None
        if sender == 0 or receiver != self._epoch or not self._window(sender).accept(counter):
            return None
        return Envelope(sender, receiver, counter)

    def _window(self, sender: int) -> ReplayWindow:
        window = self._windows.pop(sender, None) or ReplayWindow()
        self._windows[sender] = window
        if len(self._windows) > _EPOCHS:
            # The one that was silent for the longest time.
            self._windows.popitem(last=False)
        return window


class ReplayWindow:
    """Accepts each counter once, as long as it is among the last 1024 or above all."""

    def __init__(self) -> None:
        self._highest = -1
        self._seen = 0

    def accept(self, counter: int) -> bool:
        """Whether this counter was not seen before; from now on it was."""
        if counter > self._highest:
            ahead = counter - self._highest
            self._seen = (self._seen << ahead | 1) & ((1 << _WINDOW) - 1) if ahead < _WINDOW else 1
            self._highest = counter
            return True
        behind = self._highest - counter
        if behind >= _WINDOW or self._seen >> behind & 1:
            return False
        self._seen |= 1 << behind
        return True
