"""Pairs of clients that do not connect. Pure.

A stock client makes no offer to a peer while it is connected to it. So two clients that
exchange offers and answers again and again are not connected, or not for long.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from proxyrelay.switchboard.candidates import Cause, Kinds, cause_of
from proxyrelay.switchboard.offers import Offer, Pair
from proxyrelay.switchboard.peer import Registration
from proxyrelay.switchboard.shares import Shares

EXCHANGES = 3
"""Answered offers of a pair within `WINDOW_SECONDS`, from which on it counts as
unconnected. A registration of one side explains a further offer, so they begin anew."""

WINDOW_SECONDS = 600.0
"""Seconds after its last exchange for which a pair is remembered."""

MAX_PAIRS = 16 * 1024
"""Remembered pairs, at some 1 kB each."""

MAX_FORGOTTEN_PER_TICK = 1024
"""Pairs that are forgotten at once, at about 2 us each."""


class PairState(msgspec.Struct, eq=False, gc=False):
    """What is known of two clients.

    Attributes:
        source: UUID of the client that made the last offer.
        target: UUID of the client that has answered it.
        source_kinds: Candidates of the first.
        target_kinds: Candidates of the second.
        holder: Owner of the share that the pair takes: a user, or an address.
        user: ID of the user of both.
        times: The last exchanges, in seconds of the relay's clock.
        began: The first exchange, likewise.
        count: Number of exchanges since.
        is_unconnected: Whether the pair counts as unconnected.
    """

    source: str
    target: str
    source_kinds: Kinds
    target_kinds: Kinds
    holder: str
    user: str
    times: tuple[float, ...]
    began: float
    count: int = 1
    is_unconnected: bool = False

    @property
    def cause(self) -> Cause:
        """The likely cause why it does not connect."""
        return cause_of(self.source_kinds, self.target_kinds)


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
            pair = self._add(key, offer, now)
        elif _is_explained(pair.times[-1], source, target):
            self._pairs.move_to_end(key)
            self._unconnected.pop(key, None)
            pair.is_unconnected = False
            pair.times, pair.began, pair.count = (now,), now, 1
        else:
            self._pairs.move_to_end(key)
            pair.times = (*pair.times[1 - EXCHANGES :], now)
            pair.count += 1
        pair.source, pair.source_kinds = one, source.candidates
        pair.target, pair.target_kinds = other, target.candidates
        if pair.is_unconnected or len(pair.times) < EXCHANGES:
            return None
        if now - pair.times[0] < WINDOW_SECONDS:
            pair.is_unconnected = True
            self._unconnected[key] = pair
            return pair
        return None

    def forget(self, now: float) -> None:
        """Forget pairs whose last exchange is over `WINDOW_SECONDS` ago."""
        for _ in range(MAX_FORGOTTEN_PER_TICK):
            key = next(iter(self._pairs), None)
            if key is None or self._pairs[key].times[-1] > now - WINDOW_SECONDS:
                return
            self._remove(key)

    def _add(self, key: Pair, offer: Offer, now: float) -> PairState:
        if len(self._pairs) >= MAX_PAIRS:
            self._remove(self._shares.oldest())
        pair = self._pairs[key] = PairState(
            *(offer.source, offer.target, 0, 0),
            *(offer.holder, offer.user, (now,), now),
        )
        self._shares.add(offer.holder, key)
        return pair

    def _remove(self, key: Pair) -> None:
        pair = self._pairs.pop(key)
        self._unconnected.pop(key, None)
        self._shares.remove(pair.holder, key)


def _is_explained(last: float, one: Registration, other: Registration) -> bool:
    """Whether a registration since the last exchange explains a further one."""
    return one.registered_at > last or other.registered_at > last
