"""What a TLS connection must begin with, at every cut and in any pieces."""

from __future__ import annotations

import contextlib
import ssl
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.net.client_hello import (
    LONGEST,
    RECORDS,
    StrangeHello,
    missing,
    missing_next,
)

HANDSHAKE, ALERT, CLIENT_HELLO = 22, 21, 1

HEADER = 5
"""Bytes in front of what a record holds."""


def hello(length: int, kind: int = CLIENT_HELLO) -> bytes:
    """A handshake message of so many bytes, with its own header of four."""
    body = bytes(index % 251 for index in range(length - 4))
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


def record(part: bytes, kind: int = HANDSHAKE) -> bytes:
    """A record that holds a part of a message."""
    return bytes([kind, 3, 1]) + len(part).to_bytes(2, "big") + part


def records(parts: list[bytes]) -> bytes:
    """Records that hold the parts of a message."""
    return b"".join(map(record, parts))


def cut(message: bytes, pieces: int) -> list[bytes]:
    """A message in so many parts, of about the same length."""
    at = [len(message) * piece // pieces for piece in range(pieces + 1)]
    return [message[start:end] for start, end in pairwise(at)]


def real(version: ssl.TLSVersion) -> bytes:
    """What Python's client begins with."""
    context = ssl.create_default_context()
    context.minimum_version = context.maximum_version = version
    to_relay = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), to_relay, server_hostname="a.example")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return to_relay.read()
    raise AssertionError("the handshake has no answer yet")


def steps(whole: bytes, have: int) -> int:
    """Bring what is missing until nothing is; how much there is then."""
    while more := missing(whole[:have]):
        assert more > 0, more
        have += more
        assert have <= len(whole), (have, len(whole))
    return have


class HelloTests(SynchronousTestCase):
    """What comes first."""

    def test_in_one_record_at_every_cut(self) -> None:
        whole = record(hello(300))
        for end in range(len(whole) + 1):
            wanted = HEADER if end < HEADER else len(whole)
            self.assertEqual(missing(whole[:end]), wanted - end, end)

    def test_in_several_records_at_every_cut(self) -> None:
        for pieces in range(2, RECORDS + 1):
            parts = cut(hello(90), pieces)
            whole = records(parts)
            # Where each header and each record ends.
            ends = [0]
            for part in parts:
                ends += [ends[-1] + HEADER, ends[-1] + HEADER + len(part)]
            for end in range(len(whole)):
                wanted = next(stop for stop in ends if stop > end)
                self.assertEqual(missing(whole[:end]), wanted - end, (pieces, end))
                self.assertEqual(steps(whole, end), len(whole))
            self.assertEqual(missing(whole), 0)

    def test_in_too_many_records(self) -> None:
        whole = records(cut(hello(90), RECORDS + 1))
        with self.assertRaisesRegex(StrangeHello, "too many records"):
            missing(whole)

    def test_in_records_of_one_byte(self) -> None:
        whole = records(cut(hello(1000), 1000))
        most = RECORDS * (HEADER + 1)
        for end in (most, most + 1, len(whole)):
            with self.assertRaisesRegex(StrangeHello, "too many records"):
                missing(whole[:end])
        self.assertEqual(missing(whole[: most - 1]), 1)

    def test_in_empty_records(self) -> None:
        with self.assertRaises(StrangeHello):
            missing(record(b"") * RECORDS + record(hello(90)))
        self.assertEqual(missing(record(b"") * (RECORDS - 1) + record(hello(90))), 0)

    def test_too_long(self) -> None:
        for length, allowed in ((LONGEST, True), (LONGEST + 1, False)):
            parts = cut(hello(length), 3)
            for taken in (1, 2, 3):
                if allowed:
                    more = missing(records(parts[:taken]))
                    self.assertEqual(more, 0 if taken == len(parts) else HEADER)
                else:
                    with self.assertRaisesRegex(StrangeHello, "too long"):
                        missing(records(parts[:taken]))

    def test_what_is_none_is_left_to_openssl(self) -> None:
        for kind in range(256):
            if kind != HANDSHAKE:
                self.assertEqual(missing(record(hello(90), kind)), 0)
                backlogged = record(hello(90)[:50]) + record(b"x", kind)
                self.assertEqual(missing(backlogged), 0)
            if kind != CLIENT_HELLO:
                self.assertEqual(missing(record(hello(90, kind))), 0)
                self.assertEqual(missing(record(hello(90, kind))[: HEADER + 1]), 0)
        self.assertEqual(missing(b"GET / HTTP/1.1\r\n\r\n"), 0)
        self.assertEqual(missing(b"garbage"), 0)

    def test_nothing_may_come_behind_before_it_was_answered(self) -> None:
        whole = records(cut(hello(90), 2))
        for backlogged in (b"x", record(b"x" * 100), bytes(1000)):
            with self.assertRaisesRegex(StrangeHello, "behind"):
                missing(whole + backlogged)

    def test_comes_again_behind_a_change(self) -> None:
        change = b"\x14\x03\x03\x00\x01\x01"
        for end in range(len(change)):
            self.assertEqual(missing_next(change[:end]), len(change) - end)
        whole = change + record(hello(90))
        self.assertEqual(missing_next(whole), 0)
        self.assertEqual(missing_next(whole[:-1]), 1)
        self.assertEqual(missing_next(record(hello(90))), 0)
        # What is encrypted, as it is where no other hello is wanted.
        self.assertEqual(missing_next(change + record(b"x" * 53, 23)), 0)
        with self.assertRaises(StrangeHello):
            missing_next(change + records(cut(hello(90), RECORDS + 1)))

    @given(st.data())
    def test_any_division_and_any_cut(self, data: st.DataObject) -> None:
        length = data.draw(st.integers(4, 400))
        at = data.draw(st.lists(st.integers(0, length), max_size=RECORDS + 4))
        parts = [
            hello(length)[start:end]
            for start, end in pairwise([0, *sorted(at), length])
        ]
        needed, taken = 0, 0
        while taken < length:
            taken += len(parts[needed])
            needed += 1
        whole, backlogged = records(parts), records(parts[:needed])
        have = data.draw(st.integers(0, len(whole)))
        # Empty records may come behind a whole one.
        if needed <= RECORDS and have <= len(backlogged):
            self.assertEqual(steps(whole, have), len(backlogged))
        else:
            with self.assertRaises(StrangeHello):
                steps(whole, have)

    @given(st.binary(max_size=200))
    def test_any_bytes_get_an_answer(self, data: bytes) -> None:
        for some in (data, bytes([HANDSHAKE]) + data, record(hello(40))[:9] + data):
            with contextlib.suppress(StrangeHello):
                self.assertGreaterEqual(missing(some), 0)

    def test_those_of_real_clients_pass(self) -> None:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            whole = real(version)
            self.assertEqual(missing(whole), 0)
            for end in range(len(whole)):
                self.assertEqual(steps(whole, end), len(whole))
