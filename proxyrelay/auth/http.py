"""Bounded HTTP: JSON requests with limits on time, size and encoding.

No error text holds a secret, whatever the server quotes.
"""

from __future__ import annotations

import time
from base64 import b64encode
from http import HTTPStatus
from typing import Any, Self, TypeVar, cast
from urllib.parse import urlsplit

import msgspec
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    BrowserLikePolicyForHTTPS,
    HostnameCachingHTTPSPolicy,
    HTTPConnectionPool,
    ResponseDone,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from proxyrelay.auth.credentials import Credentials
from proxyrelay.auth.globus_error import GlobusError, Late, refusal, unreachable
from proxyrelay.net.clock import Clock

HTTPS_PORT = 443

MAX_BODY_BYTES = 64 * 1024
"""Longest body that is read; real ones have about 1 kB."""

MAX_IDLE_SECONDS = 20
"""Life of an idle connection; firewalls forget one later."""

MAX_CONNECTIONS = 64
"""Idle connections in the pool, and concurrent requests."""

T = TypeVar("T")


class BoundedClient:
    """Client of one JSON service, as one application.

    Args:
        agent: Agent that sends the requests.
        service_url: Base URL, such as ``https://auth.globus.org``.
        credentials: User and password of each request.
        clock: Scheduler of the timeouts.
        pool: Idle connections of the agent, if it keeps any.
        wall: Wall time in seconds since 1970, for dates in answers.
    """

    def __init__(
        self,
        agent: IAgent,
        service_url: str,
        credentials: Credentials,
        clock: IReactorTime,
        pool: HTTPConnectionPool | None = None,
        wall: Clock = time.time,
    ) -> None:
        self._http = HTTPClient(_PlainAgent(agent))
        self._url = service_url.rstrip("/")
        self._credentials = credentials
        self._clock = clock
        self._pool = pool
        self._wall = wall

    @classmethod
    def connect(
        cls,
        reactor: Any,
        service_url: str,
        credentials: Credentials,
        connect_timeout: float,
    ) -> Self:
        """Client over a pool of persistent connections with verified TLS.

        The ``connect_timeout`` for one connection is in seconds.
        """
        policy = HostnameCachingHTTPSPolicy(BrowserLikePolicyForHTTPS())
        # The trust store loads slowly: load it before clients wait.
        netloc = urlsplit(service_url)
        host = (netloc.hostname or "").encode()
        policy.creatorForNetloc(host, netloc.port or HTTPS_PORT)
        pool = HTTPConnectionPool(reactor, persistent=True)
        pool.maxPersistentPerHost = MAX_CONNECTIONS
        pool.cachedConnectionTimeout = MAX_IDLE_SECONDS
        agent = Agent(reactor, policy, connect_timeout, pool=pool)
        return cls(agent, service_url, credentials, reactor, pool)

    def forget_connections(self) -> None:
        """Close the idle connections; the next request opens a new one."""
        if self._pool is not None:
            self._pool.closeCachedConnections().addErrback(lambda _: None)

    def request(
        self,
        kind: type[T],
        method: str,
        path: str,
        timeout: float,
        secrets: tuple[str, ...] = (),
        **options: Any,
    ) -> Deferred[T]:
        """Send a request and decode its answer, or fail with `GlobusError`.

        Args:
            kind: Type of the answer.
            method: HTTP method.
            path: Path below the base URL.
            timeout: Seconds until the answer is complete.
            secrets: Further texts that no error may quote.
            options: Arguments of treq, such as ``json``.
        """
        running = Deferred.fromCoroutine(
            self._request(kind, method, path, secrets, options)
        )

        def cancel(answer: Deferred[T]) -> None:
            # Twisted's agent fails a cancelled request with another error.
            answer.errback(CancelledError())
            running.cancel()

        def finish(result: T | Failure) -> None:
            if not answer.called:
                answer.callback(result)

        answer: Deferred[T] = Deferred(cancel)
        running.addBoth(finish)
        return answer.addTimeout(timeout, self._clock, _late)

    async def _request(
        self,
        kind: type[T],
        method: str,
        path: str,
        secrets: tuple[str, ...],
        options: dict[str, Any],
    ) -> T:
        user, password = self._credentials.client_id, self._credentials.secret.reveal()
        basic = b64encode(f"{user}:{password}".encode()).decode()
        secrets = (*secrets, password, basic)
        try:
            response = await self._http.request(
                method,
                self._url + path,
                auth=(user, password),
                headers=Headers({"Accept": ["application/json"]}),
                allow_redirects=False,
                unbuffered=True,
                reactor=cast(Any, self._clock),
                **options,
            )
        except (GlobusError, CancelledError):
            raise
        except Exception as error:
            raise unreachable(error, secrets) from None
        reader = _BodyReader(response.code)
        response.deliverBody(reader)
        body = await reader.done
        media_type = _header(response, b"Content-Type").partition(";")[0].strip()
        is_json = media_type.lower() == "application/json"
        if response.code not in {HTTPStatus.OK, HTTPStatus.CREATED}:
            pause = _header(response, b"Retry-After")
            described = body if is_json else b""
            raise refusal(response.code, described, pause, secrets, self._wall())
        if not is_json:
            raise GlobusError("answered with something else than JSON", response.code)
        answer = _decoded(kind, body)
        if answer is None:
            raise GlobusError("answered with JSON that makes no sense", response.code)
        return answer


