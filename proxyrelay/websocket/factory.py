"""The factory of connections, with all that they share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any, Generic, Protocol, TypeVar, cast

from autobahn.twisted.websocket import WebSocketServerFactory
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime

from proxyrelay.auth import Authenticator
from proxyrelay.config import Config
from proxyrelay.net.accept import AcceptGate
from proxyrelay.net.pacing import TurnBudget
from proxyrelay.net.proxy_header import ProxyHeaderFactory
from proxyrelay.net.write_batch import WriteBatch
from proxyrelay.observe.privacy import Pseudonyms
from proxyrelay.switchboard.events import Dropped, Observer, Probed
from proxyrelay.switchboard.messages import MESSAGE_CEILING
from proxyrelay.switchboard.registry import Registry
from proxyrelay.switchboard.relay import Relay
from proxyrelay.websocket import lifecycle
from proxyrelay.websocket.admission import Limits
from proxyrelay.websocket.flow import FlowQueues
from proxyrelay.websocket.handshake import origin_matcher
from proxyrelay.websocket.lifecycle import Lifecycle, Phase
from proxyrelay.websocket.state import RelayState
from proxyrelay.websocket.upstream import served_class

HANDSHAKES_PER_TURN = 16
"""Requests processed per reactor turn, at about 0.2 ms each."""

TLS_HANDSHAKES_PER_TURN = 8
"""TLS handshakes begun per reactor turn, at about 0.5 ms each."""


class Connection(lifecycle.Connection, Protocol):
    """A connection, as the factory sees it.

    Attributes:
        arrival: Number in the order of arrival.
    """

    arrival: int

    def come_from(self, address: IAddress) -> None:
        """Note the client's address."""

    def close_going_away(self) -> None:
        """Close with 1001, now or after the upgrade."""

    def refuse_for_drain(self) -> None:
        """Ask an unregistered client to come back."""

    def abort(self) -> None:
        """End at once."""


C = TypeVar("C", bound=Connection)


