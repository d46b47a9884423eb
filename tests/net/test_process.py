"""Open files of a process, and its free memory."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from proxyrelay.net import process
from proxyrelay.net.process import CROWD_CONNECTIONS, TRIM_INTERVAL_SECONDS, Heap

RAISING = """
import resource
from proxyrelay.net import process
resource.setrlimit(resource.RLIMIT_NOFILE, (50, 100))
print(process.raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""

FILLED = """
import os
from proxyrelay.net.process import trim_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

blocks = [bytearray(2000) for _ in range(20_000)]
blocks = blocks[::9]
before = resident()
trim_memory()
print(before - resident())
"""
"""40 MB in small pieces, of which one in nine stays."""


class LimitTests(SynchronousTestCase):
    """``RLIMIT_NOFILE``."""

    def test_limit_is_raised_to_the_hard_one(self) -> None:
        done = subprocess.run(
            [sys.executable, "-c", RAISING],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        self.assertEqual(done.stdout.split(), ["100", "100", "100"])

    def test_limit_that_cannot_be_raised_stays(self) -> None:
        def refuse(*_: object) -> None:
            raise ValueError("not allowed to raise maximum limit")

        self.patch(resource, "setrlimit", refuse)
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.assertEqual(process.raise_limit(), soft)

    def test_shortage_names_the_needed_files(self) -> None:
        self.assertIsNone(process.shortage(100, 90, 10))
        self.assertIsNone(process.shortage(resource.RLIM_INFINITY, 10**9, 10))
        text = process.shortage(100, 91, 10)
        assert text is not None
        self.assertIn("needs 101 open files, and this process may have 100", text)


class HeapTests(SynchronousTestCase):
    """Trims after connections have left."""

    def setUp(self) -> None:
        self.trims: list[None] = []
        self.heap = Heap(lambda: self.trims.append(None))

    def looks(self, *counts: int, now: float = 0.0) -> int:
        """Number of trims since the start, after some looks."""
        for count in counts:
            self.heap.look(count, now)
        return len(self.trims)

    def test_heap_trims_when_half_of_a_crowd_has_left(self) -> None:
        self.assertEqual(
            self.looks(0, CROWD_CONNECTIONS, CROWD_CONNECTIONS // 2 + 1), 0
        )
        self.assertEqual(self.looks(CROWD_CONNECTIONS // 2), 1)
        self.assertEqual(
            self.looks(0, CROWD_CONNECTIONS - 1, 0, now=2 * TRIM_INTERVAL_SECONDS), 1
        )

    def test_heap_trims_again_at_half_of_the_rest(self) -> None:
        self.assertEqual(self.looks(4 * CROWD_CONNECTIONS, 2 * CROWD_CONNECTIONS), 1)
        self.assertEqual(
            self.looks(CROWD_CONNECTIONS + 1, now=TRIM_INTERVAL_SECONDS), 1
        )
        self.assertEqual(self.looks(CROWD_CONNECTIONS, now=TRIM_INTERVAL_SECONDS), 2)

    def test_heap_trims_at_most_once_an_interval(self) -> None:
        self.assertEqual(
            self.looks(
                CROWD_CONNECTIONS, 0, CROWD_CONNECTIONS, 0, CROWD_CONNECTIONS, 0
            ),
            1,
        )
        self.assertEqual(self.looks(0, now=TRIM_INTERVAL_SECONDS - 0.1), 1)
        self.assertEqual(self.looks(0, now=TRIM_INTERVAL_SECONDS), 2)


class TrimTests(SynchronousTestCase):
    """Memory of a process."""

    def test_trim_gives_memory_back(self) -> None:
        if platform.libc_ver()[0] != "glibc":
            raise SkipTest("only glibc is asked for it")
        done = subprocess.run(
            [sys.executable, "-c", FILLED],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertGreater(int(done.stdout), 10_000_000)
