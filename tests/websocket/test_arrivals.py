"""Limits and proxies over real sockets: who waits, comes later, or is slowed down."""

from __future__ import annotations

import json
import os
import resource
import socket
import ssl
import struct
from contextlib import suppress as suppressed
from ipaddress import ip_address
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from websockets.exceptions import ConnectionClosed

from proxyrelay.auth import Authenticator
from proxyrelay.config import Config, Limits, Offers, Timeouts
from proxyrelay.net import addresses
from proxyrelay.net.accept import RETRY_SECONDS
from proxyrelay.net.rate import MAX_WAIT_SECONDS
from proxyrelay.switchboard.events import Dropped, Probed, Slowed
from proxyrelay.switchboard.user import User
from proxyrelay.websocket.admission import (
    EVICTION_GRACE_SECONDS,
    RESERVED_DESCRIPTORS,
)
from proxyrelay.websocket.fastpath import FRAMES_PER_TURN
from proxyrelay.websocket.flow import MAX_EMPTY_RECORDS_BEFORE_UPGRADE
from proxyrelay.websocket.protocol import RelayProtocol
from proxyrelay.websocket.state import Phase
from tests.support.frames import CLOSE, CONTINUATION, PING, TEXT, frame
from tests.support.keyupdate import KeyUpdater
from tests.support.processes import ProcessTestCase, RelayProcess
from tests.support.recording import A, B, C, offer, registration
from tests.support.served import (
    PATIENCE,
    Client,
    HeaderAuthenticator,
    PendingAuthenticator,
    scenario,
    upgrade,
)
from tests.websocket.test_robustness import SocketTestCase
from tests.websocket.test_served_class import ClosedTransport, ServedMixin

HERE = ("127.0.0.0/8",)
"""Networks of the proxies in these tests: all clients."""

LINE = b"PROXY TCP4 192.0.2.7 192.0.2.2 4711 443\r\n"
"""PROXY header of version 1."""

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
"""Begin of a PROXY header of version 2."""


def limited(**limits: Any) -> Config:
    """The settings of a relay with limits."""
    return Config(
        host="127.0.0.1", port=0, limits=Limits(**limits), offers=Offers(crossing=0)
    )


