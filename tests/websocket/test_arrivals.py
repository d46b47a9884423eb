"""Limits and proxies over real sockets: who waits, comes later, or is slowed down."""

from __future__ import annotations

import json
import os
import resource
import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import suppress as suppressed
from ipaddress import ip_address
from typing import Any

from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from websockets.exceptions import ConnectionClosed

from proxyrelay.auth import Authenticator
from proxyrelay.config import Config, Limits, Offers, Timeouts
from proxyrelay.net import addresses
from proxyrelay.net.accept import RETRY_SECONDS as PAUSE
from proxyrelay.net.proxy_header import ProxyHeaderFactory, ProxyHeaderReader
from proxyrelay.net.rate import MAX_WAIT_SECONDS
from proxyrelay.switchboard.events import Dropped, Probed, Slowed
from proxyrelay.switchboard.user import User
from proxyrelay.websocket.admission import EVICTION_GRACE_SECONDS, RESERVED_DESCRIPTORS
from proxyrelay.websocket.factory import RelayFactory
from proxyrelay.websocket.fastpath import FRAMES_PER_TURN
from proxyrelay.websocket.flow import MAX_EMPTY_RECORDS_BEFORE_UPGRADE
from proxyrelay.websocket.lifecycle import Phase
from proxyrelay.websocket.protocol import RelayProtocol
from tests.support.frames import CLOSE, CONTINUATION, PING, TEXT, frame
from tests.support.keyupdate import KeyUpdater
from tests.support.processes import ProcessTestCase, RelayProcess
from tests.support.recording import A, B, C, offer, registration
from tests.support.served import (
    PATIENCE,
    Client,
    HeaderAuthenticator,
    PendingAuthenticator,
    RelayTestCase,
    scenario,
    upgrade,
)
from tests.websocket.test_served_class import ClosedTransport, ServedMixin

HERE = ("127.0.0.0/8",)
"""Networks of the proxies in these tests, who are all the clients there are."""

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def limited(**limits: Any) -> Config:
    """The settings of a relay with limits."""
    return Config(
        host="127.0.0.1",
        port=0,
        limits=Limits(**limits),
        offers=Offers(crossing=0),
    )


class AdmissionMixin:
    """Clients that come from wherever they say."""

    def there(self: Any, host: str, **options: Any) -> Client:
        """Connect from an address, through a proxy."""
        headers = {"X-Forwarded-For": host, **options.pop("headers", {})}
        client: Client = self.connect(additional_headers=headers, **options)
        return client

    def register(self: Any, client: Client, uuid: str) -> Client:
        """Register a connection."""
        client.send(registration(uuid).decode())
        self.assertIn('"success": true', client.recv())
        return client

    def assert_refused(self: Any, client: Client, words: str) -> None:
        """The client is to come back later."""
        closed = self.assertRaises(ConnectionClosed, client.recv)
        self.assertEqual(closed.rcvd.code, 1013)
        self.assertIn(words, closed.rcvd.reason)

    def upgraded(self: Any, connection: socket.socket) -> None:
        """Go on where a proxy has announced a connection, up to the upgrade."""
        if self.authority is not None:
            connection = self.authority.client_context().wrap_socket(
                connection, server_hostname="localhost"
            )
            self._clients.append(connection)
        connection.sendall(upgrade())
        self.assertTrue(connection.recv(12).startswith(b"HTTP/1.1 101"))

    def until_count(self: Any, count: int) -> None:
        """Wait until there are so many connections."""
        self.until(lambda: len(self.service.factory.connections) == count)


