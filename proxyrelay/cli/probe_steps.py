"""The first steps of ``proxyrelay probe``: name, TCP, proxy, TLS, upgrade.

They block, as they run in a thread of their own.
"""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import time
from contextlib import closing, suppress

from proxyrelay.cli.probe_report import ProbeFailure, Report
from proxyrelay.cli.probe_tls import certificate, handshake, sent_chain
from proxyrelay.cli.probe_way import Target, Way, asked, left, tunnel
from proxyrelay.client.endpoint import status_of
from proxyrelay.client.environment import environment_proxy
from proxyrelay.client.url import Place, ProxyUrl, RelayUrl

TLS_LOOK_SECONDS = 1.0
"""Longest look whether a port speaks TLS."""

ACCEPT_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""Of RFC 6455, section 1.3."""

CLOSE_NORMALLY = b"\x88\x82\0\0\0\0\x03\xe8"
"""A masked close frame with 1000 (RFC 6455, section 5.5.1)."""

UPGRADE_ADVICE = {
    400: "What answers does not take the request: look at its log. A port for TLS may "
    "answer so to ws://: try wss://.",
    401: "A proxy in front of the relay wants a login: the relay itself never sends "
    "401. Let WebSocket requests pass without one.",
    403: "A proxy or firewall in front of the relay forbids it: the relay itself "
    "answers so only to browsers.",
    404: "This is another HTTP server, or a proxy that forwards another path: compare "
    "the path with its configuration.",
    407: "A proxy on the way wants a login, and the environment names none: set "
    "HTTPS_PROXY.",
    426: "A proxy has removed the header 'Upgrade': it must forward WebSocket ones. "
    "See the guide about proxies.",
}
"""Advice about an answer to the opening handshake, by its status."""

NO_RELAY_BEHIND = (
    "A proxy in front of the relay does not reach it: look whether the relay runs, and "
    "at the proxy's address for it."
)

RELAY_HEADER = b"\r\nServer: proxyrelay\r\n"
"""A line of what a relay and its private listener answer."""

ENDS_ENDPOINTS = "An endpoint ends on any answer but 101."


def look(target: Target, report: Report, deadline: float) -> Way:
    """Take the steps up to the upgrade.

    Args:
        target: What is probed.
        report: Takes what is found.
        deadline: End of the time, on the monotonic clock.

    Raises:
        ProbeFailure: A step fails.
    """
    proxy = _proxy(target.url, report)
    first = target.url.place if proxy is None else proxy.place
    whose = "relay" if proxy is None else "proxy"
    with report.step("name") as parts:
        addresses = _resolve(first, whose)
        parts.extend(addresses)
    with report.step("tcp") as parts:
        sock, address = _connect(addresses, first.port, whose, report, deadline)
        parts.append(str(address))
    way = Way(address, proxy)
    with closing(sock):
        if proxy is not None:
            with report.step("proxy") as parts:
                tunnel(sock, target.url, proxy, deadline)
                parts.append(f"{proxy} connects to {target.url.place}")
        if not target.url.secure:
            _upgrade(sock, target, way, report, deadline)
            return way
        with report.step("tls") as parts:
            secured = handshake(sock, target, way, deadline)
            found = certificate(target, way, deadline)
            parts.extend((str(secured.version()), f"for {' '.join(found.names)}"))
            parts.append(f"certificates: {found.sent}, issued by {found.issuer}")
            parts.append(f"days left: {found.days_left}")
        report.certificate = found
        if found.days_left < target.days:
            end = found.not_after.date()
            report.warn(f"the certificate ends on {end}: renew it")
        with closing(secured):
            _upgrade(secured, target, way, report, deadline)
    return way


def _proxy(url: RelayUrl, report: Report) -> ProxyUrl | None:
    """The proxy of the environment, if the probe can use it."""
    named = environment_proxy(url)
    if named is None:
        return None
    variable, value = named
    try:
        return ProxyUrl.parse(value)
    except ValueError:
        report.warn(
            f"{variable} names a proxy that the probe does not speak to: it connects "
            "directly, but endpoints (websockets 15 or later) use the proxy"
        )
        return None


def _resolve(place: Place, whose: str) -> list[str]:
    try:
        found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise ProbeFailure(
                f"the name servers do not answer for {place.host}",
                "Look at the name servers of this machine (/etc/resolv.conf), and at "
                "its network.",
            ) from None
        raise ProbeFailure(
            f"the name {place.host} is unknown",
            f"Compare it with the {whose}'s address. If it is new, name servers may "
            f"take hours. 'getent hosts {place.host}' asks again.",
        ) from None
    except UnicodeError:
        raise ProbeFailure(
            f"{place.host} is no host name", "Compare it with the relay's address."
        ) from None
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def _connect(
    addresses: list[str], port: int, whose: str, report: Report, deadline: float
) -> tuple[socket.socket, Place]:
    """Connect to the first address that answers."""
    failure: ProbeFailure | None = None
    for index, address in enumerate(addresses):
        share = 1 if index == len(addresses) - 1 else 2
        place = Place(address, port)
        try:
            sock = socket.create_connection((address, port), left(deadline) / share)
        except OSError as error:
            failure = _unconnected(place, whose, error)
            report.warn(f"{failure}; endpoints may try this address first")
        else:
            return sock, place
    report.warnings.clear()
    raise failure or ProbeFailure("the name has no address", "Look at its records.")


def _unconnected(place: Place, whose: str, error: OSError) -> ProbeFailure:
    if isinstance(error, ConnectionRefusedError) and whose == "proxy":
        return ProbeFailure(
            f"the proxy at {place} refuses the connection",
            "Compare the variable with the proxy's address, or put the relay's host "
            "into NO_PROXY.",
        )
    if isinstance(error, ConnectionRefusedError):
        return ProbeFailure(
            f"{place} refuses the connection",
            "Nothing listens there: start the relay, and compare the port with its "
            "relay.toml. A firewall may refuse, too.",
        )
    if isinstance(error, TimeoutError):
        return ProbeFailure(
            f"{place} does not answer in time",
            "A firewall may drop the packets, or the machine is off: look at the rules "
            "for this port on both sides.",
        )
    return ProbeFailure(
        f"{place} cannot be reached: {error.strerror or error}",
        "Look at the network and the routes of this machine.",
    )


def _upgrade(
    sock: socket.socket, target: Target, way: Way, report: Report, deadline: float
) -> None:
    key = base64.b64encode(os.urandom(16))
    request = [
        f"GET {target.url.resource} HTTP/1.1",
        f"Host: {target.url.place}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key.decode()}",
        "Sec-WebSocket-Version: 13",
    ]
    if target.authorization is not None:
        request.append(f"Authorization: {target.authorization}")
    with report.step("upgrade") as parts:
        try:
            head = asked(sock, "\r\n".join([*request, "", ""]).encode(), deadline)
        except ProbeFailure:
            _fail_if_tls(target, way, deadline)
            raise
        answer = status_of(head)
        if answer is None:
            _fail_if_tls(target, way, deadline)
            raise ProbeFailure(
                "the peer does not speak HTTP",
                "Another service listens there: compare the port with relay.toml.",
            )
        status, phrase = answer
        if status != 101:  # noqa: PLR2004 - RFC 6455, section 4.1
            if status == 400:  # noqa: PLR2004 - of a port for TLS
                _fail_if_tls(target, way, deadline)
            advice = NO_RELAY_BEHIND if status >= 500 else "Another server answers."  # noqa: PLR2004
            if status == 200 and RELAY_HEADER in head:  # noqa: PLR2004 - of the page
                advice = (
                    "This is the private listener of a relay ([admin]): use the "
                    "relay's own port."
                )
            if 300 <= status < 400:  # noqa: PLR2004 - redirects
                advice = "Use the address that it redirects to."
            raise ProbeFailure(
                f"HTTP {status} {phrase}".rstrip(),
                f"{UPGRADE_ADVICE.get(status, advice)} {ENDS_ENDPOINTS}",
            )
        digest = hashlib.sha1(key + ACCEPT_SUFFIX, usedforsecurity=False).digest()
        if base64.b64encode(digest) not in head:
            raise ProbeFailure(
                "the answer 101 is not that of a WebSocket server",
                "Another server answers: compare the port with relay.toml.",
            )
        with suppress(OSError):  # The relay may have closed already.
            sock.sendall(CLOSE_NORMALLY)
        parts.append("HTTP 101")


def _fail_if_tls(target: Target, way: Way, deadline: float) -> None:
    """Find out whether a port that declines ws:// speaks TLS."""
    if target.url.secure:
        return
    try:
        second = min(left(deadline) / 2, TLS_LOOK_SECONDS)
        sent_chain(target, way, time.monotonic() + second)
    except (OSError, ProbeFailure):
        return
    raise ProbeFailure("the port speaks TLS", "Use wss:// for this port.")
