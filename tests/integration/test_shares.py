"""One address that fills the tables of a real relay, and a pair of another one."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import uuid4

from websockets.asyncio.client import ClientConnection, connect

from tests.support.processes import ProcessTestCase
from tests.support.recording import answer, offer, registration

SETTINGS = """
[limits]
trusted_proxies = ["127.0.0.1"]

[offers]
held_total = 64
"""

HONEST, STRANGER = "198.51.100.7", "203.0.113.66"

STRANGERS, OFFERS, ROUNDS = 64, 110, 2


class SharesTests(ProcessTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.server = self.relay("--config", self.write_config(SETTINGS))

    async def client(self, address: str) -> ClientConnection:
        """A client whose address a proxy tells."""
        headers = {"X-Forwarded-For": address}
        return await connect(self.server.url, proxy=None, additional_headers=headers)

    async def registered(self, uuid: str) -> ClientConnection:
        """A client of the pair."""
        client = await self.client(HONEST)
        await client.send(registration(uuid).decode())
        self.assertEqual((await self.heard(client))["success"], True)
        return client

    async def heard(self, client: ClientConnection) -> dict[str, Any]:
        """What a client hears next."""
        message: dict[str, Any] = json.loads(await client.recv())
        return message

    async def flood(self, strangers: list[ClientConnection]) -> None:
        """Ask for absent peers, each time under another name, until all is read."""
        for stranger in strangers:
            uuid = str(uuid4())
            await stranger.send(registration(uuid).decode())
            for _ in range(OFFERS):
                await stranger.send(offer(uuid, str(uuid4())).decode())
        await asyncio.gather(*[await stranger.ping() for stranger in strangers])

    def test_address_that_fills_the_tables_keeps_nobody_from_offers(self) -> None:
        one, other = str(uuid4()), str(uuid4())

        async def ignore(stranger: ClientConnection) -> None:
            async for _ in stranger:
                pass

        async def scenario() -> None:
            strangers = [await self.client(STRANGER) for _ in range(STRANGERS)]
            reading = [asyncio.create_task(ignore(each)) for each in strangers]
            asking = await self.registered(one)
            for _ in range(ROUNDS):
                await self.flood(strangers)
                # The peer comes while the offer waits for it.
                await asking.send(offer(one, other).decode())
                await (await asking.ping())
                peer = await self.registered(other)
                # It stays for a second one.
                for _ in range(2):
                    self.assertEqual((await self.heard(peer))["source_uuid"], one)
                    await peer.send(answer(other, one).decode())
                    self.assertIsNone((await self.heard(asking))["error"])
                    await asking.send(offer(one, other).decode())
                await self.heard(peer)
                await peer.close()
                self.assertIsNotNone((await self.heard(asking))["error"])
            await asyncio.gather(*[each.close() for each in (asking, *strangers)])
            await asyncio.gather(*reading)

        self.play(scenario())
        self.assertEqual(self.server.stop(), 0)