class UserMixin(AdmissionMixin):
    """Connections of one user, and of one address."""

    config = limited(
        connections_per_user=2, connections_per_address=3, trusted_proxies=HERE
    )

    def authenticator(self) -> Authenticator:
        return HeaderAuthenticator()

    @scenario
    def test_who_is_too_many_gets_in_when_there_is_room(self: Any) -> None:
        me = {"headers": {"X-User": "me"}}
        first = self.register(self.there("192.0.2.1", **me), A)
        second = self.register(self.there("192.0.2.2", **me), B)
        self.assert_refused(self.there("192.0.2.3", **me), "this user")
        self.register(self.there("192.0.2.3", headers={"X-User": "you"}), C)
        first.close()
        self.until_count(2)
        self.register(self.there("192.0.2.3", **me), A)
        second.ping()

    @scenario
    def test_the_same_of_an_address(self: Any) -> None:
        clients = [
            self.there("192.0.2.1", headers={"X-User": str(number)})
            for number in range(3)
        ]
        self.register(clients[0], A)
        self.assert_refused(self.there("192.0.2.1"), "this address")
        self.register(self.there("192.0.2.2"), B)
        clients[1].hang_up()
        self.until_count(3)
        self.register(self.there("192.0.2.1"), C)

    @scenario
    def test_a_network_is_an_address(self: Any) -> None:
        for number in range(3):
            self.there(f"2001:db8::{number}", headers={"X-User": str(number)})
        self.assert_refused(self.there("2001:db8::ffff"), "this address")
        self.there("2001:db8:0:1::").ping()

    @scenario
    def test_this_machine_is_no_address(self: Any) -> None:
        for number in range(4):
            self.connect(additional_headers={"X-User": str(number)}).ping()


class TcpUserTests(UserMixin, RelayTestCase):
    """Over plain TCP."""


class TlsUserTests(UserMixin, RelayTestCase):
    """Over TLS."""

    secure = True


class RegistrationTests(AdmissionMixin, RelayTestCase):
    """Registrations of one address."""

    config = limited(registrations_per_address=1, burst=2, trusted_proxies=HERE)

    @scenario
    def test_who_is_too_fast_gets_in_later(self) -> None:
        for uuid in (A, B, C):
            self.register(self.there("192.0.2.1"), uuid)
        client = self.there("192.0.2.1")
        client.send(registration(A).decode())
        self.assert_refused(client, "registrations")
        self.register(self.there("192.0.2.2"), A)
        self.advance(1)
        self.register(self.there("192.0.2.1"), B)


class AgainMixin(AdmissionMixin):
    """Registrations of one connection."""

    config = limited(registrations_per_client=1, burst=2)

    @scenario
    def test_who_registers_again_and_again_is_to_come_back(self: Any) -> None:
        client, other = self.registered(A), self.registered(C)
        for uuid in (B, A, A):
            self.register(client, uuid)
        client.send(registration(B).decode())
        self.assert_refused(client, "registrations of this client")
        self.until_count(1)
        self.register(self.connect(), B)
        other.ping()

    @scenario
    def test_who_does_now_and_then_stays(self: Any) -> None:
        client = self.registered(A)
        for uuid in (B, A) * 5:
            self.advance(1)
            self.register(client, uuid)

    @scenario
    def test_what_follows_in_the_same_read_is_not_acted_upon(self: Any) -> None:
        connection = self.raw()
        connection.sendall(upgrade())
        self.assertTrue(connection.recv(12).startswith(b"HTTP/1.1 101"))
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


class TcpAgainTests(AgainMixin, RelayTestCase):
    """Over plain TCP."""


class TlsAgainTests(AgainMixin, RelayTestCase):
    """Over TLS."""

    secure = True


class AgainTogetherTests(AdmissionMixin, RelayTestCase):
    """Registrations of connections that have registered before, of one address."""

    config = limited(registrations_per_address=1, burst=2, trusted_proxies=HERE)

    @scenario
    def test_count_as_well(self) -> None:
        client = self.register(self.there("192.0.2.1"), A)
        for uuid in (B, A):
            self.register(client, uuid)
        client.send(registration(A).decode())
        self.assert_refused(client, "this address")


