"""Bounded HTTP: JSON requests with limits on time, size and encoding.

No error text holds a secret, whatever the server quotes.
"""

from __future__ import annotations

import re
import time
from base64 import b64encode
from collections.abc import Callable, Iterable
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import msgspec
from OpenSSL import SSL
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from proxyrelay.auth.agent import BodyReader, CachedTLSPolicy, PlainAgent
from proxyrelay.auth.globus_error import GlobusError, Late, Unreachable
from proxyrelay.net.clock import Clock

HTTPS_PORT = 443

MAX_IDLE_SECONDS = 20
"""Life of an idle connection; firewalls forget one later."""

MAX_CONNECTIONS = 64
"""Idle connections in the pool, and concurrent requests."""

MAX_QUOTED_CHARACTERS = 300
"""Longest text of the server in an error."""

MIN_SECRET_CHARACTERS = 8
"""Shortest secret to hide: "a" would hide words."""

T = TypeVar("T")


_SUCCESS = frozenset({HTTPStatus.OK, HTTPStatus.CREATED})


class _ErrorBody(msgspec.Struct):
    """Body of an error: RFC 6749, or a list in Globus's own form."""

    error: str | None = None
    error_description: str | None = None
    errors: list[dict[str, Any]] = msgspec.field(default_factory=list)

    def code(self) -> str:
        own = self.errors[0] if self.errors else {}
        return str(self.error or own.get("code") or "")

    def text(self) -> str:
        own = self.errors[0] if self.errors else {}
        detail = self.error_description or own.get("detail") or own.get("title")
        return ": ".join(str(part) for part in (self.code(), detail) if part)


class BoundedClient:
    """Client of one JSON service, as one application.

    Args:
        http: HTTP client that sends the requests.
        service_url: Base URL, such as ``https://auth.globus.org``.
        auth: User and password of each request.
        clock: Scheduler of the timeouts.
        pool: Idle connections of ``http``, if it keeps any.
        wall: Wall time in seconds since 1970, for dates in answers.
    """

    def __init__(
        self,
        http: HTTPClient,
        service_url: str,
        auth: tuple[str, str],
        clock: IReactorTime,
        pool: HTTPConnectionPool | None = None,
        wall: Clock = time.time,
    ) -> None:
        self.url = service_url.rstrip("/")
        self._http = http
        self._auth = auth
        self._secrets = (auth[1], b64encode(":".join(auth).encode()).decode())
        self._clock = clock
        self._pool = pool
        self._wall = wall

    @classmethod
    def connect(
        cls,
        reactor: Any,
        service_url: str,
        auth: tuple[str, str],
        connect_timeout: float,
    ) -> BoundedClient:
        """Client over a pool of persistent connections with verified TLS.

        Args:
            reactor: Reactor of the connections.
            service_url: Base URL.
            auth: User and password of each request.
            connect_timeout: Seconds to open a connection.
        """
        policy = CachedTLSPolicy()
        # The trust store loads slowly: load it before clients wait.
        netloc = urlsplit(service_url)
        policy.creatorForNetloc(
            (netloc.hostname or "").encode(), netloc.port or HTTPS_PORT
        )
        pool = HTTPConnectionPool(reactor, persistent=True)
        pool.maxPersistentPerHost = MAX_CONNECTIONS
        pool.cachedConnectionTimeout = MAX_IDLE_SECONDS
        agent = Agent(reactor, policy, connect_timeout, pool=pool)
        return cls(HTTPClient(PlainAgent(agent)), service_url, auth, reactor, pool)

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
        """Send a request and decode its answer.

        Args:
            kind: Type of the answer.
            method: HTTP method.
            path: Path below the base URL.
            timeout: Seconds until the answer is complete.
            secrets: Further texts that no error may quote.
            options: Arguments of treq, such as ``json``.

        Returns:
            Fires with the answer, or fails with `GlobusError`.
        """
        running = Deferred.fromCoroutine(
            self._request(kind, method, path, secrets, options)
        )

        def give_up(answer: Deferred[T]) -> None:
            # Twisted's agent fails a cancelled request with another error.
            answer.errback(CancelledError())
            running.cancel()

        answer: Deferred[T] = Deferred(give_up)

        def hand_over(result: T | Failure) -> None:
            if not answer.called:
                answer.callback(cast(T, result))

        running.addBoth(hand_over)
        answer.addTimeout(timeout, self._clock)
        return answer.addErrback(_late, timeout)

    async def _request(
        self,
        kind: type[T],
        method: str,
        path: str,
        secrets: tuple[str, ...],
        options: dict[str, Any],
    ) -> T:
        hide = partial(_without, (*self._secrets, *secrets))
        try:
            response = await self._http.request(
                method,
                self.url + path,
                auth=self._auth,
                headers=Headers({"Accept": ["application/json"]}),
                allow_redirects=False,
                unbuffered=True,
                reactor=cast(Any, self._clock),
                **options,
            )
        except (GlobusError, CancelledError):
            raise
        except Exception as error:
            raise Unreachable(f"cannot be reached: {hide(_reason(error))}") from None
        body = BodyReader(response.code)
        response.deliverBody(body)
        return _decoded(kind, response, await body.done, hide, self._wall())


