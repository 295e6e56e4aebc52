"""The rules of `docs/protocol.md`, *What a client must do*, on a clock of the test and with a publisher that obeys."""

from __future__ import annotations

import unittest
from dataclasses import replace
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from onwire_notify import messages as m
from onwire_notify import requests
from onwire_notify.claims import Need
from onwire_notify.core import Core, Restarted
from onwire_notify.envelope import Key
from onwire_notify.flow_key import Filter, FlowKey
from onwire_notify.messages import Command, Event, Flow, Level, Origin, Range
from onwire_notify.requests import Wish

from .publisher import KEY, MULTI, Publisher, Sent, dumps, flow_body, generic, lookups

CONNECTION = FlowKey.tcp(("10.1.0.1", 40_000), ("10.2.0.1", 5432))
START = Flow(CONNECTION, 5, Event.NEW, Level.ON_WIRE, Origin.START, 1, origin_seq=1000)


class Scene(unittest.TestCase):
    """A client and a publisher. Nothing is lost unless a test loses it."""

    def setUp(self) -> None:
        self.now = 100.0
        self.publisher = Publisher()
        self.core = Core(KEY, self.now)

    def ask(self) -> List[Sent]:
        """What the client asks now."""
        return self.publisher.hear(self.core.poll(self.now))

    def hear(self, *datagrams: bytes) -> None:
        """Datagrams that arrive now."""
        for datagram in datagrams:
            self.core.handle_datagram(datagram, self.now)

    def subscribe(self, asked: Sequence[Sent] = ()) -> List[Sent]:
        """From the first request, which may have been asked, to the grant; returns what the client asks then."""
        seq = [it for it in asked or self.ask() if it[0] is Command.SUBSCRIBE][-1][1]
        self.hear(self.publisher.challenge(seq))
        (_, again, receiver, fields), = [it for it in self.ask() if it[0] is Command.SUBSCRIBE]
        self.assertEqual((again, receiver, fields.bytes(m.TOKEN)), (seq, self.publisher.epoch, b"0123456789abcdef"))
        self.hear(self.publisher.grant(seq))
        return self.ask()

    def end_dump(self, asked: List[Sent], version: int = 1) -> None:
        for seq, _ in dumps(asked):
            self.hear(self.publisher.page(seq, version=version))

    def pin(self, flow: Flow, asked: List[Sent]) -> None:
        for seq in lookups(asked, flow.key):
            self.hear(self.publisher.page(seq, flow))

    def connect(self, flow: Flow = START, **changes: Any) -> None:
        """A subscription with one watched flow that is identified."""
        self.core.watch(CONNECTION, self.now)
        asked = self.subscribe()
        self.end_dump(asked)
        self.pin(replace(flow, **changes), asked)
        self.hear(self.publisher.heartbeat(1))

    def restart(self, epoch: int = 99) -> None:
        """Another run of the publisher, which the client notices by the silence of the first."""
        self.publisher = Publisher(epoch)
        asked = self.subscribe([it for _, it in self.run_for(0.3)])
        self.end_dump(asked)
        self.after_restart = asked

    def run_for(
        self, seconds: float, answer: Optional[Callable[[Sent], List[bytes]]] = None
    ) -> List[Tuple[float, Sent]]:
        """Time passes; returns what the client asks meanwhile, and when."""
        end, asked = self.now + seconds, []
        while self.now < end:
            self.now += 0.001
            for request in self.ask():
                asked.append((self.now, request))
                for datagram in answer(request) if answer is not None else []:
                    self.hear(datagram)
        return asked

    def is_protected(self, offset: int, need: Need = Need.ON_WIRE) -> bool:
        return self.core.status(CONNECTION, offset, need, self.now).is_protected

    def protected(self, need: Need = Need.ON_WIRE) -> Optional[int]:
        return self.core.protected(CONNECTION, need, self.now)

    def tell(self, flow: Flow = START, **changes: Any) -> bytes:
        """The next notification of a flow, which the test gives to the client."""
        return self.publisher.flow(replace(flow, **changes))


