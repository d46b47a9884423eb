"""Lines and tables on a terminal, and plain text elsewhere."""

from __future__ import annotations

import io
import os
import sys
from contextlib import redirect_stdout
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.cli import terminal

EVIL = "[red]a[/red] :smile:"
LINES = ["no problems", f"name: {EVIL}", "problem: x: y", "state: ready"]


class Terminal(io.StringIO):
    """A terminal that shows nothing."""

    def isatty(self) -> bool:
        return True


class TerminalTests(SynchronousTestCase):
    """What is printed where."""

    def setUp(self) -> None:
        self.place = {"TERM": "xterm", "COLUMNS": "150", "LINES": "40"}

    def shown(self, stream: io.StringIO, **variables: str) -> str:
        """Output of some lines."""
        with mock.patch.dict(os.environ, self.place | variables, clear=True):
            terminal.show(LINES, stream)
        return stream.getvalue()

    def tabled(self, stream: io.StringIO, **variables: str) -> str | None:
        """Output of a table; None if it is not printed."""
        rows = [["a" * 36, EVIL, ""], ["b" * 36, "x" * 200, ""]]
        with (
            mock.patch.dict(os.environ, self.place | variables, clear=True),
            redirect_stdout(stream),
        ):
            done = terminal.show_table(["clients: 2"], ["UUID", "name", "marks"], rows)
        return stream.getvalue() if done else None

    def test_lines_elsewhere_are_plain(self) -> None:
        plain = "\n".join(LINES) + "\n"
        self.assertEqual(self.shown(io.StringIO()), plain)
        self.assertEqual(self.shown(io.StringIO(), FORCE_COLOR="1"), plain)
        self.assertEqual(self.shown(Terminal(), TERM="dumb"), plain)
        with mock.patch.dict(sys.modules, {"rich.console": None}):
            self.assertEqual(self.shown(Terminal()), plain)

    def test_lines_on_terminal_have_colours_but_no_markup(self) -> None:
        text = self.shown(Terminal())
        self.assertIn("\x1b[1;32mno problems\x1b[0m", text)
        self.assertIn("\x1b[1;31mproblem\x1b[0m", text)
        self.assertIn(EVIL, text)

    def test_lines_with_no_color_have_none(self) -> None:
        text = self.shown(Terminal(), NO_COLOR="1")
        self.assertNotRegex(text, r"\x1b\[[0-9;]*3[0-9]")
        self.assertIn("x: y", text)

    def test_table_needs_a_wide_terminal(self) -> None:
        self.assertIsNone(self.tabled(io.StringIO()))
        self.assertIsNone(self.tabled(Terminal(), COLUMNS="80"))
        text = self.tabled(Terminal(), NO_COLOR="1") or ""
        for words in (EVIL, "a" * 36, "UUID", "clients"):
            self.assertIn(words, text)
        self.assertEqual(text.count("x"), 200)
        # An empty column takes no room.
        self.assertNotIn("marks", text)

    def test_address_in_a_full_table_is_whole(self) -> None:
        rows = [[60 * "n", "192.0.2.100:54321", 60 * "m"]]
        with (
            mock.patch.dict(os.environ, self.place | {"COLUMNS": "130"}, clear=True),
            redirect_stdout(Terminal()) as stream,
        ):
            self.assertTrue(terminal.show_table([], ["name", "from", "marks"], rows))
        self.assertIn("192.0.2.100:54321", stream.getvalue())

    def test_nothing_to_show_prints_nothing(self) -> None:
        stream = io.StringIO()
        terminal.show([], stream)
        self.assertEqual(stream.getvalue(), "")
        with redirect_stdout(stream):
            self.assertEqual(terminal.drawn(LINES), LINES)

    def test_lines_drawn_are_those_shown(self) -> None:
        with (
            mock.patch.dict(os.environ, self.place, clear=True),
            redirect_stdout(Terminal()),
        ):
            drawn = terminal.drawn(LINES)
        self.assertEqual("\n".join(drawn) + "\n", self.shown(Terminal()))
