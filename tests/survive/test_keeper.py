"""What a relay writes down of its connections and offers."""

from __future__ import annotations

import os

from proxyrelay.survive.entries import Connection, decode, name_of
from proxyrelay.survive.keeper import Keeper
from proxyrelay.survive.memory import NAME
from tests.support.frames import PING, TEXT, frame
from tests.support.recording import A, B, C, answer, offer, registration
from tests.survive.case import SurviveTestCase


class KeeperTestCase(SurviveTestCase):
    """Has a relay that keeps its connections."""

    def setUp(self) -> None:
        super().setUp()
        self.start()

    @property
    def keeper(self) -> Keeper:
        assert self.process is not None
        return self.process.keeper

    def entries(self) -> list[Connection]:
        """All entries of connections."""
        found = [
            decode(slot.entry, Connection)
            for slot in self.keeper.memory.connections.entries()
        ]
        return [entry for entry in found if entry is not None]

    def names(self) -> list[str]:
        """Names of the connections in the store."""
        self.supervisor.read()
        return [name for name in self.supervisor.names if name != NAME]


class RegistrationTests(KeeperTestCase):
    """Registrations, from the acceptance until the client leaves."""

    def test_unregistered_connection_is_never_kept(self) -> None:
        self.connect()
        self.assertEqual((self.entries(), self.names()), ([], []))

    def test_registered_connection_is_kept_with_its_entry(self) -> None:
        peer = self.registered(A)
        (entry,) = self.entries()
        self.assertEqual(entry.record, peer.record())
        ((name, number),) = [p for p in self.supervisor.pairs if p[0] != NAME]
        self.assertEqual(name, name_of(entry.key))
        self.assertEqual(os.fstat(number).st_ino, entry.inode)

    def test_registrations_of_one_sweep_are_stored_at_its_end(self) -> None:
        assert self.process is not None
        outbox = self.process.factory.outbox
        peers = [self.connect() for _ in range(3)]
        outbox.open()
        for (peer, _), uuid in zip(peers, (A, B, C), strict=True):
            peer.dataReceived(frame(TEXT, registration(uuid)))
        peers[1][0].drop("test")
        self.assertEqual((self.names(), len(self.entries())), ([], 2))
        outbox.close()
        self.assertEqual(len(self.names()), 2)
        removals = [text for text in self.supervisor.texts if "FDSTOREREMOVE=1" in text]
        self.assertEqual(removals, [])
        peers[2][0].drop("test")
        self.assertEqual((len(self.names()), len(self.entries())), (1, 1))

    def test_other_name_and_other_uuid_replace_the_entry(self) -> None:
        peer = self.registered(A)
        for uuid, name in ((A, "b"), (B, "b")):
            self.register(peer, uuid, name)
            (entry,) = self.entries()
            self.assertEqual((entry.record.uuid, entry.record.name), (uuid, name))
        self.assertEqual(self.names(), ["0"])

    def test_client_that_leaves_is_forgotten(self) -> None:
        for end in ("close", "drop", "takeover"):
            peer = self.registered(A)
            if end == "close":
                peer.close(1000, "")
            elif end == "drop":
                peer.drop("test")
            else:
                peer = self.registered(A)
                peer.close(1000, "")
            self.assertEqual((self.entries(), self.names()), ([], []), end)

    def test_longest_texts_of_clients_fit(self) -> None:
        for name in ("\U0001f600" * 5000, "\0\x1b[2J\n" * 90, '"\\' * 500):
            peer = self.registered(A, name)
            (entry,) = self.entries()
            self.assertIn(entry.record.name, {"", name[:128]})
            self.assertEqual(entry.record.uuid, A)
            peer.close(1000, "")

    def test_lone_surrogates_register_nobody(self) -> None:
        peer, _ = self.connect()
        text = b'{"name": "\\ud800", "uuid": "%s", ' % A.encode()
        text += b'"message_type": "relay_registration"}'
        peer.dataReceived(frame(TEXT, text))
        self.assertEqual((self.entries(), peer.registration), ([], None))

    def test_clients_in_a_loop_keep_queue_and_file_bounded(self) -> None:
        for _ in range(100):
            peer, client = self.connect()
            peer.dataReceived(frame(TEXT, registration(A)))
            peer.dataReceived(frame(TEXT, registration(B, "x" * 128)))
            peer.drop("test")
            client.close()
        self.assertLessEqual(len(self.keeper.store._queue), 2)
        self.assertLessEqual(self.keeper.memory.connections._used, 2)
        for _ in range(3):
            self.supervisor.read()
            self.keeper.store.doWrite()
        self.assertEqual((self.entries(), self.names()), ([], []))

    def test_ping_is_noted_and_cut(self) -> None:
        peer = self.registered(A)
        for payload in (b"abcd", b"", b"x" * 125):
            peer.dataReceived(frame(PING, payload))
            (slot,) = self.keeper.memory.connections.entries()
            self.assertEqual(slot.note, payload[:16])

    def test_client_behind_is_marked_until_it_has_read(self) -> None:
        peer, client = self.connect()
        peer.transport.write(b"\x81\x7e" + bytes(8_000_000))
        self.assertTrue(peer.transport.has_unwritten)
        # The mark is there from the first entry on, and in the next one.
        for name in ("a", "b"):
            self.register(peer, A, name)
            (slot,) = self.keeper.memory.connections.entries()
            self.assertTrue(slot.is_marked)
        client.settimeout(5)
        while peer.transport.has_unwritten:
            client.recv(1 << 20)
            peer.transport.doWrite()
        (slot,) = self.keeper.memory.connections.entries()
        self.assertFalse(slot.is_marked)


