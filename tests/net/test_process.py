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

    def test_is_raised_to_the_hard_one(self) -> None:
        done = subprocess.run(
            [sys.executable, "-c", RAISING],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        self.assertEqual(done.stdout.split(), ["100", "100", "100"])

    def test_that_cannot_be_raised_stays(self) -> None:
        def refuse(*_: object) -> None:
            raise ValueError("not allowed to raise maximum limit")

        self.patch(resource, "setrlimit", refuse)
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.assertEqual(process.raise_limit(), soft)

    def test_is_compared_with_what_is_needed(self) -> None:
        self.assertIsNone(process.shortage(100, 90, 10))
        self.assertIsNone(process.shortage(resource.RLIM_INFINITY, 10**9, 10))
        text = process.shortage(100, 91, 10)
        assert text is not None
        self.assertIn("needs 101 open files, and this process may have 100", text)


class HeapTests(SynchronousTestCase):
    """When it is looked for."""

    def setUp(self) -> None:
        self.trims = 0
        self.heap = Heap(self.trim)

    def trim(self) -> None:
        self.trims += 1

    def looks(self, *counts: int, now: float = 0.0) -> int:
        """How often memory was given back since the start."""
        for count in counts:
            self.heap.look(count, now)
        return self.trims

    def test_when_half_of_a_crowd_has_left(self) -> None:
        self.assertEqual(
            self.looks(0, CROWD_CONNECTIONS, CROWD_CONNECTIONS // 2 + 1), 0
        )
        self.assertEqual(self.looks(CROWD_CONNECTIONS // 2), 1)
        self.assertEqual(
            self.looks(0, CROWD_CONNECTIONS - 1, 0, now=2 * TRIM_INTERVAL_SECONDS), 1
        )

    def test_not_for_a_few(self) -> None:
        self.assertEqual(self.looks(CROWD_CONNECTIONS - 1, 0), 0)

    def test_again_when_half_of_the_others_have(self) -> None:
        self.assertEqual(self.looks(4 * CROWD_CONNECTIONS, 2 * CROWD_CONNECTIONS), 1)
        self.assertEqual(
            self.looks(CROWD_CONNECTIONS + 1, now=TRIM_INTERVAL_SECONDS), 1
        )
        self.assertEqual(self.looks(CROWD_CONNECTIONS, now=TRIM_INTERVAL_SECONDS), 2)

    def test_not_again_and_again(self) -> None:
        self.assertEqual(
            self.looks(
                CROWD_CONNECTIONS, 0, CROWD_CONNECTIONS, 0, CROWD_CONNECTIONS, 0
            ),
            1,
        )
        self.assertEqual(self.looks(0, now=TRIM_INTERVAL_SECONDS - 0.1), 1)
        self.assertEqual(self.looks(0, now=TRIM_INTERVAL_SECONDS), 2)


class TrimTests(SynchronousTestCase):
    """Whether it goes back."""

    def test_memory_goes_back(self) -> None:
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
