"""Outstanding offers: who may still answer whom. Pure.

The process of a stock client ends when it is sent an answer that it does not wait for,
a second error for one offer, or an offer of a peer that it has just made one to. So
each offer that is passed on is written down here until it is answered, returned or too
old, and what has no place beside these is not passed on.

Nothing is kept of a description, unless an offer waits for its peer to come back, or
for an offer that crosses it: clients do not read that of one that is returned to them.

Each table is shared out between holders: users, or addresses without authentication.
A full table takes room from its largest holder.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from enum import Enum
from itertools import takewhile

import msgspec

from proxyrelay.config import Offers
from proxyrelay.switchboard.shares import Shares

OUTSTANDING_OF_ONE = 1024
"""Outstanding offers that one client may have a part in, on either side."""

OUTSTANDING = 65_536
"""Outstanding offers of all clients, at some 0.4 kB each."""

OUTSTANDING_OF_USER = OUTSTANDING // 8
"""Outstanding offers of one user, or of one address without authentication."""

HELD_CEILING = 16 * 1024
"""Bytes of the longest offer that is held. Those of stock clients have 1 to 2 kB."""

CONNECTED_SECONDS = 10.0
"""Seconds from an answer for which its two clients are taken to have found each other.
Stock clients then keep what came of it, and wait 30 s for it to open: neither begins
another offer, so that one which comes all the same crosses nothing."""

CONNECTED_PAIRS = 16 * 1024
"""Pairs of which that is remembered, at some 0.4 kB each."""


class DropReason(Enum):
    """Why a message is not passed on: each would end the process that gets it."""

    ERROR = "it carries an error, which only the relay may set"
    DUPLICATE = "an offer of the same client to the same peer is not answered yet"
    CROSSING = "an offer the other way is not answered yet"
    DESCRIPTION = "its description is no session description of its type"
    LATE = "the sender of the offer no longer waits for an answer"
    UNASKED = "it answers no offer, or one that was answered or is too old"


class Offer(msgspec.Struct, eq=False, gc=False):
    """An offer that was neither answered nor returned.

    Attributes:
        source: UUID of the client that made it.
        target: UUID of the peer that it is for.
        name: What the client calls itself.
        since: When it came, in seconds of the relay's clock.
        text: The message, as long as it waits; None once it was passed on.
        user: Whose it is.
        place: The address of the client.
        holder: Whose share it takes: its user's, or its address's.
        capped: Whether the limits of one holder apply.
        waited: Seconds that it had waited when it was passed on.
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


Pair = tuple[str, str]


