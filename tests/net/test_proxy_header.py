"""The PROXY protocol: its headers, and their readers on real sockets."""

from __future__ import annotations

import select
import socket
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import address
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.errors import ProxyHeaderError
from proxyrelay.net.pacing import TurnBudget
from proxyrelay.net.proxy_header import (
    MAX_V1_BYTES,
    MAX_V2_BYTES,
    ProxyHeader,
    ProxyHeaderFactory,
    proxy_header,
)
from proxyrelay.net.transport import DirectWriteTransport
from proxyrelay.net.write_batch import WriteBatch
from tests.net.test_transport import Descriptors, Ends
from tests.support.clock import EagerClock

MAPPED = IPv6Address("::ffff:192.0.2.7")

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def version_2(
    command: int = 0x21, family: int = 0x11, body: bytes = b"", notes: bytes = b""
) -> bytes:
    """A header of version 2."""
    body += notes
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


def told(host: str, port: int) -> bytes:
    """Addresses of version 2, for a client of ``::2`` or ``192.0.2.2``."""
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
    version_2(family=0, body=bytes(MAX_V2_BYTES)): (None, 0),
}
"""Valid headers, and the client in each."""

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
    b"PROXY UNKNOWN " + b"x" * MAX_V1_BYTES,
    b"PROXY TCP4 \xff\r\n",
    SIGNATURE + b"\x11\x11\0\0",
    SIGNATURE + b"\x22\x11\0\0",
    version_2(family=0x11, body=bytes(11)),
    version_2(family=0x21, body=bytes(35)),
    version_2(family=0x31, body=bytes(215)),
    version_2(family=0x12, body=bytes(12)),
    version_2(family=0x41, body=bytes(12)),
    version_2(family=0, body=bytes(MAX_V2_BYTES + 1)),
)


class ProxyHeaderTests(SynchronousTestCase):
    """The PROXY protocol."""

    def test_header_of_both_versions_is_read(self) -> None:
        for data, (host, port) in HEADERS.items():
            expected = ProxyHeader(len(data), host, port)
            self.assertEqual(proxy_header(data), expected, data)
            self.assertEqual(proxy_header(data + b"\x16\x03PROXY"), expected, data)
            for end in range(len(data)):
                self.assertIsNone(proxy_header(data[:end]), (data, end))

    def test_header_malformed_is_refused(self) -> None:
        for data in MALFORMED:
            with self.assertRaises(ProxyHeaderError, msg=data):
                proxy_header(data)

    def test_header_of_the_longest_line_is_read(self) -> None:
        line = b"PROXY UNKNOWN " + b"x" * (MAX_V1_BYTES - 16) + b"\r\n"
        self.assertEqual(proxy_header(line), ProxyHeader(MAX_V1_BYTES))
        self.assertIsNone(proxy_header(line[:-1]))

    @given(
        st.sampled_from((b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"!")),
        st.binary(max_size=300),
    )
    def test_header_of_any_bytes_is_read_or_refused(
        self, start: bytes, rest: bytes
    ) -> None:
        try:
            header = proxy_header(start + rest)
        except ProxyHeaderError:
            return
        if header is not None:
            self.assertLessEqual(header.length, len(start + rest))
            if header.host is not None:
                ip_address(header.host)

    @given(st.binary(max_size=120) | st.sampled_from(sorted(MALFORMED)))
    def test_header_once_judged_stays_so(self, data: bytes) -> None:
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
    def test_header_names_the_client(
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


V1 = b"PROXY TCP4 192.0.2.7 203.0.113.1 4711 443\r\n"

V2 = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f"
    b"\xc0\0\x02\x07\xcb\0\x71\x01\x12\x67\x01\xbb\x04\0\0"
)
"""The same client, and an empty note."""

PROXY = "192.0.2.1"

LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"


