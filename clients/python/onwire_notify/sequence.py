"""Two counts of a publisher, and what of them was heard: its notifications, and its violations."""

from __future__ import annotations

from typing import Set

_NUMBERS = 1 << 32
_MOST_AHEAD = 8192


class Sequence:
    """The numbers of the notifications of one subscription. They are 32 bits wide and go round."""

    def __init__(self) -> None:
        self._heard = 0
        self._last = 0
        self._ahead: Set[int] = set()

    @property
    def has_gap(self) -> bool:
        """Whether a notification is missing that was sent."""
        return self._last > self._heard

    def on_number(self, number: int) -> None:
        """A notification with this number arrived."""
        number = self._unwrap(number)
        self._last = max(self._last, number)
        if number > self._heard:
            self._ahead.add(number)
            self._advance()
        if len(self._ahead) > _MOST_AHEAD:
            # A dump will fill the gap; until then these are part of it.
            self._ahead.clear()

    def on_last(self, number: int) -> bool:
        """The publisher's last notification has this number. Returns whether it and all before it were heard."""
        number = self._unwrap(number)
        self._last = max(self._last, number)
        return number <= self._heard

    def fill(self, number: int) -> None:
        """A complete dump replaces all notifications up to this number."""
        number = self._unwrap(number)
        if number > self._heard:
            self._heard = number
            self._last = max(self._last, number)
            self._ahead = {it for it in self._ahead if it > number}
            self._advance()

    def _advance(self) -> None:
        while self._heard + 1 in self._ahead:
            self._heard += 1
            self._ahead.remove(self._heard)

    def _unwrap(self, number: int) -> int:
        distance = (number - self._heard) % _NUMBERS
        return self._heard + (distance if distance < _NUMBERS // 2 else distance - _NUMBERS)


class Violations:
    """The violations of one run of a publisher: how many it counts, and which of them were seen."""

    def __init__(self) -> None:
        self._counted = 0
        self._seen = 0
        self._ahead: Set[int] = set()

    @property
    def has_unseen(self) -> bool:
        """Whether the publisher counts more than were seen: then only what is acknowledged is safe."""
        return self._counted > self._seen

    def on_count(self, count: int) -> None:
        """The publisher counts so many."""
        self._counted = max(self._counted, count)

    def on_violation(self, number: int) -> None:
        """The violation with this number was seen."""
        self.on_count(number)
        if number > self._seen and len(self._ahead) < _MOST_AHEAD:
            self._ahead.add(number)
            self._advance()

    def on_complete_dump(self, count: int) -> None:
        """A complete dump told of all violations up to this count, or of the flows that they hit."""
        self.on_count(count)
        if count > self._seen:
            self._seen = count
            self._ahead = {it for it in self._ahead if it > count}
            self._advance()

    def _advance(self) -> None:
        while self._seen + 1 in self._ahead:
            self._seen += 1
            self._ahead.remove(self._seen)
