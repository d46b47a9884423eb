"""Where clients come from, as logs spell it and as limits count it."""

from __future__ import annotations

from ipaddress import IPv6Address as Address
from ipaddress import ip_address

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress

SITE = 64
"""Bits of an IPv6 address that a site is given as a whole (RFC 6177)."""


def text(address: IAddress) -> str:
    """Spell an address the way a URL does: ``192.0.2.1:80``, ``[::1]:80``.

    A port that is not known, which is then 0, is left out.
    """
    if isinstance(address, IPv6Address):
        host = f"[{address.host}]"
    elif isinstance(address, IPv4Address):
        host = address.host
    else:
        return "local"
    return f"{host}:{address.port}" if address.port else host


def of(host: str, port: int = 0) -> IAddress:
    """What Twisted makes of an address that a proxy told.

    Args:
        host: An IP address.
        port: The port; 0 if it is not known.
    """
    kind = IPv6Address if ":" in host else IPv4Address
    return kind("TCP", host, port)


def is_loopback(address: IAddress) -> bool:
    """Whether it is of this machine, or of a proxy on it that is not listed."""
    if isinstance(address, IPv4Address):
        return bool(address.host.startswith("127."))
    if not isinstance(address, IPv6Address):
        return True
    host = ip_address(address.host.partition("%")[0])
    if isinstance(host, Address) and host.ipv4_mapped is not None:
        return host.ipv4_mapped.is_loopback
    return host.is_loopback


def source(address: IAddress, alone: bool = False) -> str:
    """Who shares a fair share with an address: whoever can send from it.

    That is the address itself with IPv4, also where it is mapped into IPv6, and the
    network of 64 bits with IPv6, in which one machine can have any address.

    Args:
        address: The address.
        alone: Whether it shares with nobody, as a proxy that is trusted.
    """
    if isinstance(address, IPv6Address):
        # A scope, after "%", is the relay's own word for an interface.
        host = ip_address(address.host.partition("%")[0])
        if isinstance(host, Address):
            if host.ipv4_mapped is not None:
                return str(host.ipv4_mapped)
            if alone:
                return str(host)
            network = int(host) >> (128 - SITE) << (128 - SITE)
            return f"{Address(network)}/{SITE}"
    if isinstance(address, IPv4Address):
        return str(address.host)
    return "local"
