"""The datagrams of `docs/protocol/vectors.txt`, and what becomes of them when somebody changes them."""

from __future__ import annotations

import ipaddress
import random
import re
import unittest
from dataclasses import replace
from pathlib import Path
from typing import Dict, List

from onwire_notify import messages as m
from onwire_notify import requests
from onwire_notify.envelope import FROM_PUBLISHER, LENGTH, MOST_BYTES, Envelope, Key, Opener, seal
from onwire_notify.flow_key import UDP, Filter, FlowKey
from onwire_notify.messages import Header, Level, LinkState, Message, StateReason
from onwire_notify.requests import Wish

from .publisher import KEY, TOKEN

FILE = Path(__file__).resolve().parents[3] / "docs" / "protocol" / "vectors.txt"
PUBLISHER = 0x1111_2222_3333_4444
CLIENT = 0x5555_6666_7777_8888
PORT = 0xC0DE

FLOW_KEY = FlowKey.tcp(("10.1.0.1", 43210), ("10.2.0.10", 5432))
FLOW = m.Flow(
    key=FLOW_KEY,
    instance=7,
    event=m.Event.PROTECTED,
    level=Level.ON_WIRE,
    origin=m.Origin.START,
    peer_id=1,
    origin_seq=0xFFFFFFF0,
    queued=70_000,
    on_wire=65_536,
    decoded=40_000,
    acked=32_768,
    cookie=0xFEED,
    block=(32, 4),
)
GONE = m.Flow(
    key=FlowKey(UDP, ipaddress.ip_address("fd00::1"), ipaddress.ip_address("fd00:2::1"), 1000, 53),
    instance=8,
    event=m.Event.GONE,
    level=Level.ON_WIRE,
    origin=m.Origin.MIDDLE,
    peer_id=1,
    gone_reason=m.GoneReason.IDLE,
    on_wire=512,
    violated=256,
    packets=4,
)
LATE = replace(FLOW, early=69_000, survives_burst_us=2000, block=(4, 6))
RANGE = m.Range(FLOW_KEY, 7, 1000, 2448)
DEGRADED = m.Peer(1, LinkState.DEGRADED, StateReason.NO_REPORTS, "syracuse")

REQUESTS: Dict[str, bytes] = {
    "subscribe, without a token": requests.subscribe(1, PORT, Wish()),
    "subscribe, with the token": requests.subscribe(1, PORT, Wish(), TOKEN),
    "get flows: a page": requests.get_flows(2, PORT, 0, 48),
    "get flows: one flow": requests.get_flows(3, PORT, 0, 1, Filter.exactly(FLOW_KEY)),
    "register": requests.register(4, PORT, FLOW_KEY, 0xFEED),
    "flush": requests.flush(5, PORT),
    "barrier": requests.barrier(6, PORT),
    "unsubscribe": requests.unsubscribe(7, PORT),
}


def answer(seq: int, flags: int = 0) -> Header:
    return Header(flags, seq, PORT)


def notification(seq: int) -> Header:
    return Header(0, seq, 0)


MESSAGES: Dict[str, "tuple[Header, Message]"] = {
    "challenge": (answer(1), m.Challenge(TOKEN)),
    "subscribed": (answer(1), m.Subscribed(1000, 100, 0)),
    "flow, of a page": (answer(2, 2), FLOW),
    "done": (answer(2, 2), m.Done(1, 0, 2, 2, 0, 0)),
    "flow, notification": (notification(1), FLOW),
    "flow, gone, UDP over IPv6": (notification(2), GONE),
    "state": (notification(3), DEGRADED),
    "violation": (notification(4), m.Violation(1, 1, (RANGE,))),
    "block": (notification(5), m.Block(1, 0, 1, 91, 32, 4, Level.ON_WIRE, (RANGE,))),
    "heartbeat": (notification(5), m.Heartbeat(9, 1, (replace(DEGRADED, name=None),))),
    "barrier, reached": (answer(6), m.Barrier(Level.ON_WIRE)),
    "acknowledgement": (answer(5, 0x100), m.Acknowledged()),
    "refusal": (answer(8, 0x300), m.Refused(22, "attribute 99 at byte 0 is unknown", 20)),
    "flow, late repair has not left": (notification(6), LATE),
    "flow, late repair has left": (notification(7), replace(LATE, early=None, on_wire=69_000)),
    "state, a target that cannot be reached": (
        notification(8),
        replace(DEGRADED, reason=StateReason.TARGET_NOT_REACHABLE),
    ),
    "state, a model that does not hold": (notification(9), replace(DEGRADED, reason=StateReason.MODEL_VIOLATED)),
    "state, packets take another route": (notification(10), replace(DEGRADED, reason=StateReason.BYPASS)),
}


def vectors() -> Dict[str, bytes]:
    """The datagrams by their names."""
    found: Dict[str, bytes] = {}
    name = ""
    for line in FILE.read_text().splitlines():
        heading = re.fullmatch(r"\[(.*)\]", line)
        if heading:
            name = heading.group(1)
            found[name] = b""
        elif name and line:
            found[name] += bytes.fromhex(line)
    return found


def notifications() -> List[bytes]:
    """The datagrams of the publisher."""
    return [datagram for datagram in vectors().values() if datagram[5] == FROM_PUBLISHER]


