"""The shifted clock that other tests use. It is tested, as they rely on it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.support import shifted
from tests.support.processes import ProcessTestCase, environment

CLOCKS = """
import datetime, sys, threading, time
for line in sys.stdin:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=0.001)
    today = datetime.datetime.now().timestamp()
    print(time.time(), today, time.monotonic(), flush=True)
"""

TOLERANCE = 0.25
"""Seconds; the steps are told apart by more than twice as much."""


class ShiftedTests(ProcessTestCase):
    """What a process sees whose clock is shifted."""

    def begin(self) -> None:
        self.file = self.folder / "shift"
        library = shifted.build(self.folder)
        self.child = subprocess.Popen(
            [sys.executable, "-c", CLOCKS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="ascii",
            env=environment(**shifted.environment(library, self.file)),
        )
        self.addCleanup(self.end)

    def end(self) -> None:
        self.child.communicate(timeout=30)

    def look(self) -> list[float]:
        """What its clocks are ahead of the machine's: wall twice, and monotonic."""
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        before = time.time(), time.monotonic()
        print("look", file=self.child.stdin, flush=True)
        wall, date, monotonic = map(float, self.child.stdout.readline().split())
        after = time.time(), time.monotonic()
        # Half of the time that it took is not the clock's.
        now, steady = (sum(pair) / 2 for pair in zip(before, after, strict=True))
        return [wall - now, date - now, monotonic - steady]

    def test_the_wall_clock_of_a_process_follows_each_shift(self) -> None:
        self.begin()
        for seconds in (0, 1.5, -1.5, 60, -3600, 3600, 0):
            shifted.shift(self.file, seconds)
            wall, date, monotonic = self.look()
            self.assertLess(abs(wall - seconds), TOLERANCE)
            self.assertLess(abs(date - seconds), TOLERANCE)
            self.assertLess(abs(monotonic), TOLERANCE)

    def test_a_process_without_its_file_does_not_run_unshifted(self) -> None:
        library = shifted.build(self.folder)
        variables = shifted.environment(library, self.folder / "shift")
        variables["CLOCK_SHIFT_FILE"] = str(Path("nowhere").absolute())
        child = subprocess.run(
            [sys.executable, "-c", "import time; time.time()"],
            env=environment(**variables),
            capture_output=True,
            check=False,
        )
        self.assertNotEqual(child.returncode, 0)
        self.assertIn(b"nowhere", child.stderr)