def _late(_result: object, timeout: float) -> Any:
    raise Late(f"did not answer within {timeout:.3g} s")


@implementer(IAgent)
class _PlainAgent:
    """Agent that refuses compressed answers: treq inflates them without a limit."""

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,  # noqa: N803
    ) -> Deferred[IResponse]:
        plain = (headers or Headers()).copy()
        plain.removeHeader("Accept-Encoding")
        answer = self._agent.request(method, uri, plain, bodyProducer)
        return answer.addCallback(_uncompressed)


def _uncompressed(response: IResponse) -> IResponse:
    if response.headers.hasHeader("Content-Encoding"):
        response.deliverBody(_Discard())
        raise GlobusError("answered compressed, without being asked to", response.code)
    return response


class _Discard(Protocol):
    """Body reader that closes the connection."""

    def connectionMade(self) -> None:
        _abort(self.transport)


class _BodyReader(Protocol):
    """Body reader with the limit `MAX_BODY_BYTES`; ``status`` is the answer's.

    Twisted's ``readBody`` has no limit; treq's ``collect`` takes a cut body as whole.
    """

    def __init__(self, status: int) -> None:
        self.done: Deferred[bytes] = Deferred(lambda _: _abort(self.transport))
        self._status = status
        self._body = bytearray()

    def dataReceived(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > MAX_BODY_BYTES:
            self._body.clear()
            text = f"answered with over {MAX_BODY_BYTES} bytes"
            self._fail(GlobusError(text, self._status))
            _abort(self.transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not reason.check(ResponseDone):
            self._fail(GlobusError("broke off in the middle of an answer"))
        elif not self.done.called:
            self.done.callback(bytes(self._body))

    def _fail(self, error: GlobusError) -> None:
        if not self.done.called:
            self.done.errback(error)


def _abort(transport: Any) -> None:
    """Close a response's connection below TLS; ``loseConnection`` waits for the peer.

    A response's transport has no ``abortConnection``.
    """
    transport.stopProducing()


def _decoded(kind: type[T], body: bytes) -> T | None:
    """A JSON body; None if it has another form."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _header(response: IResponse, name: bytes) -> str:
    """First field of a name, or nothing; any byte is allowed, unlike in UTF-8."""
    values = response.headers.getRawHeaders(name) or [b""]
    return bytes(values[0]).decode("latin-1")