class Trust(Scene):
    def test_nothing_counts_before_a_grant(self) -> None:
        self.core.watch(CONNECTION, self.now)
        seq = self.ask()[0][1]
        self.hear(self.publisher.heartbeat(), self.tell(on_wire=10, acked=10))
        self.hear(self.publisher.grant(seq), self.publisher.heartbeat())
        self.assertFalse(self.core.has_contact(self.now), "a grant without a challenge is not what was asked for")
        self.hear(self.publisher.challenge(seq + 1), self.publisher.grant(seq + 1))
        self.assertFalse(self.core.has_contact(self.now), "a request of another number")
        self.assertEqual(self.core.run, 0)

    def test_a_grant_makes_contact_and_a_forged_one_does_not(self) -> None:
        (_, seq, _, _), = self.ask()
        forger = Publisher(self.publisher.epoch, Key(1, b"not the key that they have"))
        forger.client, forger.port = self.publisher.client, self.publisher.port
        self.hear(forger.challenge(seq), forger.grant(seq))
        self.assertEqual([it[2] for it in self.ask()], [], "no answer to a forged challenge")
        self.hear(self.publisher.challenge(seq))
        self.ask()
        self.hear(forger.grant(seq))
        self.assertFalse(self.core.has_contact(self.now))
        self.hear(self.publisher.grant(seq))
        self.assertTrue(self.core.has_contact(self.now))

    def test_recordings_of_another_run_count_nothing(self) -> None:
        self.connect()
        other = Publisher(77)
        other.client, other.port = self.publisher.client, self.publisher.port
        self.hear(other.flow(replace(START, on_wire=50, acked=50)), other.heartbeat())
        self.assertEqual(self.protected(), 0)

    def test_a_replayed_datagram_changes_nothing(self) -> None:
        self.connect()
        claim = self.tell(on_wire=10)
        self.hear(claim)
        dropped = self.core.dropped
        self.hear(claim)
        self.assertEqual(self.core.dropped, dropped + 1)

    def test_no_number_is_used_for_two_requests(self) -> None:
        self.core.watch(CONNECTION, self.now)
        self.subscribe()
        asked = [request for _, request in self.run_for(3, lambda it: [self.publisher.heartbeat()])]
        pages = [seq for command, seq, _, it in asked if command is Command.GET_FLOWS and 1 not in it]
        self.assertGreater(len(pages), 3)
        self.assertEqual(len(set(pages)), len(pages), "a page is asked again under another number")
        kinds: Dict[int, Tuple[Command, bool]] = {}
        for command, seq, _, it in asked:
            self.assertEqual(kinds.setdefault(seq, (command, 1 in it)), (command, 1 in it))

    def test_a_refused_subscription_is_asked_for_again_later(self) -> None:
        (_, seq, _, _), = self.ask()
        self.hear(self.publisher.challenge(seq))
        self.ask()
        code = (-28 & 0xFFFFFFFF).to_bytes(4, "little")
        copy = m.NLMSGHDR.pack(16, m.FAMILY, 1, seq, self.publisher.port)
        body = code + copy + b"\x0b\0\x01\0too many\0"[:11] + b"\0"
        refusal = m.NLMSGHDR.pack(16 + len(body), m.NLMSG_ERROR, 0x300, seq, self.publisher.port) + body
        self.hear(self.publisher.send(refusal))
        self.assertEqual(self.core.refusal, "too man")
        asked = self.run_for(1.5)
        self.assertTrue(asked and asked[0][0] > 100.9, asked[:1])


