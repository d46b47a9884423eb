"""The real proxystore package against the relay: clients, peers, endpoints."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import signal
import ssl
import sys
from pathlib import Path
from unittest import SkipTest
from uuid import UUID, uuid4

from aioice.ice import get_host_addresses
from proxystore.endpoint.config import (
    EndpointConfig,
    EndpointRelayConfig,
    write_config,
)
from proxystore.p2p.exceptions import PeerConnectionError, PeerConnectionTimeoutError
from proxystore.p2p.manager import PeerManager
from proxystore.p2p.relay.client import RelayClient
from proxystore.p2p.relay.exceptions import RelayRegistrationError
from proxystore.p2p.relay.messages import PeerConnectionRequest

from tests.support.certificates import SETTINGS, Authority
from tests.support.processes import Process, ProcessTestCase, RelayProcess, environment

ENDPOINT = """
import proxystore.endpoint.cli, proxystore.endpoint.serve

async def nothing():
    pass

proxystore.endpoint.serve.check_nat_and_log = nothing
proxystore.endpoint.cli.cli()
"""
"""``proxystore-endpoint`` without its check that asks public STUN servers."""

CALLER = """
import asyncio, pathlib, sys, uuid
from proxystore.p2p.exceptions import PeerConnectionError
from proxystore.p2p.manager import PeerManager
from proxystore.p2p.relay.client import RelayClient

async def call(url, go, mine, other, delay):
    client = RelayClient(url, client_uuid=uuid.UUID(mine))
    async with PeerManager(client, ice_servers=[]) as manager:
        print(mine, "registered", flush=True)
        while not pathlib.Path(go).exists():
            await asyncio.sleep(0.001)
        await asyncio.sleep(float(delay))
        try:
            await manager.send(uuid.UUID(other), "hello")
        except PeerConnectionError:
            print(mine, "returned", flush=True)
        else:
            print(mine, "sent", flush=True)
        # The other one has got through, or does so now.
        source, message = await manager.recv()
        await manager.send(source, "goodbye")
        print(mine, "received", message, flush=True)
        await asyncio.Event().wait()

async def main(url, go, *calls):
    threes = zip(*[iter(calls)] * 3)
    await asyncio.gather(*(call(url, go, *three) for three in threes))

