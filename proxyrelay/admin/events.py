"""The last things that happened, for whoever looks."""

from __future__ import annotations

import time
from collections import deque
from heapq import merge
from http import HTTPStatus
from operator import attrgetter

from msgspec import Struct

from proxyrelay.errors import Refusal
from proxyrelay.net.clock import Clock
from proxyrelay.observe.journal import FIGHT
from proxyrelay.observe.null import NullObserver
from proxyrelay.switchboard.messages import PeerConnection
from proxyrelay.switchboard.offers import DropReason
from proxyrelay.switchboard.peer import Peer, Registration

KEPT = 100
"""How many are kept of those that strangers can cause, and of all others."""

ROUTINE = frozenset({"refused", "rejected", "failed", "slowed", "shielded"})
"""Kinds that strangers can cause as often as they like."""


class Event(Struct, frozen=True):
    """Something that happened.

    Attributes:
        number: Its place in the order of all events, from 1.
        time: When, in seconds since 1970.
        kind: What, in one word.
        text: The same in a sentence, in which a client's own words are escaped.
    """

    number: int
    time: float
    kind: str
    text: str


class Events(NullObserver):
    """A journal that keeps the last things that are worth a look.

    However many of them strangers cause, all others are kept beside them.

    Args:
        wall: Gives the time in seconds since 1970.

    Attributes:
        last: The number of the last event; 0 before the first.
    """

    def __init__(self, wall: Clock = time.time) -> None:
        self._wall = wall
        self._routine: deque[Event] = deque(maxlen=KEPT)
        self._grave: deque[Event] = deque(maxlen=KEPT)
        self.last = 0

    def note(self, kind: str, text: str) -> None:
        """Keep an event."""
        self.last += 1
        kept = self._routine if kind in ROUTINE else self._grave
        kept.append(Event(self.last, self._wall(), kind, text))

    def since(self, number: int) -> list[Event]:
        """The events behind one, the oldest first, as far as they are kept."""
        both = merge(self._routine, self._grave, key=attrgetter("number"))
        return [event for event in both if event.number > number]

    def replaced(self, old: Peer, new: Peer, uuid: str, rounds: int) -> None:
        """A newer connection of the same user took over a UUID."""
        places = f"from {new.address}; it was held from {old.address}"
        if rounds < FIGHT:
            self.note("replaced", f"{uuid} has registered again {places}")
        elif rounds == FIGHT:
            self.note("fight", f"{uuid} registers again and again, {places}")

    def refused(self, peer: Peer, refusal: Refusal) -> None:
        """A peer is being closed for what it did or is."""
        self.note("refused", f"{peer.address} with {refusal.code}: {refusal.reason}")

    def shielded(self, source: Peer, message: PeerConnection, why: DropReason) -> None:
        """A message was dropped that would have harmed its receiver."""
        registration = source.registration
        if registration is not None and registration.dropped == 1:
            self.note(
                "shielded",
                f"{message.peer_uuid} from an {message.description_type} of "
                f"{message.source_uuid} at {source.address}: {why.value}",
            )

    def deaf(self, peer: Peer, registration: Registration) -> None:
        """A client that came back seems to read nothing since."""
        self.note(
            "deaf",
            f"{registration.uuid} at {peer.address} answers no offers since"
            " it came back: restart it",
        )

    def rejected(self, address: str, status: HTTPStatus, detail: str) -> None:
        """A request was answered with an HTTP error."""
        self.note("rejected", f"{address} with HTTP {status.value}: {detail!a}")

    def failed(self, address: str, code: int, detail: str) -> None:
        """A client broke the WebSocket protocol and is closed with a code."""
        self.note("failed", f"{address} with {code}: {detail!a}")

    def operator(self, action: str, address: str, uuid: str | None) -> None:
        """A caller of the private listener has it do something."""
        whom = f" of {uuid}" if uuid else ""
        self.note("operator", f"{action}{whom} is asked for from {address}")

    def slowed(self, address: str) -> None:
        """A client sends faster than it may, and is read from more slowly."""
        self.note("slowed", f"{address} sends more than [limits] allows")
