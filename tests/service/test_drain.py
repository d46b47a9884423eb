"""A relay that another one replaces: its last clients, and its new ones."""

from __future__ import annotations

import json
import socket
from typing import Any, cast

from msgspec import structs
from twisted.logger import LogLevel
from websockets.exceptions import ConnectionClosed

from proxyrelay.auth import Authenticator
from proxyrelay.config import Config, Limits, Logging
from proxyrelay.net import listening
from proxyrelay.service.drain import CLOSING_SECONDS
from proxyrelay.websocket.state import RelayState
from tests.service.case import LOOPBACK, Connection, ServiceTestCase
from tests.support.capture import Capture
from tests.support.recording import A, B, C, answer, offer, registration
from tests.support.served import (
    Client,
    PendingAuthenticator,
    RelayTestCase,
    scenario,
    upgrade,
)

DAY_SECONDS = 86400

REASON = "Another relay takes over here."

CLOSE_1013 = bytes([0x88, 2 + len(REASON), *(1013).to_bytes(2, "big")])
"""First bytes of the frame that closes a client with 1013 and this reason."""


class DrainTests(ServiceTestCase):
    """Waiting for the last client, on a reactor without a network."""

    def drain(self, count: int) -> None:
        logging = Logging(current_client_interval=0)
        self.serve(structs.replace(LOOPBACK, drain_max=DAY_SECONDS, logging=logging))
        self.connections = [self.connected() for _ in range(count)]
        self.captured = Capture(self)
        self.relay.drain()

    def closed(self) -> int:
        return sum(connection.closed for connection in self.connections)

    def lose_all(self) -> None:
        for connection in self.connections:
            self.relay.factory.connection_lost(cast(Any, connection))

    def test_drain_ends_with_last_client(self) -> None:
        self.drain(2)
        self.memory.advance(DAY_SECONDS - 1)
        self.assertEqual((self.memory.hasStopped, self.closed()), (False, 0))
        self.lose_all()
        self.memory.advance(1)
        self.assertEqual((self.memory.hasStopped, self.closed()), (True, 0))
        self.assertEqual(
            self.captured.lines(LogLevel.info),
            [
                "draining: clients that are connected are served until they leave, for "
                "at most 86400 s; connections: 2",
                "drained: no connection is left",
            ],
        )

    def test_drain_at_deadline_closes_rest_little_by_little(self) -> None:
        self.drain(3 * CLOSING_SECONDS - 1)
        self.memory.advance(DAY_SECONDS)
        self.assertEqual(self.closed(), 3)
        self.memory.pump([1] * (CLOSING_SECONDS - 2))
        self.assertEqual(self.closed(), 3 * CLOSING_SECONDS - 3)
        self.memory.advance(1)
        self.assertEqual(self.closed(), 3 * CLOSING_SECONDS - 1)
        self.assertFalse(self.memory.hasStopped)
        self.lose_all()
        self.assertTrue(self.memory.hasStopped)

    def test_drain_stopped_does_nothing_more(self) -> None:
        for passed in (0, DAY_SECONDS):
            self.drain(2)
            self.memory.advance(passed)
            self.relay.stopService()
            self.lose_all()
            self.assertEqual(self.memory.getDelayedCalls(), [])
            self.assertFalse(self.memory.hasStopped)

    def test_drain_failing_to_close_is_logged(self) -> None:
        self.drain(1)
        self.patch(Connection, "close_going_away", lambda _: [].pop())
        self.memory.advance(DAY_SECONDS)
        self.assertEqual(len(self.flushLoggedErrors(IndexError)), 1)
        self.assertIn("closing connections failed", self.captured.lines())


