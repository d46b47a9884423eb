"""Trusted proxies, and the client that they name in ``X-Forwarded-For``. Pure.

A header of another peer is ignored: any client may write one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from proxyrelay.net.ip import ip

MAX_HOPS = 16
"""Entries of ``X-Forwarded-For`` that are read, from the right."""

_FORWARDED = re.compile(
    r"\[(?P<v6>[0-9A-Fa-f.:]+)\](?::[0-9]{1,5})?"
    r"|(?P<v4>[0-9.]+)(?::[0-9]{1,5})?"
    r"|(?P<bare>[0-9A-Fa-f.:]+)"
)


class Proxies:
    """Networks of trusted proxies.

    Args:
        networks: Networks such as ``10.0.0.0/8`` or ``2001:db8::/32``, or addresses.

    Raises:
        ValueError: A text is no network.
    """

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = [ip_network(network) for network in networks]

    def trust(self, host: str) -> bool:
        """Whether an address belongs to a trusted proxy. Other texts never do."""
        if not self._networks:
            return False
        try:
            address = ip(host)
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    def client(self, host: str, forwarded: str | None) -> str:
        """Address of the client, as far as the proxies can be trusted.

        Each proxy appends the address of its own peer. From the right, the first
        address outside of the trusted networks is the client's.

        Args:
            host: Address at the other end of the connection; returned without others.
            forwarded: ``X-Forwarded-For``, its lines joined with commas, or None.
        """
        if forwarded is not None and self.trust(host):
            for entry in reversed(forwarded.rsplit(",", MAX_HOPS)[-MAX_HOPS:]):
                before = _host(entry.strip(" \t"))
                if before is None:
                    break
                host = before
                if not self.trust(host):
                    break
        return host


def _host(entry: str) -> str | None:
    """Address in an entry of ``X-Forwarded-For``, with or without a port."""
    found = _FORWARDED.fullmatch(entry)
    if found is None:
        return None
    try:
        return str(ip_address(found["v6"] or found["v4"] or found["bare"]))
    except ValueError:
        return None
