"""The wait of an offer for another one that crosses it.

A stock client ends when an offer reaches it while it makes an offer to the same peer.
It computes for some milliseconds at that time, and answers no ping. So the relay pings
the receiver of an offer. A late pong means that an offer may be on its way.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from proxyrelay.net.timers import TimeoutQueue
from proxyrelay.switchboard.offers import Offer
from proxyrelay.switchboard.peer import Peer

PING_GAP_SECONDS = 0.001
"""Time from a pong to the next ping. Making an offer takes a client longer."""

LATE_PONG_SECONDS = 0.003
"""Tolerated difference between a pong's time and the client's fastest one."""

JITTER_SHARE = 0.25
"""The same as a share of the fastest time: distant networks are less regular."""

GATHERING_SECONDS = 0.01
"""Time without a late pong that proves that a client makes no offer. A client answers
pings while it gathers addresses, and may have begun just before the first ping."""

STUN_GATHERING_SECONDS = 0.1
"""The same for a client with a STUN or TURN server."""


class _Probe:
    """Pings to a client while offers to it wait.

    Attributes:
        offers: Waiting offers, with the times at which the wait began.
        asked: Time of the last ping.
        fastest: Shortest time to a pong in seconds.
        idle: Time of the last late pong.
        timer: The next ping.
    """

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.offers: dict[Offer, float] = {}
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
        """Offers that no other one will cross."""
        return [
            offer
            for offer, since in self.offers.items()
            if now - max(since, self.idle) >= _gathering(offer)
        ]


class Crossing:
    """Offers that wait for others that may cross them.

    Args:
        clock: Gives the time in seconds, and runs the timers.
        seconds: Longest wait of an offer.
        pass_on: Called with each offer after its wait.
    """

    def __init__(
        self, clock: IReactorTime, seconds: float, pass_on: Callable[[Offer], None]
    ) -> None:
        self._clock = clock
        self._pass_on = pass_on
        self._deadlines = TimeoutQueue(clock, seconds, self._expired)
        self._probes: dict[Peer, _Probe] = {}
        self._probe_of: dict[Offer, _Probe] = {}

    def __len__(self) -> int:
        return len(self._deadlines)

    def begin(self, offer: Offer, peer: Peer) -> None:
        """Begin the wait of an offer, perhaps once more.

        Args:
            offer: With its text.
            peer: The receiver.
        """
        self._end(offer)
        self._deadlines.begin(offer)
        probe = self._probes.get(peer)
        is_new = probe is None
        if probe is None:
            probe = self._probes[peer] = _Probe(peer)
        probe.offers[offer] = self._clock.seconds()
        self._probe_of[offer] = probe
        if is_new:
            self._ask(probe)

    def yield_time(self, offer: Offer) -> None:
        """Let an offer wait as long as allowed. Its receiver drops its own offer."""
        self._end(offer)
        self._deadlines.begin(offer)

    def change(self, seconds: float) -> None:
        """Change the longest wait; see `TimeoutQueue.change`."""
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
                probe.timer = None

    def _expired(self, offer: Offer) -> None:
        self._end(offer)
        self._pass_on(offer)

    def _ask(self, probe: _Probe) -> None:
        probe.timer = None
        probe.asked = self._clock.seconds()
        probe.peer.ping(lambda: self._answered(probe))

    def _answered(self, probe: _Probe) -> None:
        if not probe.offers:
            return  # the last one has gone
        now = self._clock.seconds()
        probe.answered(now)
        for offer in probe.ready(now):
            self._expired(offer)
        if probe.offers:
            probe.timer = self._clock.callLater(PING_GAP_SECONDS, self._ask, probe)


def _gathering(offer: Offer) -> float:
    """Seconds for which a receiver gathers addresses, judged by its sender."""
    text = offer.text or b""
    by_server = b" typ srflx" in text or b" typ relay" in text
    return STUN_GATHERING_SECONDS if by_server else GATHERING_SECONDS
