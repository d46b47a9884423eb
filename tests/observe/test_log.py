"""Where log lines go, and how they look."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TextIO

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import LogEvent, Logger, LogLevel, formatTime
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.config import Level, Logging
from proxyrelay.errors import ConfigError
from proxyrelay.observe import log as logs

LEVELS: tuple[tuple[Level, Any], ...] = (
    ("DEBUG", LogLevel.debug),
    ("INFO", LogLevel.info),
    ("WARNING", LogLevel.warn),
    ("ERROR", LogLevel.error),
    ("CRITICAL", LogLevel.critical),
)

FORGED = "x\n2026-01-01 00:00:00+0000 CRITICAL all is lost"


def event(format_: str = "{text}", **fields: Any) -> LogEvent:
    """An event as a logger of the relay makes it."""
    return {
        "log_format": format_,
        "log_level": LogLevel.info,
        "log_namespace": "proxyrelay",
        "log_time": 1700000000.0,
        **fields,
    }


def failure(text: str = "why") -> Failure:
    """A caught exception."""
    try:
        raise ValueError(text)
    except ValueError:
        return Failure()


class LineTests(SynchronousTestCase):
    """The format for people."""

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

    def test_line_has_time_level_and_text(self) -> None:
        self.assertRegex(self.WHEN, r"^2023-11-1\d \d\d:\d\d:20[+-]\d{4}$")
        for name, level in LEVELS:
            line = self.line("{a} and {b!a}", a=1, b="é", log_level=level)
            self.assertEqual(line, f"{self.WHEN} {name:<8} 1 and '\\xe9'\n")

    def test_line_event_without_a_level_is_info(self) -> None:
        bare = event("x")
        del bare["log_level"]
        self.assertEqual(logs.line(bare), f"{self.WHEN} INFO     x\n")

    def test_line_event_without_a_text_is_none(self) -> None:
        for format_ in (logs.line, logs.record):
            self.assertIsNone(format_({"log_level": LogLevel.info}))
            self.assertIsNone(format_(event("")))

    def test_line_character_that_controls_is_escaped(self) -> None:
        for character, escaped in (
            # They break lines.
            ("\n", "\\n"),
            ("\r", "\\r"),
            ("\v", "\\x0b"),
            ("\f", "\\x0c"),
            ("\x1c", "\\x1c"),
            ("\x85", "\\x85"),
            ("\u2028", "\\u2028"),
            ("\u2029", "\\u2029"),
            # They control a terminal.
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
        everything = "".join(map(chr, range(0x3000))) + "\ud800\udfff\U0010ffff"
        self.assertTrue(self.text(text=everything).isprintable())
        self.assertEqual(self.text(text="größe 大 \\n"), "größe 大 \\n")

    def test_line_forged_line_stays_inside(self) -> None:
        for line in (self.line(text=FORGED), self.line("{text!a}", text=FORGED)):
            self.assertEqual(line.count("\n"), 1)
        line = self.line(text=FORGED, log_failure=failure())
        self.assertNotIn("\n2026-01-01 00:00:00+0000 CRITICAL", line)

    def test_line_field_is_not_interpreted(self) -> None:
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

    def test_line_traceback_is_indented(self) -> None:
        line = self.line("{what}", what="it failed", log_failure=failure())
        first, *others = line.splitlines()
        self.assertEqual(first, f"{self.WHEN} INFO     it failed")
        self.assertEqual(others[0], "    Traceback (most recent call last):")
        self.assertTrue(all(line.startswith("    ") for line in others))
        self.assertTrue(line.endswith("    builtins.ValueError: why\n"), line)

    def test_line_traceback_is_escaped(self) -> None:
        line = self.line("x", log_failure=failure("\x1b[2J\r\0"))
        self.assertIn("builtins.ValueError: \\x1b[2J\\r\\x00", line)


class RecordTests(SynchronousTestCase):
    """The format for machines."""

    def fields(self, format_: str = "{text}", **fields: Any) -> dict[str, Any]:
        record = logs.record(event(format_, **fields))
        assert record is not None
        self.assertTrue(record.isascii())
        self.assertEqual(record.count("\n"), 1)
        found: dict[str, Any] = json.loads(record)
        return found

    def test_record_has_common_fields_and_then_those_of_the_event(self) -> None:
        for name, level in LEVELS:
            found = self.fields(
                "left {uuid} {name!a}{_more}",
                event="left",
                uuid="u",
                name="\xe9\n",
                count=1,
                log_level=level,
                _more=".",
            )
            self.assertEqual(
                list(found.items()),
                [
                    ("time", "2023-11-14T22:13:20.000Z"),
                    ("level", name),
                    ("event", "left"),
                    ("message", "left u '\\xe9\\n'."),
                    ("logger", "proxyrelay"),
                    ("pid", os.getpid()),
                    ("uuid", "u"),
                    ("name", "\xe9\n"),
                    ("count", 1),
                ],
            )

    def test_record_traceback_is_one_field(self) -> None:
        found = self.fields("it failed", log_failure=failure("why \n\x1b"))
        self.assertEqual((found["event"], found["message"]), ("defect", "it failed"))
        first, *_, last = found["traceback"].splitlines()
        self.assertEqual(first, "Traceback (most recent call last):")
        self.assertEqual(last, "\x1b")
        self.assertIn("\nbuiltins.ValueError: why \n", found["traceback"])

    def test_record_line_of_a_library_has_common_fields_only(self) -> None:
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

    def test_record_legacy_fields_of_twisted_are_left_out(self) -> None:
        before = self.fields("x", event="e")
        adds = {"time": 1, "system": "-", "isError": 0, "format": "%(x)s"}
        self.assertEqual(self.fields("x", event="e", message=(), **adds), before)

    @given(st.text(st.characters(exclude_categories=())))
    def test_record_any_text_is_one_line(self, text: str) -> None:
        found = self.fields("registered {name!a} {text}", name=text, text=text)
        halves = any("\ud800" <= character <= "\udfff" for character in text)
        if not halves:
            self.assertEqual(found["name"], text)


class LevelsTests(SynchronousTestCase):
    """Events that are shown."""

    def assert_least(self, settings: Logging, least: Any, *namespaces: str) -> None:
        shows = logs.levels(settings)
        for namespace in namespaces:
            for _, level in LEVELS:
                shown = shows(namespace, level)
                self.assertEqual(shown, level >= least, (settings, namespace, level))

    def test_levels_relay_has_the_default_level(self) -> None:
        for name, level in LEVELS:
            self.assert_least(
                Logging(default_level=name),
                level,
                "proxyrelay",
                "proxyrelay.observe.log_observer.LogObserver",
                "elsewhere",
            )

    def test_levels_library_has_its_own_level_above_debug(self) -> None:
        for name, level in LEVELS:
            for default, _ in LEVELS:
                self.assert_least(
                    Logging(default_level=default, websockets_level=name),
                    max(level, LogLevel.info),
                    *("autobahn", "autobahn.twisted.websocket", "txaio"),
                )

    def test_levels_twisted_is_shown_from_warnings_on_or_for_debugging(self) -> None:
        for name, level in LEVELS:
            least = LogLevel.warn if name == "INFO" else level
            names = "twisted.internet.tcp.Port", "log_legacy"
            self.assert_least(Logging(default_level=name), least, *names)

    def test_levels_event_without_level_or_namespace_is_hidden(self) -> None:
        shows = logs.levels(Logging(default_level="DEBUG"))
        self.assertFalse(shows(None, LogLevel.error))
        self.assertFalse(shows("proxyrelay", None))


class LogTests(SynchronousTestCase):
    """The sinks of the log."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.path = self.folder / "proxyrelay.log"
        self.stdout = self.output("utf-8")

    def output(self, encoding: str) -> TextIO:
        """A file in the place of standard output."""
        file = Path(self.mktemp()).open("w+", encoding=encoding)  # noqa: SIM115
        self.addCleanup(file.close)
        return file

    def log(self, stdout: bool = True, **settings: Any) -> logs.Log:
        log = logs.open_log(Logging(**settings), self.stdout if stdout else None)
        assert log is not None
        self.addCleanup(log.close)
        return log

    def written(self, log: logs.Log) -> str:
        """What is on standard output at the end."""
        log.close()
        self.stdout.seek(0)
        return self.stdout.read()

    def words(self, log: logs.Log) -> list[str]:
        """The last word of each line on standard output."""
        return [line.split()[-1] for line in self.written(log).splitlines()]

    def file(self, log: logs.Log) -> str:
        """What is in the file at the end."""
        log.close()
        return self.path.read_text(encoding="utf-8")

    def test_log_without_a_sink_is_none(self) -> None:
        self.assertIsNone(logs.open_log(Logging(), None))

    def test_log_event_is_written_by_its_level(self) -> None:
        log = self.log(default_level="ERROR")
        log(event("quiet"))
        log(event("loud", log_level=LogLevel.error))
        log(event("quiet", log_namespace="autobahn"))
        log(event("loud", log_namespace="autobahn", log_level=LogLevel.warn))
        self.assertEqual(self.words(log), ["loud", "loud"])

    def test_log_change_takes_other_levels(self) -> None:
        log = self.log()
        for level in ("ERROR", "INFO"):
            log(event("before"))
            log.change(Logging(default_level=level))
            log(event("after"))
        self.assertEqual(self.words(log), ["before", "after"])

    def test_log_change_takes_another_format(self) -> None:
        log = self.log()
        for each in ("json", "text"):
            log(event("hello"))
            log.change(Logging(format=each))
        log(event("hello"))
        starts = [line[0] for line in self.written(log).splitlines()]
        self.assertEqual(starts, ["2", "{", "2"])

    def test_log_json_is_written_to_both_sinks(self) -> None:
        log = self.log(log_dir=self.folder, format="json")
        log(event("hello", event="greeting"))
        text = self.written(log)
        self.assertEqual(self.file(log), text)
        self.assertEqual(json.loads(text)["event"], "greeting")

    def test_log_fields_change_later_line_stays(self) -> None:
        log = self.log()
        names = ["before"]
        log(event("{names}", names=names))
        names[:] = ["after"]
        self.assertEqual(self.words(log), ["['before']"])

    def test_log_folder_is_made_and_file_continued_by_any_relay(self) -> None:
        self.folder = self.folder / "a" / "b"
        self.path = self.folder / "proxyrelay.log"
        for stdout, word in ((True, "größe"), (False, "b"), (False, "大")):
            log = self.log(stdout, log_dir=self.folder)
            log(event("{word}", word=word))
            log.close()
        lines = self.file(log).splitlines()
        self.assertEqual([line.split()[-1] for line in lines], ["größe", "b", "大"])
        self.assertEqual(self.written(log), lines[0] + "\n")

    def test_log_standard_output_lacks_a_letter_it_is_escaped(self) -> None:
        self.stdout = self.output("latin-1")
        log = self.log()
        log(event("größe-大"))
        self.assertEqual(self.words(log), ["größe-\\u5927"])

    def test_log_reopen_makes_a_new_file(self) -> None:
        log = self.log(log_dir=self.folder)
        self.path.rename(self.folder / "old")
        log.reopen()
        self.assertEqual(self.file(log), "")

    def test_log_gap_has_the_number_of_lines(self) -> None:
        for format_, words in (
            ("text", " WARNING  lines are missing here.*: 3\n$"),
            ("json", '"event":"gap",.*,"count":3}\n$'),
        ):
            gap = self.log(format=format_, default_level="CRITICAL").gap(3)
            self.assertRegex(gap, words)
            self.assertEqual(gap.count("\n"), 1)

    def test_log_sink_fails_others_tell(self) -> None:
        log = self.log(log_dir=self.folder)
        self.patch(log, "_log", Logger("proxyrelay", observer=log))
        _, file = log.writers
        log.fails(file, "No space left on device")
        log.resumes(file, 7)
        self.assertEqual(self.file(log), "")
        first, second = self.written(log).splitlines()
        self.assertRegex(first, f"ERROR .*{file.name} .*: No space left on device; ")
        self.assertRegex(second, f"WARNING .*{file.name} is written again; .*: 7$")
        self.assertEqual(log.lost, 0)

    def assert_refused(self, folder: Path, words: str = "") -> None:
        error = self.assertRaises(ConfigError, self.log, log_dir=folder)
        (problem,) = error.problems
        self.assertEqual(problem.key, "logging.log_dir")
        self.assertIn(f"{folder} cannot be written: {words}", problem.message)
        self.assertNotIn("None", problem.message)

    def test_log_folder_or_file_is_of_another_kind_is_refused(self) -> None:
        self.path.mkdir()
        self.assert_refused(self.folder, "Is a directory")
        file = self.folder / "file"
        file.write_text("")
        for folder in (file, file / "logs"):
            self.assert_refused(folder)

    def test_log_folder_without_permission_is_refused(self) -> None:
        locked = self.folder / "locked"
        locked.mkdir(mode=0o500)
        if os.access(locked, os.W_OK):
            self.skipTest("this user may write everywhere")
        self.assert_refused(locked)
