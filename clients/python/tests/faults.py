"""One direction of a faulty path: it loses, doubles, delays, replays and forges datagrams, with a seed and without a clock.

The forger reads everything and knows the protocol, but not the key.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass
from typing import List, Optional, Tuple

from onwire_notify.envelope import LENGTH, Envelope, Key, seal
from onwire_notify.messages import Command, Flow

from .publisher import flow_body, generic

FORGED = 1 << 40
_RECORDINGS = 4096


@dataclass(frozen=True)
class Plan:
    """How often each fault happens to a datagram, and the longest delay in seconds."""

    loss: float = 0.3
    double: float = 0.05
    late: float = 0.1
    hold: float = 0.005
    replay: float = 0.1
    forge: float = 0.3


NOTHING = Plan(0, 0, 0, 0, 0, 0)


class Faults:
    """The path. `delay` is the least time that a datagram takes."""

    def __init__(self, plan: Plan, seed: int, delay: float = 0.0) -> None:
        self.plan = plan
        self.target: Optional[Flow] = None
        self.lost = self.replayed = self.forged = 0
        self._draw = random.Random(seed)
        self._delay = delay
        self._due: List[Tuple[float, int, bytes]] = []
        self._order = 0
        self._recorded: List[bytes] = []

    def take(self, datagram: bytes, now: float) -> None:
        """A datagram enters."""
        draw, plan = self._draw, self.plan
        if len(self._recorded) == _RECORDINGS:
            self._recorded.pop(draw.randrange(_RECORDINGS))
        self._recorded.append(datagram)
        if draw.random() < plan.loss:
            self.lost += 1
        else:
            self._put(datagram, now + (draw.random() * plan.hold if draw.random() < plan.late else 0.0))
            if draw.random() < plan.double:
                self._put(datagram, now + draw.random() * plan.hold)
        if draw.random() < plan.replay:
            self.replayed += 1
            self._put(draw.choice(self._recorded), now)
        if draw.random() < plan.forge:
            self.forged += 1
            self._put(self._forge(datagram), now)

    def due(self, now: float) -> List[bytes]:
        """The datagrams that leave now."""
        leaving = []
        while self._due and self._due[0][0] <= now:
            leaving.append(heapq.heappop(self._due)[2])
        return leaving

    def _put(self, datagram: bytes, at: float) -> None:
        self._order += 1
        heapq.heappush(self._due, (at + self._delay, self._order, datagram))

    def _forge(self, genuine: bytes) -> bytes:
        draw, kind = self._draw, self._draw.randrange(5)
        if kind == 0:
            changed = bytearray(genuine)
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
            return bytes(changed)
        if kind == 1:
            return genuine[: draw.randrange(len(genuine))]
        if kind == 2:
            return genuine[:LENGTH] + bytes(draw.randrange(256) for _ in range(len(genuine) - LENGTH + 4))
        if kind == 3:
            return genuine[:LENGTH] + draw.choice(self._recorded)[LENGTH:] + bytes(4)
        body = b""
        if self.target is not None:
            body = generic(Command.FLOW, flow_body(self.target), draw.randrange(1, 100_000), 0)
        sender, receiver, counter = (int.from_bytes(genuine[at : at + 8], "little") for at in (8, 16, 24))
        return seal(Key(1, b"not the key that they have"), Envelope(sender, receiver, counter + 1), body, genuine[5])