class OfferTable:
    """Outstanding offers, at most one from a client to another; and who knows whom."""

    def __init__(self) -> None:
        # The oldest first, in both.
        self._open: dict[Pair, Offer] = {}
        self._held: dict[Pair, Offer] = {}
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
        """How many offers wait before they are passed on."""
        return len(self._held)

    def find(self, source: str, target: str) -> Offer | None:
        """The outstanding offer of a client to another, or None."""
        return self._open.get((source, target))

    def forbids(self, source: str, target: str) -> DropReason | None:
        """Why an offer of a client to another may not be passed on, or None."""
        if (source, target) in self._open:
            return DropReason.DUPLICATE
        if (target, source) in self._open:
            return DropReason.CROSSING
        return None

    def allows(self, offer: Offer) -> bool:
        """Whether its holder may have one more outstanding offer."""
        return not offer.capped or self._shares.size(offer.holder) < OUTSTANDING_OF_USER

    def full(self, offer: Offer) -> Shares[Offer] | None:
        """The shares in a table without room for one more offer, or None."""
        if len(self._open) >= OUTSTANDING:
            return self._shares
        for uuid in (offer.source, offer.target):
            if len(self._with.get(uuid, ())) >= OUTSTANDING_OF_ONE:
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
        """Write down an offer that was passed on; there is none of this pair yet."""
        pair = offer.source, offer.target
        self._open[pair] = offer
        self._shares.add(offer.holder, offer)
        for uuid in pair:
            offers = self._with.get(uuid)
            if offers is None:
                self._with[uuid] = {pair: offer}
            elif pair not in offers:
                offers[pair] = offer
                if uuid in self._crowds:
                    self._crowds[uuid].add(offer.holder, offer)

    def hold(self, offer: Offer, terms: Offers) -> bool:
        """Write down an offer that waits, if it may.

        Args:
            offer: With its text and holder.
            terms: How many may.

        Returns:
            Whether it does.
        """
        if not self._may_wait(offer, terms) or len(self._held) >= terms.held_total:
            return False
        self.add(offer)
        self._held[offer.source, offer.target] = offer
        self._held_shares.add(offer.holder, offer)
        return True

    def displaced(self, offer: Offer, terms: Offers) -> Offer | None:
        """The offer that must wait no longer, so that another one may.

        Args:
            offer: The other one, with its text and holder.
            terms: How many may.

        Returns:
            The oldest of the largest holder; None if no offer has to go, or if the
            other one may not wait.
        """
        if len(self._held) < terms.held_total or not self._may_wait(offer, terms):
            return None
        return self._held_shares.displaced(offer.holder)

    def _may_wait(self, offer: Offer, terms: Offers) -> bool:
        return len(offer.text or b"") <= HELD_CEILING and (
            not offer.capped
            or self._held_shares.size(offer.holder) < terms.held_per_user
        )

    def pass_on(self, offer: Offer) -> None:
        """Let an offer that waits do so no longer, but for its answer."""
        del self._held[offer.source, offer.target]
        self._held_shares.remove(offer.holder, offer)
        offer.text = None

    def close(self, offer: Offer) -> bool:
        """Strike out an offer, since it is answered, or about to be returned.

        Returns:
            Whether it stood there: an offer is answered or returned once.
        """
        pair = offer.source, offer.target
        if self._open.get(pair) is not offer:
            return False
        del self._open[pair]
        self._shares.remove(offer.holder, offer)
        if offer.text is not None:
            self.pass_on(offer)
        for uuid in pair:
            # Both may be the same.
            offers = self._with.get(uuid)
            if offers is not None and offers.pop(pair, None) is not None:
                if uuid in self._crowds:
                    self._shrink(uuid, offer)
                if not offers:
                    del self._with[uuid]
        return True

    def _shrink(self, uuid: str, offer: Offer) -> None:
        if len(self._with[uuid]) < OUTSTANDING_OF_ONE // 2:
            del self._crowds[uuid]
        else:
            self._crowds[uuid].remove(offer.holder, offer)

    def of(self, uuid: str) -> list[Offer]:
        """The offers that a client has a part in, the oldest first."""
        return list(self._with.get(uuid, {}).values())

    def unanswered(self, now: float, seconds: float) -> list[Offer]:
        """The offers that have waited for so long, the oldest first.

        Args:
            now: The time, in seconds of the clock by which they came.
            seconds: How long.
        """
        return list(_older(self._open.values(), now, seconds))

    def unclaimed(self, now: float, seconds: float) -> list[Offer]:
        """The same of those that wait before they are passed on."""
        return list(_older(self._held.values(), now, seconds))

    def mark_connected(self, one: str, other: str, now: float) -> None:
        """Note that an answer has passed between two clients."""
        pair = _pair(one, other)
        self._answered.pop(pair, None)
        if len(self._answered) < CONNECTED_PAIRS:
            self._answered[pair] = now

    def last_connected(self, one: str, other: str, now: float) -> float:
        """When an answer has passed between two clients, if that was lately.

        Args:
            one: UUID of a client.
            other: UUID of another one.
            now: The time, in seconds of the clock by which it is noted.

        Returns:
            The time; what is before any other, if there is none.
        """
        when = self._answered.get(_pair(one, other), -math.inf)
        return when if _is_lately(when, now) else -math.inf

    def forget(self, now: float) -> None:
        """Forget the answers that have passed too long ago."""
        answers = self._answered.items()
        # It is looked at before anything is removed.
        for pair, _ in list(takewhile(lambda a: not _is_lately(a[1], now), answers)):
            del self._answered[pair]


def _pair(one: str, other: str) -> Pair:
    return (one, other) if one < other else (other, one)


def _is_lately(when: float, now: float) -> bool:
    return now - CONNECTED_SECONDS < when


def _older(offers: Iterable[Offer], now: float, seconds: float) -> Iterator[Offer]:
    for offer in offers:
        if now - seconds < offer.since:
            return
        yield offer
