"""Pairs of clients that do not connect. Pure.

A stock client makes no offer to a peer while it is connected to it. So two clients that
exchange offers and answers again and again are not connected, or not for long.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice

import msgspec

from proxyrelay.switchboard.candidates import Cause, cause_of
from proxyrelay.switchboard.offers import Offer, Pair
from proxyrelay.switchboard.peer import Registration
from proxyrelay.switchboard.shares import Shares

EXCHANGES = 3
"""Answered offers of a pair within `WINDOW_SECONDS`, from which on it counts as
unconnected. A pair remembers the two before the present one. A registration of one side
explains a further offer, so they begin anew."""

WINDOW_SECONDS = 600.0
"""Seconds after its last exchange for which a pair is remembered."""

MAX_PAIRS = 16 * 1024
"""Remembered pairs, at some 1 kB each."""

MAX_PAIRS_READ = 4 * 1024
"""Pairs that are read for those of one client, in about 2 ms."""

MAX_FORGOTTEN_PER_TICK = 1024
"""Pairs that are forgotten at once, at about 2 us each."""


class PairState(msgspec.Struct, eq=False, gc=False):
    """What is known of two clients.

    Attributes:
        source: The client that made the last offer.
        target: The client that has answered it.
        holder: Owner of the share that the pair takes: a user, or an address.
        user: ID of the user of both.
        began: The first exchange, in seconds of the relay's clock.
        last: The last exchange, likewise.
        before: The exchange before it, likewise; minus infinity if there was none.
        count: Number of exchanges.
        is_unconnected: Whether the pair counts as unconnected.
    """

    source: Registration
    target: Registration
    holder: str
    user: str
    began: float
    last: float
    before: float = -math.inf
    count: int = 1
    is_unconnected: bool = False

    @property
    def cause(self) -> Cause:
        """The likely cause why it does not connect."""
        return cause_of(self.source.candidates, self.target.candidates)


class Pairs:
    """The pairs that have exchanged an offer and its answer lately."""

    def __init__(self) -> None:
        # By the UUIDs in order; the pair without an exchange for longest comes first.
        self._pairs: OrderedDict[Pair, PairState] = OrderedDict()
        self._unconnected: dict[Pair, PairState] = {}
        self._shares: Shares[Pair] = Shares()

    def __len__(self) -> int:
        return len(self._pairs)

    def unconnected(self) -> list[PairState]:
        """The pairs that do not connect, the longest known first."""
        return list(self._unconnected.values())

    def of(self, uuid: str) -> Iterator[PairState]:
        """Pairs of a client among the last `MAX_PAIRS_READ`, the latest first."""
        latest = islice(reversed(self._pairs.items()), MAX_PAIRS_READ)
        return (pair for key, pair in latest if uuid in key)

    def note(
        self, source: Registration, target: Registration, offer: Offer, now: float
    ) -> PairState | None:
        """Note that a client has answered an offer of another one.

        Descriptions that are none for ICE do not count.

        Returns:
            The pair, if it counts as unconnected from now on.
        """
        if not source.candidates or not target.candidates:
            return None
        one, other = source.uuid, target.uuid
        key = (one, other) if one < other else (other, one)
        pair = self._pairs.get(key)
        if pair is None:
            self._add(
                key, PairState(source, target, offer.holder, offer.user, now, now)
            )
            return None
        self._pairs.move_to_end(key)
        last, before = pair.last, pair.before
        pair.source, pair.target, pair.last = source, target, now
        if source.registered_at > last or target.registered_at > last:
            # The registration explains this exchange.
            self._unconnected.pop(key, None)
            pair.began, pair.before, pair.count = now, -math.inf, 1
            pair.is_unconnected = False
            return None
        pair.before = last
        pair.count += 1
        if pair.is_unconnected or now - before >= WINDOW_SECONDS:
            return None
        pair.is_unconnected = True
        self._unconnected[key] = pair
        return pair

    def forget(self, now: float) -> None:
        """Forget pairs whose last exchange is over `WINDOW_SECONDS` ago."""
        for _ in range(MAX_FORGOTTEN_PER_TICK):
            key = next(iter(self._pairs), None)
            if key is None or self._pairs[key].last > now - WINDOW_SECONDS:
                return
            self._remove(key)

    def _add(self, key: Pair, pair: PairState) -> None:
        if len(self._pairs) >= MAX_PAIRS:
            self._remove(self._shares.oldest())
        self._pairs[key] = pair
        self._shares.add(pair.holder, key)

    def _remove(self, key: Pair) -> None:
        pair = self._pairs.pop(key)
        self._unconnected.pop(key, None)
        self._shares.remove(pair.holder, key)
