"""Globus Auth over HTTP, as the relay's application, with every answer bounded."""

from __future__ import annotations

import re
import time
from base64 import b64encode
from collections.abc import Callable, Iterable
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar, cast
from urllib.parse import quote_plus, urlsplit

import msgspec
from OpenSSL import SSL
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    BrowserLikePolicyForHTTPS,
    HTTPConnectionPool,
    ResponseDone,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import (
    IAgent,
    IBodyProducer,
    IPolicyForHTTPS,
    IResponse,
)
from zope.interface import implementer

from proxyrelay.auth.credentials import Credentials
from proxyrelay.auth.policy import Introspection
from proxyrelay.errors import ProxyRelayError
from proxyrelay.net.clock import Clock

ANSWER_CEILING = 64 * 1024
"""Bytes of the longest answer that is read; real ones have about 1 kB."""

HTTPS = 443

IDLE = 20
"""Seconds for which an idle connection is kept: shorter than firewalls forget it."""

CONNECTIONS = 64
"""Connections to Globus that are kept open, and requests under way at once."""

WORDS_CEILING = 300
"""Characters of the longest text of Globus that is passed on."""

SECRET_FLOOR = 8
"""Characters of the shortest token worth hiding: "a" would hide words."""

T = TypeVar("T")


class GlobusError(ProxyRelayError):
    """Globus cannot be asked, or does not answer as it should.

    It is never the fault of the client whose token was to be looked at.

    Attributes:
        status: The HTTP status, if there was an answer.
        code: What Globus calls the error (``invalid_client``), if it said so.
        pause: Seconds for which Globus asks to be left alone.
    """

    def __init__(
        self,
        message: str,
        status: int | None = None,
        code: str | None = None,
        pause: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.pause = pause

    @property
    def about_the_question(self) -> bool:
        """Whether it says nothing about how Globus, or the relay's account, is."""
        status = self.status or 0
        return (
            HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
            and status not in _TRANSIENT
            and status != HTTPStatus.UNAUTHORIZED
        )

    @property
    def transient(self) -> bool:
        """Whether it is worth another attempt soon."""
        return self.status is None or self.status in _TRANSIENT

    @property
    def about_the_address(self) -> bool:
        """Whether ``service_url`` may be to blame."""
        return self.status == HTTPStatus.NOT_FOUND


class Unreachable(GlobusError):
    """There is no connection to Globus, or no trust in it."""

    @property
    def about_the_address(self) -> bool:
        """It is."""
        return True


class Late(GlobusError):
    """Globus has not answered in time."""


class Nobody(GlobusError):
    """Globus says that a token is active, but not whose it is."""

    @property
    def about_the_question(self) -> bool:
        """It is: the answer about the next token may be whole."""
        return True


_SUCCESS = frozenset({HTTPStatus.OK, HTTPStatus.CREATED})

_TRANSIENT = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)


@implementer(IPolicyForHTTPS)
class OnePolicy:
    """Verifies TLS as browsers do, and loads the trust store once for each host.

    Twisted's policy loads it for every connection.
    """

    def __init__(self) -> None:
        self._policy = BrowserLikePolicyForHTTPS()
        self._creators: dict[tuple[bytes, int], Any] = {}

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:  # noqa: N802
        """What makes verified connections to a host."""
        key = (hostname, port)
        if key not in self._creators:
            self._creators[key] = self._policy.creatorForNetloc(hostname, port)
        return self._creators[key]


@implementer(IAgent)
class PlainAgent:
    """An agent that neither asks for nor takes compressed answers.

    treq inflates them as they come, however far.

    Args:
        agent: Makes the requests.
    """

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,  # noqa: N803
    ) -> Deferred[IResponse]:
        """Make a request, as `IAgent` says.

        Raises:
            GlobusError: The answer is compressed.
        """
        plain = Headers() if headers is None else headers.copy()
        plain.removeHeader("Accept-Encoding")
        answer = self._agent.request(method, uri, plain, bodyProducer)
        return answer.addCallback(_uncompressed)


