"""One connection to a relay, as an Autobahn protocol. Checked against Autobahn 26.10.2.

It overrides what Autobahn logs, what it times on another clock than the given one, and
what it leaves unbounded.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from OpenSSL.SSL import Error as TlsError
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from proxyrelay.client.endpoint import (
    MAX_HEAD_BYTES,
    MAYBE_TLS,
    TLS_RECORDS,
    status_of,
    tls_words,
    unexpected,
)
from proxyrelay.client.url import RelayUrl
from proxyrelay.errors import (
    Closed,
    NotConnected,
    NotRegistered,
    NotUpgraded,
    Rejected,
    RelayClientError,
    UnknownMessage,
)
from proxyrelay.net.timers import Heartbeat, TimeoutQueue
from proxyrelay.switchboard import messages
from proxyrelay.switchboard.messages import (
    MESSAGE_CEILING,
    PeerConnection,
    RegistrationRequest,
    RegistrationResponse,
)

CONNECT_TIMEOUT_SECONDS = 20.0
"""Longest wait for a registered connection: stock clients allow 10 s for the opening
handshake, and 10 s for the answer to the registration."""

PING_INTERVAL_SECONDS = 20.0
PONG_TIMEOUT_SECONDS = 20.0
"""As stock clients have them."""

CLOSE_TIMEOUT_SECONDS = 2.0
"""Longest wait for the end of a connection after a close frame."""

MAX_FRAMES_PER_MESSAGE = 1024
"""Frames of the most fragmented message. Relays send one."""

FINAL_CODES = frozenset({4001, 4002, 4004})
"""Close codes after which an attempt cannot succeed until a person acts."""

Received = Callable[[PeerConnection], object]
"""Called with each offer and answer, and with each error that comes back."""

Authorization = Callable[
    [], "str | Deferred[Any] | Coroutine[Any, Any, str | None] | None"
]
"""Returns the value of the Authorization header, or None for none."""


class RelayConnection(WebSocketClientProtocol):
    """A connection to a relay.

    Args:
        reactor: Runs the timers.
        registration: What the relay is told first.
        received: Called with each message.

    Attributes:
        registered: Fires with the connection; fails with `RelayClientError`.
        ended: Fires with the reason of the end, as an exception, once.
        registration_seconds: Time from the upgrade to the registration.
    """

    transport: Any
    _log = Logger()

    def __init__(
        self, reactor: Any, registration: RegistrationRequest, received: Received
    ) -> None:
        super().__init__()
        self.registered: Deferred[RelayConnection] = Deferred()
        self.ended: Deferred[RelayClientError] = Deferred()
        self.is_registered = False
        self.registration_seconds = 0.0
        self._reactor = reactor
        self._registration = registration
        self._received = received
        self._why: RelayClientError | None = None
        self._upgraded = False
        self._upgraded_at = 0.0
        self._frames = 0
        self._abort_call: IDelayedCall | None = None
        self._pings = Heartbeat(reactor, PING_INTERVAL_SECONDS, self._ping)
        self._pongs: TimeoutQueue[RelayConnection] = TimeoutQueue(
            reactor, PONG_TIMEOUT_SECONDS, RelayConnection._unanswered
        )

    def send(self, message: PeerConnection) -> None:
        """Send an offer or an answer.

        Raises:
            NotRegistered: The connection is not registered, or not any longer.
            ValueError: The message is longer than relays accept.
        """
        if not self.is_registered:
            raise NotRegistered("the client is not registered with the relay now")
        text = messages.encode(message)
        if len(text) > MESSAGE_CEILING:
            raise ValueError(f"the message has over {MESSAGE_CEILING:,} bytes")
        self.sendMessage(text)

    def close(self) -> None:
        """Close the connection. `ended` fires afterwards."""
        self._why = self._why or Closed(None, "this client has closed the connection")
        self.is_registered = False
        if self.state == self.STATE_OPEN:
            self.sendClose(1000)
            self._abort_later()
        elif self.state == self.STATE_CONNECTING:
            self.transport.abortConnection()

    def abort(self) -> None:
        """Drop the connection."""
        self.is_registered = False
        if self.transport is not None:
            self.transport.abortConnection()

    # -- a producer that takes no more than the relay reads: it may ask for pongs

    def pauseProducing(self) -> None:
        """Read nothing until the relay reads."""
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Read again."""
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """Do nothing: the connection has ended."""

    # -- Autobahn's hooks

    def onOpen(self) -> None:
        """Register."""
        self._upgraded = True
        self._upgraded_at = self._reactor.seconds()
        self._pings.start()
        # Not before: Twisted pauses a producer during the TLS handshake.
        self.transport.registerProducer(self, True)
        self.sendMessage(messages.encode(self._registration))

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Deliver a message; before the registration, only its answer is valid."""
        self._frames = 0
        if self._why is not None:
            return
        try:
            if isBinary:
                raise UnknownMessage("a binary frame")
            message = messages.decode_from_relay(payload)
        except UnknownMessage:
            # After the registration, it does no harm, and a newer relay may send it.
            if not self.is_registered:
                self._give_up(NotUpgraded("the peer speaks WebSocket, but is no relay"))
            return
        if isinstance(message, RegistrationResponse):
            self._answered(message)
        elif self.is_registered:
            self._deliver(message)

    def onPong(self, payload: bytes) -> None:  # noqa: ARG002
        """End the wait for a pong."""
        self._pongs.end(self)

    # -- overrides

    def processHandshake(self) -> Any:
        """Check the answer's head before Autobahn, which bounds and decodes nothing."""
        end = self.data.find(b"\r\n\r\n")
        head = self.data[:MAX_HEAD_BYTES] if end < 0 else self.data[: end + 4]
        prefix = b"HTTP/"
        if not head.startswith(prefix[: len(head)]):
            is_tls = head.startswith(TLS_RECORDS)
            self.failHandshake(
                "the port speaks TLS: use wss://"
                if is_tls
                else "the peer does not speak HTTP"
            )
        elif len(head) >= MAX_HEAD_BYTES:
            self.failHandshake("the head of the peer's answer does not end")
        elif end >= 0:
            status = status_of(head)
            if status is None or status[0] != 101:  # noqa: PLR2004 - RFC 6455, 4.1
                words = "a malformed status line"
                if status is not None:
                    words = unexpected(status, self.factory.isSecure)
                self._give_up(NotUpgraded(words, status and status[0]))
                return None
            # Autobahn fails on bytes that are not UTF-8; proxies add such headers.
            plain = head.decode("ascii", "replace").replace("\ufffd", "?").encode()
            self.data = plain + self.data[end + 4 :]
            return super().processHandshake()
        return None

    def failHandshake(self, reason: str) -> None:
        """Drop the connection without a line in the log."""
        self._give_up(NotUpgraded(reason))

    def onMessageFrameBegin(self, length: int) -> None:
        """Count the frames of a message, which may be empty."""
        self._frames += 1
        super().onMessageFrameBegin(length)
        if self._frames > MAX_FRAMES_PER_MESSAGE:
            self._fail_connection(1008, "too many frames in a message")

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> bool | None:  # noqa: N803
        """Answer it, and close: Autobahn knows fewer codes, and waits on its clock."""
        reason = (reasonRaw or b"").decode("utf-8", "replace")
        if self._why is None:
            final = code in FINAL_CODES
            self._why = Rejected(code, reason) if final else Closed(code, reason)
        self.is_registered = False
        self.wasClean = True
        if self.state == self.STATE_OPEN:
            self.sendCloseFrame(code=1000, isReply=True)
        self._abort_later()
        self.transport.loseConnection()
        return None

    def _fail_connection(self, code: int = 1001, reason: str = "") -> None:  # noqa: ARG002
        """Drop the connection after a violation by the relay."""
        self.failedByMe = True
        self._give_up(Closed(None, f"the relay broke the protocol: {reason}"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the end, without a line in the log."""
        self._connectionLost(reason)
        self.is_registered = False
        self._pings.stop()
        self._pongs.stop()
        if self._abort_call is not None and self._abort_call.active():
            self._abort_call.cancel()
        why = self._why
        if why is None:
            words = "the peer has closed the connection"
            if isinstance(reason.value, TlsError):
                words = tls_words(reason.value)
            elif not isinstance(reason.value, ConnectionDone):
                words = " ".join(reason.getErrorMessage().split()) or words
            if not (self._upgraded or self.factory.isSecure):
                words = words.rstrip(".") + MAYBE_TLS
            why = Closed(None, words) if self._upgraded else NotConnected(words)
            why.__cause__ = reason.value
        if not self.registered.called:
            self.registered.errback(why)
        self.ended.callback(why)

    # -- own steps

    def _answered(self, response: RegistrationResponse) -> None:
        if self.is_registered:
            return
        if not response.success:
            self._give_up(Rejected(None, response.message or "without a reason"))
            return
        self.is_registered = True
        self.registration_seconds = self._reactor.seconds() - self._upgraded_at
        self.registered.callback(self)

    def _deliver(self, message: PeerConnection) -> None:
        try:
            self._received(message)
        except Exception:
            self._log.failure("a program failed on a message of its relay")

    def _ping(self) -> None:
        if self.state == self.STATE_OPEN and not len(self._pongs):
            self.sendPing()
            self._pongs.begin(self)

    def _unanswered(self) -> None:
        words = f"no pong within {PONG_TIMEOUT_SECONDS:g} s"
        self._give_up(Closed(None, words))

    def _give_up(self, why: RelayClientError) -> None:
        self._why = self._why or why
        self.is_registered = False
        self.state = self.STATE_CLOSED
        self.transport.abortConnection()

    def _abort_later(self) -> None:
        if self._abort_call is None:
            self.transport.unregisterProducer()  # TLS ends without one only.
            self._abort_call = self._reactor.callLater(
                CLOSE_TIMEOUT_SECONDS, self.transport.abortConnection
            )


class _Factory(WebSocketClientFactory):
    """Makes one connection."""

    noisy = False

    def __init__(
        self, reactor: Any, url: RelayUrl, headers: dict[str, str], made: Any
    ) -> None:
        super().__init__(str(url), reactor=reactor, headers=headers, useragent=None)
        # Autobahn drops the brackets of an IPv6 address.
        self.host = str(url.place).rpartition(":")[0]
        self.setProtocolOptions(
            maxMessagePayloadSize=MESSAGE_CEILING,
            maxFramePayloadSize=MESSAGE_CEILING,
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
        )
        self.serverConnectionDropTimeout = 0
        self._made = made

    def buildProtocol(self, _: object) -> RelayConnection:
        self._made.factory = self
        made: RelayConnection = self._made
        return made


def connect(
    reactor: Any,
    url: RelayUrl,
    endpoint: IStreamClientEndpoint,
    registration: RegistrationRequest,
    received: Received,
    authorization: Authorization | None = None,
) -> Deferred[RelayConnection]:
    """Connect to a relay once, and register.

    Fails with `RelayClientError` after `CONNECT_TIMEOUT_SECONDS` at the latest, or with
    the error of ``authorization``.
    """
    made = RelayConnection(reactor, registration, received)

    async def registered() -> RelayConnection:
        value: Any = None
        if authorization is not None:
            value = await maybeDeferred(authorization)
        headers = {} if value is None else {"Authorization": _header_value(value)}
        try:
            await endpoint.connect(_Factory(reactor, url, headers, made))
        except (RelayClientError, CancelledError):
            raise
        except Exception as error:
            words = str(error) or type(error).__name__
            if isinstance(error, TlsError):
                words = tls_words(error)
            raise NotConnected(" ".join(words.split())) from error
        return await made.registered

    def timed_out(_: object, seconds: float) -> object:
        raise NotConnected(f"no registration within {seconds:g} s")

    def failed(failure: Failure) -> Failure:
        made.registered.addErrback(lambda _: None)
        made.abort()
        return failure

    connecting = Deferred.fromCoroutine(registered())
    connecting.addTimeout(CONNECT_TIMEOUT_SECONDS, reactor, timed_out)
    return connecting.addErrback(failed)


def _header_value(text: str) -> str:
    """Check a value for a header (RFC 9110, section 5.5).

    Raises:
        ValueError: It has other characters. The text has no secret.
    """
    if not (text.isascii() and text.isprintable()):
        raise ValueError("the Authorization header must be printable ASCII, one line")
    return text
