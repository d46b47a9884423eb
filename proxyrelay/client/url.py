"""Addresses of relays and of HTTP proxies. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

DEFAULT_PORTS = {"ws": 80, "wss": 443, "http": 80}
"""Ports of the schemes (RFC 6455, section 3, and RFC 9110, section 4.2)."""


@dataclass(frozen=True)
class Place:
    """A host and a port.

    Attributes:
        host: Name or address; an IPv6 address without brackets.
        port: TCP port.
    """

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True)
class RelayUrl:
    """Address of a relay.

    Attributes:
        secure: Whether it is wss.
        place: Host and port.
        resource: Path and query.
    """

    secure: bool
    place: Place
    resource: str = "/"

    @classmethod
    def parse(cls, text: str) -> RelayUrl:
        """Read ``ws://host:port`` or ``wss://host:port``, perhaps with a path.

        Raises:
            ValueError: It is no such address. The text has no secret.
        """
        scheme, place, path, query = _split(text, ("ws", "wss"))
        if "@" in urlsplit(text).netloc:
            raise ValueError("a user name in the address of a relay has no meaning")
        resource = f"{path or '/'}?{query}" if query else path or "/"
        if not (resource.isascii() and resource.isprintable()) or " " in resource:
            raise ValueError("the path must be ASCII without spaces")
        return cls(scheme == "wss", place, resource)

    def __str__(self) -> str:
        scheme = "wss" if self.secure else "ws"
        return f"{scheme}://{self.place}{self.resource.removesuffix('/')}"


@dataclass(frozen=True)
class ProxyUrl:
    """Address of an HTTP proxy.

    Attributes:
        place: Host and port.
        credentials: Name and password with a colon between; None without.
    """

    place: Place
    credentials: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> ProxyUrl:
        """Read ``http://host:port``, perhaps with a name and a password.

        Raises:
            ValueError: It is no such address. The text has no secret.
        """
        _, place, _, _ = _split(text, ("http",))
        parts = urlsplit(text)
        if parts.username is None:
            return cls(place)
        return cls(place, f"{unquote(parts.username)}:{unquote(parts.password or '')}")

    def __str__(self) -> str:
        return f"http://{self.place}"


def _split(text: str, schemes: tuple[str, ...]) -> tuple[str, Place, str, str]:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("this is no address with a host and a port") from None
    if parts.scheme not in schemes:
        raise ValueError(f"the address must begin with {_either(schemes)}")
    if not host or not host.isprintable() or " " in host:
        raise ValueError("the address has no host")
    if parts.fragment:
        raise ValueError("the address must not have a fragment ('#')")
    place = Place(host, DEFAULT_PORTS[parts.scheme] if port is None else port)
    return parts.scheme, place, parts.path, parts.query


def _either(schemes: tuple[str, ...]) -> str:
    return " or ".join(f"{scheme}://" for scheme in schemes)
