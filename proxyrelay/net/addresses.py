"""Addresses of clients, as logs spell them and as limits count them."""

from __future__ import annotations

import ipaddress
from ipaddress import IPv6Network

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress

from proxyrelay.net.ip import ip

SITE_PREFIX_BITS = 64
"""Length of an IPv6 prefix that one site owns (RFC 6177)."""


def text(address: IAddress) -> str:
    """Spell an address the way a URL does: ``192.0.2.1:80``, ``[::1]:80``.

    An unknown port, 0, is left out.
    """
    if isinstance(address, IPv6Address):
        host = f"[{address.host}]"
    elif isinstance(address, IPv4Address):
        host = address.host
    else:
        return "local"
    return f"{host}:{address.port}" if address.port else host


def of(host: str, port: int = 0) -> IAddress:
    """Twisted's address object for an IP address; an unknown port is 0."""
    kind = IPv6Address if ":" in host else IPv4Address
    return kind("TCP", host, port)


def is_loopback(address: IAddress) -> bool:
    """Whether an address is of this machine. An unlisted proxy on it counts as well."""
    host = _ip(address)
    return host is None or host.is_loopback


def source(address: IAddress, alone: bool = False) -> str:
    """Name of the source that shares one fair share with an address.

    With IPv4 it is the address itself, also where it is mapped into IPv6. With IPv6 it
    is the network of 64 bits, since one machine can have any address in it.

    Args:
        address: The address.
        alone: Whether the address has a share of its own, such as a trusted proxy's.
    """
    host = _ip(address)
    if host is None:
        return "local"
    if host.version == 4 or alone:  # noqa: PLR2004
        return str(host)
    return str(IPv6Network((int(host), SITE_PREFIX_BITS), strict=False))


def _ip(address: IAddress) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """IP address, as `ip` reads it; None if local."""
    if not isinstance(address, IPv4Address | IPv6Address):
        return None
    return ip(address.host)
