"""The client for a program that waits: it has no thread of its own and works while one of its methods runs.

Between two calls it sends nothing, so a lease may end; the next call then takes an exchange with the appliance.
"""

from __future__ import annotations

import select
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Callable, Iterator, List, Optional, Type, TypeVar

from . import requests
from .claims import Need
from .core import Followed, Outcome, Restarted, Status
from .endpoint import Endpoint, Where, now
from .envelope import Key
from .flow_key import FlowKey
from .messages import Barrier, Level, Peer, Refused
from .requests import Wish

_T = TypeVar("_T")

_BARRIER_AGAIN = 0.01
NEEDS = {
    Level.QUEUED: Need.QUEUED,
    Level.ON_WIRE: Need.ON_WIRE,
    Level.DECODED: Need.DECODED,
    Level.ACKED: Need.ACKED,
}


class RefusedError(Exception):
    """The publisher refused a request."""


class NotAnsweredError(Exception):
    """A request was not answered in time, or the appliance was restarted before it was."""


@dataclass(frozen=True)
class Wait:
    """The end of a wait. True where the bytes are protected.

    `level` is the least level that all of them have reached; `reason` says why they are not protected.
    """

    is_protected: bool
    level: Optional[Need]
    reason: str
    has_contact: bool

    def __bool__(self) -> bool:
        return self.is_protected

    @staticmethod
    def of(status: Status) -> Wait:
        """The end of a wait with this status."""
        return Wait(status.is_protected, status.level, status.reason, status.has_contact)