class Contact(Scene):
    def test_without_heartbeats_contact_ends_with_the_lease(self) -> None:
        self.connect(acked=10)
        began = self.now

        def renew(request: Sent) -> List[bytes]:
            return [self.publisher.grant(request[1])] if request[0] is Command.SUBSCRIBE else []

        self.run_for(0.99, renew)
        self.assertTrue(self.is_protected(10), "it is renewed")
        self.run_for(0.02, renew)
        self.assertGreater(self.now - began, 1)
        self.assertFalse(self.is_protected(10))
        self.assertFalse(self.core.status(CONNECTION, 10, Need.ON_WIRE, self.now).has_contact)
        self.hear(self.publisher.heartbeat(1))
        self.assertTrue(self.is_protected(10))

    def test_without_renewals_contact_ends_with_the_lease_however_many_heartbeats_come(self) -> None:
        self.connect(acked=10)
        began = self.now
        renewals: List[float] = []
        while self.now - began < 0.995:
            renewals += [at for at, request in self.run_for(0.05) if request[0] is Command.SUBSCRIBE]
            self.hear(self.publisher.heartbeat(1))
        self.assertAlmostEqual(renewals[0] - began, 0.25, delta=0.005)
        self.assertAlmostEqual(renewals[1] - renewals[0], 0.02, delta=0.002)
        self.assertAlmostEqual(renewals[2] - renewals[1], 0.04, delta=0.002)
        self.run_for(0.02)
        self.hear(self.publisher.heartbeat(1))
        self.assertFalse(self.is_protected(0))

    def test_a_lease_counts_from_when_its_request_was_first_sent(self) -> None:
        self.connect(acked=10)
        asked = [it for it in self.run_for(0.9) if it[1][0] is Command.SUBSCRIBE]
        first, seq = asked[0][0], asked[0][1][1]
        self.assertEqual({request[1] for _, request in asked}, {seq}, "a repetition keeps its number")
        self.hear(self.publisher.heartbeat(1), self.publisher.grant(seq))
        self.assertTrue(self.is_protected(10))
        self.now = first + 1.0
        self.hear(self.publisher.heartbeat(1))
        self.assertFalse(self.is_protected(10), "the answer came late, its request was sent a lease ago")

    def test_a_renewal_has_no_token_and_a_challenge_then_begins_a_new_subscription(self) -> None:
        self.connect(acked=10)
        self.hear(self.tell(acked=11))
        renewal = [it[1] for it in self.run_for(0.26) if it[1][0] is Command.SUBSCRIBE][0]
        self.assertEqual(renewal[3].bytes(m.TOKEN), bytes(16))
        self.hear(self.publisher.challenge(renewal[1]))
        self.ask()
        self.publisher.number = 0
        self.hear(self.publisher.grant(renewal[1]))
        asked = self.ask()
        self.assertEqual([since for _, since in dumps(asked)], [1], "what changed since the last complete dump")
        self.assertEqual(self.protected(), 11, "what was known stays true")
        self.end_dump(asked, version=2)
        self.hear(self.tell(acked=12), self.publisher.heartbeat(3))
        self.assertEqual(dumps(self.ask()), [], "number 1 is the first of the new subscription, no gap")


