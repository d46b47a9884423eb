"""Snapshots of a relay."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from socket import gethostname
from typing import TYPE_CHECKING, cast

from twisted.internet.interfaces import IReactorTime

from proxyrelay import __version__
from proxyrelay.admin import nodes
from proxyrelay.admin.control import RelayControl, ReloadOutcome
from proxyrelay.admin.instruments import LAGS_PER_MINUTE
from proxyrelay.admin.report import (
    Certificate,
    Client,
    GlobusAuth,
    Lateness,
    MessageCounts,
    Pair,
    PairSide,
    Quantiles,
    Reach,
    Silence,
    Status,
    Survival,
)
from proxyrelay.auth.authenticator import GlobusAuthenticator
from proxyrelay.net.clock import Clock
from proxyrelay.net.timing import Timing, quantile
from proxyrelay.observe.counters import RelayCounters
from proxyrelay.switchboard import candidates, events
from proxyrelay.switchboard.candidates import Cause
from proxyrelay.switchboard.pairs import PairState
from proxyrelay.switchboard.peer import Registration
from proxyrelay.switchboard.relay import marks
from proxyrelay.websocket.protocol import RelayProtocol
from proxyrelay.websocket.state import RelayState

if TYPE_CHECKING:
    from proxyrelay.cluster.member import Member

CLIENTS_PER_BATCH = 500
"""Clients of one batch, which takes about 2 ms."""

MAX_PEERS = 100
"""Pairs of one client that are listed."""


class View:
    """Takes snapshots of a relay.

    The clock is that of the relay. ``wall`` gives the time in seconds since 1970.
    """

    def __init__(
        self,
        relay: RelayControl,
        counts: RelayCounters,
        lag: Timing,
        clock: IReactorTime,
        wall: Clock,
    ) -> None:
        self.relay = relay
        self.factory = relay.factory
        self.counts = counts
        self.lag = lag
        self.reloads: Counter[ReloadOutcome] = Counter()
        self._clock = clock
        self.wall = wall
        self._started = clock.seconds()
        if self.member is not None:
            self.member.is_ready = lambda: not self.obstacles()

    @property
    def member(self) -> Member | None:
        """This relay's part in a cluster; None if it is alone."""
        return self.relay.member

    @property
    def name(self) -> str:
        """Name of the node in its cluster, or else of the host."""
        return gethostname() if self.member is None else self.member.name

    def name_of(self, uuid: str) -> str:
        """What a registered client calls itself; empty for any other UUID."""
        peer = self.factory.registry.get(uuid)
        registration = None if peer is None else peer.registration
        return "" if registration is None else registration.name

    @property
    def degraded(self) -> list[str]:
        """What does not work, though new clients are served."""
        found = [] if self.member is None else nodes.degraded(self.member)
        if self.survival is not None and not self.survival.works:
            found.append("survive: the supervisor that keeps connections has gone")
        return found

    @property
    def survival(self) -> Survival | None:
        """Connections that are kept for the next process; None if none is."""
        found = self.relay.survival
        if found is None:
            return None
        outcome = found.outcome
        return Survival(
            works=found.works,
            kept=found.kept if found.works else 0,
            unkept=found.unkept,
            capacity=found.capacity,
            resumed=outcome.back,
            lost=outcome.lost,
            resumed_offers=outcome.offers,
        )

    @property
    def globus(self) -> GlobusAuthenticator | None:
        """The authenticator, if it asks Globus Auth; else None."""
        found = self.factory.authenticator
        return found if isinstance(found, GlobusAuthenticator) else None

    @property
    def certificate(self) -> Certificate | None:
        """Dates of the certificate; None without TLS."""
        pair = self.relay.pair
        if pair is None:
            return None
        expires = pair.chain[0].not_valid_after_utc
        return Certificate(expires.timestamp(), pair.renewal.timestamp())

    def obstacles(self) -> list[str]:
        """Every reason why the relay would not serve a new client now."""
        state = self.factory.state
        found = []
        if state >= RelayState.DRAINING:
            found.append(state.name.lower())
        elif not self.relay.urls:
            found.append("listener: no socket is listened on")
        globus = self.globus
        if globus is not None and globus.breaker != "closed":
            found.append("globus: Globus Auth does not answer")
        pair = self.relay.pair
        now = datetime.fromtimestamp(self.wall(), UTC)
        for certificate in () if pair is None else pair.chain:
            end = certificate.not_valid_after_utc
            if now > end:
                found.append(f"certificate: expired on {end.date().isoformat()}")
        return found

    def status(self) -> Status:
        """The whole relay."""
        relay, counts, globus = self.relay, self.counts, self.globus
        uptime, obstacles = self._clock.seconds() - self._started, self.obstacles()
        lag = self.lag.last(LAGS_PER_MINUTE)
        returned = counts.by_label(events.Returned)
        dropped = counts.by_label(events.Shielded)
        return Status(
            version=__version__,
            pid=os.getpid(),
            started=self.wall() - uptime,
            uptime=uptime,
            listening=relay.urls,
            tls=relay.pair is not None,
            authentication=relay.config.auth.method or "none",
            draining=self.factory.state is RelayState.DRAINING,
            ready=not obstacles,
            reasons=obstacles,
            clients=len(self.factory.registry),
            connections=len(self.factory.connections),
            users=self.factory.limits.users,
            registrations=counts.total(events.Registered),
            forwarded=MessageCounts(counts.offers, counts.answers),
            returned={why.value: count for why, count in returned.items()},
            dropped={why.name.lower(): count for why, count in dropped.items()},
            held=counts.total(events.Held),
            unanswered=self.unanswered(),
            refused=_spelt(counts.by_label(events.Refused)),
            rejected=_spelt(counts.by_label(events.Rejected)),
            certificate=self.certificate,
            lag=Lateness(quantile(lag, 0.5), quantile(lag, 0.99), quantile(lag, 1.0)),
            offer_to_answer=_quantiles(counts.answering),
            offer_wait=_quantiles(counts.waiting),
            globus=None if globus is None else GlobusAuth(globus.breaker),
            degraded=self.degraded,
            cluster=None if self.member is None else nodes.state(self.member),
            survival=self.survival,
            reach=self.reach(),
            name=self.name,
        )

    def reach(self) -> Reach:
        """What offers and answers tell about the reach of clients."""
        found = (peer.registration for peer in self.factory.registry)
        kinds, private_only = candidates.count(
            one.candidates for one in found if one is not None
        )
        return Reach(kinds, private_only, len(self.unconnected()))

    def causes(self) -> Counter[Cause]:
        """Number of pairs that do not connect, by the likely cause."""
        return Counter(pair.cause for pair in self.unconnected())

    def unconnected(self) -> list[PairState]:
        """The pairs that do not connect."""
        return self.factory.relay.broker.reach.pairs.unconnected()

    def pairs(self) -> Iterator[list[Pair]]:
        """All pairs that do not connect, in batches."""
        pairs = iter(self.unconnected())
        while batch := list(islice(pairs, CLIENTS_PER_BATCH)):
            yield list(map(self._pair, batch))

    def peers(self, uuid: str) -> list[Pair]:
        """The last pairs of a client, also those that may have connected."""
        pairs = self.factory.relay.broker.reach.pairs.of(uuid)
        return list(map(self._pair, islice(pairs, MAX_PEERS)))

    def _pair(self, pair: PairState) -> Pair:
        ahead = self.wall() - self._clock.seconds()
        return Pair(
            self._side(pair.source),
            self._side(pair.target),
            user=self.relay.pseudonyms.user(pair.user),
            exchanges=pair.count,
            since=ahead + pair.began,
            last=ahead + pair.last,
            cause=pair.cause.name.lower(),
            text=pair.cause.value,
            unconnected=pair.is_unconnected,
        )

    def _side(self, side: Registration) -> PairSide:
        # Another connection may hold the UUID by now, or one at another node before.
        peer = self.factory.registry.get(side.uuid)
        now = None if peer is None else peer.registration
        name = None if now is None else now.name
        return PairSide(side.uuid, name, candidates.words(side.candidates))

    def unanswered(self) -> Silence:
        """Clients that left their last offers unanswered."""
        found = (peer.registration for peer in self.factory.registry)
        some = [one.unanswered for one in found if one is not None and one.unanswered]
        return Silence(len(some), max(some, default=0))

    def clients(self) -> Iterator[list[Client]]:
        """All registered clients, in batches; a client may leave before its batch."""
        peers = iter(list(self.factory.registry))
        while batch := list(islice(peers, CLIENTS_PER_BATCH)):
            yield list(self._described(cast(Iterable[RelayProtocol], batch)))

    def _described(self, peers: Iterable[RelayProtocol]) -> Iterator[Client]:
        ahead = self.wall() - self._clock.seconds()
        for peer in peers:
            registration = peer.registration
            if registration is None:
                continue
            offered = registration.last_offer
            yield Client(
                uuid=registration.uuid,
                name=registration.name,
                user=self.relay.pseudonyms.user(peer.user.sub),
                address=peer.address,
                since=ahead + registration.registered_at,
                last_offer=None if offered is None else ahead + offered,
                sent=registration.sent,
                received=registration.received,
                unanswered=registration.unanswered,
                marks=marks(registration) + ["slowed"] * peer.slowed,
                candidates=candidates.words(registration.candidates),
            )


def _spelt(counts: Counter[int]) -> dict[str, int]:
    return {str(code): count for code, count in counts.items()}


def _quantiles(timing: Timing) -> Quantiles:
    last = timing.last()
    return Quantiles(quantile(last, 0.5), quantile(last, 0.99))
