"""HTTP for the private listener: every override of Twisted's server.

Checked against Twisted 26.10.0.
"""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from io import BytesIO
from socket import socket
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.internet.unix import Port
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

MAX_CALLERS = 64
"""Connections at once. A further one takes the place of the idlest."""

FIRST_REQUEST_SECONDS = 5
"""Seconds from a connection to its first whole request."""

REQUEST_SECONDS = 30
"""Seconds from an answer to the next whole request."""

ANSWER_SECONDS = 60
"""Seconds in which a client must read its answer."""

CLOSE_SECONDS = 1
"""Seconds in which a client must read the rest when the relay ends."""

MAX_REQUEST_BODY_BYTES = 16 * 1024

PLAIN_TEXT = "text/plain; charset=utf-8"

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content Security Policy: the page loads its own files, and asks this listener."""

HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
    "Server": "proxyrelay",
}
"""Header fields of each answer."""

_UNPRINTABLE = re.compile("[^ -~]+")

_encoder = msgspec.json.Encoder()


def encode_json(body: object) -> bytes:
    """JSON in printable ASCII, since it holds clients' texts and terminals show it."""
    encoded = _encoder.encode(body).decode()
    return _UNPRINTABLE.sub(lambda found: json.dumps(found[0])[1:-1], encoded).encode()


class FilePort(Port):
    """Listens on a socket in the file system, and leaves the file alone.

    Twisted's port changes the mode of the file, and removes the file at the end. By
    then it may be the socket of another relay.
    """

    def __init__(self, bound: socket, site: Site, reactor: Any) -> None:
        super().__init__(bound.getsockname(), site, reactor=reactor)
        self._bound, self._site = bound, site

    def startListening(self) -> None:  # noqa: N802
        """Start to accept."""
        self._site.doStart()
        self.socket = self._bound
        self.fileno = self.socket.fileno  # type: ignore[method-assign]
        self.connected = True
        self.numberAccepts = MAX_CALLERS
        self.startReading()

    def connectionLost(self, reason: Failure) -> None:
        """Close the socket, and keep the file."""
        super(Port, self).connectionLost(reason)


class PrivateRequest(Request):
    """A request with a short body, kept in memory."""

    content: Any
    channel: Any

    def gotLength(self, length: int | None) -> None:  # noqa: ARG002
        """Prepare for the body."""
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """Take a piece of the body; close the connection if it is too long."""
        if self.content.tell() + len(data) > MAX_REQUEST_BODY_BYTES:
            self.channel.transport.abortConnection()
        else:
            self.content.write(data)

    def header(self, name: str) -> str | None:
        """A header field. It need not be UTF-8."""
        value = self.getHeader(name.encode())
        return None if value is None else value.decode("latin-1")

    def json(self, body: object, status: HTTPStatus = HTTPStatus.OK) -> bytes:
        """Set status and type of a JSON answer, and return its body."""
        self.setResponseCode(status.value, status.phrase.encode())
        self.setHeader("Content-Type", "application/json")
        return encode_json(body)

    def text(self, body: str, status: HTTPStatus = HTTPStatus.OK) -> bytes:
        """Set status and type of an answer in plain text, and return its body."""
        self.setResponseCode(status.value)
        self.setHeader("Content-Type", PLAIN_TEXT)
        return body.encode()


class PrivateChannel(HTTPChannel):
    """A connection with a deadline at any time, and one request at a time.

    Twisted answers all requests of a read at once, and keeps the answers in memory: a
    few bytes could cost megabytes. So a client that sends more before it has its answer
    gets that answer, and is closed. No browser does so.
    """

    site: PrivateSite
    transport: Any

    def connectionMade(self) -> None:
        """Start the deadline of the first request."""
        self.site.used(self)
        super().connectionMade()
        self.setTimeout(FIRST_REQUEST_SECONDS)

    def resetTimeout(self) -> None:
        """Keep the deadline: a byte must not extend it."""

    def timeoutConnection(self) -> None:
        """Close without Twisted's line in the log."""
        self.transport.abortConnection()

    def allContentReceived(self) -> None:
        """Answer a whole request, with a deadline for the reader."""
        self.site.used(self)
        self.setTimeout(REQUEST_SECONDS)  # Twisted returns to it after the answer.
        # Later bytes: after a head in the first, after a body in the second.
        if self._buffer or any(self._dataBuffer):
            self.persistent = False
            self.requests[-1].setHeader("Connection", "close")
        super().allContentReceived()
        if self.requests or not self.persistent:
            self.setTimeout(ANSWER_SECONDS)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget the connection."""
        super().connectionLost(reason)
        self.site.lost(self)


class PrivateSite(Site):
    """Answers requests over a few connections, without an access log.

    ``open`` has all connections, the idlest first.
    """

    noisy = False
    protocol: Any = PrivateChannel

    def __init__(self, root: Resource, reactor: Any) -> None:
        super().__init__(
            root,
            PrivateRequest,
            timeout=REQUEST_SECONDS,
            reactor=reactor,
            parsePOSTFormSubmission=False,
        )
        self.open: dict[PrivateChannel, None] = {}
        self._ended: Deferred[None] | None = None
        self._deadline: IDelayedCall | None = None

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Accept a connection; over the limit, close the idlest one."""
        if len(self.open) >= MAX_CALLERS:
            idle = next(iter(self.open))
            del self.open[idle]
            idle.transport.abortConnection()
        return super().buildProtocol(addr)

    def startFactory(self) -> None:
        """Open no access log."""

    def log(self, request: object) -> None:
        """Log no request."""

    def used(self, channel: PrivateChannel) -> None:
        """Note that a connection is new, or has sent a whole request."""
        self.open.pop(channel, None)
        self.open[channel] = None

    def lost(self, channel: PrivateChannel) -> None:
        """Forget a connection."""
        self.open.pop(channel, None)
        if self._ended is not None and not self.open:
            ended, self._ended = self._ended, None
            if self._deadline is not None:
                self._deadline.cancel()
            ended.callback(None)

    def stop(self) -> Deferred[None]:
        """Close all connections; fires when none is left.

        Clients that do not read are aborted after `CLOSE_SECONDS`.
        """
        if not self.open:
            return succeed(None)
        self._ended = Deferred()
        self._deadline = self.reactor.callLater(CLOSE_SECONDS, self._abort)
        for channel in list(self.open):
            channel.loseConnection()
        return self._ended

    def _abort(self) -> None:
        self._deadline = None
        for channel in list(self.open):
            channel.transport.abortConnection()