class Flows(Scene):
    def test_the_answer_about_a_flow_says_which_instance_counts(self) -> None:
        self.core.watch(CONNECTION, self.now)
        asked = self.subscribe()
        self.end_dump(asked)
        self.hear(self.publisher.heartbeat(), self.tell(on_wire=70, acked=70))
        self.assertIsNone(self.protected(), "which connection that is, is not known yet")
        self.assertFalse(self.is_protected(0))
        self.pin(replace(START, on_wire=7), asked)
        self.assertEqual(self.protected(), 7)
        self.hear(self.tell(instance=4, on_wire=90, acked=90))
        self.assertEqual(self.protected(), 7, "an earlier connection with the same addresses")
        self.hear(self.tell(instance=6, on_wire=90, acked=90))
        self.assertEqual(self.protected(), 7, "a later connection with the same addresses")
        self.assertTrue(self.core.status(CONNECTION, 8, Need.ON_WIRE, self.now).is_final)
        self.assertTrue(self.is_protected(7))

    def test_a_flow_that_is_unknown_or_gone_is_asked_for_again(self) -> None:
        self.core.watch(CONNECTION, self.now)
        asked = self.subscribe()
        self.end_dump(asked)
        (first,) = lookups(asked, CONNECTION)
        self.hear(self.publisher.page(first))
        (second,) = lookups([it for _, it in self.run_for(0.021)], CONNECTION)
        self.assertNotEqual(first, second)
        self.hear(self.publisher.page(second, replace(START, event=Event.GONE, acked=9)))
        self.assertIsNone(self.protected())
        (third,) = lookups([it for _, it in self.run_for(0.041)], CONNECTION)
        self.assertNotIn(third, (first, second))
        self.hear(self.publisher.page(third, replace(START, instance=9, acked=3)))
        self.assertEqual(self.protected(), 3)

    def test_an_unanswered_question_about_a_flow_keeps_its_number(self) -> None:
        self.core.watch(CONNECTION, self.now)
        asked = self.subscribe()
        (first,) = lookups(asked, CONNECTION)
        again = lookups([it for _, it in self.run_for(0.1)], CONNECTION)
        self.assertGreater(len(again), 3)
        self.assertEqual(set(again), {first})

    def test_the_highest_position_counts_in_whatever_order_they_come(self) -> None:
        self.connect()
        late, early = self.tell(on_wire=10), self.tell(on_wire=20)
        self.hear(early, late)
        self.assertEqual(self.protected(), 20)

    def test_each_level_counts_for_itself_and_those_below(self) -> None:
        self.connect(queued=50, early=40, on_wire=30, decoded=20, acked=10)
        self.assertEqual([self.protected(need) for need in Need], [50, 40, 30, 20, 10])
        self.hear(self.tell(acked=45))
        self.assertEqual([self.protected(need) for need in Need], [50, 45, 45, 45, 45])
        self.assertEqual(self.core.status(CONNECTION, 45, Need.QUEUED, self.now).level, Need.ACKED)

    def test_early_is_never_protected(self) -> None:
        self.connect(early=40, on_wire=0)
        self.assertFalse(self.is_protected(1))
        self.assertTrue(self.is_protected(40, Need.EARLY))

    def test_a_demanded_interruption_must_be_promised_by_the_message_that_names_the_bytes(self) -> None:
        self.core = Core(KEY, self.now, survives_burst_us=2000)
        self.connect(on_wire=10, survives_burst_us=2000)
        self.hear(self.tell(on_wire=20, survives_burst_us=1999), self.tell(on_wire=30))
        self.assertEqual(self.protected(), 10)
        self.hear(self.tell(on_wire=15, survives_burst_us=5000))
        self.assertEqual(self.protected(), 15)
        self.hear(self.tell(decoded=25))
        self.assertEqual(self.protected(), 25)

    def test_a_flow_seen_from_its_middle_has_no_offsets(self) -> None:
        self.connect(replace(START, origin=Origin.MIDDLE), on_wire=10, acked=10)
        self.assertIsNone(self.protected())
        status = self.core.status(CONNECTION, 0, Need.ON_WIRE, self.now)
        self.assertTrue(not status.is_protected and status.is_final)

    def test_a_filter_is_in_the_subscription_and_a_dump_never_names_one_flow_alone(self) -> None:
        self.core = Core(KEY, self.now, Wish(filter=Filter.exactly(CONNECTION)))
        asked = self.subscribe()
        keys = [it.bytes(1) for command, _, _, it in asked if command is Command.GET_FLOWS]
        whole = CONNECTION.emit()[4:]
        self.assertEqual(len(keys), 1)
        self.assertNotEqual(keys, [whole], "such a page says nothing about violations")
        sent = [it for it in self.publisher.requests if it[0] is Command.SUBSCRIBE]
        self.assertEqual([it[3].bytes(1) for it in sent], [whole] * 2)
        with self.assertRaises(ValueError):
            self.core.watch(FlowKey.tcp(("10.1.0.1", 40_001), ("10.2.0.1", 5432)), self.now)


