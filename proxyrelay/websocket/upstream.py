"""Overrides of Autobahn's behaviour. Checked against Autobahn 26.10.2.

`UpstreamProtocol` offers plain hooks in their place, so that `RelayProtocol` needs
little knowledge of Autobahn. Two overrides are elsewhere: `RelayProtocol.dataReceived`,
and `proxyrelay.websocket.factory.served_class`. ``tests/upstream`` checks a new
Autobahn.

`proxyrelay.errors` has the close codes of refusals. Four codes have no refusal: 1001
(the relay stops), 1002 (Autobahn found a violation), 1007 (a text is not UTF-8), and
1009 (a message is longer than any relay takes).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from http import HTTPStatus
from typing import Any

from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.util import encode_truncate
from autobahn.websocket.types import ConnectionRequest
from autobahn.websocket.utf8validator import Utf8Validator
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from proxyrelay.errors import BadRequest, PolicyViolation, Refusal
from proxyrelay.switchboard.messages import MESSAGE_CEILING
from proxyrelay.websocket import handshake
from proxyrelay.websocket.fastpath import MASKED, unmask
from proxyrelay.websocket.flow import FlowControl, header

MAX_FRAMES_PER_MESSAGE = 1024
"""Frames of the most fragmented message. Stock clients send one."""

MAX_REASON_BYTES = 123
"""Longest close reason (RFC 6455, section 5.5)."""

MAX_CONTROL_BYTES = 125
"""Longest payload of a control frame (RFC 6455, section 5.5)."""

CONTINUATION, TEXT, BINARY, FIRST_CONTROL_OPCODE = 0, 1, 2, 8
"""Opcodes of frames (RFC 6455, section 5.2)."""

FIN = 0x80
"""Bit of the last frame of a message (RFC 6455, section 5.2)."""

NO_MASK = bytes(4)
"""Mask that leaves a payload as it is."""

GOING_AWAY = 1001
"""Close code of a relay that stops (RFC 6455, section 7.4.1)."""

REQUEST_PREFIXES = (
    *("_is_requested", "_perMessageCompress", "_seen", "_wskey", "request_is_whole"),
    *("http_", "websocket_"),
)
"""Beginnings of the names of attributes without a use after the upgrade."""


class UpstreamProtocol(WebSocketServerProtocol):
    """A connection without Autobahn's costs, log lines, timers and gaps.

    A subclass sets `flow`, and implements the hooks in the first section.
    """

    flow: FlowControl
    request_is_whole = False
    websocket_version = 13

    # Attributes of Twisted and Autobahn, with their usual values between two reads.
    # `forget_request` deletes such values from the connection.
    connected = 1
    current_frame: Any = None
    data = b""
    inside_message = False

    # Autobahn's attributes, which have no types of their own.
    state: int
    transport: Any
    current_frame_masker: Any
    frame_data: list[bytearray]
    control_frame_data: list[bytes]
    message_data: list[bytes]
    message_is_binary: bool
    maxMessagePayloadSize: int

    _headers: dict[str, str]
    _seen = 0
    _is_requested = False
    _frame_count = 0

    def __init__(self) -> None:
        """Do nothing: `proxyrelay.websocket.factory.served_class` sets attributes."""

    # -- hooks

    def request_complete(self) -> None:
        """Call `process_request` now or later: a well-formed request was read."""

    def upgrade_requested(self, request: ConnectionRequest) -> Deferred[None]:
        """Decide about a valid request. The upgrade follows the result."""
        raise NotImplementedError

    def handshake_broken(self, failure: Failure) -> None:
        """End the connection after a defect of the relay."""

    def request_rejected(self, status: HTTPStatus, detail: str) -> None:
        """Report an HTTP error. The transport closes afterwards."""

    def protocol_violated(self, code: int, reason: str) -> None:
        """Report a violation. The close frame follows."""

    def message_too_long(self) -> None:
        """Close after a message over ``max_message_bytes``."""

    def close_frame_due(self, code: int | None, is_reply: bool) -> None:
        """Unregister the client. The close frame follows."""

    def close_frame_sent(self) -> None:
        """Wait for the client's close frame."""

    def transport_closing(self, reason: str) -> None:
        """Release all that the connection holds. The transport closes afterwards."""

    # -- state of a connection

    @cached_property
    def utf8validator(self) -> Utf8Validator:  # type: ignore[override]
        """Autobahn's validator of fragmented texts, created on demand."""
        return Utf8Validator()

    def connectionMade(self) -> None:
        """Begin. Autobahn's version also sets TCP_NODELAY, as the listener has done."""
        self.state = self.STATE_CONNECTING
        self.data = b""
        self.factory.countConnections += 1

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End. Autobahn's version logs OpenSSL's words as a format string."""
        self.state = self.STATE_CLOSED
        self.factory.countConnections -= 1

    def forget_request(self, *names: str) -> None:
        """Delete what is left of the request: it may be long, or hold a token.

        Attributes of other names go with it, and values that are as in the class. A
        dictionary of the right size takes the rest.
        """
        served, gone = type(self), (*REQUEST_PREFIXES, *names)
        self.__dict__ = {
            name: value
            for name, value in vars(self).items()
            if not name.startswith(gone) and getattr(served, name, served) is not value
        }

    # -- the opening handshake

    def processHandshake(self) -> None:
        """Look at the request before Autobahn does; see `handshake.head_complete`."""
        if self._is_requested:
            self.failHandshake("data before the handshake was answered")
            return
        try:
            self.request_is_whole = handshake.head_complete(self.data, self._seen)
        except BadRequest as error:
            self.failHandshake(str(error), error.status)
            return
        self._seen = len(self.data)
        if self.request_is_whole:
            self.request_complete()

    def process_request(self) -> None:
        """Read a whole request: a plain one here, any other one in Autobahn."""
        self._is_requested = True
        head, self.data = self.data, b""
        headers = handshake.plain_upgrade(head)
        if headers is None:
            self._headers = handshake.header_fields(head)
            self.data = handshake.autobahn_head(head)
            super().processHandshake()
            return
        self._headers, self._wskey = headers, headers["sec-websocket-key"]
        request = ConnectionRequest(
            *(self.peer, headers, headers["host"], "/", {}),
            *(self.websocket_version, None, [], []),
        )
        decided: Deferred[None] = maybeDeferred(self.onConnect, request)
        decided.addCallback(self.succeedHandshake).addErrback(self.handshake_broken)

    def onConnect(  # type: ignore[override]  # Autobahn waits for it
        self, request: ConnectionRequest
    ) -> Deferred[None]:
        """Take a valid request, with its own headers. No upgrade goes another way."""
        request.headers = self._headers
        del self._headers
        return self.upgrade_requested(request)

    def succeedHandshake(self, res: object) -> None:
        """Complete the upgrade. Autobahn's version revives a lost connection."""
        if self.state == self.STATE_CONNECTING:
            self.sendData(handshake.acceptance(self.factory.server, self._wskey))
            self.state = self.STATE_OPEN
            self.inside_message = False
            self.current_frame = None
            self.onOpen()

    def failHandshake(
        self,
        reason: str,
        code: int = HTTPStatus.BAD_REQUEST,
        responseHeaders: Iterable[tuple[str, str]] | None = None,
    ) -> None:
        """Answer with an HTTP error. Autobahn's version shows the reason, too."""
        # Autobahn quotes the request in its reasons. A quote may hold a secret.
        detail = re.sub('"[^"]*"', "...", reason)
        status = HTTPStatus(code)
        headers = [*(responseHeaders or ()), ("Content-Length", "0")]
        if status is HTTPStatus.UPGRADE_REQUIRED:
            headers += [("Upgrade", "websocket"), ("Connection", "upgrade, close")]
            # 'proxyrelay check' tells a relay by it, as a client by the upgrade.
            headers.append(("Server", self.factory.server))
        else:
            headers.append(("Connection", "close"))
        self.wasNotCleanReason = detail
        self.request_rejected(status, detail)
        self.sendHttpErrorResponse(status.value, status.phrase, headers)
        self.dropConnection(abort=False)

    # -- messages and frames

    def sendData(
        self, data: bytes, sync: bool = False, chopsize: int | None = None
    ) -> None:
        """Write through the flow control, without Autobahn's pieces and log lines."""
        self.flow.send(data)

    def onMessageFrameBegin(self, length: int) -> None:
        """Bound the frames of a message: empty frames add nothing to its length."""
        is_first = self.current_frame.opcode != CONTINUATION
        self._frame_count = 1 if is_first else self._frame_count + 1
        if self._frame_count == MAX_FRAMES_PER_MESSAGE + 1:
            self.violate(PolicyViolation("Too many frames in one message."))
        super().onMessageFrameBegin(length)

    def onMessageFrameData(self, payload: bytes) -> None:
        """Keep a frame in one piece. Autobahn's version keeps one piece per read."""
        if self.failedByMe:
            return
        if self.frame_data:
            self.frame_data[0] += payload
        else:
            self.frame_data.append(bytearray(payload))

    def onFrameData(self, payload: bytes) -> bool | None:
        """Ignore a control frame that is too long. Autobahn's version keeps it all."""
        frame = self.current_frame
        if frame.opcode >= FIRST_CONTROL_OPCODE and frame.length > MAX_CONTROL_BYTES:
            return None
        return super().onFrameData(payload)

    def unparsed(self) -> bytes:
        """Bytes that bring a new parser to the state of this one, which is open.

        They are the frames of an unfinished message, as many as there were, and the
        begin of one more frame, under its own mask.
        """
        frame, parts = self.current_frame, []
        is_data = frame is not None and frame.opcode < FIRST_CONTROL_OPCODE
        if self.inside_message and (whole := self._frame_count - is_data):
            payload = b"".join(self.message_data)
            first = BINARY if self.message_is_binary else TEXT
            parts += [_masked_header(first, len(payload), NO_MASK), payload]
            parts.append(_masked_header(CONTINUATION, 0, NO_MASK) * (whole - 1))
        if frame is not None:
            first = frame.opcode | (FIN if frame.fin else 0)
            seen = b"".join(self.frame_data if is_data else self.control_frame_data)
            parts.append(_masked_header(first, frame.length, frame.mask))
            parts.append(unmask(seen, frame.mask))
        return b"".join((*parts, self.data))

    # -- the end

    def close(self, code: int, reason: str) -> None:
        """Start the close handshake. ``sendClose`` would refuse 1001 and 1013."""
        if self.state == self.STATE_OPEN:
            self.sendCloseFrame(code, encode_truncate(reason, MAX_REASON_BYTES))

    def drop(self, reason: str) -> None:
        """End the connection without a close handshake."""
        if self.state != self.STATE_CLOSED:
            self.wasNotCleanReason = reason
            self.dropConnection(abort=True)

    def violate(self, refusal: Refusal) -> None:
        """Close after a violation of the relay's own bounds."""
        self._fail_connection(refusal.code, refusal.reason)

    def _max_message_size_exceeded(
        self, msg_size: int, max_msg_size: int, reason: str
    ) -> None:
        """Close with 4003 over the setting, with 1009 over every relay's ceiling."""
        if msg_size > MESSAGE_CEILING:
            self._fail_connection(self.CLOSE_STATUS_CODE_MESSAGE_TOO_BIG, reason)
            return
        self.failedByMe = True
        if self.state == self.STATE_OPEN:
            self.message_too_long()

    def _fail_connection(
        self, code: int = GOING_AWAY, reason: str = "going away"
    ) -> None:
        """Close after a violation. Autobahn's log line would name no client."""
        if self.state == self.STATE_OPEN:
            self.failedByMe = True
            self.protocol_violated(code, reason)
            self.close(code, reason)
        elif self.state == self.STATE_CLOSING:
            self.dropConnection(abort=False)

    def sendCloseFrame(
        self,
        code: int | None = None,
        reasonUtf8: bytes | None = None,
        isReply: bool = False,
    ) -> None:
        """Send a close frame, and unregister the client before that."""
        self.close_frame_due(code, isReply)
        self.flow.begin_close()
        super().sendCloseFrame(code, reasonUtf8, isReply)
        if self.state == self.STATE_CLOSING:
            self.close_frame_sent()

    def dropConnection(self, abort: bool = False) -> None:
        """Close the transport. Autobahn's version resets it after a clean close."""
        self.unregisterProducer()
        if self.state == self.STATE_CLOSED:
            return
        self.droppedByMe = True
        self.state = self.STATE_CLOSED
        self.flow.stop_following()
        self.flow.send_held()
        self.transport_closing(self.wasNotCleanReason or "closed")
        if abort and not self.wasClean:
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()


def _masked_header(first: int, length: int, mask: bytes) -> bytes:
    """Header of a client's frame."""
    head = bytearray(header(first, length))
    head[1] |= MASKED
    return bytes(head) + mask
