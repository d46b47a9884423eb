"""A connected client as an Autobahn protocol, and the factory that builds it.

What Autobahn does well stays with Autobahn: the upgrade, frames, fragments, the
close handshake. What this module adds is the life of a connection: one phase at
a time, each with a deadline, and bounds on what a client may make the relay
keep. Autobahn's own timers stay off: they run on the global reactor.

Checked against Autobahn 26.10.2. Each override says what it changes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from enum import Enum, auto
from http import HTTPStatus
from itertools import count
from secrets import token_bytes
from typing import Any, Protocol, cast

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.util import encode_truncate
from autobahn.websocket.types import ConnectionRequest
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
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

from proxyrelay import addresses
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
from proxyrelay.handshake import (
    head_complete,
    origin_matcher,
    origins,
    without_offers,
)
from proxyrelay.identity import ANONYMOUS, User
from proxyrelay.messages import MESSAGE_CEILING
from proxyrelay.pace import Pace
from proxyrelay.peer import Registration
from proxyrelay.relay import Journal, Relay

FRAMES_CEILING = 1024
"""Frames of the most fragmented message. Stock clients send one."""

REASON_CEILING = 123
"""Bytes of the longest close reason (RFC 6455, section 5.5)."""

FIRST_CONTROL = 8
"""Opcodes from here on are those of control frames (RFC 6455, section 5.5)."""

CONTROL_CEILING = 125
"""Bytes of the longest control frame (RFC 6455, section 5.5)."""

GOING_AWAY = 1001

HANDSHAKES = 16
"""Requests that are processed in one turn of the reactor, at about 0.2 ms each."""


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


def _deadlines(timeouts: Timeouts) -> dict[Phase, float]:
    return {
        Phase.TLS_HANDSHAKE: timeouts.tls_handshake,
        Phase.OPENING: timeouts.opening_handshake,
        Phase.AUTHENTICATING: timeouts.authentication,
        Phase.REGISTERING: timeouts.registration,
        Phase.READY: timeouts.ping_interval,
        Phase.AWAITING_PONG: timeouts.ping_timeout,
        Phase.CLOSING: timeouts.close_handshake,
        Phase.DROPPING: timeouts.close_handshake,
        Phase.GONE: 0,
    }


class ConnectionJournal(Journal, Protocol):
    """Hears also of what happens to connections below the rules."""

    def rejected(self, address: str, status: HTTPStatus, detail: str) -> None:
        """A request was answered with an HTTP error."""

    def failed(self, address: str, code: int, detail: str) -> None:
        """A client broke the WebSocket protocol and is closed with a code."""

    def dropped(self, address: str, why: str) -> None:
        """A connection that holds no UUID ended without a close handshake."""


@implementer(IHandshakeListener, IPushProducer)
class RelayProtocol(WebSocketServerProtocol):
    """A client. It is the `proxyrelay.peer.Peer` that the rules see.

    It is also the push producer of its own transport, which is how it learns
    that the client does not read.
    """

    factory: RelayFactory
    transport: Any
    user: User = ANONYMOUS
    registration: Registration | None = None
    address: str
    source: str
    arrival: int

    # Not "log": that is the name of Autobahn's, which writes requests as they are.
    _log = Logger()

    _phase = Phase.GONE
    _deadline: IDelayedCall | None = None
    _checking: Deferred[None] | None = None
    _refusal: Refusal | None = None
    _paused = False
    _unread = 0
    _seen = 0
    _frames = 0
    _ping = b""

    # -- the peer, as the rules see it

    def answer(self, text: bytes) -> None:
        """Send one text message.

        Not through ``sendMessage``: it refuses what is longer than a client may
        send, and an error that goes back to its sender can be.

        Raises:
            PeerGone: The connection is closing or closed, or was dropped just
                now since the client asks and asks and does not read.
        """
        if self.state == self.STATE_OPEN:
            self.sendFrame(opcode=1, payload=text)
        if self.state != self.STATE_OPEN:
            raise PeerGone

    def deliver(self, text: bytes) -> None:
        """Send one text message of another peer, if the client reads.

        Raises:
            PeerGone: As with `answer`.
            PeerBusy: More than ``max_unread_bytes`` would be unread.
        """
        limit = self.factory.config.max_unread_bytes
        if self._paused and self._unread + len(text) > limit:
            raise PeerBusy
        self.answer(text)

    def close(self, code: int, reason: str) -> None:
        """Start the close handshake, unless the connection is past it.

        Args:
            code: Any close code. ``sendClose`` would refuse 1001 and 1013.
            reason: Cut to 123 bytes of UTF-8.
        """
        if self.state == self.STATE_OPEN:
            self.sendCloseFrame(code, encode_truncate(reason, REASON_CEILING))

    def shut(self) -> None:
        """Close since the relay stops: at once, or when the upgrade is done."""
        self.close(GOING_AWAY, "The relay is shutting down.")
        if self._checking is not None:
            # The outcome no longer matters: the upgrade is completed, and closed.
            self._checking.cancel()

    def abort(self) -> None:
        """End the connection at once, with whatever it still had to send."""
        self._drop("aborted at shutdown")
        if self._phase is Phase.DROPPING:
            self.transport.abortConnection()

    # -- the life of the connection

    def connectionMade(self) -> None:
        """Begin.

        TCP_NODELAY is set here, at accept: Autobahn tries to before it knows its
        own option, and Nagle's algorithm would hold up the TLS handshake.
        """
        with contextlib.suppress(OSError):  # some kernels refuse after a reset
            self.transport.setTcpNoDelay(True)
        super().connectionMade()
        self.factory.connections.add(self)
        self.transport.registerProducer(self, True)
        secure = ISSLTransport.providedBy(self.transport)
        self._enter(Phase.TLS_HANDSHAKE if secure else Phase.OPENING)

    def handshakeCompleted(self) -> None:
        """TLS is up; the request may come."""
        if self._phase is Phase.TLS_HANDSHAKE:
            self._enter(Phase.OPENING)

    def dataReceived(self, data: bytes) -> None:
        """Take bytes from the client, unless the connection is over.

        Autobahn would keep them.
        """
        if self.state == self.STATE_CLOSED:
            return
        self._dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End.

        Autobahn's adapter only adds log lines, of which one takes OpenSSL's
        words for a format.
        """
        vanished = self.state != self.STATE_CLOSED
        try:
            self._connectionLost(reason)  # type: ignore[arg-type]
        finally:
            if vanished:
                when = _WHEN.get(self._phase, "")
                self._release(f"connection lost{when}{_tls(reason)}")
            self._enter(Phase.GONE)
            self.factory.connection_lost(self)

    def _enter(self, phase: Phase) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._phase = phase
        seconds = self.factory.deadlines[phase]
        if seconds:
            self._deadline = self.factory.clock.callLater(seconds, self._expired)

    def _expired(self) -> None:
        self._deadline = None
        if self._phase is Phase.READY:
            self._enter(Phase.AWAITING_PONG)
            self._ping = token_bytes(4)
            self.sendPing(self._ping)
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

    def _drop(self, why: str) -> None:
        """End the connection without a close handshake."""
        if self.state != self.STATE_CLOSED:
            self.wasNotCleanReason = why
            self.dropConnection(abort=True)

    def _release(self, why: str) -> None:
        """Let go of all that a connection holds, when its state is CLOSED."""
        if self.registration is not None:
            self.factory.relay.leave(self, why)
        elif self._phase in _WHEN:
            self.factory.journal.dropped(self.address, why)
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
            self.is_closed.callback(self)
            self._closeConnection(abort)

    def _closeConnection(self, abort: bool = False) -> None:  # noqa: N802
        """Let go of everything, and of the transport within a bound.

        Autobahn resets the connection after a clean close handshake, too; here
        that ends in an orderly way.
        """
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
            self.failHandshake(str(error), error.status)
            return
        self._seen = len(self.data)
        if whole:
            self.factory.pace.do(self._process_request)

    def _process_request(self) -> None:
        if self.state != self.STATE_CONNECTING:
            return
        if all(map(self.factory.origin_allowed, origins(self.data))):
            self.data = without_offers(self.data)
            super().processHandshake()
        else:
            self.failHandshake("a page of another origin", HTTPStatus.FORBIDDEN)

    def onConnect(self, request: ConnectionRequest) -> Any:
        """Find out who the client is. No frame is read before that is known.

        Returns:
            A Deferred that fires with None, whatever the outcome, since an HTTP
            error would end the client's process: the upgrade is completed, and
            a refusal is acted upon in `onOpen`.
        """
        self._enter(Phase.AUTHENTICATING)
        if self.factory.stopping:
            return None  # whoever it is: `onOpen` closes
        checking: Deferred[Any] = maybeDeferred(
            self.factory.authenticator.authenticate, request.headers, self.source
        )
        self._checking = checking
        checking.addCallbacks(self._identified, self._not_identified)
        return checking

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

    def succeedHandshake(self, res: object) -> None:
        """Complete the upgrade, if the client is still there.

        Autobahn would revive a connection that is lost.
        """
        if self.state == self.STATE_CONNECTING:
            super().succeedHandshake(res)

    def onOpen(self) -> None:
        """Wait for the registration, or close with what was decided before.

        What Autobahn keeps of the request is forgotten: it may hold a token, and may
        be long.
        """
        for name in _HANDSHAKE_LEFTOVERS:
            vars(self).pop(name, None)
        if self.factory.stopping:
            self.shut()
        elif self._refusal is not None:
            refusal, self._refusal = self._refusal, None
            self.factory.relay.refuse(self, refusal)
        else:
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
        status = HTTPStatus(code)
        # Where Autobahn quotes the request, it may quote a secret.
        detail = re.split("[\"']", reason, maxsplit=1)[0].strip()
        self.factory.journal.rejected(self.address, status, detail)
        headers = [*(responseHeaders or ()), ("Content-Length", "0")]
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
        try:
            self.factory.relay.receive(self, payload, binary=isBinary)
        except Exception:
            self._log.failure("a message of {address} failed", address=self.address)
        if self._phase is Phase.REGISTERING and self.registration is not None:
            self._enter(Phase.READY)

    def onPong(self, payload: bytes) -> None:
        """Take note that the client has read everything up to the relay's ping.

        Only the pong to that very ping says so: a client that does not read can
        still send. So the ping's timeout bounds how long data stays unread.
        """
        if self._phase is Phase.AWAITING_PONG and payload == self._ping:
            self._enter(Phase.READY)

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
            self.factory.journal.failed(self.address, code, reason)
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
        self.factory.relay.leave(self, why)
        # The last word is not counted. Were the connection dropped for it, Autobahn
        # would set its state back from CLOSED to CLOSING.
        self._unread = 0
        super().sendCloseFrame(code, reasonUtf8, isReply)
        if self.state == self.STATE_CLOSING:
            self._enter(Phase.CLOSING)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """Nothing is left to do: see `connectionLost` and `_closeConnection`."""

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
        if self._paused:
            self._unread += len(data)
            if self._unread > 2 * self.factory.config.max_unread_bytes:
                self._drop("left too much unread")
                return
        self.transport.write(data)

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


