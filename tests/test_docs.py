"""The documentation says all that the code does. Nothing here needs Sphinx."""

from __future__ import annotations

import argparse
import functools
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
    UNKNOWN,
)

ROOT = Path(__file__).parent.parent

DOCS = ROOT / "docs"

PAGES = [page for page in sorted(DOCS.rglob("*.rst")) if "_build" not in page.parts]


@functools.cache
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

    def test_settings_page_has_every_setting_and_table_once(self) -> None:
        text = page("reference/settings")
        found = re.findall(r"^\.\. confval:: (\S+)$", text, re.MULTILINE)
        expected = [
            ".".join(path) for path in config.settings() if self.kind(path) is None
        ]
        self.assertEqual(sorted(found), sorted(expected))
        lines = text.splitlines()
        for path in self.tables():
            title = f"[{'.'.join(path)}]" if path else "At the top of the file"
            self.assertIn(title, lines)
            kind = self.kind(path) or config.Config
            described = reference.described(kind)[1]
            self.assertEqual(list(described), list(kind.__struct_fields__), kind)
            self.assertTrue(all(described.values()), kind)

    def test_settings_page_tells_types_options_and_constants(self) -> None:
        text = page("reference/settings")
        for words in (
            ":type: whole number, 0 to 65,535\n   :default: ``8700``",
            ":type: path\n   :default: none",
            ':type: list of texts\n   :default: ``["*"]``',
            ":type: number, 0.1 to 8\n   :default: ``8``",
            ":type: true or false\n   :default: ``false``",
            ':type: ``"globus"``\n   :default: none',
            *(f"The option ``{name}`` wins over it." for name in config.OVERRIDES),
            *(
                f"``{alias[-1]}`` is a deprecated spelling of it."
                for alias in config.ALIASES
            ),
            "It is not reloaded",
            f"at least {config.AUTHENTICATION_MARGIN_SECONDS:g} less",
        ):
            self.assertIn(words, text)
        self.assertNotIn("`AUTHENTICATION_MARGIN_SECONDS`", text)

    def test_type_of_every_setting_has_words(self) -> None:
        for path in self.tables():
            info = types.type_info(self.kind(path) or config.Config)
            assert isinstance(info, types.StructType)
            for entry in info.fields:
                if not isinstance(entry.type, types.StructType):
                    words = reference.kind_in_words(entry.type)
                    self.assertRegex(
                        words, r"^(whole number|number|text|path|true|list of|``)"
                    )


class ReferenceTests(SynchronousTestCase):
    def test_close_codes_page_has_every_code_and_reason(self) -> None:
        text = page("reference/close-codes")
        codes = [kind.code for kind in Refusal.__subclasses__()]
        for code in (*codes, 1000, 1001, 1002, 1007, 1009):
            self.assertIn(f"``{code}``", text.splitlines())
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

    def test_protocol_page_has_every_message_field_and_error(self) -> None:
        text = page("reference/protocol")
        for kind in get_args(messages.ClientMessage):
            self.assertIn(f"``{kind.__struct_config__.tag}``", text)
            for name in kind.__struct_fields__:
                self.assertIn(f"   ``{name}``", text)
        self.assertIn(messages.ACCEPTED.decode(), text)
        for error in (UNKNOWN, FOREIGN, BUSY, LEFT, SILENT, DEAF, FULL, CROSSED, SELF):
            self.assertIn(f"* ``{error.format('…')}``\n", text)
        self.assertGreaterEqual(len(reference.errors()), 9)

    def test_examples_of_the_protocol_page_are_messages(self) -> None:
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
                self.assertIsNotNone(messages.sdp_of(message), block)
        assert isinstance(message, messages.PeerConnection)
        self.assertEqual(message.error, UNKNOWN.format(message.peer_uuid))

    def test_metrics_page_has_every_metric(self) -> None:
        text = page("reference/metrics")
        for metric in METRICS:
            self.assertIn(f"\n``{PREFIX}{metric.name}`` ({metric.kind})\n", text)
            for word in (*metric.labels, *metric.values):
                self.assertIn(f"``{word}``", text)

    def test_command_page_has_every_command_and_option(self) -> None:
        text = page("reference/cli")
        found = list(commands(cli._parser()))
        self.assertGreater(len(found), 3)
        for command in found:
            start = text.index(f"\n.. program:: {command.prog}\n")
            section = text[start:].split(".. program::", 2)[1]
            for action in command._actions:
                for spelling in action.option_strings:
                    self.assertRegex(section, rf"option::.* ?{spelling}\b")

        section = text[text.index(".. program:: twistd proxyrelay") :]
        for long, *_ in Options.optParameters:
            self.assertRegex(section, rf"option::.*--{long} ")