class Restarts(Scene):
    def test_what_was_protected_stays_so(self) -> None:
        self.connect(on_wire=30, acked=10)
        self.restart()
        self.assertEqual(self.protected(), 30)

    def test_instances_of_another_run_mean_nothing_until_the_flow_is_asked_for(self) -> None:
        self.connect(on_wire=30)
        self.restart()
        self.hear(self.tell(on_wire=70, acked=70))
        self.assertEqual(self.protected(), 30)
        self.pin(replace(START, instance=1, on_wire=40), self.after_restart)
        self.assertEqual(self.protected(), 40)

    def test_a_flow_known_before_has_a_place_in_its_middle(self) -> None:
        self.connect(on_wire=30, acked=10)
        self.restart()
        middle = replace(START, instance=1, origin=Origin.MIDDLE)
        self.pin(replace(middle, origin_seq=1025, on_wire=5), self.after_restart)
        self.assertEqual(self.protected(), 30, "bytes 25 to 30 are no news")
        self.hear(self.tell(middle, origin_seq=1025, on_wire=8))
        self.assertEqual(self.protected(), 33, "what is before them was claimed earlier")

    def test_a_hole_before_the_first_byte_seen_is_closed_by_what_the_mirror_has(self) -> None:
        self.connect(on_wire=30, acked=10)
        self.restart()
        middle = replace(START, instance=1, origin=Origin.MIDDLE, origin_seq=1050)
        self.pin(replace(middle, on_wire=8), self.after_restart)
        self.assertEqual(self.protected(), 30, "nobody knows of bytes 30 to 50")
        self.hear(self.tell(middle, on_wire=9, acked=0))
        self.assertEqual(self.protected(), 59)
        self.assertEqual(self.protected(Need.ACKED), 50)

    def test_sequence_numbers_go_round(self) -> None:
        self.connect(replace(START, origin_seq=0xFFFFFFF0), on_wire=30, acked=30)
        self.restart()
        middle = replace(START, instance=1, origin=Origin.MIDDLE, origin_seq=0x10)
        self.pin(replace(middle, on_wire=8, acked=0), self.after_restart)
        self.assertEqual(self.protected(), 40)

    def test_another_connection_with_the_same_addresses_is_told_by_its_first_number(self) -> None:
        self.connect(on_wire=30)
        self.restart()
        self.pin(replace(START, instance=1, origin_seq=7777, on_wire=90, acked=90), self.after_restart)
        self.assertEqual(self.protected(), 30)
        self.assertTrue(self.core.status(CONNECTION, 31, Need.ON_WIRE, self.now).is_final)

    def test_a_loss_of_the_earlier_run_is_repaired_when_the_mirror_has_all_that_was_claimed(self) -> None:
        self.connect(on_wire=30, acked=10)
        self.hear(self.publisher.violate(Range(CONNECTION, 5, 20, 25)))
        self.assertEqual(self.protected(), 20)
        self.restart()
        self.assertEqual(self.protected(), 10)
        self.pin(replace(START, instance=1, on_wire=40, acked=29), self.after_restart)
        self.assertEqual(self.protected(), 29)
        self.hear(self.tell(instance=1, on_wire=40, acked=30))
        self.assertEqual(self.protected(), 40)

    def test_a_violation_that_was_not_seen_before_the_restart_counts_as_a_loss(self) -> None:
        self.connect(on_wire=30, acked=10)
        self.publisher.violations = 1
        self.hear(self.publisher.heartbeat(2))
        self.assertEqual(self.protected(), 10)
        self.restart()
        self.assertEqual(self.protected(), 10)

    def test_a_barrier_that_the_earlier_run_did_not_answer_has_failed(self) -> None:
        self.connect()
        number = self.core.request(requests.barrier, self.now)
        self.ask()
        self.restart()
        self.assertEqual(self.core.outcome(number), Restarted())
        self.assertIsNone(self.core.outcome(number))


