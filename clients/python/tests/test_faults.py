"""A client and a publisher on virtual time, over a path that loses, doubles, delays, replays and forges datagrams.

The true state of each flow is known: what the client calls protected must be so, or have been so within the last lease,
because nobody can have heard yet that it is not. And in the end it must know everything. SEEDS=50 runs as many seeds.
"""

from __future__ import annotations

import os
import random
import unittest
from collections import deque
from dataclasses import replace
from typing import Deque, Dict, List, Optional, Set, Tuple

from onwire_notify import messages as m
from onwire_notify.attributes import Attributes
from onwire_notify.claims import Need
from onwire_notify.core import Core
from onwire_notify.envelope import LENGTH, MOST_BYTES
from onwire_notify.flow_key import FlowKey
from onwire_notify.messages import Command, Event, Flow, Level, Origin, Range

from .faults import FORGED, NOTHING, Faults, Plan
from .publisher import KEY, MULTI, TOKEN, Publisher, flow_body, generic, violation_body

TICK = 0.002
LEASE = 1.0
REPETITIONS = (0.0, 0.001, 0.005, 0.025, 0.1, 1.1, 2.1)
FLOWS = 4


class Appliance:
    """A publisher that remembers the newest of everything by version, repeats it, and ends leases."""

    def __init__(self, epoch: int) -> None:
        self.publisher = Publisher(epoch)
        self.lease_ends = -1.0
        self.version = 0
        self.newest: Dict[object, Tuple[int, Command, bytes]] = {}
        self.flows: Dict[FlowKey, Flow] = {}
        self.repeat: List[Tuple[float, object]] = []
        self.beat_at = 0.0
        self.counters: Set[int] = set()

    def publish(self, name: object, command: Command, body: bytes, now: float) -> None:
        self.version += 1
        self.newest[name] = (self.version, command, body)
        self.repeat += [(now + after, name) for after in REPETITIONS]

    def publish_flow(self, flow: Flow, now: float) -> None:
        self.flows[flow.key] = flow
        self.publish(flow.key, Command.FLOW, flow_body(flow), now)

    def publish_violation(self, lost: Range, now: float) -> None:
        self.publisher.violations += 1
        number = self.publisher.violations
        body = violation_body(m.Violation(number, 1, (lost,)))
        self.publish(("violation", number), Command.VIOLATION, body, now)

    def hear(self, datagram: bytes, now: float) -> List[bytes]:
        """Takes a datagram, whatever it is; returns the answers."""
        is_request = len(datagram) > LENGTH and datagram[:8] == b"OWNT\1\0\1\0"
        if not is_request or datagram[32:48] != KEY.tag(datagram[:32] + datagram[48:]):
            return []
        counter, receiver = (int.from_bytes(datagram[at : at + 8], "little") for at in (24, 16))
        command = datagram[LENGTH + 16]
        if receiver not in (0, self.publisher.epoch) and command != Command.SUBSCRIBE or counter in self.counters:
            return []
        ((_, seq, _, fields),) = self.publisher.hear([datagram])
        is_mine = receiver == self.publisher.epoch
        if is_mine:
            self.counters.add(counter)
        if command == Command.SUBSCRIBE:
            if is_mine and (now < self.lease_ends or fields.bytes(m.TOKEN) == TOKEN):
                if now >= self.lease_ends:
                    self.publisher.number = 0
                self.lease_ends = now + LEASE
                return [self.publisher.grant(seq)]
            return [self.publisher.challenge(seq)]
        if now >= self.lease_ends or command != Command.GET_FLOWS:
            return []
        return self.page(seq, fields)

    def page(self, seq: int, fields: Attributes) -> List[bytes]:
        publisher = self.publisher
        if 1 in fields:
            flow = self.flows.get(FlowKey.parse(fields.bytes(1)))
            return [publisher.page(seq, *([] if flow is None else [flow]), version=self.version)]
        since, most = fields.u64(m.SINCE), fields.u32(m.COUNT)
        news = sorted((it for it in self.newest.values() if it[0] > since), key=lambda it: it[0])[:most]
        bodies = [generic(command, body, seq, publisher.port, MULTI) for _, command, body in news]
        version = news[-1][0] if len(news) == most else self.version
        bodies.append(publisher.done(seq, len(news), since, version, self.version))
        datagrams, part = [], b""
        for body in bodies:
            if len(part) + len(body) > MOST_BYTES - LENGTH:
                datagrams.append(publisher.send(part))
                part = b""
            part += body
        return [*datagrams, publisher.send(part)]

    def due(self, now: float) -> List[bytes]:
        """What it says by itself."""
        ready = [name for at, name in self.repeat if at <= now]
        self.repeat = [(at, name) for at, name in self.repeat if at > now]
        if now >= self.lease_ends:
            return []
        said = [self.publisher.notify(*self.newest[name][1:]) for name in ready]
        if now >= self.beat_at:
            self.beat_at = now + 0.1
            said.append(self.publisher.heartbeat(self.version))
        return said


