"""A client without socket and clock: datagrams go in, datagrams come out, and `status` answers.

Times are seconds of one clock that never goes back. The order to call things in: `handle_datagram` for all that has
arrived, `poll`, then `status` or `outcome`. `endpoint` does so with a socket.
"""

from __future__ import annotations

import secrets
from collections import deque
from dataclasses import dataclass
from typing import Callable, Deque, Dict, Iterator, List, Optional, Tuple, Union

from . import requests
from .claims import Claims, Need, State
from .dump import Dump
from .envelope import LENGTH, Envelope, Key, Opener, seal
from .flow_key import Filter, FlowKey
from .messages import (
    Acknowledged,
    Barrier,
    Block,
    Challenge,
    Done,
    Flow,
    Header,
    Heartbeat,
    LinkState,
    Message,
    Peer,
    Refused,
    StateReason,
    Subscribed,
    Violation,
    parse_all,
)
from .requests import Wish
from .sequence import Sequence, Violations
from .subscription import Granted, Subscription

_LOOKUP_WAIT = 0.002
_LOOKUP_AGAIN = 0.02
_REQUEST_WAIT = 0.02
_LONGEST_WAIT = 0.5
_MOST_KEPT = 65_536


@dataclass(frozen=True)
class Contact:
    """Contact with the publisher was gained or lost. `run` is another number after each restart of the appliance."""

    has_contact: bool
    run: int


Followed = Union[Flow, Block, Peer, Violation, Heartbeat, Contact]


@dataclass(frozen=True)
class Status:
    """Whether bytes are protected, at which level at the least, and if not, why. `is_final`: waiting does not help."""

    is_protected: bool
    level: Optional[Need]
    reason: str
    is_final: bool = False
    has_contact: bool = True


@dataclass
class _Lookup:
    """The question which instance a watched key is."""

    send_at: float
    seq: Optional[int] = None
    wait: float = _LOOKUP_WAIT
    again: float = _LOOKUP_AGAIN
    is_gone: bool = False


@dataclass
class _Request:
    """A FLUSH, REGISTER or BARRIER that is not answered."""

    make: Callable[[int, int], bytes]
    send_at: float
    was_sent: bool = False
    wait: float = _REQUEST_WAIT


@dataclass(frozen=True)
class Restarted:
    """The appliance was restarted before it answered: a barrier has failed."""


Outcome = Union[Acknowledged, Barrier, Refused, Restarted]