class RelayFactory(WebSocketServerFactory, Generic[C]):
    """Builds the connections of a relay, and owns all that they share.

    Args:
        relay: The rules, with their registry.
        authenticator: Finds the user of a connection.
        observer: Hears of the events of connections.
        clock: Gives the time in seconds, and runs every timer.
        config: The settings.
        pseudonyms: Spells addresses for the log.
        kind: Class of the connections: a `RelayProtocol` or a subclass of it.

    Attributes:
        connections: All connections, registered or not.
        state: State of the relay.
        lifecycle: Timeouts of all connections.
        flows: Flow control of all connections.
        limits: Counts and rates of all addresses and users.
        outbox: Collects what is sent while a read is processed.
        gate: Stops accepting while there is no room.
        pace: Spreads opening handshakes over turns of the reactor.
        tls_pace: Spreads TLS handshakes over turns of the reactor.
        origin_allowed: Whether a browser's ``Origin`` is allowed.
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
        kind: type[C],
    ) -> None:
        super().__init__(server="proxyrelay", reactor=clock)
        self.relay = relay
        self.authenticator = authenticator
        self.observer = observer
        self.clock = clock
        self.config = config
        self.pseudonyms = pseudonyms
        self.connections: set[C] = set()
        self.state = RelayState.STARTING
        self.outbox = WriteBatch()
        self.limits: Limits[C] = Limits(config.limits)
        self.flows = FlowQueues(clock, config, self.limits, self.outbox)
        self.lifecycle = Lifecycle(
            clock, config.timeouts, self._is_backlogged, self._has_unread
        )
        self.gate = AcceptGate(self._room, clock)
        self.pace = TurnBudget(clock, HANDSHAKES_PER_TURN)
        self.tls_pace = TurnBudget(clock, TLS_HANDSHAKES_PER_TURN)
        self.origin_allowed = origin_matcher(config.allowed_origins)
        self.held_up: Callable[[], bool] = lambda: False
        self._kind = kind
        self._proxies: ProxyHeaderFactory | None = None
        self._arrivals = count()
        self._awaiting_end: list[Deferred[None]] = []
        self.setProtocolOptions(
            webStatus=False,
            maxMessagePayloadSize=_max_message_bytes(config),
            failByDrop=False,
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            autoPingInterval=0,
        )
        self.protocol = served_class(self, self._kind)

    @property
    def registry(self) -> Registry:
        """The connection of each UUID."""
        return self.relay.registry

    def apply(self, config: Config) -> None:
        """Serve with other settings from now on, and close no connection.

        Open connections take on ``max_unread_bytes`` and the timeouts; what is left of
        a timeout is stretched or shrunk. They keep ``max_message_bytes``, since a
        message may be on its way.
        """
        self.config = config
        self.limits.apply(config.limits)
        self.flows.apply(config)
        self.lifecycle.apply(config.timeouts)
        if self._proxies is not None:
            self._proxies.waiting.change(config.timeouts.opening_handshake, 0.0)
        self.origin_allowed = origin_matcher(config.allowed_origins)
        if self.maxMessagePayloadSize != _max_message_bytes(config):
            self.setProtocolOptions(maxMessagePayloadSize=_max_message_bytes(config))
            self.protocol = served_class(self, self._kind)

    def buildProtocol(self, addr: IAddress) -> C:  # type: ignore[override]
        """Build a connection, numbered in the order of arrival."""
        protocol = cast(C, super().buildProtocol(addr))
        protocol.come_from(addr)
        protocol.arrival = next(self._arrivals)
        return protocol

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

    def _is_backlogged(self) -> bool:
        return self.backlogged

    def _has_unread(self, phase: Phase) -> bool:
        """Whether the awaited bytes of a phase may be unread."""
        late_tls = phase is Phase.TLS_HANDSHAKE and self.tls_pace.backlogged
        return late_tls or self.outbox.backlogged

    def _room(self, descriptors: int) -> bool:
        self._make_room()
        return self.limits.room(len(self.connections) + self._waiting, descriptors)

    def _make_room(self) -> None:
        """End connections over the total cap, unless the relay itself is late."""
        now = self.clock.seconds()
        while not self.backlogged:
            over_total_cap = self.limits.over_total_cap(now)
            if over_total_cap is None:
                break
            self.lifecycle.expire_early(over_total_cap)

    # -- trusted proxies

    @property
    def _waiting(self) -> int:
        """Connections of trusted proxies without a whole PROXY header."""
        return 0 if self._proxies is None else len(self._proxies.waiting)

    def behind_proxies(self) -> ProxyHeaderFactory:
        """Factory of the same connections, with PROXY headers of trusted proxies."""
        seconds = self.config.timeouts.opening_handshake
        self._proxies = ProxyHeaderFactory(
            self, self.limits.announced, self._dropped, self.clock, seconds
        )
        self._proxies.lost = self._tell_if_all_gone
        self._proxies.probed = self._probed
        return self._proxies

    def _dropped(self, address: str, why: str) -> None:
        self.observer(Dropped(self.pseudonyms.address(address), why))

    def _probed(self, address: str) -> None:
        self.observer(Probed(self.pseudonyms.address(address)))

    # -- the end

    def stop(self, seconds: float) -> Deferred[None]:
        """Close every connection with 1001, and abort the rest in the end.

        Args:
            seconds: Longest wait for the close handshakes.

        Returns:
            Fires when no connection is left.
        """
        if self.state is RelayState.STOPPING:
            return self.all_gone()
        self.state = RelayState.STOPPING
        deadline = self.clock.callLater(seconds, self.abort_all)
        for connection in list(self.connections):
            connection.close_going_away()
        return self.all_gone().addBoth(_cancelled(deadline))

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

    def connection_lost(self, connection: C) -> None:
        """Forget a connection."""
        self.connections.discard(connection)
        self._tell_if_all_gone()

    def _tell_if_all_gone(self) -> None:
        if self.connections or (
            self._waiting and self.state is not RelayState.STOPPING
        ):
            return
        if self.state is RelayState.STOPPING:
            self.lifecycle.stop()
            self.flows.stop()
            self.gate.stop()
            if self._proxies is not None:
                self._proxies.waiting.stop()
        waiting, self._awaiting_end = self._awaiting_end, []
        for awaiting in waiting:
            awaiting.callback(None)


def _max_message_bytes(config: Config) -> int:
    return min(config.max_message_bytes or MESSAGE_CEILING, MESSAGE_CEILING)


def _cancelled(call: IDelayedCall) -> Callable[[Any], None]:
    def cancel(_: object) -> None:
        if call.active():
            call.cancel()

    return cancel