class World:
    """The two, the path between them, and the truth."""

    def __init__(self, seed: int, plan: Plan) -> None:
        self.draw = random.Random(seed)
        self.now = 50.0
        self.appliance = Appliance(self.draw.randrange(1, 1 << 64))
        self.core = Core(KEY, self.now)
        self.requests, self.answers = (Faults(plan, seed + side, 0.0005) for side in (1, 2))
        self.keys = [FlowKey.tcp(("10.1.0.1", 40_000 + at), ("10.2.0.1", 80)) for at in range(FLOWS)]
        self.instances = 0
        self.flows: List[Flow] = []
        for key in self.keys:
            self.instances += 1
            flow = Flow(key, self.instances, Event.NEW, Level.ON_WIRE, Origin.START, 1, origin_seq=5, on_wire=0)
            self.flows.append(flow)
            self.appliance.publish_flow(flow, self.now)
            self.core.watch(key, self.now)
        # For each flow: what is true, of what was said: below it all is protected. And the earlier truths of a lease time.
        self.truth = [0] * FLOWS
        self.lost: List[Optional[Range]] = [None] * FLOWS
        self.base = [0] * FLOWS
        self.past: List[Deque[Tuple[float, int]]] = [deque() for _ in range(FLOWS)]
        self.confirmed = 0
        self.target()

    def target(self) -> None:
        forged = replace(self.flows[0], instance=self.instances, on_wire=FORGED, acked=FORGED, decoded=FORGED)
        self.requests.target = self.answers.target = forged

    def change(self) -> None:
        at = self.draw.randrange(FLOWS)
        flow, kind = self.flows[at], self.draw.randrange(20)
        on_wire, acked = flow.on_wire or 0, flow.acked or 0
        lost = self.lost[at]
        if kind == 0 and lost is None and on_wire > acked + 10:
            start = self.draw.randrange(acked, on_wire - 1)
            lost = Range(flow.key, flow.instance, start, self.draw.randrange(start + 1, on_wire))
            self.lost[at] = lost
            flow = replace(flow, violated=start)
            self.appliance.publish_violation(lost, self.now)
        elif kind < 6:
            acked = min(on_wire, acked + self.draw.randrange(400))
            flow = replace(flow, acked=acked)
            if lost is not None and acked > lost.end:
                self.lost[at] = lost = None
                flow = replace(flow, violated=None)
        elif lost is None:
            flow = replace(flow, on_wire=on_wire + self.draw.randrange(300), event=Event.PROTECTED)
        self.flows[at] = flow
        below = max(flow.acked or 0, min(flow.on_wire or 0, lost.start if lost is not None else 1 << 60))
        self.truth[at] = self.base[at] + below
        self.appliance.publish_flow(flow, self.now)

    def restart(self) -> None:
        """Another run: what was protected is acknowledged by now, so nothing that was lost stays so."""
        self.appliance = Appliance(self.draw.randrange(1, 1 << 64))
        for at, flow in enumerate(self.flows):
            self.instances += 1
            end = self.base[at] + (flow.on_wire or 0)
            self.base[at], self.truth[at], self.lost[at] = end, end, None
            self.flows[at] = Flow(
                flow.key, self.instances, Event.NEW, Level.ON_WIRE, Origin.MIDDLE, 1, origin_seq=5 + end, on_wire=0, acked=0
            )
            self.appliance.publish_flow(self.flows[at], self.now)
        self.target()

    def tick(self) -> None:
        self.now += TICK
        for at, truth in enumerate(self.truth):
            self.past[at].append((self.now, truth))
            while self.past[at][0][0] < self.now - LEASE - 0.05:
                self.past[at].popleft()
        for datagram in self.core.poll(self.now):
            self.requests.take(datagram, self.now)
        for datagram in self.requests.due(self.now):
            for answer in self.appliance.hear(datagram, self.now):
                self.answers.take(answer, self.now)
        for datagram in self.appliance.due(self.now):
            self.answers.take(datagram, self.now)
        for datagram in self.answers.due(self.now):
            self.core.handle_datagram(datagram, self.now)

    def run(self, test: unittest.TestCase, seconds: float, changes: float) -> None:
        end = self.now + seconds
        while self.now < end:
            if self.draw.random() < changes:
                self.change()
            self.tick()
            for at, key in enumerate(self.keys):
                said = self.core.protected(key, Need.ON_WIRE, self.now)
                if said is not None:
                    most = max(truth for _, truth in self.past[at])
                    test.assertLessEqual(said, most, f"flow {at} at {self.now}")
                    self.confirmed += said > 0

    def knows_all(self) -> bool:
        known = [self.core.protected(key, Need.ON_WIRE, self.now) for key in self.keys]
        return known == self.truth


