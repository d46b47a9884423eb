"""Where clients behind a proxy come from: what the proxy says, if it is trusted. Pure.

A proxy that passes bytes on says it in front of them, with the PROXY protocol, versions
1 and 2 (https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt; sections below are
its own). One that speaks HTTP adds to the header ``X-Forwarded-For``. Whoever is no
listed proxy may write there what it likes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from proxyrelay.errors import ProxyHeaderError

V1_CEILING = 107
"""Bytes of the longest header of version 1 (section 2.1)."""

V2_CEILING = 4096
"""Bytes that may follow the fixed part of version 2: an address, and notes on TLS."""

HOPS = 16
"""Proxies of one request that are looked at."""

_V1 = b"PROXY "
_V2 = b"\r\n\r\n\0\r\nQUIT\n"
_V2_FIXED = len(_V2) + 4

_V1_LINE = re.compile(
    rb"PROXY (?:UNKNOWN(?: [ -~]*)?"
    rb"|TCP(?P<family>[46]) (?P<host>[0-9A-Fa-f.:]+) (?P<to>[0-9A-Fa-f.:]+)"
    rb" (?P<port>[0-9]{1,5}) (?P<to_port>[0-9]{1,5}))\r\n"
)

_LAST_PORT = 65535

_LOCAL, _PROXY = 0x20, 0x21

_FAMILIES: dict[int, tuple[int, int]] = {
    0x00: (0, 0),
    0x11: (4, 12),
    0x21: (16, 36),
    0x31: (0, 216),
}
"""Of version 2: bytes of a host, and of all addresses together. UNIX sockets have no
host, and datagrams no business here."""

_FORWARDED = re.compile(
    r"\[(?P<v6>[0-9A-Fa-f.:]+)\](?::[0-9]{1,5})?"
    r"|(?P<v4>[0-9.]+)(?::[0-9]{1,5})?"
    r"|(?P<bare>[0-9A-Fa-f.:]+)"
)


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What a proxy says in front of a connection.

    Attributes:
        length: Bytes that it takes.
        host: Address of the client; None where it has none, or where the proxy speaks
            for itself.
        port: Its port; 0 without a host.
    """

    length: int
    host: str | None = None
    port: int = 0


def proxy_header(data: bytes) -> ProxyHeader | None:
    """Read a header of the PROXY protocol.

    Args:
        data: All that came so far.

    Returns:
        The header, or None if more must come.

    Raises:
        ProxyHeaderError: It is none, and cannot become one.
    """
    if data[:1] == _V1[:1]:
        return _version_1(data)
    if _V2.startswith(data[: len(_V2)]):
        return _version_2(data) if len(data) >= _V2_FIXED else None
    raise ProxyHeaderError("it does not begin with a PROXY header")


def _version_1(data: bytes) -> ProxyHeader | None:
    if not _V1.startswith(data[: len(_V1)]):
        raise ProxyHeaderError("it does not begin with a PROXY header")
    end = data.find(b"\r\n", 0, V1_CEILING) + 2
    if end < 2:  # noqa: PLR2004 - not found
        if len(data) >= V1_CEILING:
            raise ProxyHeaderError("its PROXY header is too long")
        return None
    line = _V1_LINE.fullmatch(data, 0, end)
    if line is None:
        raise ProxyHeaderError("its PROXY header is malformed")
    if line["family"] is None:
        return ProxyHeader(end)
    kind = IPv4Address if line["family"] == b"4" else IPv6Address
    try:
        host, _ = (kind(line[name].decode()) for name in ("host", "to"))
    except ValueError:
        raise ProxyHeaderError("its PROXY header has no such address") from None
    port = int(line["port"])
    if max(port, int(line["to_port"])) > _LAST_PORT:
        raise ProxyHeaderError("its PROXY header has no such port")
    return ProxyHeader(end, str(host), port)


def _version_2(data: bytes) -> ProxyHeader | None:
    command, family = data[len(_V2)], data[len(_V2) + 1]
    length = int.from_bytes(data[len(_V2) + 2 : _V2_FIXED], "big")
    if command not in {_LOCAL, _PROXY}:
        raise ProxyHeaderError("its PROXY header has an unknown version or command")
    if length > V2_CEILING:
        raise ProxyHeaderError("its PROXY header is too long")
    end = _V2_FIXED + length
    size = 0
    if command == _PROXY:
        if family not in _FAMILIES:
            raise ProxyHeaderError("its PROXY header is of no stream of bytes")
        size, least = _FAMILIES[family]
        if length < least:
            raise ProxyHeaderError("its PROXY header is too short")
    if len(data) < end:
        return None
    if not size:
        return ProxyHeader(end)
    host = data[_V2_FIXED : _V2_FIXED + size]
    ports = _V2_FIXED + 2 * size
    port = int.from_bytes(data[ports : ports + 2], "big")
    return ProxyHeader(end, str(ip_address(host)), port)


class Proxies:
    """The proxies that are trusted.

    Args:
        networks: Theirs: ``10.0.0.0/8``, ``2001:db8::/32``, or a single address.

    Raises:
        ValueError: One is no network.
    """

    def __init__(self, networks: Iterable[str] = ()) -> None:
        found = [ip_network(network) for network in networks]
        self._networks = {
            version: [network for network in found if network.version == version]
            for version in (4, 6)
        }
        self._any = bool(found)

    def __bool__(self) -> bool:
        return self._any

    def trust(self, host: str) -> bool:
        """Whether an address is one of theirs.

        Args:
            host: The address; one that is none belongs to nobody.
        """
        if not self._any:
            return False
        try:
            address = ip_address(host.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks[address.version])

    def client(self, host: str, forwarded: str | None) -> str:
        """Where a request comes from, as far as that can be trusted.

        Each proxy appends whom it has the request from. So the client is, from the
        right, the first one that is not a trusted proxy.

        Args:
            host: Address at the other end of the connection.
            forwarded: ``X-Forwarded-For``, its lines joined with commas, or None.

        Returns:
            The address of the client, or of the last proxy that is trusted.
        """
        if forwarded is not None and self.trust(host):
            for entry in reversed(forwarded.rsplit(",", HOPS)[-HOPS:]):
                before = _host(entry.strip(" \t"))
                if before is None:
                    break
                host = before
                if not self.trust(host):
                    break
        return host


def _host(entry: str) -> str | None:
    """The address in an entry of ``X-Forwarded-For``, with or without a port."""
    found = _FORWARDED.fullmatch(entry)
    if found is None:
        return None
    try:
        return str(ip_address(found["v6"] or found["v4"] or found["bare"]))
    except ValueError:
        return None
