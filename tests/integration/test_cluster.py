"""Several relays act as one: real relays, real clients, a real engine."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from uuid import UUID, uuid4

from proxystore.connectors.endpoint import EndpointConnector
from proxystore.endpoint.config import read_config, write_config
from proxystore.p2p.manager import PeerManager
from proxystore.p2p.relay.client import RelayClient
from proxystore.store import Store
from websockets.asyncio.client import ClientConnection, connect

from tests.integration.test_real_clients import EndpointTestCase, need_addresses
from tests.integration.test_twistd import TwistdTestCase
from tests.support.cluster import ClusterTestCase
from tests.support.processes import PATIENCE, PAUSE, RelayProcess
from tests.support.recording import A, B, C, answer, offer, registration
from tests.support.served import Client

PAIRS = 6
"""Pairs of clients that exchange offers and answers during an upgrade."""

ROUNDS = 20
"""Exchanges of each pair, at least, between two steps of an upgrade."""


class HandOverTests(ClusterTestCase, TwistdTestCase):
    """A relay takes over from another one of its cluster."""

    def exchange(self, *ways: tuple[tuple[str, Client], tuple[str, Client]]) -> None:
        for (source, one), (target, other) in ways:
            one.send(offer(source, target).decode())
            self.assertEqual(other.recv(), offer(source, target).decode())
            other.send(answer(target, source).decode())
            self.assertEqual(one.recv(), answer(target, source).decode())

    def drain(self, relay: RelayProcess) -> None:
        relay.send(signal.SIGUSR2)
        relay.wait_for("draining: ")

    def test_draining_relay_and_its_successor_deliver_to_each_other(self) -> None:
        old = self.node("old", "reuse_port = true\n")
        staying = A, self.registered(old.url)
        moving = self.registered(old.url, uuid=B)
        new = self.node("new", "reuse_port = true\n", old.port)
        self.drain(old)
        third = C, self.registered(old.url, uuid=C)
        new.wait_for(f"registered {C} ")
        self.exchange((staying, third), (third, staying))

        # An offer for a client that has just left waits, wherever it comes back.
        moving.close()
        old.wait_for(f"left {B} ")
        staying[1].send(offer(A, B).decode())
        old.wait_for(f"held offer of {A} .* for {B}$")
        moved = self.registered(old.url, uuid=B)
        self.assertEqual(moved.recv(), offer(A, B).decode())
        moved.send(answer(B, A).decode())
        self.assertEqual(staying[1].recv(), answer(B, A).decode())

        # A stranger is unknown, and not said to be at the other relay.
        staying[1].send(offer(A, str(uuid4())).decode())
        self.assertIn("not registered this relay server", staying[1].recv())
        self.assertEqual(self.leases(), {"old", "new"})

        staying[1].close()
        self.assertEqual(old.wait(), 0)
        self.assertEqual((self.leases(), self.holder(A)), ({"new"}, ""))
        self.assertEqual({self.holder(B), self.holder(C)}, {"new"})
        self.assertEqual(old.errors + new.errors, [])
        self.assertNotIn("protocol.Factory", old.said)

    def test_relay_that_is_stopped_leaves_no_record(self) -> None:
        one, two = self.node("one"), self.node("two")
        clients = [self.registered(one.url, uuid=uuid) for uuid in (A, B)]
        other = self.registered(two.url, uuid=C)
        one.send(signal.SIGTERM)
        for client in clients:
            self.assert_closed(client, 1001)
        self.assertEqual(one.wait(), 0)
        self.assertEqual(self.leases(), {"two"})
        self.assertEqual([self.holder(each) for each in (A, B, C)], ["", "", "two"])
        # Whoever calls them is kept waiting until they are back.
        other.send(offer(C, A).decode())
        two.wait_for(f"held offer of {C} .* for {A}$")
        back = self.registered(two.url)
        self.assertEqual(back.recv(), offer(C, A).decode())
        self.assertEqual(one.errors + two.errors, [])


class EngineTests(ClusterTestCase, TwistdTestCase):
    """Clients while the engine is away, and after it."""

    def test_engine_that_comes_back_empty_is_told_of_all_clients(self) -> None:
        nodes = [self.node(name) for name in ("one", "two")]
        first = self.registered(nodes[0].url)
        second = self.registered(nodes[1].url, uuid=B)
        self.engine.kill()
        for node in nodes:
            node.wait_for("the link to the engine is down")

        # New clients are accepted, and reach the others of their node.
        third = self.registered(nodes[0].url, uuid=C)
        third.send(offer(C, A).decode())
        self.assertEqual(first.recv(), offer(C, A).decode())
        self.engine.start()
        deadline = time.monotonic() + PATIENCE
        expected: list[str | None] = ["one", "two", "one"]
        while [self.holder(each) for each in (A, B, C)] != expected:
            self.assertLess(time.monotonic(), deadline)
            PAUSE.wait(0.02)
        for source, one, target, other in (
            (A, first, B, second),
            (B, second, C, third),
        ):
            one.send(offer(source, target).decode())
            self.assertEqual(other.recv(), offer(source, target).decode())
        for node in nodes:
            self.assertEqual((node.stop(), node.errors), (0, []))
            self.assertNotIn(" ERROR ", node.said)


class Pair:
    """Two clients at two nodes, of which one calls the other again and again."""

    def __init__(self) -> None:
        self.uuids = str(uuid4()), str(uuid4())
        self._clients: list[ClientConnection] = []
        self._progress = asyncio.Semaphore(0)
        self._leaves = False

    async def come(self, urls: list[str]) -> None:
        for uuid, url in zip(self.uuids, urls, strict=True):
            client = await connect(url, proxy=None)
            await client.send(registration(uuid).decode())
            assert '"success": true' in str(await client.recv())
            self._clients.append(client)

    async def call(self) -> None:
        """Exchange until it is time to leave. Any close or error is an exception."""
        (one, other), mark = self.uuids, 0
        while not self._leaves:
            mark += 1
            for (source, target), text in (
                (self._clients, offer(one, other, sdp=f"{mark}").decode()),
                (self._clients[::-1], answer(other, one, sdp=f"{mark}").decode()),
            ):
                await source.send(text)
                received = await asyncio.wait_for(target.recv(), PATIENCE)
                assert received == text, received
            self._progress.release()
        for client in self._clients:
            await client.close()

    async def get_through(self) -> None:
        """Wait for many exchanges that are still to come."""
        while not self._progress.locked():  # those that are over do not count
            await self._progress.acquire()
        for _ in range(ROUNDS):
            await self._progress.acquire()

    def leave(self) -> None:
        self._leaves = True


class RollingUpgradeTests(ClusterTestCase):
    """Node by node, each is replaced by another one at its port."""

    text = "reuse_port = true\n"

    def test_rolling_upgrade_under_load_closes_nobody(self) -> None:
        nodes = [self.node(name, self.text) for name in ("a1", "b1")]
        self.play(self.upgrade(nodes))
        for node in nodes:
            self.assertEqual(node.stop(), 0)
            self.assertEqual(node.errors, [])

    async def upgrade(self, nodes: list[RelayProcess]) -> None:
        urls = [node.url for node in nodes]
        async with asyncio.TaskGroup() as calls:
            pairs = [Pair() for _ in range(PAIRS)]
            for pair in pairs:
                await pair.come(urls)
                calls.create_task(pair.call())
            for number, name in enumerate(("a2", "b2")):
                old = nodes[number]
                nodes[number] = await asyncio.to_thread(
                    self.node, name, self.text, old.port
                )
                old.send(signal.SIGUSR2)
                await asyncio.to_thread(old.wait_for, "draining: ")
                await self.move(old, nodes[number], number, urls, pairs, calls)
            for pair in pairs:
                pair.leave()

    async def move(
        self,
        old: RelayProcess,
        new: RelayProcess,
        number: int,
        urls: list[str],
        pairs: list[Pair],
        calls: asyncio.TaskGroup,
    ) -> None:
        """A pair comes to the new node, and then those of the old one leave."""
        before, newcomer = list(pairs), Pair()
        await newcomer.come(urls)
        await asyncio.to_thread(new.wait_for, f"registered {newcomer.uuids[number]}")
        pairs.append(newcomer)
        calls.create_task(newcomer.call())
        for pair in pairs:
            await pair.get_through()
        for pair in before:
            pair.leave()
            pairs.remove(pair)
        self.assertEqual(await asyncio.to_thread(old.wait), 0)
        self.assertEqual(old.errors, [])


class PeerManagerTests(ClusterTestCase):
    """Stock peers at two nodes."""

    def test_peers_at_two_nodes_exchange_messages(self) -> None:
        need_addresses()
        nodes = [self.node(name) for name in ("one", "two")]

        async def scenario() -> None:
            async with (
                PeerManager(RelayClient(nodes[0].url), ice_servers=[]) as one,
                PeerManager(RelayClient(nodes[1].url), ice_servers=[]) as two,
            ):
                for source, target in ((one, two), (two, one)):
                    message = source.name.encode() * 1000
                    await source.send(target.uuid, message)
                    self.assertEqual(await target.recv(), (source.uuid, message))

        self.play(scenario())


class EndpointTests(ClusterTestCase, EndpointTestCase):
    """Stock endpoints at two nodes, one of which is killed."""

    def store(self, uuid: UUID, home: Path) -> Store[EndpointConnector]:
        connector = EndpointConnector([uuid], str(home))
        self.addCleanup(connector.close)
        return Store(f"{home.name} {uuid4()}", connector)

    def test_endpoints_go_on_after_the_other_node_was_killed(self) -> None:
        need_addresses()
        first, second = self.node("first"), self.node("second")
        one, home_of_one, process = self.endpoint("one", first)
        two, home_of_two, _ = self.endpoint("two", second)
        three, home_of_three, _ = self.endpoint("three", second)
        near, far = self.store(one, home_of_one), self.store(two, home_of_two)
        third = self.store(three, home_of_three)
        value = {"numbers": list(range(10_000))}
        self.assertEqual(far.get(near.put(value)), value)

        first.stop(signal.SIGKILL)
        self.assertEqual(third.get(far.put(value)), value)

        # It starts anew at the other node, which lets it in at once. An endpoint that
        # was connected to it before may not notice its end for a long time.
        process.stop()
        config = read_config(str(home_of_one / "one"))
        assert config.relay.address is not None
        config.relay.address = second.url
        write_config(config, str(home_of_one / "one"))
        self.serve("one", home_of_one, second)
        near = self.store(one, home_of_one)
        self.assertEqual(near.get(third.put(value)), value)
        self.assertEqual(third.get(near.put(value)), value)
        self.assertNotIn("Traceback", second.said)
