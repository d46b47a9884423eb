"""Small files that settings name."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.net.files import NotRegular, read_small


class ReadSmallTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def test_read_small_takes_a_number_of_bytes_or_all(self) -> None:
        self.path.write_bytes(b"abc")
        self.assertEqual(read_small(self.path), b"abc")
        self.assertEqual(read_small(self.path, 2), b"ab")
        self.assertEqual(read_small(self.path, 4), b"abc")

    def test_read_small_of_a_pipe_or_device_is_refused_at_once(self) -> None:
        os.mkfifo(self.path)
        for path in (self.path, Path("/dev/zero")):
            error = self.assertRaises(NotRegular, read_small, path)
            self.assertEqual(error.strerror, "it is no regular file")

    def test_read_small_of_a_folder_or_nothing_says_so(self) -> None:
        self.assertRaises(FileNotFoundError, read_small, self.path)
        self.path.mkdir()
        self.assertRaises(IsADirectoryError, read_small, self.path)
