"""All clients of the relay, which come in pieces."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from proxyrelay.admin.report import Clients, Silence, Status
from proxyrelay.admin.view import CLIENTS_PER_BATCH
from proxyrelay.config import Config, Limits, Logging, Offers
from proxyrelay.switchboard.peer import Registration
from tests.support.recording import A, B, RecordingPeer, answer, offer, registration
from tests.support.served import HeaderAuthenticator
from tests.support.watched import START, Answer, Caller, WatchedTestCase

reactor: Any = _reactor


class ClientsTests(WatchedTestCase, TestCase):
    """``/clients``."""

    async def listed(self) -> Clients:
        """Ask for them over the reactor of the tests, whose turns the pieces take."""
        caller = Caller(self.admin)
        caller.ask("/clients")
        while not caller.wire.value().endswith(b"0\r\n\r\n"):
            await deferLater(reactor, 0)
        answer = Answer(caller.wire.value())
        self.assertEqual(answer.headers["content-type"], "application/json")
        caller.lose()
        self.listing = answer.whole
        return msgspec.json.decode(self.listing, type=Clients)

    def crowd(self, count: int) -> None:
        registry = self.relay.factory.registry
        for number in range(count):
            peer: Any = RecordingPeer()
            peer.slowed = False
            peer.registration = Registration(str(number), "a", False, START)
            registry.add(str(number), peer)

    async def test_clients_have_their_numbers(self) -> None:
        self.serve()
        one, other = self.registered(A, "caf\xe9"), self.registered(B, legacy=True)
        self.reactor.advance(1)
        self.send(one, offer())
        self.send(other, answer())
        found = await self.listed()
        self.assertEqual(found.total, 2)
        first, second = found.clients
        identity = (first.uuid, first.name, first.user)
        self.assertEqual(identity, (A, "caf\xe9", "anonymous"))
        self.assertEqual((first.address, first.since), ("192.0.2.1:4711", START))
        self.assertEqual((first.last_offer, second.last_offer), (START + 1, None))
        self.assertEqual((first.sent, first.received), (1, 1))
        self.assertEqual((first.marks, second.marks), ([], ["legacy"]))
        self.assertEqual((first.unanswered, second.unanswered), (0, 0))

    async def test_clients_that_leave_offers_unanswered_are_counted(self) -> None:
        self.serve(Config(offers=Offers(answer_timeout=1)))
        one, other = self.registered(A), self.registered(B)
        self.reactor.advance(1)
        for _ in range(2):
            self.send(one, offer())
            self.reactor.pump([0.5] * 4)
        found = await self.listed()
        # It was there from the start, so it is not called deaf.
        self.assertEqual([c.unanswered for c in found.clients], [0, 2])
        self.assertEqual([c.marks for c in found.clients], [[], []])
        status = msgspec.json.decode(self.ask("/status").body, type=Status)
        self.assertEqual(status.unanswered, Silence(1, 2))
        self.send(one, offer())
        self.reactor.advance(1)
        self.send(other, answer())
        status = msgspec.json.decode(self.ask("/status").body, type=Status)
        self.assertEqual(status.unanswered, Silence(0, 0))

    async def test_clients_with_controls_in_names_are_ascii(self) -> None:
        """A terminal acts upon C1 controls, and marks of direction move text."""
        name = "a\x85\x9b31m\x7f\u202e\u2066\u2028\u200f\ufeff\U000e0001\U0001f600\xe9b"
        self.serve()
        self.registered(A, name)
        self.assertEqual((await self.listed()).clients[0].name, name)
        self.assertTrue(self.listing.isascii())
        self.assertTrue(self.listing.decode().isprintable(), self.listing)

    async def test_clients_in_trouble_have_marks(self) -> None:
        limits = Limits(messages_per_client=1, registrations_per_client=1, burst=1)
        self.serve(Config(limits=limits))
        client = self.registered(A)
        client.dataReceived(b"\x89\x80aaaa" * 100)
        assert client.registration is not None
        client.registration.deaf = True
        client.registration.takeovers = 3
        (found,) = (await self.listed()).clients
        self.assertEqual(found.marks, ["deaf", "fight", "slowed"])

    async def test_clients_with_privacy_have_pseudonyms(self) -> None:
        logging = Logging(privacy=True)
        self.serve(Config(logging=logging), authenticator=HeaderAuthenticator())
        names = self.relay.pseudonyms
        for host in ("192.0.2.7", "192.0.2.8"):
            client = self.connect("X-User: somebody", host=host)
            self.send(client, registration(A))
        (found,) = (await self.listed()).clients
        self.assertEqual(found.user, names.user("somebody"))
        self.assertEqual(found.address, names.address("192.0.2.8"))
        events = self.ask("/events").json["events"]
        self.assertIn("replaced", [event["kind"] for event in events])
        self.assertIn(names.address("192.0.2.7"), events[0]["text"])
        self.send(client, b"?")
        for path in ("/events", "/status", "/metrics"):
            text = self.ask(path).body.decode()
            for secret in ("somebody", "192.0.2.7", "192.0.2.8"):
                self.assertNotIn(secret, text)

    async def test_clients_in_several_batches_are_all_listed(self) -> None:
        self.serve()
        self.assertEqual(await self.listed(), Clients(0, []))
        count = 3 * CLIENTS_PER_BATCH + 1
        self.crowd(count)
        found = await self.listed()
        self.assertEqual(found.total, count)
        uuids = [client.uuid for client in found.clients]
        self.assertEqual(uuids, list(map(str, range(count))))

    def test_clients_that_leave_before_their_batch_are_left_out(self) -> None:
        self.serve()
        self.crowd(2 * CLIENTS_PER_BATCH)
        batches = self.admin._view.clients()
        self.assertEqual(len(next(batches)), CLIENTS_PER_BATCH)
        for peer in self.relay.factory.registry:
            peer.registration = None
        self.assertEqual(next(batches), [])

    async def test_clients_without_reader_are_not_sent(self) -> None:
        self.serve()
        self.crowd(3 * CLIENTS_PER_BATCH)
        caller = Caller(self.admin)
        caller.ask("/clients")
        caller.lose()
        before = caller.wire.value()
        for _ in range(3):
            await deferLater(reactor, 0)
        self.assertEqual(caller.wire.value(), before)
        self.assertEqual(self.flushLoggedErrors(), [])
