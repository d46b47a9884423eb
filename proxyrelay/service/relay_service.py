"""The relay as a service of Twisted.

Its state (serving, draining, ...) is `RelayFactory.state` in ``websocket/``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from socket import socket
from typing import TYPE_CHECKING, Any, cast

from msgspec import structs
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from proxyrelay import __version__
from proxyrelay.auth import Authenticator
from proxyrelay.config import Config, Offers
from proxyrelay.net import addresses, certificates, listening
from proxyrelay.net.clock import boottime
from proxyrelay.net.process import Heap
from proxyrelay.net.repeat import Repeat
from proxyrelay.net.timers import Heartbeat
from proxyrelay.net.tls_context import TlsContexts
from proxyrelay.observe import log as logs
from proxyrelay.observe import privacy
from proxyrelay.observe.audit import open_audit_log
from proxyrelay.observe.fan_out import fan_out, fan_out_forwards
from proxyrelay.observe.log_observer import LogObserver
from proxyrelay.service.drain import Drain
from proxyrelay.service.ports import ClientPorts
from proxyrelay.survive.survival import Survival
from proxyrelay.switchboard.delivery import PARTED
from proxyrelay.switchboard.events import ForwardObserver, Observer
from proxyrelay.switchboard.offers import Offer
from proxyrelay.switchboard.peer import Peer
from proxyrelay.switchboard.relay import Relay
from proxyrelay.websocket.crossing import Crossing
from proxyrelay.websocket.factory import RelayFactory
from proxyrelay.websocket.protocol import RelayProtocol
from proxyrelay.websocket.state import RelayState

if TYPE_CHECKING:
    from proxyrelay.cluster.member import Member

log = Logger(namespace="proxyrelay")

RESTART_SECONDS = 0.5
"""Longest wait for clients without a UUID, before the next process starts."""

TICK_SECONDS = 0.5
"""Interval between two looks at the offers that wait for an answer."""


class RelayService(MultiService):
    """A relay and its listening sockets.

    The sockets are bound at once. So a taken port is an exception here, and not a line
    in the log of a process that serves nothing.

    Args:
        pair: Certificate and key; None to serve without TLS.
        reactor: Runs the sockets. The end of a drain stops it.
        clock: Runs the timers of the relay; None for the reactor.
        inherited: Listening sockets from a supervisor, in place of own ones.
        survival: Keeps the connections for the next process; None to close them.
        further: Observers beside the log.
        on_forward: Observers of forwarded messages beside the log.
        observer: Writes the log; None if twistd does.

    Attributes:
        factory: Builds the connections, and has all of them.
        ports: Accept the connections.
        pseudonyms: Spelling of users and addresses in all output.
        drained: Called when draining begins. It may be set.
        survival: Keeps the connections for the next process; None to close them.
        is_restarting: Whether the end leaves them to it. It may be set.
        member: Its part in a cluster; None if it is alone.

    Raises:
        StartError: The port cannot be listened on.
        ConfigError: OpenSSL refuses the certificate or the key; the audit log cannot be
            written, or the key of the pseudonyms not be read.
    """

    def __init__(
        self,
        settings: Config,
        authenticator: Authenticator,
        pair: certificates.KeyPair | None,
        reactor: Any,
        clock: IReactorTime | None = None,
        inherited: Sequence[socket] = (),
        survival: Survival | None = None,
        further: Sequence[Observer] = (),
        on_forward: Sequence[ForwardObserver] = (),
        kind: type[RelayProtocol] = RelayProtocol,
        observer: logs.Log | None = None,
    ) -> None:
        super().__init__()
        self._observer = observer
        self._clock = clock = clock or reactor
        self.config = settings
        self._reactor = reactor
        self.pseudonyms = privacy.pseudonyms(settings.logging)
        verbose = settings.logging.default_level == "DEBUG"
        self.log_observer = LogObserver(clock.seconds, verbose, self.pseudonyms)
        self._audit = open_audit_log(settings.logging, clock, self.pseudonyms)
        self.drained: Callable[[], None] = lambda: None
        audited = () if self._audit is None else (self._audit,)
        observers = fan_out((self.log_observer, *audited, *further))
        forwards = (each.forwarded for each in (self.log_observer, *audited))
        self._crossing = Crossing(
            clock, _crossing_seconds(settings.offers), self._pass_on
        )
        self.factory = RelayFactory(
            Relay(
                *(observers, clock.seconds, self._crossing, settings.offers),
                fan_out_forwards((*forwards, *on_forward)),
            ),
            authenticator,
            observers,
            clock,
            settings,
            self.pseudonyms,
            kind=kind,
        )
        self.member = self._new_member()
        self._contexts = None if pair is None else TlsContexts(pair)
        self._census = Repeat(
            self._list_clients, clock, "the list of clients has stopped"
        )
        self._sweep = Heartbeat(
            clock, TICK_SECONDS, self._tick, self.factory.has_backlog
        )
        self.factory.held_up = lambda: self._sweep.overdue
        self._heap = Heap()
        self._drain: Drain | None = None
        self._shared = bool(inherited)
        self.survival = survival
        self.is_restarting = False
        kept = () if survival is None or inherited else survival.listeners()
        self.ports = ClientPorts(
            self.factory,
            inherited
            or kept
            or listening.bind(settings.host, settings.port, reuse=settings.reuse_port),
            self._shared,
            self._contexts,
            reactor,
        )

    def _new_member(self) -> Member | None:
        """Build this relay's part in its cluster; None if it is alone."""
        if not self.config.cluster.is_set:
            return None
        from proxyrelay.cluster.member import Member  # noqa: PLC0415 - an extra

        self.factory.boottime = boottime
        relay = self.factory.relay
        return Member(
            *(self.config, relay, self._reactor, self._clock, _accepted_at),
            self.pseudonyms.user,
        )

    @property
    def state(self) -> RelayState:
        """State of the relay; the factory has it."""
        return self.factory.state

    @property
    def urls(self) -> list[str]:
        """Addresses of the ports, such as ``ws://127.0.0.1:8700``."""
        return [
            f"{self.config.scheme}://{addresses.text(at)}"
            for at in self.ports.addresses
        ]

    @property
    def status(self) -> str:
        """State and number of clients, in a few words."""
        count = len(self.factory.registry)
        return f"{self.state.name.lower()}, clients: {count}"

    @property
    def pair(self) -> certificates.KeyPair | None:
        """Certificate and key; None without TLS."""
        return None if self._contexts is None else self._contexts.certificate

    @property
    def authenticator(self) -> Authenticator:
        """Identifies the user of a new connection."""
        return self.factory.authenticator

    @property
    def lost_lines(self) -> dict[str, int]:
        """Lines that could not be written, of the log and of the audit log."""
        return {
            "log": 0 if self._observer is None else self._observer.lost,
            "audit": 0 if self._audit is None else self._audit.lost,
        }

    # -- reload

    def apply(self, config: Config) -> None:
        """Serve with other settings from now on. No connection is closed."""
        if self.member is not None:
            self.member.apply(config)
        self.config = config
        self.factory.apply(config)
        self.log_observer.verbose = config.logging.default_level == "DEBUG"
        self._apply_offers(config.offers)
        self._census.every(config.logging.current_client_interval)

    def use_certificate(self, pair: certificates.KeyPair) -> None:
        """Serve new connections with another certificate.

        Raises:
            ConfigError: OpenSSL refuses it. Nothing has changed.
        """
        if self._contexts is not None:
            self._contexts.use(pair)

    def use_authenticator(self, authenticator: Authenticator) -> None:
        """Identify new connections with another authenticator.

        The one before still answers its pending questions.
        """
        before, self.factory.authenticator = self.factory.authenticator, authenticator
        if authenticator is not before:
            before.stop()
            authenticator.start()

    def _apply_offers(self, offers: Offers) -> None:
        if self.state >= RelayState.DRAINING and self.member is None:
            offers = structs.replace(offers, hold=0)  # no client comes back here
        self.factory.relay.broker.settings = offers
        self._crossing.change(_crossing_seconds(offers))

    def reopen(self) -> None:
        """Open the log files anew: they may have been renamed."""
        for each in (self._observer, self._audit):
            if each is not None:
                each.reopen()
        log.info("log files are opened anew", event="reopened")

    # -- start

    def startService(self) -> None:
        """Accept connections. The ports have been bound with the privileges of root."""
        if self.survival is not None:
            self._resume(self.survival)
        self.ports.listen()
        if self.survival is not None:
            own = () if self._shared else self.ports.descriptors
            self.survival.keep_listeners(own)
        super().startService()
        self.factory.state = RelayState.SERVING
        if self._audit is not None:
            self._audit.started()
        self._census.every(self.config.logging.current_client_interval)
        self._sweep.start()
        if self.member is not None:
            self.member.start()
        self._reactor.callWhenRunning(self._announce)
        self._reactor.callWhenRunning(self.factory.authenticator.start)

    def _resume(self, survival: Survival) -> None:
        """Go on with the connections of the process before."""
        survival.note("" if self.member is None else self.member.name)
        if self.member is not None:
            self.member.predecessor = survival.before.node
        if self._contexts is None:
            survival.resume(self.factory, self.ports.revive)
        else:
            survival.end_connections()

    def _announce(self) -> None:
        log.info(
            "proxyrelay {version} serves {_urls} (authentication: {method})",
            event="serving",
            version=__version__,
            urls=self.urls,
            _urls=", ".join(self.urls),
            method=self.config.auth.method or "none",
        )

    def _list_clients(self) -> None:
        limit = self.config.logging.current_client_limit
        self.log_observer.clients(self.factory.registry, limit)

    def _tick(self) -> None:
        self.factory.relay.tick()
        if self.member is not None:
            self.member.tick()
        if not self.factory.pace.backlogged:
            self._heap.look(len(self.factory.connections), self._clock.seconds())

    def _pass_on(self, offer: Offer) -> None:
        self.factory.relay.broker.pass_on(offer)

    # -- drain and stop

    def drain(self) -> None:
        """Leave new clients to another relay, and end when the last has left."""
        if self.state >= RelayState.DRAINING:
            return
        places = self.ports.addresses
        self.ports.close()
        if self.survival is not None:
            self.survival.release_listeners()
        self.drained()
        # Nobody can see whether another process accepts from a shared socket.
        if not self._shared and all(
            listening.is_free(at.host, at.port) for at in places
        ):
            log.warn(
                "nobody else listens here: new clients are refused until another relay "
                "starts",
                event="no_successor",
            )
        self._drain = Drain(self.factory, self._clock, self.config.drain_max, self._end)
        if self.member is None:
            # A peer that is not here may be connected to the other relay.
            self.factory.relay.undelivered.unknown_text = PARTED
        else:
            self.member.is_draining = True
        self._apply_offers(self.config.offers)

    def _end(self) -> None:
        with suppress(ReactorNotRunning):  # it may have been stopped meanwhile
            self._reactor.stop()

    @property
    def can_restart(self) -> bool:
        """Whether the next process can go on with the connections."""
        is_last = self.state >= RelayState.DRAINING  # another relay has taken over
        return self.survival is not None and self.survival.works and not is_last

    def stopService(self) -> Deferred[None]:
        """Stop accepting, and close every connection with 1001.

        If the relay `is_restarting`, kept connections stay open for the next process.
        Clients without a UUID are asked to come back, and only the others are closed.

        Returns:
            Fires when no connection is left, at the latest after ``timeouts.stop``.
        """
        survival = self.survival
        if survival is not None and not self.is_restarting:
            survival.release_listeners()
        self.factory.authenticator.stop()
        if self._drain is not None:
            self._drain.stop()
        self._sweep.stop()
        self._census.every(0)
        closed = self.ports.close(is_restart=self.is_restarting)
        if survival is not None and self.is_restarting:
            self._crossing.stop()
            stop = self.config.timeouts.stop
            seconds = RESTART_SECONDS if self._contexts is None else stop
            gone = self.factory.stop(seconds, survival.staying)
            survival.suspend(self.factory.relay)
        else:
            gone = self.factory.stop(self.config.timeouts.stop)
        return Deferred.fromCoroutine(
            self._stopped(closed, gone, super().stopService())
        )

    async def _stopped(self, *stopping: Deferred[Any]) -> None:
        try:
            await gatherResults(stopping, consumeErrors=True)
        finally:
            self.ports.stop()
        # As long as there are clients, there are offers.
        self._crossing.stop()
        if self.member is not None:
            await self.member.stop()
        if self.survival is not None:
            await self._tell_supervisor(self.survival)
            self.survival.close()
        if self._audit is not None:
            self._audit.stopped()
            self._audit = None
        log.info("stopped", event="stopped")

    async def _tell_supervisor(self, survival: Survival) -> None:
        """Wait until the supervisor has been told of all that it is to keep."""
        try:
            await survival.sent().addTimeout(self.config.timeouts.stop, self._clock)
        except TimedOut:
            log.error(
                "the supervisor does not read: connections may be lost",
                event="store_silent",
            )


def _accepted_at(peer: Peer) -> float:
    return cast(RelayProtocol, peer).accepted_at


def _crossing_seconds(offers: Offers) -> float:
    """Return the wait of an offer for one that crosses it.

    At 0 no offer begins to wait, and those that wait already may do so for a moment.
    """
    return offers.crossing or 1.0
