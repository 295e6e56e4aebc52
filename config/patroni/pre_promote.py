#!/usr/bin/env python3
"""Drains the mirror's appliance before Patroni promotes the mirror. See docs/high-availability.md.

    postgresql:
      pre_promote: /etc/onwire/pre_promote.py --peer ithaca

Patroni runs it as the user of PostgreSQL, when this member has the leader lock and before it is promoted. With exit
code 0 Patroni promotes; with any other it does not, and gives the leader lock back. Three things must hold within
--timeout:

  1. `onwire drain` says `complete` or `unfinished`: all that was acknowledged has reached this host.
  2. The sockets of the walreceiver hold nothing unread: a promotion throws that away.
  3. `pg_last_wal_receive_lsn()` rests.

Exit codes: 0 promote; 1 do not: something is missing, or not in time; 2 the command line, the configuration or a
program is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from typing import Dict, List, NoReturn, Optional, Tuple

PROMOTE, REFUSE, USAGE = 0, 1, 2
_LOOK_EVERY = 0.3
_RESTS = 3
# A program that does not end by its own timeout is ended this much later.
_GRACE = 2.0


class NotYet(Exception):
    """What was asked cannot be said in the time that is left."""


def main() -> int:
    """Returns the exit code."""
    options = _parser().parse_args()
    deadline = time.monotonic() + options.timeout
    must_have_ended = _drain(options, deadline)
    _wait_read(options, deadline, must_have_ended)
    return PROMOTE


def say(text: str) -> None:
    """A line for Patroni's log."""
    print(f"pre_promote: {text}", file=sys.stderr, flush=True)


def end(code: int, text: str) -> NoReturn:
    """Says why this member is not promoted."""
    say(text)
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="pre_promote.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", metavar="NAME", help="the appliance of the site that is lost; by default all")
    parser.add_argument("--config", metavar="FILE", help="the file of this host's appliance")
    parser.add_argument("--socket", metavar="PATH", help="its status socket, in place of --config")
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=_seconds, default=30.0, help="for all three together (%(default)s)"
    )
    parser.add_argument(
        "--gate-port",
        metavar="PORT",
        type=int,
        default=6432,
        help="the port of the gate, from which the mirror replicates (%(default)s)",
    )
    parser.add_argument(
        "--conninfo", metavar="STRING", default="dbname=postgres", help="the mirror itself, for psql (%(default)s)"
    )
    parser.add_argument(
        "--if-incomplete",
        choices=("refuse", "promote"),
        default="refuse",
        help="what to do where bytes are missing that may have been acknowledged, and the peer is dead (%(default)s)",
    )
    parser.add_argument(
        "--if-alive",
        choices=("refuse", "stream-ended"),
        default="refuse",
        help="`stream-ended`: while the peer's appliance lives, promote where the old primary has ended the stream of "
        "WAL by itself and no byte is missing: a switchover (%(default)s)",
    )
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is no such time; allowed are 1 to 3600 seconds")
    return value


def _drain(options: argparse.Namespace, deadline: float) -> bool:
    """Ends this program unless the drain allows a promotion. True: only if the stream has ended."""
    # What comes after it needs time too.
    limit = max(1.0, (deadline - time.monotonic()) * 0.8)
    words = ["onwire", "drain", "--json", "--timeout", f"{int(limit * 1000)}ms"]
    for name in ("peer", "config", "socket"):
        value = getattr(options, name)
        words += [f"--{name}", value] if value is not None else []
    try:
        code, out, err = _run(words, limit + _GRACE)
    except NotYet as error:
        end(REFUSE, str(error))
    if code == 2:
        end(USAGE, f"`{' '.join(words)}` cannot work: {err}")
    if code not in (0, 1):
        end(REFUSE, f"the appliance of this host does not answer, so nothing is known: {err}")
    try:
        answer = json.loads(out)
        verdict, peers = answer["verdict"], answer["peers"]
        alive = [peer["name"] for peer in peers if peer["alive"]]
        reasons = [f"{peer['name']}: {reason}" for peer in peers for reason in peer["reasons"]]
        missing = [flow for peer in peers for flow in (peer.get("arrived") or {}).get("flows", []) if flow["missing"]]
    except (ValueError, KeyError, TypeError) as error:
        end(REFUSE, f"the answer of `onwire drain` cannot be read ({error!r}): {out[:200]}")
    if not peers:
        end(REFUSE, "`onwire drain` speaks of no peer")
    for reason in reasons:
        say(reason)
    if code == 0 and verdict in ("complete", "unfinished"):
        say(f"drained: {verdict}")
        return False
    if verdict != "incomplete":
        end(REFUSE, f"`onwire drain` ended with {code} and said {verdict}")
    if alive:
        if options.if_alive == "stream-ended" and not missing:
            say(f"{', '.join(alive)} lives: promoting only if the stream of WAL has ended")
            return True
        end(REFUSE, f"not promoting: {', '.join(alive)} lives, so more may come. Fence the old site, its appliance too")
    if options.if_incomplete == "promote":
        say("bytes that may have been acknowledged are missing; promoting all the same, as --if-incomplete says")
        return False
    end(REFUSE, "not promoting: bytes that may have been acknowledged are missing")


