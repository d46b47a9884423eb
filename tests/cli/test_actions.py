"""``proxyrelay reload`` and ``drain``: signals to a process."""

from __future__ import annotations

import errno
import io
import os
import signal
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from proxyrelay.cli import actions
from proxyrelay.cli import main as cli
from tests.cli.command_case import HOST, CommandTestCase
from tests.support.processes import PATIENCE, ProcessTestCase


class ActionTests(CommandTestCase):
    """Signals, PID files and their errors."""

    def setUp(self) -> None:
        super().setUp()
        self.sent: list[tuple[int, signal.Signals]] = []
        self.patch(os, "kill", lambda pid, number: self.sent.append((pid, number)))
        self.patch(actions, "PROC", self.folder / "proc")
        self.path.write_text(HOST)
        self.pidfile = self.folder / "relay.pid"
        self.pidfile.write_text("4711")

    def test_action_sends_its_signal(self) -> None:
        for arguments, number in (
            (["reload", "-c", str(self.path)], signal.SIGHUP),
            (["reload"], signal.SIGHUP),
            (["drain"], signal.SIGUSR2),
        ):
            for which in (["--pid=4711"], [f"--pidfile={self.pidfile}"]):
                self.sent.clear()
                status, lines = self.run_command(*arguments, *which)
                self.assertEqual((status, self.sent), (0, [(4711, number)]))
                told = f"sent {number.name} to process 4711; the log of the relay has "
                self.assertEqual(lines[-1], f"{told}the outcome")

    def test_action_without_process_finds_pid_file_of_twistd(self) -> None:
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(self.folder)
        self.pidfile.rename("twistd.pid")
        self.assertEqual(self.run_command("drain")[0], 0)
        self.assertEqual(self.sent, [(4711, signal.SIGUSR2)])

    def test_pid_file_of_no_use_is_explained(self) -> None:
        for text in ("", "x", "0", "-1", "ä"):
            self.pidfile.write_text(text)
            self.assertEqual(
                self.run_command("drain", f"--pidfile={self.pidfile}"),
                (1, [f"problem: {self.pidfile}: holds no process ID"]),
            )
        self.pidfile.unlink()
        why = f"No such file or directory; {actions.PID_HINT}"
        self.assertEqual(
            self.run_command("drain", f"--pidfile={self.pidfile}"),
            (1, [f"problem: {self.pidfile}: {why}"]),
        )
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(self.folder)
        _, lines = self.run_command("drain")
        self.assertIn(actions.CONFIG_HINT, lines[-1])
        _, lines = self.run_command("drain", "-c", str(self.path))
        self.assertEqual(lines, [f"problem: {actions.NO_WAY}"])
        self.assertEqual(self.sent, [])

    def test_pid_of_a_process_that_has_ended_is_a_problem(self) -> None:
        def fail(*_: object) -> None:
            raise ProcessLookupError(errno.ESRCH, "No such process")

        self.patch(os, "kill", fail)
        self.assertEqual(
            self.run_command("drain", "--pid=4711"),
            (1, ["problem: process 4711 has ended: nothing was sent"]),
        )
        # Its parent has not noticed.
        self.patch(os, "kill", lambda *_: self.fail("sent"))
        process = actions.PROC / "4711"
        process.mkdir(parents=True)
        (process / "cmdline").write_text("")
        (process / "status").write_text("Name:\tx\nState:\tZ (zombie)\n")
        self.assertEqual(
            self.run_command("stop", "--pid=4711"),
            (1, ["problem: process 4711 has ended: nothing was sent"]),
        )

    def test_pid_that_is_none_is_refused(self) -> None:
        for pid in ("0", "-1", "x", "1.5", str(2**31)):
            errors = io.StringIO()
            with redirect_stderr(errors), self.assertRaises(SystemExit):
                self.run_command("drain", f"--pid={pid}")
            self.assertIn(f"invalid process ID value: '{pid}'", errors.getvalue())

    def test_process_without_handler_gets_no_signal(self) -> None:
        process = actions.PROC / "4711"
        process.mkdir(parents=True)
        serving = f"{(1 << signal.SIGHUP - 1 | 1 << signal.SIGUSR2 - 1):016x}"
        starting = f"{1 << signal.SIGINT - 1:016x}"
        for words, caught, expected in (
            ("python3 /opt/x/bin/twistd -n proxyrelay -c x", serving, 0),
            ("python3 /opt/x/bin/twistd -n proxyrelay -c x", starting, 1),
            ("python3 /opt/proxyrelay/bin/other", serving, 1),
            ("", serving, 1),
        ):
            self.sent.clear()
            (process / "cmdline").write_text(words.replace(" ", "\0") + "\0")
            (process / "status").write_text(f"Name:\tx\nSigCgt:\t{caught}\nCap:\t0\n")
            for command in ("drain", "reload"):
                status, lines = self.run_command(command, "--pid=4711")
                self.assertEqual(status, expected, (words, caught, lines))
                self.assertEqual("nothing was sent" in lines[-1], bool(expected))
            self.assertEqual(len(self.sent), 0 if expected else 2)
        (process / "status").write_text("Name:\tx\n")
        self.assertEqual(self.run_command("drain", "--pid=4711")[0], 0)

    def test_reload_with_problem_or_fault_sends_nothing(self) -> None:
        expired = self.certificates(days=-1)
        for text, word in (("prot = 1\n", "prot"), (expired, "expired")):
            self.path.write_text(text)
            status, lines = self.run_command("reload", "-c", str(self.path), "--pid=1")
            self.assertEqual((status, self.sent), (1, []))
            self.assertTrue(lines[0].startswith(f"problem: {self.path}:"), lines)
            self.assertIn(word, lines[0])

    def test_reload_with_warning_sends_signal(self) -> None:
        self.path.write_text("")
        status, lines = self.run_command("reload", "-c", str(self.path), "--pid=1")
        self.assertEqual((status, self.sent), (0, [(1, signal.SIGHUP)]))
        self.assertTrue(lines[0].startswith("warning: other machines reach"), lines)


class StrangerTests(ProcessTestCase):
    """A real process without a handler."""

    def test_action_on_stranger_lets_it_live(self) -> None:
        sleeper = self.start("sleep", str(PATIENCE))
        for command in ("drain", "reload"):
            output = io.StringIO()
            with redirect_stdout(output):
                status = cli.main([command, f"--pid={sleeper.pid}"])
            self.assertEqual(status, 1)
            self.assertIn(f"process {sleeper.pid} is no relay", output.getvalue())
        # Its first signal is this one.
        self.assertEqual(sleeper.stop(signal.SIGTERM), -signal.SIGTERM)

    if not Path("/proc/self/status").exists():
        test_action_on_stranger_lets_it_live.skip = (  # type: ignore[attr-defined]
            "needs /proc"
        )