class Stopped:
    """The reactor of the tests, which goes on when it is stopped."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.stops = 0

    def stop(self) -> None:
        self.stops += 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)


class DrainingTestCase(RelayTestCase):
    """A relay that can end without the tests."""

    def setUp(self) -> None:
        super().setUp()
        self.reactor = self.service._reactor = Stopped(self.service._reactor)

    def drain(self) -> None:
        self.in_reactor(self.service.drain)

    def until_accepted(self, count: int) -> None:
        self.until(lambda: len(self.service.factory.connections) == count)

    def assert_closed(self, client: Client, code: int, reason: str) -> None:
        with self.assertRaises(ConnectionClosed) as caught:
            client.recv()
        received = caught.exception.rcvd
        assert received is not None
        self.assertEqual((received.code, received.reason), (code, reason))

    def assert_upgraded_and_sent_on(self, plain: socket.socket) -> None:
        """A client that has sent nothing but its request is asked to come back."""
        received = b""
        while len(received.partition(b"\r\n\r\n")[2]) < len(CLOSE_1013):
            piece = plain.recv(65536)
            self.assertNotEqual(piece, b"", received)
            received += piece
        self.assertTrue(received.startswith(b"HTTP/1.1 101 "), received)
        self.assertIn(b"\r\n\r\n" + CLOSE_1013, received)


class DrainingTests(DrainingTestCase):
    """Clients that are served, and clients that are refused."""

    @scenario
    def test_draining_registered_clients_are_served(self) -> None:
        one, other = self.registered(A), self.registered(B)
        self.drain()
        one.send(offer().decode())
        self.assertEqual(other.recv(), offer().decode())
        other.send(answer().decode())
        self.assertEqual(one.recv(), answer().decode())
        one.send(registration(C).decode())
        self.assertIn('"success": true', one.recv())
        self.assertEqual(self.reactor.stops, 0)

    @scenario
    def test_draining_unregistered_clients_are_sent_on(self) -> None:
        self.registered(A)
        client, plain = self.connect(), self.raw()
        self.until_accepted(3)
        self.drain()
        self.assert_closed(client, 1013, REASON)
        plain.sendall(upgrade())
        self.assert_upgraded_and_sent_on(plain)

    @scenario
    def test_draining_peers_elsewhere_are_unknown_at_once(self) -> None:
        client = self.registered(A)
        self.drain()
        client.send(offer(A, B).decode())
        error = json.loads(client.recv())["error"]
        self.assertIn(f"The requested peer {B} is not connected to this relay", error)

    @scenario
    def test_draining_twice_ends_once_with_last_client(self) -> None:
        one, other = self.registered(A), self.registered(B)
        self.drain()
        self.drain()
        one.close()
        self.until_accepted(1)
        self.assertEqual(self.reactor.stops, 0)
        other.hang_up()
        self.until(lambda: self.reactor.stops)
        self.assertEqual(self.reactor.stops, 1)

    @scenario
    def test_draining_at_deadline_closes_with_1001(self) -> None:
        client = self.registered(A)
        self.drain()
        self.advance(self.config.drain_max)
        with self.assertRaises(ConnectionClosed) as caught:
            client.recv()
        assert caught.exception.rcvd is not None
        self.assertEqual(caught.exception.rcvd.code, 1001)
        self.until(lambda: self.reactor.stops)

    @scenario
    def test_draining_does_not_begin_during_stop(self) -> None:
        factory = self.service.factory
        factory.state = RelayState.STOPPING
        self.drain()
        self.assertIs(factory.state, RelayState.STOPPING)
        factory.state = RelayState.SERVING


class SuccessorTests(DrainingTestCase):
    """Whether somebody else is there for new clients."""

    config = structs.replace(RelayTestCase.config, reuse_port=True)

    @scenario
    def test_draining_without_successor_warns(self) -> None:
        self.registered(A)
        captured = Capture(self)
        self.drain()
        (warning,) = [line for line in captured.lines() if "nobody else" in line]
        self.assertIn("new clients are refused until another relay starts", warning)

    @scenario
    def test_draining_with_successor_does_not_warn(self) -> None:
        self.registered(A)
        for other in listening.bind("127.0.0.1", self.port, reuse=True):
            self.addCleanup(other.close)
        captured = Capture(self)
        self.drain()
        self.assertNotIn("nobody else", "".join(captured.lines()))


class PendingTests(DrainingTestCase):
    """A client during authentication."""

    def authenticator(self) -> Authenticator:
        self.pending = PendingAuthenticator()
        return self.pending

    @scenario
    def test_draining_during_authentication_sends_on(self) -> None:
        plain = self.raw()
        plain.sendall(upgrade())
        self.until(lambda: self.pending.pending)
        self.drain()
        self.assert_upgraded_and_sent_on(plain)
        self.assertEqual(self.pending.cancelled, 1)


class ProxyTests(DrainingTestCase):
    """Connections of a proxy before their PROXY header."""

    config = Config(
        host="127.0.0.1",
        port=0,
        limits=Limits(trusted_proxies=("127.0.0.1/32",), proxy_protocol=True),
    )

    @scenario
    def test_draining_before_proxy_header_waits(self) -> None:
        plain, other = self.raw(), self.raw()
        self.until(lambda: len(self.service.factory.behind_proxies.waiting) == 2)
        self.drain()
        self.assertEqual(self.reactor.stops, 0)
        plain.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + upgrade())
        self.assert_upgraded_and_sent_on(plain)
        plain.close()
        self.until_accepted(0)
        self.assertEqual(self.reactor.stops, 0)
        other.close()
        self.until(lambda: self.reactor.stops)