class Losses(Scene):
    def test_above_a_lost_range_only_what_the_mirror_has_counts_until_it_has_the_range(self) -> None:
        self.connect(on_wire=100, acked=10)
        self.hear(self.publisher.violate(Range(CONNECTION, 5, 40, 60)))
        self.assertEqual(self.protected(), 40)
        self.hear(self.tell(on_wire=200, acked=59))
        self.assertEqual(self.protected(), 59)
        self.hear(self.tell(acked=60))
        self.assertEqual(self.protected(), 200)

    def test_a_range_of_another_instance_hits_nothing(self) -> None:
        self.connect(on_wire=100, acked=10)
        self.hear(self.publisher.violate(Range(CONNECTION, 4, 0, 60)))
        self.assertEqual(self.protected(), 100)

    def test_a_range_that_came_before_the_flow_was_identified_counts(self) -> None:
        self.core.watch(CONNECTION, self.now)
        asked = self.subscribe()
        self.end_dump(asked)
        self.hear(self.publisher.violate(Range(CONNECTION, 5, 40, 60)))
        self.pin(replace(START, on_wire=100), asked)
        self.assertEqual(self.protected(), 40)

    def test_a_violated_that_came_before_the_flow_was_identified_counts(self) -> None:
        self.core.watch(CONNECTION, self.now)
        asked = self.subscribe()
        self.end_dump(asked)
        self.hear(self.tell(on_wire=100, acked=10, violated=40))
        self.pin(replace(START, on_wire=100, acked=10), asked)
        self.assertEqual(self.protected(), 40)
        self.hear(self.tell(on_wire=100, acked=41))
        self.assertEqual(self.protected(), 100)

    def test_a_grant_counts_violations_too(self) -> None:
        self.connect(on_wire=100, acked=10)
        renewal = [it[1] for it in self.run_for(0.26) if it[1][0] is Command.SUBSCRIBE][0]
        self.assertEqual(self.protected(), 100)
        self.publisher.violations = 1
        self.hear(self.publisher.grant(renewal[1]))
        self.assertEqual(self.protected(), 10)

    def test_violated_is_repaired_by_a_later_message_without_it(self) -> None:
        self.connect(on_wire=100, acked=10)
        old = self.tell(on_wire=100, acked=10, violated=30)
        self.hear(self.tell(on_wire=100, acked=20, violated=30))
        self.assertEqual(self.protected(), 30)
        for acked in (20, 30):
            self.hear(self.tell(on_wire=100, acked=acked))
            self.assertEqual(self.protected(), 30, acked)
        self.hear(self.tell(on_wire=100, acked=31))
        self.assertEqual(self.protected(), 100)
        self.hear(old)
        self.assertEqual(self.protected(), 100, "what comes with a lower acknowledgement is old")

    def test_while_a_violation_is_counted_that_was_not_seen_only_acknowledged_bytes_count(self) -> None:
        self.connect(on_wire=100, acked=10)
        lost = self.publisher.violate(Range(CONNECTION, 5, 40, 60))
        self.hear(self.publisher.heartbeat(2))
        self.assertEqual(self.protected(), 10)
        (seq, since), = dumps([it for _, it in self.run_for(0.015)])
        self.assertEqual(since, 1)
        self.hear(lost)
        self.assertEqual(self.protected(), 40)
        self.hear(self.publisher.page(seq, replace(START, on_wire=100, acked=60), version=2))
        self.assertEqual(self.protected(), 100)

    def test_a_complete_dump_ends_the_doubt_and_an_incomplete_one_does_not(self) -> None:
        self.connect(on_wire=100, acked=10)
        self.publisher.violations = 1
        self.hear(self.publisher.heartbeat(2))
        (seq, _), = dumps([it for _, it in self.run_for(0.015)])
        self.hear(self.publisher.send(self.publisher.done(seq, 1, since=1, version=2, head=2)))
        self.assertEqual(self.protected(), 10, "a message of the page is missing")
        (seq, _), = dumps([it for _, it in self.run_for(0.006)])
        self.hear(self.publisher.send(self.publisher.done(seq, 0, since=1, version=2, head=3)))
        self.assertEqual(self.protected(), 10, "there is another page")
        (seq, since), = dumps(self.ask())
        self.assertEqual(since, 2)
        self.hear(self.publisher.send(self.publisher.done(seq, 0, since=2, version=3, head=3)))
        self.assertEqual(self.protected(), 100)

    def test_violations_before_the_subscription_need_a_dump_too(self) -> None:
        self.publisher.violations = 3
        self.core.watch(CONNECTION, self.now)
        asked = self.subscribe()
        self.pin(replace(START, on_wire=100, acked=10), asked)
        self.assertEqual(self.protected(), 10)
        self.end_dump(asked)
        self.assertEqual(self.protected(), 100)