class Core:
    """One run of a client: it has an epoch, and no number of a request is used twice in it."""

    def __init__(
        self,
        key: Key,
        now: float,
        wish: Wish = Wish(),
        survives_burst_us: int = 0,
        is_following: bool = False,
    ) -> None:
        self._key = key
        self._wish = wish
        self._survives_burst_us = survives_burst_us
        self._is_following = is_following
        self._epoch = secrets.randbits(64) or 1
        self._port = secrets.randbits(32) or 1
        self._opener = Opener(key, self._epoch)
        self._counter = 0
        self._seq = 0
        self._subscription = Subscription(wish.lease_ms / 1000, now)
        self._had_contact = False
        # Datagrams of the present run with a lower counter belong to an earlier subscription.
        self._first_counter = 0
        self._sequence = Sequence()
        self._violations = Violations()
        self._dump = Dump()
        self._watched: Dict[FlowKey, Claims] = {}
        self._lookups: Dict[FlowKey, _Lookup] = {}
        self._requests: Dict[int, _Request] = {}
        self._outcomes: Dict[int, Outcome] = {}
        self._peers: Dict[int, Tuple[int, Peer]] = {}
        self._kept: Deque[Followed] = deque()
        self.missed = 0
        """Messages that were not taken by `poll_message` in time."""

    @property
    def dropped(self) -> int:
        """Datagrams that failed a check: forged, replayed, or for somebody else."""
        return self._opener.dropped

    @property
    def run(self) -> int:
        """The publisher's epoch; 0 before the first subscription."""
        return self._subscription.run

    @property
    def refusal(self) -> Optional[str]:
        """Why the publisher refuses a subscription."""
        return self._subscription.refusal

    def has_contact(self, now: float) -> bool:
        """Whether the publisher is alive and this client is known to it."""
        return self._subscription.has_contact(now)

    def silent_since(self) -> Optional[float]:
        """When the last heartbeat arrived."""
        return self._subscription.silent_since

    def peers(self) -> List[Peer]:
        """The links, as they were last reported."""
        return [peer for _, peer in self._peers.values()]

    # What a program asks.

    def watch(self, key: FlowKey, now: float) -> None:
        """Follows the positions of the connection that has this key now. Call it when the connection exists."""
        if not self._wish.filter.may_select(key):
            raise ValueError(f"the filter of this client leaves out {key}")
        if key not in self._watched:
            self._watched[key] = Claims(key, self._survives_burst_us)
            self._lookups[key] = _Lookup(now)

    def unwatch(self, key: FlowKey) -> None:
        """Forgets a flow. Call it before a new connection takes the same addresses."""
        self._watched.pop(key, None)
        self._lookups.pop(key, None)

    def is_watched(self, key: FlowKey) -> bool:
        """Whether `watch` was called for it."""
        return key in self._watched

    def highest(self, key: FlowKey) -> int:
        """The highest offset that was reported of a flow at any level."""
        claims = self._watched.get(key)
        return claims.highest() if claims is not None else 0

    def protected(self, key: FlowKey, need: Need, now: float) -> Optional[int]:
        """All bytes below this offset are as safe as `need` says. None: nothing is known, or there is no contact."""
        claims = self._watched.get(key)
        if claims is None or not self.has_contact(now):
            return None
        return claims.protected(need, self._violations.has_unseen)

    def status(self, key: FlowKey, offset: int, need: Need, now: float) -> Status:
        """Whether all bytes of a watched flow below `offset` are as safe as `need` says."""
        claims = self._watched.get(key)
        if claims is None:
            return Status(False, None, "the flow is not watched", is_final=True, has_contact=self.has_contact(now))
        if not self.has_contact(now):
            why = f"; it refuses: {self.refusal}" if self.refusal else ""
            return Status(False, None, f"no contact with the appliance{why}", has_contact=False)
        unseen = self._violations.has_unseen
        reached = claims.protected(need, unseen)
        if reached is not None and reached >= offset:
            return Status(True, claims.level_of(offset, need, unseen), "protected")
        if claims.state is State.UNKNOWN:
            return Status(False, None, claims.state.value)
        if claims.state is not State.KNOWN:
            return Status(False, None, claims.state.value, is_final=True)
        return Status(False, None, self._why_not(claims, reached or 0, offset, unseen))

    def request(self, make: Callable[[int, int], bytes], now: float) -> int:
        """Sends a FLUSH, REGISTER or BARRIER until it is answered; returns the number for `outcome`."""
        seq = self._next_seq()
        self._requests[seq] = _Request(make, now)
        return seq

    def outcome(self, number: int) -> Optional[Outcome]:
        """The answer to a request, once. None: not yet."""
        return self._outcomes.pop(number, None)

    def give_up(self, number: int) -> None:
        """Sends a request no more."""
        self._requests.pop(number, None)
        self._outcomes.pop(number, None)

    def poll_message(self) -> Optional[Followed]:
        """The next message, where this client follows all of them."""
        return self._kept.popleft() if self._kept else None

    # What goes out.

    def poll(self, now: float) -> List[bytes]:
        """The datagrams to send now."""
        return list(self._poll(now))

    def _poll(self, now: float) -> Iterator[bytes]:
        self._note_contact(now)
        ask = self._subscription.poll(now, self._seq + 1)
        if ask is not None:
            # A request that is repeated keeps its number.
            self._seq = max(self._seq, ask.seq)
            yield self._seal(ask.receiver, requests.subscribe(ask.seq, self._port, self._wish, ask.token))
        if not self.has_contact(now):
            # Without a subscription nothing else is answered.
            return
        for key, lookup in self._lookups.items():
            if now >= lookup.send_at:
                lookup.seq = lookup.seq or self._next_seq()
                lookup.send_at, lookup.wait = now + lookup.wait, min(2 * lookup.wait, _LONGEST_WAIT)
                exactly = Filter.exactly(key)
                yield self._seal(self.run, requests.get_flows(lookup.seq, self._port, 0, 1, exactly))
        for seq, request in self._requests.items():
            if now >= request.send_at:
                request.was_sent = True
                request.send_at, request.wait = now + request.wait, min(2 * request.wait, _LONGEST_WAIT)
                yield self._seal(self.run, request.make(seq, self._port))
        if self._sequence.has_gap or self._violations.has_unseen:
            self._dump.begin(now)
        page = self._dump.poll(now, self._seq + 1)
        if page is not None:
            seq, wanted = self._next_seq(), self._wish.filter.without_whole_key()
            yield self._seal(self.run, requests.get_flows(seq, self._port, page.since, page.most, wanted, page.head))

    def timeout(self, now: float) -> float:
        """When `poll` has something to do."""
        times: List[Optional[float]] = [self._subscription.timeout]
        if self.has_contact(now):
            times.append(self._subscription.contact_ends())
            times.append(self._dump.timeout)
            times.extend(lookup.send_at for lookup in self._lookups.values())
            times.extend(request.send_at for request in self._requests.values())
        return min(it for it in times if it is not None)

    def farewell(self) -> bytes:
        """Ends the subscription. It has no answer."""
        return self._seal(self.run, requests.unsubscribe(self._next_seq(), self._port))

    # What comes in.

    def handle_datagram(self, datagram: bytes, now: float) -> None:
        """Takes a datagram, whatever it is. One that is not from the publisher to this run changes nothing."""
        envelope = self._opener.open(datagram)
        if envelope is None:
            return
        for header, message in parse_all(datagram[LENGTH:]):
            is_ours = header.port == self._port
            if is_ours and isinstance(message, Challenge):
                self._subscription.on_challenge(header.seq, envelope.sender, message.token, now)
            elif is_ours and isinstance(message, Subscribed):
                granted = self._subscription.on_subscribed(header.seq, envelope.sender, message, now)
                if granted is not None:
                    self._on_granted(granted, envelope.counter, message, now)
            elif is_ours and isinstance(message, Refused) and header.seq not in self._requests:
                self._subscription.on_refused(header.seq, envelope.sender, message.text, now)
            elif envelope.sender == self.run and header.port in (0, self._port):
                self._handle(envelope, header, message, now)

    def _handle(self, envelope: Envelope, header: Header, message: Message, now: float) -> None:
        if isinstance(message, (Acknowledged, Barrier, Refused)):
            if self._requests.pop(header.seq, None) is not None:
                self._outcomes[header.seq] = message
            return
        if isinstance(message, Done):
            self._on_done(header.seq, message, now)
            return
        if isinstance(message, Heartbeat):
            self._on_heartbeat(envelope.counter, header.seq, message, now)
        elif isinstance(message, Flow):
            self._on_flow(header, message)
        elif isinstance(message, Peer):
            self._on_peer(envelope.counter, message)
        elif isinstance(message, Violation):
            # Its ranges first: from when it counts as seen they must hold.
            for lost in message.ranges:
                if lost.key in self._watched:
                    self._watched[lost.key].on_range(lost)
            self._violations.on_violation(message.number)
        if isinstance(message, (Flow, Peer, Violation, Block, Heartbeat)):
            self._keep(message)
        if header.port != 0:
            self._complete(self._dump.on_message(header.seq, now))
        elif not isinstance(message, Heartbeat) and envelope.counter >= self._first_counter:
            self._sequence.on_number(header.seq)

    def _on_granted(self, granted: Granted, counter: int, message: Subscribed, now: float) -> None:
        if granted is Granted.NEW_RUN:
            for key, claims in self._watched.items():
                claims.forget_run(self._violations.has_unseen)
                self._lookups[key] = _Lookup(now)
            for seq in [seq for seq, request in self._requests.items() if request.was_sent]:
                del self._requests[seq]
                self._outcomes[seq] = Restarted()
            self._violations, self._dump = Violations(), Dump()
            self._peers.clear()
        if granted is not Granted.RENEWED:
            self._sequence = Sequence()
            self._first_counter = counter
            self._dump.on_new_subscription(now)
        self._violations.on_count(message.violations)
        self._note_contact(now)

    def _on_heartbeat(self, counter: int, last: int, message: Heartbeat, now: float) -> None:
        self._subscription.on_heartbeat(now)
        self._violations.on_count(message.violations)
        if counter >= self._first_counter and self._sequence.on_last(last):
            self._dump.advance(message.version)
        for peer in message.peers:
            self._on_peer(counter, peer)
        self._note_contact(now)

    def _on_flow(self, header: Header, flow: Flow) -> None:
        claims = self._watched.get(flow.key)
        if claims is None:
            return
        lookup = self._lookups.get(flow.key)
        if lookup is not None and header.port != 0 and header.seq == lookup.seq:
            claims.pin(flow)
            if claims.is_pinned or claims.state is not State.UNKNOWN:
                del self._lookups[flow.key]
                return
            lookup.is_gone = True
        claims.on_flow(flow)

    def _on_done(self, seq: int, done: Done, now: float) -> None:
        for lookup in self._lookups.values():
            # The answer was: no such flow, or one that is gone. With a part lost on the way, the question goes on.
            if lookup.seq == seq and (done.count == 0 or lookup.is_gone):
                lookup.seq, lookup.wait, lookup.is_gone = None, _LOOKUP_WAIT, False
                lookup.send_at, lookup.again = now + lookup.again, min(2 * lookup.again, _LONGEST_WAIT)
        self._violations.on_count(done.violations)
        self._complete(self._dump.on_done(seq, done, now))

    def _complete(self, done: Optional[Done]) -> None:
        if done is not None:
            self._sequence.fill(done.notified)
            self._violations.on_complete_dump(done.violations)

    def _on_peer(self, counter: int, peer: Peer) -> None:
        known_at, known = self._peers.get(peer.id, (-1, peer))
        if counter >= known_at:
            named = peer if peer.name is not None else Peer(peer.id, peer.state, peer.reason, known.name)
            self._peers[peer.id] = (counter, named)

    def _keep(self, message: Followed) -> None:
        if not self._is_following:
            return
        if len(self._kept) == _MOST_KEPT:
            self._kept.popleft()
            self.missed += 1
        self._kept.append(message)

    def _note_contact(self, now: float) -> None:
        has_contact = self.has_contact(now)
        if has_contact != self._had_contact:
            self._had_contact = has_contact
            self._keep(Contact(has_contact, self.run))

    def _why_not(self, claims: Claims, reached: int, offset: int, unseen: bool) -> str:
        reason = f"{reached} of {offset} bytes"
        if unseen or claims.has_loss:
            reason += "; bytes that were called protected are lost"
        for peer in self.peers():
            if peer.state is not LinkState.UP:
                why = "" if peer.reason is StateReason.NONE else f": {peer.reason.name.lower().replace('_', ' ')}"
                reason += f"; the link to {peer.name or peer.id} is {peer.state.name.lower()}{why}"
        if self._survives_burst_us and (claims.promise_us or 0) < self._survives_burst_us:
            reason += f"; the flow's profile promises to survive {claims.promise_us or 0} us"
        return reason

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def _seal(self, receiver: int, messages: bytes) -> bytes:
        self._counter += 1
        return seal(self._key, Envelope(self._epoch, receiver, self._counter), messages)
