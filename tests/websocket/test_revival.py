"""Connections that go from one relay to another, over real sockets."""

from __future__ import annotations

import json
import os
import socket
from functools import partial
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import SynchronousTestCase
from websockets.exceptions import ConnectionClosed

from proxyrelay.config import Config, Offers
from proxyrelay.errors import PeerBusy
from proxyrelay.net.pacing import TurnBudget
from proxyrelay.net.write_batch import WriteBatch
from proxyrelay.service.relay_service import RelayService
from proxyrelay.switchboard.delivery import UNKNOWN
from proxyrelay.switchboard.events import Left, Registered
from proxyrelay.websocket.continuity import Record, Suspended
from proxyrelay.websocket.flow import header
from proxyrelay.websocket.protocol import RelayProtocol
from proxyrelay.websocket.revival import TORN
from proxyrelay.websocket.state import Phase
from tests.net.test_transport import FULL, Connected
from tests.support.clock import EagerClock
from tests.support.frames import CONTINUATION, PING, TEXT, frame
from tests.support.recording import A, B, C, offer, registration
from tests.support.served import Client, RelayTestCase, reactor, scenario, upgrade

Kept = list[tuple[socket.socket, Record, Suspended]]

PING_BYTES = 6
"""Bytes of the ping that proves a stream."""


class MovingTestCase(RelayTestCase):
    """Two relays, one after the other, and a supervisor that keeps the sockets."""

    config = Config(
        host="127.0.0.1",
        port=0,
        offers=Offers(crossing=0, shield=False),
        max_unread_bytes=1 << 20,
    )

    def setUp(self) -> None:
        self.ended: list[RelayService] = []
        super().setUp()

    def suspend(self) -> Kept:
        """Suspend all clients, and end their relay."""
        kept = []
        peers = [each for each in self.service.factory.connections if each.can_survive]
        for peer in sorted(peers, key=lambda peer: int(peer.arrival)):
            other = socket.socket(fileno=os.dup(peer.transport.fileno()))
            pair = msgspec.msgpack.encode((peer.record(), peer.suspend()))
            record, suspended = msgspec.msgpack.decode(
                pair, type=tuple[Record, Suspended]
            )
            kept.append((other, record, suspended))
        factory = self.service.factory
        self.assertEqual(factory.connections, set())
        self.assertEqual(len(factory.registry), 0)
        self.assertEqual((factory.limits._origins, factory.limits._users), ({}, {}))
        return kept

    def revive(
        self, kept: Kept, crashed: bool = False, is_torn: bool = False
    ) -> list[RelayProtocol]:
        """Let the clients go on in another relay."""
        self.ended.append(self.service)
        self.service = RelayService(
            *(self.config, self.authenticator(), None, reactor, self.clock),
            further=(self.observed,),
        )
        self.service.startService()
        self.url = self.service.urls[0]
        self.port = int(self.url.rpartition(":")[2])
        revived = [
            self.service.ports.revive(
                each, record, None if crashed else suspended, is_torn
            )
            for each, record, suspended in kept
        ]
        for peer in revived:
            peer.proceed()
        return revived

    def _stop(self) -> Deferred[Any]:
        ends = [each.stopService() for each in self.ended]
        return gatherResults([*ends, super()._stop()])

    def assert_answered(self, client: Client) -> None:
        client.send(offer(A, C).decode())
        self.assertEqual(json.loads(client.recv())["error"], UNKNOWN.format(C))

    def move(self, **how: bool) -> list[RelayProtocol]:
        """Go on elsewhere, in one turn of the reactor."""
        moved: list[RelayProtocol] = self.in_reactor(
            lambda: self.revive(self.suspend(), **how)
        )
        return moved

    def until_ready(self, peers: list[RelayProtocol]) -> None:
        self.until(lambda: all(peer.phase is Phase.READY for peer in peers))

    def raw_registered(self, uuid: str = A) -> socket.socket:
        """A client that reads and writes bytes."""
        client = self.raw()
        for sent, end in (
            (upgrade(), b"\r\n\r\n"),
            (frame(TEXT, registration(uuid)), b'"relay_response"}'),
        ):
            client.sendall(sent)
            seen = b""
            while not seen.endswith(end):
                seen += self.exactly(client, 1)
        return client

    def exactly(self, client: socket.socket, count: int) -> bytes:
        seen = b""
        while len(seen) < count:
            piece = client.recv(count - len(seen))
            self.assertNotEqual(piece, b"")
            seen += piece
        return seen


