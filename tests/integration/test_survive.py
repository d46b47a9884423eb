"""A relay is killed, or restarted, and its clients do not notice."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any
from unittest import SkipTest
from uuid import UUID, uuid4

from proxystore.connectors.endpoint import EndpointConnector, EndpointKey
from proxystore.store import Store
from websockets.exceptions import ConnectionClosed

from tests.integration.test_real_clients import EndpointTestCase, need_addresses
from tests.integration.test_twistd import TwistdTestCase
from tests.support.cluster import PREFIX, ClusterTestCase
from tests.support.kept import KeptRelay
from tests.support.processes import SERVES, ProcessTestCase
from tests.support.recording import A, B, C, answer, offer
from tests.support.served import Client

SURVIVES = "[survive]\nenabled = true\n"

PAIRS = 5

EXCHANGES = 8
"""Under way while the relay is restarted; in the middle of them."""


class KeptTestCase(ProcessTestCase):
    """Serves under ``proxyrelay keep``."""

    def setUp(self) -> None:
        super().setUp()
        if sys.platform != "linux":
            raise SkipTest("descriptors are kept on Linux only")

    def keep(self, text: str = SURVIVES) -> KeptRelay:
        """Serve on the loopback interface."""
        config = self.write_config(text)
        options = ("--host", "127.0.0.1", "--port", str(self.reserve()))
        relay = KeptRelay([*options, "--config", config], self.folder)
        self.addCleanup(relay.end)
        return relay


class ExchangeTestCase(KeptTestCase, TwistdTestCase):
    """Exchanges offers and answers."""

    def pair(self, relay: KeptRelay) -> tuple[Client, Client, str, str]:
        """Two clients, and their UUIDs."""
        one, other = str(uuid4()), str(uuid4())
        first, second = (self.registered(relay.url, uuid=uuid) for uuid in (one, other))
        relay.wait_for(f" registered {other} ")  # a crash may take the line with it
        return first, second, one, other

    def exchange(
        self, first: Client, second: Client, one: str, other: str, name: str = "x"
    ) -> None:
        """An offer goes one way, and an answer the other."""
        for source, target, text in (
            (first, second, offer(one, other, name)),
            (second, first, answer(other, one)),
        ):
            source.send(text.decode())
            self.assertEqual(target.recv(), text.decode())


class ClientTests(ExchangeTestCase):
    """Clients that the relay is killed and restarted under."""

    def test_clients_of_a_killed_relay_exchange_offers(self) -> None:
        relay = self.keep()
        empty = relay.descriptors()
        pairs = [self.pair(relay) for _ in range(PAIRS)]
        for number in range(2):
            relay.send_relay(signal.SIGKILL)
            relay.wait_for_next(SERVES)
            for first, second, one, other in pairs:
                self.exchange(first, second, one, other, str(number))
                self.exchange(second, first, other, one, str(number))
                first.ping()
        self.assertEqual(relay.said.count(" registered "), 2 * PAIRS)
        for first, second, one, other in pairs:
            first.close()
            second.close()
            for uuid in (one, other):
                relay.wait_for(f" left {uuid} ")
        self.assertEqual(relay.stop(), 0, relay.said)
        self.assertGreater(empty, 0)

    def test_exchanges_are_complete_while_the_relay_is_restarted(self) -> None:
        relay = self.keep()
        first, second, one, other = self.pair(relay)
        for number in range(EXCHANGES):
            if number % 4 == 0:
                first.send((text := offer(one, other, f"last {number}")).decode())
                relay.send_relay(signal.SIGTERM)
                self.assertEqual(second.recv(), text.decode())
                second.send((back := answer(other, one)).decode())
                self.assertEqual(first.recv(), back.decode())
                relay.wait_for_next(SERVES)
            self.exchange(first, second, one, other, str(number))
        self.assertEqual(relay.said.count(" registered "), 2)
        self.assertEqual(relay.stop(), 0, relay.said)

    def come(self, relay: KeptRelay) -> None:
        """Register another client; one that is just too early comes again."""
        for _ in range(2):
            try:
                self.registered(relay.url, uuid=str(uuid4()))
            except ConnectionClosed as closed:
                code = closed.rcvd and closed.rcvd.code
                self.assertEqual(code, 1013)
            else:
                return
        self.fail("nobody lets it in")

    def test_client_that_comes_meanwhile_is_served(self) -> None:
        relay = self.keep()
        first, second, one, other = self.pair(relay)
        for number in (signal.SIGKILL, signal.SIGTERM):
            relay.send_relay(number)
            self.come(relay)
            self.exchange(first, second, one, other, number.name)

    def test_relay_that_is_stopped_says_goodbye(self) -> None:
        relay = self.keep()
        client = self.registered(relay.url)
        self.assertEqual(relay.stop(), 0, relay.said)
        with self.assertRaises(ConnectionClosed) as caught:
            client.recv()
        assert caught.exception.rcvd is not None
        self.assertEqual(caught.exception.rcvd.code, 1001)


class EndpointTests(KeptTestCase, EndpointTestCase):
    def store(self, uuid: UUID, home: Path) -> Store[EndpointConnector]:
        connector = EndpointConnector([uuid], proxystore_dir=str(home))
        self.addCleanup(connector.close)
        return Store(f"{home.name} {uuid4()}", connector)

    def test_endpoints_put_and_get_on_both_sides_of_a_crash(self) -> None:
        need_addresses()
        relay = self.keep()
        ends: list[Any] = [self.endpoint(name, relay) for name in ("one", "two")]
        stores = [self.store(uuid, home) for uuid, home, _ in ends]
        before = b"before" * 1000
        key = stores[0].put(before)

        relay.send_relay(signal.SIGKILL)
        relay.wait_for_next(SERVES)
        # They have not met yet, and find each other through the relay.
        assert isinstance(key, EndpointKey)
        self.assertEqual(stores[1].get(key), before)
        after = b"after" * 1000
        self.assertEqual(stores[0].get(stores[1].put(after)), after)

        self.assertEqual(relay.said.count(" registered "), 2)
        for _, _, process in ends:
            self.assertFalse(process.has_ended)


class NodeTests(ClusterTestCase, ExchangeTestCase):
    """A node of a cluster comes back with its clients."""

    def test_node_that_comes_back_keeps_its_clients(self) -> None:
        text = f"{SURVIVES}[cluster]\nengine = 'unix:{self.engine.socket}'\nlease = 6\n"
        other = self.node("two")
        far = self.registered(other.url, uuid=C)
        relay = self.keep(f"{text}node = 'one'\n")
        ready = "the link to the engine is ready"
        relay.wait_for(ready)
        near = [self.registered(relay.url, uuid=uuid) for uuid in (A, B)]
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            before = self.incarnation(A)
            relay.send_relay(number)
            relay.wait_for_next(ready)
            self.exchange(near[0], far, A, C, number.name)
            self.exchange(far, near[1], C, B, number.name)
            self.assertNotEqual(self.incarnation(A), before)
            self.assertEqual({self.holder(A), self.holder(B)}, {"one"})
        self.assertEqual(len(self.leases()), 2)
        # A crash may take lines with it.
        self.assertLessEqual(relay.said.count(" registered "), 2)
        self.assertEqual((relay.stop(), other.stop()), (0, 0))

    def incarnation(self, uuid: str) -> bytes:
        found: Any = self.engine.client.hget(f"{PREFIX}:u:{uuid}", "n")
        assert isinstance(found, bytes)
        return found
