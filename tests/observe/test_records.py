"""One JSON object a line."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.observe.records import moment, record

# Halves of surrogate pairs, too.
TEXTS = st.text(st.characters(exclude_categories=()))

VALUES = st.one_of(
    TEXTS, st.none(), st.booleans(), st.integers(), st.floats(), st.lists(TEXTS)
)


class RecordTests(SynchronousTestCase):
    """What becomes of fields."""

    def fields(self, **fields: object) -> dict[str, Any]:
        """The fields of a line, read again, less the time."""
        found: dict[str, Any] = json.loads(record(0.0, fields))
        del found["time"]
        return found

    def test_has_the_time_first(self) -> None:
        self.assertEqual(
            record(1700000000.25, {"event": "left", "count": 1}),
            '{"time":"2023-11-14T22:13:20.250Z","event":"left","count":1}\n',
        )

    def test_keeps_texts_as_they_are(self) -> None:
        for text in ("größe 大", "a\nb\x1b[2J\x7f", "\u202e", "\U0001f600", '"\\', ""):
            self.assertEqual(self.fields(text=text), {"text": text})

    def test_half_a_surrogate_pair_is_no_text(self) -> None:
        self.assertEqual(self.fields(text="a\ud800b"), {"text": "a\ufffdb"})
        self.assertEqual(self.fields(text="\ud83d\ude00"), {"text": "\U0001f600"})

    def test_keeps_numbers_and_cuts_fractions(self) -> None:
        self.assertEqual(
            self.fields(a=1, b=True, c=None, d=0.1234567, e=float("nan"), f=1e999),
            {"a": 1, "b": True, "c": None, "d": 0.123, "e": None, "f": None},
        )

    def test_keeps_lists(self) -> None:
        self.assertEqual(
            self.fields(a=["b", 1], c=("d", b"e")), {"a": ["b", 1], "c": ["d", "b'e'"]}
        )

    @given(st.dictionaries(st.sampled_from("abcdefgh"), VALUES))
    def test_is_always_one_line_of_ascii_that_is_json(
        self, fields: dict[str, object]
    ) -> None:
        line = record(1700000000.0, fields)
        self.assertTrue(line.endswith("}\n"))
        text = line.removesuffix("\n")
        self.assertTrue(text.isascii())
        self.assertTrue(text.isprintable(), text)
        # A strict reader takes it, too.
        for found in (json.loads(text), msgspec.json.decode(text)):
            self.assertEqual(found["time"], "2023-11-14T22:13:20.000Z")


class MomentTests(SynchronousTestCase):
    """How a time is spelt."""

    def test_is_rfc_3339_in_utc_with_milliseconds(self) -> None:
        for time, text in (
            (0.0, "1970-01-01T00:00:00.000Z"),
            (1700000000.123, "2023-11-14T22:13:20.123Z"),
            (1700000000.9999, "2023-11-14T22:13:20.999Z"),
            (4102444799.5, "2099-12-31T23:59:59.500Z"),
        ):
            self.assertEqual(moment(time), text)