class UnregisteredTests(AdmissionMixin, RelayTestCase):
    """Connections that hold no UUID yet."""

    config = limited(unregistered=6, unregistered_per_address=2, trusted_proxies=HERE)

    @scenario
    def test_the_oldest_of_an_address_has_had_its_time(self) -> None:
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
    def test_a_crowd_of_others_waits(self) -> None:
        crowd = [self.there(f"192.0.2.{number}") for number in range(6)]
        late = self.raw()
        late.sendall(upgrade())
        self.until(lambda: self.service.factory.gate._timer)
        self.assertEqual(len(self.connections()), 6)
        self.register(crowd[0], A)
        self.advance(PAUSE)
        self.assertTrue(late.recv(12).startswith(b"HTTP/1.1 101"))


class ExcessMixin(AdmissionMixin):
    """Connections that hold no UUID, of a stranger with several addresses."""

    config = limited(
        unregistered=6,
        unregistered_per_address=3,
        trusted_proxies=HERE,
        proxy_protocol=True,
    )

    def from_there(self: Any, host: str) -> socket.socket:
        """A connection of a client of the proxy."""
        connection: socket.socket = self.raw(secure=False)
        connection.sendall(f"PROXY TCP4 {host} 192.0.2.2 4711 443\r\n".encode())
        return connection

    def until_waits(self: Any) -> None:
        """Wait until nobody is accepted."""
        self.until(lambda: self.service.factory.gate._timer)

    @scenario
    def test_a_stranger_keeps_nobody_out(self: Any) -> None:
        before = self.from_there("192.0.2.1")
        silent = []
        for count, number in enumerate((7, 7, 7, 8, 8), 2):
            silent.append(self.from_there(f"198.51.100.{number}"))
            self.until_count(count)
        honest = self.from_there("192.0.2.1")
        self.until_waits()
        self.advance(EVICTION_GRACE_SECONDS)
        self.assertEqual(self.happened(Dropped), [])
        self.until_waits()
        self.advance(PAUSE)
        self.assertEqual(self.read_to_end(silent[0]), b"")
        (event,) = self.happened(Dropped)
        self.assertEqual(event.address, "198.51.100.7:4711")
        self.assertIn("too many", event.reason)
        self.advance(PAUSE)
        self.upgraded(before)
        self.upgraded(honest)
        self.assertEqual(len(self.happened(Dropped)), 1)


class TcpExcessTests(ExcessMixin, RelayTestCase):
    """Over plain TCP."""

    @scenario
    def test_but_a_relay_that_is_late_ends_nobody(self) -> None:
        factory = self.service.factory
        for count in range(1, 7):
            self.from_there("198.51.100.7")
            self.until_count(min(count, 6))
        self.from_there("192.0.2.1")
        self.until_waits()
        factory.pace._waiting.append(lambda: None)
        self.advance(2 * EVICTION_GRACE_SECONDS)
        self.assertEqual(len(self.connections()), 6)
        self.in_reactor(factory.pace._next_turn)
        self.advance(PAUSE)
        self.until_count(5)
        self.advance(PAUSE)
        self.until(lambda: self.connections_of("192.0.2.1"))

    def connections_of(self, host: str) -> list[object]:
        """Those of an address."""
        found = self.service.factory.connections
        return [peer for peer in found if peer.address.startswith(host)]


class TlsExcessTests(ExcessMixin, RelayTestCase):
    """Over TLS, which has not begun."""

    secure = True


class SilentTests(AdmissionMixin, RelayTestCase):
    """Connections that do not even complete their handshake, behind one address."""

    config = limited(
        unregistered_per_address=2, trusted_proxies=HERE, proxy_protocol=True
    )

    @scenario
    def test_the_oldest_is_dropped(self) -> None:
        line = b"PROXY TCP4 192.0.2.7 192.0.2.2 4711 443\r\n"
        silent = [self.raw() for _ in range(3)]
        for count, connection in enumerate(silent, 1):
            connection.sendall(line)
            self.until_count(min(count, 2))
            self.advance(2 * EVICTION_GRACE_SECONDS / 3)
        self.until(lambda: self.happened(Dropped))
        self.assertEqual(self.read_to_end(silent[0]), b"")
        self.assertIn("too many", self.happened(Dropped)[0].reason)


