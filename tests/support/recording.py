"""Peers and an observer that remember what the rules did."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from uuid import UUID

from proxyrelay.errors import PeerBusy, PeerGone, TryAgainLater
from proxyrelay.switchboard import events
from proxyrelay.switchboard.events import Event
from proxyrelay.switchboard.messages import PeerConnection
from proxyrelay.switchboard.offers import DropReason, Offer
from proxyrelay.switchboard.peer import Peer, Registration, Sender
from proxyrelay.switchboard.user import ANONYMOUS, User

A = "0b0f8a9e-5d3a-4a5e-9a58-0c7d4e1f2a3b"
B = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
C = "a3bb189e-8bf9-3888-9912-ace4e6543002"

_arrivals = count()


@dataclass(eq=False)
class RecordingPeer:
    """A peer that keeps what it is sent, and is gone when it has no room for more."""

    user: User = ANONYMOUS
    address: str = "192.0.2.1:4711"
    source: str = "192.0.2.1"
    limited: bool = True
    arrival: int = field(default_factory=lambda: next(_arrivals))
    registration: Registration | None = None
    sent: list[bytes] = field(default_factory=list)
    closed: tuple[int, str] | None = None
    gone: bool = False
    busy: bool = False
    room: int | None = None
    hasty: bool = False
    follows: RecordingPeer | None = None
    pings: int = 0
    pong: Callable[[], None] | None = None
    awaits: bool = False

    def registers(self) -> None:
        if self.hasty:
            raise TryAgainLater("Too many registrations.")

    def answer(self, text: bytes) -> None:
        if self.gone or self.closed or self.room == len(self.sent):
            raise PeerGone
        self.sent.append(text)

    def deliver(self, text: bytes) -> None:
        if self.busy:
            raise PeerBusy
        self.answer(text)

    def follow(self, other: Peer) -> None:
        assert isinstance(other, RecordingPeer)
        self.follows = other

    def ping(self, answered: Callable[[], None]) -> bool:
        if self.busy:
            return False
        self.pings += 1
        self.pong = answered
        return True

    def await_claim(self, awaits: bool) -> None:
        self.awaits = awaits

    def close(self, code: int, reason: str) -> None:
        self.awaits = False
        if self.closed is None:
            self.closed = (code, reason)

    def take(self) -> dict[str, Any]:
        """The oldest message that was sent, decoded."""
        message: dict[str, Any] = json.loads(self.sent.pop(0))
        return message


class RecordingWaiting:
    """Keeps the offers that wait for those that may cross them, and wakes none."""

    def __init__(self) -> None:
        self.offers: list[Offer] = []

    def begin(self, offer: Offer, peer: Peer) -> None:
        self.yield_time(offer)

    def yield_time(self, offer: Offer) -> None:
        if offer not in self.offers:
            self.offers.append(offer)


class RecordingObserver:
    """An observer that keeps all events, and a struct for each forwarded message."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    @property
    def names(self) -> list[str]:
        return [event.event for event in self.events if event.event]

    @property
    def drops(self) -> Counter[DropReason]:
        return Counter(e.why for e in self.events if isinstance(e, events.Shielded))

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def forwarded(
        self,
        source: Sender,
        target: Peer,
        message: PeerConnection,
        offer: Offer | None,
    ) -> None:
        self.events.append(
            events.Forwarded(
                kind=message.description_type,
                source=message.source_uuid,
                target=message.peer_uuid,
                user=source.user.sub,
                address=source.address,
                target_address=target.address,
            )
        )


def answer(source: str = B, peer: str = A, **fields: Any) -> bytes:
    """What a client sends back for an offer; keywords replace or add fields."""
    return offer(source, peer, description_type="answer", **fields)


def registration(uuid: str | UUID = A, name: str = "a", legacy: bool = False) -> bytes:
    """What a client sends to register."""
    kind = "server_registration" if legacy else "relay_registration"
    return json.dumps({"name": name, "uuid": str(uuid), "message_type": kind}).encode()


def offer(source: str = A, peer: str = B, sdp: str = "v=0", **fields: Any) -> bytes:
    """What a client sends to reach a peer; keywords replace or add fields."""
    kind = fields.get("description_type", "offer")
    message: dict[str, Any] = {
        "source_uuid": source,
        "source_name": "a",
        "peer_uuid": peer,
        "description_type": kind,
        "description": json.dumps({"sdp": sdp, "type": kind}),
        "error": None,
        "message_type": "peer_connection",
    }
    return json.dumps(message | fields).encode()


def wrong_descriptions(kind: str = "offer") -> list[str]:
    """Descriptions of an offer or answer on which stock clients end."""
    good = json.dumps({"sdp": "v=0", "type": kind})
    other = "answer" if kind == "offer" else "offer"
    return [
        *("", "junk", "v=0", "{}", "[]", "1", "null", '"s"', "true", "NaN"),
        *(json.dumps(good), f"[{good}]", good + good, good[:-1], "\ufeff" + good),
        *("[" * 100_000, '{"sdp":' * 100_000, "[" * 100_000 + "]" * 100_000),
        *('{"sdp": "v=0"}', json.dumps({"type": kind})),
        *(good.replace(kind, no) for no in (other, kind.upper(), "bye", "pranswer")),
        *(good.replace('"v=0"', sdp) for sdp in ("1", "null", "[]", "{}", "NaN")),
        *(good.replace("v=0", sdp) for sdp in ("\t", "\0", "\\x", "\\u12g4")),
        *(good[:-1] + more for more in (', "x": 1}', ', "type": "x"}', ",}")),
        good[:-1] + ', "sdp": 1}',
    ]
