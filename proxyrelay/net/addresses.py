"""Addresses of clients, as logs spell them and as limits count them."""

from __future__ import annotations

from ipaddress import IPv6Address as Address
from ipaddress import ip_address

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress

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
    """Twisted's address object for an IP address.

    Args:
        host: An IP address.
        port: The port; 0 if unknown.
    """
    kind = IPv6Address if ":" in host else IPv4Address
    return kind("TCP", host, port)


def is_loopback(address: IAddress) -> bool:
    """Whether an address is of this machine. An unlisted proxy on it counts as well."""
    if isinstance(address, IPv4Address):
        return bool(address.host.startswith("127."))
    if not isinstance(address, IPv6Address):
        return True
    host = ip_address(address.host.partition("%")[0])
    if isinstance(host, Address) and host.ipv4_mapped is not None:
        return host.ipv4_mapped.is_loopback
    return host.is_loopback


def source(address: IAddress, alone: bool = False) -> str:
    """Name of the source that shares one fair share with an address.

    With IPv4 it is the address itself, also where it is mapped into IPv6. With IPv6 it
    is the network of 64 bits, since one machine can have any address in it.

    Args:
        address: The address.
        alone: Whether the address has a share of its own, such as a trusted proxy's.
    """
    if isinstance(address, IPv6Address):
        # A scope, after "%", names an interface of the relay.
        host = ip_address(address.host.partition("%")[0])
        if isinstance(host, Address):
            if host.ipv4_mapped is not None:
                return str(host.ipv4_mapped)
            if alone:
                return str(host)
            network = int(host) >> (128 - SITE_PREFIX_BITS) << (128 - SITE_PREFIX_BITS)
            return f"{Address(network)}/{SITE_PREFIX_BITS}"
    if isinstance(address, IPv4Address):
        return str(address.host)
    return "local"
