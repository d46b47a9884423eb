"""How a connection to a relay begins: TCP, perhaps an HTTP proxy, perhaps TLS."""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Any

from OpenSSL.SSL import Error
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IAddress,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.python.failure import Failure
from zope.interface import implementer

from proxyrelay.client.url import Place, ProxyUrl, RelayUrl
from proxyrelay.errors import NotConnected

MAX_HEAD_BYTES = 16 * 1024
"""Longest head of an HTTP answer."""

MAYBE_TLS = " (does this port want wss://?)"
"""Hint for a port that declines a request without TLS."""

TLS_RECORDS = (b"\x15\x03", b"\x16\x03")
"""Begin of an alert and of a handshake (RFC 8446, section 5.1)."""

_NO_TLS = " (does this port want ws://?)"

TLS_HINTS = {
    "certificate verify failed": " (see trust_root, and the host of the URL)",
    "wrong version number": _NO_TLS,
    "record layer failure": _NO_TLS,
    "packet length too long": _NO_TLS,
    "http request": _NO_TLS,
}
"""Likely causes, by the words of OpenSSL."""

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9]\d\d)(?: ([^\r\n]*))?\r?\n")


def relay_endpoint(
    reactor: Any,
    url: RelayUrl,
    trust_root: Any = None,
    proxy: ProxyUrl | None = None,
    address: Place | None = None,
) -> IStreamClientEndpoint:
    """Endpoint of a relay.

    Args:
        reactor: Connects.
        url: Address of the relay.
        trust_root: Authorities of its certificate, as ``trustRootFromCertificates`` of
            `twisted.internet.ssl` makes them; None for those of the system.
        proxy: HTTP proxy on the way; None for a direct connection.
        address: Host and port to connect to, in the place of those of ``url`` or of
            ``proxy``; the certificate must still be that of ``url``.
    """
    place = address or (url.place if proxy is None else proxy.place)
    endpoint: Any = HostnameEndpoint(reactor, place.host, place.port)
    if proxy is not None:
        endpoint = TunnelEndpoint(endpoint, url.place, proxy.credentials)
    if url.secure:
        options = optionsForClientTLS(url.place.host, trustRoot=trust_root)
        endpoint = wrapClientTLS(options, endpoint)
    connected: IStreamClientEndpoint = endpoint
    return connected


def status_of(head: bytes) -> tuple[int, str] | None:
    """Status and its phrase, from the head of an HTTP answer; None if it is none."""
    found = _STATUS_LINE.match(head)
    if found is None:
        return None
    return int(found[1]), (found[2] or b"").decode("ascii", "replace").strip()


def unexpected(status: tuple[int, str], with_tls: bool) -> str:
    """Say what an answer means that is not 101, with status and phrase."""
    code, phrase = status
    words = f"HTTP {code} {phrase}".rstrip() + " in the place of 101"
    if code < 400 or code == 404:  # noqa: PLR2004 - relays have other errors
        return f"{words}: no relay answers there"
    return words + MAYBE_TLS if code == 400 and not with_tls else words  # noqa: PLR2004


def tls_words(error: Error) -> str:
    """Say why a TLS connection has ended, without OpenSSL's lists."""
    reasons = ""
    if error.args and isinstance(error.args[0], list):
        reasons = ", ".join(str(each[-1]) for each in error.args[0])
    hints = (hint for word, hint in TLS_HINTS.items() if word in reasons)
    return f"TLS: {reasons or 'the peer has closed the connection'}{next(hints, '')}"


def connect_request(place: Place, credentials: str | None) -> bytes:
    """Request of a tunnel through an HTTP proxy (RFC 9110, section 9.3.6)."""
    lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
    if credentials is not None:
        token = b64encode(credentials.encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {token}")
    return "\r\n".join([*lines, "", ""]).encode()


@implementer(IStreamClientEndpoint)
class TunnelEndpoint:
    """Endpoint behind an HTTP proxy.

    Args:
        proxy: Endpoint of the proxy.
        place: Host and port behind it.
        credentials: Name and password with a colon between, if any.
    """

    def __init__(
        self, proxy: IStreamClientEndpoint, place: Place, credentials: str | None
    ) -> None:
        self._proxy = proxy
        self._request = connect_request(place, credentials)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:  # noqa: N803 - Twisted's
        """Connect; fails with `NotConnected` if the proxy declines."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, inner: IProtocolFactory) -> IProtocol:
        tunnel: Any = await self._proxy.connect(
            Factory.forProtocol(lambda: _Tunnel(self._request, inner))
        )
        try:
            protocol: IProtocol = await tunnel.opened
        except BaseException:
            tunnel.transport.abortConnection()
            raise
        return protocol


class _Tunnel(Protocol):
    """Asks the proxy, and then hands all bytes to an inner protocol."""

    def __init__(self, request: bytes, factory: IProtocolFactory) -> None:
        self._request = request
        self._factory = factory
        self._head = b""
        self._inner: IProtocol | None = None
        self.opened: Deferred[IProtocol] = Deferred()

    def connectionMade(self) -> None:
        self._transport().write(self._request)

    def dataReceived(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.dataReceived(data)
            return
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            if len(self._head) > MAX_HEAD_BYTES:
                self._fail("the proxy sends no end of its answer")
            return
        status = status_of(self._head)
        if status is None:
            self._fail("the proxy does not speak HTTP")
        elif not 200 <= status[0] < 300:  # noqa: PLR2004 - all that succeed
            self._fail(f"the proxy answers {status[0]} {status[1]}".rstrip())
        else:
            rest = self._head[end + 4 :]
            self._begin(rest)

    def _begin(self, rest: bytes) -> None:
        transport = self._transport()
        inner = self._factory.buildProtocol(_address(transport))
        if inner is None:
            self._fail("the connection is not wanted any longer")
            return
        self._inner = inner
        inner.makeConnection(transport)
        self.opened.callback(inner)
        if rest:
            inner.dataReceived(rest)

    def _fail(self, words: str) -> None:
        if not self.opened.called:
            self.opened.errback(NotConnected(words))
        self._transport().abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._inner is not None:
            self._inner.connectionLost(reason)
        elif not self.opened.called:
            self.opened.errback(NotConnected("the proxy has closed the connection"))

    def _transport(self) -> Any:
        return self.transport


def _address(transport: Any) -> IAddress:
    peer: IAddress = transport.getPeer()
    return peer