asyncio.run(main(*sys.argv[1:]))
"""
"""Clients, each of which calls another one when there is a file."""


def request(
    source: RelayClient, target: RelayClient, kind: str
) -> PeerConnectionRequest:
    """An offer or answer that says nothing about how to connect."""
    assert kind in {"offer", "answer"}
    described = {"sdp": f"{kind} of {source.name}", "type": kind}
    return PeerConnectionRequest(
        source_uuid=source.uuid,
        source_name=source.name,
        peer_uuid=target.uuid,
        description_type="offer" if kind == "offer" else "answer",
        description=json.dumps(described),
    )


def need_addresses() -> None:
    """Peers talk through an interface of the machine that is not the loopback one.

    Raises:
        SkipTest: There is none.
    """
    if not get_host_addresses(use_ipv4=True, use_ipv6=True):
        raise SkipTest("WebRTC needs an address beside that of the loopback interface")


class RealTestCase(ProcessTestCase):
    """Keeps what the package logs off the terminal."""

    def setUp(self) -> None:
        super().setUp()
        quiet = logging.NullHandler()
        for name in ("proxystore", "asyncio"):
            logger = logging.getLogger(name)
            logger.addHandler(quiet)
            self.addCleanup(logger.removeHandler, quiet)


class RelayClientTests(RealTestCase):
    async def exchange(self, one: RelayClient, two: RelayClient) -> None:
        """An offer goes one way, and an answer the other."""
        for source, target, kind in ((one, two, "offer"), (two, one, "answer")):
            sent = request(source, target, kind)
            await source.send(sent)
            self.assertEqual(await target.recv(), sent)

    def secure_relay(self) -> tuple[RelayProcess, ssl.SSLContext]:
        authority = Authority()
        authority.write(self.folder)
        relay = self.relay("--config", self.write_config(SETTINGS))
        self.assertTrue(relay.url.startswith("wss://"))
        return relay, authority.client_context()

    def test_client_over_tls_verifies_and_exchanges_messages(self) -> None:
        relay, context = self.secure_relay()

        async def scenario() -> None:
            with self.assertRaises(ssl.SSLCertVerificationError):
                await RelayClient(relay.url).connect(retry=False)
            async with (
                RelayClient(relay.url, ssl_context=context) as one,
                RelayClient(relay.url, ssl_context=context) as two,
            ):
                await self.exchange(one, two)
            await self.replace_each_time(relay.url, context)

        self.play(scenario())

    def test_client_with_a_uuid_in_use_replaces_the_other_for_good(self) -> None:
        relay = self.relay()
        uuid = uuid4()

        async def scenario() -> None:
            async with (
                RelayClient(relay.url, client_uuid=uuid, reconnect_task=False) as old,
                RelayClient(relay.url) as other,
            ):
                lost = old.websocket
                async with RelayClient(relay.url, client_uuid=uuid) as new:
                    await lost.wait_closed()
                    self.assertEqual(lost.close_code, 4004)
                    with self.assertRaises(RelayRegistrationError) as final:
                        await old.connect()
                    self.assertEqual(str(final.exception), lost.close_reason)
                    await self.exchange(other, new)
            await self.replace_each_time(relay.url)

        self.play(scenario())
        self.assertEqual(relay.stop(), 0)
        self.assertEqual(relay.said.count(f" registered {uuid} "), 2)
        self.assertEqual(relay.said.count(f" replaced {uuid}: "), 1)

    async def replace_each_time(
        self, url: str, tls: ssl.SSLContext | None = None
    ) -> None:
        """As with ``proxystore-relay``, the older one learns of it, and ends."""
        for _ in range(20):
            old, new = (
                RelayClient(
                    url, client_uuid=uuid, reconnect_task=False, ssl_context=tls
                )
                for uuid in 2 * [uuid4()]
            )
            await old.connect()
            await new.connect()
            with self.assertRaises(RelayRegistrationError):
                await old.connect()
            self.assertEqual(new.websocket.state.name, "OPEN")
            await new.close()

    def test_client_of_a_restarted_relay_comes_back_by_itself(self) -> None:
        port = self.reserve()

        async def scenario() -> None:
            relay = self.relay(port=port)
            async with RelayClient(relay.url) as client:
                lost = client.websocket
                self.assertEqual(await asyncio.to_thread(relay.stop), 0)
                await lost.wait_closed()
                self.assertEqual(lost.close_code, 1001)
                relay = await asyncio.to_thread(self.relay, port=port)
                await asyncio.to_thread(relay.wait_for, f" registered {client.uuid} ")
                async with RelayClient(relay.url) as other:
                    await self.exchange(other, client)

        self.play(scenario())

    def test_client_of_a_killed_relay_comes_back(self) -> None:
        port = self.reserve()

        async def scenario() -> None:
            relay = self.relay(port=port)
            # The kernel may take one more connection before it closes the relay's
            # port, which a client that comes back at once does not outlive.
            async with RelayClient(relay.url, reconnect_task=False) as client:
                lost = client.websocket
                status = await asyncio.to_thread(relay.stop, signal.SIGKILL)
                self.assertEqual(status, -signal.SIGKILL)
                await lost.wait_closed()
                self.assertEqual(lost.close_code, 1006)
                relay = await asyncio.to_thread(self.relay, port=port)
                async with RelayClient(relay.url) as other:
                    await client.connect()
                    await self.exchange(other, client)

        self.play(scenario())


class PeerManagerTests(RealTestCase):
    def test_offer_to_a_stranger_or_itself_comes_back(self) -> None:
        relay = self.relay("--config", self.write_config("[offers]\nhold = 0.1\n"))
        # The package leaves a socket of a failed connection to the collector.
        self.addCleanup(gc.collect)

        async def scenario() -> None:
            client = RelayClient(relay.url)
            stranger = uuid4()
            async with PeerManager(client, ice_servers=[]) as manager:
                for peer, words in (
                    (
                        stranger,
                        f"Cannot forward peer connection message to peer {stranger}",
                    ),
                    (client.uuid, "is the client itself"),
                    (client.uuid, "is the client itself"),
                ):
                    with self.assertRaises(PeerConnectionError) as caught:
                        await manager.send(peer, "hello")
                    self.assertNotIsInstance(
                        caught.exception, PeerConnectionTimeoutError
                    )
                    self.assertIn(words, str(caught.exception))

        self.play(scenario())

    def test_peers_are_connected_once_in_both_directions(self) -> None:
        need_addresses()
        relay = self.relay("--log-level", "DEBUG")

        async def scenario() -> None:
            async with (
                PeerManager(RelayClient(relay.url), ice_servers=[]) as one,
                PeerManager(RelayClient(relay.url), ice_servers=[]) as two,
            ):
                for size in (5, 100_000):
                    for source, target in ((one, two), (two, one)):
                        message = source.name.encode() * size
                        await source.send(target.uuid, message)
                        self.assertEqual(await target.recv(), (source.uuid, message))
                for source, target, kind in ((one, two, "offer"), (two, one, "answer")):
                    await asyncio.to_thread(
                        relay.wait_for,
                        f" forwarded {kind} of {source.uuid} .* to {target.uuid} ",
                    )

        self.play(scenario())
        self.assertEqual(relay.stop(), 0)
        # The messages took another way.
        self.assertEqual(relay.said.count(" forwarded "), 2)

    def test_peers_that_call_each_other_live_on(self) -> None:
        need_addresses()
        relay = self.relay()
        go = self.folder / "go"
        pairs = [(str(uuid4()), str(uuid4())) for _ in range(3)]
        calls: tuple[list[str], list[str]] = ([], [])
        for (one, two), delay in zip(pairs, ("0", "0.02", "0.1"), strict=True):
            calls[0].extend((one, two, "0"))
            calls[1].extend((two, one, delay))
        callers = [
            self.start(sys.executable, "-c", CALLER, relay.url, go, *each)
            for each in calls
        ]

        def wait_for(said: str) -> list[set[str]]:
            return [
                {
                    caller.wait_for(f"{uuid} ({said})")[1]
                    for caller, uuid in zip(callers, pair, strict=True)
                }
                for pair in pairs
            ]

        wait_for("registered")
        go.touch()
        # If either has ended, the message of the other does not come.
        for outcomes in wait_for("sent|returned"):
            self.assertIn("sent", outcomes)
        wait_for("received (?:hello|goodbye)")


class EndpointTestCase(RealTestCase):
    def endpoint(
        self, name: str, relay: RelayProcess, url: str | None = None
    ) -> tuple[UUID, Path, Process]:
        """Start an endpoint in a home of its own, which may find its relay by a detour.

        Returns:
            UUID, home, and process.
        """
        home = self.folder / name
        config = EndpointConfig(
            name=name,
            uuid=str(uuid4()),
            host="127.0.0.1",
            host_type="static",
            port=self.reserve(),
            relay=EndpointRelayConfig(address=url or relay.url, ice_servers=[]),
        )
        write_config(config, str(home / name))
        return UUID(config.uuid), home, self.serve(name, home, relay)

    def serve(self, name: str, home: Path, relay: RelayProcess) -> Process:
        process = self.start(
            *(sys.executable, "-c", ENDPOINT, "start", name, "--no-detach"),
            env=environment(PROXYSTORE_HOME=str(home)),
        )
        process.wait_for("Uvicorn running on")
        relay.wait_for(f"registered .* name='{name}' ")
        return process