class MovingTests(MovingTestCase):
    """Clients whose relay ends in order."""

    @scenario
    def test_clients_of_two_relays_exchange_each_message_once(self) -> None:
        one, two = self.registered(A), self.registered(B)
        texts = [offer(A, B, sdp=f"v={number}").decode() for number in range(9)]
        for number in range(0, 9, 3):
            for text in texts[number : number + 3]:
                one.send(text)
            self.until_ready(self.move())
        self.assertEqual([two.recv() for _ in texts], texts)
        two.ping()
        self.assert_answered(one)
        self.assertEqual(len(self.happened(Registered)), 2)
        self.assertEqual(self.happened(Left), [])
        two.close(1000, "bye")
        self.assertEqual(two.connection.close_code, 1000)
        self.until(lambda: self.happened(Left))
        self.assertEqual(self.happened(Left)[0].received, 9)

    @scenario
    def test_message_cut_by_the_end_of_a_relay_arrives(self) -> None:
        two, one = self.registered(B), self.raw_registered()
        text = offer(A, B)
        whole = frame(TEXT, text[:50], fin=False) + frame(PING, b"between")
        whole += frame(CONTINUATION, text[50:])
        for byte in whole:
            before = self.peer(A)
            read = self.read_so_far(before)
            one.sendall(bytes((byte,)))
            self.until(partial(self.has_read, before, read))
            if byte % 3 == 0:
                self.move()
        self.assertEqual(two.recv(), text.decode())

    def has_read(self, peer: Any, before: object) -> bool:
        return bool(self.read_so_far(peer) != before)

    def peer(self, uuid: str) -> Any:
        return self.in_reactor(self.service.factory.registry.get, uuid)

    def read_so_far(self, peer: Any) -> Any:
        return peer.unparsed(), peer.registration.sent, peer._frame_count

    @scenario
    def test_idle_client_times_out_in_the_second_relay(self) -> None:
        self.raw_registered()
        moved = self.move()
        self.advance(self.config.timeouts.ping_timeout * 1.1)
        self.until(lambda: self.happened(Left))
        self.assertEqual(self.happened(Left)[0].reason, "no answer to a ping")
        self.until(lambda: not self.service.factory.connections)
        self.assertEqual(self.service.factory.limits._origins, {})
        self.assertEqual(moved[0].state, RelayProtocol.STATE_CLOSED)

    @scenario
    def test_idle_client_is_pinged_in_the_second_relay(self) -> None:
        client = self.registered(A)
        moved = self.move()
        self.until_ready(moved)
        for _ in range(3):
            self.advance(self.config.timeouts.ping_interval * 1.1)
            self.until_ready(moved)
        self.assert_answered(client)

    @scenario
    def test_takeover_in_the_second_relay_closes_the_client(self) -> None:
        old = self.registered(A)
        self.move()
        new = self.registered(A)
        with self.assertRaises(ConnectionClosed) as closed:
            old.recv()
        assert closed.exception.rcvd is not None
        self.assertEqual(closed.exception.rcvd.code, 4004)
        self.assert_answered(new)

    @scenario
    def test_client_that_left_meanwhile_is_lost(self) -> None:
        client = self.registered(A)
        kept = self.in_reactor(self.suspend)
        client.hang_up()
        self.in_reactor(self.revive, kept)
        self.until(lambda: self.happened(Left))
        self.until(lambda: not self.service.factory.connections)

    @scenario
    def test_client_writes_while_there_is_no_relay(self) -> None:
        two, one = self.registered(B), self.registered(A)
        kept = self.in_reactor(self.suspend)
        text = offer(A, B).decode()
        one.send(text)
        self.until_ready(self.in_reactor(self.revive, kept))
        self.assertEqual(two.recv(), text)

    @scenario
    def test_torn_client_is_dropped(self) -> None:
        client = self.raw_registered()
        self.move(crashed=True, is_torn=True)
        self.assertEqual(self.read_to_end(client), b"")
        self.assertEqual([event.reason for event in self.happened(Left)], [TORN])
        self.until(lambda: not self.service.factory.connections)
        self.assertEqual(self.service.factory.limits._origins, {})

    @scenario
    def test_transport_without_a_port_has_a_text(self) -> None:
        self.registered(A)
        transport = self.move()[0].transport
        self.assertIn("connection of an earlier process", repr(transport))
        self.assertIn("ServedProtocol", transport.logPrefix())
        self.assertEqual(transport.getPeer().host, "127.0.0.1")


