"""How long an offer waits for one that crosses it.

A stock client ends when an offer reaches it while it makes one to the same peer. It
computes for some milliseconds then, and answers no ping meanwhile. So the relay pings
the receiver of an offer. Late pongs mean that an offer may be on its way.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from proxyrelay.net.rate import Rate
from proxyrelay.net.timers import TimeoutQueue
from proxyrelay.switchboard.offers import Offer
from proxyrelay.switchboard.peer import Peer

PING_GAP_SECONDS = 0.001
"""Seconds from a pong to the next ping. Making an offer takes a client longer."""

RETRY_SECONDS = 0.016
"""Seconds until a ping that could not be sent is tried again."""

PING_RATE = Rate(per_second=1000, burst=0.5)
"""Pings for the offers of one holder: a user, or an address without authentication.
Beyond it, offers of the holder wait for as long as they may."""

MAX_HOLDERS = 1000
"""Holders whose rates are remembered beside those that have some to pay for."""

LATE_PONG_SECONDS = 0.003
"""Seconds by which the time of a pong may differ from the fastest one of a client."""

JITTER_SHARE = 0.25
"""The same, as a share of the fastest one: distant networks are less regular."""

GATHERING_SECONDS = 0.01
"""Seconds without a late pong after which a client makes no offer. It may have begun to
gather its addresses just before the first ping, and answers pings meanwhile."""

GATHERING_BY_STUN_SECONDS = 0.1
"""The same for clients that ask a STUN or TURN server for addresses."""


class _Probe:
    """Pings to a client, for as long as offers to it wait.

    Attributes:
        offers: The offers: when each began to wait, and how long its receiver gathers.
        asked: When the last ping was sent.
        fastest: Seconds that the fastest pong took.
        idle: Since when no pong was late.
        timer: The next ping.
    """

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.offers: dict[Offer, tuple[float, float]] = {}
        self.asked = 0.0
        self.fastest = math.inf
        self.idle = math.inf
        self.timer: IDelayedCall | None = None

    def answered(self, now: float) -> None:
        """Note the pong to the last ping."""
        took = now - self.asked
        fastest, self.fastest = self.fastest, min(self.fastest, took)
        if abs(took - fastest) > max(LATE_PONG_SECONDS, JITTER_SHARE * self.fastest):
            self.idle = now

    def ready(self, now: float) -> list[Offer]:
        """The offers that nothing will cross."""
        return [
            offer
            for offer, (since, gathering) in self.offers.items()
            if offer.text is None or now - max(since, self.idle) >= gathering
        ]


class Crossing:
    """Passes offers on when they have waited for those that may cross them.

    They wait for so many seconds at most.
    """

    def __init__(
        self, clock: IReactorTime, seconds: float, pass_on: Callable[[Offer], None]
    ) -> None:
        self._clock = clock
        self._pass_on = pass_on
        self._deadlines = TimeoutQueue(clock, seconds, self._expired)
        self._probes: dict[Peer, _Probe] = {}
        self._probe_of: dict[Offer, _Probe] = {}
        self._ping_debts: dict[str, float] = {}

    def begin(self, offer: Offer, peer: Peer) -> None:
        """Let an offer with its text wait for its receiver, perhaps anew."""
        self.yield_time(offer)
        probe = self._probes.get(peer)
        is_new = probe is None
        if probe is None:
            probe = self._probes[peer] = _Probe(peer)
        probe.offers[offer] = self._clock.seconds(), _gathering(offer)
        self._probe_of[offer] = probe
        if is_new:
            self._ask(probe)

    def yield_time(self, offer: Offer) -> None:
        """Let an offer wait as long as it may: its receiver gives up its own one."""
        self._end(offer)
        self._deadlines.begin(offer)

    def change(self, seconds: float) -> None:
        """Give offers another time to wait, at most; see `TimeoutQueue.change`."""
        self._deadlines.change(seconds, 0.0)

    def stop(self) -> None:
        """Forget everything."""
        for offer in list(self._probe_of):
            self._end(offer)
        self._deadlines.stop()

    def _end(self, offer: Offer) -> None:
        self._deadlines.end(offer)
        probe = self._probe_of.pop(offer, None)
        if probe is None:
            return
        del probe.offers[offer]
        if not probe.offers:
            del self._probes[probe.peer]
            if probe.timer is not None:
                probe.timer.cancel()

    def _expired(self, offer: Offer) -> None:
        self._end(offer)
        self._pass_on(offer)

    def _ask(self, probe: _Probe) -> None:
        probe.timer = None
        now = probe.asked = self._clock.seconds()
        offer = next(iter(probe.offers))
        debt = self._ping_debts.get(offer.holder, 0.0)
        allowed = not offer.capped or not PING_RATE.over(debt, now)
        if allowed and probe.peer.ping(lambda: self._answered(probe)):
            debts = self._ping_debts
            debts[offer.holder] = PING_RATE.spend(debt, now)
            if len(debts) > MAX_HOLDERS:
                self._ping_debts = {name: d for name, d in debts.items() if d > now}
        else:
            probe.timer = self._clock.callLater(RETRY_SECONDS, self._ask, probe)

    def _answered(self, probe: _Probe) -> None:
        if not probe.offers:
            return  # The last one has gone meanwhile.
        now = self._clock.seconds()
        probe.answered(now)
        for offer in probe.ready(now):
            self._expired(offer)
        if probe.offers:
            probe.timer = self._clock.callLater(PING_GAP_SECONDS, self._ask, probe)


def _gathering(offer: Offer) -> float:
    """How long the receiver of an offer gathers addresses, to judge by its sender."""
    text = offer.text or b""
    by_server = b" typ srflx" in text or b" typ relay" in text
    return GATHERING_BY_STUN_SECONDS if by_server else GATHERING_SECONDS