def _wait_read(options: argparse.Namespace, deadline: float, must_have_ended: bool) -> None:
    """Waits until the mirror has read what its kernel has. Ends this program where it does not."""
    same, last, why = 0, "", "there was no time to look"
    while time.monotonic() < deadline:
        try:
            left = max(1.0, deadline - time.monotonic())
            streams, unread = _streams(options.gate_port, left)
            position = _received(options.conninfo, left)
        except NotYet as error:
            end(REFUSE, f"not promoting: {error}")
        if must_have_ended and streams:
            same, why = 0, f"the stream of WAL from port {options.gate_port} has not ended"
        elif unread:
            same, why = 0, f"the walreceiver has not read {unread} bytes"
        else:
            same = same + 1 if position == last else 1
            why = f"the mirror still receives, at {position or 'no position'}"
            if same == _RESTS:
                say(f"read to {position or 'no position'}: promote")
                return
        last = position
        time.sleep(_LOOK_EVERY)
    end(REFUSE, f"not promoting: {why} after {options.timeout:g} seconds")


def _streams(port: int, limit: float) -> Tuple[int, int]:
    """How many connections there are to the gate, and how many bytes in them are not read."""
    code, out, err = _run(["ss", "-Htn", f"dport = :{port}"], limit)
    if code != 0:
        end(USAGE, f"`ss` failed: {err}")
    queues: List[int] = []
    for line in out.splitlines():
        fields = line.split()
        if len(fields) < 5 or not fields[1].isdigit():
            end(USAGE, f"`ss` printed what was not expected: {line}")
        queues.append(int(fields[1]))
    return len(queues), sum(queues)


def _received(conninfo: str, limit: float) -> str:
    """Up to where the mirror has received WAL; empty where it never streamed."""
    words = ["psql", "-XAtw", "-d", conninfo, "-c", "SELECT pg_last_wal_receive_lsn()"]
    settings = {"PGCONNECT_TIMEOUT": "5", "PGOPTIONS": "-c statement_timeout=5s"}
    code, out, err = _run(words, limit, settings)
    if code != 0:
        end(REFUSE, f"not promoting: the mirror does not say what it has received: {err}")
    if not re.fullmatch(r"([0-9A-F]+/[0-9A-F]+)?", out):
        end(USAGE, f"`psql` printed what was not expected: {out}")
    return out


def _run(words: List[str], limit: float, settings: Optional[Dict[str, str]] = None) -> Tuple[int, str, str]:
    """Exit code, output and error output of a program that ends within `limit` seconds."""
    # What is not on the path of a service; where a user installs `onwire`.
    path = os.environ.get("PATH", os.defpath) + ":/usr/local/bin:/usr/sbin:/sbin"
    environment = {**os.environ, **(settings or {}), "PATH": path, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise NotYet(f"`{words[0]}` did not end within {limit:.1f} seconds") from None
    except OSError as error:
        end(USAGE, f"`{words[0]}` cannot be run: {error.strerror}")
    out, err = (bytes(it).decode("utf-8", "replace").strip() for it in (done.stdout, done.stderr))
    return done.returncode, out, err


if __name__ == "__main__":
    sys.exit(main())