class PendingTests(AdmissionMixin, RelayTestCase):
    """Connections behind one address whose users are not known yet."""

    config = limited(unregistered_per_address=1, trusted_proxies=HERE)

    def authenticator(self) -> Authenticator:
        self.checks = PendingAuthenticator()
        return self.checks

    def are_pending(self, count: int) -> Callable[[], bool]:
        """Whether so many users are being looked up."""
        return lambda: len(self.checks.pending) == count

    @scenario
    def test_the_oldest_is_to_come_back(self) -> None:
        connections = []
        for count in (1, 2):
            connection = self.raw()
            connection.sendall(upgrade("X-Forwarded-For: 192.0.2.1"))
            connections.append(connection)
            self.until_count(count)
            self.advance((2 - count) * 2 * EVICTION_GRACE_SECONDS)
            self.until(self.are_pending(count))
        self.assertEqual(self.checks.cancelled, 1)
        connections[0].sendall(frame(CLOSE, b"\x03\xf5"))
        received = self.read_to_end(connections[0])
        self.assertTrue(received.startswith(b"HTTP/1.1 101"))
        self.assertIn(b"\x03\xf5", received)
        self.in_reactor(self.checks.pending[1].callback, User("me"))
        self.assertTrue(connections[1].recv(12).startswith(b"HTTP/1.1 101"))


class ChangedTests(AdmissionMixin, RelayTestCase):
    """Limits that change while the relay serves."""

    @scenario
    def test_hold_from_then_on_and_close_nobody(self) -> None:
        client = self.registered(A)
        factory = self.service.factory
        self.in_reactor(factory.apply, limited(connections=1))
        waiting = self.raw()
        self.until(lambda: factory.gate._timer)
        client.ping()
        self.in_reactor(
            factory.apply, limited(trusted_proxies=HERE, proxy_protocol=True)
        )
        self.advance(PAUSE)
        waiting.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.2 4711 443\r\n" + upgrade())
        self.assertTrue(waiting.recv(12).startswith(b"HTTP/1.1 101"))
        client.ping()


class TotalMixin(AdmissionMixin):
    """Connections in total."""

    config = limited(connections=2)

    @scenario
    def test_further_ones_wait_for_room(self: Any) -> None:
        first, second = self.registered(A), self.registered(B)
        late = self.raw(secure=False)
        self.until(lambda: self.service.factory.gate._timer)
        later = self.raw(secure=False)
        self.advance(PAUSE)
        # They are connected all the same, and nothing is said to them.
        for waiting in (late, later):
            waiting.setblocking(False)
            self.assertRaises(BlockingIOError, waiting.recv, 1)
            waiting.settimeout(PATIENCE)
        second.ping()
        first.close()
        self.until_count(1)
        self.advance(PAUSE)
        self.until_count(2)
        if not self.secure:
            late.sendall(upgrade())
            self.assertTrue(late.recv(12).startswith(b"HTTP/1.1 101"))

    @scenario
    def test_stopping_does_not_wait_for_room(self: Any) -> None:
        self.registered(A)
        self.registered(B)
        self.raw(secure=False)
        self.until(lambda: self.service.factory.gate._timer)


class TcpTotalTests(TotalMixin, RelayTestCase):
    """Over plain TCP."""


class TlsTotalTests(TotalMixin, RelayTestCase):
    """Over TLS."""

    secure = True


