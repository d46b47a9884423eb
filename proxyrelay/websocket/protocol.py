"""A connected client as an Autobahn protocol, and the factory that builds it.

What Autobahn does well stays with Autobahn: the upgrade, frames, fragments, the
close handshake. What this module adds is the life of a connection: one phase at
a time, each with a deadline, and bounds on what a client may make the relay
keep. Autobahn's own timers stay off: they run on the global reactor.

Checked against Autobahn 26.10.2. Each override says what it changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from enum import Enum, auto
from functools import cached_property
from http import HTTPStatus
from itertools import count
from secrets import token_bytes
from typing import Any, cast

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.util import encode_truncate
from autobahn.websocket.types import ConnectionRequest
from autobahn.websocket.utf8validator import Utf8Validator
from OpenSSL import SSL
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    maybeDeferred,
    succeed,
)
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHandshakeListener,
    IPushProducer,
    IReactorTime,
    ISSLTransport,
)
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from proxyrelay.auth import Authenticator
from proxyrelay.config import Config, Timeouts
from proxyrelay.errors import (
    BadRequest,
    MessageTooLong,
    PeerBusy,
    PeerGone,
    PolicyViolation,
    Refusal,
    TryAgainLater,
)
from proxyrelay.net import addresses
from proxyrelay.net.pacing import TurnBudget
from proxyrelay.net.timers import TimeoutQueue
from proxyrelay.net.transport import PAUSE, AcceptGate, ProxyHeaderFactory, WriteBatch
from proxyrelay.observe.pseudonyms import Clear
from proxyrelay.switchboard.event import Observer
from proxyrelay.switchboard.events import Dropped, Failed, Probed, Rejected, Slowed
from proxyrelay.switchboard.messages import MESSAGE_CEILING
from proxyrelay.switchboard.peer import LeaveReason, Peer, Registration
from proxyrelay.switchboard.relay import Relay
from proxyrelay.switchboard.user import ANONYMOUS, User
from proxyrelay.websocket.admission import Limits, Origin
from proxyrelay.websocket.fastpath import PING, PONG, TEXT, FrameFastPath, header
from proxyrelay.websocket.handshake import (
    acceptance,
    autobahn_head,
    head_complete,
    header_fields,
    origin_matcher,
    origins,
    plain_upgrade,
)

FRAMES_CEILING = 1024
"""Frames of the most fragmented message. Stock clients send one."""

REASON_CEILING = 123
"""Bytes of the longest close reason (RFC 6455, section 5.5)."""

MAX_CONTROL_BEFORE_REGISTRATION = 64
"""Pings and pongs of a client that has not registered. Stock clients send none."""

RECORDS_CEILING = 1024
"""Changes of TLS keys, and parts of records, before the upgrade. Clients send few."""

MAX_FRAMES_AFTER_CLOSE = 128
"""Frames that may have been under way when the relay closed a connection."""

FIRST_CONTROL = 8
"""Opcodes from here on are those of control frames (RFC 6455, section 5.5)."""

CONTROL_CEILING = 125
"""Bytes of the longest control frame (RFC 6455, section 5.5)."""

GOING_AWAY = 1001

REPLACED = "Another relay takes over here."
"""What a client is told that connects while that happens."""

UNREAD = 1.0
"""Seconds for which a deadline is put off while more has come than could be read."""

FOLLOW_SECONDS = 1.0
"""Longest time that a client waits for the end of the connection that it replaces."""

SLACK = 0.01
"""Share of a deadline by which it may be late."""

HANDSHAKES = 16
"""Requests that are processed in one turn of the reactor, at about 0.2 ms each."""

RESTS = 4
"""Clients that are heard on in one turn of the reactor, when they have sent more frames
than are acted upon at once."""

TLS_HANDSHAKES = 8
"""TLS handshakes that begin in one turn of the reactor, at about 0.5 ms each."""


class Phase(Enum):
    """Where a connection stands in its life. Each phase has one deadline."""

    TLS_HANDSHAKE = auto()
    OPENING = auto()
    AUTHENTICATING = auto()
    REGISTERING = auto()
    READY = auto()
    AWAITING_PONG = auto()
    CLOSING = auto()
    DROPPING = auto()
    GONE = auto()


def _lengths(timeouts: Timeouts) -> dict[Phase, float]:
    return {
        Phase.TLS_HANDSHAKE: timeouts.tls_handshake,
        Phase.OPENING: timeouts.opening_handshake,
        Phase.AUTHENTICATING: timeouts.authentication,
        Phase.REGISTERING: timeouts.registration,
        Phase.READY: timeouts.ping_interval,
        Phase.AWAITING_PONG: timeouts.ping_timeout,
        Phase.CLOSING: timeouts.close_handshake,
        Phase.DROPPING: timeouts.close_handshake,
    }


@implementer(IHandshakeListener, IPushProducer)
class RelayProtocol(FrameFastPath):
    """A client. It is the `proxyrelay.switchboard.peer.Peer` that the rules see.

    It is also the push producer of its own transport, which is how it learns
    that the client does not read.
    """

    factory: RelayFactory
    transport: Any
    user: User = ANONYMOUS
    registration: Registration | None = None
    address: str
    arrival: int
    _place: IAddress
    _origin: Origin[RelayProtocol]
    _fields: dict[str, str]

    # Not "log": that is the name of Autobahn's, which writes requests as they are.
    _log = Logger()

    # That of nearly all, as a default: Autobahn looks at it to the end.
    websocket_version = 13

    _phase = Phase.GONE
    _held: list[bytes] | None = None
    _follows = False
    _follower: RelayProtocol | None = None
    _heard = False
    _checking: Deferred[None] | None = None
    _refusal: Refusal | None = None
    _paused = False
    _unread = 0
    _seen = 0
    _frames = 0
    _ping = b""
    _probe: tuple[bytes, Callable[[], None]] | None = None
    _admitted = False
    _message_debt = 0.0
    _registered = 0.0
    _slow: float | None = None
    _told_slow = False
    _rest = b""
    _asked_for = 0
    _early = 0
    _after = 0
    _records = 0

    def __init__(self) -> None:
        """Start with what `_served_class` has put into the class.

        Autobahn's makes six objects here that nobody asks for.
        """

    @property
    def is_open(self) -> Deferred[None]:
        """Fired by Autobahn after the opening handshake. Nobody waits for it."""
        return Deferred()

    @cached_property
    def utf8validator(self) -> Utf8Validator:  # type: ignore[override]
        """Checks texts that come in pieces: Autobahn's, made when it is needed."""
        return Utf8Validator()

    # -- the peer, as the rules see it

    @property
    def source(self) -> str:
        """The address that limits count it for."""
        return self._origin.name

    @property
    def limited(self) -> bool:
        """Whether the limits of one address apply to it."""
        return self._origin.limited

    def registers(self) -> None:
        """Be counted for it.

        Raises:
            TryAgainLater: It is one too many. No stock client does it twice.
        """
        limits, now = self.factory.limits, self.factory.clock.seconds()
        if self.registration is not None:
            self._registered = limits.register_again(self._registered, now)
        limits.register(self._origin, now)

    def answer(self, text: bytes) -> None:
        """Send one text message.

        Not through ``sendMessage``: it refuses what is longer than a client may
        send, and an error that goes back to its sender can be.

        Raises:
            PeerGone: The connection is closing or closed, or was dropped just
                now since the client asks and asks and does not read.
        """
        self._message_debt = self.factory.limits.answered(
            self._message_debt, self.factory.clock.seconds()
        )
        self._say(text)

    def _say(self, text: bytes) -> None:
        if self.state == self.STATE_OPEN:
            self.sendData(header(TEXT, len(text)) + text)
        if self.state != self.STATE_OPEN:
            raise PeerGone

    def deliver(self, text: bytes) -> None:
        """Send one text message of another peer, if the client reads.

        Raises:
            PeerGone: As with `answer`; or the connection is lost, and only its end
                waits for its turn.
            PeerBusy: More than ``max_unread_bytes`` would be unread.
        """
        # Under TLS there is a transport below this one, which is told of the end first.
        below = getattr(self.transport, "transport", self.transport)
        if not below.connected:
            raise PeerGone
        limit = self.factory.config.max_unread_bytes
        is_kept = self._paused or self._follows
        if is_kept and self._unread + len(text) > limit:
            raise PeerBusy
        self._say(text)

    def follow(self, other: Peer) -> None:
        """Keep what is sent until a replaced connection has ended, or for a second."""
        if (
            not isinstance(other, RelayProtocol)
            or other._phase is Phase.GONE
            or self._follows
        ):
            return
        self._follows = True
        other._follower = self
        if not self._paused:
            self._unread = 0
        if self._held is None:
            self._held = []
        self.factory.followers.begin(self)

    def stop_following(self) -> None:
        """Send what was kept."""
        if self._follows:
            self._follows = False
            self.factory.followers.end(self)
            self.send_held()

    def ping(self, answered: Callable[[], None]) -> bool:
        """Send a ping, unless the connection is closing, or the client reads nothing.

        Args:
            answered: Called at the pong.

        Returns:
            Whether the ping was sent.
        """
        if self.state != self.STATE_OPEN or self._paused or self._follows:
            return False
        payload = token_bytes(4)
        self._probe = payload, answered
        self.sendData(header(PING, len(payload)) + payload)
        return True

    def close(self, code: int, reason: str) -> None:
        """Start the close handshake, unless the connection is past it.

        Args:
            code: Any close code. ``sendClose`` would refuse 1001 and 1013.
            reason: Cut to 123 bytes of UTF-8.
        """
        if self.state == self.STATE_OPEN:
            self.sendCloseFrame(code, encode_truncate(reason, REASON_CEILING))

    def close_going_away(self) -> None:
        """Close since the relay stops: at once, or when the upgrade is done."""
        self.close(GOING_AWAY, "The relay is shutting down.")
        if self._checking is not None:
            # The outcome no longer matters: the upgrade is completed, and closed.
            self._checking.cancel()

    def refuse_for_drain(self) -> None:
        """Ask a client that has not registered yet to come back, when it can hear it.

        It finds the relay that takes over. Who has registered is served on.
        """
        if self._phase is Phase.REGISTERING:
            self.factory.relay.refuse(self, TryAgainLater(REPLACED))
        elif self._checking is not None:
            self._checking.cancel()

    def abort(self) -> None:
        """End the connection at once, with whatever it still had to send."""
        self._drop("aborted at shutdown")
        if self._phase is Phase.DROPPING:
            self.transport.abortConnection()

    @property
    def slowed(self) -> bool:
        """Whether it has ever sent faster than it may."""
        return self._told_slow

    # -- the life of the connection

    def connectionMade(self) -> None:
        """Begin.

        Autobahn's adapter would collect what is known of the transport, and set
        TCP_NODELAY; the listening socket has seen to that.
        """
        self._connectionMade()
        self.factory.connections.add(self)
        self.transport.registerProducer(self, True)
        secure = ISSLTransport.providedBy(self.transport)
        self._enter(Phase.TLS_HANDSHAKE if secure else Phase.OPENING)
        self._arrive()

    def come_from(self, place: IAddress) -> None:
        """Note where the client is, as far as that is known."""
        self._place = place
        self.address = self.factory.pseudonyms.address(addresses.text(place))

    def _arrive(self) -> None:
        """Be counted, and let those go whose time is over for it."""
        limits = self.factory.limits
        trusted = limits.proxies.trust(getattr(self._place, "host", ""))
        limited = not (trusted or addresses.is_loopback(self._place))
        source = addresses.source(self._place, alone=not limited)
        now = self.factory.clock.seconds()
        self._origin = limits.arrive(self, source, limited, now)
        # While the relay itself is late, nobody else is.
        over_address_cap = None
        if not self.factory.backlogged:
            over_address_cap = limits.over_address_cap(self._origin, now)
        if over_address_cap is not None:
            over_address_cap.expire_early()

    def expire_early(self) -> None:
        """The deadline of the phase comes early: there are too many like this."""
        if self._phase in _HANDSHAKES:
            self._drop("too many without a registration")
        else:
            self.expired()

    def _leave_origin(self) -> None:
        user = self.user if self._admitted else None
        now = self.factory.clock.seconds()
        self.factory.limits.leave(self, self._origin, now, user)

    def _connectionMade(self) -> None:
        """Set what is different for each connection; see `_served_class`."""
        self.state = self.STATE_CONNECTING
        self.data = b""
        self.factory.countConnections += 1

    def handshakeCompleted(self) -> None:
        """TLS is up; the request may come."""
        if self._phase is Phase.TLS_HANDSHAKE:
            self._enter(Phase.OPENING)

    def dataReceived(self, data: bytes) -> None:
        """Take bytes from the client, and note that it is there."""
        self._heard = True
        super().dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End.

        Autobahn would end timers that it has not begun, call `onClose`, and write log
        lines, of which one takes OpenSSL's words for a format.
        """
        vanished = self.state != self.STATE_CLOSED
        self.state = self.STATE_CLOSED
        self.factory.countConnections -= 1
        try:
            if vanished and self._sent_nothing():
                self.factory.journal(Probed(self.address))
            elif vanished:
                when = _WHEN.get(self._phase, "")
                self._release(f"connection lost{when}{_tls(reason)}")
        finally:
            self._enter(Phase.GONE)
            self._leave_origin()
            if self._slow is not None:
                self.factory.slow.end(self)
            if self._follows:
                self.factory.followers.end(self)
            if self._follower is not None:
                self._follower.stop_following()
            self.factory.connection_lost(self)

    def _sent_nothing(self) -> bool:
        """Whether no byte has come, not even of TLS."""
        transport = self.transport
        if ISSLTransport.providedBy(self.transport):
            return bool(self._phase is Phase.TLS_HANDSHAKE and transport.silent)
        return self._phase is Phase.OPENING and not self.data

    def _enter(self, phase: Phase) -> None:
        deadlines = self.factory.deadlines
        if self._phase is not Phase.GONE:
            deadlines[self._phase].end(self)
            self.factory.unread.end(self)
        self._phase = phase
        self._heard = False
        if phase is not Phase.GONE:
            deadlines[phase].begin(self)

    def expired(self) -> None:
        """The deadline of the phase has come."""
        if self._may_be_unread():
            self.factory.unread.begin(self)
        elif (
            self._phase is Phase.AWAITING_PONG
            and self._heard
            and self._message_debt > self.factory.clock.seconds()
        ):
            # Its pong may be behind what it was too fast to send.
            self._enter(Phase.AWAITING_PONG)
        elif self._phase is Phase.READY and self._heard and not self._paused:
            # It has just pinged, as stock clients do, and reads what it is sent.
            self._enter(Phase.READY)
        elif self._phase is Phase.READY:
            self._enter(Phase.AWAITING_PONG)
            self._ping = token_bytes(4)
            self.sendData(header(PING, len(self._ping)) + self._ping)
        elif self._phase is Phase.OPENING and head_complete(self.data, self._seen):
            # Its request is there, and waits for its turn.
            self._enter(Phase.OPENING)
        elif self._phase is Phase.AUTHENTICATING and self._checking is not None:
            self._checking.cancel()
            if self._phase is Phase.AUTHENTICATING:
                # The authenticator goes on for all that.
                self._drop(_LATE[self._phase])
        elif self._phase is Phase.REGISTERING:
            self.factory.relay.refuse(
                self, TryAgainLater("No registration arrived in time.")
            )
        elif self._phase is Phase.DROPPING:
            # A TLS peer may never say goodbye, a TCP peer never read the last word.
            self.transport.abortConnection()
        else:
            self._drop(_LATE[self._phase])

    def _may_be_unread(self) -> bool:
        """Whether what was awaited may have come, and wait to be read."""
        if self._phase is Phase.TLS_HANDSHAKE and self.factory.tls_pace.backlogged:
            return True
        return self._phase in _UNREAD and self.factory.outbox.backlogged

    def _drop(self, why: str) -> None:
        """End the connection without a close handshake."""
        if self.state != self.STATE_CLOSED:
            self.wasNotCleanReason = why
            self.dropConnection(abort=True)

    def _release(self, why: str) -> None:
        """Let go of all that a connection holds, when its state is CLOSED."""
        if self.registration is not None:
            silent = why == _LATE[Phase.AWAITING_PONG]
            cause = LeaveReason.IDLE if silent else LeaveReason.LOST
            self.factory.relay.leave(self, why, cause)
        elif self._phase in _WHEN:
            self.factory.journal(Dropped(self.address, why))
        if self._checking is not None:
            self._checking.cancel()

    def dropConnection(self, abort: bool = False) -> None:
        """End the connection below WebSocket.

        As Autobahn's, less its log line at WARNING: the journal has told it.
        """
        self.unregisterProducer()
        if self.state != self.STATE_CLOSED:
            self.droppedByMe = True
            self.state = self.STATE_CLOSED
            self._closeConnection(abort)

    def _closeConnection(self, abort: bool = False) -> None:  # noqa: N802
        """Let go of everything, and of the transport within a bound.

        Autobahn resets the connection after a clean close handshake, too; here
        that ends in an orderly way.
        """
        self.stop_following()
        self.send_held()
        self._release(self.wasNotCleanReason or "closed")
        self._enter(Phase.DROPPING)
        if abort and not self.wasClean:
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()

    # -- the opening handshake

    def processHandshake(self) -> None:
        """Let Autobahn parse the request, once it is whole and well formed."""
        if self._phase is Phase.AUTHENTICATING:
            self.failHandshake("data before the handshake was answered")
            return
        try:
            whole = head_complete(self.data, self._seen)
        except BadRequest as error:
            self._reject(str(error), error.status)
            return
        self._seen = len(self.data)
        if whole:
            self.factory.pace.do(self._process_request)

    def _process_request(self) -> None:
        if self.state != self.STATE_CONNECTING:
            return
        if not all(map(self.factory.origin_allowed, origins(self.data))):
            self.failHandshake("a page of another origin", HTTPStatus.FORBIDDEN)
            return
        upgrade = plain_upgrade(self.data)
        if upgrade is None:
            self._fields = header_fields(self.data)
            self.data = autobahn_head(self.data)
            super().processHandshake()
        else:
            self.data = b""
            self._wskey = upgrade.key
            identified = self._identify(upgrade.headers)
            identified.addCallback(self.succeedHandshake).addErrback(self._broken)

    def _broken(self, failure: Failure) -> None:
        self._log.failure(
            "the handshake of {address} failed", failure, address=self.address
        )
        self._drop("the handshake failed")

    def onConnect(  # type: ignore[override]  # Autobahn awaits it
        self,
        request: ConnectionRequest,  # noqa: ARG002 - holds only what Autobahn has seen
    ) -> Deferred[None]:
        """Find out whose request it is that Autobahn has checked."""
        return self._identify(self._fields)

    def _identify(self, headers: dict[str, str]) -> Deferred[None]:
        """Find out who the client is. No frame is read before that is known.

        Returns:
            Fires with None, whatever the outcome, since an HTTP error would end the
            client's process: the upgrade is completed, and a refusal is acted upon in
            `onOpen`.
        """
        self._look_behind_proxies(headers)
        self._enter(Phase.AUTHENTICATING)
        if self.factory.stopping or self.factory.draining:
            return succeed(None)  # whoever it is: `onOpen` closes
        checking: Deferred[Any] = maybeDeferred(
            self.factory.authenticator.authenticate, headers, self.source
        )
        self._checking = checking
        return checking.addCallbacks(self._identified, self._not_identified)

    def _look_behind_proxies(self, headers: dict[str, str]) -> None:
        proxies = self.factory.limits.proxies
        before = getattr(self._place, "host", "")
        host = proxies.client(before, headers.get("x-forwarded-for"))
        if host != before:
            self._leave_origin()
            self.come_from(addresses.of(host))
            self._arrive()

    def _identified(self, user: User) -> None:
        self._checking = None
        self.user = user

    def _not_identified(self, failure: Failure) -> None:
        self._checking = None
        if failure.check(Refusal):
            # Its traceback holds the frames that hold the token.
            self._refusal = cast(Refusal, failure.value).with_traceback(None)
        elif failure.check(CancelledError):
            self._refusal = TryAgainLater("Authentication took too long.")
        else:
            self._log.failure(
                "authenticating {address} failed", failure, address=self.address
            )
            self._refusal = TryAgainLater("Authentication is out of order.")

    def succeedHandshake(
        self,
        res: object,  # noqa: ARG002 - Autobahn's signature
    ) -> None:
        """Complete the upgrade, if the client is still there.

        Autobahn would revive a connection that is lost, and looks for extensions, of
        which there are none here, for subprotocols, and for timers.
        """
        if self.state == self.STATE_CONNECTING:
            self.sendData(acceptance(self.factory.server, self._wskey))
            self.state = self.STATE_OPEN
            self.inside_message = False
            self.current_frame = None
            self.onOpen()

    def onOpen(self) -> None:
        """Wait for the registration, or close with what was decided before.

        What Autobahn keeps of the request is forgotten: it may hold a token, and may
        be long. The rest, as far as it is not as in the class, moves into a table of
        its size.
        """
        served = type(self)
        self.__dict__ = {
            name: value
            for name, value in vars(self).items()
            if name not in _HANDSHAKE_LEFTOVERS
            and getattr(served, name, served) is not value
        }
        if self.factory.stopping:
            self.close_going_away()
        elif self.factory.draining:
            self._refusal = None
            self.factory.relay.refuse(self, TryAgainLater(REPLACED))
        elif self._refusal is not None:
            refusal, self._refusal = self._refusal, None
            self.factory.relay.refuse(self, refusal)
        else:
            self._be_admitted()

    def _be_admitted(self) -> None:
        try:
            self.factory.limits.admit(self._origin, self.user)
        except TryAgainLater as refusal:
            self.factory.relay.refuse(self, refusal)
        else:
            self._admitted = True
            self._enter(Phase.REGISTERING)

    def failHandshake(
        self,
        reason: str,
        code: int = HTTPStatus.BAD_REQUEST,
        responseHeaders: list[tuple[str, str]] | None = None,
    ) -> None:
        """Answer with an HTTP error.

        Autobahn would put its reason, with pieces of the request or of an
        exception, into the status line.

        Args:
            reason: For the log only.
            code: The HTTP status.
            responseHeaders: Header fields that belong to the status.
        """
        # Where Autobahn quotes the request, it may quote a secret.
        detail = re.sub('"[^"]*"', "...", reason)
        self._reject(detail, HTTPStatus(code), responseHeaders or ())

    def _reject(
        self,
        detail: str,
        status: HTTPStatus,
        own_headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Answer with an HTTP error, and log the detail."""
        self.factory.journal(Rejected(self.address, status.value, detail))
        headers = [*own_headers, ("Content-Length", "0")]
        if status is HTTPStatus.UPGRADE_REQUIRED:
            headers += [("Upgrade", "websocket"), ("Connection", "upgrade, close")]
        else:
            headers.append(("Connection", "close"))
        self.wasNotCleanReason = detail
        # The journal has been told, so this is no longer a connection to tell of.
        self._enter(Phase.DROPPING)
        self.sendHttpErrorResponse(status.value, status.phrase, headers)
        self.dropConnection(abort=False)

    # -- messages and frames

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Pass a message to the rules.

        A defect in them is logged; the connection stays. To close it would
        disable the endpoint behind it.
        """
        if self.state != self.STATE_OPEN:
            return
        self.factory.outbox.saw_messages = True
        try:
            self.factory.relay.receive(self, payload, binary=isBinary)
        except Exception:
            self._log.failure("a message of {address} failed", address=self.address)
        if self._phase is Phase.REGISTERING and self.registration is not None:
            self._enter(Phase.READY)
            self.factory.limits.settle(self, self._origin)

    def onPing(self, payload: bytes) -> None:
        """Answer, as Autobahn does, in one step."""
        if self._phase is Phase.REGISTERING:
            self._count_early()
        if self.state == self.STATE_OPEN:
            self.sendData(header(PONG, len(payload)) + payload)

    def onPong(self, payload: bytes) -> None:
        """Take note that the client has read everything up to the relay's ping.

        Only the pong to that very ping says so: a client that does not read can
        still send. So the ping's timeout bounds how long data stays unread.
        """
        if self._phase is Phase.AWAITING_PONG and payload == self._ping:
            self._enter(Phase.READY)
        elif self._probe is not None and payload == self._probe[0]:
            (_, answered), self._probe = self._probe, None
            self._asked_for += 1
            try:
                answered()
            except Exception:
                self._log.failure("a pong of {address} failed", address=self.address)
        elif self._phase is Phase.REGISTERING:
            self._count_early()

    def _count_early(self) -> None:
        """Bound what is sent instead of a registration."""
        self._early += 1
        if self._early > MAX_CONTROL_BEFORE_REGISTRATION:
            refusal = PolicyViolation("Too many frames before a registration.")
            self._fail_connection(refusal.code, refusal.reason)

    def onMessageBegin(self, isBinary: bool) -> None:
        """Start to count the frames of a message."""
        self._frames = 0
        super().onMessageBegin(isBinary)

    def onMessageFrameBegin(self, length: int) -> None:
        """Bound the frames of a message: empty ones add nothing to its length."""
        self._frames += 1
        if self._frames == FRAMES_CEILING + 1:
            refusal = PolicyViolation("Too many frames in one message.")
            self._fail_connection(refusal.code, refusal.reason)
        super().onMessageFrameBegin(length)

    def onFrameData(self, payload: bytes) -> bool | None:
        """Keep nothing of a control frame that is too long.

        After the violation Autobahn reads it to its end, and keeps every byte.
        """
        frame = self.current_frame
        if frame.opcode >= FIRST_CONTROL and frame.length > CONTROL_CEILING:
            return None
        return super().onFrameData(payload)

    def onMessageFrameData(self, payload: bytes) -> None:
        """Keep a frame in one piece: Autobahn keeps one for each read."""
        if self.failedByMe:
            return
        if self.frame_data:
            self.frame_data[0] += payload
        else:
            self.frame_data.append(bytearray(payload))

    def _max_message_size_exceeded(
        self,
        msg_size: int,
        max_msg_size: int,  # noqa: ARG002 - Autobahn's signature
        reason: str,
    ) -> None:
        """Close 4003 above the setting, but 1009 above what any relay takes."""
        if msg_size > MESSAGE_CEILING:
            self._fail_connection(self.CLOSE_STATUS_CODE_MESSAGE_TOO_BIG, reason)
            return
        self.failedByMe = True
        if self.state == self.STATE_OPEN:
            self.factory.relay.refuse(self, MessageTooLong())

    def _fail_connection(
        self,
        code: int = GOING_AWAY,
        reason: str = "going away",
    ) -> None:
        """Close after a violation of the protocol.

        As Autobahn's with ``failByDrop=False``, with the journal in the place of
        its log line, which does not say whose connection it is.
        """
        if self.state == self.STATE_OPEN:
            self.failedByMe = True
            self.factory.journal(Failed(self.address, code, reason))
            self.close(code, reason)
        elif self.state == self.STATE_CLOSING:
            self.dropConnection(abort=False)

    def sendCloseFrame(
        self,
        code: int | None = None,
        reasonUtf8: bytes | None = None,
        isReply: bool = False,
    ) -> None:
        """Send a close frame; from here on the client is no longer registered."""
        why = "closed by the client" if isReply else f"closed with {code}"
        if isReply:
            cause = LeaveReason.CLOSED
        else:
            cause = LeaveReason.REFUSED if self.failedByMe else LeaveReason.SHUT
        self.factory.relay.leave(self, why, cause)
        # The last word is not counted. Were the connection dropped for it, Autobahn
        # would set its state back from CLOSED to CLOSING.
        self.stop_following()
        self._unread = 0
        super().sendCloseFrame(code, reasonUtf8, isReply)
        if self.state == self.STATE_CLOSING:
            self._enter(Phase.CLOSING)

    # -- how fast the client is

    def record_without_data(self) -> None:
        """Count a change of TLS keys, or a part of a record, as a piece of a frame."""
        if self.state != self.STATE_CONNECTING:
            self.frames_received(1)
            return
        self._records += 1
        if self._records > RECORDS_CEILING:
            self._drop("too many TLS records without data")

    def frames_received(self, count: int) -> None:
        """Read on later from a client that is too fast. Nothing is lost by that.

        It is done once for each read, since that is what costs time. Pongs that the
        relay has asked for are free.
        """
        count -= self._asked_for
        self._asked_for = 0
        factory = self.factory
        now = factory.clock.seconds()
        if self.state != self.STATE_OPEN:
            self._after += count
            if self._after > MAX_FRAMES_AFTER_CLOSE:
                self._drop("sends on after it was closed")
            return
        self._message_debt = factory.limits.heard(
            self._origin, self._message_debt, now, count
        )
        if factory.limits.too_fast(self._origin, self._message_debt, now):
            self._slow_down(now)

    def _slow_down(self, now: float) -> None:
        if self._slow is not None:
            return
        self._slow = now
        self.transport.pauseProducing()
        self.factory.slow.begin(self)
        if not self._told_slow:
            self._told_slow = True
            self.factory.journal(Slowed(self.address))

    def defer_frames(self, rest: bytes) -> None:
        """Keep frames for the next turn, and read no others meanwhile."""
        self._rest = rest
        self.transport.pauseProducing()
        self.factory.rests.do(self._go_on)

    def _go_on(self) -> None:
        if self._slow is None:
            self._take_rest()

    def _take_rest(self) -> None:
        rest, self._rest = self._rest, b""
        if rest:
            self.dataReceived(rest)
        if not self._rest and self._slow is None and self.state != self.STATE_CLOSED:
            self.transport.resumeProducing()

    def resume_reading(self) -> None:
        """Read again, unless it is too early."""
        now = self.factory.clock.seconds()
        if self.factory.limits.too_fast(
            self._origin, self._message_debt, now, self._slow
        ):
            self.factory.slow.begin(self)
            return
        self._slow = None
        self._take_rest()

    # -- what the client does not read

    def sendData(
        self,
        data: bytes,
        sync: bool = False,  # noqa: ARG002 - Autobahn's signature
        chopsize: int | None = None,  # noqa: ARG002
    ) -> None:
        """Write, and count what is written while the client does not read.

        What others send it is bounded in `deliver`. Twice as much can only come
        of pongs and answers: then the client sends on, and does not read.

        Autobahn's way to write in pieces is left out, as are its log lines.
        """
        if self._paused or self._follows:
            self._unread += len(data)
            if self._unread > 2 * self.factory.config.max_unread_bytes:
                self._drop("left too much unread")
                return
        waiting = self.factory.outbox.waiting
        if self._held is not None:
            self._held.append(data)
        elif waiting is None:
            self.transport.write(data)
        else:
            self._held = [data]
            waiting.append(self)

    def send_held(self) -> None:
        """Write what has come together, in one piece."""
        if self._held is not None and not self._follows:
            held, self._held = self._held, None
            if held:
                self.transport.write(held[0] if len(held) == 1 else b"".join(held))

    def pauseProducing(self) -> None:
        """The transport's buffer is full: the client does not read.

        A TCP transport says so again at every write.
        """
        if not self._paused:
            self._paused = True
            self._unread = 0

    def resumeProducing(self) -> None:
        """The transport's buffer is empty: the client has read everything."""
        self._paused = False

    def stopProducing(self) -> None:
        """The transport is gone; `connectionLost` follows."""