class Served(Ends):
    """Keeps the bytes that it receives."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = b""
        self.pieces: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        self.pieces.append(data)
        self.heard += data


class ProxyHeaderReaderTests(SynchronousTestCase):
    """The reader of a header, on a real socket."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.built: list[tuple[object, Served]] = []
        self.dropped: list[tuple[str, str]] = []
        self.refuses = False
        self.lost = 0
        served: Any = Factory()
        served.buildProtocol = self.build
        self.factory = ProxyHeaderFactory(
            served,
            lambda host: host == PROXY,
            lambda *dropped: self.dropped.append(dropped),
            self.clock,
            10,
        )
        self.factory.lost = self.count
        self.addCleanup(self.factory.waiting.stop)

    def build(self, place: object) -> Served | None:
        if self.refuses:
            return None
        self.built.append((place, Served()))
        return self.built[-1][1]

    def count(self) -> None:
        self.lost += 1

    def connect(self) -> None:
        """Let the proxy connect."""
        near, self.far = socket.socketpair()
        self.addCleanup(near.close)
        self.addCleanup(self.far.close)
        place: Any = address.IPv4Address("TCP", PROXY, 9)
        protocol: Any = self.factory.buildProtocol(place)
        self.reactor = Descriptors()
        self.outbox = WriteBatch()
        pace = TurnBudget(EagerClock(), 10)
        arguments: Any = (near, protocol, (PROXY, 9), None, 1, self.reactor)
        self.transport = DirectWriteTransport(pace, self.outbox, *arguments)
        protocol.makeConnection(self.transport)

    def send(self, data: bytes) -> Exception | None:
        """Send something, and let it be read."""
        self.far.sendall(data)
        return self.read()

    def read(self) -> Exception | None:
        over = None
        while over is None and select.select([self.transport], [], [], 0)[0]:
            if self.transport not in self.reactor.readers:
                break
            over = self.transport.doRead()
        return over

    def test_reader_takes_the_header_only(self) -> None:
        for header, host in ((V1, "192.0.2.7"), (V2, "192.0.2.7"), (LOCAL, PROXY)):
            for backlogged in (b"", b"G", b"GET / HTTP/1.1\r\n\r\n"):
                for cut in (0, 1, len(header) - 1, len(header)):
                    self.built.clear()
                    self.connect()
                    whole = header + backlogged
                    for piece in filter(None, (whole[:cut], whole[cut:])):
                        self.assertIsNone(self.send(piece))
                    ((place, served),) = self.built
                    self.assertEqual(getattr(place, "host", None), host)
                    self.assertEqual(served.heard, backlogged)
                    self.assertIsNone(self.transport.header_reader)
                    self.assertEqual(len(self.factory.waiting), 0)
        self.assertEqual((self.dropped, self.lost), ([], 0))

    def test_reader_takes_a_header_byte_by_byte(self) -> None:
        for header in (V1, V2, LOCAL):
            self.built.clear()
            self.connect()
            for number, byte in enumerate(header + b"one"):
                self.assertEqual(bool(self.built), number >= len(header))
                self.send(bytes([byte]))
            self.assertEqual(self.built[0][1].pieces, [b"o", b"n", b"e"])

    def test_reader_drops_a_wrong_or_late_header(self) -> None:
        self.factory.probed = self.fail
        for count, (sent, seconds) in enumerate(
            (
                (b"GET / HTTP/1.1\r\n", 0),
                (b"PROXY TCP4 junk\r\n", 0),
                (b"\x16\x03\x01", 0),
                (V1[:-1], 11),
                (b"", 11),
            ),
            1,
        ):
            self.connect()
            self.assertIsNone(self.send(sent))
            self.clock.advance(seconds)
            self.reactor.advance(0)
            self.assertFalse(self.transport.connected)
            self.assertEqual((len(self.dropped), self.lost), (count, count))
        self.assertEqual((self.built, len(self.factory.waiting)), ([], 0))

    def test_reader_at_an_end_without_a_byte_tells_of_a_probe(self) -> None:
        probed: list[str] = []
        self.factory.probed = probed.append
        for sent in (b"", V1[:-1]):
            self.connect()
            self.far.sendall(sent)
            self.far.close()
            over = self.read()
            assert over is not None
            self.assertIsInstance(over, ConnectionDone)
            self.transport.connectionLost(Failure(over))
        self.assertEqual((self.dropped, self.lost, self.built), ([], 2, []))
        self.assertEqual(probed, ["192.0.2.1:9"])

    def test_reader_without_a_served_protocol_aborts(self) -> None:
        self.refuses = True
        self.connect()
        self.assertIsNone(self.send(V1))
        self.reactor.advance(0)
        self.assertFalse(self.transport.connected)

    def test_factory_of_another_address_builds_the_served_protocol(self) -> None:
        place: Any = address.IPv4Address("TCP", "192.0.2.2", 9)
        self.assertIsInstance(self.factory.buildProtocol(place), Served)
