"""The table of outstanding offers. Pure.

Three messages end the process of a stock client: an answer that it does not wait for,
a second error for one offer, and an offer of a peer to which it makes one. So each
offer stays here until it is answered, returned or too old. A message without a place
beside these offers is not passed on.

The text of an offer is kept only while the offer waits. Clients do not read the
description of an offer that is returned to them.

Users have shares of each table; without authentication, addresses do. A full table
takes room from its largest holder.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import Enum
from itertools import takewhile
from typing import Protocol

import msgspec

from proxyrelay.config import Offers
from proxyrelay.switchboard.peer import Sender
from proxyrelay.switchboard.shares import Shares

MAX_OFFERS_OF_CLIENT = 1024
"""Outstanding offers to and from one client."""

MAX_OFFERS = 65_536
"""Outstanding offers of all clients, at some 0.4 kB each."""

MAX_OFFERS_OF_HOLDER = MAX_OFFERS // 8
"""Outstanding offers of one user, or of one address without authentication."""

MAX_HELD_BYTES = 16 * 1024
"""Bytes of the longest offer that may wait. Offers of stock clients have 1 to 2 kB."""

CONNECTED_SECONDS = 10.0
"""Seconds after an answer for which its two clients count as connected. Stock clients
wait 30 s for the connection to open, and make no further offer meanwhile. An offer
that comes all the same crosses nothing."""

MAX_CONNECTED_PAIRS = 16 * 1024
"""Remembered pairs of connected clients, at some 0.4 kB each."""


class DropReason(Enum):
    """Why the shield drops a message: it would end the process of its receiver."""

    ERROR = "it carries an error, which only the relay may set"
    DUPLICATE = "an offer of the same client to the same peer is not answered yet"
    CROSSING = "an offer the other way is not answered yet"
    DESCRIPTION = "its description is no session description of its type"
    LATE = "the sender of the offer no longer waits for an answer"
    UNASKED = "it answers no offer, or one that was answered or is too old"


class Offer(msgspec.Struct, eq=False, gc=False):
    """An offer that was neither answered nor returned.

    Attributes:
        source: UUID of the sender.
        target: UUID of the receiver.
        name: What the sender calls itself.
        since: Arrival, in seconds of the relay's clock.
        text: The message while the offer waits; else None.
        user: ID of the sender's user.
        place: The sender's address, as limits count it.
        holder: Owner of the share that it takes: its user, or its address.
        capped: Whether the limits of one holder apply.
        waited: Seconds that it waited before it was passed on.
        waits: Whether it is in the table, and its receiver lacks it yet.
        target_address: Where the receiver is; None until it is passed on.
        number: Number by which other relays know an offer of this one.
        is_sent_again: Whether another relay has sent it back, and it was sent anew.
        has_arrived: Whether its receiver came while another relay was looked for.
        origin: The sender, if it is a client of another relay; else None.
        slot: Its place in the checkpoint; -1 for none.
    """

    source: str
    target: str
    name: str
    since: float
    text: bytes | None = None
    user: str = ""
    place: str = ""
    holder: str = ""
    capped: bool = True
    waited: float = 0.0
    waits: bool = False
    target_address: str | None = None
    number: int = 0
    is_sent_again: bool = False
    has_arrived: bool = False
    origin: Sender | None = None
    slot: int = -1


class OfferLog(Protocol):
    """The part of `proxyrelay.switchboard.checkpoint.Checkpoint` for offers."""

    def opened(self, offer: Offer, /) -> None:
        """An offer is outstanding."""

    def passed_on(self, offer: Offer, /) -> None:
        """An offer that waited has reached its receiver."""

    def closed(self, offer: Offer, /) -> None:
        """An offer is no longer outstanding."""


Pair = tuple[str, str]


class OfferTable:
    """Outstanding offers, at most one from a client to another; and connected pairs.

    Attributes:
        log: Is told of each change; None for nobody.
    """

    def __init__(self) -> None:
        self.log: OfferLog | None = None
        # All offers, and those that wait; the oldest first in both.
        self._open: dict[Pair, Offer] = {}
        self._held: dict[Pair, Offer] = {}
        # The offers to and from each client; the oldest first, too.
        self._with: dict[str, dict[Pair, Offer]] = {}
        self._shares: Shares[Offer] = Shares()
        self._held_shares: Shares[Offer] = Shares()
        # The shares in the offers of one client, kept only while it has many.
        self._crowds: dict[str, Shares[Offer]] = {}
        # When, the oldest first; the same for both directions.
        self._answered: dict[Pair, float] = {}

    def __len__(self) -> int:
        return len(self._open)

    @property
    def held(self) -> int:
        """Number of offers that wait."""
        return len(self._held)

    def waiting(self) -> list[Offer]:
        """The offers that wait, the oldest first."""
        return list(self._held.values())

    def find(self, source: str, target: str) -> Offer | None:
        """The outstanding offer of a client to another, or None."""
        return self._open.get((source, target))

    def allows(self, offer: Offer) -> bool:
        """Whether its holder may have one more outstanding offer."""
        return not offer.capped or (
            self._shares.size(offer.holder) < MAX_OFFERS_OF_HOLDER
        )

    def full(self, offer: Offer) -> Shares[Offer] | None:
        """The shares in a table without room for one more offer, or None."""
        if len(self._open) >= MAX_OFFERS:
            return self._shares
        for uuid in (offer.source, offer.target):
            if len(self._with.get(uuid, ())) >= MAX_OFFERS_OF_CLIENT:
                return self._crowd(uuid)
        return None

    def _crowd(self, uuid: str) -> Shares[Offer]:
        crowd = self._crowds.get(uuid)
        if crowd is None:
            crowd = self._crowds[uuid] = Shares()
            for offer in self._with[uuid].values():
                crowd.add(offer.holder, offer)
        return crowd

    def add(self, offer: Offer) -> None:
        """Add an offer that was passed on; the table has none of this pair yet."""
        pair = offer.source, offer.target
        self._open[pair] = offer
        self._shares.add(offer.holder, offer)
        for uuid in set(pair):
            self._with.setdefault(uuid, {})[pair] = offer
            if uuid in self._crowds:
                self._crowds[uuid].add(offer.holder, offer)
        if self.log is not None and offer.origin is None:
            self.log.opened(offer)

    def hold(self, offer: Offer, settings: Offers) -> bool:
        """Add an offer that waits, with its text, if there is room.

        Returns:
            Whether it was added.
        """
        if len(self._held) >= settings.held_total or not self._may_wait(
            offer, settings
        ):
            return False
        offer.waits = True
        self.add(offer)
        self._held[offer.source, offer.target] = offer
        self._held_shares.add(offer.holder, offer)
        return True

    def displaced(self, offer: Offer, settings: Offers) -> Offer | None:
        """The waiting offer that must make room for another one, with its text.

        Returns:
            The oldest offer of the largest holder; None if there is room, or if the
            other one may not wait.
        """
        if len(self._held) < settings.held_total or not self._may_wait(offer, settings):
            return None
        return self._held_shares.displaced(offer.holder)

    def _may_wait(self, offer: Offer, settings: Offers) -> bool:
        return len(offer.text or b"") <= MAX_HELD_BYTES and (
            not offer.capped
            or self._held_shares.size(offer.holder) < settings.held_per_user
        )

    def mark_passed_on(self, offer: Offer) -> None:
        """Note that a waiting offer reached its receiver."""
        del self._held[offer.source, offer.target]
        self._held_shares.remove(offer.holder, offer)
        offer.text = None
        offer.waits = False
        if offer.slot >= 0 and self.log is not None:
            self.log.passed_on(offer)

    def close(self, offer: Offer) -> bool:
        """Remove an offer, since it is answered or about to be returned.

        Returns:
            Whether it was there: an offer is answered or returned once.
        """
        pair = offer.source, offer.target
        if self._open.get(pair) is not offer:
            return False
        del self._open[pair]
        if offer.slot >= 0 and self.log is not None:
            self.log.closed(offer)
        self._shares.remove(offer.holder, offer)
        if offer.waits:
            self.mark_passed_on(offer)
        for uuid in set(pair):
            offers = self._with[uuid]
            del offers[pair]
            if len(offers) < MAX_OFFERS_OF_CLIENT // 2:
                self._crowds.pop(uuid, None)
            elif uuid in self._crowds:
                self._crowds[uuid].remove(offer.holder, offer)
            if not offers:
                del self._with[uuid]
        return True

    def of(self, uuid: str) -> list[Offer]:
        """The offers to and from a client, the oldest first."""
        return list(self._with.get(uuid, {}).values())

    def unanswered(self, now: float, seconds: float) -> list[Offer]:
        """The offers of some age in seconds or more, the oldest first."""
        return _older(self._open.values(), now, seconds)

    def unclaimed(self, now: float, seconds: float) -> list[Offer]:
        """The same of the offers that wait."""
        return _older(self._held.values(), now, seconds)

    def mark_connected(self, one: str, other: str, now: float) -> None:
        """Note that an answer has passed between two clients."""
        pair = _pair(one, other)
        self._answered.pop(pair, None)
        if len(self._answered) < MAX_CONNECTED_PAIRS:
            self._answered[pair] = now

    def last_connected(self, one: str, other: str, now: float) -> float:
        """The time of the last answer between two clients, in seconds.

        Returns:
            Minus infinity if it is over `CONNECTED_SECONDS` ago.
        """
        when = self._answered.get(_pair(one, other), -math.inf)
        return when if _is_lately(when, now) else -math.inf

    def forget(self, now: float) -> None:
        """Forget the answers of over `CONNECTED_SECONDS` ago."""
        answers = self._answered.items()
        for pair, _ in list(takewhile(lambda a: not _is_lately(a[1], now), answers)):
            del self._answered[pair]


def _pair(one: str, other: str) -> Pair:
    return (one, other) if one < other else (other, one)


def _is_lately(when: float, now: float) -> bool:
    return now - CONNECTED_SECONDS < when


def _older(offers: Iterable[Offer], now: float, seconds: float) -> list[Offer]:
    return list(takewhile(lambda offer: offer.since <= now - seconds, offers))
