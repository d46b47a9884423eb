"""The way of a node to the engine: calls that are sent together, with a real Redis."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred

from proxyrelay.cluster.bus import NotSent
from proxyrelay.cluster.link_bus import MAX_FORWARDS, LinkBus
from tests.cluster.test_link import LinkTestCase

reactor: Any = _reactor


class LinkBusTests(LinkTestCase):
    async def registered(self) -> LinkBus:
        await self.start()
        await self.link.call(*("register", "uuid", "n1", 1, "user", 1, "new", 0, 1000))
        return LinkBus(self.link, reactor)

    def forward(self, bus: LinkBus, uuid: str, text: bytes) -> Deferred[Any]:
        replied: Deferred[Any] = Deferred()
        bus.call(replied.callback, "forward", uuid, "user", "n1", 0, text)
        return replied

    async def texts(self) -> list[bytes]:
        """All messages so far."""
        ended = self.link.publish("n1", b"end")
        while self.observer.said[-1] != ("message", b"end"):
            await self.observer.when("message")
        await ended
        said = [each[1] for each in self.observer.said if each[0] == "message"]
        return [text.rpartition(b"\n")[2] for text in said[:-1]]

    async def test_messages_of_one_turn_each_get_their_reply(self) -> None:
        bus = await self.registered()
        count = MAX_FORWARDS + 5
        replies = [
            self.forward(bus, ("uuid", "nobody")[n % 2], b"%d" % n)
            for n in range(count)
        ]
        kinds = [(await reply)[0] for reply in replies]
        self.assertEqual(kinds, [(b"SENT", b"NONE")[n % 2] for n in range(count)])
        self.assertEqual(await self.texts(), [b"%d" % n for n in range(0, count, 2)])

    async def test_other_calls_do_not_overtake_messages(self) -> None:
        bus = await self.registered()
        first = self.forward(bus, "uuid", b"first")
        published: Deferred[Any] = Deferred()
        bus.publish(published.callback, "n1", b"second")
        left = self.forward(bus, "uuid", b"third")
        bus.call(lambda _: None, "unregister", "uuid", "n1", 1, 1000)
        self.assertEqual((await first)[0], b"SENT")
        self.assertEqual((await left)[0], b"SENT")
        await published
        self.assertEqual(await self.texts(), [b"first", b"second", b"third"])

    async def test_messages_of_a_link_that_ends_are_not_sent(self) -> None:
        bus = await self.registered()
        reply = self.forward(bus, "uuid", b"text")
        self.link.drop("a test")
        self.assertIsInstance(await reply, NotSent)

    async def test_many_registrations_are_asserted_as_one_by_one(self) -> None:
        await self.registered()
        words = [("uuid", 1, "user", 1), ("other", 2, "user", 1), ("uuid", 3, "no", 2)]
        replies = await self.link.call(
            "again", "n1", 1000, *(word for each in words for word in each)
        )
        self.assertEqual(replies, [[b"OK", 0, 0], [b"OK", 0, 0], [b"OK", 1, 1]])
        await self.link.call("leave", "n1")
        replies = await self.link.call("again", "n1", 1000, "uuid", 1, "user", 1)
        self.assertEqual(replies, [[b"LEASE"]])
