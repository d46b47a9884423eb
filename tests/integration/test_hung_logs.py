"""Logs that nobody reads, that hang, or whose disk is full: the relay serves on."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import termios
from pathlib import Path
from resource import RLIMIT_FSIZE, prlimit

from tests.integration.test_twistd import TwistdTestCase
from tests.support.processes import PATIENCE, SCRIPTS, SERVES
from tests.support.recording import B

RUN = """
import sys, time
from proxyrelay.observe import sinks, writer
exec(sys.argv.pop(1))
from twisted.scripts.twistd import run
run()
"""
"""Runs twistd with other bounds of the writer."""


class Relay:
    """A relay whose standard output is read only when a test reads it.

    The statements in ``bounds`` run before it.
    """

    def __init__(
        self, folder: Path, config: Path, bounds: str, stdout: int, reader: int | None
    ) -> None:
        self.said = ""
        self._reader = reader
        command = [sys.executable, "-c", RUN, bounds, "-n", "--pidfile=", "proxyrelay"]
        self.child = subprocess.Popen(
            [*command, "--config", str(config)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    def read_to(self, pattern: str) -> re.Match[str]:
        """Read standard output until a pattern is found in it, and no further."""
        while not (found := re.search(pattern, self.said)):
            assert self._reader is not None
            if not select.select([self._reader], [], [], PATIENCE)[0]:
                raise AssertionError(f"nothing more comes:\n{self.said}")
            data = os.read(self._reader, 65536)
            self.said += data.decode().replace("\r", "")
        return found

    def end(self, number: int = signal.SIGKILL) -> tuple[int, str]:
        """Send a signal; returns the exit status, and what is on standard error."""
        self.child.send_signal(number)
        errors = self.child.communicate(timeout=PATIENCE)[1]
        return self.child.returncode, errors


class HungTestCase(TwistdTestCase):
    def pipe(self) -> tuple[int, int]:
        """The ends of a pipe with little room, for a reader and a writer."""
        ends = os.pipe()
        fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, 4096)
        return self.closing(ends)

    def terminal(self) -> tuple[int, int]:
        return self.closing(pty.openpty())

    def closing(self, ends: tuple[int, int]) -> tuple[int, int]:
        for end in ends:
            self.addCleanup(os.close, end)
        return ends

    def serve(
        self, text: str, stdout: int, reader: int | None, bounds: str = ""
    ) -> Relay:
        path = self.write_config(f"host = '127.0.0.1'\nport = 0\n{text}")
        relay = Relay(self.folder, path, bounds, stdout, reader)
        self.addCleanup(relay.end)
        return relay

    def request(self, url: str, count: int) -> None:
        """Send bad requests, each of which has a line in the log."""
        port = int(url.rpartition(":")[2])
        for _ in range(count):
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                self.assertIn(b" 426 ", client.recv(4096))

    def assert_ends(self, relay: Relay) -> None:
        self.assertEqual(relay.end(signal.SIGTERM), (0, ""))

    def assert_serves(self, url: str) -> None:
        """New clients come in, and pings are answered."""
        client = self.registered(url, uuid=B)
        client.ping()
        client.close()

    def lines(self, name: str = "logs/proxyrelay.log") -> list[str]:
        return (self.folder / name).read_text().splitlines()


LOGS = "[logging]\nlog_dir = 'logs'\n"

FEW = "writer.QUEUED_LINES, writer.STOP_SECONDS = 200, 1"

HANG = """
write = sinks.File.write
def write_or_hang(self, data):
    while self.name.endswith(NAME):
        time.sleep(1)
    return write(self, data)