def _uncompressed(response: IResponse) -> IResponse:
    if response.headers.hasHeader("Content-Encoding"):
        response.deliverBody(_Discard())
        raise GlobusError("answered compressed, without being asked to", response.code)
    return response


class _Discard(Protocol):
    """Ends a connection instead of reading what comes on it."""

    def connectionMade(self) -> None:
        _end(self.transport)


class _Body(Protocol):
    """Reads a body up to `ANSWER_CEILING`.

    Args:
        status: The HTTP status that came before it.
    """

    def __init__(self, status: int) -> None:
        self.done: Deferred[bytes] = Deferred(lambda _: _end(self.transport))
        self._status = status
        self._pieces: list[bytes] = []
        self._length = 0

    def dataReceived(self, data: bytes) -> None:
        self._length += len(data)
        if self._length > ANSWER_CEILING:
            self._finish(
                GlobusError(f"answered with over {ANSWER_CEILING} bytes", self._status)
            )
            _end(self.transport)
        else:
            self._pieces.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if reason.check(ResponseDone):
            self._finish(b"".join(self._pieces))
        else:
            self._finish(GlobusError("broke off in the middle of an answer"))

    def _finish(self, result: bytes | GlobusError) -> None:
        if self.done.called:
            return
        if isinstance(result, bytes):
            self.done.callback(result)
        else:
            self.done.errback(result)


def _end(transport: Any) -> None:
    """End a connection, whatever the other side does.

    A response's transport cannot be aborted, and ``loseConnection`` waits for the other
    side to end TLS; this closes what is below TLS.
    """
    transport.stopProducing()


class _Problem(msgspec.Struct):
    """How Globus describes an error: by RFC 6749, or in a list of its own."""

    error: str | None = None
    error_description: str | None = None
    errors: list[dict[str, Any]] = msgspec.field(default_factory=list)

    def code(self) -> str:
        own = self.errors[0] if self.errors else {}
        return str(self.error or own.get("code") or "")

    def words(self) -> str:
        own = self.errors[0] if self.errors else {}
        detail = self.error_description or own.get("detail") or own.get("title")
        return ": ".join(str(part) for part in (self.code(), detail) if part)


class ClientInfo(msgspec.Struct):
    """An application.

    Attributes:
        id: Its client ID.
        name: What its owner calls it.
        scopes: IDs of its scopes.
    """

    id: str
    name: str
    scopes: list[str] = msgspec.field(default_factory=list)


class ScopeInfo(msgspec.Struct):
    """A scope.

    Attributes:
        id: Its ID.
        scope_string: What clients request.
    """

    id: str
    scope_string: str


class NewScope(msgspec.Struct):
    """A scope to be added to an application.

    Attributes:
        name: Shown when a user consents.
        description: Shown below.
        scope_suffix: The last part of its scope string.
        dependent_scopes: Scopes that come with it.
        advertised: Whether it can be found.
        allows_refresh_token: Whether clients may stay logged in.
    """

    name: str
    description: str
    scope_suffix: str
    dependent_scopes: list[str] = msgspec.field(default_factory=list)
    advertised: bool = True
    allows_refresh_token: bool = True


class _ClientReply(msgspec.Struct):
    client: ClientInfo


class _ScopeReply(msgspec.Struct):
    """Globus has answered with either."""

    scope: ScopeInfo | None = None
    scopes: list[ScopeInfo] = msgspec.field(default_factory=list)

    def one(self) -> ScopeInfo:
        found = [self.scope] if self.scope else self.scopes
        if not found:
            raise GlobusError("answered without the scope")
        return found[0]


