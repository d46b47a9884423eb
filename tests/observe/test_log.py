"""Where log lines go, and how they look."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal, TextIO, cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import (
    LogEvent,
    Logger,
    LogLevel,
    PredicateResult,
    formatTime,
)
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.config import Level, Logging
from proxyrelay.errors import ConfigError
from proxyrelay.observe import log as logs
from tests.support.recording import RecordingPeer

LEVELS: tuple[tuple[Level, Any], ...] = (
    ("DEBUG", LogLevel.debug),
    ("INFO", LogLevel.info),
    ("WARNING", LogLevel.warn),
    ("ERROR", LogLevel.error),
    ("CRITICAL", LogLevel.critical),
)


def event(format_: str = "{text}", **fields: Any) -> LogEvent:
    """An event as a logger of the relay makes it."""
    return {
        "log_format": format_,
        "log_level": LogLevel.info,
        "log_namespace": "proxyrelay",
        "log_time": 1700000000.0,
        **fields,
    }


class LineTests(SynchronousTestCase):
    """How an event looks."""

    WHEN = formatTime(1700000000.0, timeFormat="%Y-%m-%d %H:%M:%S%z")

    def line(self, format_: str = "{text}", **fields: Any) -> str:
        line = logs.line(event(format_, **fields))
        assert line is not None
        return line

    def text(self, format_: str = "{text}", **fields: Any) -> str:
        """A line without its time and level."""
        line = self.line(format_, **fields)
        start = f"{self.WHEN} INFO     "
        self.assertTrue(line.startswith(start), line)
        self.assertTrue(line.endswith("\n"), line)
        return line.removeprefix(start).removesuffix("\n")

    def test_is_time_level_and_text(self) -> None:
        self.assertEqual(
            self.line("{a} and {b!a}", a=1, b="é"),
            f"{self.WHEN} INFO     1 and '\\xe9'\n",
        )
        self.assertRegex(self.WHEN, r"^2023-11-1\d \d\d:\d\d:20[+-]\d{4}$")

    def test_spells_levels_as_the_settings_do(self) -> None:
        for name, level in LEVELS:
            line = self.line("x", log_level=level)
            self.assertEqual(line, f"{self.WHEN} {name:<8} x\n")

    def test_has_a_level_for_every_event(self) -> None:
        bare = event("x")
        del bare["log_level"]
        self.assertEqual(logs.line(bare), f"{self.WHEN} INFO     x\n")

    def test_an_event_without_a_text_is_no_line(self) -> None:
        self.assertIsNone(logs.line({"log_level": LogLevel.info}))
        self.assertIsNone(logs.line(event("")))

    def test_escapes_what_breaks_lines(self) -> None:
        for character, escaped in (
            ("\n", "\\n"),
            ("\r", "\\r"),
            ("\v", "\\x0b"),
            ("\f", "\\x0c"),
            ("\x1c", "\\x1c"),
            ("\x85", "\\x85"),
            ("\u2028", "\\u2028"),
            ("\u2029", "\\u2029"),
        ):
            self.assertEqual(self.text(text=f"a{character}b"), f"a{escaped}b")

    def test_escapes_what_controls_a_terminal(self) -> None:
        for character, escaped in (
            ("\0", "\\x00"),
            ("\x07", "\\x07"),
            ("\x08", "\\x08"),
            ("\t", "\\t"),
            ("\x1b", "\\x1b"),
            ("\x7f", "\\x7f"),
            ("\x9b", "\\x9b"),
            ("\u202e", "\\u202e"),
            ("\u200b", "\\u200b"),
            ("\ufeff", "\\ufeff"),
            ("\ud800", "\\ud800"),
            ("\U000e0001", "\\U000e0001"),
        ):
            self.assertEqual(self.text(text=f"a{character}[2Jb"), f"a{escaped}[2Jb")

    def test_every_character_is_printable(self) -> None:
        everything = "".join(map(chr, range(0x3000))) + "\ud800\udfff\U0010ffff"
        self.assertTrue(self.text(text=everything).isprintable())

    def test_leaves_letters_as_they_are(self) -> None:
        self.assertEqual(self.text(text="größe 大 \\n"), "größe 大 \\n")

    def test_a_forged_line_stays_inside_its_line(self) -> None:
        forged = "x\n2026-01-01 00:00:00+0000 CRITICAL all is lost"
        for line in (self.line(text=forged), self.line("{text!a}", text=forged)):
            self.assertEqual(line.count("\n"), 1)

    def test_does_not_interpret_the_fields(self) -> None:
        for text in (
            "{log_source}",
            "{name.__class__}",
            "{log_namespace}",
            "{0}",
            "{",
            "%(text)s",
            "{text()}",
        ):
            self.assertEqual(self.text(text=text), text)
            self.assertEqual(self.text("{text!a}", text=text), repr(text))

    def failure(self, text: str = "why") -> Failure:
        try:
            raise ValueError(text)
        except ValueError:
            return Failure()

    def test_keeps_the_lines_of_a_traceback(self) -> None:
        line = self.line("{what}", what="it failed", log_failure=self.failure())
        lines = line.splitlines()
        self.assertEqual(lines[0], f"{self.WHEN} INFO     it failed")
        self.assertEqual(lines[1], "    Traceback (most recent call last):")
        self.assertIn("    builtins.ValueError: why", lines)
        self.assertTrue(all(line.startswith("    ") for line in lines[1:]))

    def test_a_traceback_ends_without_an_empty_line(self) -> None:
        line = self.line("{what}", what="it failed", log_failure=self.failure())
        self.assertTrue(line.endswith("builtins.ValueError: why\n"), line)

    def test_escapes_inside_a_traceback(self) -> None:
        line = self.line("x", log_failure=self.failure("\x1b[2J\r\0"))
        self.assertIn("builtins.ValueError: \\x1b[2J\\r\\x00", line)

    def test_a_text_from_outside_cannot_forge_a_line_before_a_traceback(self) -> None:
        forged = "x\n2026-01-01 00:00:00+0000 CRITICAL all is lost"
        line = self.line("{text}", text=forged, log_failure=self.failure())
        self.assertNotIn("\n2026-01-01 00:00:00+0000 CRITICAL", line)


class RecordTests(SynchronousTestCase):
    """How an event looks to machines."""

    def fields(self, format_: str = "{text}", **fields: Any) -> dict[str, Any]:
        record = logs.record(event(format_, **fields))
        assert record is not None
        self.assertTrue(record.isascii())
        self.assertEqual(record.count("\n"), 1)
        found: dict[str, Any] = json.loads(record)
        return found

    def failure(self) -> Failure:
        try:
            raise ValueError("why \n\x1b")
        except ValueError:
            return Failure()

    def test_has_what_all_have_and_then_what_the_event_has(self) -> None:
        found = self.fields(
            "left {uuid} {name!a}", event="left", uuid="u", name="\xe9\n", count=1
        )
        self.assertEqual(
            list(found.items()),
            [
                ("time", "2023-11-14T22:13:20.000Z"),
                ("level", "INFO"),
                ("event", "left"),
                ("message", "left u '\\xe9\\n'"),
                ("logger", "proxyrelay"),
                ("pid", os.getpid()),
                ("uuid", "u"),
                ("name", "\xe9\n"),
                ("count", 1),
            ],
        )

    def test_spells_levels_as_the_settings_do(self) -> None:
        for name, level in LEVELS:
            self.assertEqual(self.fields("x", log_level=level)["level"], name)

    def test_leaves_out_what_is_only_for_the_text(self) -> None:
        found = self.fields("a{_b}", event="e", _b="c")
        self.assertEqual(found["message"], "ac")
        self.assertNotIn("_b", found)

    def test_a_traceback_is_one_field(self) -> None:
        found = self.fields("it failed", log_failure=self.failure())
        self.assertEqual((found["event"], found["message"]), ("defect", "it failed"))
        first, *_, last = found["traceback"].splitlines()
        self.assertEqual(first, "Traceback (most recent call last):")
        self.assertEqual(last, "\x1b")
        self.assertIn("\nbuiltins.ValueError: why \n", found["traceback"])

    def test_a_line_of_a_library_has_no_fields_of_its_own(self) -> None:
        found = self.fields(
            "hello {who}", who="you", event="left", log_namespace="autobahn.x"
        )
        self.assertEqual(
            list(found), ["time", "level", "event", "message", "logger", "pid"]
        )
        self.assertEqual(
            (found["event"], found["message"], found["logger"]),
            ("other", "hello you", "autobahn.x"),
        )

    def test_what_twisted_adds_for_older_observers_is_left_out(self) -> None:
        before = self.fields("x", event="e")
        adds = {"time": 1, "system": "-", "isError": 0, "format": "%(x)s"}
        self.assertEqual(self.fields("x", event="e", message=(), **adds), before)

    def test_an_event_without_a_text_is_no_line(self) -> None:
        self.assertIsNone(logs.record({"log_level": LogLevel.info}))
        self.assertIsNone(logs.record(event("")))

    @given(st.text(st.characters(exclude_categories=())))
    def test_is_one_line_whatever_a_client_chose(self, text: str) -> None:
        found = self.fields("registered {name!a} {text}", name=text, text=text)
        halves = any("\ud800" <= character <= "\udfff" for character in text)
        if not halves:
            self.assertEqual(found["name"], text)


class LevelsTests(SynchronousTestCase):
    """Which events are let through."""

    def passes(self, settings: Logging, namespace: str, level: Any) -> bool:
        answer = logs.levels(settings)(
            event("x", log_namespace=namespace, log_level=level)
        )
        return answer is not PredicateResult.no

    def assertLeast(  # noqa: N802 - as trial spells it
        self, settings: Logging, namespace: str, least: Any
    ) -> None:
        for _, level in LEVELS:
            self.assertEqual(
                self.passes(settings, namespace, level),
                level >= least,
                (settings, namespace, level),
            )

    def test_the_relay_has_the_default_level(self) -> None:
        for name, level in LEVELS:
            for namespace in (
                "proxyrelay",
                "proxyrelay.observe.log_observer.LogObserver",
                "elsewhere",
            ):
                self.assertLeast(Logging(default_level=name), namespace, level)

    def test_the_library_has_its_own_level(self) -> None:
        for name, level in LEVELS[1:]:
            for namespace in ("autobahn", "autobahn.twisted.websocket", "txaio"):
                for default, _ in LEVELS:
                    settings = Logging(default_level=default, websockets_level=name)
                    self.assertLeast(settings, namespace, level)

    def test_the_library_never_writes_requests(self) -> None:
        for default, _ in LEVELS:
            settings = Logging(default_level=default, websockets_level="DEBUG")
            for namespace in ("autobahn", "autobahn.websocket.protocol", "txaio"):
                self.assertLeast(settings, namespace, LogLevel.info)

    def test_twisted_is_for_those_who_debug(self) -> None:
        for namespace in ("twisted.internet.tcp.Port", "log_legacy"):
            self.assertLeast(Logging(), namespace, LogLevel.warn)
            for name, level in LEVELS:
                if name != "INFO":
                    self.assertLeast(Logging(default_level=name), namespace, level)


class ObserverTests(SynchronousTestCase):
    """Where the lines go."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.stdout = self.output("utf-8")

    def output(self, encoding: str) -> TextIO:
        """What stands for standard output: a file."""
        file = Path(self.mktemp()).open("w+", encoding=encoding)  # noqa: SIM115
        self.addCleanup(file.close)
        return file

    def observer(self, settings: Logging, stdout: bool = True) -> logs.Log:
        observer = logs.observer(settings, self.stdout if stdout else None)
        assert observer is not None
        self.addCleanup(observer.close)
        return observer

    def written(self, observer: logs.Log) -> str:
        """What is on standard output at the end."""
        observer.close()
        self.stdout.seek(0)
        return self.stdout.read()

    def file(self, observer: logs.Log) -> str:
        """What is in the file at the end."""
        observer.close()
        return (self.folder / "proxyrelay.log").read_text(encoding="utf-8")

    def refused(self, folder: Path) -> str:
        with self.assertRaises(ConfigError) as caught:
            logs.observer(Logging(log_dir=folder), self.stdout)
        (problem,) = caught.exception.problems
        self.assertEqual(problem.key, "logging.log_dir")
        return str(problem.message)

    def test_without_an_outlet_there_is_none(self) -> None:
        self.assertIsNone(logs.observer(Logging(), None))

    def test_writes_to_standard_output(self) -> None:
        observer = self.observer(Logging())
        observer(event("hello"))
        text = self.written(observer)
        self.assertTrue(text.endswith(" INFO     hello\n"))
        self.assertEqual(text.count("\n"), 1)

    def test_filters_by_level(self) -> None:
        observer = self.observer(Logging(default_level="ERROR"))
        observer(event("quiet"))
        observer(event("loud", log_level=LogLevel.error))
        observer(event("quiet", log_namespace="autobahn"))
        observer(event("loud", log_namespace="autobahn", log_level=LogLevel.warn))
        lines = self.written(observer).splitlines()
        self.assertEqual([line.split()[-1] for line in lines], ["loud", "loud"])

    def test_takes_on_other_levels(self) -> None:
        observer = self.observer(Logging())
        levels: tuple[Level, ...] = ("ERROR", "INFO")
        for level in levels:
            observer(event("before"))
            observer.change(Logging(default_level=level))
            observer(event("after"))
        lines = self.written(observer).splitlines()
        self.assertEqual([line.split()[-1] for line in lines], ["before", "after"])

    def test_writes_for_machines_in_both_places(self) -> None:
        observer = self.observer(Logging(log_dir=self.folder, format="json"))
        observer(event("hello", event="greeting"))
        text = self.written(observer)
        self.assertEqual(self.file(observer), text)
        self.assertEqual(json.loads(text)["event"], "greeting")

    def test_takes_on_another_format(self) -> None:
        observer = self.observer(Logging())
        formats: tuple[Literal["text", "json"], ...] = ("json", "text")
        for each in formats:
            observer(event("hello"))
            observer.change(Logging(format=each))
        observer(event("hello"))
        starts = [line[0] for line in self.written(observer).splitlines()]
        self.assertEqual(starts, ["2", "{", "2"])

    def test_formats_an_event_before_its_fields_change(self) -> None:
        observer = self.observer(Logging())
        names = ["before"]
        observer(event("{names}", names=names))
        names[:] = ["after"]
        self.assertIn("['before']", self.written(observer))

    def test_two_relays_may_write_to_a_file(self) -> None:
        settings = Logging(log_dir=self.folder)
        one, other, third = (self.observer(settings, stdout=False) for _ in "abc")
        for observer, word in ((one, "long " * 9), (other, "b"), (third, "c")):
            observer(event("{word}", word=word))
            observer.close()
        lines = self.file(one).splitlines()
        self.assertEqual([line.split()[-1] for line in lines], ["long", "b", "c"])

    def test_writes_to_a_folder_that_it_makes(self) -> None:
        folder = self.folder / "a" / "b"
        for stdout in (True, False):
            observer = self.observer(Logging(log_dir=folder), stdout)
            observer(event("hello"))
            observer.close()
        lines = (folder / "proxyrelay.log").read_text().splitlines()
        self.assertEqual(len(lines), 2)
        self.assertEqual(self.written(observer), lines[0] + "\n")

    def test_continues_the_file_that_is_there(self) -> None:
        (self.folder / "proxyrelay.log").write_text("before\n")
        observer = self.observer(Logging(log_dir=self.folder))
        observer(event("hello"))
        lines = self.file(observer).splitlines()
        self.assertEqual((len(lines), lines[0]), (2, "before"))

    def test_writes_utf_8_to_its_file(self) -> None:
        observer = self.observer(Logging(log_dir=self.folder))
        observer(event("größe 大"))
        self.assertIn("größe 大", self.file(observer))

    def test_writes_to_standard_output_what_that_can_show(self) -> None:
        self.stdout = self.output("latin-1")
        observer = self.observer(Logging())
        observer(event("größe 大"))
        self.assertIn("größe \\u5927", self.written(observer))

    def test_opens_its_file_anew(self) -> None:
        observer = self.observer(Logging(log_dir=self.folder))
        path = self.folder / "proxyrelay.log"
        path.rename(self.folder / "old")
        observer.reopen()
        self.assertEqual(self.file(observer), "")

    def test_says_in_their_place_how_many_lines_are_missing(self) -> None:
        for each, words in (
            ("text", " WARNING  lines are missing here.*: 3\n$"),
            ("json", '"event":"gap",.*,"count":3}\n$'),
        ):
            settings = Logging(format=cast(Any, each), default_level="CRITICAL")
            gap = self.observer(settings).gap(3)
            self.assertRegex(gap, words)
            self.assertEqual(gap.count("\n"), 1)

    def test_tells_the_other_places_of_trouble_at_one(self) -> None:
        observer = self.observer(Logging(log_dir=self.folder))
        self.patch(observer, "_log", Logger("proxyrelay", observer=observer))
        _, file = observer.writers
        observer.fails(file, "No space left on device")
        observer.resumes(file, 7)
        self.assertEqual(self.file(observer), "")
        first, second = self.written(observer).splitlines()
        self.assertRegex(first, f"ERROR .*{file.name} .*: No space left on device; ")
        self.assertRegex(second, f"WARNING .*{file.name} is written again; .*: 7$")
        self.assertEqual(observer.lost, 0)

    def test_a_folder_that_is_a_file(self) -> None:
        path = self.folder / "file"
        path.write_text("")
        for folder in (path, path / "logs"):
            message = self.refused(folder)
            self.assertTrue(
                message.startswith(f"{folder} cannot be written: "), message
            )
            self.assertNotIn("None", message)

    def test_a_file_that_is_a_folder(self) -> None:
        (self.folder / "proxyrelay.log").mkdir()
        self.assertIn("Is a directory", self.refused(self.folder))

    def test_a_folder_without_permission(self) -> None:
        locked = self.folder / "locked"
        locked.mkdir(mode=0o500)
        try:
            (locked / "probe").touch()
        except PermissionError:
            message = self.refused(locked)
        else:
            self.skipTest("this user may write everywhere")
        self.assertTrue(message.startswith(f"{locked} cannot be written: "), message)
        self.assertNotIn("None", message)

    def test_a_name_that_a_client_chose_is_only_text(self) -> None:
        observer = self.observer(Logging(default_level="DEBUG"))
        peer = RecordingPeer()
        log = Logger(namespace="proxyrelay", source=peer, observer=observer)
        names = ("{log_source}", "{name.__class__}", "\x1b]0;x\x07\n{", "{0!r}")
        for name in names:
            log.info("registered name={name!a}", name=name)
        lines = self.written(observer).splitlines()
        for name, line in zip(names, lines, strict=True):
            self.assertTrue(line.endswith(f"registered name={name!a}"), line)
