"""IP addresses, read from texts. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address


def ip(text: str) -> IPv4Address | IPv6Address:
    """Read an IP address, without its scope; IPv4 also where it is mapped into IPv6.

    The scope, after ``%``, names an interface of the relay.

    Raises:
        ValueError: The text is no IP address.
    """
    address = ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address