class FloodMixin(AdmissionMixin):
    """Registered clients that send too much."""

    config = limited(messages_per_client=10, burst=2)

    def until_slow(self: Any, count: int = 1) -> None:
        """Wait until so many clients are not read from."""
        self.until(lambda: len(self.service.factory.flows.slow) == count)

    def flooding(self: Any) -> Any:
        """A raw connection that holds a UUID, and has sent more than it may."""
        connection = self.raw()
        connection.sendall(upgrade())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += connection.recv(1)
        connection.sendall(frame(TEXT, registration(A)))
        self.assertIn(b"success", connection.recv(65536))
        # The rate applies from the end of a turn on.
        connection.sendall(frame(PING, b"x") * FRAMES_PER_TURN)
        answers = self.take(connection, 3 * FRAMES_PER_TURN)
        self.assertEqual(answers, b"\x8a\x01x" * FRAMES_PER_TURN)
        self.until_slow()
        return connection

    def take(self: Any, connection: Any, length: int) -> bytes:
        """So many bytes of what the relay sends."""
        taken = b""
        while len(taken) < length and (piece := connection.recv(length - len(taken))):
            taken += piece
        return taken

    @scenario
    def test_are_slowed_down_and_lose_nothing(self: Any) -> None:
        flooding, other = self.flooding(), self.registered(B)
        flooding.sendall(frame(PING, b"y"))
        flooding.sendall(frame(TEXT, offer(A, B)))
        for _ in range(5):
            other.ping()
            self.advance(PAUSE)
        self.until_slow()
        flooding.setblocking(False)
        self.assertRaises((BlockingIOError, ssl.SSLWantReadError), flooding.recv, 1)
        flooding.settimeout(PATIENCE)
        self.advance(MAX_WAIT_SECONDS)
        self.assertEqual(self.take(flooding, 3), b"\x8a\x01y")
        self.assertEqual(json.loads(other.recv())["source_uuid"], A)
        self.assertEqual(len(self.connections()), 2)

    @scenario
    def test_may_answer_a_ping_late(self: Any) -> None:
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
        self.advance(1.5)
        self.assertIs(peer.phase, Phase.AWAITING_PONG)
        for _ in range(8):  # the frames that were deferred are read first
            self.advance(timeouts.ping_timeout / 4)
        self.until_count(0)

    @scenario
    def test_with_offers_in_vain_as_well(self: Any) -> None:
        client = self.registered(A)
        client.send(offer(B, C).decode())
        self.assertIn("is not the UUID", client.recv())
        self.until_slow()
        client.send(offer(B, C).decode())
        self.advance(MAX_WAIT_SECONDS)
        self.assertIn("is not the UUID", client.recv())

    @scenario
    def test_with_tiny_fragments_as_well(self: Any) -> None:
        connection = self.raw()
        connection.sendall(upgrade())
        self.until_count(1)
        self.assertTrue(connection.recv(12).startswith(b"HTTP/1.1 101"))
        connection.sendall(
            frame(TEXT, b"{", fin=False) + frame(CONTINUATION, fin=False) * 9
        )
        connection.sendall(frame(CONTINUATION, b" ", fin=False) * 50)
        self.until_slow()

    @scenario
    def test_are_told_of_once(self: Any) -> None:
        flooding = self.flooding()
        self.advance(MAX_WAIT_SECONDS)
        self.until_slow(0)
        flooding.sendall(frame(PING, b"x") * 100)
        self.until_slow()
        (peer,) = self.connections()
        self.assertEqual(self.happened(Slowed), [Slowed(peer.address)])

    @scenario
    def test_may_leave_meanwhile(self: Any) -> None:
        flooding = self.flooding()
        flooding.close()
        self.advance(MAX_WAIT_SECONDS)
        self.until_count(0)
        self.until_slow(0)

    @scenario
    def test_may_be_closed_meanwhile(self: Any) -> None:
        flooding, client = self.flooding(), self.connect()
        client.send(registration(A).decode())
        self.assertIn(b"\x0f\xa4Relay received", flooding.recv(65536))
        flooding.sendall(frame(CLOSE, b"\x0f\xa4"))
        self.advance(MAX_WAIT_SECONDS)
        self.read_to_end(flooding)
        flooding.close()
        self.until_count(1)


