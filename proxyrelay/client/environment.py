"""The proxy that the environment names for a relay."""

from __future__ import annotations

from urllib.request import getproxies, proxy_bypass

from proxyrelay.client.url import RelayUrl


def environment_proxy(url: RelayUrl) -> tuple[str, str] | None:
    """Name and value of the proxy variable that a stock client uses; None for none.

    Stock clients use it since version 15 of the websockets library. ``NO_PROXY`` turns
    it off for a host. The name is in capitals, however it is spelt.
    """
    if proxy_bypass(str(url.place)):
        return None
    proxies = getproxies()
    schemes = (
        ("wss", "socks", "https") if url.secure else ("ws", "socks", "https", "http")
    )
    for scheme in schemes:
        if value := proxies.get(scheme):
            return f"{scheme.upper()}_PROXY", value
    return None
