"""Clients that wait for the cluster's word on their UUID, over real sockets."""

from __future__ import annotations

import socket
import struct
from typing import Any

from twisted.internet.defer import Deferred

from proxyrelay.cluster.claims import Claims
from proxyrelay.cluster.codec import Confirmation
from proxyrelay.cluster.node import Node
from proxyrelay.cluster.seal import Seal
from proxyrelay.errors import Forbidden
from proxyrelay.switchboard.delivery import SELF
from proxyrelay.switchboard.messages import ACCEPTED
from proxyrelay.switchboard.relay import Relay
from tests.cluster.fake import FakeBus, FakeEngine
from tests.support.frames import CLOSE, TEXT, frame
from tests.support.recording import A, B, offer, registration
from tests.support.served import Client, RelayTestCase, scenario, upgrade

NODE, OTHER = "n1:x", "n2:x"


class ClaimTests(RelayTestCase):
    """A relay in a cluster whose engine replies when the test says so."""

    def setUp(self) -> None:
        super().setUp()
        self.engine = FakeEngine()
        self.engine.leases = {NODE, OTHER}
        self.bus = self.engine.buses[NODE] = FakeBus(self.engine, NODE)
        relay: Relay = self.service.factory.relay
        self.claims = Claims(
            NODE, self.bus, relay, "", lambda _: 0.0, self.clock.seconds
        )
        node = Node(
            *(NODE, self.bus, relay, self.claims, Seal(), ""), self.clock.seconds
        )
        self.bus.receive = node.received
        relay.undelivered.directory = node

    def settle(self) -> None:
        def steps() -> None:
            while self.bus.step():
                pass

        self.in_reactor(steps)

    def member(self, uuid: str) -> Client:
        """A client that is registered in the cluster."""
        client = self.connect()
        client.send(registration(uuid).decode())
        self.until(lambda: self.bus.calls)
        self.settle()
        self.assertIn('"success": true', client.recv())
        return client

    def claiming(self, *behind: bytes) -> socket.socket:
        """A client that waits, and has sent frames in one write with its request."""
        client = self.raw()
        client.sendall(upgrade())
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(65536)
        count = len(self.bus.calls)
        client.sendall(b"".join((frame(TEXT, registration(A)), *behind)))
        self.until(lambda: len(self.bus.calls) > count)
        return client

    def assert_refused(self, client: socket.socket, code: int) -> None:
        """A close frame comes and nothing before it; then the relay closes."""
        received = client.recv(65536)
        self.assertEqual(received[0], 0x80 | CLOSE)
        self.assertEqual(struct.unpack("!H", received[2:4]), (code,))
        client.sendall(frame(CLOSE, received[2:4]))
        self.assertEqual(self.read_to_end(client), b"")
        client.close()

    def assert_answered(self, client: socket.socket, count: int) -> None:
        """The registration is accepted, and offers to itself come back after that."""
        received, error = b"", SELF.format(A).encode()
        while received.count(error) < count:
            received += client.recv(65536)
        self.assertTrue(received[2:].startswith(ACCEPTED), received)
        self.assertEqual(received.count(error), count)

    def assert_nothing_left(self) -> None:
        """No connection, no record, nothing to be done, once all is said."""
        self.until(lambda: not self.service.factory.connections)
        self.settle()
        record: dict[str, Any] = self.engine.records.get(A, {"node": ""})
        self.assertNotEqual(record["node"], NODE)
        kept = (
            *(self.claims._pending, self.claims._claiming, self.claims.unsynced),
            *(self.claims._farewells, self.service.factory.relay.broker.table),
        )
        self.assertEqual([len(each) for each in kept], [0, 0, 0, 0, 0])

    @scenario
    def test_messages_behind_a_registration_keep_their_order(self) -> None:
        peer = self.member(B)
        client = self.claiming(
            frame(TEXT, offer(A, B)), *2 * [frame(TEXT, offer(A, A))]
        )
        self.assertEqual(len(self.service.factory.relay.broker.table), 0)
        self.settle()
        self.assertEqual(peer.recv(), offer(A, B).decode())
        self.assert_answered(client, 2)

    @scenario
    def test_more_messages_than_a_turn_takes_keep_their_order(self) -> None:
        peers = [self.member(f"{number:08x}{B[8:]}") for number in range(3)]
        texts = [offer(A, f"{number:08x}{B[8:]}") for number in range(3)]
        errors = 40 * [frame(TEXT, offer(A, A))]
        client = self.claiming(*errors, *(frame(TEXT, text) for text in texts))
        self.settle()
        for peer, text in zip(peers, texts, strict=True):
            self.assertEqual(peer.recv(), text.decode())
        self.assert_answered(client, len(errors))

    @scenario
    def test_client_that_is_cut_off_while_it_claims_leaves_nothing(self) -> None:
        client = self.claiming(frame(TEXT, offer(A, B)))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        self.settle()
        self.assert_nothing_left()

    @scenario
    def test_client_that_is_dropped_while_it_claims_leaves_nothing(self) -> None:
        client = self.claiming(frame(TEXT, offer(A, B)))
        self.in_reactor(self.connections()[0].abort)
        self.read_to_end(client)
        client.close()
        self.assert_nothing_left()

    @scenario
    def test_client_that_closes_behind_its_registration_leaves_nothing(self) -> None:
        client = self.claiming(frame(CLOSE, struct.pack("!H", 1000)))
        self.settle()
        received = self.read_to_end(client)
        client.close()
        self.assertTrue(received[2:].startswith(ACCEPTED), received)
        self.assert_nothing_left()

    @scenario
    def test_client_that_the_engine_refuses_is_closed_and_leaves_nothing(self) -> None:
        self.engine.register(A, OTHER, 1, "another", 0, "new", 0, 0)
        client = self.claiming(frame(TEXT, offer(A, B)))
        self.settle()
        self.in_reactor(self.claims.told, Confirmation(1, OTHER, A, 1, True))
        self.assert_refused(client, Forbidden.code)
        self.assert_nothing_left()

    @scenario
    def test_client_of_a_relay_that_drains_meanwhile_comes_back(self) -> None:
        """What it has sent behind its registration does not count any more."""
        client = self.claiming(frame(TEXT, offer(A, B)))
        self.in_reactor(self.service.factory.drain)
        self.assert_refused(client, 1013)
        self.assert_nothing_left()

    @scenario
    def test_client_of_a_relay_that_stops_meanwhile_is_closed_with_1001(self) -> None:
        client = self.claiming(frame(TEXT, offer(A, B)))
        stopped: list[Deferred[None]] = []
        self.in_reactor(lambda: stopped.append(self.service.factory.stop(10.0)))
        self.assert_refused(client, 1001)
        self.assert_nothing_left()

    @scenario
    def test_newer_connection_of_a_client_ends_one_that_still_claims(self) -> None:
        older = self.claiming(frame(TEXT, offer(A, A)))
        newer = self.claiming(frame(TEXT, offer(A, A)))
        self.assert_refused(older, 4004)
        self.settle()
        self.assert_answered(newer, 1)


class SecureClaimTests(ClaimTests):
    """The same over TLS."""

    secure = True