class Globus:
    """The parts of the Globus Auth API that a relay needs.

    Args:
        http: Makes the requests.
        credentials: Go with each.
        service_url: Where Globus Auth is, such as ``https://auth.globus.org``.
        clock: Runs the deadlines.
        pool: Keeps the connections that ``http`` uses, if it keeps any.
        wall: Gives the time in seconds since 1970, for dates in answers.
    """

    def __init__(
        self,
        http: HTTPClient,
        credentials: Credentials,
        service_url: str,
        clock: IReactorTime,
        pool: HTTPConnectionPool | None = None,
        wall: Clock = time.time,
    ) -> None:
        self._http = http
        self._pool = pool
        self._credentials = credentials
        self._url = service_url.rstrip("/")
        self._clock = clock
        self._wall = wall
        secret = credentials.secret.reveal()
        pair = f"{credentials.client_id}:{secret}"
        self._secrets = (secret, b64encode(pair.encode()).decode())

    @classmethod
    def connect(
        cls,
        reactor: Any,
        service_url: str,
        credentials: Credentials,
        connect_timeout: float,
    ) -> Globus:
        """Globus Auth over a few connections that are kept open, TLS verified.

        Args:
            reactor: Runs them.
            service_url: Where it is.
            credentials: Go with each request.
            connect_timeout: Seconds to open a connection.
        """
        policy = OnePolicy()
        # The trust store takes a while to load: now, and not when clients wait.
        place = urlsplit(service_url)
        policy.creatorForNetloc((place.hostname or "").encode(), place.port or HTTPS)
        pool = HTTPConnectionPool(reactor, persistent=True)
        pool.maxPersistentPerHost = CONNECTIONS
        pool.cachedConnectionTimeout = IDLE
        agent = Agent(reactor, policy, connect_timeout, pool=pool)
        return cls(
            HTTPClient(PlainAgent(agent)), credentials, service_url, reactor, pool
        )

    @property
    def client_id(self) -> str:
        """The relay's application."""
        return self._credentials.client_id

    def forget_connections(self) -> None:
        """Ask over new connections from now on."""
        if self._pool is not None:
            self._pool.closeCachedConnections().addErrback(lambda _: None)

    def explained(self, error: GlobusError) -> str:
        """What Globus says, and which settings may be to blame.

        Args:
            error: What came of asking this.
        """
        if error.status == HTTPStatus.UNAUTHORIZED:
            where = self._credentials.origin
            return (
                f"Globus Auth {error}: the client ID or the secret is wrong ({where})"
            )
        if error.about_the_address:
            return f"Globus Auth {error} (auth.kwargs.service_url is {self._url})"
        return f"Globus Auth {error}"

    def introspect(self, token: str, timeout: float) -> Deferred[Introspection]:
        """Ask about a token (RFC 7662).

        Args:
            token: The token.
            timeout: Seconds until the whole answer must be there.

        Returns:
            Fires with the answer, or fails with `GlobusError`.
        """

        async def ask() -> Introspection:
            answer = await self._ask(
                Introspection,
                "POST",
                "/v2/oauth2/token/introspect",
                secrets=(token, quote_plus(token)),
                data={"token": token},
            )
            if answer.active and not answer.sub:
                raise Nobody(
                    "says that a token is active, but not whose it is", HTTPStatus.OK
                )
            return answer

        return self._bounded(ask(), timeout)

    def client(self, timeout: float) -> Deferred[ClientInfo]:
        """Look the relay's application up.

        Returns:
            Fires with what Globus knows of it, or fails with `GlobusError`.
        """

        async def ask() -> ClientInfo:
            path = f"/v2/api/clients/{self.client_id}"
            return (await self._ask(_ClientReply, "GET", path)).client

        return self._bounded(ask(), timeout)

    def scope(self, scope_id: str, timeout: float) -> Deferred[ScopeInfo]:
        """Look a scope up.

        Returns:
            Fires with what Globus knows of it, or fails with `GlobusError`.
        """

        async def ask() -> ScopeInfo:
            return (
                await self._ask(_ScopeReply, "GET", f"/v2/api/scopes/{scope_id}")
            ).one()

        return self._bounded(ask(), timeout)

    def create_scope(self, scope: NewScope, timeout: float) -> Deferred[ScopeInfo]:
        """Add a scope to the relay's application.

        Returns:
            Fires with the new scope, or fails with `GlobusError`.
        """

        async def ask() -> ScopeInfo:
            path = f"/v2/api/clients/{self.client_id}/scopes"
            body = {"scope": msgspec.structs.asdict(scope)}
            return (await self._ask(_ScopeReply, "POST", path, json=body)).one()

        return self._bounded(ask(), timeout)

    def _bounded(self, coroutine: Any, timeout: float) -> Deferred[Any]:
        """Run something until its time is over, or nobody wants it any more.

        What comes of it after that is nobody's: Twisted's agent reports a request that
        was given up as one that failed.
        """
        asking: Deferred[Any] = Deferred.fromCoroutine(coroutine)
        given_up = False

        def give_up(_: object) -> None:
            nonlocal given_up
            given_up = True
            asking.cancel()

        answer: Deferred[Any] = Deferred(give_up)

        def hand_over(result: Any) -> None:
            if not given_up:
                answer.callback(result)

        asking.addBoth(hand_over)
        answer.addTimeout(timeout, self._clock)
        return answer.addErrback(_late, timeout)

    async def _ask(
        self,
        kind: type[T],
        method: str,
        path: str,
        secrets: tuple[str, ...] = (),
        **request: Any,
    ) -> T:
        hide = partial(_without, (*self._secrets, *secrets))
        try:
            response = await self._http.request(
                method,
                self._url + path,
                auth=(self._credentials.client_id, self._credentials.secret.reveal()),
                headers=Headers({"Accept": ["application/json"]}),
                allow_redirects=False,
                unbuffered=True,
                reactor=cast(Any, self._clock),
                **request,
            )
        except (GlobusError, CancelledError):
            raise
        except Exception as error:
            raise Unreachable(f"cannot be reached: {hide(_reason(error))}") from None
        body = _Body(response.code)
        response.deliverBody(body)
        return _decoded(kind, response, await body.done, hide, self._wall())


