"""What is known of one watched flow: positions, losses, and which of several connections under one 5-tuple it is.

All offsets are bytes from the start of the stream. Knows no time and no contact: see `core`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Dict, List, Optional

from .flow_key import TCP, FlowKey
from .messages import Event, Flow, Origin, Range

_SEQUENCE_NUMBERS = 1 << 32
# More ranges than a publisher remembers: beyond it the flow counts as lost from its start.
_MOST_RANGES = 256
_MOST_INSTANCES = 16


class Need(enum.IntEnum):
    """How safe bytes must be for a program. Each includes those after it. `ON_WIRE` is what "protected" means.

    `EARLY` is `ON_WIRE` without late repair: an interruption of the link may lose it.
    """

    QUEUED = 1
    EARLY = 2
    ON_WIRE = 3
    DECODED = 4
    ACKED = 5


@dataclass
class _Losses:
    """What was lost after it was called protected, in one instance, in positions as that instance counts."""

    ranges: List[Range] = field(default_factory=list)
    violated: Optional[int] = None
    repaired_above: int = 0
    """`violated` stands until a message comes without it and with an acknowledged position above this one."""

    def lowest(self) -> Optional[int]:
        starts = [lost.start for lost in self.ranges]
        if self.violated is not None:
            starts.append(self.violated)
        return min(starts, default=None)

    def add(self, lost: Range, acked: Optional[int]) -> None:
        if acked is not None and acked >= lost.end or lost in self.ranges:
            return
        self.ranges.append(lost)
        if len(self.ranges) > _MOST_RANGES:
            start, end = min(r.start for r in self.ranges), max(r.end for r in self.ranges)
            self.ranges = [Range(lost.key, lost.instance, start, end)]

    def on_flow(self, flow: Flow, acked: Optional[int]) -> None:
        """Takes a message about the instance; `acked` is the highest acknowledged position known before it."""
        if flow.violated is not None:
            is_old = acked is not None and (flow.acked is None or flow.acked < acked)
            if not is_old:
                self.violated = flow.violated if self.violated is None else min(self.violated, flow.violated)
                self.repaired_above = max(self.repaired_above, flow.violated, flow.acked or 0)
        elif self.violated is not None and flow.acked is not None and flow.acked > self.repaired_above:
            self.violated = None
            self.repaired_above = 0
        if flow.acked is not None:
            reached = flow.acked
            self.ranges = [lost for lost in self.ranges if lost.end > reached]


class State(enum.Enum):
    """How far a watched flow is identified."""

    UNKNOWN = "the appliance knows no such flow"
    KNOWN = "known"
    GONE = "the flow is gone"
    REPLACED = "another connection has taken the addresses"
    NO_START = "the appliance first saw the flow in its middle"


class Claims:
    """One watched flow. `survives_burst_us` is the interruption that its bytes on the wire must survive."""

    def __init__(self, key: FlowKey, survives_burst_us: int = 0) -> None:
        self.key = key
        self.state = State.UNKNOWN
        self.promise_us: Optional[int] = None
        """The interruption that the bytes on the wire of the last message survive."""
        self._survives_burst_us = survives_burst_us
        self._best: Dict[Need, int] = {}
        self._start_seq: Optional[int] = None
        # Of the present run of the publisher.
        self._instance: Optional[int] = None
        self._base: Optional[int] = None
        self._acked: Optional[int] = None
        self._losses: Dict[int, _Losses] = {}
        # After a restart: an earlier loss is repaired when the mirror has acknowledged all up to here.
        self._earlier_loss: Optional[int] = None

    @property
    def is_pinned(self) -> bool:
        """Whether the present run of the publisher has said which instance this is."""
        return self._instance is not None

    @property
    def has_loss(self) -> bool:
        """Whether bytes that were called protected are lost and not repaired, as far as is known."""
        return self._earlier_loss is not None or self._lowest_lost() is not None

    def forget_run(self, has_unseen_violations: bool) -> None:
        """The publisher was restarted: instances mean nothing any more, bytes that were protected stay so."""
        lost = any(it.lowest() is not None for it in self._losses.values())
        if lost or has_unseen_violations or self._earlier_loss is not None:
            self._earlier_loss = max(self._best.values(), default=0)
        self._instance, self._base, self._acked = None, None, None
        self._losses.clear()
        if self.state is State.KNOWN or self.state is State.NO_START:
            self.state = State.UNKNOWN

    def pin(self, flow: Flow) -> None:
        """Takes the answer to a question about this key that was asked after the connection existed."""
        if self._instance is not None or flow.event is Event.GONE or self.state in (State.GONE, State.REPLACED):
            return
        is_other = (
            flow.origin is Origin.START
            and None not in (self._start_seq, flow.origin_seq)
            and flow.origin_seq != self._start_seq
        )
        if is_other:
            self.state = State.REPLACED
            return
        self._instance = flow.instance
        self.on_flow(flow)

    def on_flow(self, flow: Flow) -> None:
        """Takes any message about this key."""
        if self._instance is None:
            # A loss may be heard of before the answer that says which instance this is.
            if flow.violated is not None:
                self._losses_of(flow.instance).on_flow(flow, None)
            return
        if flow.instance > self._instance and self.state is not State.GONE:
            self.state = State.REPLACED
        if flow.instance != self._instance or self.state is State.REPLACED:
            return
        self._losses_of(flow.instance).on_flow(flow, self._acked)
        if flow.acked is not None:
            self._acked = max(self._acked or 0, flow.acked)
        if self.state is not State.GONE:
            self.state = State.KNOWN if self._locate(flow) else State.NO_START
        if flow.event is Event.GONE:
            self.state = State.GONE
        if self._base is not None:
            self._raise(flow, self._base)

    def on_range(self, lost: Range) -> None:
        """Takes a range of a violation that names this key."""
        acked = self._acked if lost.instance == self._instance else None
        self._losses_of(lost.instance).add(lost, acked)

    def protected(self, need: Need, only_acked: bool) -> Optional[int]:
        """All bytes below this offset are as safe as `need` says. None: not even 0 bytes are known of.

        `only_acked`: the publisher counts violations that were not seen.
        """
        if self.state in (State.UNKNOWN, State.NO_START) and not self._best:
            return None
        acked = self._best.get(Need.ACKED, 0)
        if only_acked or self._earlier_loss is not None:
            return acked
        best = max((offset for level, offset in self._best.items() if level >= need), default=0)
        lowest = self._lowest_lost()
        return best if lowest is None else max(min(best, lowest), acked)

    def level_of(self, offset: int, need: Need, only_acked: bool) -> Need:
        """The best level at which all bytes below `offset` are, where `protected` says they are at `need`."""
        levels = [level for level in Need if level >= need]
        reached = [level for level in levels if (self.protected(level, only_acked) or 0) >= offset]
        return reached[-1] if reached else need

    def highest(self) -> int:
        """The highest offset that any message named: beyond what the program has written it is another connection."""
        return max(self._best.values(), default=0)

    def _locate(self, flow: Flow) -> bool:
        """Finds where position 0 is in the stream."""
        if self._base is not None:
            return True
        if flow.origin is Origin.START:
            self._base = 0
            if flow.origin_seq is not None:
                self._start_seq = flow.origin_seq
            return True
        if self.key.protocol != TCP or self._start_seq is None or flow.origin_seq is None:
            return False
        # A sequence number is an offset without its upper bits. The appliance was away for less than half of their
        # range, or more was written: then this is too low, which only delays.
        highest = self.highest()
        distance = (flow.origin_seq - self._start_seq - highest) % _SEQUENCE_NUMBERS
        if distance >= _SEQUENCE_NUMBERS // 2:
            distance -= _SEQUENCE_NUMBERS
        if highest + distance < 0:
            return False
        self._base = highest + distance
        return True

    def _raise(self, flow: Flow, base: int) -> None:
        survives = flow.survives_burst_us
        self.promise_us = survives
        positions = {
            Need.QUEUED: flow.queued,
            Need.EARLY: flow.early,
            Need.ON_WIRE: flow.on_wire if survives >= self._survives_burst_us else None,
            Need.DECODED: flow.decoded,
            Need.ACKED: flow.acked,
        }
        # Early repair leaves before late repair: bytes on the wire are at least early, whatever they survive.
        if flow.on_wire is not None:
            positions[Need.EARLY] = max(flow.on_wire, flow.early or 0)
        for level in sorted(positions, reverse=True):
            position = positions[level]
            if position is None:
                continue
            covered = max((offset for it, offset in self._best.items() if it >= level), default=0)
            # What the mirror has acknowledged covers all before the first byte seen.
            if flow.acked is not None or covered >= base:
                self._best[level] = max(self._best.get(level, 0), base + position)
        acked = self._best.get(Need.ACKED)
        if self._earlier_loss is not None and acked is not None and acked >= self._earlier_loss:
            self._earlier_loss = None

    def _losses_of(self, instance: int) -> _Losses:
        losses = self._losses.setdefault(instance, _Losses())
        if len(self._losses) > _MOST_INSTANCES:
            # Those of earlier connections matter to nobody.
            del self._losses[min(it for it in self._losses if it != self._instance)]
        return losses

    def _lowest_lost(self) -> Optional[int]:
        losses = self._losses.get(self._instance) if self._instance is not None else None
        lowest = losses.lowest() if losses is not None else None
        return None if lowest is None else (self._base or 0) + lowest