sinks.File.write = write_or_hang
"""
"""Statements that have the write to a file never return."""

HELD = "the log to standard output cannot be"

MANY = 500
"""More lines than there is room for in a pipe and in the queue."""


class StandardOutputTests(HungTestCase):
    def held(self, stdout: int, reader: int, text: str = LOGS) -> tuple[Relay, str]:
        relay = self.serve(text, stdout, reader, FEW)
        return relay, relay.read_to(SERVES)[1]

    def assert_tells_once(self) -> None:
        """The file has a line about standard output, and no traceback."""
        text = "\n".join(self.lines())
        self.assertEqual(text.count(HELD), 1)
        self.assertNotIn("Traceback", text)

    def test_output_that_is_not_read_does_not_hold_the_relay(self) -> None:
        for text, terminal in (("", False), (LOGS, False), (LOGS, True)):
            reader, stdout = self.terminal() if terminal else self.pipe()
            relay, url = self.held(stdout, reader, text)
            if terminal:
                termios.tcflow(stdout, termios.TCOOFF)  # as Ctrl-S does
            self.request(url, MANY)
            self.assert_serves(url)
            if text:
                self.wait_for_text("logs/proxyrelay.log", HELD)
            self.assert_ends(relay)
            if text:
                self.assert_tells_once()
                lines = self.lines()
                self.assertEqual(sum(" rejected " in line for line in lines), MANY)
                self.assertRegex(lines[-1], " stopped$")
                shutil.rmtree(self.folder / "logs")

    def test_pipe_that_is_read_again_gets_the_count_of_missing_lines(self) -> None:
        reader, stdout = self.pipe()
        relay, url = self.held(stdout, reader)
        self.request(url, MANY)
        self.wait_for_text("logs/proxyrelay.log", HELD)
        relay.read_to("lines are missing here")
        missing = int(
            self.wait_for_text(
                "logs/proxyrelay.log",
                r" WARNING .*standard output is written again; .*lacks: (\d+)$",
            )[1]
        )
        self.request(url, 1)
        relay.child.terminate()
        relay.read_to(" stopped\n")
        self.assertEqual(relay.child.wait(PATIENCE), 0)
        lines = relay.said.splitlines()
        (gap,) = (line for line in lines if "lines are missing here" in line)
        self.assertRegex(gap, f" WARNING .*: {missing}$")
        # All others are in both places, in the same order.
        lines.remove(gap)
        file = [line for line in self.lines() if "the log to standard" not in line]
        self.assertEqual(len(lines) + missing, len(file))
        self.assertEqual([line for line in file if line in lines], lines)

    def test_broken_pipe_is_told_in_the_file(self) -> None:
        reader, stdout = os.pipe()
        self.addCleanup(os.close, stdout)
        relay = self.serve(LOGS, stdout, reader)
        url = relay.read_to(SERVES)[1]
        # The relay has the only end of it now, but for this test's own.
        os.close(reader)
        self.request(url, 50)
        self.wait_for_text("logs/proxyrelay.log", "cannot be written: Broken pipe; ")
        self.assert_ends(relay)
        self.assert_tells_once()

    def test_full_disk_behind_standard_output_is_told_in_the_file(self) -> None:
        full = os.open("/dev/full", os.O_WRONLY)
        self.addCleanup(os.close, full)
        relay = self.serve(LOGS, full, None)
        url = self.wait_for_text("logs/proxyrelay.log", SERVES)[1]
        self.request(url, MANY)
        self.assert_ends(relay)
        self.assert_tells_once()
        self.wait_for_text("logs/proxyrelay.log", "written: No space left on device; ")


class FileTests(HungTestCase):
    def begin(self, text: str, bounds: str = "") -> tuple[Relay, str]:
        with (self.folder / "stdout").open("w") as stdout:
            relay = self.serve(text, stdout.fileno(), None, bounds)
        return relay, self.wait_for_text("stdout", SERVES)[1]

    def assert_ends(self, relay: Relay) -> None:
        super().assert_ends(relay)
        self.assertNotIn("Traceback", (self.folder / "stdout").read_text())
        self.wait_for_text("stdout", r" stopped$")

    def test_full_disk_behind_the_file_is_told_and_counted(self) -> None:
        relay = self.relay("--config", self.write_config(LOGS))
        self.wait_for_text("logs/proxyrelay.log", SERVES)
        size = (self.folder / "logs/proxyrelay.log").stat().st_size
        soft, hard = prlimit(relay.pid, RLIMIT_FSIZE)
        prlimit(relay.pid, RLIMIT_FSIZE, (size + 10, hard))
        self.request(relay.url, MANY)
        relay.wait_for("ERROR .*proxyrelay.log cannot be written: File too large; ")
        self.assert_serves(relay.url)
        prlimit(relay.pid, RLIMIT_FSIZE, (soft, hard))
        self.request(relay.url, 1)
        found = relay.wait_for(
            "WARNING .*proxyrelay.log is written again; .*: ([0-9]+)$"
        )
        missing = int(found[1])
        self.assertEqual(relay.stop(), 0)
        lines = self.lines()
        (gap,) = (line for line in lines if "lines are missing here" in line)
        self.assertRegex(gap, f": {missing}$")
        self.assertEqual(len(lines[1]), 10)  # cut where the disk was full
        # Standard output has all but the gap, and tells of the trouble.
        self.assertEqual(len(relay.output) - 2, len(lines) - 2 + missing)
        self.assertNotIn("Traceback", relay.said)

    def test_folder_that_was_removed_is_made_again(self) -> None:
        relay, url = self.begin(
            f"{LOGS}audit_log = 'audit/audit.log'\n", "sinks.LOOK_SECONDS = 0"
        )
        self.wait_for_text("logs/proxyrelay.log", SERVES)
        self.wait_for_text("audit/audit.log", "started")
        for folder in ("logs", "audit"):
            shutil.rmtree(self.folder / folder)
        self.request(url, 1)
        self.wait_for_text("logs/proxyrelay.log", " rejected ")
        self.wait_for_text("audit/audit.log", "rejected")
        self.assert_ends(relay)
        self.assertRegex(self.lines()[-1], " stopped$")

    def test_files_that_were_renamed_are_opened_anew_at_a_signal(self) -> None:
        relay, url = self.begin(f"{LOGS}audit_log = 'audit.log'\n")
        names = ("logs/proxyrelay.log", "audit.log")
        self.wait_for_text(names[0], SERVES)
        self.wait_for_text(names[1], "started")
        for name in names:
            (self.folder / name).rename(self.folder / f"{name}-old")
        relay.child.send_signal(signal.SIGUSR1)
        self.wait_for_text(names[0], r" INFO +log files are opened anew$")
        self.wait_for_text(names[1], "")
        self.request(url, 1)
        self.assert_serves(url)
        self.assert_ends(relay)
        for name, begin, end in (
            (names[0], "opened anew", "stopped"),
            (names[1], '"rejected"', '"stopped"'),
        ):
            lines = self.lines(name)
            self.assertIn(begin, lines[0])
            self.assertIn(end, lines[-1])
            self.assertEqual(len(self.lines(f"{name}-old")), 1)

    def test_file_system_that_hangs_does_not_hold_the_relay(self) -> None:
        for name, kept in (
            ("/proxyrelay.log", "stdout"),
            ("/audit.log", "logs/proxyrelay.log"),
        ):
            relay, url = self.begin(
                f"{LOGS}audit_log = 'audit.log'\n", f"{FEW}\nNAME = {name!r}\n{HANG}"
            )
            self.request(url, MANY)
            self.assert_serves(url)
            self.wait_for_text(
                kept, r" ERROR .* earlier lines are still being written; "
            )
            self.assert_ends(relay)
            shutil.rmtree(self.folder / "logs")

    def test_audit_log_that_is_no_file_is_an_error_at_the_start(self) -> None:
        os.mkfifo(self.folder / "fifo")  # nobody reads it
        path = self.write_config("port = 0\n[logging]\naudit_log = 'fifo'\n")
        process = self.start(SCRIPTS / "twistd", "-n", "proxyrelay", "--config", path)
        self.assertEqual(process.wait(), 1)
        self.assertIn(f"{path}:3: logging.audit_log: ", process.said)
        for name in ("fifo", "/dev/stdout"):
            self.write_config(f"port = 0\n[logging]\naudit_log = '{name}'\n")
            status, lines = self.command("check", "--config", path)
            self.assertEqual(status, 1)
            self.assertIn(f"{path}:3: logging.audit_log: ", "".join(lines))
