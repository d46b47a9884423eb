"""Where clients come from, as logs spell it and as limits count it."""

from __future__ import annotations

from ipaddress import IPv6Address as Address
from ipaddress import ip_address

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress

SITE = 64
"""Bits of an IPv6 address that a site is given as a whole (RFC 6177)."""


def text(address: IAddress) -> str:
    """Spell an address the way a URL does: ``192.0.2.1:80``, ``[::1]:80``."""
    if isinstance(address, IPv6Address):
        return f"[{address.host}]:{address.port}"
    if isinstance(address, IPv4Address):
        return f"{address.host}:{address.port}"
    return "local"


def source(address: IAddress) -> str:
    """Who shares a fair share with an address: whoever can send from it.

    That is the address itself with IPv4, also where it is mapped into IPv6, and the
    network of 64 bits with IPv6, in which one machine can have any address.
    """
    if isinstance(address, IPv6Address):
        # A scope, after "%", is the relay's own word for an interface.
        host = ip_address(address.host.partition("%")[0])
        if isinstance(host, Address):
            if host.ipv4_mapped is not None:
                return str(host.ipv4_mapped)
            network = int(host) >> (128 - SITE) << (128 - SITE)
            return f"{Address(network)}/{SITE}"
    if isinstance(address, IPv4Address):
        return str(address.host)
    return "local"
