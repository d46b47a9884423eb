"""What ends the processes of real endpoints, but not behind this relay."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID, uuid4

from aiortc import RTCSessionDescription
from aiortc.contrib.signaling import object_from_string
from proxystore.connectors.endpoint import (
    EndpointConnector,
    EndpointConnectorError,
    EndpointKey,
)
from twisted.trial.unittest import SynchronousTestCase
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tests.integration.test_real_clients import EndpointTestCase, need_addresses
from tests.support.processes import Process
from tests.support.recording import (
    answer,
    offer,
    registration,
    wrong_descriptions,
)


def ask(connector: EndpointConnector, endpoint: UUID) -> None:
    """Ask for an object of another endpoint, whether there is one or not."""
    connector.exists(EndpointKey("0", str(endpoint)))


class DescriptionTests(SynchronousTestCase):
    def test_stock_library_reads_no_description_that_the_relay_drops(self) -> None:
        for kind in ("offer", "answer"):
            for text in wrong_descriptions(kind):
                found: object = None
                with contextlib.suppress(
                    AssertionError, KeyError, RecursionError, TypeError, ValueError
                ):
                    found = object_from_string(text)
                if isinstance(found, RTCSessionDescription):
                    is_text = isinstance(found.sdp, str)
                    self.assertFalse(is_text and found.type == kind, text)


class ShieldTests(EndpointTestCase):
    def setUp(self) -> None:
        super().setUp()
        need_addresses()
        self.threads = ThreadPoolExecutor()
        self.addCleanup(self.threads.shutdown)

    def begin(self, *options: str | Path) -> None:
        self.server = self.relay("--log-level", "DEBUG", *options)

    def connector(self, uuid: UUID, home: Path) -> EndpointConnector:
        """Talks to an endpoint, as a program on its machine does."""
        connector = EndpointConnector([uuid], str(home))
        self.addCleanup(connector.close)
        return connector

    def exchange(self, near: EndpointConnector, far: EndpointConnector) -> None:
        """Put an object into one endpoint, and get it through the other."""
        key = near.put(b"object")
        self.assertEqual(far.get(key), b"object")

    def finish(self, *endpoints: Process) -> None:
        """End endpoints that must have lived until now."""
        for endpoint in endpoints:
            self.assertEqual(endpoint.stop(), 0, endpoint.said)
            self.assertNotIn("Traceback", endpoint.said)
        self.assertEqual(self.server.stop(), 0)
        self.assertNotIn("Traceback", self.server.said)

    def test_endpoint_whose_peer_goes_during_an_offer_asks_again(self) -> None:
        self.begin()
        one, home, process = self.endpoint("one", self.server)
        two, home_of_two, peer = self.endpoint("two", self.server)
        asking = self.connector(one, home)
        peer.send(signal.SIGSTOP)
        asked = self.threads.submit(ask, asking, two)
        self.server.wait_for(f"forwarded offer of {one} .* to {two} ")
        peer.stop(signal.SIGKILL)
        # Before its 30 s are over, after which it could never ask this peer again.
        self.assertIsInstance(asked.exception(), EndpointConnectorError)
        self.server.wait_for(f"returned offer for {two} .* left before it answered")

        asked = self.threads.submit(ask, asking, two)
        self.server.wait_for(f"held offer of {one} .* for {two}")
        peer = self.serve("two", home_of_two, self.server)
        if asked.exception() is not None:
            # It took more than the 5 s: no harm is done.
            self.server.wait_for(f"returned offer for {two} .* is not registered")
        self.exchange(self.connector(two, home_of_two), asking)
        self.finish(process, peer)

    def test_endpoints_among_wrong_and_crossing_messages_live_on(self) -> None:
        self.begin()
        one, home, process = self.endpoint("one", self.server)
        two, home_of_two, peer = self.endpoint("two", self.server)
        near, far = self.connector(one, home), self.connector(two, home_of_two)

        async def crossing() -> None:
            """Offer while the endpoint offers, with errors that are made up."""
            async with self.rogue(near) as (client, uuid, description):
                for error in (None, "made up"):
                    text = offer(uuid, str(one), description=description, error=error)
                    await client.send(text.decode())

        async def wrong() -> None:
            """Send descriptions that are none."""
            async with self.rogue(near) as (client, uuid, _):
                for text in wrong_descriptions("answer"):
                    made = answer(uuid, str(one), description=text)
                    await client.send(made.decode())
                for text in wrong_descriptions("offer"):
                    await client.send(offer(uuid, str(two), description=text).decode())

        self.play(crossing())
        self.server.wait_for("shielded .* an offer the other way is not answered yet")
        self.play(wrong())
        self.server.wait_for("shielded .* is no session description of its type")

        asked = [
            self.threads.submit(ask, near, two),
            self.threads.submit(ask, far, one),
        ]
        # One of them may be told that the other one is asking, too.
        self.assertIn(None, [each.exception() for each in asked])
        self.server.wait_for("forwarded answer ")
        self.exchange(near, far)
        self.exchange(far, near)
        self.finish(process, peer)

    @contextlib.asynccontextmanager
    async def rogue(
        self, asking: EndpointConnector
    ) -> AsyncIterator[tuple[ClientConnection, str, str]]:
        """A client that an endpoint sends an offer to, and that leaves.

        Yields:
            The client, its UUID, and the description of the offer.
        """
        uuid = str(uuid4())
        async with connect(self.server.url, proxy=None) as client:
            await client.send(registration(uuid).decode())
            await client.recv()
            asked = self.threads.submit(ask, asking, UUID(uuid))
            yield client, uuid, json.loads(await client.recv())["description"]
            # It leaves when all that it has sent has arrived.
            await (await client.ping())
        self.assertIsNotNone(await asyncio.to_thread(asked.exception))

    @contextlib.asynccontextmanager
    async def detour(
        self, times: int = 1
    ) -> AsyncIterator[tuple[str, list[ServerConnection]]]:
        """A way to the relay, on which messages for a peer are said some times.

        Yields:
            Its URL, and the connections of those who come in by it.
        """
        clients: list[ServerConnection] = []

        async def passing(client: ServerConnection) -> None:
            clients.append(client)
            async with connect(self.server.url, proxy=None) as relay:

                async def back() -> None:
                    with contextlib.suppress(ConnectionClosed):
                        async for message in relay:
                            await client.send(message)
                    await client.close(relay.close_code or 1001)

                returning = asyncio.create_task(back())
                with contextlib.suppress(ConnectionClosed):
                    async for message in client:
                        for _ in range(
                            times if "peer_connection" in str(message) else 1
                        ):
                            await relay.send(message)
                returning.cancel()

        async with serve(passing, "127.0.0.1", 0) as server:
            yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", clients

    def test_endpoint_that_reads_nothing_is_closed_for_a_restart(self) -> None:
        text = "[offers]\nanswer_timeout = 1\nclose_deaf = true\n"
        self.begin("--config", self.write_config(text))

        async def ask_from(address: str, two: UUID) -> str | None:
            """What comes of an offer."""
            uuid = str(uuid4())
            where = (address, 0)
            async with connect(self.server.url, proxy=None, local_addr=where) as client:
                await client.send(registration(uuid).decode())
                await client.recv()
                await client.send(offer(uuid, str(two)).decode())
                error: str | None = json.loads(await client.recv())["error"]
                return error

        async def scenario() -> None:
            async with self.detour() as (url, clients):
                two, home, peer = await asyncio.to_thread(
                    self.endpoint, "two", self.server, url
                )
                await clients[0].close(1001)
                await asyncio.to_thread(self.server.wait_for_next, f"registered {two} ")
                # Two addresses are not enough to close it.
                for address in ("127.0.0.2", "127.0.0.3", "127.0.0.2", "127.0.0.4"):
                    self.assertIsNone(clients[1].close_code)
                    error = await ask_from(address, two)
                    self.assertIn("did not answer in time", str(error))
                # It ends, so that a supervisor starts it anew.
                self.assertNotEqual(await asyncio.to_thread(peer.wait), 0)
                self.server.wait_for(f"deaf {two} .*; restart this endpoint")
                self.server.wait_for(f"left {two} .* refused with 4004")
                peer = await asyncio.to_thread(self.serve, "two", home, self.server)
                self.assertIsNone(await ask_from("127.0.0.2", two))
                await asyncio.to_thread(self.finish, peer)

        self.play(scenario())

    def test_endpoints_whose_messages_come_twice_live_on(self) -> None:
        self.begin()
        one, home, process = self.endpoint("one", self.server)
        three, home_of_three, other = self.endpoint("three", self.server)

        def play(url: str) -> None:
            two, home_of_two, peer = self.endpoint("two", self.server, url)
            near = self.connector(two, home_of_two)
            # It answers twice, and offers twice.
            self.exchange(near, self.connector(one, home))
            self.exchange(self.connector(three, home_of_three), near)
            self.assertEqual(peer.stop(), 0)
            self.assertNotIn("Traceback", peer.said)

        async def scenario() -> None:
            async with self.detour(times=2) as (url, _):
                await asyncio.to_thread(play, url)

        self.play(scenario())
        self.server.wait_for("shielded .* it answers no offer, or one that was")
        self.exchange(self.connector(one, home), self.connector(three, home_of_three))
        self.finish(process, other)
