"""Memory that a crowd has left behind."""

from __future__ import annotations

import platform
import subprocess
import sys

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from proxyrelay.net.heap import CROWD, QUIET, Heap

FILLED = """
import os
from proxyrelay.net.heap import trim

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

blocks = [bytearray(2000) for _ in range(20_000)]
blocks = blocks[::9]
before = resident()
trim()
print(before - resident())
"""
"""40 MB in small pieces, of which one in nine stays."""


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
        self.assertEqual(self.looks(0, CROWD, CROWD // 2 + 1), 0)
        self.assertEqual(self.looks(CROWD // 2), 1)
        self.assertEqual(self.looks(0, CROWD - 1, 0, now=2 * QUIET), 1)

    def test_not_for_a_few(self) -> None:
        self.assertEqual(self.looks(CROWD - 1, 0), 0)

    def test_again_when_half_of_the_others_have(self) -> None:
        self.assertEqual(self.looks(4 * CROWD, 2 * CROWD), 1)
        self.assertEqual(self.looks(CROWD + 1, now=QUIET), 1)
        self.assertEqual(self.looks(CROWD, now=QUIET), 2)

    def test_not_again_and_again(self) -> None:
        self.assertEqual(self.looks(CROWD, 0, CROWD, 0, CROWD, 0), 1)
        self.assertEqual(self.looks(0, now=QUIET - 0.1), 1)
        self.assertEqual(self.looks(0, now=QUIET), 2)


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