class CapacityTests(KeeperTestCase):
    """More connections than are kept."""

    capacity = 2

    def test_connection_over_the_capacity_is_kept_once_another_leaves(self) -> None:
        first, _, third = (self.registered(uuid) for uuid in (A, B, C))
        self.assertEqual((len(self.keeper), len(self.keeper.unkept)), (2, 1))
        self.assertEqual(len(self.names()), 2)
        self.register(third, C, "b")
        self.assertEqual((len(self.keeper), len(self.keeper.unkept)), (2, 1))
        first.close(1000, "")
        self.assertEqual((len(self.keeper), len(self.keeper.unkept)), (2, 0))
        self.assertEqual({e.record.uuid for e in self.entries()}, {B, C})
        self.assertEqual(len(self.names()), 2)

    def test_smaller_capacity_takes_nobody_before_enough_have_left(self) -> None:
        for uuid in (A, B):
            self.registered(uuid)
        self.capacity = 1
        process = self.start()
        self.registered(C)
        self.assertEqual((len(self.keeper), len(self.keeper.unkept)), (2, 1))
        for uuid, left in ((A, 1), (B, 1), (C, 0)):
            peer = process.relay.registry.get(uuid)
            assert peer is not None
            peer.close(1000, "")
            self.assertEqual(len(self.entries()), left)

    def test_store_nearly_full_is_told_once(self) -> None:
        for uuid in (A, B, C):
            self.registered(uuid)
        (line,) = self.captured.lines()
        self.assertIn("nearly full: 2 of 2 are kept", line)


class OfferTests(KeeperTestCase):
    """Outstanding offers."""

    def open_offers(self) -> list[tuple[object, ...]]:
        """Sender, receiver, time and name of each."""
        found = self.keeper.memory.offers.entries()
        return [(each.source, each.target, each.since, each.name) for each in found]

    def test_offer_is_written_until_it_is_answered(self) -> None:
        one, other = self.registered(A), self.registered(B)
        one.dataReceived(frame(TEXT, offer(A, B)))
        self.assertEqual(self.open_offers(), [(A, B, 1000.0, "a")])
        other.dataReceived(frame(TEXT, answer(B, A)))
        self.assertEqual(self.open_offers(), [])

    def test_longest_name_of_a_sender_fits(self) -> None:
        one, _ = self.registered(A), self.registered(B)
        text = offer(A, B, source_name="\U0001f600" * 3000)
        one.dataReceived(frame(TEXT, text))
        # 62 bytes, without the half character at the end.
        self.assertEqual(self.open_offers(), [(A, B, 1000.0, "\U0001f600" * 15)])

    def test_waiting_offer_is_marked(self) -> None:
        one, other = self.registered(A), self.registered(B)
        other.close(1000, "")
        one.dataReceived(frame(TEXT, offer(A, B)))
        (slot,) = self.keeper.memory.offers.entries()
        self.assertTrue(slot.waits)
