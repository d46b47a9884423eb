"""One JSON object a line."""

from __future__ import annotations

import json

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
    """Values in a line."""

    def test_record_has_the_time_first(self) -> None:
        self.assertEqual(
            record(1700000000.25, {"event": "left", "count": 1}),
            '{"time":"2023-11-14T22:13:20.250Z","event":"left","count":1}\n',
        )

    def test_record_values_come_back(self) -> None:
        texts = ("größe 大", "a\nb\x1b[2J\x7f", "\u202e", "\U0001f600", '"\\', "")
        for value, read in (
            *((text, text) for text in texts),
            # Half a surrogate pair is no text.
            ("a\ud800b", "a\ufffdb"),
            ("\ud83d\ude00", "\U0001f600"),
            (1, 1),
            (True, True),
            (None, None),
            (0.1234567, 0.123),
            (float("nan"), None),
            (1e999, None),
            (["b", 1], ["b", 1]),
            (("d", b"e"), ["d", "b'e'"]),
        ):
            found = json.loads(record(0.0, {"value": value}))
            self.assertEqual(found["value"], read)

    @given(st.dictionaries(st.sampled_from("abcdefgh"), VALUES))
    def test_record_any_fields_is_one_line_of_ascii(
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

    def test_moment_is_rfc_3339_in_utc_with_milliseconds(self) -> None:
        for time, text in (
            (0.0, "1970-01-01T00:00:00.000Z"),
            (1700000000.123, "2023-11-14T22:13:20.123Z"),
            (1700000000.9999, "2023-11-14T22:13:20.999Z"),
            (4102444799.5, "2099-12-31T23:59:59.500Z"),
        ):
            self.assertEqual(moment(time), text)
