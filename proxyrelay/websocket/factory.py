"""The factory of connections, with all that they share."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime

from proxyrelay.auth import Authenticator
from proxyrelay.config import Config
from proxyrelay.net.accept import AcceptGate
from proxyrelay.net.clock import Clock
from proxyrelay.net.pacing import TurnBudget
from proxyrelay.net.proxy_header import ProxyHeaderFactory
from proxyrelay.net.write_batch import WriteBatch
from proxyrelay.observe.privacy import Pseudonyms
from proxyrelay.switchboard.events import Dropped, Observer, Probed
from proxyrelay.switchboard.messages import MESSAGE_CEILING
from proxyrelay.switchboard.relay import Relay
from proxyrelay.websocket.admission import Limits
from proxyrelay.websocket.continuity import Record, Suspended
from proxyrelay.websocket.flow import FlowQueues
from proxyrelay.websocket.handshake import origin_matcher
from proxyrelay.websocket.lifecycle import Lifecycle
from proxyrelay.websocket.state import Phase, RelayState

HANDSHAKES_PER_TURN = 16
"""Requests processed per reactor turn, at about 0.2 ms each."""

TLS_HANDSHAKES_PER_TURN = 8
"""TLS handshakes begun per reactor turn, at about 0.5 ms each."""

OWN_ATTRIBUTES = frozenset({"data", "is_closed", "is_open", "state", "utf8validator"})
"""Autobahn's attributes that differ between connections. ``is_closed`` and ``is_open``
are used only in methods that `proxyrelay.websocket.upstream` overrides."""


class RelayFactory(WebSocketServerFactory):
    """Builds the connections of a relay, and owns all that they share.

    Attributes:
        registry: The registered connection of each UUID.
        boottime: Dates new connections, in seconds; None without a cluster.
        connections: All connections, registered or not.
        outbox: Collects what is sent while a read is processed.
        gate: Stops accepting while there is no room.
        pace: Spreads opening handshakes over turns of the reactor, and the ends of
            connections.
        tls_pace: Spreads TLS handshakes over turns of the reactor.
        behind_proxies: Builds the same connections, with PROXY headers of trusted
            proxies.
        has_successor: Whether another process takes over as this relay stops.
        pinged: Called with each ping of an open connection before the pong; None for
            nobody. May be set.
        held_up: Whether the process stood still, and has unread bytes. May be set.
    """

    noisy = False

    def __init__(
        self,
        relay: Relay,
        authenticator: Authenticator,
        observer: Observer,
        clock: IReactorTime,
        config: Config,
        pseudonyms: Pseudonyms = Pseudonyms(),  # noqa: B008 - has no state
        *,
        kind: type[WebSocketServerProtocol],
    ) -> None:
        super().__init__(server="proxyrelay", reactor=clock)
        self.relay = relay
        self.registry = relay.registry
        self.boottime: Clock | None = None
        self.authenticator = authenticator
        self.observer = observer
        self.clock = clock
        self.pseudonyms = pseudonyms
        self.connections: set[Any] = set()
        self.state = RelayState.STARTING
        self.has_successor = False
        self.outbox = WriteBatch()
        self.limits: Limits[Any] = Limits(config.limits)
        self.flows = FlowQueues(clock, config, self.limits, self.outbox)
        self.lifecycle = Lifecycle(
            clock, config.timeouts, lambda: self.backlogged, self._has_unread
        )
        self.gate = AcceptGate(self._room, clock)
        self.pace = TurnBudget(clock, HANDSHAKES_PER_TURN)
        self.tls_pace = TurnBudget(clock, TLS_HANDSHAKES_PER_TURN)
        self.behind_proxies = ProxyHeaderFactory(
            *(self, self.limits.announced, self._dropped, clock),
            config.timeouts.opening_handshake,
        )
        self.behind_proxies.lost = self._tell_if_all_gone
        self.behind_proxies.probed = self._probed
        self.origin_allowed = origin_matcher(config.allowed_origins)
        self.held_up: Callable[[], bool] = lambda: False
        self.pinged: Callable[[Any, bytes], None] | None = None
        self._kind = kind
        self._arrivals = 0
        self._awaiting_end: list[Deferred[None]] = []
        self.setProtocolOptions(
            webStatus=False,
            maxMessagePayloadSize=_max_message_bytes(config),
            failByDrop=False,
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            autoPingInterval=0,
        )
        self.protocol = served_class(self, kind)

    def apply(self, config: Config) -> None:
        """Serve with other settings from now on, and close no connection.

        Open connections take on ``max_unread_bytes`` and the timeouts; what is left of
        a timeout is stretched or shrunk. They keep ``max_message_bytes``, since a
        message may be on its way.
        """
        self.limits.apply(config.limits)
        self.flows.apply(config)
        self.lifecycle.apply(config.timeouts)
        self.behind_proxies.waiting.change(config.timeouts.opening_handshake, 0.0)
        self.origin_allowed = origin_matcher(config.allowed_origins)
        if self.maxMessagePayloadSize != _max_message_bytes(config):
            self.setProtocolOptions(maxMessagePayloadSize=_max_message_bytes(config))
            self.protocol = served_class(self, self._kind)

    def buildProtocol(self, addr: IAddress) -> Any:  # type: ignore[override]
        """Build a connection, numbered in the order of arrival."""
        protocol: Any = super().buildProtocol(addr)
        protocol.come_from(addr)
        protocol.arrival = self._arrivals
        self._arrivals += 1
        return protocol

    def revive(
        self,
        record: Record,
        suspended: Suspended | None,
        build: Callable[[Any], Any],
        is_torn: bool = False,
    ) -> Any:
        """Go on with a registered connection of another process.

        A ping proves its stream. No limit refuses it, and no event tells of it. Kept
        frames wait for `RevivableProtocol.proceed`, in the same turn of the reactor.
        Connections are revived in the order of their arrival.

        Args:
            record: What is known of it.
            suspended: What it carried at an orderly end; None after a crash.
            build: Builds the transport of the given protocol.
            is_torn: Whether its client has read a part of a frame, whose rest is lost.
                The connection is dropped.

        Returns:
            The connection.
        """
        protocol: Any = self.protocol()
        self._arrivals = max(self._arrivals, record.arrival + 1)
        protocol.revive(record, suspended, build, is_torn)
        return protocol

    def _dropped(self, address: str, why: str) -> None:
        self.observer(Dropped(self.pseudonyms.address(address), why))

    def _probed(self, address: str) -> None:
        self.observer(Probed(self.pseudonyms.address(address)))

    # -- backlog and room

    @property
    def backlogged(self) -> bool:
        """Whether the relay itself is late, so that no client counts as late."""
        return self.has_backlog() or self.held_up()

    def has_backlog(self) -> bool:
        """Whether more was received than is read and processed so far."""
        return (
            self.pace.backlogged or self.tls_pace.backlogged or self.outbox.backlogged
        )

    def _has_unread(self, phase: Phase) -> bool:
        """Whether the awaited bytes of a phase may be unread."""
        late_tls = phase is Phase.TLS_HANDSHAKE and self.tls_pace.backlogged
        return late_tls or self.outbox.backlogged

    def _room(self, descriptors: int) -> bool:
        """Whether there is room, after evictions unless the relay itself is late."""
        now = self.clock.seconds()
        while not self.backlogged and (evicted := self.limits.over_total_cap(now)):
            self.lifecycle.expire_early(evicted)
        sockets = len(self.connections) + len(self.behind_proxies.waiting)
        return self.limits.room(sockets, descriptors)

    # -- the end

    def stop(
        self, seconds: float, staying: Container[object] | None = None
    ) -> Deferred[None]:
        """Close every connection with 1001.

        The result fires when no connection is left. After the given seconds, the rest
        is aborted.

        Args:
            seconds: Until the rest is aborted.
            staying: Connections that another process goes on with; None if there is
                none. With another process, clients without a UUID are asked to come
                back.
        """
        if self.state is RelayState.STOPPING:
            return self.all_gone()
        self.state = RelayState.STOPPING
        self.has_successor = staying is not None
        deadline = self.clock.callLater(seconds, self.abort_all)
        for connection in list(self.connections):
            if staying is None:
                connection.close_going_away()
            elif connection.registration is None:
                connection.refuse_for_drain()
            elif connection not in staying:
                connection.close_going_away()

        def cancel(_: object) -> None:
            if deadline.active():
                deadline.cancel()

        return self.all_gone().addBoth(cancel)

    def drain(self) -> None:
        """Ask all unregistered clients to come back: another relay takes over."""
        self.state = max(self.state, RelayState.DRAINING)
        for connection in list(self.connections):
            connection.refuse_for_drain()

    def all_gone(self) -> Deferred[None]:
        """Deferred that fires when no connection is left."""
        awaiting: Deferred[None] = Deferred()
        self._awaiting_end.append(awaiting)
        self._tell_if_all_gone()
        return awaiting

    def abort_all(self) -> None:
        """End every connection at once."""
        for connection in list(self.connections):
            connection.abort()

    def connection_lost(self, connection: object) -> None:
        """Forget a connection."""
        self.connections.discard(connection)
        self._tell_if_all_gone()

    def _tell_if_all_gone(self) -> None:
        is_stopping = self.state is RelayState.STOPPING
        headers = self.behind_proxies.waiting
        is_last = is_stopping and not self.has_successor
        if self.connections or (len(headers) and not is_last):
            return
        if is_stopping:
            for part in (self.lifecycle, self.flows, self.gate, headers):
                part.stop()
        awaiting, self._awaiting_end = self._awaiting_end, []
        for each in awaiting:
            each.callback(None)


def _max_message_bytes(config: Config) -> int:
    return min(config.max_message_bytes or MESSAGE_CEILING, MESSAGE_CEILING)


def served_class(factory: WebSocketServerFactory, kind: type) -> Any:
    """Subclass of a protocol with all attributes that connections share.

    Autobahn copies 36 options of the factory into each connection, and sets about forty
    attributes that stay as they are. Here both are attributes of the class. Checked
    against Autobahn 26.10.2.
    """
    plain = WebSocketServerProtocol()
    plain.factory = factory
    plain._connectionMade()
    factory.countConnections -= 1
    shared = {n: v for n, v in vars(plain).items() if n not in OWN_ATTRIBUTES}
    # A function would become a method.
    accept = staticmethod(factory.perMessageCompressionAccept)
    shared |= {"CONFIG_ATTRS": (), "perMessageCompressionAccept": accept}
    return type("ServedProtocol", (kind,), shared)
