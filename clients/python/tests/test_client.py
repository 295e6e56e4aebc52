"""The clients with a socket, the asyncio one too, and the command, against a publisher on loopback."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import socket
import tempfile
import time
import unittest
from dataclasses import replace
from pathlib import Path
from typing import List, Tuple
from unittest import mock

from onwire_notify import Client, FlowKey, Key, KeyFileError, Need, NotAnsweredError, Range, read_key, tcp_info
from onwire_notify.__main__ import main
from onwire_notify.aio import AsyncClient
from onwire_notify.endpoint import split_host
from onwire_notify.messages import Event, Flow, Level, Origin
from onwire_notify.tcp_info import Written, bytes_written, socket_cookie

from .live import LivePublisher
from .publisher import KEY

SOON = 10.0


def connection() -> Tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    return near, far


def flow_of(near: socket.socket) -> Flow:
    """What the appliance knows at first of a connection."""
    return Flow(FlowKey.of_socket(near), 1, Event.NEW, Level.ON_WIRE, Origin.START, 1, origin_seq=1)


class Waiting(unittest.TestCase):
    def setUp(self) -> None:
        self.near, self.far = connection()
        self.addCleanup(self.near.close)
        self.addCleanup(self.far.close)
        self.flow = flow_of(self.near)

    def test_a_write_is_protected_when_the_appliance_says_so_and_not_before(self) -> None:
        with LivePublisher(self.flow) as appliance, Client(appliance.address, KEY) as client:
            self.near.sendall(b"hello")
            self.assertEqual(bytes_written(self.near), 5)
            self.assertTrue(client.wait_contact(SOON))
            waited = client.wait_sent(self.near, 0.3)
            self.assertFalse(waited)
            self.assertTrue(waited.has_contact)
            self.assertIn("0 of 5 bytes", waited.reason)
            appliance.on_flush = lambda: appliance.publish(replace(self.flow, on_wire=5))
            client.flush(SOON)
            waited = client.wait_sent(self.near, SOON)
            self.assertTrue(waited, waited.reason)
            self.assertEqual(waited.level, Need.ON_WIRE)
            self.assertFalse(client.wait_sent(self.near, 0.02, Need.ACKED))
            self.assertEqual(client.protected(self.flow.key), 5)
            self.near.sendall(b" world")
            self.assertFalse(client.wait_sent(self.near, 0.02))
        self.assertTrue(appliance.was_left)

    def test_a_program_that_was_suspended_hears_of_the_loss_before_it_gets_an_answer(self) -> None:
        with LivePublisher(replace(self.flow, on_wire=5)) as appliance, Client(appliance.address, KEY) as client:
            client.watch(self.flow.key)
            self.assertTrue(client.wait(self.flow.key, 5, SOON))
            appliance.violate(Range(self.flow.key, 1, 0, 5))
            time.sleep(0.1)
            self.assertFalse(client.wait(self.flow.key, 5, 0))
            self.assertFalse(client.status(self.flow.key, 5).is_protected)

    def test_the_bytes_of_a_socket_are_counted_at_both_ends(self) -> None:
        for end, other in ((self.near, self.far), (self.far, self.near)):
            counter = Written()
            self.assertEqual(counter.count(end), 0)
            for total in (1, 3, 70_000):
                end.sendall(bytes(total - counter.count(end)))
                self.assertEqual((counter.count(end), bytes_written(end)), (total, total))
            while total:
                total -= len(other.recv(total))
            self.assertEqual((counter.count(end), bytes_written(end)), (70_000, 70_000))
        self.assertNotEqual(socket_cookie(self.near), socket_cookie(self.far))

    def test_bytes_written_while_the_connection_is_made_count(self) -> None:
        # TCP Fast Open sends them with the SYN, and the kernel says meanwhile that nothing is queued.
        for before, after in ((2, 2), (3, 3), (3, 1), (2, 1)):
            infos = [tcp_info._Info(state in tcp_info._BEGINNING, 0, 500) for state in (before, after)]
            asked = mock.patch.object(tcp_info, "_info", side_effect=infos)
            with asked, mock.patch.object(tcp_info, "_queued", return_value=0):
                self.assertEqual(Written().count(self.near), 500)

    def test_claims_of_more_than_was_written_are_about_another_connection(self) -> None:
        self.near.sendall(b"hello")
        with LivePublisher(replace(self.flow, on_wire=1000)) as appliance, Client(appliance.address, KEY) as client:
            waited = client.wait_sent(self.near, SOON)
            self.assertFalse(waited)
            self.assertIn("another connection", waited.reason)

    def test_no_appliance_and_a_wrong_key_mean_not_protected(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused, LivePublisher(self.flow) as appliance:
            unused.bind(("127.0.0.1", 0))
            wrong = Key(1, b"x" * 32)
            for address, key in ((unused.getsockname(), KEY), (("127.0.0.1", 9), KEY), (appliance.address, wrong)):
                with Client(address, key) as client:
                    waited = client.wait_sent(self.near, 0.2)
                    self.assertEqual((waited.is_protected, waited.has_contact), (False, False))
                    self.assertFalse(client.barrier(0.05))
                    with self.assertRaises(NotAnsweredError):
                        client.flush(0.05)

    def test_a_barrier_is_as_good_as_its_level(self) -> None:
        with LivePublisher() as appliance, Client(appliance.address, KEY) as client:
            self.assertTrue(client.barrier(SOON))
            appliance.barrier_level = Level.QUEUED
            waited = client.barrier(1.0)
            self.assertEqual((waited.is_protected, waited.level), (False, Need.QUEUED))
            appliance.barrier_level = None
            self.assertIn("failed", client.barrier(SOON).reason)

    def test_an_event_loop_waits_for_several_at_once(self) -> None:
        other_near, other_far = connection()
        other = flow_of(other_near)

        async def program(address: Tuple[str, int]) -> List[bool]:
            async with AsyncClient(address, KEY) as client:
                self.assertTrue(await client.wait_contact(SOON))
                for near in (self.near, other_near):
                    near.sendall(b"hello")
                waits = [asyncio.ensure_future(client.wait_sent(near, SOON)) for near in (self.near, other_near)]
                short = await client.wait_sent(other_near, 0.05)
                await client.flush(SOON)
                results = [bool(it) for it in await asyncio.gather(*waits)]
                self.assertTrue(await client.barrier(SOON))
                # More than a lease goes by without a call.
                await asyncio.sleep(1.2)
                self.assertTrue(client.has_contact())
                return [bool(short), *results]

        with other_near, other_far, LivePublisher(self.flow, other, lease_ms=1000) as appliance:

            def protect() -> None:
                appliance.publish(replace(self.flow, on_wire=5))
                appliance.publish(replace(other, acked=5))

            appliance.on_flush = protect
            self.assertEqual(asyncio.run(program(appliance.address)), [False, True, True])

    def test_a_wait_ends_when_its_client_is_closed(self) -> None:
        async def program(address: Tuple[str, int]) -> None:
            async with AsyncClient(address, KEY) as client:
                client.watch(self.flow.key)
                waiting = asyncio.ensure_future(client.wait(self.flow.key, 1, SOON))
                await asyncio.sleep(0.05)
            with self.assertRaisesRegex(RuntimeError, "closed"):
                await asyncio.wait_for(waiting, 1)

        with LivePublisher(self.flow) as appliance:
            asyncio.run(program(appliance.address))

    def test_an_event_loop_that_waits_does_not_spin(self) -> None:
        async def program(address: Tuple[str, int]) -> float:
            async with AsyncClient(address, KEY) as client:
                await client.wait_contact(SOON)
                before = time.process_time()
                await asyncio.gather(*(client.wait(self.flow.key, 1, 0.5) for _ in range(2)))
                client.watch(self.flow.key)
                await asyncio.gather(*(client.wait(self.flow.key, 1, 0.5) for _ in range(4)))
                return time.process_time() - before

        with LivePublisher(self.flow) as appliance:
            self.assertLess(asyncio.run(program(appliance.address)), 0.3)


class Command(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.key = Path(directory.name) / "notify.key"
        self.write(base64.b64encode(KEY.secret) + b"\n")

    def write(self, content: bytes, mode: int = 0o600) -> None:
        self.key.write_bytes(content)
        self.key.chmod(mode)

    def run_command(self, *words: str) -> "tuple[int, str, str]":
        """Exit code, output and error output."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main([words[0], "--key", str(self.key), *words[1:]])
            except SystemExit as end:
                code = int(end.code or 0)
        return code, out.getvalue(), err.getvalue()

    def test_wait_waits_for_a_connection_or_for_all_and_its_exit_code_says_what_was(self) -> None:
        near, far = connection()
        with near, far, LivePublisher(replace(flow_of(near), on_wire=5)) as appliance:
            at = ["--notify", f"127.0.0.1:{appliance.address[1]}"]
            (source, destination) = ("%s:%s" % end for end in (near.getsockname(), near.getpeername()))
            ends = ["--source", source, "--destination", destination]
            self.assertEqual(self.run_command("wait", *at, *ends, "--bytes", "5")[:2], (0, "protected: on_wire\n"))
            code, _, said = self.run_command("wait", *at, *ends, "--bytes", "6", "--timeout", "3")
            self.assertEqual((code, said), (1, "not protected: 5 of 6 bytes\n"))
            code, said, _ = self.run_command("wait", *at, "--json")
            self.assertEqual((code, json.loads(said)["protected"]), (0, True))
            code, _, said = self.run_command("wait", *at, *ends)
            self.assertEqual(code, 2)
            code, _, said = self.run_command("wait", "--notify", "127.0.0.1:9", "--timeout", "0.2")
            self.assertEqual(code, 3, said)

    def test_watch_shows_each_change_once(self) -> None:
        near, far = connection()
        with near, far, LivePublisher() as appliance:
            flow = replace(flow_of(near), on_wire=5)

            async def publish() -> "tuple[int, str, str]":
                at = ["--notify", f"127.0.0.1:{appliance.address[1]}", "--for", "2"]
                watching = asyncio.get_running_loop().run_in_executor(None, self.run_command, "watch", "--json", *at)
                for _ in range(20):
                    await asyncio.sleep(0.03)
                    appliance.publish(flow)
                return await watching

            code, out, _ = asyncio.run(publish())
            lines = [json.loads(line) for line in out.splitlines()]
            self.assertEqual((code, [it["type"] for it in lines]), (0, ["contact", "flow"]))
            self.assertEqual((lines[1]["on_wire"], lines[1]["key"]["destination_port"]), (5, near.getpeername()[1]))
        code, _, said = self.run_command("watch", "--notify", "127.0.0.1:9", "--for", "0.1")
        self.assertEqual(code, 3, said)

    def test_a_key_file_that_cannot_be_used_is_refused_with_the_remedy(self) -> None:
        self.assertEqual(read_key(self.key).secret, KEY.secret)
        for content, mode, expected in (
            (base64.b64encode(KEY.secret), 0o640, "chmod 600"),
            (b"not base64!", 0o600, "no key"),
            (base64.b64encode(b"short"), 0o600, "16 to 64 bytes"),
        ):
            self.write(content, mode)
            with self.assertRaisesRegex(KeyFileError, expected):
                read_key(self.key)
            code, _, said = self.run_command("wait")
            self.assertEqual(code, 2, said)
        self.key.unlink()
        with self.assertRaisesRegex(KeyFileError, "keygen"):
            read_key(self.key)
        os.mkfifo(self.key, 0o600)
        with self.assertRaisesRegex(KeyFileError, "regular"):
            read_key(self.key)

    def test_addresses_are_read_as_the_other_commands_read_them(self) -> None:
        expected = {
            "mirror": ("mirror", 7118),
            "mirror:1": ("mirror", 1),
            "fd00::1": ("fd00::1", 7118),
            "[fd00::1]": ("fd00::1", 7118),
            "[fd00::1]:9": ("fd00::1", 9),
        }
        self.assertEqual({text: split_host(text) for text in expected}, expected)
        for text in ("", ":1", "mirror:0", "mirror:65536", "mirror:x", "[fd00::1", "[fd00::1]9", "mirror:²"):
            with self.assertRaises(ValueError, msg=text):
                split_host(text)


if __name__ == "__main__":
    unittest.main()
