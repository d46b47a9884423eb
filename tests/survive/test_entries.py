"""What is in the file."""

from __future__ import annotations

import random

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.survive.entries import (
    KEYS,
    Connection,
    Info,
    Snapshot,
    decode,
    encode,
    name_of,
)
from proxyrelay.survive.memory import MAX_CONNECTIONS
from proxyrelay.websocket.continuity import Record, Suspended
from tests.support.recording import A, B

pack = msgspec.msgpack.encode


class EntryTests(SynchronousTestCase):
    """Entries of older and newer relays, and garbage."""

    def test_entries_come_back_as_they_were(self) -> None:
        for entry in (
            Info("1.0", ("127.0.0.1", 1, True), "n1"),
            Connection(1, 2, 3, Record(A, "a", True, address="x", takeovers=7)),
            Snapshot({1: Suspended(b"p", unheard=frozenset({"x"}))}, [(A, B, b"t")]),
        ):
            self.assertEqual(decode(encode(entry), type(entry)), entry)

    def test_entry_of_older_relay_gets_defaults(self) -> None:
        older = pack([1, 2, 3, {"uuid": A}])
        self.assertEqual(decode(older, Connection), Connection(1, 2, 3, Record(A)))
        self.assertEqual(decode(pack({}), Info), Info())
        self.assertEqual(decode(pack({}), Snapshot), Snapshot())

    def test_entry_of_newer_relay_is_read_without_its_new_fields(self) -> None:
        newer = pack([1, 2, 3, {"uuid": A, "mood": [1, {"x": 2}]}, "more", 5])
        self.assertEqual(decode(newer, Connection), Connection(1, 2, 3, Record(A)))
        snapshot = pack({"suspended": {5: {"slowed": True, "mood": 1}}, "x": 1})
        self.assertEqual(
            decode(snapshot, Snapshot), Snapshot({5: Suspended(slowed=True)})
        )

    def test_key_that_names_nothing_is_no_entry(self) -> None:
        for key in (-1, KEYS, 2**62):
            self.assertIsNone(decode(pack([key, 2, 3, {"uuid": A}]), Connection))

    def test_garbage_is_no_entry(self) -> None:
        dice = random.Random(4711)
        deep = b"\x91" * 2000
        huge = b"\xdd\xff\xff\xff\xff" + bytes(20)
        wrong = (b"", b"\x91", deep, huge, pack(["x", 2, 3, {}]), pack(None))
        for data in (*wrong, *(dice.randbytes(dice.randrange(64)) for _ in range(500))):
            for kind in (Connection, Info, Snapshot):
                found = decode(data, kind)
                self.assertIsInstance(found, (kind, type(None)))

    def test_newer_field_nested_deeply_is_no_entry(self) -> None:
        deep = b"\x95\x01\x02\x03\x81\xa4uuid\xa1a" + b"\x91" * 100_000 + b"\x01"
        self.assertIsNone(decode(deep, Connection))

    @given(st.integers(0, KEYS - 1), st.integers(0, KEYS - 1))
    def test_names_are_short_and_differ(self, one: int, other: int) -> None:
        self.assertIn(len(name_of(one)), range(1, 4))
        self.assertTrue(name_of(one).isalnum())
        self.assertEqual(name_of(one) == name_of(other), one == other)

    def test_names_of_all_fit_into_one_variable(self) -> None:
        names = ":".join(name_of(key) for key in range(MAX_CONNECTIONS))
        self.assertLess(len(f"LISTEN_FDNAMES={names}") + 200, 128 * 1024)