class LogTests(SynchronousTestCase):
    def test_every_line_has_a_name_and_a_constant_text_of_its_fields(self) -> None:
        for line in events.logged():
            self.assertTrue(line.event and line.format and line.level, line.place)
            named = {name for _, name, _, _ in Formatter().parse(line.format) if name}
            self.assertLessEqual(named, set(line.fields), line.place)

    def test_events_and_no_others_have_words(self) -> None:
        logged = {line.event for line in events.logged()}
        self.assertEqual(logged, set(events.EVENTS))
        audited = {line.event for line in events.audited()}
        self.assertEqual(audited, set(events.AUDIT_EVENTS))

    def test_fields_and_no_others_have_words(self) -> None:
        fields = {
            name
            for line in (*events.logged(), *events.audited())
            for name in line.fields
            if not name.startswith("_")
        }
        self.assertEqual(fields, set(events.FIELDS))
        # Nor does one hide what every line has.
        self.assertEqual(fields & set(events.COMMON), set())

    def test_events_of_one_name_have_the_same_fields(self) -> None:
        """But for defects, and for a word at the end."""
        for lines in (list(events.logged()), list(events.audited())):
            for event in {line.event for line in lines} - {"defect", "stopping"}:
                found = {line.fields for line in lines if line.event == event}
                self.assertEqual(len(found), 1, event)

    def test_log_page_has_every_event_and_field(self) -> None:
        text = page("reference/log")
        for name in (
            *(*events.EVENTS, *events.AUDIT_EVENTS),
            *(*events.FIELDS, *events.COMMON),
        ):
            self.assertRegex(text, rf"(?m)^``{name}``$")

    def test_lines_on_pages_have_the_fields_of_the_code(self) -> None:
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
    def test_pages_name_only_settings_and_files_that_there_are(self) -> None:
        known = {".".join(path) for path in config.settings()}
        included = r"^\.\. (?:literalinclude|include|image):: (\S+)$"
        for path in PAGES:
            text = path.read_text(encoding="utf-8")
            self.assertNotIn(".. generated::", reference.filled(text), path)
            for name in re.findall(r":confval:`([^`]+)`", text):
                self.assertIn(name, known, path)
            for name in re.findall(included, text, re.MULTILINE):
                self.assertTrue((path.parent / name).exists(), (path, name))
        with self.assertRaises(KeyError):
            reference.filled(".. generated:: nothing\n")

    def test_settings_in_examples_are_valid(self) -> None:
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

    def test_readme_names_files_that_there_are_and_every_command(self) -> None:
        text = (ROOT / "README.rst").read_text(encoding="utf-8")
        named = re.findall(r"<([^>:]+)>`_|image:: (\S+)", text)
        self.assertGreater(len(named), 8)
        for link, image in named:
            self.assertTrue((ROOT / (link or image)).is_file(), link or image)
        for parser in commands(cli._parser()):
            if len(parser.prog.split()) == 2:
                self.assertIn(f"``{parser.prog}``", text)

    def test_readme_shows_measured_figures(self) -> None:
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

    def test_index_of_a_folder_describes_each_page(self) -> None:
        for path in DOCS.glob("*/index.rst"):
            text = path.read_text(encoding="utf-8")
            for other in path.parent.glob("*.rst"):
                if other != path:
                    self.assertRegex(
                        text, rf"(?m)^:doc:`{other.stem}`\n    \S", (path, other)
                    )


class ShareTests(SynchronousTestCase):
    RAW = (
        "run (twisted/internet/base.py:1);EPollReactor.doPoll (t/epollreactor.py:2) 50",
        "doRead (twisted/tcp.py:1);decode (proxyrelay/switchboard/messages.py:5) 20",
        "decode (proxyrelay/switchboard/messages.py:5);helper (elsewhere.py:1) 10",
        "main (elsewhere.py:1) 20",
    )

    def test_sample_counts_for_its_innermost_known_place(self) -> None:
        self.assertEqual(
            shares.samples(self.RAW),
            {shares.WAIT: 50, "JSON": 30, shares.REST: 20},
        )

    def test_wait_is_cut_to_the_time_that_is_left(self) -> None:
        found = shares.samples(self.RAW)
        for awake, waiting in ((200.0, 50), (60.0, 10), (50.0, 0)):
            parts = shares.shares(found, awake)
            self.assertAlmostEqual(parts[shares.WAIT], waiting / (50 + waiting))
            self.assertAlmostEqual(sum(parts.values()), 1)