def _tls(reason: Failure) -> str:
    """What OpenSSL says of the end, such as that it is the certificate's fault."""
    if not isinstance(reason.value, SSL.Error):
        return ""
    said = [str(parts[-1]) for parts in reason.value.args[0]]
    return f" (TLS: {', '.join(said)})"


# All that the handshake leaves behind, and what has served its turn.
_HANDSHAKE_LEFTOVERS = frozenset(
    {
        "_checking",
        "_fields",
        "_perMessageCompress",
        "_place",
        "_records",
        "_seen",
        "_wskey",
        "http_headers",
        "http_request_data",
        "http_request_host",
        "http_request_params",
        "http_request_path",
        "http_request_uri",
        "http_response_data",
        "http_status_line",
        "websocket_extensions",
        "websocket_extensions_in_use",
        "websocket_origin",
        "websocket_protocol_in_use",
        "websocket_protocols",
    }
)

# The phases in which a client holds no UUID yet.
_WHEN = {
    Phase.TLS_HANDSHAKE: " during the TLS handshake",
    Phase.OPENING: " before a whole request",
    Phase.AUTHENTICATING: " during authentication",
    Phase.REGISTERING: " before a registration",
}

_HANDSHAKES = frozenset({Phase.TLS_HANDSHAKE, Phase.OPENING})

