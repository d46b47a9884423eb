"""A Redis of the tests' own, on a unix socket in a temporary folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from unittest import SkipTest

import redis

SECONDS = 10.0
"""Longest wait for the engine's first reply."""


class Engine:
    """A process of ``redis-server``.

    Raises:
        SkipTest: There is no ``redis-server``, and ``REQUIRE_REDIS`` is not set.
    """

    def __init__(self, *options: str) -> None:
        program = shutil.which("redis-server")
        if program is None:
            if os.environ.get("REQUIRE_REDIS"):
                raise AssertionError("redis-server is not installed")
            raise SkipTest("redis-server is not installed")
        self._program = program
        self._options = options
        self._folder = tempfile.TemporaryDirectory(prefix="relay-engine-")
        self.socket = Path(self._folder.name, "redis.sock")
        self.start()

    def start(self) -> None:
        """Start the process, with an empty memory."""
        self._process = subprocess.Popen(
            [
                *(self._program, "--port", "0", "--unixsocket", str(self.socket)),
                *("--save", "", "--dir", self._folder.name, "--loglevel", "warning"),
                *self._options,
            ],
            stdout=subprocess.DEVNULL,
        )
        self.client = redis.Redis(unix_socket_path=str(self.socket))
        deadline = time.monotonic() + SECONDS
        while not self._answers() and time.monotonic() < deadline:
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False

    def kill(self) -> None:
        """End the process at once."""
        self.client.close()
        self._process.kill()
        self._process.wait()

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        self._process.send_signal(number)

    def stop(self) -> None:
        """End the process, and remove its folder."""
        self.kill()
        self._folder.cleanup()