class TcpFloodTests(FloodMixin, RelayTestCase):
    """Over plain TCP."""


class TlsFloodTests(FloodMixin, RelayTestCase):
    """Over TLS."""

    secure = True


class KeyUpdateFloodTests(AdmissionMixin, RelayTestCase):
    """A client that changes its TLS keys again and again."""

    secure = True
    config = FloodMixin.config

    def updater(self) -> KeyUpdater:
        client = KeyUpdater(self.raw(secure=False))
        self.addCleanup(client.free)
        return client

    @scenario
    def test_is_slowed_down_as_for_frames(self) -> None:
        client = self.updater()
        client.send(upgrade())
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
    def test_is_dropped_before_the_upgrade(self: Any) -> None:
        client = self.updater()
        with suppressed(ConnectionError):
            client.change_keys(2 * MAX_EMPTY_RECORDS_BEFORE_UPGRADE)
        self.until(lambda: self.happened(Dropped))
        (event,) = self.happened(Dropped)
        self.assertEqual(event.reason, "too many TLS records without data")

    @scenario
    def test_some_are_of_no_consequence(self) -> None:
        client = self.updater()
        client.change_keys(2)
        client.send(upgrade()[:9])
        client.change_keys(2)
        client.send(upgrade()[9:])
        self.assertTrue(client.recv().startswith(b"HTTP/1.1 101 "))


class AddressFloodTests(AdmissionMixin, RelayTestCase):
    """Clients of one address that send too much together."""

    config = limited(messages_per_address=5, burst=2, trusted_proxies=HERE)

    @scenario
    def test_are_slowed_down_and_others_are_not(self) -> None:
        first = self.register(self.there("192.0.2.1"), A)
        second = self.register(self.there("192.0.2.1"), B)
        other = self.register(self.there("192.0.2.2"), C)
        for _ in range(4):
            first.ping()
            second.ping()
        second.send(registration(B).decode())
        self.assertIn('"success": true', second.recv())
        self.until(lambda: len(self.service.factory.flows.slow) == 1)
        for _ in range(9):
            other.ping()
        self.advance(MAX_WAIT_SECONDS)
        first.ping()
        second.ping()


class ForwardedTests(AdmissionMixin, RelayTestCase):
    """X-Forwarded-For."""

    config = limited(trusted_proxies=(*HERE, "198.51.100.0/24"))

    @scenario
    def test_tells_where_a_client_is(self) -> None:
        self.register(self.there("203.0.113.9, 192.0.2.1, 198.51.100.7"), A)
        self.register(self.there("2001:db8::7"), B)
        self.registered(C)
        peers = self.connections()
        self.assertEqual(
            [peer.address for peer in peers[:2]], ["192.0.2.1", "[2001:db8::7]"]
        )
        self.assertTrue(peers[2].address.startswith("127.0.0.1:"))

    @scenario
    def test_garbage_tells_nothing(self) -> None:
        for garbage in ("", "unknown", "'; --", ",,,"):
            self.there(garbage).ping()
        for peer in self.connections():
            self.assertTrue(peer.address.startswith("127.0.0.1:"))


class ProxyTests(ServedMixin, SynchronousTestCase):
    """Trusted proxies, and strangers in the same network."""

    def test_share_nothing(self) -> None:
        factory = self.serve(
            limits=Limits(trusted_proxies=("2001:db8::1",), connections_per_address=1)
        )
        proxy, stranger, again, other, here = (
            self.open_from(factory, host)
            for host in (
                "2001:db8::1",
                "2001:db8::2",
                "2001:db8::1",
                "2001:db8::3",
                "::1",
            )
        )
        self.assertIs(proxy.origin, again.origin)
        self.assertIs(stranger.origin, other.origin)
        self.assertEqual(
            [peer.limited for peer in (proxy, stranger, here)],
            [False, True, False],
        )
        self.assertEqual(
            [peer.source for peer in (proxy, stranger, other, here)],
            ["2001:db8::1", "2001:db8::/64", "2001:db8::/64", "::1"],
        )
        self.assertEqual(len({peer.source for peer in factory.connections}), 3)
        # So only strangers are one too many.
        self.assertEqual(
            [peer.state == peer.STATE_OPEN for peer in (proxy, stranger, again, other)],
            [True, True, True, False],
        )

    def open_from(self, factory: RelayFactory, host: str) -> RelayProtocol:
        """A connection from an address that has sent its request."""
        protocol = factory.buildProtocol(addresses.of(host))
        protocol.makeConnection(ClosedTransport())
        protocol.dataReceived(upgrade())
        return protocol


