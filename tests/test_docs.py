"""The documentation says all that the code does. Nothing here needs Sphinx."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from string import Formatter
from typing import get_args

from msgspec import Struct
from msgspec import inspect as types
from twisted.trial.unittest import SynchronousTestCase

from benchmarks import shares
from docs._ext import events, reference
from proxyrelay import config
from proxyrelay.admin.metrics import METRICS
from proxyrelay.admin.prometheus import PREFIX
from proxyrelay.cli import main as cli
from proxyrelay.errors import Refusal
from proxyrelay.service.options import Options
from proxyrelay.switchboard import messages
from proxyrelay.switchboard.delivery import (
    BUSY,
    CROSSED,
    DEAF,
    FOREIGN,
    FULL,
    LEFT,
    SELF,
    SILENT,
)
from proxyrelay.switchboard.directory import UNKNOWN

ROOT = Path(__file__).parent.parent

DOCS = ROOT / "docs"

PAGES = [page for page in sorted(DOCS.rglob("*.rst")) if "_build" not in page.parts]


def page(name: str) -> str:
    """A page as Sphinx gets to see it."""
    return reference.filled((DOCS / f"{name}.rst").read_text(encoding="utf-8"))


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A command, and all below it."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from commands(inner)


class SettingsTests(SynchronousTestCase):
    """The page of all settings."""

    def tables(self) -> Iterator[tuple[str, ...]]:
        yield ()
        for path in config.settings():
            if self.kind(path) is not None:
                yield path

    def kind(self, path: tuple[str, ...]) -> type[Struct] | None:
        """The structure of a table; None for a setting."""
        value: object = config.Config()
        for name in path:
            value = getattr(value, name)
        return type(value) if isinstance(value, Struct) else None

    def test_has_every_setting_once(self) -> None:
        text = page("reference/settings")
        found = re.findall(r"^\.\. confval:: (\S+)$", text, re.MULTILINE)
        expected = [
            ".".join(path) for path in config.settings() if self.kind(path) is None
        ]
        self.assertEqual(sorted(found), sorted(expected))

    def test_has_every_table(self) -> None:
        lines = page("reference/settings").splitlines()
        for path in self.tables():
            title = f"[{'.'.join(path)}]" if path else "At the top of the file"
            self.assertIn(title, lines)

    def test_every_setting_is_described(self) -> None:
        for path in self.tables():
            kind = self.kind(path) or config.Config
            described = reference.described(kind)[1]
            self.assertEqual(list(described), list(kind.__struct_fields__), kind)
            self.assertTrue(all(described.values()), kind)

    def test_tells_type_range_and_default(self) -> None:
        text = page("reference/settings")
        for lines in (
            ":type: whole number, 0 to 65,535\n   :default: ``8700``",
            ":type: path\n   :default: none",
            ':type: list of texts\n   :default: ``["*"]``',
            ":type: number, 0.1 to 8\n   :default: ``8``",
            ":type: true or false\n   :default: ``false``",
            ':type: ``"globus"``\n   :default: none',
        ):
            self.assertIn(lines, text)

    def test_tells_options_aliases_and_what_waits(self) -> None:
        text = page("reference/settings")
        for option in config.OVERRIDES:
            self.assertIn(f"The option ``{option}`` wins over it.", text)
        for alias in config.ALIASES:
            self.assertIn(f"``{alias[-1]}`` is a deprecated spelling of it.", text)
        self.assertIn("It is not reloaded", text)

    def test_every_type_has_words(self) -> None:
        for path in self.tables():
            info = types.type_info(self.kind(path) or config.Config)
            assert isinstance(info, types.StructType)
            for entry in info.fields:
                if not isinstance(entry.type, types.StructType):
                    words = reference.kind_in_words(entry.type)
                    self.assertRegex(
                        words, r"^(whole number|number|text|path|true|list of|``)"
                    )

    def test_a_constant_is_written_as_its_value(self) -> None:
        self.assertNotIn("`AUTHENTICATION_MARGIN_SECONDS`", page("reference/settings"))
        self.assertIn(
            f"at least {config.AUTHENTICATION_MARGIN_SECONDS:g} less",
            page("reference/settings"),
        )


class CloseCodeTests(SynchronousTestCase):
    """The page of close codes."""

    def test_has_every_code(self) -> None:
        lines = page("reference/close-codes").splitlines()
        for kind in Refusal.__subclasses__():
            self.assertIn(f"``{kind.code}``", lines)
        for code in (1000, 1001, 1002, 1007, 1009):
            self.assertIn(f"``{code}``", lines)

    def test_has_every_reason(self) -> None:
        text = page("reference/close-codes")
        found = reference.reasons()
        self.assertEqual(set(found), {k.__name__ for k in Refusal.__subclasses__()})
        for name, reasons in found.items():
            self.assertTrue(reasons, name)
            for reason in reasons:
                self.assertNotEqual(reason, "…", name)
                self.assertIn(f"* ``{reason}``", text)
        self.assertIn("No registration arrived in time.", found["TryAgainLater"])
        self.assertIn(
            "ForbiddenError: The client UUID … is already registered to another user.",
            found["Forbidden"],
        )


class ProtocolTests(SynchronousTestCase):
    """The page of the wire protocol."""

    def test_has_every_message_with_its_fields(self) -> None:
        text = page("reference/protocol")
        for kind in get_args(messages.ClientMessage):
            self.assertIn(f"``{kind.__struct_config__.tag}``", text)
            for name in kind.__struct_fields__:
                self.assertIn(f"   ``{name}``", text)

    def test_has_the_answer_as_it_is(self) -> None:
        self.assertIn(messages.ACCEPTED.decode(), page("reference/protocol"))

    def test_examples_are_messages(self) -> None:
        blocks = re.findall(
            r"^   \.\. code-block:: json\n\n((?:      .*\n)+)",
            page("reference/protocol"),
            re.MULTILINE,
        )
        self.assertEqual(json.loads(blocks.pop(1)), json.loads(messages.ACCEPTED))
        self.assertEqual(len(blocks), 4)
        for block in blocks:
            message = messages.decode(block.encode())
            if isinstance(message, messages.PeerConnection) and not message.error:
                self.assertTrue(messages.is_described(message), block)
        assert isinstance(message, messages.PeerConnection)
        self.assertEqual(message.error, UNKNOWN.format(message.peer_uuid))

    def test_has_every_error_that_comes_back(self) -> None:
        text = page("reference/protocol")
        for error in (
            *(UNKNOWN, FOREIGN, BUSY, LEFT, SILENT, DEAF, FULL),
            *(CROSSED, SELF),
        ):
            self.assertIn(f"* ``{error.format('…')}``\n", text)
        self.assertGreaterEqual(len(reference.errors()), 9)


class MetricTests(SynchronousTestCase):
    """The page of metrics."""

    def test_has_every_metric(self) -> None:
        text = page("reference/metrics")
        for metric in METRICS:
            self.assertIn(f"\n``{PREFIX}{metric.name}`` ({metric.kind})\n", text)
            for word in (*metric.labels, *metric.values):
                self.assertIn(f"``{word}``", text)


class CommandTests(SynchronousTestCase):
    """The page of commands."""

    def test_has_every_command_and_option(self) -> None:
        text = page("reference/cli")
        found = list(commands(cli._parser()))
        self.assertGreater(len(found), 3)
        for command in found:
            start = text.index(f"\n.. program:: {command.prog}\n")
            section = text[start:].split(".. program::", 2)[1]
            for action in command._actions:
                for spelling in action.option_strings:
                    self.assertRegex(section, rf"option::.* ?{spelling}\b")

    def test_has_every_option_of_twistd(self) -> None:
        text = page("reference/cli")
        section = text[text.index(".. program:: twistd proxyrelay") :]
        for long, *_ in Options.optParameters:
            self.assertRegex(section, rf"option::.*--{long} ")


class LogTests(SynchronousTestCase):
    """The page of the log, and what it says of each line."""

    def test_every_line_has_a_name_and_a_constant_text(self) -> None:
        for line in events.logged():
            self.assertTrue(line.event, line.place)
            self.assertTrue(line.format, line.place)
            self.assertTrue(line.level, line.place)

    def test_every_event_has_words_and_no_others_have(self) -> None:
        logged = {line.event for line in events.logged()}
        self.assertEqual(logged, set(events.EVENTS))
        audited = {line.event for line in events.audited()}
        self.assertEqual(audited, set(events.AUDIT_EVENTS))

    def test_every_field_has_words_and_no_others_have(self) -> None:
        fields = {
            name
            for line in (*events.logged(), *events.audited())
            for name in line.fields
            if not name.startswith("_")
        }
        self.assertEqual(fields, set(events.FIELDS))
        # Nor does one hide what every line has.
        self.assertEqual(fields & set(events.COMMON), set())

    def test_every_text_finds_its_fields(self) -> None:
        for line in events.logged():
            named = {name for _, name, _, _ in Formatter().parse(line.format) if name}
            self.assertLessEqual(named, set(line.fields), line.place)

    def test_events_of_one_name_have_the_same_fields(self) -> None:
        """But for defects, and for a word at the end."""
        for lines in (list(events.logged()), list(events.audited())):
            for event in {line.event for line in lines} - {"defect", "stopping"}:
                found = {line.fields for line in lines if line.event == event}
                self.assertEqual(len(found), 1, event)

    def test_the_page_has_every_event_and_field(self) -> None:
        text = page("reference/log")
        for name in (
            *(*events.EVENTS, *events.AUDIT_EVENTS),
            *(*events.FIELDS, *events.COMMON),
        ):
            self.assertRegex(text, rf"(?m)^``{name}``$")

    def test_the_page_has_what_is_written(self) -> None:
        """Each line that a page shows has the fields that the code gives it."""
        shown = 0
        for name in ("reference/log", "guides/logging"):
            for text in re.findall(r"^    (\{.*\})$", page(name), re.MULTILINE):
                shown += 1
                found = json.loads(text)
                logged = "message" in found
                lines = events.logged() if logged else events.audited()
                (fields,) = {
                    line.fields for line in lines if line.event == found["event"]
                }
                common = list(events.COMMON) if logged else ["time", "event"]
                self.assertEqual(list(found), [*common, *fields])
        self.assertEqual(shown, 2)


class PageTests(SynchronousTestCase):
    """All pages."""

    def test_ask_only_for_what_there_is(self) -> None:
        for path in PAGES:
            text = path.read_text(encoding="utf-8")
            filled = reference.filled(text)
            self.assertNotIn(".. generated::", filled, path)
        with self.assertRaises(KeyError):
            reference.filled(".. generated:: nothing\n")

    def test_name_only_settings_that_there_are(self) -> None:
        known = {".".join(path) for path in config.settings()}
        for path in PAGES:
            for name in re.findall(r":confval:`([^`]+)`", path.read_text()):
                self.assertIn(name, known, path)

    def test_include_only_files_that_there_are(self) -> None:
        for path in PAGES:
            for name in re.findall(
                r"^\.\. (?:literalinclude|include|image):: (\S+)$",
                path.read_text(),
                re.MULTILINE,
            ):
                self.assertTrue((path.parent / name).exists(), (path, name))

    def test_settings_in_examples_are_taken(self) -> None:
        """Each piece of a relay.toml that a page shows."""
        shown = 0
        for path in PAGES:
            for block in re.findall(
                r"^\.\. code-block:: toml\n(?:   :.*\n)*\n((?:   .*\n|\n)+)",
                path.read_text(),
                re.MULTILINE,
            ):
                shown += 1
                file = Path(self.mktemp())
                file.write_text(re.sub("^   ", "", block, flags=re.MULTILINE))
                self.assertEqual(config.load(file).problems, [], (path, block))
        self.assertGreater(shown, 2)

    def test_the_readme_leads_to_files_that_there_are(self) -> None:
        text = (ROOT / "README.rst").read_text(encoding="utf-8")
        named = re.findall(r"<([^>:]+)>`_|image:: (\S+)", text)
        self.assertGreater(len(named), 8)
        for link, image in named:
            self.assertTrue((ROOT / (link or image)).is_file(), link or image)

    def test_the_readme_shows_what_was_measured(self) -> None:
        text = (ROOT / "README.rst").read_text(encoding="utf-8")
        shown = set(re.findall(r"^(.{26}) (?:us CPU|kB) +(.*)$", text, re.MULTILINE))
        measured = json.loads((DOCS / "explanation/comparison.json").read_text())
        found = {
            (
                row["title"].ljust(26),
                *(
                    reference._number(median(row[relay]))
                    for relay in ("ours", "theirs")
                ),
                f"{row['ratio']:.2g}",
            )
            for row in measured["rows"]
            if row["ratio"] is not None
        }
        self.assertEqual(len(shown), 6)
        self.assertLessEqual({(title, *cells.split()) for title, cells in shown}, found)

    def test_the_readme_names_every_command(self) -> None:
        text = (ROOT / "README.rst").read_text(encoding="utf-8")
        for parser in commands(cli._parser()):
            if len(parser.prog.split()) == 2:
                self.assertIn(f"``{parser.prog}``", text)

    def test_an_index_describes_each_page(self) -> None:
        """One line for each page of a folder."""
        for path in DOCS.glob("*/index.rst"):
            text = path.read_text(encoding="utf-8")
            for other in path.parent.glob("*.rst"):
                if other != path:
                    self.assertRegex(
                        text, rf"(?m)^:doc:`{other.stem}`\n    \S", (path, other)
                    )


class ShareTests(SynchronousTestCase):
    """What samples of a relay are counted for."""

    RAW = (
        "run (twisted/internet/base.py:1);EPollReactor.doPoll (t/epollreactor.py:2) 50",
        "doRead (twisted/tcp.py:1);decode (proxyrelay/switchboard/messages.py:5) 20",
        "decode (proxyrelay/switchboard/messages.py:5);helper (elsewhere.py:1) 10",
        "main (elsewhere.py:1) 20",
    )

    def test_the_innermost_known_place_counts(self) -> None:
        self.assertEqual(
            shares.samples(self.RAW),
            {shares.WAIT: 50, "JSON": 30, shares.REST: 20},
        )

    def test_the_wait_is_cut_to_the_time_that_is_left(self) -> None:
        found = shares.samples(self.RAW)
        for awake, waiting in ((200.0, 50), (60.0, 10), (50.0, 0)):
            parts = shares.shares(found, awake)
            self.assertAlmostEqual(parts[shares.WAIT], waiting / (50 + waiting))
            self.assertAlmostEqual(sum(parts.values()), 1)
