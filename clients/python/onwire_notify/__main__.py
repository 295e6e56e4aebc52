"""`python3 -m onwire_notify watch` and `wait`, for a host without the program `onwire`."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import ipaddress
import json
import os
import sys
import time
from typing import Dict, Optional, Sequence

from .claims import Need
from .client import Client, NotAnsweredError, RefusedError, Wait
from .core import Contact, Followed
from .endpoint import split_host
from .flow_key import TCP, UDP, Filter, FlowKey, address
from .messages import Block, Flow, Heartbeat, Peer, Violation
from .requests import GROUP_BLOCKS, GROUP_FLOWS, Wish
from .secret import KeyFileError, read_key

PROTECTED, NOT_PROTECTED, USAGE, NO_CONTACT = 0, 1, 2, 3
_ABOUT = "Shows which bytes of which flow are protected, or waits until they are."
_EXIT_CODES = "Exit codes: 0 protected, or done; 1 not protected in time; 2 usage; 3 no contact with the appliance."
_MOST_REMEMBERED = 100_000
_PROTOCOLS = {"tcp": TCP, "udp": UDP}


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (KeyFileError, ValueError) as error:
        print(f"onwire_notify: {error}", file=sys.stderr)
        return USAGE
    except RefusedError as error:
        print(f"onwire_notify: {error}", file=sys.stderr)
        return NOT_PROTECTED
    except OSError as error:
        print(f"onwire_notify: {options.notify}: {error}", file=sys.stderr)
        return NO_CONTACT
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m onwire_notify", description=_ABOUT, epilog=_EXIT_CODES)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    environment = os.environ.get
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--notify",
        metavar="HOST[:PORT]",
        default=environment("ONWIRE_NOTIFY", "127.0.0.1"),
        help="`listen` of `notify` in the appliance's file, or $ONWIRE_NOTIFY; by default 127.0.0.1, port 7118",
    )
    shared.add_argument(
        "--key",
        metavar="FILE",
        default=environment("ONWIRE_NOTIFY_KEY", "/etc/onwire/notify.key"),
        help="the file of a key that the appliance knows, or $ONWIRE_NOTIFY_KEY; by default %(default)s",
    )
    shared.add_argument("--key-id", metavar="N", type=int, default=1, help="that key's number there (%(default)s)")
    shared.add_argument("--json", action="store_true", help="for programs: one JSON object a line")

    watch = commands.add_parser(
        "watch", parents=[shared], epilog=_EXIT_CODES, help="show what the appliance says", description=_watch.__doc__
    )
    watch.add_argument("--to", metavar="HOST[:PORT]", help="only flows to this address")
    watch.add_argument("--protocol", choices=sorted(_PROTOCOLS), help="only flows of this protocol")
    watch.add_argument("--blocks", action="store_true", help="each block too")
    watch.add_argument("--for", dest="seconds", metavar="SECONDS", type=_seconds, help="stop after this time")
    watch.add_argument("--count", metavar="N", type=int, help="stop after so many lines")
    watch.set_defaults(run=_watch)

    wait = commands.add_parser(
        "wait", parents=[shared], epilog=_EXIT_CODES, help="wait for protection", description=_wait.__doc__
    )
    wait.add_argument("--timeout", metavar="SECONDS", type=_seconds, default=30.0, help="at most (%(default)s)")
    levels = [need.name.lower() for need in Need]
    wait.add_argument("--level", choices=levels, default="on_wire", help="what to wait for (%(default)s)")
    wait.add_argument("--source", metavar="HOST:PORT", help="the near end of a TCP connection")
    wait.add_argument("--destination", metavar="HOST:PORT", help="its far end")
    wait.add_argument("--bytes", metavar="N", type=int, help="how many bytes from the start of the connection")
    wait.add_argument("--survive-burst-us", metavar="US", type=int, default=0, help="the interruption to survive")
    wait.set_defaults(run=_wait)
    return parser


def _watch(options: argparse.Namespace) -> int:
    """Shows what the appliance says: a line for each change of a flow or a link, for violations and lost contact."""
    wanted = Filter(protocol=_PROTOCOLS.get(options.protocol))
    if options.to is not None:
        host, port = _end(options.to)
        wanted = dataclasses.replace(wanted, destination=address(host), destination_port=port)
    groups = GROUP_FLOWS | (GROUP_BLOCKS if options.blocks else 0)
    key = read_key(options.key, options.key_id)
    lines, had_contact = 0, False
    last: Dict[object, Followed] = {}
    with Client(options.notify, key, Wish(groups=groups, filter=wanted), is_following=True) as client:
        for message in client.messages(options.seconds):
            had_contact = had_contact or isinstance(message, Contact) and message.has_contact
            if isinstance(message, Heartbeat) or _is_repeated(last, message):
                continue
            print(json.dumps(_object(message)) if options.json else _line(message), flush=True)
            lines += 1
            if options.count is not None and lines >= options.count:
                break
    if not had_contact:
        why = "did not answer: is it an appliance that notifies, and does it know this key?"
        print(f"onwire_notify: {options.notify} {why}", file=sys.stderr)
        return NO_CONTACT
    return PROTECTED


def _wait(options: argparse.Namespace) -> int:
    """Waits until the first bytes of a connection are protected, or all that the appliance has read so far."""
    named = [options.source, options.destination, options.bytes]
    if any(it is not None for it in named) and None in named:
        raise ValueError("--source, --destination and --bytes go together, or none of them")
    need = Need[options.level.upper()]
    key = read_key(options.key, options.key_id)
    with Client(options.notify, key, survives_burst_us=options.survive_burst_us) as client:
        if options.bytes is None:
            if options.survive_burst_us:
                raise ValueError("--survive-burst-us needs a connection: a barrier says nothing of interruptions")
            result = _barrier(client, options.timeout, need)
        else:
            ends = [(host, port or 0) for host, port in (_end(options.source), _end(options.destination))]
            flow = FlowKey.tcp(ends[0], ends[1])
            client.watch(flow)
            result = client.wait(flow, options.bytes, options.timeout, need)
    level = result.level.name.lower() if result.level is not None else None
    if options.json:
        print(json.dumps({"protected": result.is_protected, "level": level, "reason": result.reason}))
    elif result:
        print(f"protected: {level}")
    else:
        print(f"not protected: {result.reason}", file=sys.stderr)
    if result:
        return PROTECTED
    return NOT_PROTECTED if result.has_contact else NO_CONTACT


def _barrier(client: Client, timeout: float, need: Need) -> Wait:
    deadline = time.monotonic() + timeout
    try:
        client.flush(timeout)
    except NotAnsweredError as error:
        return Wait(False, None, str(error), client.has_contact())
    return client.barrier(max(0.0, deadline - time.monotonic()), need)


def _is_repeated(last: Dict[object, Followed], message: Followed) -> bool:
    """Whether a flow, a link or a violation is as it was: a publisher says each change several times."""
    if isinstance(message, Flow):
        name: object = (message.key, message.instance)
    elif isinstance(message, Peer):
        name = message.id
    elif isinstance(message, Violation):
        name = ("violation", message.number)
    elif isinstance(message, Contact):
        # Another run of the appliance has other numbers.
        last.clear()
        return False
    else:
        return False
    if len(last) > _MOST_REMEMBERED:
        last.clear()
    if last.get(name) == message:
        return True
    last[name] = message
    return False


def _end(text: str) -> "tuple[str, Optional[int]]":
    """Address and port; None where no port is named. A name is not looked up: a flow has addresses."""
    host, port = split_host(text)
    has_port = text.startswith("[") and "]:" in text or text.count(":") == 1
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        raise ValueError(f"`{host}` is no address; allowed is an IPv4 or IPv6 address with or without a port") from None
    return host, port if has_port else None


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is no time; allowed are seconds from 0")
    return value


def _line(message: Followed) -> str:
    if isinstance(message, Flow):
        positions = (("queued", message.queued), ("early", message.early), ("on_wire", message.on_wire))
        known = [*positions, ("decoded", message.decoded), ("acked", message.acked), ("violated", message.violated)]
        words = [f"{name} {value}" for name, value in known if value is not None]
        return f"flow {message.key}  {message.event.name.lower()}  {', '.join(words) or 'nothing known'}"
    if isinstance(message, Peer):
        reason = f": {message.reason.name.lower().replace('_', ' ')}" if message.reason else ""
        return f"link to {message.name or message.id}  {message.state.name.lower()}{reason}"
    if isinstance(message, Violation):
        lost = [f"{it.key} bytes {it.start} to {it.end}" for it in message.ranges]
        return f"violation {message.number}  lost: {', '.join(lost) or 'no flow that is known'}"
    if isinstance(message, Block):
        level = message.level.name.lower() if message.level is not None else "failed"
        return f"block {message.sbn} of lane {message.lane}  k {message.k} m {message.m}  {level}"
    if isinstance(message, Contact):
        return f"contact {'with' if message.has_contact else 'lost with'} run {message.run:016x}"
    return str(message)


def _object(message: Followed) -> "dict[str, object]":
    kinds = {Flow: "flow", Peer: "link", Violation: "violation", Block: "block", Contact: "contact"}
    fields = {name: _plain(value) for name, value in vars(message).items()}
    return {"at_s": time.time(), "type": kinds[type(message)], **fields}


def _plain(value: object) -> object:
    if isinstance(value, enum.Enum):
        return value.name.lower()
    if isinstance(value, tuple):
        return [_plain(it) for it in value]
    if dataclasses.is_dataclass(value):
        return {name: _plain(it) for name, it in vars(value).items()}
    if isinstance(value, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
        return str(value)
    return value


if __name__ == "__main__":
    sys.exit(main())
