"""How many files a process may have open."""

from __future__ import annotations

import resource
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.net import process

RAISING = """
import resource
from proxyrelay import descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, (50, 100))
print(descriptors.raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


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
