"""Clients that send more frames than anybody needs: nobody else waits for them."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth.anonymous import AnonymousAuthenticator
from proxyrelay.config import Config, Limits, Offers
from proxyrelay.switchboard.peer import Peer
from proxyrelay.switchboard.relay import Relay
from proxyrelay.websocket.factory import RelayFactory
from proxyrelay.websocket.fastpath import FRAMES_PER_TURN
from proxyrelay.websocket.flow import (
    DEFERRED_CLIENTS_PER_TURN,
    MAX_CONTROL_BEFORE_REGISTRATION,
    MAX_FRAMES_AFTER_CLOSE,
)
from proxyrelay.websocket.protocol import RelayProtocol
from tests.support.frames import CLOSE, PING, PONG, TEXT, frame
from tests.support.recording import (
    A,
    B,
    RecordingJournal,
    RecordingWaiting,
    offer,
    registration,
)
from tests.support.served import upgrade

FIRST = FRAMES_PER_TURN * (1 + DEFERRED_CLIENTS_PER_TURN)
"""Frames of a lone client that are acted upon before others have their turn."""


class FloodTestCase(SynchronousTestCase):
    """A relay in memory whose turns the test counts."""

    def setUp(self) -> None:
        self.clock = Clock()
        journal: Any = RecordingJournal()
        terms = Offers(crossing=0)
        self.factory = RelayFactory(
            Relay(journal, self.clock.seconds, RecordingWaiting(), terms),
            AnonymousAuthenticator(),
            journal,
            self.clock,
            Config(limits=Limits(messages_per_client=100), offers=terms),
            kind=RelayProtocol,
        )

    def turn(self) -> None:
        """Run what is put off already, as one turn of the reactor does."""
        due = [call for call in self.clock.calls if call.getTime() <= 0]
        for call in due:
            self.clock.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)

    def opened(self) -> RelayProtocol:
        """A connection after its opening handshake."""
        protocol = self.factory.buildProtocol(StringTransport().getPeer())
        protocol.makeConnection(StringTransport())
        protocol.dataReceived(upgrade())
        protocol.transport.clear()
        self.clock.advance(0)
        return protocol

    def registered(self, uuid: str) -> RelayProtocol:
        """One that has registered."""
        protocol = self.opened()
        protocol.dataReceived(frame(TEXT, registration(uuid)))
        protocol.transport.clear()
        return protocol

    def pongs(self, protocol: RelayProtocol) -> int:
        """How many pings have been answered."""
        count: int = protocol.transport.value().count(b"\x8a\x01")
        return count


class ManyFramesTests(FloodTestCase):
    """Thousands of frames in one read."""

    def test_are_acted_upon_in_turns_and_in_order(self) -> None:
        client = self.registered(A)
        pings = [frame(PING, bytes([n % 100])) for n in range(3 * FIRST)]
        client.dataReceived(b"".join(pings))
        self.assertEqual(self.pongs(client), FIRST)
        self.assertEqual(client.transport.producerState, "paused")
        seen = [FIRST]
        while seen[-1] < len(pings):
            self.turn()
            seen.append(self.pongs(client))
            self.assertLessEqual(seen[-1] - seen[-2], FIRST)
            self.assertLess(len(seen), 10)
        self.assertEqual(
            client.transport.value(),
            b"".join(b"\x8a\x01" + bytes([n % 100]) for n in range(len(pings))),
        )
        self.assertEqual(client.transport.producerState, "producing")

    def test_a_message_behind_them_is_passed_on(self) -> None:
        client, other = self.registered(A), self.registered(B)
        text = offer(A, B)
        client.dataReceived(frame(PING, b"x") * (FIRST + 1) + frame(TEXT, text))
        self.assertEqual(other.transport.value(), b"")
        self.turn()
        self.assertIn(text, other.transport.value())

    def test_of_few_clients_in_one_turn(self) -> None:
        count = DEFERRED_CLIENTS_PER_TURN + 2
        clients = [self.registered(f"{n:08}-{A[9:]}") for n in range(count)]
        for client in clients:
            client.dataReceived(frame(PING, b"x") * (FRAMES_PER_TURN + 1))
        answered = [self.pongs(client) for client in clients]
        # The first few have had their second turn already.
        self.assertEqual(answered.count(FRAMES_PER_TURN + 1), DEFERRED_CLIENTS_PER_TURN)
        self.turn()
        self.assertEqual({self.pongs(c) for c in clients}, {FRAMES_PER_TURN + 1})

    def test_the_end_of_the_connection_drops_the_rest(self) -> None:
        client = self.registered(A)
        client.dataReceived(frame(PING, b"x") * (FIRST * 2))
        client.abort()
        self.turn()
        self.assertEqual(client.state, RelayProtocol.STATE_CLOSED)
        self.assertEqual(self.pongs(client), FIRST)

    def test_who_is_slowed_is_heard_on_when_it_may(self) -> None:
        client = self.registered(A)
        burst = int(self.factory.config.limits.burst) * 100
        client.dataReceived(frame(PING, b"x") * (burst + 1000))
        for _ in range(burst):
            self.turn()
        answered = self.pongs(client)
        self.assertLess(answered, burst + 2 * FRAMES_PER_TURN)
        self.assertEqual(client.transport.producerState, "paused")
        self.clock.pump([0.1] * 600)
        self.assertEqual(self.pongs(client), burst + 1000)
        self.assertEqual(client.transport.producerState, "producing")


class UnregisteredTests(FloodTestCase):
    """Somebody who has not registered."""

    def test_may_ping_so_often(self) -> None:
        for kind in (PING, PONG):
            client = self.opened()
            client.dataReceived(frame(kind, b"x") * MAX_CONTROL_BEFORE_REGISTRATION)
            self.assertEqual(client.state, RelayProtocol.STATE_OPEN)
            client.dataReceived(frame(kind, b"x"))
            self.assertEqual(client.state, RelayProtocol.STATE_CLOSING)
            self.assertIn((1008).to_bytes(2, "big"), client.transport.value())

    def test_may_ping_for_ever_once_registered(self) -> None:
        client = self.registered(A)
        for _ in range(2 * MAX_CONTROL_BEFORE_REGISTRATION):
            client.dataReceived(frame(PING, b"x"))
        self.assertEqual(self.pongs(client), 2 * MAX_CONTROL_BEFORE_REGISTRATION)


class ClosedTests(FloodTestCase):
    """Somebody whom the relay has closed."""

    def closed(self) -> RelayProtocol:
        client = self.registered(A)
        client.close(4004, "go away")
        return client

    def test_may_have_had_something_under_way(self) -> None:
        client = self.closed()
        client.dataReceived(frame(TEXT, offer(A, B)) * (MAX_FRAMES_AFTER_CLOSE - 1))
        self.assertEqual(client.state, RelayProtocol.STATE_CLOSING)
        client.dataReceived(frame(CLOSE, b""))
        self.assertTrue(client.wasClean)

    def test_is_dropped_when_it_goes_on(self) -> None:
        client = self.closed()
        for _ in range(MAX_FRAMES_AFTER_CLOSE):
            client.dataReceived(frame(PONG, b""))
        self.assertEqual(client.state, RelayProtocol.STATE_CLOSING)
        client.dataReceived(frame(PONG, b""))
        self.assertEqual(client.state, RelayProtocol.STATE_CLOSED)
        self.assertEqual(client.wasNotCleanReason, "sends on after it was closed")


class UnreadTests(FloodTestCase):
    """The relay is late itself."""

    def test_who_may_have_answered_a_ping_is_given_another_term(self) -> None:
        client: Any = self.registered(A)
        timeouts = self.factory.config.timeouts
        late = timeouts.ping_interval * 1.02 + timeouts.ping_timeout * 1.02
        self.factory.outbox.backlogged = True
        self.clock.pump([1.0] * int(late + timeouts.ping_timeout))
        peer: Peer = client
        self.assertIsNotNone(peer.registration)
        self.factory.outbox.backlogged = False
        self.clock.pump([1.0] * int(timeouts.ping_timeout + 2))
        self.assertIsNone(peer.registration)
