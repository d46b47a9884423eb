"""Snapshots of a relay."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from itertools import islice
from typing import cast

from twisted.internet.interfaces import IReactorTime

from proxyrelay import __version__
from proxyrelay.admin.control import RelayControl, ReloadOutcome
from proxyrelay.admin.lag import MINUTE
from proxyrelay.admin.report import (
    Answering,
    Certificate,
    Client,
    Forwarded,
    GlobusAuth,
    Lateness,
    Silence,
    Status,
    Waiting,
)
from proxyrelay.auth.authenticator import GlobusAuthenticator
from proxyrelay.net.clock import Clock
from proxyrelay.net.timing import Timing, quantile
from proxyrelay.observe.counters import RelayCounters
from proxyrelay.observe.pseudonyms import Clear
from proxyrelay.switchboard import events
from proxyrelay.switchboard.events import FIGHT_TAKEOVERS
from proxyrelay.websocket.protocol import RelayProtocol
from proxyrelay.websocket.state import RelayState

BATCH = 500
"""Clients of one batch, which takes about 2 ms."""


class View:
    """Takes snapshots of a relay.

    Args:
        relay: The relay.
        counts: Numbers of its events.
        lag: Lag of the event loop.
        clock: Gives the time in seconds, as it does to the relay.
        wall: Gives the time in seconds since 1970.

    Attributes:
        relay: The relay.
        counts: Numbers of its events.
        lag: Lag of the event loop.
        reloads: Outcomes of reloads.
    """

    def __init__(
        self,
        relay: RelayControl,
        counts: RelayCounters,
        lag: Timing,
        clock: IReactorTime,
        wall: Clock = time.time,
    ) -> None:
        self.relay = relay
        self.counts = counts
        self.lag = lag
        self.reloads: Counter[ReloadOutcome] = Counter()
        self._clock = clock
        self._wall = wall
        self._started = clock.seconds()

    @property
    def globus(self) -> GlobusAuthenticator | None:
        """The authenticator, if it asks Globus Auth; else None."""
        found = self.relay.authenticator
        return found if isinstance(found, GlobusAuthenticator) else None

    @property
    def expiry(self) -> float | None:
        """Expiry of the certificate in seconds since 1970; None without TLS."""
        pair = self.relay.pair
        return None if pair is None else pair.chain[0].not_valid_after_utc.timestamp()

    @property
    def renewal(self) -> float | None:
        """Time from which to renew the certificate, in seconds since 1970."""
        pair = self.relay.pair
        return None if pair is None else pair.renewal.timestamp()

    def obstacles(self) -> list[str]:
        """Every reason why the relay would not serve a new client now."""
        state = self.relay.factory.state
        found = []
        if state >= RelayState.DRAINING:
            found.append(state.name.lower())
        elif not self.relay.urls:
            found.append("listener: no socket is listened on")
        globus = self.globus
        if globus is not None and globus.breaker != "closed":
            found.append("globus: Globus Auth does not answer")
        pair = self.relay.pair
        now = datetime.fromtimestamp(self._wall(), timezone.utc)
        for certificate in () if pair is None else pair.chain:
            end = certificate.not_valid_after_utc
            if now > end:
                found.append(f"certificate: expired on {end.date().isoformat()}")
        return found

    def status(self) -> Status:
        """The whole relay."""
        relay, counts, globus = self.relay, self.counts, self.globus
        uptime, obstacles = self._clock.seconds() - self._started, self.obstacles()
        expiry, renewal = self.expiry, self.renewal
        lag, answering = self.lag.last(MINUTE), counts.answering.last()
        waiting = counts.waiting.last()
        rules = relay.factory.relay
        return Status(
            version=__version__,
            pid=os.getpid(),
            started=self._wall() - uptime,
            uptime=uptime,
            listening=relay.urls,
            tls=relay.pair is not None,
            authentication=relay.config.auth.method or "none",
            draining=relay.factory.state is RelayState.DRAINING,
            ready=not obstacles,
            reasons=obstacles,
            clients=len(rules.registry),
            connections=len(relay.factory.connections),
            users=relay.factory.limits.users,
            registrations=counts.total(events.Registered),
            forwarded=Forwarded(counts.offers, counts.answers),
            returned={
                why.value: count
                for why, count in counts.by_label(events.Returned).items()
            },
            dropped={
                why.name.lower(): count
                for why, count in counts.by_label(events.Shielded).items()
            },
            held=counts.total(events.Held),
            unanswered=self.unanswered(),
            refused=_spelt(counts.by_label(events.Refused)),
            rejected=_spelt(counts.by_label(events.Rejected)),
            certificate=None
            if expiry is None or renewal is None
            else Certificate(expiry, renewal),
            lag=Lateness(quantile(lag, 0.5), quantile(lag, 0.99), quantile(lag, 1.0)),
            offer_to_answer=Answering(
                quantile(answering, 0.5), quantile(answering, 0.99)
            ),
            offer_wait=Waiting(quantile(waiting, 0.5), quantile(waiting, 0.99)),
            globus=None if globus is None else GlobusAuth(globus.breaker),
        )

    def unanswered(self) -> Silence:
        """Clients that left their last offers unanswered."""
        found = (peer.registration for peer in self.relay.factory.registry)
        some = [one.unanswered for one in found if one is not None and one.unanswered]
        return Silence(len(some), max(some, default=0))

    def clients(self) -> Iterator[list[Client]]:
        """All registered clients, in batches; a client may leave before its batch."""
        peers = iter(list(self.relay.factory.registry))
        while batch := list(islice(peers, BATCH)):
            served = cast(Iterable[RelayProtocol], batch)
            ahead = self._wall() - self._clock.seconds()
            yield list(_clients(served, self.relay.pseudonyms, ahead))


def _spelt(counts: dict[int, int]) -> dict[str, int]:
    return {str(code): count for code, count in counts.items()}


def _clients(
    peers: Iterable[RelayProtocol], pseudonyms: Clear, ahead: float
) -> Iterator[Client]:
    """Describe peers; wall time is ``ahead`` seconds before the clock's."""
    for peer in peers:
        registration = peer.registration
        if registration is not None:
            offered = registration.last_offer
            marks = {
                "deaf": registration.deaf,
                "fight": registration.takeovers >= FIGHT_TAKEOVERS,
                "slowed": peer.slowed,
                "legacy": registration.legacy,
            }
            yield Client(
                uuid=registration.uuid,
                name=registration.name,
                user=pseudonyms.user(peer.user.sub),
                address=peer.address,
                since=ahead + registration.registered_at,
                last_offer=None if offered is None else ahead + offered,
                sent=registration.sent,
                received=registration.received,
                unanswered=registration.unanswered,
                marks=[mark for mark, is_set in marks.items() if is_set],
            )