class Client:
    """A subscription to the notifications of an appliance.

    `where` is `listen` of `notify` in its file, such as `127.0.0.1:7118`. With `survives_burst_us` bytes count as
    protected only when they survive an interruption of the link of that length. With `is_following`, `messages` returns
    everything that the appliance says; `wish` selects flows. Nothing here raises because an appliance does not answer.
    """

    def __init__(
        self,
        where: Where,
        key: Key,
        wish: Wish = Wish(),
        survives_burst_us: int = 0,
        is_following: bool = False,
    ) -> None:
        self._endpoint = Endpoint(where, key, wish, survives_burst_us, is_following)
        self._poll = select.poll()
        self._poll.register(self._endpoint.socket, select.POLLIN)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the subscription."""
        self._endpoint.close()

    def watch(self, key: FlowKey) -> None:
        """Follows the connection that has this key now. Call it when the connection exists, and once for each."""
        self._endpoint.core.watch(key, now())

    def unwatch(self, key: FlowKey) -> None:
        """Forgets a flow. Call it before a new connection takes the same addresses."""
        self._endpoint.forget(key)

    def wait(self, key: FlowKey, offset: int, timeout: float, need: Need = Need.ON_WIRE) -> Wait:
        """Waits until all bytes of a watched flow below `offset` are protected, at most `timeout` seconds."""
        return self._wait(key, offset, timeout, need, None)

    def wait_sent(self, connection: socket.socket, timeout: float, need: Need = Need.ON_WIRE) -> Wait:
        """Waits until all that was written so far into a connected TCP socket is protected."""
        key = self._endpoint.watch_socket(connection)
        return self._wait(key, self._endpoint.written(key, connection), timeout, need, connection)

    def status(self, key: FlowKey, offset: int, need: Need = Need.ON_WIRE) -> Status:
        """What `wait` would say now."""
        if not self._endpoint.turn():
            return Status(False, None, "more notifications have arrived than could be read")
        return self._endpoint.status(key, offset, need, None)

    def protected(self, key: FlowKey, need: Need = Need.ON_WIRE) -> Optional[int]:
        """All bytes of a watched flow below this offset are protected. None: nothing is known, or no contact."""
        return self._endpoint.core.protected(key, need, now()) if self._endpoint.turn() else None

    def has_contact(self) -> bool:
        """Whether the appliance is alive and this client is known to it."""
        self._endpoint.turn()
        return self._endpoint.core.has_contact(now())

    def wait_contact(self, timeout: float) -> bool:
        """Waits for contact with the appliance."""
        return self._until(lambda: self._endpoint.core.has_contact(now()) or None, timeout) is not None

    @property
    def run(self) -> int:
        """The present run of the appliance: another number after each restart; 0 before the first contact."""
        return self._endpoint.core.run

    @property
    def dropped(self) -> int:
        """Datagrams that failed a check: forged, replayed, or for somebody else."""
        return self._endpoint.core.dropped

    def peers(self) -> List[Peer]:
        """The links of the appliance, as they were last reported."""
        self._endpoint.turn()
        return self._endpoint.core.peers()

    def barrier(self, timeout: float, need: Need = Need.ON_WIRE) -> Wait:
        """Waits until everything that the appliance has read until now is protected, to all peers."""
        deadline, again = now() + timeout, _BARRIER_AGAIN
        level: Optional[Need] = None
        while True:
            try:
                outcome = self._ask(requests.barrier, deadline - now())
            except NotAnsweredError as error:
                return Wait(False, level, str(error), self._endpoint.core.has_contact(now()))
            if not isinstance(outcome, Barrier):
                raise RefusedError(str(outcome))
            level = NEEDS[outcome.level] if outcome.level is not None else None
            if level is None:
                return Wait(False, None, "the barrier failed: a block was lost, or a link is down", True)
            if level >= need:
                return Wait(True, level, "protected", True)
            # Late repair has not left, or the mirror has not acknowledged.
            if now() + again >= deadline:
                return Wait(False, level, f"all is {level.name.lower()}, not {need.name.lower()}", True)
            self._until(lambda: None, again)
            again = min(2 * again, 0.2)

    def flush(self, timeout: float) -> None:
        """Has the appliance close its open blocks now, so that they are protected sooner."""
        self._ask(requests.flush, timeout)

    def register(self, key: FlowKey, cookie: int, timeout: float) -> None:
        """Puts a number on a flow: its messages carry it, and a filter can name it."""
        self._ask(lambda seq, port: requests.register(seq, port, key, cookie), timeout)

    def messages(self, timeout: Optional[float] = None) -> Iterator[Followed]:
        """Everything that the appliance says, of a client that follows; ends `timeout` seconds after the start."""
        deadline = None if timeout is None else now() + timeout
        poll_message = self._endpoint.core.poll_message
        while True:
            left = 3600.0 if deadline is None else deadline - now()
            message = self._until(poll_message, left)
            if message is not None:
                yield message
            elif deadline is not None and now() >= deadline:
                return

    def _wait(
        self, key: FlowKey, offset: int, timeout: float, need: Need, connection: Optional[socket.socket]
    ) -> Wait:
        last = Status(False, None, "more notifications have arrived than could be read")

        def ended() -> Optional[Status]:
            nonlocal last
            last = self._endpoint.status(key, offset, need, connection)
            return last if last.is_protected or last.is_final else None

        end = self._until(ended, timeout)
        return Wait.of(end or last)

    def _ask(self, make: Callable[[int, int], bytes], timeout: float) -> Outcome:
        core = self._endpoint.core
        number = core.request(make, now())
        try:
            outcome: Optional[Outcome] = self._until(lambda: core.outcome(number), timeout)
        finally:
            core.give_up(number)
        return checked(outcome, core.refusal)

    def _until(self, ended: Callable[[], _T], timeout: float) -> Optional[_T]:
        """Works until `ended` returns something, at most `timeout` seconds."""
        deadline = now() + timeout
        while True:
            if self._endpoint.turn():
                result = ended()
                if result is not None:
                    return result
            left = deadline - now()
            if left <= 0:
                return None
            # Whole milliseconds, rounded up: a wait that is too short would be repeated at once.
            self._poll.poll(int(min(self._endpoint.timeout(), left) * 1000) + 1)


def checked(outcome: Optional[Outcome], refusal: Optional[str]) -> Outcome:
    """An answer that is one. Raises NotAnsweredError or RefusedError otherwise."""
    if outcome is None:
        why = f"; it refuses: {refusal}" if refusal else ""
        raise NotAnsweredError(f"the appliance did not answer in time{why}")
    if isinstance(outcome, Restarted):
        raise NotAnsweredError("the appliance was restarted before it answered")
    if isinstance(outcome, Refused):
        raise RefusedError(f"the appliance refused: {outcome.text} (errno {outcome.errno})")
    return outcome