class DistrustTests(AdmissionMixin, RelayTestCase):
    """Clients that are no trusted proxy."""

    config = limited(trusted_proxies=("192.0.2.0/24",), proxy_protocol=True)

    @scenario
    def test_may_say_what_they_like(self) -> None:
        self.register(self.there("192.0.2.1"), A)
        (peer,) = self.connections()
        self.assertTrue(peer.address.startswith("127.0.0.1:"))

    @scenario
    def test_must_not_begin_with_a_header(self) -> None:
        connection = self.raw()
        connection.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.2 4711 443\r\n" + upgrade())
        self.assertTrue(self.read_to_end(connection).startswith(b"HTTP/1.1 400 "))


class AnnouncedMixin(AdmissionMixin):
    """The PROXY protocol."""

    config = limited(trusted_proxies=HERE, proxy_protocol=True, connections=10)

    LINE = b"PROXY TCP4 192.0.2.7 192.0.2.2 4711 443\r\n"

    def announced(self: Any, *pieces: bytes) -> None:
        """A connection that begins with these, up to the answer to its upgrade."""
        connection: socket.socket = self.raw(secure=False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
        self.upgraded(connection)

    def until_waiting(self: Any, count: int) -> None:
        """Wait until so many headers are awaited."""
        self.until(lambda: len(self.service.factory.behind_proxies.waiting) == count)

    @scenario
    def test_tells_where_a_client_is(self: Any) -> None:
        ip4 = struct.pack("!BBH4s4sHH", 0x21, 0x11, 12, b"\xc0\0\2\7", b"1234", 80, 1)
        ip6 = struct.pack(
            "!BBH16s16sHH", 0x21, 0x21, 39, ip_address("2001:db8::7").packed, b"", 80, 1
        )
        for header, address in (
            (self.LINE, "192.0.2.7:4711"),
            (SIGNATURE + ip4, "192.0.2.7:80"),
            (SIGNATURE + ip6 + b"\4\0\0", "[2001:db8::7]:80"),
        ):
            self.announced(header)
            self.assertEqual(self.connections()[-1].address, address)

    @scenario
    def test_the_proxy_may_speak_for_itself(self: Any) -> None:
        for header in (b"PROXY UNKNOWN\r\n", SIGNATURE + b"\x20\0\0\0"):
            self.announced(header)
            self.assertTrue(self.connections()[-1].address.startswith("127.0.0.1:"))

    @scenario
    def test_a_probe_of_the_proxy_is_no_loss(self: Any) -> None:
        for count, header in enumerate(
            (b"", b"PROXY UNKNOWN\r\n", SIGNATURE + b"\x20\0\0\0", self.LINE), 1
        ):
            connection = self.raw(secure=False)
            connection.sendall(header)
            connection.close()
            self.until(lambda count=count: len(self.happened(Probed)) == count)
        self.assertEqual(self.happened(Dropped), [])
        self.assertEqual(
            [event.address.rpartition(":")[0] for event in self.happened(Probed)],
            ["127.0.0.1"] * 3 + ["192.0.2.7"],
        )

    @scenario
    def test_may_come_in_pieces(self: Any) -> None:
        self.announced(*(bytes([byte]) for byte in self.LINE))
        self.assertEqual(self.connections()[-1].address, "192.0.2.7:4711")
        self.until_waiting(0)

    @scenario
    def test_drops_a_proxy_that_does_not_speak_it(self: Any) -> None:
        told: list[tuple[str, str]] = []
        self.service.factory.behind_proxies.dropped = lambda *about: told.append(about)
        connection = self.raw(secure=False)
        connection.sendall(upgrade())
        self.assertEqual(self.read_to_end(connection), b"")
        ((address, why),) = told
        self.assertTrue(address.startswith("127.0.0.1:"))
        self.assertIn("PROXY", why)
        self.until_waiting(0)

    @scenario
    def test_does_not_wait_for_ever(self: Any) -> None:
        connection = self.raw(secure=False)
        connection.sendall(self.LINE[:-1])
        self.until_waiting(1)
        self.advance(Timeouts().opening_handshake)
        self.assertEqual(self.read_to_end(connection), b"")
        self.until_waiting(0)

    @scenario
    def test_forgets_who_leaves(self: Any) -> None:
        connection = self.raw(secure=False)
        self.until_waiting(1)
        connection.close()
        self.until_waiting(0)

    @scenario
    def test_who_has_not_said_it_takes_room(self: Any) -> None:
        waiting = [self.raw(secure=False) for _ in range(11)]
        self.until(lambda: self.service.factory.gate._timer)
        self.until_waiting(10)
        waiting[0].close()
        self.until_waiting(9)
        self.advance(PAUSE)
        self.until_waiting(10)


class TcpAnnouncedTests(AnnouncedMixin, RelayTestCase):
    """Over plain TCP."""

    @scenario
    def test_what_follows_in_the_same_piece_is_not_lost(self) -> None:
        connection = self.raw()
        connection.sendall(self.LINE + upgrade())
        self.assertTrue(connection.recv(12).startswith(b"HTTP/1.1 101"))

    @scenario
    def test_and_behind_it_another_proxy(self) -> None:
        connection = self.raw()
        line = b"PROXY TCP4 127.9.9.9 127.0.0.1 1 2\r\n"
        connection.sendall(line + upgrade("X-Forwarded-For: 192.0.2.7"))
        self.assertTrue(connection.recv(12).startswith(b"HTTP/1.1 101"))
        self.assertEqual(self.connections()[0].address, "192.0.2.7")


class UnwantedTests(SynchronousTestCase):
    """A proxy whose client is not served."""

    def test_is_left(self) -> None:
        class Nobody(Factory):
            def buildProtocol(self, addr: object) -> None:
                return None

        clock = Clock()
        factory = ProxyHeaderFactory(
            Nobody(), lambda host: host == "192.0.2.1", print, clock, 9
        )
        self.assertIsNone(factory.buildProtocol(addresses.of("192.0.2.2")))
        protocol = factory.buildProtocol(addresses.of("192.0.2.1"))
        assert isinstance(protocol, ProxyHeaderReader)
        transport = StringTransport()
        protocol.makeConnection(transport)
        self.assertEqual(protocol.read(b"PROXY UNKNOWN\r\nmore"), 15)
        self.assertTrue(transport.disconnected)


class TlsAnnouncedTests(AnnouncedMixin, RelayTestCase):
    """Over TLS, which begins behind the header."""

    secure = True


class FilesTests(RelayTestCase):
    """A process that has no files left."""

    @scenario
    def test_accepts_when_it_has_some_again(self) -> None:
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
            self.until(lambda: self.service.factory.gate._timer)
            self.assertEqual(self.connections(), [])
        finally:
            resource.setrlimit(kind, before)
        connection.sendall(upgrade())
        self.advance(PAUSE)
        self.assertTrue(connection.recv(12).startswith(b"HTTP/1.1 101"))


class FewFilesTests(ProcessTestCase):
    """A relay that may have few files open."""

    def test_serves_all_one_after_the_other(self) -> None:
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
