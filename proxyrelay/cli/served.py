"""The relay that serves already where a configuration would."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

from proxyrelay.admin.report import Status
from proxyrelay.cli.admin_client import AdminClient
from proxyrelay.config import ALL_INTERFACES, Config, Secret
from proxyrelay.errors import Unanswered
from proxyrelay.net.proxies import Proxies

LOOK_SECONDS = 2.0
"""Longest wait for each answer of what listens at a port."""

NO_ADDRESS = b"PROXY UNKNOWN\r\n"
"""Header of the PROXY protocol for a connection of the proxy itself."""


@dataclass(frozen=True)
class Serving:
    """What answers at the places of a configuration.

    Attributes:
        schemes: ``ws`` or ``wss``, if a relay answers clients at the port.
        admin: Whether a relay answers operators.
        status: State of the latter; None if it does not tell.
    """

    schemes: frozenset[str]
    admin: bool
    status: Status | None

    @property
    def port(self) -> bool:
        """Whether a relay answers clients."""
        return bool(self.schemes)

    @property
    def is_other(self) -> bool:
        """Whether the private listener is that of a relay at another port."""
        return self.status is not None and not self.port


def find(settings: Config, token: Secret | None) -> Serving:
    """Ask what listens at both places of a configuration."""
    status, admin = _operators(settings, token)
    if status is not None:
        urls = map(urlsplit, status.listening)
        schemes = frozenset(url.scheme for url in urls if url.port == settings.port)
        return Serving(schemes, True, status)
    own = settings.scheme
    for scheme in (own, "ws" if own == "wss" else "wss"):
        if _answers(settings, scheme == "wss"):
            return Serving(frozenset({scheme}), admin, None)
    return Serving(frozenset(), admin, None)


def _operators(settings: Config, token: Secret | None) -> tuple[Status | None, bool]:
    place = settings.admin.place
    if place is None or (isinstance(place, tuple) and not place[1]):
        return None, False
    try:
        return AdminClient(place, token, LOOK_SECONDS).status(), True
    except Unanswered:
        pass
    try:
        # It has another token, or is of another version.
        AdminClient(place, None, LOOK_SECONDS).get("/livez")
    except Unanswered:
        return None, False
    return None, True


def _answers(settings: Config, with_tls: bool) -> bool:
    try:
        return is_served(settings, LOOK_SECONDS, with_tls)
    except (OSError, HTTPException):
        return False


def is_served(settings: Config, seconds: float, with_tls: bool) -> bool:
    """Whether a relay answers a request that is no WebSocket's.

    Raises:
        OSError, HTTPException: What listens there does not speak HTTP in time.
    """
    host = settings.host or "0.0.0.0"  # noqa: S104 - nothing is bound
    place = ALL_INTERFACES.get(host, host), settings.port
    asked = HTTPConnection(*place)
    sock = socket.create_connection(place, seconds)
    try:
        limits = settings.limits
        trusted = Proxies(limits.trusted_proxies).trust(sock.getsockname()[0])
        if limits.proxy_protocol and trusted:
            sock.sendall(NO_ADDRESS)
        if with_tls:
            # Whose certificate it is does not matter: nothing secret is said.
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            sock = context.wrap_socket(sock)
        asked.sock = sock
        asked.request("GET", "/", headers={"Connection": "close"})
        answer = asked.getresponse()
        is_relay = answer.getheader("Server") == "proxyrelay"
        return answer.status == HTTPStatus.UPGRADE_REQUIRED and is_relay
    finally:
        sock.close()