def _late(failure: Failure, timeout: float) -> Any:
    failure.trap(DeferredTimeout)
    raise Late(f"did not answer within {timeout:.3g} s")


def _reason(error: Exception) -> str:
    """Innermost cause below Twisted's wrappers."""
    reasons = getattr(error, "reasons", None)
    if reasons:
        return _reason(reasons[0].value)
    if isinstance(error, SSL.Error) and error.args:
        text = ", ".join(str(parts[-1]) for parts in error.args[0])
        if "certificate verify failed" in text:
            text += " (SSL_CERT_FILE names the trust store, if it is not the system's)"
        return f"TLS: {text}"
    return str(error) or type(error).__name__


def _without(secrets: Iterable[str], text: str) -> str:
    """Text from outside: short, printable, and without secrets."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= MIN_SECRET_CHARACTERS:
            text = text.replace(secret, "(hidden)")
    plain = "".join(
        letter if letter.isprintable() else ascii(letter)[1:-1]
        for letter in text[:MAX_QUOTED_CHARACTERS]
    )
    return plain + "..." * (len(text) > MAX_QUOTED_CHARACTERS)


def _decoded(
    kind: type[T],
    response: IResponse,
    body: bytes,
    hide: Callable[[str], str],
    now: float,
) -> T:
    media_type = _header(response, b"Content-Type").partition(";")[0].strip()
    is_json = media_type.lower() == "application/json"
    if response.code not in _SUCCESS:
        raise _error(response, body if is_json else b"{}", hide, now)
    if not is_json:
        raise GlobusError("answered with something else than JSON", response.code)
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise GlobusError(
            "answered with JSON that makes no sense", response.code
        ) from None


def _error(
    response: IResponse, body: bytes, hide: Callable[[str], str], now: float
) -> GlobusError:
    try:
        described = msgspec.json.decode(body, type=_ErrorBody)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        described = _ErrorBody()
    text = hide(described.text())
    return GlobusError(
        f"answered {response.code}{f' ({text})' if text else ''}",
        response.code,
        hide(described.code()) or None,
        _retry_after(_header(response, b"Retry-After"), now),
    )


def _header(response: IResponse, name: bytes) -> str:
    """First field of a name, or nothing; any byte is allowed, unlike in UTF-8."""
    values = response.headers.getRawHeaders(name) or [b""]
    return bytes(values[0]).decode("latin-1")


def _retry_after(value: str, now: float) -> float:
    """Seconds of a ``Retry-After``, or until its date (RFC 9110, section 10.2.3)."""
    if re.fullmatch("[0-9]+", value):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return 0.0
