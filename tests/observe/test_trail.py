"""A file of lines that nobody waits for, and that tells what it lacks."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any, cast

from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.observe import logs, trail
from proxyrelay.observe.trail import QUIET, LineFile, Trail


class Disk:
    """Takes lines, unless it is full."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.trouble: Exception | None = None
        self.closed = False

    def put(self, lines: bytes) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.lines.append(lines)

    def close(self) -> None:
        self.closed = True


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class TrailTests(SynchronousTestCase):
    """What is written when, and what is said about the rest."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.disk = Disk()
        self.trail = Trail(self.disk, "gap {}\n".format, self.clock)
        self.events: list[LogEvent] = []
        observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def turn(self, *lines: str, seconds: float = 0) -> None:
        """Write lines in one turn of the reactor."""
        for line in lines:
            self.trail.write(line)
        self.clock.advance(0)
        self.clock.advance(seconds)

    def told(self) -> list[str]:
        """The events in the log since the last look."""
        events, self.events[:] = [event["event"] for event in self.events], []
        return events

    def test_lines_of_a_turn_are_written_together_at_its_end(self) -> None:
        self.trail.write("a\n")
        self.trail.write("b\n")
        self.assertEqual(self.disk.lines, [])
        self.clock.advance(0)
        self.assertEqual(self.disk.lines, [b"a\nb\n"])
        self.turn("c\n")
        self.assertEqual(self.disk.lines, [b"a\nb\n", b"c\n"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_cannot_be_written_is_counted_and_told_once(self) -> None:
        for trouble in (FULL, ValueError("closed"), AttributeError("_file")):
            self.disk.trouble = trouble
            self.turn("a\n", "b\n")
            self.turn("c\n")
            self.assertEqual(self.trail.missing, 3)
            self.assertEqual(self.told(), ["audit_fails"])
            self.disk.trouble = None
            self.turn("d\n")
            self.assertEqual(self.disk.lines.pop(), b"gap 3\nd\n")
            self.assertEqual(self.told(), ["audit_resumed"])
            self.turn("e\n", seconds=QUIET)
            self.assertEqual(self.disk.lines.pop(), b"e\n")
            self.assertEqual((self.trail.missing, self.told()), (0, []))

    def test_trouble_that_comes_and_goes_is_told_now_and_then(self) -> None:
        told: list[str] = []
        for _ in range(10):
            self.disk.trouble = FULL
            self.turn("a\n")
            self.disk.trouble = None
            self.turn("b\n")
            told += self.told()
            self.assertEqual(self.disk.lines.pop(), b"gap 1\nb\n")
        self.assertEqual(told, ["audit_fails", "audit_resumed"])
        # Trouble that began quietly is told when it lasts.
        self.disk.trouble = FULL
        self.turn("a\n", seconds=QUIET)
        self.assertEqual(self.told(), [])
        self.turn("a\n")
        self.assertEqual(self.told(), ["audit_fails"])

    def test_the_trouble_has_a_name(self) -> None:
        for trouble, name in ((FULL, "No space left on device"), (KeyError(), "KeyE")):
            self.disk.trouble = trouble
            self.turn("a\n")
            self.assertIn(name, self.events.pop()["trouble"])
            self.disk.trouble = None
            self.turn("b\n", seconds=QUIET)

    def test_ends_with_what_is_left(self) -> None:
        self.trail.write("a\n")
        self.trail.close()
        self.assertEqual((self.disk.lines, self.disk.closed), ([b"a\n"], True))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_ends_without_anything_left(self) -> None:
        self.trail.close()
        self.assertEqual((self.disk.lines, self.disk.closed), ([], True))


class Short:
    """A file that takes only some bytes."""

    closed = False

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: bytes) -> int:
        written: int = self.file.write(data[: self.room])
        return written

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.close()


class LineFileTests(SynchronousTestCase):
    """A rotated file in which no line is continued by another one."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute() / "audit.log"

    def open(self) -> LineFile:
        file = trail.opened(self.path)
        self.addCleanup(lambda: file.closed or file.close())
        return file

    def test_makes_its_folder_and_has_its_mode(self) -> None:
        self.open().put(b"a\n")
        self.assertEqual(self.path.read_bytes(), b"a\n")
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o640)

    def test_gives_its_mode_to_a_file_that_is_there(self) -> None:
        self.path.parent.mkdir()
        self.path.write_bytes(b"a\n")
        self.path.chmod(0o644)
        self.open().put(b"b\n")
        self.assertEqual(self.path.read_bytes(), b"a\nb\n")
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o640)

    def test_is_put_aside_as_the_log_is(self) -> None:
        self.patch(logs, "ROTATE_BYTES", 10)
        self.patch(logs, "ROTATED_FILES", 2)
        file = self.open()
        for number in range(6):
            file.put(b"%d xxxxxxxxx\n" % number)
        files = sorted(self.path.parent.iterdir())
        self.assertEqual(
            [(path.name, path.read_bytes()[:1]) for path in files],
            [("audit.log", b"5"), ("audit.log.1", b"4"), ("audit.log.2", b"3")],
        )
        for path in files:
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o640)

    def test_a_line_that_was_cut_is_ended(self) -> None:
        self.path.parent.mkdir()
        self.path.write_bytes(b'{"time":')
        file = self.open()
        file.put(b"a\n")
        file.put(b"b\n")
        self.assertEqual(self.path.read_bytes(), b'{"time":\na\nb\n')

    def test_a_disk_that_becomes_full_is_noticed(self) -> None:
        file: Any = self.open()
        whole = file._file
        for room, begun in ((3, b"aaa"), (0, b"aaa"), (4, b"aaa\nbbb")):
            file._file = Short(whole, room)
            with self.assertRaises(OSError) as caught:
                file.put({3: b"aaaa\n", 0: b"x\n", 4: b"bbbb\n"}[room])
            self.assertEqual(caught.exception.errno, errno.ENOSPC)
            self.assertEqual(self.path.read_bytes(), begun)
        file._file = whole
        file.put(b"c\n")
        self.assertEqual(self.path.read_bytes(), b"aaa\nbbb\nc\n")

    def test_goes_on_after_a_rotation_that_failed_half_way(self) -> None:
        self.patch(logs, "ROTATE_BYTES", 1)
        file = self.open()
        file.put(b"a\n")
        with self.assertRaises(OSError):
            self.rotate_without_its_folder(file)
        file.put(b"c\n")
        self.assertEqual(self.path.read_bytes(), b"c\n")

    def rotate_without_its_folder(self, file: LineFile) -> None:
        """Write when there is no room for another open file."""

        def refuse() -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        opens, file._openFile = file._openFile, refuse  # type: ignore[method-assign]
        try:
            file.put(b"b\n")
        finally:
            file._openFile = opens  # type: ignore[method-assign]
