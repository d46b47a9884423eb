"""The file that outlives a process."""

from __future__ import annotations

import os
import random

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.survive import memory
from proxyrelay.survive.memory import (
    MAX_CONNECTIONS,
    MAX_OFFERS,
    Memory,
    SavedOffer,
    UnreadableError,
)
from proxyrelay.switchboard.offers import Offer
from tests.support.recording import A, B


class MemoryTestCase(SynchronousTestCase):
    """Has a file."""

    def setUp(self) -> None:
        self.memory = self.closed(Memory.create())

    def closed(self, opened: Memory) -> Memory:
        """Close a file at the end of the test."""
        self.addCleanup(opened.close)
        return opened

    def reopened(self) -> Memory:
        """The file, as the next process sees it."""
        return self.closed(Memory(os.dup(self.memory.descriptor)))


class SlotTests(MemoryTestCase):
    """Slots hold entries."""

    def test_entry_put_is_there_in_the_next_process(self) -> None:
        slots = self.memory.connections
        first, second = slots.put(b"first"), slots.put(b"second", True)
        slots.note(first, b"noted")
        found = self.reopened().connections.entries()
        self.assertEqual(
            [tuple(each) for each in found],
            [(first, False, b"first", b"noted"), (second, True, b"second", b"")],
        )

    def test_entry_cleared_leaves_no_byte(self) -> None:
        slots = self.memory.connections
        slot = slots.put(b"personal", True)
        slots.note(slot, b"noted")
        slots.clear(slot)
        start = memory.HEADER_BYTES
        left = os.pread(self.memory.descriptor, memory.CONNECTION_BYTES, start)
        self.assertEqual(left, bytes(memory.CONNECTION_BYTES))
        self.assertEqual(self.reopened().connections.entries(), [])

    def test_longest_entry_and_note_stay_within_their_slot(self) -> None:
        slots = self.memory.connections
        for number in range(3):
            self.assertEqual(slots.put(b"%d" % number), number)
        slots.clear(1)
        longest = b"x" * slots.longest
        self.assertEqual(slots.put(longest + b"x"), -1)
        self.assertEqual(slots.put(longest), 1)
        slots.note(1, b"y" * 125)
        slots.mark(1, True)
        self.assertEqual(
            [tuple(each) for each in slots.entries()],
            [
                (0, False, b"0", b""),
                (1, True, longest, b"y" * 16),
                (2, False, b"2", b""),
            ],
        )

    def test_offers_put_are_there_in_the_next_process(self) -> None:
        offers = self.memory.offers
        given = [Offer(A, B, name, 1.5, waited=0.25) for name in ("a", "b" * 200, "")]
        first, second, third = (offers.put(each) for each in given)
        offers.clear(first)
        found = self.reopened().offers.entries()
        self.assertEqual(
            found,
            [
                SavedOffer(second, A, B, 1.5, 0.25, "b" * 62, False),
                SavedOffer(third, A, B, 1.5, 0.25, "", False),
            ],
        )
        given[0].waits = True
        self.assertEqual(offers.put(given[0]), first)
        self.assertTrue(offers.entries()[0].waits)
        offers.passed_on(first)
        self.assertFalse(self.reopened().offers.entries()[0].waits)

    def test_offers_take_all_slots_and_no_more(self) -> None:
        offers, one = self.memory.offers, Offer(A, B, "a", 1.0)
        places = {offers.put(one) for _ in range(MAX_OFFERS)}
        self.assertEqual((len(places), offers.put(one)), (MAX_OFFERS, -1))

    def test_all_slots_used_takes_no_more_and_is_found_again(self) -> None:
        slots = self.memory.connections
        for number in range(MAX_CONNECTIONS):
            slots.put(b"%d" % number)
        # A changed entry is written before the old one is cleared.
        self.assertEqual(slots.put(b"changed"), MAX_CONNECTIONS)
        self.assertEqual(slots.put(b"more"), -1)
        slots.clear(7)
        later = self.reopened().connections
        self.assertEqual(len(later.entries()), MAX_CONNECTIONS)
        self.assertEqual(later.put(b"again"), 7)
        self.assertEqual(self.memory.offers.entries(), [])


class HeaderTests(MemoryTestCase):
    """The header, and the snapshot."""

    def test_info_is_there_in_the_next_process(self) -> None:
        self.memory.info = b"longer text"
        self.memory.info = b"text"
        self.assertEqual(self.reopened().info, b"text")

    def test_snapshot_is_taken_once(self) -> None:
        self.assertIsNone(self.memory.take_snapshot())
        self.memory.save(b"all of it")
        later = self.reopened()
        self.assertEqual(later.take_snapshot(), b"all of it")
        self.assertIsNone(later.take_snapshot())
        self.memory.save(b"short")
        self.assertEqual(later.take_snapshot(), b"short")

    def test_snapshot_cut_off_is_none(self) -> None:
        for length in (2**63, 2**40, 10):
            header = memory._HEADER.pack(memory._MAGIC, memory.FORMAT, length)
            os.pwrite(self.memory.descriptor, header, 0)
            self.assertIsNone(self.memory.take_snapshot())
            self.assertIsNone(self.memory.take_snapshot())

    def test_other_file_is_unreadable(self) -> None:
        whole = os.fstat(self.memory.descriptor).st_size
        magic = memory._MAGIC
        cases = (
            (b"", 0, "it is too short"),
            (memory._HEADER.pack(magic, memory.FORMAT, 0), whole - 1, "too short"),
            (memory._HEADER.pack(magic, memory.FORMAT + 1, 0), whole, "is 2, not 1"),
            (b"something else entirely", whole, "it is no such file"),
            (b"", whole, "it is no such file"),
        )
        for head, size, reason in cases:
            other = os.memfd_create("other")
            self.addCleanup(os.close, other)
            os.ftruncate(other, size)
            os.pwrite(other, head[:size], 0)
            error = self.assertRaises(UnreadableError, Memory, other)
            self.assertIn(reason, str(error))

    def test_random_bytes_are_survived(self) -> None:
        dice = random.Random(4711)
        sizes = (32, memory.HEADER_BYTES, memory.HEADER_BYTES + 64 * 512)
        for _ in range(20):
            for size in sizes:
                noise = dice.randbytes(size - 12)
                os.pwrite(self.memory.descriptor, noise, 12)
                later = self.reopened()
                self.assertLessEqual(len(later.info), memory.HEADER_BYTES)
                slots = later.connections
                for each in slots.entries():
                    self.assertLessEqual(len(each.entry), slots.longest)
                    self.assertLessEqual(len(each.note), 16)
                for saved in later.offers.entries():
                    self.assertLessEqual(len(saved.name), 62)
                later.take_snapshot()
                self.assertEqual(later.connections.put(b"fine") >= 0, True)
