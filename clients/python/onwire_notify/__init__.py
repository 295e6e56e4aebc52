"""A client of the notification protocol of onwire, from its document `docs/protocol.md`.

An appliance says which bytes of which flow are protected: they have left this host together with their repair while
the link was healthy, or the mirror has them. `Client` waits for that; `aio.AsyncClient` does so in an event loop.
Start reading with `core`. Only the standard library of Python is needed.
"""

from .claims import Need
from .client import Client, NotAnsweredError, RefusedError, Wait
from .core import Contact, Followed, Status
from .endpoint import DEFAULT_PORT
from .envelope import Key
from .flow_key import Filter, FlowKey
from .messages import Block, Event, Flow, Heartbeat, Level, LinkState, Origin, Peer, Range, Violation
from .requests import GROUP_BLOCKS, GROUP_FLOWS, Wish
from .secret import KeyFileError, read_key

__all__ = [
    "DEFAULT_PORT",
    "GROUP_BLOCKS",
    "GROUP_FLOWS",
    "Block",
    "Client",
    "Contact",
    "Event",
    "Filter",
    "Flow",
    "FlowKey",
    "Followed",
    "Heartbeat",
    "Key",
    "KeyFileError",
    "Level",
    "LinkState",
    "Need",
    "NotAnsweredError",
    "Origin",
    "Peer",
    "Range",
    "RefusedError",
    "Status",
    "Violation",
    "Wait",
    "Wish",
    "read_key",
]