class Paths(unittest.TestCase):
    def run_seed(self, seed: int, plan: Plan) -> World:
        world = World(seed, plan)
        for _ in range(2):
            world.run(self, 2.0, 0.05)
            # Some seconds later the last repetitions have been said, or a dump has filled the gaps.
            world.run(self, 4.0, 0.0)
            known = [world.core.protected(key, Need.ON_WIRE, world.now) for key in world.keys]
            self.assertEqual(known, world.truth, f"seed {seed}: it does not know everything")
            world.restart()
        world.run(self, 2.5, 0.0)
        self.assertTrue(world.knows_all(), f"seed {seed}: not after a restart")
        self.assertGreater(world.confirmed, 1000)
        return world

    def test_a_perfect_path(self) -> None:
        self.run_seed(1, NOTHING)

    def test_a_path_with_every_fault(self) -> None:
        for seed in range(10, 10 + int(os.environ.get("SEEDS", "2"))):
            with self.subTest(seed=seed):
                world = self.run_seed(seed, Plan())
                for path in (world.requests, world.answers):
                    self.assertTrue(path.lost and path.replayed and path.forged)
                self.assertGreater(world.core.dropped, 100)

    def test_silence_ends_protection_within_a_lease_and_contact_restores_it(self) -> None:
        world = World(2, NOTHING)
        world.run(self, 2.0, 0.05)
        self.assertIsNotNone(world.core.protected(world.keys[0], Need.ON_WIRE, world.now))
        world.requests.plan = world.answers.plan = replace(NOTHING, loss=1.0)
        world.run(self, LEASE + 0.1, 0.0)
        self.assertEqual([world.core.protected(key, Need.ON_WIRE, world.now) for key in world.keys], [None] * FLOWS)
        world.run(self, 1.0, 0.05)
        world.requests.plan = world.answers.plan = NOTHING
        world.run(self, 2.5, 0.0)
        self.assertTrue(world.knows_all())


if __name__ == "__main__":
    unittest.main()
