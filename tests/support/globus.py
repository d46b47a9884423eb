"""Globus Auth without a network: the test ends each request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import parse_qs

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseNeverReceived
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from proxyrelay.auth.credentials import Credentials
from proxyrelay.auth.globus_api import Globus
from proxyrelay.config import Secret

CLIENT_ID = "8d7fdd4c-5f2c-4f43-9d7a-3c1f0a7f2f52"
SECRET = "s3cr3t/of+the=relay"
TOKEN = "AgPBearerTokenOfJo0123456789"
JO = "f2f0b1c4-0d3e-4d4c-9a59-6d4b5d0e8a11"
SERVICE = "https://auth.example.org"
CREDENTIALS = Credentials(
    CLIENT_ID, Secret(SECRET), "client ID from here, secret from there"
)
JSON = {"Content-Type": "application/json"}


def active(**fields: Any) -> dict[str, Any]:
    """Answer about a token of Jo's; keywords replace or add fields."""
    answer: dict[str, Any] = {
        "active": True,
        "sub": JO,
        "username": "jo@example.org",
        "name": "Jo",
        "email": None,
        "aud": [CLIENT_ID],
        "scope": f"https://auth.globus.org/scopes/{CLIENT_ID}/relay_all openid",
        "client_id": "0b0f8a9e-5d3a-4a5e-9a58-0c7d4e1f2a3b",
        "iss": "https://auth.globus.org",
        "token_type": "Bearer",
    }
    return answer | fields


class BodyTransport:
    """Connection of a body."""

    def __init__(self) -> None:
        self.ended = 0

    def stopProducing(self) -> None:
        self.ended += 1


@implementer(IResponse)
class FakeResponse:
    """Answer; the test sends its body."""

    version = (b"HTTP", 1, 1)
    phrase = b"Whatever"
    length = UNKNOWN_LENGTH
    request: Any = None
    previousResponse: Any = None  # noqa: N815

    def __init__(self, code: int, headers: Mapping[str, str]) -> None:
        self.code = code
        self.headers = Headers({name: [value] for name, value in headers.items()})
        self.transport = BodyTransport()
        self.reader: Protocol | None = None

    def setPreviousResponse(self, response: Any) -> None:  # noqa: N802
        """Ignore a redirect."""

    def deliverBody(self, protocol: Protocol) -> None:  # noqa: N802
        self.reader = protocol
        protocol.makeConnection(cast(Any, self.transport))

    def feed(self, data: bytes) -> None:
        assert self.reader is not None
        self.reader.dataReceived(data)

    def end(self, reason: Exception | None = None) -> None:
        assert self.reader is not None
        self.reader.connectionLost(Failure(reason or ResponseDone()))


class Asked:
    """A request."""

    def __init__(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None,
        body: IBodyProducer | None,
    ) -> None:
        self.method = method.decode()
        self.uri = uri.decode()
        self.headers = headers or Headers()
        self.body = b"" if body is None else cast(Any, body)._inputFile.read()
        self.cancelled = 0
        self.answer: Deferred[IResponse] = Deferred(self._cancel)

    def _cancel(self, answer: Deferred[IResponse]) -> None:
        """Fail as Twisted's agent does after it has sent a request."""
        self.cancelled += 1
        answer.errback(ResponseNeverReceived([Failure(CancelledError())]))

    @property
    def token(self) -> str:
        """Token of an introspection."""
        (token,) = parse_qs(self.body.decode())["token"]
        return str(token)

    def respond(
        self, code: int = 200, headers: Mapping[str, str] | None = None
    ) -> FakeResponse:
        """Send status and header fields."""
        response = FakeResponse(code, JSON if headers is None else headers)
        self.answer.callback(response)
        return response

    def reply(
        self, value: Any, code: int = 200, headers: Mapping[str, str] | None = None
    ) -> FakeResponse:
        """Answer; bytes as they are, anything else as JSON."""
        response = self.respond(code, headers)
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        response.feed(data)
        response.end()
        return response

    def fail(self, error: Exception) -> None:
        """Fail the request."""
        self.answer.errback(error)


@implementer(IAgent)
class PendingAgent:
    """Agent with a list of its requests."""

    def __init__(self) -> None:
        self.requests: list[Asked] = []

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,  # noqa: N803
    ) -> Deferred[IResponse]:
        asked = Asked(method, uri, headers, bodyProducer)
        self.requests.append(asked)
        return asked.answer

    @property
    def pending(self) -> list[Asked]:
        """Requests without an answer."""
        return [asked for asked in self.requests if not asked.answer.called]

    @property
    def last(self) -> Asked:
        """The newest request."""
        return self.requests[-1]


def globus(
    agent: IAgent, clock: Clock | IReactorTime, credentials: Credentials = CREDENTIALS
) -> Globus:
    """Globus Auth behind an agent."""
    return Globus(agent, SERVICE, credentials, cast(Any, clock), wall=clock.seconds)