class Vectors(unittest.TestCase):
    def test_every_vector_is_known_here(self) -> None:
        self.assertEqual(set(vectors()), set(REQUESTS) | set(MESSAGES))

    def test_requests_equal_the_vectors(self) -> None:
        found = vectors()
        for counter, (name, messages) in enumerate(REQUESTS.items(), 1):
            receiver = 0 if counter == 1 else PUBLISHER
            with self.subTest(name):
                self.assertEqual(seal(KEY, Envelope(CLIENT, receiver, counter), messages).hex(), found[name].hex())

    def test_messages_are_read_from_the_vectors(self) -> None:
        opener = Opener(KEY, CLIENT)
        found = vectors()
        for counter, (name, expected) in enumerate(MESSAGES.items(), 1):
            with self.subTest(name):
                self.assertEqual(opener.open(found[name]), Envelope(PUBLISHER, CLIENT, counter))
                self.assertEqual(list(m.parse_all(found[name][LENGTH:])), [expected])


class Forgeries(unittest.TestCase):
    def test_a_datagram_opens_once_only_for_its_receiver_and_only_with_its_key(self) -> None:
        for datagram in notifications():
            for key, epoch in ((Key(2, KEY.secret), CLIENT), (Key(1, b"x" * 32), CLIENT), (KEY, CLIENT + 1)):
                self.assertIsNone(Opener(key, epoch).open(datagram))
            opener = Opener(KEY, CLIENT)
            self.assertIsNotNone(opener.open(datagram))
            self.assertIsNone(opener.open(datagram))
            self.assertEqual(opener.dropped, 1)

    def test_a_request_is_no_notification(self) -> None:
        for name, datagram in vectors().items():
            if name in REQUESTS:
                self.assertIsNone(Opener(KEY, 0).open(datagram), name)
                self.assertIsNone(Opener(KEY, PUBLISHER).open(datagram), name)

    def test_no_changed_bit_and_no_other_length_passes(self) -> None:
        opener = Opener(KEY, CLIENT)
        for datagram in notifications():
            for bit in range(8 * len(datagram)):
                forged = bytearray(datagram)
                forged[bit // 8] ^= 1 << bit % 8
                self.assertIsNone(opener.open(bytes(forged)), f"bit {bit}")
            for length in range(len(datagram)):
                self.assertIsNone(opener.open(datagram[:length]), f"{length} bytes")
            self.assertIsNone(opener.open(datagram + bytes(4)))
            self.assertIsNotNone(opener.open(datagram), "what was refused took nothing from the genuine one")

    def test_messages_of_one_datagram_in_the_envelope_of_another_do_not_pass(self) -> None:
        all_of_them = notifications()
        opener = Opener(KEY, CLIENT)
        for one in all_of_them:
            for other in all_of_them:
                if one is not other:
                    self.assertIsNone(opener.open(one[:LENGTH] + other[LENGTH:] + bytes(4)))

    def test_counters_may_come_in_any_order_within_the_window_and_each_once(self) -> None:
        opener = Opener(KEY, CLIENT)

        def opens(counter: int) -> bool:
            datagram = seal(KEY, Envelope(PUBLISHER, CLIENT, counter), b"", FROM_PUBLISHER)
            return opener.open(datagram) is not None

        steps = ((5, True), (3, True), (5, False), (3, False), (0, True), (1028, True), (4, False), (6, True))
        for counter, expected in (*steps, (1 << 63, True), (1028, False), ((1 << 63) - 1023, True)):
            self.assertEqual(opens(counter), expected, counter)

    def test_a_datagram_longer_than_the_protocol_allows_is_dropped(self) -> None:
        datagram = seal(KEY, Envelope(PUBLISHER, CLIENT, 1), bytes(MOST_BYTES - LENGTH + 1), FROM_PUBLISHER)
        self.assertIsNone(Opener(KEY, CLIENT).open(datagram))


class Reading(unittest.TestCase):
    def test_whatever_the_holder_of_a_key_sends_nothing_is_raised(self) -> None:
        draw = random.Random(7)
        bodies = [datagram[LENGTH:] for datagram in notifications()]
        read = 0
        for _ in range(20_000):
            body = bytearray(draw.choice(bodies) + draw.choice(bodies))
            for _ in range(draw.randrange(1, 4)):
                body[draw.randrange(len(body))] = draw.choice((0, 1, 3, 4, 5, 0xFF, draw.randrange(256)))
            read += sum(1 for _ in m.parse_all(bytes(body[: draw.randrange(len(body) + 1)])))
        self.assertGreater(read, 1000)

    def test_a_message_that_cannot_be_read_does_not_hide_the_next(self) -> None:
        flow, beat = (vectors()[name][LENGTH:] for name in ("flow, notification", "heartbeat"))
        self.assertEqual(flow.count(b"\x05\x00\x04\x00\x02"), 1)
        unknown_level = flow.replace(b"\x05\x00\x04\x00\x02", b"\x05\x00\x04\x00\x05")
        self.assertEqual([type(it) for _, it in m.parse_all(unknown_level + beat)], [m.Heartbeat])
        self.assertEqual([type(it) for _, it in m.parse_all(flow + beat)], [m.Flow, m.Heartbeat])
        impossible = bytearray(flow)
        impossible[0:4] = (len(flow + beat) + 1).to_bytes(4, "little")
        self.assertEqual(list(m.parse_all(bytes(impossible) + beat)), [])


if __name__ == "__main__":
    unittest.main()