class Dumps(Scene):
    def test_a_gap_in_the_numbers_is_filled_by_a_dump_and_the_end_of_it_says_how_far(self) -> None:
        self.connect()
        self.publisher.number += 1
        self.hear(self.tell(on_wire=10))
        (seq, _), = dumps([it for _, it in self.run_for(0.012)])
        self.publisher.number += 1
        before = self.publisher.number - 1
        self.hear(self.publisher.send(self.publisher.done(seq, 0, version=4, head=4, notified=before)))
        self.assertEqual(dumps([it for _, it in self.run_for(0.05)]), [], "notification 3 was not missed yet")
        self.hear(self.publisher.heartbeat(4))
        self.assertEqual([since for _, since in dumps([it for _, it in self.run_for(0.012)])], [4], "but now it is")

    def test_a_heartbeat_after_all_notifications_moves_the_start_of_the_next_dump(self) -> None:
        self.connect()
        self.hear(self.tell(on_wire=10), self.publisher.heartbeat(8))
        self.publisher.number += 1
        self.hear(self.publisher.heartbeat(9))
        self.assertEqual([since for _, since in dumps([it for _, it in self.run_for(0.012)])], [8])

    def test_a_page_that_lost_a_part_is_asked_again_for_fewer(self) -> None:
        asked = self.subscribe()
        counts = [it.u32(m.COUNT) for command, _, _, it in asked if command is Command.GET_FLOWS]
        for _ in range(3):
            (seq, since), = dumps(asked)
            self.assertEqual(since, 0)
            self.hear(self.publisher.send(self.publisher.done(seq, counts[-1], version=48, head=60)))
            asked = [it for _, it in self.run_for(0.006)]
            counts += [it.u32(m.COUNT) for command, _, _, it in asked if command is Command.GET_FLOWS]
        self.assertEqual(counts, [48, 24, 12, 6])

    def test_parts_of_a_page_may_overtake_each_other(self) -> None:
        asked = self.subscribe()
        (seq, _), = dumps(asked)
        part = self.publisher.send(generic(Command.FLOW, flow_body(START), seq, self.publisher.port, MULTI))
        self.hear(self.publisher.send(self.publisher.done(seq, 1, version=2, head=2)), part)
        self.assertEqual(dumps([it for _, it in self.run_for(0.2)]), [])

    def test_a_dump_goes_on_with_the_head_of_its_first_page_also_when_it_begins_anew(self) -> None:
        asked = self.subscribe()
        heads: List[Tuple[int, Optional[int]]] = []
        for since, version, head in ((0, 48, 100), (48, 96, 100), (0, 50, 130), (50, 130, 130)):
            (seq, _), = dumps(asked)
            fields = [it for command, number, _, it in asked if number == seq][0]
            heads.append((fields.u64(m.SINCE), fields.u64(m.HEAD) if m.HEAD in fields else None))
            self.hear(self.publisher.send(self.publisher.done(seq, 0, since=since, version=version, head=head)))
            asked = self.ask()
        self.assertEqual(heads, [(0, None), (48, 100), (96, 100), (50, 130)])
        self.assertEqual(dumps(asked), [])

    def test_a_page_that_begins_later_than_asked_is_no_answer(self) -> None:
        self.connect(on_wire=100, acked=10)
        self.publisher.violations = 1
        self.hear(self.publisher.heartbeat(2))
        (seq, since), = dumps([it for _, it in self.run_for(0.012)])
        self.hear(self.publisher.send(self.publisher.done(seq, 0, since=since + 1, version=9, head=9)))
        self.assertEqual(self.protected(), 10)

    def test_a_dump_of_changes_names_no_head(self) -> None:
        self.connect()
        self.publisher.number += 1
        self.hear(self.publisher.heartbeat(3))
        (seq, since), = dumps([it for _, it in self.run_for(0.012)])
        self.hear(self.publisher.send(self.publisher.done(seq, 0, since=since, version=2, head=3)))
        fields = [it for command, _, _, it in self.ask() if command is Command.GET_FLOWS]
        self.assertEqual([(it.u64(m.SINCE), m.HEAD in it) for it in fields], [(2, False)])


