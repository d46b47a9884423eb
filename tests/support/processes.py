"""Processes that tests start, listen to, and are sure to end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import IO, Any

from twisted.trial.unittest import SynchronousTestCase

PATIENCE = 30.0
"""Seconds after which a wait for a process fails: a failure, not a pace."""

PAUSE = threading.Event()

SCRIPTS = Path(sysconfig.get_path("scripts"))
"""Where the commands of the environment are that runs the tests."""

SERVES = r"proxyrelay \S+ serves (wss?://\S+)"


class Process:
    """A running command, whose lines are kept in ``output`` and ``errors``.

    While the event ``reads`` is cleared, they stay unread. Options are for `Popen`.
    """

    def __init__(
        self, command: Sequence[str | Path], folder: Path, **options: Any
    ) -> None:
        self.output: list[str] = []
        self.errors: list[str] = []
        self.reads = threading.Event()
        self.reads.set()
        self._news = threading.Condition()
        self._silent = False
        self._read_to = 0
        self._child = subprocess.Popen(
            list(map(str, command)),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="backslashreplace",
            **options,
        )
        assert self._child.stdout is not None
        assert self._child.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=arguments, daemon=True)
            for arguments in (
                (self._child.stdout, self.output),
                (self._child.stderr, self.errors),
            )
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: IO[str], lines: list[str]) -> None:
        with stream:
            for line in stream:
                self.reads.wait()
                with self._news:
                    lines.append(line.rstrip("\n"))
                    self._news.notify_all()
        if lines is self.output:
            with self._news:
                self._silent = True
                self._news.notify_all()

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def has_ended(self) -> bool:
        return self._child.poll() is not None

    @property
    def said(self) -> str:
        """All that was written so far, for the message of a failure."""
        return "\n".join([*self.output, *self.errors])

    def send(self, number: int) -> None:
        self._child.send_signal(number)

    def wait_for_next(self, pattern: str) -> re.Match[str]:
        """Wait for a line behind the one that was waited for last."""
        return self.wait_for(pattern, self._read_to)

    def wait_for(self, pattern: str, start: int = 0) -> re.Match[str]:
        """Wait for a line of standard output that has a pattern.

        Raises:
            AssertionError: None came before the process ended or stalled.
        """
        found: re.Match[str] | None = None
        seen = start

        def settled() -> bool:
            nonlocal found, seen
            while found is None and seen < len(self.output):
                found = re.search(pattern, self.output[seen])
                seen += 1
            return found is not None or self._silent

        with self._news:
            self._news.wait_for(settled, PATIENCE)
        self._read_to = seen
        if found is None:
            raise AssertionError(f"no line has {pattern!r}:\n{self.said}")
        return found

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait for the end, and read the rest; returns the exit status.

        Raises:
            AssertionError: It does not end.
        """
        try:
            status = self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.end()
            raise AssertionError(f"the process does not end:\n{self.said}") from None
        for reader in self._readers:
            reader.join(PATIENCE)
        return status

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and `wait`."""
        self._child.send_signal(number)
        return self.wait()

    def end(self) -> None:
        self.reads.set()
        self._child.kill()
        self._child.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)


HAND_OVER = """
import os, sys
number, *command = sys.argv[1:]
os.dup2(int(number), 3)
if number != "3":
    os.close(int(number))
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(command[0], command)
"""
"""Runs a command that finds a socket where systemd would put it."""


class RelayProcess(Process):
    """A relay under twistd that listens at ``url``; a listener is handed over.

    A prefix is a command that runs the relay, such as ``nsenter``.

    Raises:
        AssertionError: It does not come to serve.
    """

    def __init__(
        self,
        options: Sequence[str | Path],
        folder: Path,
        twistd: Path = SCRIPTS / "twistd",
        listener: socket.socket | None = None,
        prefix: Sequence[str] = (),
        **more: Any,
    ) -> None:
        command = [*prefix, twistd, "-n", "--pidfile=", "proxyrelay", *options]
        if listener is not None:
            number = listener.fileno()
            command = [sys.executable, "-c", HAND_OVER, str(number), *command]
            more["pass_fds"] = [number]
        super().__init__(command, folder, **more)
        try:
            self.url = self.wait_for(SERVES)[1]
        except BaseException:
            self.end()
            raise
        self.port = int(self.url.rpartition(":")[2])


class ProcessTestCase(SynchronousTestCase):
    """Gives each test an empty folder, and ends the processes that it starts."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def start(self, *command: str | Path, **options: Any) -> Process:
        process = Process(command, self.folder, **options)
        self.addCleanup(process.end)
        return process

    def relay(self, *options: str | Path, port: int = 0, **more: Any) -> RelayProcess:
        """Run a relay on the loopback interface, and wait until it listens."""
        where = ["--host", "127.0.0.1", "--port", str(port)]
        relay = RelayProcess([*where, *options], self.folder, **more)
        self.addCleanup(relay.end)
        return relay

    def write_config(self, text: str) -> Path:
        path = self.folder / "relay.toml"
        path.write_text(text)
        return path

    def wait_for_text(self, name: str, pattern: str) -> re.Match[str]:
        """Wait for a line that has a pattern, in a file of the test's folder."""
        path = self.folder / name
        deadline = time.monotonic() + PATIENCE
        while True:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            found = re.search(pattern, text, re.MULTILINE)
            if found is not None:
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"{name} has no {pattern!r}:\n{text}")
            PAUSE.wait(0.01)

    def reserve(self) -> int:
        """A port that the system gives to nobody else until the test ends."""
        holder = socket.socket()
        self.addCleanup(holder.close)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        return port

    def play(self, scenario: Coroutine[Any, Any, None]) -> None:
        asyncio.run(asyncio.wait_for(scenario, 2 * PATIENCE))


def write_command(path: Path, says: str, status: int = 0) -> Path:
    """Write a command that says something, whatever it is asked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {says}\nexit {status}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def environment(**variables: str) -> dict[str, str]:
    """The environment of the tests, with some variables replaced."""
    return {**os.environ, **variables}