def _late(failure: Failure, timeout: float) -> None:
    failure.trap(DeferredTimeout)
    raise Late(f"did not answer within {timeout:.3g} s")


def _reason(error: Exception) -> str:
    """The innermost cause that Twisted's wrappers hide."""
    reasons = getattr(error, "reasons", None)
    if reasons:
        return _reason(reasons[0].value)
    if isinstance(error, SSL.Error) and error.args:
        said = ", ".join(str(parts[-1]) for parts in error.args[0])
        if "certificate verify failed" in said:
            said += " (SSL_CERT_FILE names the trust store, if it is not the system's)"
        return f"TLS: {said}"
    return str(error) or type(error).__name__


def _without(secrets: Iterable[str], text: str) -> str:
    """A text from outside, short, in one line, and without secrets."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= SECRET_FLOOR:
            text = text.replace(secret, "(hidden)")
    plain = "".join(
        letter if letter.isprintable() else ascii(letter)[1:-1]
        for letter in text[:WORDS_CEILING]
    )
    return plain + "..." * (len(text) > WORDS_CEILING)


def _decoded(
    kind: type[T],
    response: IResponse,
    body: bytes,
    hide: Callable[[str], str],
    now: float,
) -> T:
    kind_of_body = _header(response, b"Content-Type").partition(";")[0].strip()
    is_json = kind_of_body.lower() == "application/json"
    if response.code not in _SUCCESS:
        raise _refused(response, body if is_json else b"{}", hide, now)
    if not is_json:
        raise GlobusError("answered with something else than JSON", response.code)
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise GlobusError(
            "answered with JSON that makes no sense", response.code
        ) from None


def _refused(
    response: IResponse, body: bytes, hide: Callable[[str], str], now: float
) -> GlobusError:
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        problem = _Problem()
    words = hide(problem.words())
    return GlobusError(
        f"answered {response.code}{f' ({words})' if words else ''}",
        response.code,
        hide(problem.code()) or None,
        _retry_after(_header(response, b"Retry-After"), now),
    )


def _header(response: IResponse, name: bytes) -> str:
    """The first field of a name, or nothing; as text it would have to be UTF-8."""
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