class Requests(Scene):
    def test_a_request_is_sent_until_it_is_answered_with_the_same_number(self) -> None:
        self.connect()
        number = self.core.request(requests.flush, self.now)
        sent = [it for _, it in self.run_for(0.2) if it[0] is Command.FLUSH]
        self.assertEqual({it[1] for it in sent}, {number})
        self.assertGreater(len(sent), 2)
        copy = m.NLMSGHDR.pack(16, m.FAMILY, 1, number, self.publisher.port)
        answer = m.NLMSGHDR.pack(36, m.NLMSG_ERROR, 0x100, number, self.publisher.port) + bytes(4) + copy
        self.hear(self.publisher.send(answer))
        self.assertEqual(self.core.outcome(number), m.Acknowledged())
        self.assertEqual([it for _, it in self.run_for(0.2) if it[0] is Command.FLUSH], [])

    def test_a_barrier_without_a_level_has_failed(self) -> None:
        self.connect()
        number = self.core.request(requests.barrier, self.now)
        self.ask()
        self.hear(self.publisher.send(generic(Command.BARRIER, b"", number, self.publisher.port)))
        self.assertEqual(self.core.outcome(number), m.Barrier(None))

    def test_nothing_is_asked_without_a_subscription_but_one(self) -> None:
        self.core.watch(CONNECTION, self.now)
        self.core.request(requests.barrier, self.now)
        asked = self.run_for(3)
        self.assertEqual({it[0] for _, it in asked}, {Command.SUBSCRIBE})
        self.assertLess(len(asked), 16 * 3, "a publisher grants so many a second")


class Following(Scene):
    def test_a_client_that_follows_gets_each_message_and_the_loss_of_contact(self) -> None:
        self.core = Core(KEY, self.now, is_following=True)
        asked = self.subscribe()
        self.end_dump(asked)
        lost = Range(CONNECTION, 5, 0, 1)
        self.hear(self.tell(on_wire=10), self.publisher.violate(lost), self.publisher.heartbeat(1))
        self.run_for(1.1)
        kinds = []
        message = self.core.poll_message()
        while message is not None:
            kinds.append(type(message).__name__)
            message = self.core.poll_message()
        self.assertEqual(kinds, ["Contact", "Flow", "Violation", "Heartbeat", "Contact"])

    def test_the_state_of_a_link_is_the_newest(self) -> None:
        self.subscribe()
        up = m.Peer(1, m.LinkState.UP, m.StateReason.NONE)
        down = replace(up, state=m.LinkState.DOWN, reason=m.StateReason.NO_REPORTS)
        first, second = self.publisher.heartbeat(1, [up]), self.publisher.heartbeat(1, [down])
        self.hear(second, first)
        self.assertEqual(self.core.peers(), [down])


class Numbers(unittest.TestCase):
    def test_numbers_of_notifications_go_round(self) -> None:
        from onwire_notify.sequence import Sequence

        sequence = Sequence()
        for number in (2**31 - 1, 2**32 - 2):
            sequence.fill(number)
        for number in (2**32 - 1, 0, 1):
            sequence.on_number(number)
        self.assertFalse(sequence.has_gap)
        sequence.on_number(3)
        self.assertTrue(sequence.has_gap)
        sequence.on_number(2)
        self.assertFalse(sequence.has_gap)



if __name__ == "__main__":
    unittest.main()
