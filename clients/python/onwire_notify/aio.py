"""The client for a program with an event loop: it works between two calls too, so its lease does not end."""

from __future__ import annotations

import asyncio
import socket
from types import TracebackType
from typing import AsyncIterator, Callable, List, Optional, Set, Type, TypeVar

from . import requests
from .claims import Need
from .client import NEEDS, NotAnsweredError, RefusedError, Wait, checked
from .core import Followed, Outcome, Status
from .endpoint import Endpoint, Where, now
from .envelope import Key
from .flow_key import FlowKey
from .messages import Barrier, Peer
from .requests import Wish

_T = TypeVar("_T")


class AsyncClient:
    """As `client.Client`, with methods to await. Make it in a coroutine: it belongs to the running event loop."""

    def __init__(
        self,
        where: Where,
        key: Key,
        wish: Wish = Wish(),
        survives_burst_us: int = 0,
        is_following: bool = False,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._endpoint = Endpoint(where, key, wish, survives_burst_us, is_following)
        self._timer: Optional[asyncio.TimerHandle] = None
        self._waiting: Set[asyncio.Event] = set()
        self._loop.add_reader(self._endpoint.socket.fileno(), self._on_event)
        self._turn()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the subscription."""
        if self._endpoint.socket.fileno() >= 0:
            self._loop.remove_reader(self._endpoint.socket.fileno())
        if self._timer is not None:
            self._timer.cancel()
        self._endpoint.close()
        # Whoever still waits learns of it.
        self._wake()

    def watch(self, key: FlowKey) -> None:
        """Follows the connection that has this key now. Call it when the connection exists, and once for each."""
        self._endpoint.core.watch(key, now())
        self._turn()

    def unwatch(self, key: FlowKey) -> None:
        """Forgets a flow. Call it before a new connection takes the same addresses."""
        self._endpoint.forget(key)

    async def wait(self, key: FlowKey, offset: int, timeout: float, need: Need = Need.ON_WIRE) -> Wait:
        """Waits until all bytes of a watched flow below `offset` are protected, at most `timeout` seconds."""
        return await self._wait(key, offset, timeout, need, None)

    async def wait_sent(self, connection: socket.socket, timeout: float, need: Need = Need.ON_WIRE) -> Wait:
        """Waits until all that was written so far into a connected TCP socket is protected.

        Of a stream: `writer.get_extra_info("socket")`, after `await writer.drain()`.
        """
        key = self._endpoint.watch_socket(connection)
        return await self._wait(key, self._endpoint.written(key, connection), timeout, need, connection)

    def protected(self, key: FlowKey, need: Need = Need.ON_WIRE) -> Optional[int]:
        """All bytes of a watched flow below this offset are protected. None: nothing is known, or no contact."""
        return self._endpoint.core.protected(key, need, now()) if self._turn() else None

    def has_contact(self) -> bool:
        """Whether the appliance is alive and this client is known to it."""
        self._turn()
        return self._endpoint.core.has_contact(now())

    def peers(self) -> List[Peer]:
        """The links of the appliance, as they were last reported."""
        return self._endpoint.core.peers()

    async def wait_contact(self, timeout: float) -> bool:
        """Waits for contact with the appliance."""
        return await self._until(lambda: self._endpoint.core.has_contact(now()) or None, timeout) is not None

    async def barrier(self, timeout: float, need: Need = Need.ON_WIRE) -> Wait:
        """Waits until everything that the appliance has read until now is protected, to all peers."""
        deadline, again = now() + timeout, 0.01
        level: Optional[Need] = None
        while True:
            try:
                outcome = await self._ask(requests.barrier, deadline - now())
            except NotAnsweredError as error:
                return Wait(False, level, str(error), self.has_contact())
            if not isinstance(outcome, Barrier):
                raise RefusedError(str(outcome))
            if outcome.level is None:
                return Wait(False, None, "the barrier failed: a block was lost, or a link is down", True)
            level = NEEDS[outcome.level]
            if level >= need:
                return Wait(True, level, "protected", True)
            if now() + again >= deadline:
                return Wait(False, level, f"all is {level.name.lower()}, not {need.name.lower()}", True)
            await asyncio.sleep(again)
            again = min(2 * again, 0.2)

    async def flush(self, timeout: float) -> None:
        """Has the appliance close its open blocks now, so that they are protected sooner."""
        await self._ask(requests.flush, timeout)

    async def register(self, key: FlowKey, cookie: int, timeout: float) -> None:
        """Puts a number on a flow: its messages carry it, and a filter can name it."""
        await self._ask(lambda seq, port: requests.register(seq, port, key, cookie), timeout)

    async def messages(self) -> AsyncIterator[Followed]:
        """Everything that the appliance says, of a client that follows."""
        while True:
            message: Optional[Followed] = await self._until(self._endpoint.core.poll_message, 3600.0)
            if message is not None:
                yield message

    async def _wait(
        self, key: FlowKey, offset: int, timeout: float, need: Need, connection: Optional[socket.socket]
    ) -> Wait:
        last = Status(False, None, "more notifications have arrived than could be read")

        def ended() -> Optional[Status]:
            nonlocal last
            last = self._endpoint.status(key, offset, need, connection)
            return last if last.is_protected or last.is_final else None

        end = await self._until(ended, timeout)
        return Wait.of(end or last)

    async def _ask(self, make: Callable[[int, int], bytes], timeout: float) -> Outcome:
        core = self._endpoint.core
        number = core.request(make, now())
        try:
            outcome: Optional[Outcome] = await self._until(lambda: core.outcome(number), timeout)
        finally:
            core.give_up(number)
        return checked(outcome, core.refusal)

    async def _until(self, ended: Callable[[], _T], timeout: float) -> Optional[_T]:
        deadline = now() + timeout
        changed = asyncio.Event()
        self._waiting.add(changed)
        try:
            while True:
                # The kernel may hold what the event loop has not read yet: an answer takes it into account.
                if self._turn():
                    result = ended()
                    if result is not None:
                        return result
                left = deadline - now()
                if left <= 0:
                    return None
                changed.clear()
                try:
                    await asyncio.wait_for(changed.wait(), left)
                except asyncio.TimeoutError:
                    pass
        finally:
            self._waiting.discard(changed)

    def _turn(self) -> bool:
        if self._endpoint.socket.fileno() < 0:
            raise RuntimeError("the client is closed")
        taken = self._endpoint.taken
        has_all = self._endpoint.turn()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._endpoint.timeout(), self._on_event)
        if self._endpoint.taken != taken:
            self._wake()
        return has_all

    def _on_event(self) -> None:
        self._turn()
        self._wake()

    def _wake(self) -> None:
        for event in self._waiting:
            event.set()
