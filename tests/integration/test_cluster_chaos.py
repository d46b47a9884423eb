"""Two relays of a cluster whose engine fails, for some seconds."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path
from unittest import SkipTest

import chaos
from tests.support.processes import ProcessTestCase, environment

ROOT = Path(str(chaos.__file__)).parents[1]

SHORT = (
    *("--quick", "--scale", "0.1", "--nodes", "2", "--pairs", "10", "--seed", "1"),
    *("--unmeasured", "--only", "cut,kill-engine"),
)

LONGEST_SECONDS = 120.0


class ClusterChaosTests(ProcessTestCase):
    def test_clients_of_two_relays_outlive_a_cut_and_a_new_engine(self) -> None:
        if shutil.which("redis-server") is None and not os.environ.get("REQUIRE_REDIS"):
            raise SkipTest("redis-server is not installed")
        run = self.start(
            *(sys.executable, "-m", "chaos.cluster", *SHORT),
            env=environment(PYTHONPATH=str(ROOT)),
            start_new_session=True,
        )
        self.addCleanup(self._end_all, run.pid)
        self.assertEqual(run.wait(LONGEST_SECONDS), 0, run.said)
        self.assertNotIn("FAILED", run.said)

    def _end_all(self, group: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
