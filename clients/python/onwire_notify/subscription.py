"""Begins a subscription, renews it, and knows whether the publisher is alive.

Makes no datagram: `poll` says what to ask, `core` sends it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple, Optional

from .messages import Subscribed
from .requests import NO_TOKEN

_FIRST_WAIT = 0.02
_RENEWAL_WAIT = 0.04
_LONGEST_WAIT = 1.0
_SILENCE = 0.25
_AFTER_REFUSAL = 1.0
_LEAST_BETWEEN = 0.1


class Ask(NamedTuple):
    """A SUBSCRIBE to send: under which number, to which run (0: any), with which token."""

    seq: int
    receiver: int
    token: bytes


class Granted(enum.Enum):
    """What a grant means."""

    RENEWED = "the subscription goes on"
    NEW = "a new subscription to the same run of the publisher"
    NEW_RUN = "the first subscription to this run of the publisher"


@dataclass
class _Pending:
    """A SUBSCRIBE that is not answered. The run `target` has sent the token, where there is one."""

    seq: int
    first_sent: float
    send_at: float
    token: Optional[bytes] = None
    target: int = 0


class Subscription:
    """The subscription of one run of a client."""

    def __init__(self, lease: float, now: float) -> None:
        self.run = 0
        """The epoch of the publisher that granted the last subscription; 0: none did."""
        self.refusal: Optional[str] = None
        """Why the publisher refused the last request for a subscription."""
        self._lease = lease
        self._pending: Optional[_Pending] = None
        self._granted_at: Optional[float] = None
        self._heard_at: Optional[float] = None
        self._wait = _FIRST_WAIT
        self._next_start = now

    def has_contact(self, now: float) -> bool:
        """Whether a heartbeat came within a lease time, and a renewal whose request was sent within one was granted."""
        if self._heard_at is None or self._granted_at is None:
            return False
        return now - self._heard_at < self._lease and now - self._granted_at < self._lease

    @property
    def silent_since(self) -> Optional[float]:
        """When the last heartbeat arrived."""
        return self._heard_at

    @property
    def timeout(self) -> float:
        """When `poll` has something to do."""
        if self._pending is not None:
            return min(self._pending.send_at, self._pending.first_sent + self._lease)
        return max(self._next_start, self._due_at())

    def contact_ends(self) -> Optional[float]:
        """When contact is lost unless something arrives."""
        if self._heard_at is None or self._granted_at is None:
            return None
        return min(self._heard_at, self._granted_at) + self._lease

    def poll(self, now: float, seq: int) -> Optional[Ask]:
        """What to send now. A request that begins has the number `seq`."""
        pending = self._pending
        if pending is not None and now - pending.first_sent >= self._lease:
            # A lease counts from the first sending: an answer to this one would be worth nothing.
            pending = self._pending = None
        if pending is None:
            if now < self._next_start or now < self._due_at():
                return None
            pending = self._pending = _Pending(seq, now, now)
            self._next_start = now + _LEAST_BETWEEN
        if now < pending.send_at:
            return None
        pending.send_at = now + self._next_wait(now, is_first=pending.first_sent == now)
        return Ask(pending.seq, pending.target or self.run, pending.token or NO_TOKEN)

    def on_challenge(self, seq: int, sender: int, token: bytes, now: float) -> None:
        """A publisher asks for a proof of the address: one that was restarted, or where the lease has ended."""
        pending = self._pending
        if pending is None or pending.seq != seq or (pending.target, pending.token) == (sender, token):
            return
        pending.target, pending.token, pending.send_at = sender, token, now
        self._wait = _FIRST_WAIT

    def on_subscribed(self, seq: int, sender: int, message: Subscribed, now: float) -> Optional[Granted]:
        """A subscription was granted. None: not the one that was asked for."""
        pending = self._pending
        if pending is None or pending.seq != seq or sender != (pending.target or self.run):
            return None
        self._pending, self.refusal = None, None
        self._wait = _FIRST_WAIT
        self._lease = message.lease_ms / 1000
        self._granted_at = pending.first_sent
        if pending.token is None:
            return Granted.RENEWED
        self._heard_at = now
        if sender == self.run:
            return Granted.NEW
        self.run = sender
        return Granted.NEW_RUN

    def on_refused(self, seq: int, sender: int, text: str, now: float) -> None:
        """The publisher refused: ask again, but not soon."""
        pending = self._pending
        if pending is None or pending.seq != seq or sender != (pending.target or self.run):
            return
        self._pending, self.refusal = None, text
        self._next_start = now + _AFTER_REFUSAL

    def on_heartbeat(self, now: float) -> None:
        """The present run is alive."""
        self._heard_at = now

    def _due_at(self) -> float:
        if self._granted_at is None or self._heard_at is None:
            return 0.0
        return min(self._granted_at + self._lease / 4, self._heard_at + _SILENCE)

    def _next_wait(self, now: float, is_first: bool) -> float:
        if self.has_contact(now):
            return _FIRST_WAIT if is_first else _RENEWAL_WAIT
        wait = self._wait
        self._wait = min(2 * wait, _LONGEST_WAIT)
        return wait
