"""A connected client: Autobahn's hooks, and the `Peer` of the rules.

`upstream` adapts Autobahn, `lifecycle` holds the phases with their timeouts, `flow` the
flow control, `fastpath` the splitting of reads, `admission` the limits, `revival` the
way into another process.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from secrets import token_bytes
from typing import Any

from autobahn.websocket.types import ConnectionRequest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IHandshakeListener, ISSLTransport
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from proxyrelay.errors import MessageTooLong, Refusal, TryAgainLater
from proxyrelay.net import addresses
from proxyrelay.switchboard.events import Dropped, Failed, Probed, Rejected, Slowed
from proxyrelay.switchboard.peer import LeaveReason, Peer
from proxyrelay.switchboard.user import User
from proxyrelay.websocket.admission import Origin
from proxyrelay.websocket.authentication import authenticate
from proxyrelay.websocket.fastpath import PIECE, PING, PONG, TEXT, frames
from proxyrelay.websocket.flow import header
from proxyrelay.websocket.handshake import origins
from proxyrelay.websocket.lifecycle import NO_PONG, PHASES, lost_reason
from proxyrelay.websocket.revival import RevivableProtocol
from proxyrelay.websocket.state import Phase, RelayState
from proxyrelay.websocket.upstream import GOING_AWAY

DRAIN_REASON = "Another relay takes over here."
"""Close reason for new clients of a draining relay."""


@implementer(IHandshakeListener)
class RelayProtocol(RevivableProtocol):
    """A client: the `proxyrelay.switchboard.peer.Peer` of the rules.

    Attributes:
        awaits_claim: Whether other relays have not decided on its UUID yet.
    """

    origin: Origin[RelayProtocol]
    awaits_claim = False

    # Not "log": Autobahn's logger of that name writes requests as they are.
    _log = Logger()

    _place: IAddress
    _checking: Deferred[Any] | None = None
    _refusal: Refusal | None = None
    _ping = b""
    _probe: tuple[bytes, Callable[[], None]] | None = None

    # -- the peer, as the rules see it

    @property
    def source(self) -> str:
        """Address or network for the limits."""
        return self.origin.name

    @property
    def limited(self) -> bool:
        """Whether the limits of one address apply."""
        return self.origin.limited

    def registers(self) -> None:
        """Count a registration. Raises `TryAgainLater` if there are too many."""
        limits, now = self.factory.limits, self.factory.clock.seconds()
        if self.registration is not None:
            debt = limits.register_again(self._registration_debt, now)
            self._registration_debt = debt
        limits.register(self.origin, now)

    def answer(self, text: bytes) -> None:
        """Send one text message of the relay; see `FlowControl.answer`."""
        self.flow.answer(text)

    def deliver(self, text: bytes) -> None:
        """Send one text message of another peer; see `FlowControl.deliver`."""
        self.flow.deliver(text)

    def follow(self, other: Peer) -> None:
        """Keep writes until the end of a replaced connection, for a second at most."""
        if isinstance(other, RelayProtocol) and other.phase is not Phase.GONE:
            self.flow.follow(other.flow)

    def ping(self, answered: Callable[[], None]) -> bool:
        """Send a ping, unless the connection closes or the client reads nothing."""
        flow = self.flow
        if self.state != self.STATE_OPEN or flow.paused or flow.is_following:
            return False
        self._probe = self._send_ping(), answered
        return True

    def _send_ping(self) -> bytes:
        payload = token_bytes(4)
        self.flow.send(header(PING, len(payload)) + payload)
        return payload

    def await_claim(self, awaits: bool) -> None:
        """Read nothing until other relays have decided on the client's UUID."""
        self.awaits_claim = awaits
        if self.phase is Phase.GONE:
            return
        if awaits:
            self.transport.pauseProducing()
        else:
            if self.phase is Phase.REGISTERING:
                self._settle()
            self.flow.read_on()

    def close_going_away(self) -> None:
        """Close with 1001: at once, or after the upgrade."""
        self.close(GOING_AWAY, "The relay is shutting down.")
        # The outcome does not matter any more: `onOpen` closes.
        self.cancel_authentication()

    def refuse_for_drain(self) -> None:
        """Ask a client without a UUID to come back: it finds the new relay."""
        if self.phase is Phase.REGISTERING:
            self.refuse(TryAgainLater(DRAIN_REASON))
        else:
            self.cancel_authentication()

    def abort(self) -> None:
        """End the connection at once. Unwritten data is lost."""
        self.drop("aborted at shutdown")
        if self.phase is Phase.DROPPING:
            self.transport.abortConnection()

    # -- the life of the connection

    def connectionMade(self) -> None:
        """Begin: count the connection, and wait for the request."""
        super().connectionMade()
        self.flow = self.flow_class(self, self.factory.flows)
        self.factory.connections.add(self)
        if self.factory.boottime is not None:
            self.accepted_at = self.factory.boottime()
        self.transport.registerProducer(self.flow, True)
        secure = ISSLTransport.providedBy(self.transport)
        self._enter(Phase.TLS_HANDSHAKE if secure else Phase.OPENING)
        self._arrive()

    def handshakeCompleted(self) -> None:
        """Wait for the request: TLS is up."""
        if self.phase is Phase.TLS_HANDSHAKE:
            self._enter(Phase.OPENING)

    def record_without_data(self) -> None:
        """Count a TLS record without data."""
        self.flow.received_empty_record()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End: release all that the connection holds."""
        vanished = self.state != self.STATE_CLOSED
        sent_nothing = self._sent_nothing()
        super().connectionLost(reason)
        try:
            if vanished and sent_nothing:
                self.factory.observer(Probed(self.address))
            elif vanished:
                self._release(lost_reason(self.phase, reason))
        finally:
            self._enter(Phase.GONE)
            self._leave_origin()
            self.flow.close()
            self.factory.connection_lost(self)

    def _sent_nothing(self) -> bool:
        """Whether no byte was read, not even of TLS."""
        transport = self.transport
        if ISSLTransport.providedBy(self.transport):
            return bool(self.phase is Phase.TLS_HANDSHAKE and transport.silent)
        return self.phase is Phase.OPENING and not self.data

    def transport_closing(self, reason: str) -> None:
        """Release all that the connection holds, and wait for its end."""
        self._release(reason)
        self._enter(Phase.DROPPING)

    def _release(self, reason: str) -> None:
        """Release the UUID and the authentication, in state CLOSED."""
        is_registered = self.registration is not None
        if is_registered or self.awaits_claim:
            cause = LeaveReason.IDLE if reason == NO_PONG else LeaveReason.LOST
            self.factory.relay.leave(self, reason, cause)
            self.awaits_claim = False
        if not is_registered and PHASES[self.phase].stage:
            self.factory.observer(Dropped(self.address, reason))
        self.cancel_authentication()

    # -- timeouts, for the table of phases

    def check_alive(self) -> None:
        """Send a ping, and wait for its pong."""
        self._enter(Phase.AWAITING_PONG)
        self._ping = self._send_ping()

    def cancel_authentication(self) -> None:
        """Complete the upgrade now, with a refusal."""
        if self._checking is not None:
            self._checking.cancel()

    def refuse(self, refusal: Refusal) -> None:
        """Close for what the client did or is."""
        self.factory.relay.refuse(self, refusal)

    # -- where the client is

    def come_from(self, address: IAddress) -> None:
        """Note the client's address, as far as it is known."""
        self._place = address
        self.address = self.factory.pseudonyms.address(addresses.text(address))

    def _arrive(self) -> None:
        """Count this connection; evict the oldest unregistered one over the cap."""
        factory, limits = self.factory, self.factory.limits
        trusted = limits.proxies.trust(getattr(self._place, "host", ""))
        limited = not (trusted or addresses.is_loopback(self._place))
        source = addresses.source(self._place, alone=not limited)
        now = factory.clock.seconds()
        self.origin = limits.arrive(self, source, limited, now)
        # While the relay itself is late, no client counts as late.
        if not factory.backlogged:
            over_address_cap = limits.over_address_cap(self.origin, now)
            if over_address_cap is not None:
                factory.lifecycle.expire_early(over_address_cap)

    def _look_behind_proxies(self, headers: dict[str, str]) -> None:
        proxies = self.factory.limits.proxies
        before = getattr(self._place, "host", "")
        host = proxies.client(before, headers.get("x-forwarded-for"))
        if host != before:
            self._leave_origin()
            self.come_from(addresses.of(host))
            self._arrive()

    # -- the opening handshake

    def request_complete(self) -> None:
        """Process the request in its turn."""
        self.factory.pace.do(self._take_request)

    def _take_request(self) -> None:
        if self.state != self.STATE_CONNECTING:
            return
        if all(map(self.factory.origin_allowed, origins(self.data))):
            self.process_request()
        else:
            self.failHandshake("a page of another origin", HTTPStatus.FORBIDDEN)

    def upgrade_requested(self, request: ConnectionRequest) -> Deferred[None]:
        """Find the user. No frame is read before that.

        An HTTP error would end the client's process. So `onOpen` acts on a refusal.
        """
        self._look_behind_proxies(request.headers)
        self._enter(Phase.AUTHENTICATING)
        if self.factory.state >= RelayState.DRAINING:
            return succeed(None)  # `onOpen` closes
        self._checking = authenticate(
            self.factory.authenticator,
            request.headers,
            self.source,
            self.address,
            self._authenticated,
        )
        return self._checking

    def _authenticated(self, outcome: User | Refusal) -> None:
        self._checking = None
        if isinstance(outcome, User):
            self.user = outcome
        else:
            self._refusal = outcome

    def handshake_broken(self, failure: Failure) -> None:
        """End the connection after a defect."""
        self._log.failure(
            "the handshake of {address} failed", failure, address=self.address
        )
        self.drop("the handshake failed")

    def request_rejected(self, status: HTTPStatus, detail: str) -> None:
        """Log an HTTP error, in the place of a dropped connection."""
        self.factory.observer(Rejected(self.address, status.value, detail))
        self._enter(Phase.DROPPING)

    def onOpen(self) -> None:
        """Wait for the registration, or close after an earlier decision."""
        refusal = self._refusal
        self.forget_request("_checking", "_place", "_refusal")
        self.flow.out_of_turn = 0
        factory = self.factory
        if factory.state is RelayState.STOPPING and not factory.has_successor:
            self.close_going_away()
        elif factory.state >= RelayState.DRAINING:
            self.refuse(TryAgainLater(DRAIN_REASON))
        elif refusal is not None:
            self.refuse(refusal)
        else:
            try:
                self.factory.limits.admit(self.origin, self.user)
            except TryAgainLater as full:
                self.refuse(full)
            else:
                self._is_admitted = True
                self._enter(Phase.REGISTERING)

    # -- messages and frames

    def dataReceived(self, data: bytes) -> None:
        """Process a read. Autobahn would keep it after the end of the connection."""
        flow, state = self.flow, self.state
        flow.heard = True
        if state != self.STATE_OPEN and state != self.STATE_CLOSING:  # noqa: PLR1714
            if state != self.STATE_CLOSED:
                self._dataReceived(data)
            return
        if self.data:
            # First bytes of a header, which Autobahn has not looked at yet.
            data = self.data + data
            self.data = b""
        count = 0
        for kind, payload in frames(data, self):
            if kind == TEXT:
                self.onMessage(payload, False)
            elif kind == PING:
                self.onPing(payload)
            elif kind == PONG:
                self.onPong(payload)
            elif kind == PIECE:
                self._dataReceived(payload)
            else:
                flow.defer(payload)
                break
            count += 1
        flow.received(count)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Pass a message to the rules.

        A defect in them is logged. A closed connection would disable the endpoint.
        """
        if self.state != self.STATE_OPEN:
            return
        self.factory.outbox.saw_messages = True
        try:
            self.factory.relay.receive(self, payload, binary=isBinary)
        except Exception:
            self._log.failure("a message of {address} failed", address=self.address)
        if self.phase is Phase.REGISTERING:
            self._settle()

    def _settle(self) -> None:
        """Begin the next phase once the client holds a UUID."""
        if self.registration is not None:
            self._enter(Phase.READY)
            self.factory.limits.settle(self, self.origin)

    def onPing(self, payload: bytes) -> None:
        """Send a pong."""
        if self.phase is Phase.REGISTERING:
            self.flow.received_early()
        if self.state == self.STATE_OPEN:
            if self.factory.pinged is not None:
                self.factory.pinged(self, payload)
            self.flow.send(header(PONG, len(payload)) + payload)

    def onPong(self, payload: bytes) -> None:
        """Note that the client has read everything up to the relay's ping.

        Only the pong to that ping proves it: a client may send without reading. So the
        ping's timeout bounds the time for which data stays unread.
        """
        if self.phase is Phase.AWAITING_PONG and payload == self._ping:
            self._enter(Phase.READY)
        elif self._probe is not None and payload == self._probe[0]:
            (_, answered), self._probe = self._probe, None
            self.flow.awaited_pongs += 1
            try:
                answered()
            except Exception:
                self._log.failure("a pong of {address} failed", address=self.address)
        elif self.phase is Phase.REGISTERING:
            self.flow.received_early()

    def slowed_down(self) -> None:
        """Log the first pause of a client over its rate."""
        if not self.slowed:
            self.slowed = True
            self.factory.observer(Slowed(self.address))

    def message_too_long(self) -> None:
        """Close with 4003."""
        self.refuse(MessageTooLong())

    def protocol_violated(self, code: int, reason: str) -> None:
        """Log a violation of WebSocket."""
        self.factory.observer(Failed(self.address, code, reason))

    def close_frame_due(self, code: int | None, is_reply: bool) -> None:
        """Unregister the client before the close frame."""
        if is_reply:
            reason, cause = "closed by the client", LeaveReason.CLOSED
        else:
            reason = f"closed with {code}"
            cause = LeaveReason.REFUSED if self.failedByMe else LeaveReason.SHUT
        self.factory.relay.leave(self, reason, cause)

    def close_frame_sent(self) -> None:
        """Wait for the client's close frame."""
        self._enter(Phase.CLOSING)
        if self.awaits_claim:
            self.await_claim(False)  # what is read from now on has no effect
