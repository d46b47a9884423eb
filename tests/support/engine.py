"""A Redis of the tests' own, on a unix socket in a temporary folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import SkipTest

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

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

    def start(self, *further: str) -> None:
        """Start the process, with an empty memory unless it was saved.

        Args:
            further: Options for this time.
        """
        self._process = subprocess.Popen(
            [
                *(self._program, "--port", "0", "--unixsocket", str(self.socket)),
                *("--save", "", "--dir", self._folder.name, "--loglevel", "warning"),
                *self._options,
                *further,
            ],
            stdout=subprocess.DEVNULL,
        )
        self.client = redis.Redis(
            unix_socket_path=str(self.socket), retry=Retry(NoBackoff(), 0)
        )
        deadline = time.monotonic() + SECONDS
        while not self._answers() and time.monotonic() < deadline:
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except (redis.BusyLoadingError, redis.AuthenticationError):
            return True
        except redis.ConnectionError:
            return False

    @property
    def pid(self) -> int:
        """ID of the process."""
        return self._process.pid

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


def free_port() -> int:
    """A port of the loopback interface that nobody uses."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


class SentinelGroup:
    """A master, its replica, and three sentinels, on ports of the loopback interface.

    Attributes:
        sentinels: Ports of the sentinels.
        master: The first master.
        replica: Its replica.
    """

    def __init__(self, down_after_ms: int = 1000) -> None:
        port, other = free_port(), free_port()
        local = ("--bind", "127.0.0.1")
        self.port, self.other = port, other
        self.master = Engine("--port", str(port), *local)
        self.replica = Engine(
            *("--port", str(other), *local, "--replicaof", f"127.0.0.1 {port}"),
        )
        self.sentinels = [free_port() for _ in range(3)]
        self._folder = tempfile.TemporaryDirectory(prefix="relay-sentinels-")
        self._processes = []
        for number in self.sentinels:
            file = Path(self._folder.name, f"{number}.conf")
            file.write_text(
                f"port {number}\nbind 127.0.0.1\ndir {self._folder.name}\n"
                f"sentinel monitor relay 127.0.0.1 {port} 2\n"
                f"sentinel down-after-milliseconds relay {down_after_ms}\n"
                "sentinel failover-timeout relay 3000\n"
            )
            program = shutil.which("redis-server")
            assert program is not None
            self._processes.append(
                subprocess.Popen(
                    [program, str(file), "--sentinel"], stdout=subprocess.DEVNULL
                )
            )
        self._wait(self._is_complete)

    def _is_complete(self) -> bool:
        return all(map(self._is_informed, self.sentinels))

    def _is_informed(self, port: int) -> bool:
        with redis.Redis(port=port) as client:
            try:
                known: Any = client.sentinel_master("relay")
            except redis.RedisError:
                return False
        return bool(
            known["num-slaves"] == 1
            and known["num-other-sentinels"] == len(self.sentinels) - 1
        )

    def _wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 3 * SECONDS
        while not condition():
            if time.monotonic() > deadline:
                self.stop()
                raise AssertionError("the sentinels do not find each other")
            time.sleep(0.05)

    def stop(self) -> None:
        """End all processes."""
        for process in self._processes:
            process.kill()
            process.wait()
        self._folder.cleanup()
        self.master.stop()
        self.replica.stop()
