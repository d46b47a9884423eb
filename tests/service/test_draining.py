"""Connections of a relay that another one replaces."""

from __future__ import annotations

import json
import socket
from typing import Any

from msgspec import structs
from websockets.exceptions import ConnectionClosed

from proxyrelay.auth import Authenticator
from proxyrelay.config import Config, Limits
from proxyrelay.net import listening
from proxyrelay.websocket.state import RelayState
from tests.support.capture import Capture
from tests.support.recording import A, B, C, answer, offer, registration
from tests.support.served import (
    Client,
    PendingAuthenticator,
    RelayTestCase,
    scenario,
    upgrade,
)

REASON = "Another relay takes over here."

CLOSE_1013 = bytes([0x88, 2 + len(REASON), *(1013).to_bytes(2, "big")])
"""First bytes of the frame that closes a client with 1013 and this reason."""


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

    def assert_sent_on(self, client: Client) -> None:
        """The client is asked to come back."""
        with self.assertRaises(ConnectionClosed) as caught:
            client.recv()
        received = caught.exception.rcvd
        assert received is not None
        self.assertEqual(received.code, 1013)
        self.assertEqual(received.reason, REASON)

    def assert_upgraded_and_sent_on(self, plain: socket.socket) -> None:
        """The same of a client that has sent nothing but its request."""
        received = b""
        while len(received.partition(b"\r\n\r\n")[2]) < len(CLOSE_1013):
            piece = plain.recv(65536)
            self.assertNotEqual(piece, b"", received)
            received += piece
        self.assertTrue(received.startswith(b"HTTP/1.1 101 "), received)
        self.assertIn(b"\r\n\r\n" + CLOSE_1013, received)


class ConnectionsTests(DrainingTestCase):
    """Clients that are served, and clients that are refused."""

    @scenario
    def test_serves_who_is_registered(self) -> None:
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
    def test_sends_on_who_has_not_registered(self) -> None:
        self.registered(A)
        client = self.connect()
        self.until(lambda: len(self.service.factory.connections) == 2)
        self.drain()
        self.assert_sent_on(client)

    @scenario
    def test_sends_on_who_has_just_been_accepted(self) -> None:
        self.registered(A)
        plain = self.raw()
        self.until(lambda: len(self.service.factory.connections) == 2)
        self.drain()
        plain.sendall(upgrade())
        self.assert_upgraded_and_sent_on(plain)

    @scenario
    def test_does_not_know_who_is_elsewhere(self) -> None:
        client = self.registered(A)
        self.in_reactor(self.without_hold)
        self.drain()
        client.send(offer(A, B).decode())
        error = json.loads(client.recv())["error"]
        self.assertIn(f"The requested peer {B} is not connected to this relay", error)

    def without_hold(self) -> None:
        terms: Any = self.service.factory.relay.broker.offers
        self.service.factory.relay.broker.offers = type(terms)(hold=0)

    @scenario
    def test_ends_with_the_last(self) -> None:
        one, other = self.registered(A), self.registered(B)
        self.drain()
        self.drain()
        one.close()
        self.until(lambda: len(self.service.factory.connections) == 1)
        self.assertEqual(self.reactor.stops, 0)
        other.hang_up()
        self.until(lambda: self.reactor.stops)
        self.assertEqual(self.reactor.stops, 1)

    @scenario
    def test_closes_who_stays_with_1001(self) -> None:
        client = self.registered(A)
        self.drain()
        self.advance(self.config.drain_max)
        with self.assertRaises(ConnectionClosed) as caught:
            client.recv()
        assert caught.exception.rcvd is not None
        self.assertEqual(caught.exception.rcvd.code, 1001)
        self.until(lambda: self.reactor.stops)

    @scenario
    def test_does_not_begin_when_it_stops(self) -> None:
        factory = self.service.factory
        factory.state = RelayState.STOPPING
        self.drain()
        self.assertIs(factory.state, RelayState.STOPPING)
        factory.state = RelayState.SERVING


class SuccessorTests(DrainingTestCase):
    """Whether somebody else is there for new clients."""

    config = structs.replace(RelayTestCase.config, reuse_port=True)

    def warnings(self) -> list[str]:
        """Return the warnings of a drain."""
        captured = Capture(self)
        self.drain()
        return [line for line in captured.lines() if "nobody else" in line]

    @scenario
    def test_warns_if_nobody_is(self) -> None:
        self.registered(A)
        (warning,) = self.warnings()
        self.assertIn("new clients are refused until another relay starts", warning)

    @scenario
    def test_says_nothing_if_somebody_is(self) -> None:
        self.registered(A)
        for other in listening.bind("127.0.0.1", self.service.ports.number, reuse=True):
            self.addCleanup(other.close)
        self.assertEqual(self.warnings(), [])


class PendingTests(DrainingTestCase):
    """A client during authentication."""

    def authenticator(self) -> Authenticator:
        self.pending = PendingAuthenticator()
        return self.pending

    @scenario
    def test_is_sent_on_without_an_answer(self) -> None:
        plain = self.raw()
        plain.sendall(upgrade())
        self.until(lambda: self.pending.pending)
        self.drain()
        self.assert_upgraded_and_sent_on(plain)
        self.assertEqual(self.pending.cancelled, 1)


class ProxyTests(DrainingTestCase):
    """A connection of a proxy before its PROXY header."""

    config = Config(
        host="127.0.0.1",
        port=0,
        limits=Limits(trusted_proxies=("127.0.0.1/32",), proxy_protocol=True),
    )

    @scenario
    def test_is_waited_for(self) -> None:
        plain, other = self.raw(), self.raw()
        self.until(lambda: len(self.service.factory.behind_proxies.waiting) == 2)
        self.drain()
        self.assertEqual(self.reactor.stops, 0)
        plain.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + upgrade())
        self.assert_upgraded_and_sent_on(plain)
        plain.close()
        self.until(lambda: not self.service.factory.connections)
        self.assertEqual(self.reactor.stops, 0)
        other.close()
        self.until(lambda: self.reactor.stops)
