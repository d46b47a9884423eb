"""Where clients behind a proxy come from, in the words of the proxy."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.errors import ProxyHeaderError
from proxyrelay.net.proxy_header import (
    V1_CEILING,
    V2_CEILING,
    Proxies,
    ProxyHeader,
    proxy_header,
)

MAPPED = IPv6Address("::ffff:192.0.2.7")

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def version_2(
    command: int = 0x21, family: int = 0x11, body: bytes = b"", notes: bytes = b""
) -> bytes:
    """A header of version 2."""
    body += notes
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


def told(host: str, port: int) -> bytes:
    """What version 2 says of a client that has reached ``::2`` or ``192.0.2.2``."""
    to = b"\xc0\0\2\2" if ":" not in host else IPv6Address("::2").packed
    return ip_address(host).packed + to + struct.pack("!HH", port, 443)


HEADERS = {
    b"PROXY TCP4 192.0.2.7 192.0.2.2 4711 443\r\n": ("192.0.2.7", 4711),
    b"PROXY TCP6 2001:db8::7 ::2 65535 443\r\n": ("2001:db8::7", 65535),
    b"PROXY TCP6 2001:DB8::7 ::2 0 443\r\n": ("2001:db8::7", 0),
    b"PROXY TCP6 ::ffff:192.0.2.7 ::2 1 443\r\n": (str(MAPPED), 1),
    b"PROXY UNKNOWN\r\n": (None, 0),
    b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n": (None, 0),
    version_2(body=told("192.0.2.7", 4711)): ("192.0.2.7", 4711),
    version_2(family=0x21, body=told("2001:db8::7", 1)): ("2001:db8::7", 1),
    version_2(body=told("192.0.2.7", 80), notes=b"\4\0\1x"): ("192.0.2.7", 80),
    version_2(family=0x31, body=bytes(216)): (None, 0),
    version_2(family=0, body=b""): (None, 0),
    version_2(family=0, body=b"anything"): (None, 0),
    version_2(0x20, 0x00): (None, 0),
    version_2(0x20, 0x11, told("192.0.2.7", 80)): (None, 0),
    version_2(0x20, 0x77, b"anything"): (None, 0),
    version_2(family=0, body=bytes(V2_CEILING)): (None, 0),
}
"""What is taken, and where it says that the client is."""

MALFORMED = (
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01",
    b"PROXY\r\n",
    b"POST / HTTP/1.1\r\n",
    b"PROXY TCP4\r\n",
    b"PROXY TCP5 192.0.2.7 192.0.2.2 4711 443\r\n",
    b"PROXY UDP4 192.0.2.7 192.0.2.2 4711 443\r\n",
    b"PROXY TCP4 192.0.2.256 192.0.2.2 4711 443\r\n",
    b"PROXY TCP4 ::1 ::2 4711 443\r\n",
    b"PROXY TCP6 192.0.2.7 192.0.2.2 4711 443\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.2 65536 443\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.2 80 65536\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.2 -1 443\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.2 4711\r\n",
    b"PROXY TCP4  192.0.2.7 192.0.2.2 4711 443\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.2 4711 443 \r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.2 4711 443\n\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::2 4711 443\r\n",
    b"PROXY UNKNOWN " + b"x" * V1_CEILING,
    b"PROXY TCP4 \xff\r\n",
    SIGNATURE + b"\x11\x11\0\0",
    SIGNATURE + b"\x22\x11\0\0",
    version_2(family=0x11, body=bytes(11)),
    version_2(family=0x21, body=bytes(35)),
    version_2(family=0x31, body=bytes(215)),
    version_2(family=0x12, body=bytes(12)),
    version_2(family=0x41, body=bytes(12)),
    version_2(family=0, body=bytes(V2_CEILING + 1)),
)


class ProxyHeaderTests(SynchronousTestCase):
    """The PROXY protocol."""

    def test_takes_both_versions(self) -> None:
        for data, (host, port) in HEADERS.items():
            expected = ProxyHeader(len(data), host, port)
            self.assertEqual(proxy_header(data), expected, data)
            self.assertEqual(proxy_header(data + b"\x16\x03PROXY"), expected, data)

    def test_waits_for_the_rest(self) -> None:
        for data in HEADERS:
            for end in range(len(data)):
                self.assertIsNone(proxy_header(data[:end]), (data, end))

    def test_refuses_what_is_malformed(self) -> None:
        for data in MALFORMED:
            with self.assertRaises(ProxyHeaderError, msg=data):
                proxy_header(data)

    def test_the_longest_line(self) -> None:
        line = b"PROXY UNKNOWN " + b"x" * (V1_CEILING - 16) + b"\r\n"
        self.assertEqual(proxy_header(line), ProxyHeader(V1_CEILING))
        self.assertIsNone(proxy_header(line[:-1]))

    @given(
        st.sampled_from((b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"!")),
        st.binary(max_size=300),
    )
    def test_raises_nothing_else(self, start: bytes, rest: bytes) -> None:
        try:
            header = proxy_header(start + rest)
        except ProxyHeaderError:
            return
        if header is not None:
            self.assertLessEqual(header.length, len(start + rest))
            if header.host is not None:
                ip_address(header.host)

    @given(st.binary(max_size=120) | st.sampled_from(sorted(MALFORMED)))
    def test_judges_no_beginning_otherwise_than_the_whole(self, data: bytes) -> None:
        """Once refused, it stays so, and what is taken does not change."""
        settled: object = None
        for end in range(len(data) + 1):
            try:
                found: object = proxy_header(data[:end])
            except ProxyHeaderError:
                found = ProxyHeaderError
            if settled is not None:
                self.assertEqual(found, settled)
            settled = found

    @given(
        st.ip_addresses(),
        st.ip_addresses(),
        st.integers(0, 65535),
        st.binary(max_size=9),
    )
    def test_repeats_what_is_told(
        self,
        host: IPv4Address | IPv6Address,
        to: IPv4Address | IPv6Address,
        port: int,
        rest: bytes,
    ) -> None:
        if host.version == to.version:
            line = f"PROXY TCP{host.version} {host} {to} {port} 80\r\n".encode()
            expected = ProxyHeader(len(line), str(host), port)
            self.assertEqual(proxy_header(line + rest), expected)
        family = 0x11 if host.version == 4 else 0x21
        data = version_2(family=family, body=told(str(host), port))
        expected = ProxyHeader(len(data), str(host), port)
        self.assertEqual(proxy_header(data + rest), expected)


class ProxiesTests(SynchronousTestCase):
    """Who is believed, and how far."""

    proxies = Proxies(("192.0.2.0/24", "198.51.100.1", "2001:db8::/32"))

    def test_whom_it_trusts(self) -> None:
        for host in (
            *("192.0.2.0", "192.0.2.255", "198.51.100.1", "2001:db8:1::2"),
            *("::ffff:192.0.2.1", "2001:db8::1%eth0"),
        ):
            self.assertTrue(self.proxies.trust(host), host)
        for host in ("192.0.3.0", "198.51.100.2", "2001:db9::", "", "local", "::1"):
            self.assertFalse(self.proxies.trust(host), host)

    def test_nobody_by_default(self) -> None:
        nobody = Proxies()
        self.assertFalse(nobody)
        self.assertFalse(nobody.trust("192.0.2.1"))
        self.assertEqual(nobody.client("192.0.2.1", "203.0.113.1"), "192.0.2.1")
        self.assertTrue(self.proxies)

    def test_refuses_what_is_no_network(self) -> None:
        for network in ("", "a", "192.0.2.1/24", "192.0.2.0/33"):
            self.assertRaises(ValueError, Proxies, (network,))

    def test_the_client_is_the_last_that_is_no_proxy(self) -> None:
        for forwarded, host in {
            "203.0.113.1": "203.0.113.1",
            " 203.0.113.1 ": "203.0.113.1",
            "203.0.113.1, 198.51.100.1": "203.0.113.1",
            "203.0.113.9, 203.0.113.1,192.0.2.9": "203.0.113.1",
            "192.0.2.8,203.0.113.1": "203.0.113.1",
            "192.0.2.8, 192.0.2.9": "192.0.2.8",
            "2001:DB9::1": "2001:db9::1",
            "[2001:db9::1]": "2001:db9::1",
            "[2001:db9::1]:443": "2001:db9::1",
            "203.0.113.1:443": "203.0.113.1",
        }.items():
            self.assertEqual(self.proxies.client("192.0.2.1", forwarded), host)

    def test_what_cannot_be_read_ends_the_way(self) -> None:
        for bad in (
            "",
            "unknown",
            "_hidden",
            "203.0.113.1:x",
            "300.1.1.1",
            "[::1",
            "%",
        ):
            for more, host in (("", "192.0.2.1"), (", 192.0.2.9", "192.0.2.9")):
                forwarded = f"203.0.113.1, {bad}{more}"
                self.assertEqual(self.proxies.client("192.0.2.1", forwarded), host)

    def test_a_stranger_may_say_what_it_likes(self) -> None:
        host = self.proxies.client("203.0.113.1", "198.51.100.77")
        self.assertEqual(host, "203.0.113.1")

    def test_looks_at_so_many_proxies_only(self) -> None:
        forwarded = ", ".join(["203.0.113.1", *["192.0.2.5"] * 1000])
        self.assertEqual(self.proxies.client("192.0.2.1", forwarded), "192.0.2.5")

    @given(st.text(st.sampled_from("0123456789abcdef.:[], %xX"), max_size=80))
    def test_always_finds_an_address(self, forwarded: str) -> None:
        ip_address(self.proxies.client("192.0.2.1", forwarded))