_UNREAD = _HANDSHAKES | {Phase.AWAITING_PONG}

_LATE = {
    Phase.TLS_HANDSHAKE: "TLS handshake took too long",
    Phase.OPENING: "opening handshake took too long",
    Phase.AUTHENTICATING: "authentication took too long",
    Phase.AWAITING_PONG: "no answer to a ping",
    Phase.CLOSING: "no answer to a close frame",
}


class RelayFactory(WebSocketServerFactory):
    """Builds a `RelayProtocol` for each connection, and owns the relay.

    Args:
        relay: The rules, with their registry.
        authenticator: Tells whom a connection belongs to.
        journal: Told of what happens to connections.
        clock: Runs every deadline.
        config: What each connection may take.
        pseudonyms: What addresses are shown as.
        kind: What each connection is: a `RelayProtocol`, or one that tells of more.

    Attributes:
        pace: Spreads opening handshakes over turns of the reactor.
        tls_pace: The same of TLS.
        rests: Spreads what clients have sent that is too much for one turn.
        deadlines: Of all connections, by the phase that they are in.
        outbox: Holds back what is sent while something that was read is acted upon.
        limits: Knows who is too many or too fast.
        gate: Accepts while there is room.
        slow: Clients that are not read from now.
        unread: Those whose deadline has come, but perhaps also what they had to send.
        followers: Clients that wait for the end of the connection that they replace.
        origin_allowed: Tells whether a browser's ``Origin`` is let in.
        connections: All that are not yet lost, registered or not.
        stopping: Whether new connections are closed as soon as they are open.
        draining: Whether they are asked to come back, as another relay takes over.
        held_up: Tells whether the process stood still, and has not read yet what came
            meanwhile. It may be set.
    """

    noisy = False

    def __init__(
        self,
        relay: Relay,
        authenticator: Authenticator,
        journal: Observer,
        clock: IReactorTime,
        config: Config,
        pseudonyms: Clear = Clear(),  # noqa: B008 - has no state
        kind: type[RelayProtocol] = RelayProtocol,
    ) -> None:
        super().__init__(server="proxyrelay", reactor=clock)
        self.pseudonyms = pseudonyms
        self.kind = kind
        self.relay = relay
        self.authenticator = authenticator
        self.journal = journal
        self.clock = clock
        self.config = config
        self.deadlines = {
            phase: TimeoutQueue(
                clock, seconds, RelayProtocol.expired, seconds * SLACK, self._is_behind
            )
            for phase, seconds in _lengths(config.timeouts).items()
        }
        self.outbox = WriteBatch()
        self.limits = Limits[RelayProtocol](config.limits)
        self.gate = AcceptGate(self._room, clock)
        self.slow = TimeoutQueue(clock, PAUSE, RelayProtocol.resume_reading)
        self.unread = TimeoutQueue(clock, UNREAD, RelayProtocol.expired)
        self.followers = TimeoutQueue(
            clock, FOLLOW_SECONDS, RelayProtocol.stop_following
        )
        self._announced: ProxyHeaderFactory | None = None
        self.connections: set[RelayProtocol] = set()
        self.stopping = False
        self.draining = False
        self.pace = TurnBudget(clock, HANDSHAKES)
        self.tls_pace = TurnBudget(clock, TLS_HANDSHAKES)
        self.rests = TurnBudget(clock, RESTS)
        self.origin_allowed = origin_matcher(config.allowed_origins)
        self.held_up: Callable[[], bool] = lambda: False
        self._arrivals = count()
        self._awaiting_end: list[Deferred[None]] = []
        self.setProtocolOptions(
            webStatus=False,
            maxMessagePayloadSize=_longest(config),
            failByDrop=False,
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            autoPingInterval=0,
        )
        self.protocol = _served_class(self)

    def reconfigure(self, config: Config) -> None:
        """Serve with other settings from now on. No connection is closed for it.

        Open connections take on ``max_unread_bytes``, and the new timeouts, of which
        what is left is stretched or shrunk alike. They keep ``max_message_bytes``: a
        message may be under way.
        """
        self.config = config
        self.limits.change(config.limits)
        if self._announced is not None:
            seconds = config.timeouts.opening_handshake
            self._announced.waiting.change(seconds, 0.0)
        for phase, seconds in _lengths(config.timeouts).items():
            self.deadlines[phase].change(seconds, seconds * SLACK)
        self.origin_allowed = origin_matcher(config.allowed_origins)
        if self.maxMessagePayloadSize != _longest(config):
            self.setProtocolOptions(maxMessagePayloadSize=_longest(config))
            self.protocol = _served_class(self)

    def buildProtocol(  # type: ignore[override]
        self, addr: IAddress
    ) -> RelayProtocol:
        """Build a peer, numbered in the order of arrival."""
        protocol = cast(RelayProtocol, super().buildProtocol(addr))
        protocol.come_from(addr)
        protocol.arrival = next(self._arrivals)
        return protocol

    @property
    def backlogged(self) -> bool:
        """Whether the relay itself is late, so that nobody else is to be called so."""
        return self.has_backlog() or self.held_up()

    def has_backlog(self) -> bool:
        """Tell whether more has come than could be read and acted upon yet."""
        return (
            self.pace.backlogged or self.tls_pace.backlogged or self.outbox.backlogged
        )

    def _is_behind(self) -> bool:
        return self.backlogged

    def _room(self, descriptors: int) -> bool:
        self._make_room()
        return self.limits.room(len(self.connections) + self._waiting, descriptors)

    def _make_room(self) -> None:
        """Let those go that keep others out, unless the relay itself is late."""
        now = self.clock.seconds()
        while not self.backlogged:
            over_total_cap = self.limits.over_total_cap(now)
            if over_total_cap is None:
                break
            over_total_cap.expire_early()

    @property
    def _waiting(self) -> int:
        """Connections of trusted proxies that have not said yet whose they are."""
        return 0 if self._announced is None else len(self._announced.waiting)

    def behind_proxies(self) -> ProxyHeaderFactory:
        """Build connections that begin as trusted proxies have them begin."""
        seconds = self.config.timeouts.opening_handshake
        self._announced = ProxyHeaderFactory(
            self, self.limits.announced, self._dropped, self.clock, seconds
        )
        self._announced.lost = self._tell_if_all_gone
        self._announced.probed = self._probed
        return self._announced

    def _dropped(self, address: str, why: str) -> None:
        self.journal(Dropped(self.pseudonyms.address(address), why))

    def _probed(self, address: str) -> None:
        self.journal(Probed(self.pseudonyms.address(address)))

    def stop(self, seconds: float) -> Deferred[None]:
        """Close every connection with 1001, and abort what is left in the end.

        Args:
            seconds: How long to wait for the close handshakes.

        Returns:
            Fires when no connection is left.
        """
        if self.stopping:
            return self.all_gone()
        self.stopping = True
        deadline = self.clock.callLater(seconds, self.abort_all)
        for connection in list(self.connections):
            connection.close_going_away()
        return self.all_gone().addBoth(_cancelled(deadline))

    def drain(self) -> None:
        """Ask whoever has not registered yet to come back: another relay takes over."""
        self.draining = True
        for connection in list(self.connections):
            connection.refuse_for_drain()

    def all_gone(self) -> Deferred[None]:
        """Wait until no connection is left.

        Returns:
            Fires then.
        """
        awaiting: Deferred[None] = Deferred()
        self._awaiting_end.append(awaiting)
        self._tell_if_all_gone()
        return awaiting

    def abort_all(self) -> None:
        """End every connection at once."""
        for connection in list(self.connections):
            connection.abort()

    def connection_lost(self, connection: RelayProtocol) -> None:
        """Forget a connection."""
        self.connections.discard(connection)
        self._tell_if_all_gone()

    def _tell_if_all_gone(self) -> None:
        if self.connections or (self._waiting and not self.stopping):
            return
        if self.stopping:
            for deadlines in self.deadlines.values():
                deadlines.stop()
            self.slow.stop()
            self.unread.stop()
            self.followers.stop()
            self.gate.stop()
            if self._announced is not None:
                self._announced.waiting.stop()
        waiting, self._awaiting_end = self._awaiting_end, []
        for awaiting in waiting:
            awaiting.callback(None)


