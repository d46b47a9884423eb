"""Outstanding offers: who may still answer whom. Pure.

The process of a stock client ends when it is sent an answer that it does not wait for,
a second error for one offer, or an offer of a peer that it has just made one to. So
each offer that is passed on is written down here until it is answered, returned or too
old, and what has no place beside these is not passed on.

Nothing is kept of a description, unless an offer waits for its peer to come back, or
for an offer that crosses it: clients do not read that of one that is returned to them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import Enum
from itertools import takewhile

import msgspec

from proxyrelay.config import Offers
from proxyrelay.identity import ANONYMOUS

OUTSTANDING_OF_ONE = 1024
"""Outstanding offers that one client may have a part in, on either side."""

OUTSTANDING = 65_536
"""Outstanding offers of all clients, at some 0.4 kB each."""

OUTSTANDING_OF_USER = OUTSTANDING // 8
"""Outstanding offers of one user, so that others have room. Without authentication
everybody is one, for whom this does not hold."""

HELD_CEILING = 16 * 1024
"""Bytes of the longest offer that is held. Those of stock clients have 1 to 2 kB."""

ACQUAINTED = 10.0
"""Seconds from an answer for which its two clients are taken to have found each other.
Stock clients then keep what came of it, and wait 30 s for it to open: neither begins
another offer, so that one which comes all the same crosses nothing."""

ACQUAINTANCES = 16 * 1024
"""Pairs of which that is remembered, at some 0.4 kB each."""


class Drop(Enum):
    """Why a message is not passed on: each would end the process that gets it."""

    ERROR = "it carries an error, which only the relay may set"
    DUPLICATE = "an offer of the same client to the same peer is not answered yet"
    CROSSING = "an offer the other way is not answered yet"
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
        waited: Seconds that it had waited when it was passed on.
    """

    source: str
    target: str
    name: str
    since: float
    text: bytes | None = None
    user: str = ""
    waited: float = 0.0


Pair = tuple[str, str]


class Ledger:
    """Outstanding offers, at most one from a client to another; and who knows whom."""

    def __init__(self) -> None:
        # The oldest first, in both.
        self._open: dict[Pair, Offer] = {}
        self._held: dict[Pair, Offer] = {}
        self._with: dict[str, dict[Pair, Offer]] = {}
        self._held_by: Counter[str] = Counter()
        self._of_user: Counter[str] = Counter()
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

    def forbids(self, source: str, target: str) -> Drop | None:
        """Why an offer of a client to another may not be passed on, or None."""
        if (source, target) in self._open:
            return Drop.DUPLICATE
        if (target, source) in self._open:
            return Drop.CROSSING
        return None

    def has_room(self, source: str, target: str, user: str = "") -> bool:
        """Whether one more offer of a client to another may be outstanding."""
        return (
            len(self._open) < OUTSTANDING
            and (user == ANONYMOUS.sub or self._of_user[user] < OUTSTANDING_OF_USER)
            and len(self._with.get(source, ())) < OUTSTANDING_OF_ONE
            and len(self._with.get(target, ())) < OUTSTANDING_OF_ONE
        )

    def add(self, offer: Offer) -> None:
        """Write down an offer that was passed on; there is none of this pair yet."""
        pair = offer.source, offer.target
        self._open[pair] = offer
        self._of_user[offer.user] += 1
        for uuid in pair:
            offers = self._with.get(uuid)
            if offers is None:
                self._with[uuid] = {pair: offer}
            else:
                offers[pair] = offer

    def hold(self, offer: Offer, terms: Offers) -> bool:
        """Write down an offer that waits, if it may.

        Args:
            offer: With its text and user.
            terms: How many may.

        Returns:
            Whether it does.
        """
        if len(offer.text or b"") > HELD_CEILING:
            return False
        if len(self._held) >= terms.held_total:
            return False
        everybody = offer.user == ANONYMOUS.sub
        if not everybody and self._held_by[offer.user] >= terms.held_per_user:
            return False
        self.add(offer)
        self._held[offer.source, offer.target] = offer
        self._held_by[offer.user] += 1
        return True

    def pass_on(self, offer: Offer) -> None:
        """Let an offer that waits do so no longer, but for its answer."""
        del self._held[offer.source, offer.target]
        self._held_by[offer.user] -= 1
        if not self._held_by[offer.user]:
            del self._held_by[offer.user]
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
        self._of_user[offer.user] -= 1
        if not self._of_user[offer.user]:
            del self._of_user[offer.user]
        if offer.text is not None:
            self.pass_on(offer)
        for uuid in pair:
            # Both may be the same.
            offers = self._with.get(uuid)
            if offers is not None:
                offers.pop(pair, None)
                if not offers:
                    del self._with[uuid]
        return True

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

    def acquaint(self, one: str, other: str, now: float) -> None:
        """Note that an answer has passed between two clients."""
        pair = _pair(one, other)
        self._answered.pop(pair, None)
        if len(self._answered) < ACQUAINTANCES:
            self._answered[pair] = now

    def acquainted(self, one: str, other: str, now: float) -> float:
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
    # What seems to be still to come was noted before the clock was set back.
    return now - ACQUAINTED < when <= now


def _older(offers: Iterable[Offer], now: float, seconds: float) -> Iterator[Offer]:
    for offer in offers:
        # A clock that was set back must not make anybody wait for longer.
        if now - seconds < offer.since <= now:
            return
        yield offer
