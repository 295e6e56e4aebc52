"""Fetches what changed, page by page, over a path that loses datagrams.

Makes no datagram: `poll` says what to ask, `core` sends it.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

from .messages import Done
from .requests import MOST_OF_PAGE

_FIRST_WAIT = 0.02
_LONGEST_WAIT = 1.0
# Datagrams of a page overtake each other: this long its end waits for the rest.
_OVERTAKEN = 0.005
# A page that lost a part is asked again for half as many messages; each whole one allows a few more.
_MORE = 4
_LEAST_BETWEEN = 0.01


class Page(NamedTuple):
    """What to ask next."""

    since: int
    most: int
    head: Optional[int]


class Dump:
    """The dumps of one run of a publisher, one at a time."""

    def __init__(self) -> None:
        self.version = 0
        """All changes up to this version are known."""
        self.is_current = False
        """Whether a dump has completed since the subscription began."""
        self._is_running = False
        self._since = 0
        self._head: Optional[int] = None
        self._count = MOST_OF_PAGE
        self._seq: Optional[int] = None
        self._received = 0
        self._done: Optional[Done] = None
        self._wait = _FIRST_WAIT
        self._asked_at = -_LEAST_BETWEEN
        self._ask_at = 0.0

    def on_new_subscription(self, now: float) -> None:
        """What changed before it is not notified: fetch it."""
        self.is_current = False
        self._is_running = False
        self.begin(now)

    def begin(self, now: float) -> None:
        """Fetches what changed after `version`, unless that is going on."""
        if self._is_running:
            return
        self._is_running = True
        self._since, self._head, self._seq, self._done = self.version, None, None, None
        self._wait = _FIRST_WAIT
        self._ask_at = max(self._asked_at + _LEAST_BETWEEN, now)

    @property
    def timeout(self) -> Optional[float]:
        """When `poll` has something to do."""
        return self._ask_at if self._is_running else None

    def poll(self, now: float, seq: int) -> Optional[Page]:
        """The page to ask for now, under this number."""
        if not self._is_running or now < self._ask_at:
            return None
        if self._done is not None:
            self._count = max(1, min(self._count, self._done.count) // 2)
        self._seq, self._received, self._done = seq, 0, None
        self._asked_at, self._ask_at = now, now + self._wait
        self._wait = min(2 * self._wait, _LONGEST_WAIT)
        return Page(self._since, self._count, self._head)

    def on_message(self, seq: int, now: float) -> Optional[Done]:
        """A message of a page arrived; it is true whether the page is complete or not."""
        if not self._is_running or seq != self._seq:
            return None
        self._received += 1
        return self._finish(now)

    def on_done(self, seq: int, done: Done, now: float) -> Optional[Done]:
        """The end of a page arrived. Returns it when it completes the dump."""
        is_expected = self._is_running and seq == self._seq and self._done is None
        # A page that begins later than asked would leave something out.
        if not is_expected or done.since > self._since:
            return None
        self._done = done
        self._ask_at = min(self._ask_at, now + _OVERTAKEN)
        return self._finish(now)

    def advance(self, version: int) -> None:
        """All notifications up to this version were heard."""
        if self.is_current and not self._is_running:
            self.version = max(self.version, version)

    def _finish(self, now: float) -> Optional[Done]:
        done = self._done
        if done is None or self._received < done.count:
            return None
        self._done, self._seq = None, None
        self._wait = _FIRST_WAIT
        self._count = min(self._count + _MORE, MOST_OF_PAGE)
        if done.since == 0 and (self._since != 0 or self._head is None):
            # The first page of all, or the publisher has forgotten something and begins anew.
            self._head = done.head
        if done.version < done.head:
            has_moved = done.version > done.since
            self._since = done.version
            self._ask_at = now if has_moved else now + _FIRST_WAIT
            return None
        self._is_running = False
        self.is_current = True
        self.version = done.version
        return done