class ArrivalTestCase(SocketTestCase):
    """Clients from any address."""

    def there(self, host: str, **headers: str) -> Client:
        """Connect from an address, through a proxy."""
        fields = {"X-Forwarded-For": host}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        return self.connect(additional_headers=fields)

    def register(self, client: Client, uuid: str) -> Client:
        client.send(registration(uuid).decode())
        self.assertIn('"success": true', client.recv())
        return client

    def assert_refused(self, client: Client, words: str) -> None:
        """Expect 1013: the client is to come back later."""
        closed = self.assertRaises(ConnectionClosed, client.recv)
        self.assertEqual(closed.rcvd.code, 1013)
        self.assertIn(words, closed.rcvd.reason)

    def assert_answered(self, connection: socket.socket) -> None:
        self.assertTrue(connection.recv(12).startswith(b"HTTP/1.1 101"))

    def from_there(self, *pieces: bytes) -> socket.socket:
        """A connection of a proxy that begins with these bytes."""
        connection = self.raw(secure=False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
        return connection

    def upgrade(self, connection: socket.socket) -> None:
        """Begin TLS if the relay serves it, and open the WebSocket."""
        if self.authority is not None:
            connection = self.authority.client_context().wrap_socket(
                connection, server_hostname="localhost"
            )
            self._clients.append(connection)
        connection.sendall(upgrade())
        self.assert_answered(connection)

    def until_full(self) -> None:
        """Wait until the relay accepts no connection."""
        self.until(lambda: self.service.factory.gate._timer)

    def until_slow(self, count: int = 1) -> None:
        """Wait for a number of clients that are not read from."""
        self.until(lambda: len(self.service.factory.flows.slow) == count)


class CapTests(ArrivalTestCase):
    """Connections of one user, and of one address."""

    config = limited(
        connections_per_user=2, connections_per_address=3, trusted_proxies=HERE
    )

    def authenticator(self) -> Authenticator:
        return HeaderAuthenticator()

    @scenario
    def test_user_over_cap_is_admitted_after_another_left(self) -> None:
        first = self.register(self.there("192.0.2.1", X_User="me"), A)
        second = self.register(self.there("192.0.2.2", X_User="me"), B)
        self.assert_refused(self.there("192.0.2.3", X_User="me"), "this user")
        self.register(self.there("192.0.2.3", X_User="you"), C)
        first.close()
        self.until_count(2)
        self.register(self.there("192.0.2.3", X_User="me"), A)
        second.ping()

    @scenario
    def test_address_over_cap_is_admitted_after_another_left(self) -> None:
        clients = [self.there("192.0.2.1", X_User=str(n)) for n in range(3)]
        self.register(clients[0], A)
        self.assert_refused(self.there("192.0.2.1"), "this address")
        self.register(self.there("192.0.2.2"), B)
        clients[1].hang_up()
        self.until_count(3)
        self.register(self.there("192.0.2.1"), C)


class TlsCapTests(CapTests):
    """Over TLS."""

    secure = True


class AddressRegistrationTests(ArrivalTestCase):
    """Registrations per second of one address."""

    config = limited(registrations_per_address=1, burst=2, trusted_proxies=HERE)

    @scenario
    def test_address_over_rate_registers_later(self) -> None:
        self.register(self.there("192.0.2.1"), C)
        client = self.register(self.there("192.0.2.1"), A)
        self.register(client, B)
        client.send(registration(A).decode())
        self.assert_refused(client, "registrations from this address")
        self.register(self.there("192.0.2.2"), A)
        self.advance(1)
        self.register(self.there("192.0.2.1"), B)


class ClientRegistrationTests(ArrivalTestCase):
    """Registrations per second of one connection."""

    config = limited(registrations_per_client=1, burst=2)

    @scenario
    def test_client_over_rate_is_refused(self) -> None:
        client, other = self.registered(A), self.registered(C)
        for uuid in (B, A, A):
            self.register(client, uuid)
        client.send(registration(B).decode())
        self.assert_refused(client, "registrations of this client")
        self.until_count(1)
        self.register(self.connect(), B)
        other.ping()

    @scenario
    def test_frames_behind_refused_registration_are_ignored(self) -> None:
        connection = self.upgraded()
        pair = frame(TEXT, registration(B)) + frame(TEXT, registration(A))
        rest = frame(TEXT, offer(A, C)) + frame(PING, b"late") + pair
        # One record of TLS holds 16 kB.
        connection.sendall(pair * 50 + rest + frame(CLOSE, b"\x03\xf5"))
        received = self.read_to_end(connection)
        connection.close()
        self.until_count(0)
        self.assertEqual(received.count(b"success"), 4)
        self.assertNotIn(b"late", received)
        self.assertIn(b"\x03\xf5Too many registrations", received)
        self.assertEqual(
            self.observed.names,
            ["registered", *["left", "registered"] * 3, "refused", "left"],
        )


class TlsClientRegistrationTests(ClientRegistrationTests):
    """Over TLS."""

    secure = True


class UnregisteredTests(ArrivalTestCase):
    """Connections without a UUID."""

    config = limited(unregistered=6, unregistered_per_address=2, trusted_proxies=HERE)

    @scenario
    def test_oldest_of_address_over_cap_is_refused(self) -> None:
        first = self.there("192.0.2.1")
        self.register(self.there("192.0.2.1"), A)
        self.there("192.0.2.1").ping()
        other = self.there("192.0.2.2")
        self.advance(2 * EVICTION_GRACE_SECONDS)
        third = self.there("192.0.2.1")
        self.assert_refused(first, "in time")
        self.register(third, B)
        self.register(other, C)

    @scenario
    def test_client_over_total_cap_waits(self) -> None:
        crowd = [self.there(f"192.0.2.{number}") for number in range(6)]
        late = self.raw()
        late.sendall(upgrade())
        self.until_full()
        self.assertEqual(len(self.connections()), 6)
        self.register(crowd[0], A)
        self.advance(RETRY_SECONDS)
        self.assert_answered(late)


class EvictionTests(ArrivalTestCase):
    """Silent connections of a stranger with several addresses."""

    config = limited(
        unregistered=6,
        unregistered_per_address=3,
        trusted_proxies=HERE,
        proxy_protocol=True,
    )

    def announced(self, host: str) -> socket.socket:
        return self.from_there(LINE.replace(b"192.0.2.7", host.encode()))

    @scenario
    def test_stranger_with_many_addresses_keeps_no_client_out(self) -> None:
        before, silent = self.announced("192.0.2.1"), []
        for count, number in enumerate((7, 7, 7, 8, 8), 2):
            silent.append(self.announced(f"198.51.100.{number}"))
            self.until_count(count)
        honest = self.announced("192.0.2.1")
        self.until_full()
        self.advance(EVICTION_GRACE_SECONDS)
        self.assertEqual(self.happened(Dropped), [])
        self.until_full()
        self.advance(RETRY_SECONDS)
        self.assertEqual(self.read_to_end(silent[0]), b"")
        (event,) = self.happened(Dropped)
        self.assertEqual(event.address, "198.51.100.7:4711")
        self.assertIn("too many", event.reason)
        self.advance(RETRY_SECONDS)
        self.upgrade(before)
        self.upgrade(honest)
        self.assertEqual(len(self.happened(Dropped)), 1)

    @scenario
    def test_relay_that_is_late_evicts_no_client(self) -> None:
        factory = self.service.factory
        for count in range(1, 7):
            self.announced(f"198.51.100.{7 + count // 4}")
            self.until_count(count)
        self.announced("192.0.2.1")
        self.until_full()
        factory.pace._waiting.append(lambda: None)
        self.advance(2 * EVICTION_GRACE_SECONDS)
        self.assertEqual(len(self.connections()), 6)
        self.in_reactor(factory.pace._next_turn)
        self.advance(RETRY_SECONDS)
        self.until_count(5)
        self.advance(RETRY_SECONDS)
        self.until_count(6)
        self.assertEqual(self.connections()[-1].address, "192.0.2.1:4711")

    @scenario
    def test_oldest_of_address_over_cap_is_dropped(self) -> None:
        silent = [self.raw(secure=False) for _ in range(4)]
        for count, connection in enumerate(silent, 1):
            connection.sendall(LINE)
            self.until_count(min(count, 3))
            self.advance(EVICTION_GRACE_SECONDS / 2)
        self.until_happened(1, Dropped)
        self.assertEqual(self.read_to_end(silent[0]), b"")
        self.assertIn("too many", self.happened(Dropped)[0].reason)


class TlsEvictionTests(EvictionTests):
    """Over TLS, which has not begun."""

    secure = True


class PendingTests(ArrivalTestCase):
    """Connections of one address before the end of their authentication."""

    config = limited(unregistered_per_address=1, trusted_proxies=HERE)

    def authenticator(self) -> Authenticator:
        self.checks = PendingAuthenticator()
        return self.checks

    @scenario
    def test_oldest_of_address_over_cap_is_refused(self) -> None:
        connections = []
        for count in (1, 2):
            connections.append(self.raw())
            connections[-1].sendall(upgrade("X-Forwarded-For: 192.0.2.1"))
            self.until_count(count)
            self.advance((2 - count) * 2 * EVICTION_GRACE_SECONDS)
            self.until(lambda n=count: len(self.checks.pending) == n)  # type: ignore[misc]
        self.assertEqual(self.checks.cancelled, 1)
        connections[0].sendall(frame(CLOSE, b"\x03\xf5"))
        received = self.read_to_end(connections[0])
        self.assertTrue(received.startswith(b"HTTP/1.1 101"))
        self.assertIn(b"\x03\xf5", received)
        self.in_reactor(self.checks.pending[1].callback, User("me"))
        self.assert_answered(connections[1])


class AppliedTests(ArrivalTestCase):
    """Limits that change while the relay serves."""

    @scenario
    def test_limits_after_apply_hold_and_close_no_client(self) -> None:
        client = self.registered(A)
        factory = self.service.factory
        self.in_reactor(factory.apply, limited(connections=1))
        waiting = self.raw()
        self.until_full()
        client.ping()
        changed = limited(trusted_proxies=HERE, proxy_protocol=True)
        self.in_reactor(factory.apply, changed)
        self.advance(RETRY_SECONDS)
        waiting.sendall(LINE + upgrade())
        self.assert_answered(waiting)
        client.ping()


class TotalTests(ArrivalTestCase):
    """Connections in total."""

    config = limited(connections=2)

    @scenario
    def test_client_over_cap_waits_for_room(self) -> None:
        first, second = self.registered(A), self.registered(B)
        late = self.raw(secure=False)
        self.until_full()
        later = self.raw(secure=False)
        self.advance(RETRY_SECONDS)
        # The kernel has connected them; the relay sends nothing.
        for waiting in (late, later):
            waiting.setblocking(False)
            self.assertRaises(BlockingIOError, waiting.recv, 1)
            waiting.settimeout(PATIENCE)
        second.ping()
        first.close()
        self.until_count(1)
        self.advance(RETRY_SECONDS)
        self.until_count(2)
        self.upgrade(late)

    @scenario
    def test_stop_of_full_relay_does_not_wait(self) -> None:
        self.registered(A)
        self.registered(B)
        self.raw(secure=False)
        self.until_full()


class TlsTotalTests(TotalTests):
    """Over TLS."""

    secure = True


class FloodTests(ArrivalTestCase):
    """Registered clients over their rate."""

    config = limited(messages_per_client=10, burst=2)

    def flooding(self) -> socket.socket:
        """A raw connection with a UUID, over its rate."""
        connection = self.ready()
        # The rate applies from the end of a turn on.
        connection.sendall(frame(PING, b"x") * FRAMES_PER_TURN)
        answers = self.receive(connection, 3 * FRAMES_PER_TURN)
        self.assertEqual(answers, b"\x8a\x01x" * FRAMES_PER_TURN)
        self.until_slow()
        return connection

    @scenario
    def test_client_over_rate_loses_no_frame(self) -> None:
        flooding, other = self.flooding(), self.registered(B)
        flooding.sendall(frame(PING, b"y"))
        flooding.sendall(frame(TEXT, offer(A, B)))
        for _ in range(5):
            other.ping()
            self.advance(RETRY_SECONDS)
        self.until_slow()
        flooding.setblocking(False)
        self.assertRaises((BlockingIOError, ssl.SSLWantReadError), flooding.recv, 1)
        flooding.settimeout(PATIENCE)
        self.advance(MAX_WAIT_SECONDS)
        self.assertEqual(self.receive(flooding, 3), b"\x8a\x01y")
        self.assertEqual(json.loads(other.recv())["source_uuid"], A)
        self.assertEqual(len(self.connections()), 2)

    @scenario
    def test_client_over_rate_again_may_answer_a_ping_late(self) -> None:
        timeouts = Timeouts()
        flooding = self.flooding()
        self.advance(MAX_WAIT_SECONDS)
        self.until_slow(0)
        for phase in (Phase.READY, Phase.AWAITING_PONG):
            self.advance(timeouts.ping_interval)
            (peer,) = self.connections()
            self.assertIs(peer.phase, phase)
        self.advance(timeouts.ping_timeout - 1)
        flooding.sendall(frame(PING, b"x") * 100)
        self.until_slow()
        self.assertEqual(self.happened(Slowed), [Slowed(peer.address)])  # once
        self.advance(1.5)
        self.assertIs(peer.phase, Phase.AWAITING_PONG)
        for _ in range(8):  # the frames that were deferred are read first
            self.advance(timeouts.ping_timeout / 4)
        self.until_count(0)

    @scenario
    def test_client_with_refused_offers_is_slowed(self) -> None:
        client = self.registered(A)
        client.send(offer(B, C).decode())
        self.assertIn("is not the UUID", client.recv())
        self.until_slow()
        client.send(offer(B, C).decode())
        self.advance(MAX_WAIT_SECONDS)
        self.assertIn("is not the UUID", client.recv())

    @scenario
    def test_client_with_tiny_fragments_is_slowed(self) -> None:
        connection = self.upgraded()
        connection.sendall(
            frame(TEXT, b"{", fin=False) + frame(CONTINUATION, fin=False) * 9
        )
        connection.sendall(frame(CONTINUATION, b" ", fin=False) * 50)
        self.until_slow()

    @scenario
    def test_client_that_leaves_while_slow_is_forgotten(self) -> None:
        self.flooding().close()
        self.advance(MAX_WAIT_SECONDS)
        self.until_count(0)
        self.until_slow(0)

    @scenario
    def test_client_that_is_replaced_while_slow_is_closed(self) -> None:
        flooding, client = self.flooding(), self.connect()
        client.send(registration(A).decode())
        self.assertIn(b"\x0f\xa4Relay received", flooding.recv(65536))
        flooding.sendall(frame(CLOSE, b"\x0f\xa4"))
        self.advance(MAX_WAIT_SECONDS)
        self.read_to_end(flooding)
        flooding.close()
        self.until_count(1)


class TlsFloodTests(FloodTests):
    """Over TLS."""

    secure = True


class KeyUpdateTests(ArrivalTestCase):
    """A client that changes its TLS keys again and again."""

    secure = True
    config = FloodTests.config

    def updater(self) -> KeyUpdater:
        client = KeyUpdater(self.raw(secure=False))
        self.addCleanup(client.free)
        return client

    @scenario
    def test_client_after_upgrade_is_slowed_as_for_frames(self) -> None:
        client = self.updater()
        client.change_keys(2)
        client.send(upgrade()[:9])
        client.change_keys(2)
        client.send(upgrade()[9:])
        self.assertTrue(client.recv().startswith(b"HTTP/1.1 101 "))
        (peer,) = self.connections()
        self.assertFalse(peer.slowed)
        client.change_keys(40)
        self.until(lambda: peer.slowed)
        client.send(frame(TEXT, registration(A)))

        def registers() -> bool:
            if peer.flow._slow_since is not None:
                self.clock.advance(1)
            return peer.registration is not None

        self.until(registers)
        self.assertIn(b'"success": true', client.recv())

    @scenario
    def test_client_before_upgrade_is_dropped(self) -> None:
        client = self.updater()
        with suppressed(ConnectionError):
            client.change_keys(2 * MAX_EMPTY_RECORDS_BEFORE_UPGRADE)
        self.until_happened(1, Dropped)
        (event,) = self.happened(Dropped)
        self.assertEqual(event.reason, "too many TLS records without data")


class AddressFloodTests(ArrivalTestCase):
    """Clients of one address that are over its rate together."""

    config = limited(messages_per_address=5, burst=2, trusted_proxies=HERE)

    @scenario
    def test_address_over_rate_is_slowed_alone(self) -> None:
        first = self.register(self.there("192.0.2.1"), A)
        second = self.register(self.there("192.0.2.1"), B)
        other = self.register(self.there("192.0.2.2"), C)
        for _ in range(4):
            first.ping()
            second.ping()
        second.send(registration(B).decode())
        self.assertIn('"success": true', second.recv())
        self.until_slow()
        for _ in range(9):
            other.ping()
        self.advance(MAX_WAIT_SECONDS)
        first.ping()
        second.ping()


class ForwardedTests(ArrivalTestCase):
    """X-Forwarded-For of a trusted proxy."""

    config = limited(trusted_proxies=(*HERE, "198.51.100.0/24"))

    @scenario
    def test_address_is_the_last_untrusted_one_or_the_proxy(self) -> None:
        self.register(self.there("203.0.113.9, 192.0.2.1, 198.51.100.7"), A)
        self.register(self.there("2001:db8::7"), B)
        self.register(self.there("'; --"), C)
        first, second, third = (peer.address for peer in self.connections())
        self.assertEqual([first, second], ["192.0.2.1", "[2001:db8::7]"])
        self.assertTrue(third.startswith("127.0.0.1:"))


class UntrustedTests(ArrivalTestCase):
    """Headers of a client that is no trusted proxy."""

    config = limited(trusted_proxies=("192.0.2.0/24",), proxy_protocol=True)

    @scenario
    def test_forwarded_header_is_ignored(self) -> None:
        self.register(self.there("192.0.2.1"), A)
        (peer,) = self.connections()
        self.assertTrue(peer.address.startswith("127.0.0.1:"))

    @scenario
    def test_proxy_header_is_refused(self) -> None:
        connection = self.from_there(LINE + upgrade())
        self.assertTrue(self.read_to_end(connection).startswith(b"HTTP/1.1 400 "))


class SharedNetworkTests(ServedMixin, SynchronousTestCase):
    """Trusted proxies, and strangers in the same network."""

    def test_proxy_and_stranger_of_one_network_share_no_limit(self) -> None:
        factory = self.serve(
            limits=Limits(trusted_proxies=("2001:db8::1",), connections_per_address=1)
        )
        hosts = ("2001:db8::1", "2001:db8::2", "2001:db8::1", "2001:db8::3", "::1")
        peers = []
        for host in hosts:
            peers.append(factory.buildProtocol(addresses.of(host)))
            peers[-1].makeConnection(ClosedTransport())
            peers[-1].dataReceived(upgrade())
        self.assertIs(peers[0].origin, peers[2].origin)
        self.assertIs(peers[1].origin, peers[3].origin)
        network, opened = "2001:db8::/64", RelayProtocol.STATE_OPEN
        self.assertEqual(
            [(peer.source, peer.limited, peer.state == opened) for peer in peers],
            [
                ("2001:db8::1", False, True),
                (network, True, True),
                ("2001:db8::1", False, True),
                (network, True, False),
                ("::1", False, True),
            ],
        )


class ProxyHeaderTests(ArrivalTestCase):
    """The PROXY protocol."""

    config = limited(trusted_proxies=HERE, proxy_protocol=True, connections=10)

    def until_waiting(self, count: int) -> None:
        """Wait for a number of awaited headers."""
        awaited = self.service.factory.behind_proxies.waiting
        self.until(lambda: len(awaited) == count)

    @scenario
    def test_address_is_that_of_header(self) -> None:
        ip4 = struct.pack("!BBH4s4sHH", 0x21, 0x11, 12, b"\xc0\0\2\7", b"1234", 80, 1)
        ip6 = struct.pack(
            "!BBH16s16sHH", 0x21, 0x21, 39, ip_address("2001:db8::7").packed, b"", 80, 1
        )
        for header, address in (
            ([LINE], "192.0.2.7:4711"),
            ([bytes([byte]) for byte in LINE], "192.0.2.7:4711"),
            ([SIGNATURE + ip4], "192.0.2.7:80"),
            ([SIGNATURE + ip6 + b"\4\0\0"], "[2001:db8::7]:80"),
            ([b"PROXY UNKNOWN\r\n"], "127.0.0.1:"),
            ([SIGNATURE + b"\x20\0\0\0"], "127.0.0.1:"),
        ):
            self.upgrade(self.from_there(*header))
            found = self.connections()[-1].address
            self.assertTrue(found.startswith(address), (header, found))
        self.until_waiting(0)

    @scenario
    def test_connection_without_a_byte_is_a_probe(self) -> None:
        for count, header in enumerate(
            (b"", b"PROXY UNKNOWN\r\n", SIGNATURE + b"\x20\0\0\0", LINE), 1
        ):
            self.from_there(header).close()
            self.until_happened(count, Probed)
        self.assertEqual(self.happened(Dropped), [])
        hosts = [event.address.rpartition(":")[0] for event in self.happened(Probed)]
        self.assertEqual(hosts, ["127.0.0.1"] * 3 + ["192.0.2.7"])

    @scenario
    def test_proxy_without_header_is_dropped(self) -> None:
        connection = self.from_there(upgrade())
        self.assertEqual(self.read_to_end(connection), b"")
        (event,) = self.happened(Dropped)
        self.assertTrue(event.address.startswith("127.0.0.1:"))
        self.assertIn("PROXY", event.reason)
        self.until_waiting(0)

    @scenario
    def test_proxy_with_late_header_is_dropped(self) -> None:
        connection = self.from_there(LINE[:-1])
        self.until_waiting(1)
        self.advance(Timeouts().opening_handshake)
        self.assertEqual(self.read_to_end(connection), b"")
        self.until_waiting(0)

    @scenario
    def test_connection_without_header_takes_room(self) -> None:
        waiting = [self.raw(secure=False) for _ in range(11)]
        self.until_full()
        self.until_waiting(10)
        waiting[0].close()
        self.until_waiting(9)
        self.advance(RETRY_SECONDS)
        self.until_waiting(10)


class TlsProxyHeaderTests(ProxyHeaderTests):
    """Over TLS, which begins behind the header."""

    secure = True


class TcpProxyHeaderTests(ArrivalTestCase):
    """The PROXY protocol without TLS."""

    config = ProxyHeaderTests.config

    @scenario
    def test_request_in_the_same_read_is_taken(self) -> None:
        self.assert_answered(self.from_there(LINE + upgrade()))

    @scenario
    def test_address_behind_two_proxies_is_the_client(self) -> None:
        line = b"PROXY TCP4 127.9.9.9 127.0.0.1 1 2\r\n"
        self.assert_answered(
            self.from_there(line + upgrade("X-Forwarded-For: 192.0.2.7"))
        )
        self.assertEqual(self.connections()[0].address, "192.0.2.7")


class NoFilesTests(ArrivalTestCase):
    """A process at its limit of open files."""

    @scenario
    def test_relay_without_files_accepts_later(self) -> None:
        connection = socket.socket()
        self._clients.append(connection)
        connection.settimeout(PATIENCE)
        kind = resource.RLIMIT_NOFILE
        before = resource.getrlimit(kind)
        free = os.dup(connection.fileno())
        os.close(free)
        # All below that are taken.
        resource.setrlimit(kind, (free, before[1]))
        try:
            connection.connect(("127.0.0.1", self.port))
            self.until_full()
            self.assertEqual(self.connections(), [])
        finally:
            resource.setrlimit(kind, before)
        connection.sendall(upgrade())
        self.advance(RETRY_SECONDS)
        self.assert_answered(connection)


class FewFilesTests(ProcessTestCase):
    """A process with few open files."""

    def test_relay_with_few_files_serves_all_in_turn(self) -> None:
        config = self.folder / "relay.toml"
        config.write_text('host = "127.0.0.1"\nport = 0\n')
        relay = RelayProcess(["--config", config], self.folder)
        self.addCleanup(relay.end)
        room = 20
        limit = RESERVED_DESCRIPTORS + room
        resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, (limit, limit))
        clients = []
        for _ in range(2 * room):
            client = socket.create_connection(("127.0.0.1", relay.port), PATIENCE)
            self.addCleanup(client.close)
            client.sendall(upgrade())
            clients.append(client)
        relay.wait_for("full: clients that connect now wait")
        for client in clients:
            self.assertTrue(client.recv(12).startswith(b"HTTP/1.1 101"))
            client.close()
        self.assertEqual(relay.stop(), 0)
        self.assertNotIn("EMFILE", relay.said)
