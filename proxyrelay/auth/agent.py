"""HTTP agent with limits: verified TLS, no compression, bounded bodies."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import BrowserLikePolicyForHTTPS, ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IPolicyForHTTPS, IResponse
from zope.interface import implementer

from proxyrelay.auth.globus_error import GlobusError

MAX_BODY_BYTES = 64 * 1024
"""Longest body that is read; real ones have about 1 kB."""


@implementer(IPolicyForHTTPS)
class CachedTLSPolicy:
    """Browser-like TLS verification; one trust store for each host.

    `BrowserLikePolicyForHTTPS` loads the trust store for each connection.
    """

    def __init__(self) -> None:
        self._policy = BrowserLikePolicyForHTTPS()
        self._creators: dict[tuple[bytes, int], Any] = {}

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:  # noqa: N802
        """Creator of verified connections to a host."""
        key = (hostname, port)
        if key not in self._creators:
            self._creators[key] = self._policy.creatorForNetloc(hostname, port)
        return self._creators[key]


@implementer(IAgent)
class PlainAgent:
    """Agent that refuses compressed answers: treq inflates them without a limit.

    Args:
        agent: Agent that sends the requests.
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
        """Send a request, see `IAgent`; a compressed answer is a `GlobusError`."""
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
    """Body reader that closes the connection."""

    def connectionMade(self) -> None:
        _abort(self.transport)


class BodyReader(Protocol):
    """Body reader with the limit `MAX_BODY_BYTES`.

    Twisted's ``readBody`` has no limit; treq's ``collect`` takes a cut body as whole.

    Args:
        status: HTTP status of the answer.
    """

    def __init__(self, status: int) -> None:
        self.done: Deferred[bytes] = Deferred(lambda _: _abort(self.transport))
        self._status = status
        self._body = bytearray()

    def dataReceived(self, data: bytes) -> None:
        """Keep the data, or fail and close the connection."""
        if len(self._body) + len(data) <= MAX_BODY_BYTES:
            self._body += data
            return
        self._fail(
            GlobusError(f"answered with over {MAX_BODY_BYTES} bytes", self._status)
        )
        _abort(self.transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End with the body; only `ResponseDone` means a whole one."""
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
