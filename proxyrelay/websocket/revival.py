"""A connection goes on in another process: one suspends it, the next one revives it.

The socket stays open meanwhile, since a supervisor holds it too. Its client notices
nothing but a ping.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import ISSLTransport

from proxyrelay.errors import Superseded
from proxyrelay.switchboard.candidates import is_private_only
from proxyrelay.switchboard.peer import Registration
from proxyrelay.switchboard.user import ANONYMOUS, User
from proxyrelay.websocket.admission import Origin
from proxyrelay.websocket.continuity import NOTHING, Record, Suspended
from proxyrelay.websocket.factory import RelayFactory
from proxyrelay.websocket.flow import FlowControl
from proxyrelay.websocket.state import Phase
from proxyrelay.websocket.upstream import UpstreamProtocol

TORN = "out of step after a crash"
"""Log text for a client that has read a part of a frame, whose rest is lost."""


class RevivableProtocol(UpstreamProtocol):
    """A connection with all that is known of its client.

    Attributes:
        flow_class: Class of its flow control; a subclass may count.
        phase: Set by `Lifecycle.enter` alone.
        origin: All that is known of the client's address.
        accepted_at: Seconds of the machine's clock; 0 without a cluster.
        slowed: Whether the client was ever over its rate.
    """

    factory: RelayFactory
    flow_class = FlowControl
    user: User = ANONYMOUS
    registration: Registration | None = None
    accepted_at = 0.0
    address: str
    arrival: int
    phase = Phase.GONE
    origin: Origin[Any]
    slowed = False

    _is_admitted = False
    _registration_debt = 0.0

    # -- hooks

    def check_alive(self) -> None:
        """Send a ping, and wait for its pong."""
        raise NotImplementedError

    # -- the end in this process

    @property
    def can_survive(self) -> bool:
        """Whether it is registered, open, and without TLS of the relay itself."""
        return (
            self.registration is not None
            and self.state == self.STATE_OPEN
            and bool(self.transport.connected)
            and not ISSLTransport.providedBy(self.transport)
        )

    def record(self) -> Record:
        """What another process has to know of a registered connection."""
        registration = self.registration
        assert registration is not None  # noqa: S101 - the caller has looked
        return Record(
            uuid=registration.uuid,
            name=registration.name,
            legacy=registration.legacy,
            sub=self.user.sub,
            address=self.address,
            source=self.origin.name,
            limited=self.origin.limited,
            arrival=self.arrival,
            registered_at=registration.registered_at,
            accepted_at=self.accepted_at,
            takeovers=registration.takeovers,
            is_reconnect=registration.is_reconnect,
        )

    def suspend(self) -> Suspended:
        """End the use of a connection that `can_survive`, without a byte lost.

        The socket is closed in this process alone. Neither the rules nor the observers
        are told. Not to be called while a read of this very connection is processed.
        """
        registration, factory, flow = self.registration, self.factory, self.flow
        this: Any = self
        assert registration is not None  # noqa: S101 - the caller has looked
        partial, unread = self.unparsed(), flow.unread if flow.paused else 0
        self._enter(Phase.GONE)
        deferred, held = flow.suspend()
        unsent = self.transport.detach() + held
        self.state = self.STATE_CLOSED
        self.data = b""
        factory.countConnections -= 1
        factory.registry.remove(registration.uuid, this, None)
        self._leave_origin()
        factory.connection_lost(self)
        return Suspended(
            partial=partial,
            deferred=deferred,
            unsent=unsent,
            unread=unread,
            message_debt=flow.message_debt,
            registration_debt=self._registration_debt,
            slowed=self.slowed,
            sent=registration.sent,
            received=registration.received,
            dropped=registration.dropped,
            unanswered=registration.unanswered,
            unheard=registration.unheard,
            deaf=registration.deaf,
            last_offer=registration.last_offer,
            candidates=registration.candidates,
        )

    # -- the beginning in the next one

    def revive(
        self,
        record: Record,
        suspended: Suspended | None,
        build: Callable[[Any], Any],
        is_torn: bool = False,
    ) -> None:
        """Go on with a connection; see `RelayFactory.revive`."""
        factory, state = self.factory, suspended or NOTHING
        this: Any = self
        self._remember(record, state)
        self.transport = transport = build(self)
        self.flow = flow = self.flow_class(this, factory.flows)
        factory.countConnections += 1
        factory.connections.add(self)
        transport.registerProducer(flow, True)
        holder = factory.registry.get(record.uuid)
        if holder is not None:
            # A crash in the middle of a takeover. The later arrival comes later.
            factory.relay.refuse(holder, Superseded())
        factory.registry.add(record.uuid, this)
        flow.message_debt = state.message_debt
        if is_torn:
            self._enter(Phase.READY)
            self.drop(TORN)
            return
        flow.revive(state.unsent, state.unread, state.deferred)
        self.__dict__ = {**vars(self)}  # of the right size, as in `forget_request`
        self.check_alive()
        if state.partial:
            self._dataReceived(state.partial)

    def proceed(self) -> None:
        """Act on the frames that the process before has read, and read on."""
        if self.state == self.STATE_OPEN:
            self.flow.read_on()

    def _remember(self, record: Record, state: Suspended) -> None:
        """Set attributes, but for the values that the class has."""
        self.state = self.STATE_OPEN
        self.address = record.address
        self.arrival = record.arrival
        if record.sub != ANONYMOUS.sub:
            self.user = User(record.sub)
        accepted_at, boottime = record.accepted_at, self.factory.boottime
        if boottime is not None:
            self.accepted_at = accepted_at or boottime()
        if state.slowed:
            self.slowed = True
        if state.registration_debt:
            self._registration_debt = state.registration_debt
        limits = self.factory.limits
        self.origin = limits.readmit(record.source, record.limited, self.user)
        self._is_admitted = True
        self.registration = Registration(
            *(record.uuid, record.name, record.legacy, record.registered_at),
            sent=state.sent,
            received=state.received,
            dropped=state.dropped,
            takeovers=record.takeovers,
            is_reconnect=record.is_reconnect,
            unanswered=state.unanswered,
            unheard=state.unheard,
            deaf=state.deaf,
            last_offer=state.last_offer,
            candidates=state.candidates,
            is_private_told=is_private_only(state.candidates),
        )

    # -- shared with the ordinary life

    def _enter(self, phase: Phase) -> None:
        this: Any = self
        self.factory.lifecycle.enter(this, phase)

    def _leave_origin(self) -> None:
        user = self.user if self._is_admitted else None
        now = self.factory.clock.seconds()
        self.factory.limits.leave(self, self.origin, now, user)
