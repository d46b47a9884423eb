"""Lines on their way to a sink that may be slow, full, hung or gone."""

from __future__ import annotations

import errno
import os
import threading
from queue import Queue

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.observe import writer
from proxyrelay.observe.sinks import Sink
from proxyrelay.observe.writer import QUIET_SECONDS, LineLog, Writer
from tests.support.processes import PATIENCE

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

NO_SPACE = ("a place", "No space left on device")

BEHIND = ("a place", "earlier lines are still being written")


class Place(Sink):
    """A place that writes when a test lets it, or refuses.

    Attributes:
        written: All that has come.
        room: Bytes that it still takes; None for any number.
        trouble: What it raises when there is no room.
    """

    name = "a place"

    def __init__(self) -> None:
        self.written = b""
        self.batches = 0
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


class RecordingLog(LineLog):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__([])
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
    """A queue and its thread."""

    def setUp(self) -> None:
        self.patch(writer, "GATHER_SECONDS", 0)
        self.place = Place()
        self.log = RecordingLog()
        self.now = 0.0
        self.writer = Writer(self.place, self.log, lambda: self.now)
        self.log.writers.append(self.writer)
        self.addCleanup(self.end)

    def end(self) -> None:
        self.place.open.set()
        self.log.close()

    def written(self) -> list[str]:
        """All lines that were written at the end."""
        self.end()
        return self.place.written.decode().splitlines()

    def put(self, *lines: object) -> None:
        for line in lines:
            self.log.put(f"{line}\n")

    def settle(self) -> None:
        """Wait until all that was put has been dealt with."""
        before = self.place.opened
        self.log.reopen()
        for _ in range(int(PATIENCE * 1000)):
            if self.place.opened > before and not self.writer._stale:
                return
            threading.Event().wait(0.001)
        self.fail("the writer is stuck")

    def fails_to_write(self, *lines: str) -> None:
        """Put lines one by one while there is no room."""
        self.place.room = 0
        for line in lines:
            self.put(line)
            self.settle()
        self.place.room = None

    def hang(self) -> None:
        """Have the thread stuck in a write."""
        self.place.open.clear()
        self.log.start()
        self.put("stuck")
        self.assertTrue(self.place.entered.wait(PATIENCE))

    def test_writer_lines_keep_their_order(self) -> None:
        self.put(*range(1000))
        self.log.start()
        self.log.start()  # once is enough
        self.put(*range(1000, 2000))
        self.assertEqual(self.written(), [str(number) for number in range(2000)])
        self.assertEqual((self.log.lost, self.place.closed), (0, 1))

    def test_writer_queued_lines_share_a_write_up_to_a_bound(self) -> None:
        self.put(*range(100))
        self.put(*["x" * writer.BATCH_CHARACTERS] * 4)
        self.assertEqual(len(self.written()), 104)
        self.assertEqual(self.place.batches, 4)

    def test_writer_sink_hangs_queue_is_bounded(self) -> None:
        self.patch(writer, "QUEUED_LINES", 10)
        self.hang()
        self.put(*range(25))
        self.assertEqual(self.log.lost, 15)
        self.assertEqual(self.log.next(), BEHIND)
        self.assertTrue(self.log.news.empty())
        self.place.open.set()
        self.assertEqual(self.log.next(), ("a place", 15))
        self.put("after")
        self.assertEqual(
            self.written(), ["stuck", *map(str, range(10)), "gap 15", "after"]
        )

    def test_writer_sink_hangs_characters_are_bounded(self) -> None:
        self.patch(writer, "QUEUED_CHARACTERS", 100)
        self.hang()
        self.put(*["x" * 49] * 5)
        self.assertEqual(self.log.lost, 3)
        self.place.open.set()
        self.assertEqual([self.log.next() for _ in "12"], [BEHIND, ("a place", 3)])
        self.put("y" * 200)  # alone, it finds room
        self.assertEqual(self.written()[-2:], ["gap 3", "y" * 200])

    def test_writer_after_a_loss_there_is_one_gap(self) -> None:
        self.patch(writer, "QUEUED_LINES", 10)
        self.patch(writer, "BATCH_CHARACTERS", 1)
        self.hang()
        self.put(*range(12))
        # A place is free, but not yet half of them.
        self.writer._queue.get()
        self.put(12)
        self.assertEqual(self.log.lost, 3)
        self.assertEqual(self.written(), ["stuck", *map(str, range(1, 10)), "gap 3"])

    def test_writer_gap_stands_where_lines_are_missing(self) -> None:
        self.patch(writer, "QUEUED_LINES", 6)
        self.hang()
        self.put(*range(8))
        for _ in range(5):
            self.writer._queue.get()
        self.put(8, 9)
        self.assertEqual(self.written(), ["stuck", "5", "gap 2", "8", "9"])

    def test_writer_failures_are_counted_and_told_once(self) -> None:
        self.log.start()
        for trouble, words in (
            (FULL, NO_SPACE[1]),
            (ValueError("closed"), "ValueError"),
            (OSError("odd"), "OSError"),
        ):
            self.place.trouble = trouble
            self.fails_to_write("a", "b", "c")
            self.put("d")
            news = [self.log.next() for _ in "12"]
            self.assertEqual(news, [("a place", words), ("a place", 3)])
            self.settle()
            self.assertEqual(self.place.written, b"gap 3\nd\n")
            self.place.written = b""
            self.now += QUIET_SECONDS
        self.assertEqual(self.log.lost, 9)
        self.assertTrue(self.log.news.empty())

    def test_writer_failures_that_alternate_are_told_now_and_then(self) -> None:
        self.log.start()
        for _ in range(10):
            self.fails_to_write("a")
            self.put("b")
            self.settle()
        self.assertEqual([self.log.next() for _ in "12"], [NO_SPACE, ("a place", 1)])
        self.assertTrue(self.log.news.empty())
        self.assertEqual(self.place.written, b"gap 1\nb\n" * 10)
        # A failure that began quietly is told when it lasts.
        self.fails_to_write("a")
        self.assertTrue(self.log.news.empty())
        self.now += QUIET_SECONDS
        self.fails_to_write("a")
        self.assertEqual(self.log.next(), NO_SPACE)

    def test_writer_torn_line_is_ended_and_counted(self) -> None:
        self.put("aaaa", "bbbb", "cccc")
        self.place.room = 7
        self.log.start()
        self.assertEqual(self.log.next(), NO_SPACE)
        self.settle()
        self.place.room = None
        self.put("d")
        self.assertEqual(self.log.next(), ("a place", 2))
        self.assertEqual(self.written(), ["aaaa", "bb", "gap 2", "d"])
        self.assertEqual(self.log.lost, 2)

    def test_writer_gap_that_fails_counts_no_line_twice(self) -> None:
        self.log.start()
        self.fails_to_write(*"aaaa")
        self.assertEqual(self.log.lost, 4)
        self.place.room = 3  # a part of the gap
        self.put("a")
        self.settle()
        self.place.room = None
        self.put("b")
        self.assertEqual(self.written(), ["gap", "gap 5", "b"])

    def test_writer_file_that_cannot_be_opened_is_a_failure(self) -> None:
        def refuse() -> None:
            raise FULL

        self.patch(self.place, "ready", refuse)
        self.put("a")
        self.log.start()
        self.assertEqual((self.log.next(), self.log.lost), (NO_SPACE, 1))

    def test_writer_reopen_without_a_line_opens_the_sink(self) -> None:
        self.log.start()
        self.settle()
        self.assertEqual((self.place.opened, self.place.closed), (1, 1))
        self.assertEqual(self.written(), [])

    def test_close_sink_hangs_others_are_written(self) -> None:
        self.patch(writer, "STOP_SECONDS", 0.01)
        other = Place()
        free = Writer(other, self.log)
        self.log.writers.append(free)
        self.hang()
        self.put("a")
        self.log.close()
        free.join(PATIENCE)
        self.assertEqual((other.written, other.closed), (b"stuck\na\n", 1))
        self.assertTrue(self.writer._thread.is_alive())
        self.assertTrue(self.writer._thread.daemon)

    def test_put_within_a_put_does_not_block(self) -> None:
        """Garbage is collected at any moment, and a finalizer may log."""
        with self.writer._lock:
            self.put("a")
        self.assertEqual(self.written(), ["a"])