class UnreadTests(MovingTestCase):
    """Clients that do not read."""

    def fill(self, peer: RelayProtocol, text: bytes) -> int:
        """Send texts until the client counts as busy; returns their number."""
        for count in range(100_000):
            try:
                peer.deliver(text)
            except PeerBusy:
                return count
        raise AssertionError("the client never counts as busy")

    @scenario
    def test_unread_bytes_arrive_through_two_relays(self) -> None:
        client = self.raw_registered()
        text = bytes(range(256)) * 16
        (peer,) = self.connections()
        count = self.in_reactor(self.fill, peer, text)
        moved = self.move()[0]
        self.assertTrue(moved.flow.paused)
        self.assertGreater(moved.flow.unread, 1_000_000)
        self.assertRaises(PeerBusy, self.in_reactor, moved.deliver, text)
        moved = self.move()[0]
        sent = header(0x81, len(text)) + text
        self.assertEqual(self.exactly(client, count * len(sent)), sent * count)
        self.until(lambda: not moved.flow.paused)
        pings = self.exactly(client, 2 * PING_BYTES)
        self.assertEqual(pings[-4:], moved._ping)
        self.in_reactor(moved.deliver, b"after")
        self.assertEqual(self.exactly(client, 7), b"\x81\x05after")

    @scenario
    def test_client_that_never_reads_is_dropped_by_the_second_relay(self) -> None:
        client = self.raw_registered()
        (peer,) = self.connections()
        self.in_reactor(self.fill, peer, bytes(4096))
        moved = self.move()[0]

        def answer() -> None:
            for _ in range(2000):
                if moved.state == RelayProtocol.STATE_OPEN:
                    moved.flow.send(bytes(1000))

        self.in_reactor(answer)
        self.until(lambda: self.happened(Left))
        self.assertEqual(self.happened(Left)[0].reason, "left too much unread")
        client.close()


class UnwrittenTests(SynchronousTestCase):
    """What is told of bytes that a socket did not take."""

    def setUp(self) -> None:
        self.connected = Connected(TurnBudget(EagerClock(), 1))
        self.transport: Any = self.connected.transport
        self.told: list[tuple[object, bool]] = []
        self.connected.outbox.unwritten = lambda *told: self.told.append(told)

    def test_unwritten_is_told_at_its_begin_and_its_end(self) -> None:
        protocol, script = self.connected.protocol, self.connected.socket.script
        self.transport.write(b"whole")
        self.assertEqual((self.told, self.transport.has_unwritten), ([], False))
        script += [2, FULL, 1]
        self.transport.write(b"cut")
        self.transport.write(b"more")
        self.assertTrue(self.transport.has_unwritten)
        self.assertEqual(self.told, [(protocol, True)])
        self.connected.turn()
        self.connected.turn()
        self.assertEqual(self.told, [(protocol, True)])
        self.connected.flush()
        self.assertEqual(self.told, [(protocol, True), (protocol, False)])

    def test_detach_tells_nothing_and_gives_the_rest(self) -> None:
        self.connected.socket.script = [2, 1]
        for piece in (b"first", b"second", b"third"):
            self.transport.write(piece)
        self.connected.turn()
        self.told.clear()
        self.assertEqual(self.transport.detach(), b"stsecondthird")
        self.assertEqual((self.told, self.connected.protocol.told), ([], []))
        self.assertFalse(self.connected.waits)
        self.transport.write(b"too late")
        self.assertEqual(self.connected.socket.sent, b"fir")

    def test_unwritten_is_none_by_default(self) -> None:
        self.assertIsNone(WriteBatch().unwritten)
