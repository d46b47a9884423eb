"""Clients that send more frames than any client needs. No other client waits."""

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
    RecordingObserver,
    RecordingWaiting,
    offer,
    registration,
)
from tests.support.served import upgrade

FIRST = FRAMES_PER_TURN * (1 + DEFERRED_CLIENTS_PER_TURN)
"""Frames of a lone client that are processed in the first turn."""


class FloodTests(SynchronousTestCase):
    """A relay in memory. The test counts its turns."""

    def setUp(self) -> None:
        self.clock = Clock()
        journal: Any = RecordingObserver()
        offers = Offers(crossing=0)
        self.factory = RelayFactory(
            Relay(journal, self.clock.seconds, RecordingWaiting(), offers),
            AnonymousAuthenticator(),
            journal,
            self.clock,
            Config(limits=Limits(messages_per_client=100), offers=offers),
            kind=RelayProtocol,
        )

    def turn(self) -> None:
        """Run due calls, without those that they add, as one turn of the reactor."""
        for call in [call for call in self.clock.calls if call.getTime() <= 0]:
            self.clock.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)

    def opened(self) -> RelayProtocol:
        protocol: RelayProtocol = self.factory.buildProtocol(
            StringTransport().getPeer()
        )
        protocol.makeConnection(StringTransport())
        protocol.dataReceived(upgrade())
        protocol.transport.clear()
        self.clock.advance(0)
        return protocol

    def registered(self, uuid: str = A) -> RelayProtocol:
        protocol = self.opened()
        protocol.dataReceived(frame(TEXT, registration(uuid)))
        protocol.transport.clear()
        return protocol

    def pongs(self, protocol: RelayProtocol) -> int:
        count: int = protocol.transport.value().count(b"\x8a\x01")
        return count

    # -- many frames in one read

    def test_frames_are_processed_in_turns_and_in_order(self) -> None:
        client = self.registered()
        payloads = [bytes([n % 100]) for n in range(3 * FIRST)]
        client.dataReceived(b"".join(frame(PING, payload) for payload in payloads))
        self.assertEqual(self.pongs(client), FIRST)
        self.assertEqual(client.transport.producerState, "paused")
        seen = [FIRST]
        while seen[-1] < len(payloads):
            self.turn()
            seen.append(self.pongs(client))
            self.assertLessEqual(seen[-1] - seen[-2], FIRST)
            self.assertLess(len(seen), 10)
        pongs = b"".join(b"\x8a\x01" + payload for payload in payloads)
        self.assertEqual(client.transport.value(), pongs)
        self.assertEqual(client.transport.producerState, "producing")

    def test_message_behind_many_frames_is_forwarded(self) -> None:
        client, other = self.registered(), self.registered(B)
        text = offer(A, B)
        client.dataReceived(frame(PING, b"x") * (FIRST + 1) + frame(TEXT, text))
        self.assertEqual(other.transport.value(), b"")
        self.turn()
        self.assertIn(text, other.transport.value())

    def test_frames_of_many_clients_are_spread_over_turns(self) -> None:
        count = DEFERRED_CLIENTS_PER_TURN + 2
        clients = [self.registered(f"{n:08}-{A[9:]}") for n in range(count)]
        for client in clients:
            client.dataReceived(frame(PING, b"x") * (FRAMES_PER_TURN + 1))
        answered = [self.pongs(client) for client in clients]
        self.assertEqual(answered.count(FRAMES_PER_TURN + 1), DEFERRED_CLIENTS_PER_TURN)
        self.turn()
        self.assertEqual({self.pongs(c) for c in clients}, {FRAMES_PER_TURN + 1})

    def test_frames_after_the_end_are_dropped(self) -> None:
        client = self.registered()
        client.dataReceived(frame(PING, b"x") * (FIRST * 2))
        client.abort()
        self.turn()
        self.assertEqual(client.state, RelayProtocol.STATE_CLOSED)
        self.assertEqual(self.pongs(client), FIRST)

    def test_frames_over_the_rate_are_processed_later(self) -> None:
        client = self.registered()
        burst = int(Config().limits.burst) * 100
        client.dataReceived(frame(PING, b"x") * (burst + 1000))
        for _ in range(burst):
            self.turn()
        self.assertLess(self.pongs(client), burst + 2 * FRAMES_PER_TURN)
        self.assertEqual(client.transport.producerState, "paused")
        self.clock.pump([0.1] * 600)
        self.assertEqual(self.pongs(client), burst + 1000)
        self.assertEqual(client.transport.producerState, "producing")

    # -- before the registration, and after a close frame

    def test_control_frames_before_registration_are_bounded(self) -> None:
        for kind in (PING, PONG):
            client = self.opened()
            client.dataReceived(frame(kind, b"x") * MAX_CONTROL_BEFORE_REGISTRATION)
            self.assertEqual(client.state, RelayProtocol.STATE_OPEN)
            client.dataReceived(frame(kind, b"x"))
            self.assertEqual(client.state, RelayProtocol.STATE_CLOSING)
            self.assertIn((1008).to_bytes(2, "big"), client.transport.value())

    def test_control_frames_after_registration_are_answered(self) -> None:
        client = self.registered()
        for _ in range(2 * MAX_CONTROL_BEFORE_REGISTRATION):
            client.dataReceived(frame(PING, b"x"))
        self.assertEqual(self.pongs(client), 2 * MAX_CONTROL_BEFORE_REGISTRATION)

    def test_frames_after_close_frame_are_bounded(self) -> None:
        client, other = self.registered(A), self.registered(B)
        for each in (client, other):
            each.close(4004, "go away")
        sent = frame(TEXT, offer(A, B)) * (MAX_FRAMES_AFTER_CLOSE - 1)
        client.dataReceived(sent)
        self.assertEqual(client.state, RelayProtocol.STATE_CLOSING)
        client.dataReceived(frame(CLOSE, b""))
        self.assertTrue(client.wasClean)
        for _ in range(MAX_FRAMES_AFTER_CLOSE):
            other.dataReceived(frame(PONG, b""))
        self.assertEqual(other.state, RelayProtocol.STATE_CLOSING)
        other.dataReceived(frame(PONG, b""))
        self.assertEqual(other.state, RelayProtocol.STATE_CLOSED)
        self.assertEqual(other.wasNotCleanReason, "sends on after it was closed")

    def test_ping_timeout_while_relay_is_late_is_extended(self) -> None:
        client: Any = self.registered()
        timeouts = Config().timeouts
        late = timeouts.ping_interval * 1.02 + timeouts.ping_timeout * 1.02
        self.factory.outbox.backlogged = True
        self.clock.pump([1.0] * int(late + timeouts.ping_timeout))
        peer: Peer = client
        self.assertIsNotNone(peer.registration)
        self.factory.outbox.backlogged = False
        self.clock.pump([1.0] * int(timeouts.ping_timeout + 2))
        self.assertIsNone(peer.registration)
