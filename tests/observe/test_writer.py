"""Lines on their way to a place that may be slow, full, hung or gone."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Queue

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.observe import writer
from proxyrelay.observe.writer import LOOK_SECONDS, QUIET_SECONDS, File, Stream, Writer
from tests.support.processes import PATIENCE

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

NO_SPACE = "No space left on device"


class Place:
    """A place that writes when a test lets it, or refuses.

    Attributes:
        written: All that has come.
        room: Bytes that it still takes; None for any number.
        trouble: What it raises when there is no room.
    """

    name = "a place"
    encoding = "utf-8"

    def __init__(self) -> None:
        self.written = b""
        self.batches = 0
        self.torn = False
        self.room: int | None = None
        self.trouble: Exception = FULL
        self.opened = self.closed = 0
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()

    def ready(self) -> None:
        self.opened += 1

    def write(self, data: bytes) -> int:
        self.entered.set()
        assert self.open.wait(PATIENCE)
        if self.room == 0:
            raise self.trouble
        data = data[: self.room]
        if self.room is not None:
            self.room -= len(data)
        self.written += data
        self.batches += 1
        return len(data)

    def close(self) -> None:
        self.closed += 1


class Told:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.news: Queue[object] = Queue()

    def gap(self, count: int) -> str:
        return f"gap {count}\n"

    def fails(self, writer: Writer, trouble: str) -> None:
        self.news.put((writer.name, trouble))

    def resumes(self, writer: Writer, count: int) -> None:
        self.news.put((writer.name, count))

    def next(self) -> object:
        """What it is told next."""
        return self.news.get(timeout=PATIENCE)


class WriterTests(SynchronousTestCase):
    """The queue and its thread."""

    def setUp(self) -> None:
        self.patch(writer, "GATHER_SECONDS", 0)
        self.place = Place()
        self.told = Told()
        self.now = 0.0
        self.writer = Writer(self.place, self.told, lambda: self.now)
        self.addCleanup(self.end)

    def end(self) -> None:
        self.place.open.set()
        self.writer.close()

    def written(self) -> list[str]:
        """All lines that were written at the end."""
        self.end()
        return self.place.written.decode().splitlines()

    def settle(self) -> None:
        """Wait until all that was put has been dealt with."""
        before = self.place.opened
        self.writer.reopen()
        for _ in range(int(PATIENCE * 1000)):
            if self.place.opened > before and not self.writer._stale:
                break
            threading.Event().wait(0.001)
        else:
            self.fail("the writer is stuck")

    def hang(self) -> None:
        """Have the thread stuck in a write."""
        self.place.open.clear()
        self.writer.start()
        self.writer.put("stuck\n")
        self.assertTrue(self.place.entered.wait(PATIENCE))

    def test_lines_keep_their_order(self) -> None:
        lines = [f"{number}" for number in range(2000)]
        for line in lines[:1000]:
            self.writer.put(f"{line}\n")
        self.writer.start()
        for line in lines[1000:]:
            self.writer.put(f"{line}\n")
        self.assertEqual(self.written(), lines)
        self.assertEqual(self.writer.lost, 0)

    def test_lines_that_wait_are_written_together(self) -> None:
        for number in range(100):
            self.writer.put(f"{number}\n")
        self.assertEqual(len(self.written()), 100)
        self.assertEqual(self.place.batches, 1)

    def test_a_batch_is_bounded(self) -> None:
        for _ in range(5):
            self.writer.put("x" * writer.BATCH_CHARACTERS + "\n")
        self.assertEqual(len(self.written()), 5)
        self.assertEqual(self.place.batches, 5)

    def test_the_thread_keeps_nobody_from_ending(self) -> None:
        self.writer.start()
        self.assertTrue(self.writer._thread.daemon)
        self.writer.start()  # once is enough

    def test_a_place_that_hangs_blocks_nobody_and_lines_are_bounded(self) -> None:
        self.patch(writer, "QUEUED_LINES", 10)
        self.hang()
        for number in range(25):
            self.writer.put(f"{number}\n")
        self.assertEqual(self.writer.lost, 15)
        self.assertEqual(
            self.told.next(), ("a place", "earlier lines are still being written")
        )
        self.assertTrue(self.told.news.empty())
        self.place.open.set()
        self.assertEqual(self.told.next(), ("a place", 15))
        self.writer.put("after\n")
        self.assertEqual(
            self.written(), ["stuck", *map(str, range(10)), "gap 15", "after"]
        )

    def test_characters_are_bounded_too(self) -> None:
        self.patch(writer, "QUEUED_CHARACTERS", 100)
        self.hang()
        for _ in range(5):
            self.writer.put("x" * 49 + "\n")
        self.assertEqual(self.writer.lost, 3)
        self.place.open.set()
        self.assertEqual(
            self.told.next(), ("a place", "earlier lines are still being written")
        )
        self.assertEqual(self.told.next(), ("a place", 3))
        self.writer.put("y" * 200 + "\n")  # alone, it finds room
        self.assertEqual(self.written()[-2:], ["gap 3", "y" * 200])

    def test_after_a_loss_there_is_one_gap_and_not_many(self) -> None:
        self.patch(writer, "QUEUED_LINES", 10)
        self.patch(writer, "BATCH_CHARACTERS", 1)
        self.hang()
        for number in range(12):
            self.writer.put(f"{number}\n")
        # A place is free, but not yet half of them.
        self.writer._queue.get()
        self.writer.put("12\n")
        self.assertEqual(self.writer.lost, 3)
        self.place.open.set()
        self.assertEqual(self.written(), ["stuck", *map(str, range(1, 10)), "gap 3"])

    def test_a_gap_stands_where_the_lines_are_missing(self) -> None:
        self.patch(writer, "QUEUED_LINES", 4)
        self.hang()
        for number in range(6):
            self.writer.put(f"{number}\n")
        for _ in range(3):
            self.writer._queue.get()
        for number in (6, 7):
            self.writer.put(f"{number}\n")
        self.assertEqual(self.written(), ["stuck", "3", "gap 2", "6", "7"])

    def test_what_cannot_be_written_is_counted_and_told_once(self) -> None:
        self.writer.start()
        for trouble, words in (
            (FULL, NO_SPACE),
            (ValueError("closed"), "ValueError"),
            (OSError("odd"), "OSError"),
        ):
            self.place.trouble, self.place.room = trouble, 0
            for line in ("a\n", "b\n", "c\n"):
                self.writer.put(line)
                self.settle()
            self.assertEqual(self.told.next(), ("a place", words))
            self.place.room = None
            self.writer.put("d\n")
            self.assertEqual(self.told.next(), ("a place", 3))
            self.settle()
            self.assertEqual(self.place.written, b"gap 3\nd\n")
            self.place.written = b""
            self.now += QUIET_SECONDS
        self.assertEqual(self.writer.lost, 9)
        self.assertTrue(self.told.news.empty())

    def test_trouble_that_comes_and_goes_is_told_now_and_then(self) -> None:
        self.writer.start()
        for _ in range(10):
            self.place.room = 0
            self.writer.put("a\n")
            self.settle()
            self.place.room = None
            self.writer.put("b\n")
            self.settle()
        self.assertEqual(self.told.next(), ("a place", NO_SPACE))
        self.assertEqual(self.told.next(), ("a place", 1))
        self.assertTrue(self.told.news.empty())
        self.assertEqual(self.place.written, b"gap 1\nb\n" * 10)
        # Trouble that began quietly is told when it lasts.
        self.place.room = 0
        self.writer.put("a\n")
        self.settle()
        self.assertTrue(self.told.news.empty())
        self.now += QUIET_SECONDS
        self.writer.put("a\n")
        self.assertEqual(self.told.next(), ("a place", NO_SPACE))

    def test_a_line_that_was_cut_is_ended_and_counted(self) -> None:
        for line in ("aaaa\n", "bbbb\n", "cccc\n"):
            self.writer.put(line)
        self.place.room = 7
        self.writer.start()
        self.assertEqual(self.told.next(), ("a place", NO_SPACE))
        self.settle()
        self.place.room = None
        self.writer.put("d\n")
        self.assertEqual(self.told.next(), ("a place", 2))
        self.assertEqual(self.written(), ["aaaa", "bb", "gap 2", "d"])
        self.assertEqual(self.writer.lost, 2)

    def test_a_gap_that_cannot_be_written_counts_no_line_twice(self) -> None:
        self.writer.start()
        self.place.room = 0
        for _ in range(4):
            self.writer.put("a\n")
            self.settle()
        self.assertEqual(self.writer.lost, 4)
        self.place.room = 3  # a part of the gap
        self.writer.put("a\n")
        self.settle()
        self.place.room = None
        self.writer.put("b\n")
        self.assertEqual(self.written(), ["gap", "gap 5", "b"])

    def test_a_file_that_cannot_be_opened_is_trouble(self) -> None:
        def refuse() -> None:
            raise FULL

        self.place.ready = refuse  # type: ignore[method-assign]
        self.writer.put("a\n")
        self.writer.start()
        self.assertEqual(self.told.next(), ("a place", NO_SPACE))
        self.assertEqual(self.writer.lost, 1)

    def test_opens_its_place_anew_even_without_a_line(self) -> None:
        self.writer.start()
        self.settle()
        self.assertEqual((self.place.opened, self.place.closed), (1, 1))

    def test_ends_with_what_is_left(self) -> None:
        self.writer.put("a\n")
        self.writer.close()
        self.assertEqual((self.place.written, self.place.closed), (b"a\n", 1))
        self.assertFalse(self.writer._thread.is_alive())

    def test_the_end_does_not_wait_for_one_that_hangs(self) -> None:
        self.patch(writer, "STOP_SECONDS", 0.01)
        other = Place()
        free = Writer(other, self.told)
        self.hang()
        self.writer.put("a\n")
        free.put("b\n")
        writer.close([self.writer, free])
        self.assertTrue(self.writer._thread.is_alive())
        free.join(PATIENCE)
        self.assertEqual(other.written, b"b\n")

    def test_a_finalizer_may_log_while_a_line_is_put(self) -> None:
        """Garbage is collected at any moment, by any thread."""
        with self.writer._lock:
            self.writer.put("a\n")
        self.assertEqual(self.written(), ["a"])


class StreamTests(SynchronousTestCase):
    """Standard output."""

    def test_writes_to_a_pipe_that_another_process_has_made_non_blocking(self) -> None:
        reader, end = os.pipe()
        self.addCleanup(os.close, reader)
        os.set_blocking(end, False)
        with os.fdopen(end, "w") as file:
            size = fcntl.fcntl(end, fcntl.F_GETPIPE_SZ)
            stream = Stream(file)
            self.assertEqual(stream.write(b"x" * size * 2), size)
            waiting = threading.Thread(target=self.drain, args=(reader, size))
            waiting.start()
            # A write that had to wait for room is tried again.
            self.assertEqual(stream.write(b"y") or stream.write(b"y"), 1)
            waiting.join(PATIENCE)
            self.assertEqual(stream.write(b"y"), 1)
            stream.close()
            self.assertEqual(stream.write(b"y"), 1)  # it is not its own to close

    @staticmethod
    def drain(descriptor: int, size: int) -> None:
        while size:
            size -= len(os.read(descriptor, size))


class FileTests(SynchronousTestCase):
    """A log file."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute() / "the.log"
        self.now = 0.0

    def file(self) -> File:
        file = File(self.path, lambda: self.now)
        self.addCleanup(file.close)
        return file

    def put(self, file: File, text: str) -> None:
        """Write as the thread does."""
        file.ready()
        self.assertEqual(file.write(text.encode()), len(text))

    def files(self) -> dict[str, str]:
        """All files in the folder."""
        found = sorted(self.path.parent.iterdir())
        return {path.name: path.read_text() for path in found}

    def test_makes_its_folder_and_has_its_mode(self) -> None:
        for mask in (0o000, 0o022, 0o077, 0o777):
            self.addCleanup(os.umask, os.umask(mask))
            self.path = Path(self.mktemp()).absolute() / "the.log"
            if mask == 0o777:
                self.path.parent.mkdir()
                self.path.parent.chmod(0o700)
            self.put(self.file(), "a\n")
            self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o640)
            self.assertEqual(self.path.read_text(), "a\n")
            os.umask(0o022)

    def test_gives_its_mode_to_a_file_that_is_there(self) -> None:
        self.path.parent.mkdir()
        self.path.write_bytes(b"a\n")
        self.path.chmod(0o644)
        file = self.file()
        self.assertFalse(file.torn)
        self.put(file, "b\n")
        self.assertEqual(self.path.read_bytes(), b"a\nb\n")
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o640)

    def test_knows_that_its_last_line_was_cut(self) -> None:
        self.path.parent.mkdir()
        self.path.write_bytes(b'{"time":')
        self.assertTrue(self.file().torn)

    def test_is_put_aside_when_it_is_long(self) -> None:
        self.patch(writer, "ROTATE_BYTES", 10)
        self.patch(writer, "ROTATED_FILES", 2)
        file = self.file()
        for number in range(6):
            self.put(file, f"{number} xxxxxxxxx\n")
        self.assertEqual(
            {name: text[0] for name, text in self.files().items()},
            {"the.log": "5", "the.log.1": "4", "the.log.2": "3"},
        )
        for name in self.files():
            mode = (self.path.parent / name).stat().st_mode
            self.assertEqual(stat.S_IMODE(mode), 0o640)

    def test_one_that_cannot_be_put_aside_goes_on(self) -> None:
        self.patch(writer, "ROTATE_BYTES", 1)
        self.patch(writer, "ROTATED_FILES", 1)
        file = self.file()
        self.put(file, "a\n")
        (self.path.parent / "the.log.1").mkdir()
        self.put(file, "b\n")
        self.assertEqual(self.path.read_text(), "a\nb\n")

    def test_two_relays_append_to_it(self) -> None:
        one, other = self.file(), self.file()
        for file, text in ((one, "long " * 9 + "\n"), (other, "b\n"), (one, "c\n")):
            self.put(file, text)
        self.assertEqual(self.path.read_text(), "long " * 9 + "\nb\nc\n")

    def test_what_another_relay_has_put_aside_is_not_put_aside_again(self) -> None:
        self.patch(writer, "ROTATE_BYTES", 10)
        one, other = self.file(), self.file()
        for file in (one, other):
            self.put(file, "x" * 9 + "\n")
        for file, text in ((one, "1\n"), (other, "2\n"), (one, "3\n")):
            self.put(file, text)
        self.assertEqual(
            self.files(), {"the.log": "1\n2\n3\n", "the.log.1": "xxxxxxxxx\n" * 2}
        )

    def test_counts_what_another_relay_has_written(self) -> None:
        self.patch(writer, "ROTATE_BYTES", 10)
        one, other = self.file(), self.file()
        self.put(other, "x" * 9 + "\n")
        self.now += LOOK_SECONDS
        self.put(one, "1\n")
        self.put(one, "2\n")
        self.now += LOOK_SECONDS
        self.put(one, "3\n")
        self.assertEqual(self.files()["the.log"][-2:], "3\n")
        self.assertIn("the.log.1", self.files())

    def test_a_file_that_was_renamed_or_removed_is_replaced(self) -> None:
        def rename() -> None:
            self.path.rename(self.path.parent / "old")

        def remove() -> None:
            for path in self.path.parent.iterdir():
                path.unlink()
            self.path.parent.rmdir()

        def replace() -> None:
            self.path.unlink()
            self.path.write_text("new\n")

        changes: tuple[tuple[Callable[[], None], str], ...] = (
            (rename, ""),
            (remove, ""),
            (replace, "new\n"),
        )
        file = self.file()
        for change, there in changes:
            self.put(file, "a\n")
            change()
            self.put(file, "lost\n")  # not looked at in this second
            self.now += LOOK_SECONDS
            self.put(file, "b\n")
            self.assertEqual(self.path.read_text(), f"{there}b\n")

    def test_a_folder_that_cannot_be_made_again_is_trouble_until_it_can(self) -> None:
        file = self.file()
        self.path.unlink()
        folder = self.path.parent
        folder.rmdir()
        folder.write_text("")
        self.now += LOOK_SECONDS
        for _ in range(2):
            with self.assertRaises(OSError):
                file.ready()
        folder.unlink()
        self.put(file, "a\n")
        self.assertEqual(self.path.read_text(), "a\n")

    def test_stays_where_it_is_when_the_process_goes_elsewhere(self) -> None:
        self.path = Path(self.mktemp())
        file = self.file()
        where = self.path.absolute()
        self.addCleanup(os.chdir, Path.cwd())
        elsewhere = Path(self.mktemp()).absolute()
        elsewhere.mkdir()
        os.chdir(elsewhere)
        file.close()
        self.put(file, "a\n")
        self.assertEqual(where.read_text(), "a\n")

    def test_is_opened_anew(self) -> None:
        file = self.file()
        self.path.rename(self.path.parent / "old")
        file.close()
        self.put(file, "a\n")
        self.assertEqual(self.files(), {"old": "", "the.log": "a\n"})

    def test_only_a_regular_file_will_do(self) -> None:
        self.path.parent.mkdir()
        os.mkfifo(self.path)  # with nobody who reads
        for path in (self.path, Path("/dev/null"), self.path.parent):
            self.path = path
            with self.assertRaises(OSError) as caught:
                self.file()
            self.assertIn(
                caught.exception.strerror, ("Not a regular file", "Is a directory")
            )

    def test_a_write_that_is_cut_says_so(self) -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        self.addCleanup(signal.signal, signal.SIGXFSZ, handler)
        file = self.file()
        resource.setrlimit(resource.RLIMIT_FSIZE, (3, limits[1]))
        try:
            self.assertEqual(file.write(b"abcd\n"), 3)
            with self.assertRaises(OSError) as caught:
                file.write(b"d\n")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        self.assertEqual(caught.exception.errno, errno.EFBIG)
