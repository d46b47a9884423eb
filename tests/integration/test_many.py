"""A crowd of clients, all connected and registered at once."""

from __future__ import annotations

import asyncio
import resource
from unittest import SkipTest
from uuid import UUID

from websockets.asyncio.client import ClientConnection, connect

from tests.support.processes import PATIENCE, ProcessTestCase
from tests.support.recording import offer, registration

CLIENTS = 2000

DOOR = 100
"""How many open a connection at a time, so that none waits for the test itself."""


class ManyClientsTests(ProcessTestCase):
    def setUp(self) -> None:
        super().setUp()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < CLIENTS + 200:
            raise SkipTest(f"a process may have no more than {hard} files")
        # The relay inherits the limit.
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, CLIENTS + 200), hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))

    def test_each_of_many_clients_gets_a_message_and_a_goodbye(self) -> None:
        relay = self.relay()
        uuids = [str(UUID(int=number + 1)) for number in range(CLIENTS)]
        door = asyncio.Semaphore(DOOR)

        async def register(uuid: str) -> ClientConnection:
            async with door:
                client = await connect(
                    relay.url,
                    compression=None,
                    ping_interval=None,
                    open_timeout=PATIENCE,
                )
                await client.send(registration(uuid).decode())
                self.assertIn('"success": true', str(await client.recv()))
                return client

        async def scenario() -> None:
            clients = await asyncio.gather(*map(register, uuids))
            # Each one calls its neighbour.
            sent = [
                offer(source, target).decode()
                for source, target in zip(uuids, uuids[1:] + uuids[:1], strict=True)
            ]
            for client, text in zip(clients, sent, strict=True):
                await client.send(text)
            received = await asyncio.gather(*(client.recv() for client in clients))
            self.assertEqual(received, sent[-1:] + sent[:-1])
            self.assertEqual(await asyncio.to_thread(relay.stop), 0)
            await asyncio.gather(*(client.wait_closed() for client in clients))
            self.assertEqual({client.close_code for client in clients}, {1001})

        self.play(scenario())
        self.assertEqual(relay.said.count(" registered "), CLIENTS)
        self.assertEqual(relay.errors, [])
        self.assertNotIn("Traceback", relay.said)
