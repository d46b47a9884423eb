"""Standard output and log files as places for lines."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import stat
import threading
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.observe import sinks
from proxyrelay.observe.sinks import LOOK_SECONDS, File, Stream
from tests.support.processes import PATIENCE


class StreamTests(SynchronousTestCase):
    """Standard output."""

    def test_stream_pipe_is_non_blocking_write_waits(self) -> None:
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

    def put(self, file: File, *texts: str) -> None:
        """Write as the thread does."""
        for text in texts:
            file.ready()
            self.assertEqual(file.write(text.encode()), len(text))

    def files(self) -> dict[str, str]:
        """All files in the folder."""
        found = sorted(self.path.parent.iterdir())
        return {path.name: path.read_text() for path in found}

    def mode(self, name: str = "the.log") -> int:
        return stat.S_IMODE((self.path.parent / name).stat().st_mode)

    def test_file_new_has_its_mode_and_folder(self) -> None:
        for mask in (0o000, 0o022, 0o077, 0o777):
            self.addCleanup(os.umask, os.umask(mask))
            self.path = Path(self.mktemp()).absolute() / "the.log"
            if mask == 0o777:
                self.path.parent.mkdir()
                self.path.parent.chmod(0o700)
            self.put(self.file(), "a\n")
            self.assertEqual((self.mode(), self.files()), (0o640, {"the.log": "a\n"}))
            os.umask(0o022)

    def test_file_found_is_continued_with_its_mode(self) -> None:
        self.path.parent.mkdir()
        self.path.write_bytes(b"a\n")
        self.path.chmod(0o644)
        file = self.file()
        self.assertFalse(file.torn)
        self.put(file, "b\n", '{"time":')
        self.assertEqual(self.path.read_text(), 'a\nb\n{"time":')
        self.assertEqual(self.mode(), 0o640)
        self.assertTrue(self.file().torn)

    def test_file_long_is_rotated(self) -> None:
        self.patch(sinks, "ROTATE_BYTES", 10)
        self.patch(sinks, "ROTATED_FILES", 2)
        self.put(self.file(), *(f"{number} xxxxxxxxx\n" for number in range(6)))
        self.assertEqual(
            {name: text[0] for name, text in self.files().items()},
            {"the.log": "5", "the.log.1": "4", "the.log.2": "3"},
        )
        self.assertEqual({self.mode(name) for name in self.files()}, {0o640})

    def test_file_rotation_fails_goes_on(self) -> None:
        self.patch(sinks, "ROTATE_BYTES", 1)
        self.patch(sinks, "ROTATED_FILES", 1)
        file = self.file()
        self.put(file, "a\n")
        (self.path.parent / "the.log.1").mkdir()
        self.put(file, "b\n")
        self.assertEqual(self.path.read_text(), "a\nb\n")

    def test_file_two_relays_append_and_rotate_once(self) -> None:
        self.patch(sinks, "ROTATE_BYTES", 10)
        one, other = self.file(), self.file()
        for file in (one, other):
            self.put(file, "x" * 9 + "\n")
        for file, text in ((one, "1\n"), (other, "2\n"), (one, "3\n")):
            self.put(file, text)
        self.assertEqual(
            self.files(), {"the.log": "1\n2\n3\n", "the.log.1": "xxxxxxxxx\n" * 2}
        )

    def test_file_counts_bytes_of_another_relay(self) -> None:
        self.patch(sinks, "ROTATE_BYTES", 10)
        one, other = self.file(), self.file()
        self.put(other, "x" * 9 + "\n")
        self.now += LOOK_SECONDS
        self.put(one, "1\n", "2\n")
        self.now += LOOK_SECONDS
        self.put(one, "3\n")
        self.assertEqual(self.files()["the.log"][-2:], "3\n")
        self.assertIn("the.log.1", self.files())

    def test_file_renamed_or_removed_is_replaced(self) -> None:
        def rename() -> None:
            self.path.rename(self.path.parent / "old")

        def remove() -> None:
            for path in self.path.parent.iterdir():
                path.unlink()
            self.path.parent.rmdir()

        def replace() -> None:
            self.path.unlink()
            self.path.write_text("new\n")

        file = self.file()
        for change, there in ((rename, ""), (remove, ""), (replace, "new\n")):
            self.put(file, "a\n")
            change()
            self.put(file, "lost\n")  # not looked at in this second
            self.now += LOOK_SECONDS
            self.put(file, "b\n")
            self.assertEqual(self.path.read_text(), f"{there}b\n")

    def test_file_folder_cannot_be_made_raises_until_it_can(self) -> None:
        file = self.file()
        self.path.unlink()
        folder = self.path.parent
        folder.rmdir()
        folder.write_text("")
        self.now += LOOK_SECONDS
        for _ in range(2):
            self.assertRaises(OSError, file.ready)
        folder.unlink()
        self.put(file, "a\n")
        self.assertEqual(self.path.read_text(), "a\n")

    def test_file_process_changes_folder_stays_at_its_path(self) -> None:
        self.path = Path(self.mktemp())
        file = self.file()
        where = self.path.absolute()
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir("/")
        file.close()
        self.put(file, "a\n")
        self.assertEqual(where.read_text(), "a\n")

    def test_file_closed_is_opened_anew(self) -> None:
        file = self.file()
        self.path.rename(self.path.parent / "old")
        file.close()
        self.put(file, "a\n")
        self.assertEqual(self.files(), {"old": "", "the.log": "a\n"})

    def test_file_not_regular_is_refused(self) -> None:
        self.path.parent.mkdir()
        os.mkfifo(self.path)  # with nobody who reads
        for path in (self.path, Path("/dev/null"), self.path.parent):
            self.path = path
            error = self.assertRaises(OSError, self.file)
            self.assertIn(error.strerror, ("Not a regular file", "Is a directory"))

    def test_file_disk_is_full_write_is_partial(self) -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        self.addCleanup(signal.signal, signal.SIGXFSZ, handler)
        file = self.file()
        resource.setrlimit(resource.RLIMIT_FSIZE, (3, limits[1]))
        try:
            self.assertEqual(file.write(b"abcd\n"), 3)
            error = self.assertRaises(OSError, file.write, b"d\n")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        self.assertEqual(error.errno, errno.EFBIG)