def _longest(config: Config) -> int:
    """Bytes of the longest message that is taken."""
    return min(config.max_message_bytes or MESSAGE_CEILING, MESSAGE_CEILING)


def _served_class(factory: RelayFactory) -> type[RelayProtocol]:
    """The protocol, with all in its class that is the same for each connection.

    Autobahn copies 36 options from the factory into each connection, and gives it some
    forty attributes that stay as they are in nearly all. Here both are attributes of
    the class, as Autobahn would set them.
    """
    options: dict[str, object] = {
        name: getattr(factory, name) for name in RelayProtocol.CONFIG_ATTRS
    }
    # A function would become a method.
    accept = factory.perMessageCompressionAccept
    options["perMessageCompressionAccept"] = staticmethod(accept)
    state = {
        name: value
        for name, value in first_state(factory).items()
        if name not in OF_EACH
    }
    return type(
        "ServedProtocol", (factory.kind,), {**options, **state, "CONFIG_ATTRS": ()}
    )


OF_EACH = frozenset(
    {"data", "factory", "is_closed", "is_open", "state", "utf8validator"}
)
"""Attributes of Autobahn's connections that are not the same for each. ``is_closed`` is
only used in what `RelayProtocol` overrides."""

NEVER_CHANGED = frozenset(
    {"_results", "_transport_details", "_valid_events", "send_queue", "trafficStats"}
)
"""Mutable ones that may be shared all the same: what the relay does not use."""


def first_state(factory: WebSocketServerFactory) -> dict[str, object]:
    """The attributes that Autobahn gives to a new connection, less its options."""
    plain = WebSocketServerProtocol()
    plain.factory = factory
    plain._connectionMade()
    factory.countConnections -= 1
    found = vars(plain)
    return {name: found[name] for name in found if name not in plain.CONFIG_ATTRS}


def _cancelled(call: IDelayedCall) -> Callable[[Any], None]:
    def cancel(_: object) -> None:
        if call.active():
            call.cancel()

    return cancel