_HANDSHAKE_LEFTOVERS = (
    "http_headers",
    "http_request_data",
    "http_request_host",
    "http_request_params",
    "http_request_path",
    "http_request_uri",
    "http_response_data",
    "http_status_line",
)

# The phases in which a client holds no UUID yet.
_WHEN = {
    Phase.TLS_HANDSHAKE: " during the TLS handshake",
    Phase.OPENING: " before a whole request",
    Phase.AUTHENTICATING: " during authentication",
    Phase.REGISTERING: " before a registration",
}

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

    Attributes:
        pace: Spreads opening handshakes over turns of the reactor.
        origin_allowed: Tells whether a browser's ``Origin`` is let in.
        connections: All that are not yet lost, registered or not.
        stopping: Whether new connections are closed as soon as they are open.
    """

    noisy = False

    def __init__(
        self,
        relay: Relay,
        authenticator: Authenticator,
        journal: ConnectionJournal,
        clock: IReactorTime,
        config: Config,
    ) -> None:
        super().__init__(server="proxyrelay", reactor=clock)
        self.relay = relay
        self.authenticator = authenticator
        self.journal = journal
        self.clock = clock
        self.config = config
        self.deadlines = _deadlines(config.timeouts)
        self.connections: set[RelayProtocol] = set()
        self.stopping = False
        self.pace = Pace(clock, HANDSHAKES)
        self.origin_allowed = origin_matcher(config.allowed_origins)
        self._arrivals = count()
        self._all_gone: Deferred[None] | None = None
        self.setProtocolOptions(
            webStatus=False,
            # The decoder refuses bad UTF-8 itself, with the code that clients know.
            utf8validateIncoming=False,
            maxMessagePayloadSize=min(
                config.max_message_bytes or MESSAGE_CEILING, MESSAGE_CEILING
            ),
            failByDrop=False,
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            autoPingInterval=0,
        )
        self.protocol = _with_options(self)

    def buildProtocol(  # type: ignore[override]
        self, addr: IAddress
    ) -> RelayProtocol:
        """Build a peer, numbered in the order of arrival."""
        protocol = cast(RelayProtocol, super().buildProtocol(addr))
        protocol.address = addresses.text(addr)
        protocol.source = addresses.source(addr)
        protocol.arrival = next(self._arrivals)
        return protocol

    def stop(self, seconds: float) -> Deferred[None]:
        """Close every connection with 1001, and abort what is left in the end.

        Args:
            seconds: How long to wait for the close handshakes.

        Returns:
            Fires when no connection is left.
        """
        if self._all_gone is not None:
            return self._all_gone
        self.stopping = True
        all_gone = self._all_gone = Deferred()
        deadline = self.clock.callLater(seconds, self.abort_all)
        all_gone.addBoth(_cancelled(deadline))
        for connection in list(self.connections):
            connection.shut()
        self._tell_if_all_gone()
        return all_gone

    def abort_all(self) -> None:
        """End every connection at once."""
        for connection in list(self.connections):
            connection.abort()

    def connection_lost(self, connection: RelayProtocol) -> None:
        """Forget a connection."""
        self.connections.discard(connection)
        self._tell_if_all_gone()

    def _tell_if_all_gone(self) -> None:
        if not self.connections and self._all_gone is not None:
            all_gone, self._all_gone = self._all_gone, None
            all_gone.callback(None)


def _with_options(factory: RelayFactory) -> type[RelayProtocol]:
    """A protocol whose class has the options that Autobahn would copy from the factory.

    Autobahn copies 36 of them into each connection, and composes a table of them for a
    line at DEBUG that is never shown.
    """
    options: dict[str, object] = {
        name: getattr(factory, name) for name in RelayProtocol.CONFIG_ATTRS
    }
    # A function would become a method.
    accept = factory.perMessageCompressionAccept
    options["perMessageCompressionAccept"] = staticmethod(accept)
    return type("ServedProtocol", (RelayProtocol,), {**options, "CONFIG_ATTRS": ()})


def _cancelled(call: IDelayedCall) -> Callable[[Any], None]:
    def cancel(_: object) -> None:
        if call.active():
            call.cancel()

    return cancel
