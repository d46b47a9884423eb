"""How ``proxyrelay probe`` reaches a relay: sockets that block, and an HTTP proxy."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from pathlib import Path

from proxyrelay.cli.probe_report import ProbeFailure
from proxyrelay.client.endpoint import MAX_HEAD_BYTES, connect_request, status_of
from proxyrelay.client.url import Place, ProxyUrl, RelayUrl

TUNNEL_ADVICE = {
    403: "Ask its operator to permit CONNECT to the relay's port; many proxies permit "
    "443 only. Or put the relay's host into NO_PROXY.",
    407: "Write name and password into the variable: http://name:password@host:port.",
}
"""Advice about a proxy's answer to CONNECT, by its status."""

UNREACHED = (
    "The proxy cannot reach the relay: look whether the relay runs, and ask the "
    "proxy's operator. If the relay is in this network, put its host into NO_PROXY."
)


@dataclass(frozen=True)
class Target:
    """What is probed.

    Attributes:
        url: Address of the relay.
        authorization: Value of the Authorization header, if any.
        ca_file: PEM file of authorities; None for those of the system.
        days: Days before the end of a certificate at which warnings begin.
    """

    url: RelayUrl
    authorization: str | None = None
    ca_file: Path | None = None
    days: int = 14


@dataclass(frozen=True)
class Way:
    """How the relay is reached.

    Attributes:
        address: Address of the relay or of the proxy.
        proxy: HTTP proxy on the way.
    """

    address: Place
    proxy: ProxyUrl | None


def connect_again(target: Target, way: Way, deadline: float) -> socket.socket:
    """Connect to the relay once more, through the proxy if there is one."""
    place = way.address
    sock = socket.create_connection((place.host, place.port), left(deadline))
    if way.proxy is not None:
        tunnel(sock, target.url, way.proxy, deadline)
    return sock


def tunnel(
    sock: socket.socket, url: RelayUrl, proxy: ProxyUrl, deadline: float
) -> None:
    """Have a proxy connect to the relay.

    Raises:
        ProbeFailure: It does not.
    """
    head = asked(sock, connect_request(url.place, proxy.credentials), deadline)
    answer = status_of(head)
    if answer is None:
        raise ProbeFailure(
            f"the proxy {proxy} does not speak HTTP",
            "Compare the variable with the proxy's address. SOCKS proxies need "
            "socks5:// there.",
        )
    status, phrase = answer
    if not 200 <= status < 300:  # noqa: PLR2004 - all that succeed
        advice = UNREACHED if status >= 500 else "Ask the proxy's operator."  # noqa: PLR2004
        raise ProbeFailure(
            f"the proxy {proxy} answers {status} {phrase}".rstrip(),
            TUNNEL_ADVICE.get(status, advice),
        )


def asked(sock: socket.socket, request: bytes, deadline: float) -> bytes:
    """Send a request, and read the head of the answer."""
    head = b""
    try:
        sock.settimeout(left(deadline))
        sock.sendall(request)
        while b"\r\n\r\n" not in head and len(head) < MAX_HEAD_BYTES:
            sock.settimeout(left(deadline))
            data = sock.recv(MAX_HEAD_BYTES)
            if not data:
                break
            head += data
            if not head.startswith(b"HTTP/"[: len(head)]):
                break
    except TimeoutError:
        raise silent(
            "the request", "Another service may listen there, or the relay hangs."
        ) from None
    except OSError:
        pass
    if not head:
        raise ProbeFailure(
            "the peer ends the connection without an answer",
            "Look at the relay's log: is it full? Another service may listen.",
        )
    return head


def silent(what: str, advice: str) -> ProbeFailure:
    """Failure of a step that has no answer in time."""
    return ProbeFailure(f"no answer to {what} in time", advice)


def left(deadline: float) -> float:
    """Seconds until the deadline.

    Raises:
        TimeoutError: There are none.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
