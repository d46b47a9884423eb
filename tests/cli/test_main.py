"""``proxyrelay``: options, exit statuses, interrupts."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

from proxyrelay import __version__
from proxyrelay.auth.credentials import ID_VARIABLE, SECRET_VARIABLE
from proxyrelay.cli import main as cli
from tests.cli.command_case import GLOBUS, CommandTestCase
from tests.support.processes import PATIENCE, ProcessTestCase, environment


class CommandLineTests(CommandTestCase):
    """Options, help and exit statuses."""

    def ended(self, *arguments: str) -> tuple[object, str, str]:
        """Exit status, output and errors after `SystemExit`."""
        output, errors = io.StringIO(), io.StringIO()
        with (
            redirect_stdout(output),
            redirect_stderr(errors),
            self.assertRaises(SystemExit) as caught,
        ):
            cli.main(arguments)
        return caught.exception.code, output.getvalue(), errors.getvalue()

    def test_tells_its_version(self) -> None:
        self.assertEqual(self.ended("--version"), (0, f"{__version__}\n", ""))

    def test_wants_a_command(self) -> None:
        status, output, errors = self.ended()
        self.assertEqual((status, output), (2, ""))
        self.assertIn("COMMAND", errors)

    def test_refuses_other_commands(self) -> None:
        status, _, errors = self.ended("serve")
        self.assertEqual(status, 2)
        self.assertIn("check", errors)

    def test_refuses_other_options(self) -> None:
        status, _, errors = self.ended("check", "--bogus")
        self.assertEqual(status, 2)
        self.assertIn("--bogus", errors)

    def test_helps(self) -> None:
        status, output, _ = self.ended("--help")
        self.assertEqual(status, 0)
        self.assertIn("twistd -n proxyrelay", output)
        status, output, _ = self.ended("check", "--help")
        self.assertEqual(status, 0)
        for option in (
            *("--config", "--host", "--port", "--log-dir", "--log-level"),
            "--offline",
        ):
            self.assertIn(option, output)
        for action in ("setup", "check"):
            status, output, _ = self.ended("globus", action, "--help")
            self.assertEqual(status, 0)
            for option in ("--config", "--client-id", "--client-secret-file"):
                self.assertIn(option, output)
        self.assertEqual(self.ended("globus")[0], 2)

    def test_is_a_process_with_its_exit_status(self) -> None:
        self.path.write_text("port = 'x'\n")
        for options, status in (
            ([], 1),
            (["--port=0", "--host=127.0.0.1"], 0),
        ):
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "proxyrelay.cli.main", "check"),
                    *("-c", str(self.path), *options),
                ],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            self.assertEqual((done.returncode, done.stderr), (status, ""), done.stdout)

    def test_nobody_reads_its_output(self) -> None:
        receiving, sending = os.pipe()
        os.close(receiving)
        done = subprocess.run(
            [sys.executable, "-m", "proxyrelay.cli.main", "check"],
            stdout=sending,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
        os.close(sending)
        self.assertEqual((done.returncode, done.stderr), (141, ""))


class InterruptedTests(ProcessTestCase):
    """Ctrl-C ends a command without a traceback."""

    def test_while_somebody_is_asked(self) -> None:
        terminal = mock.Mock(isatty=lambda: True)
        self.patch(sys, "stdin", terminal)
        errors = io.StringIO()
        with (
            mock.patch.dict(os.environ),
            # Python's own reads from a terminal.
            mock.patch("builtins.input", side_effect=KeyboardInterrupt),
            redirect_stderr(errors),
        ):
            for variable in (ID_VARIABLE, SECRET_VARIABLE, "CREDENTIALS_DIRECTORY"):
                os.environ.pop(variable, None)
            status = cli.main(["globus", "setup"])
        self.assertEqual((status, errors.getvalue()), (130, "interrupted\n"))

    def test_while_globus_is_asked(self) -> None:
        silent = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(silent.close)
        silent.settimeout(PATIENCE)
        path = self.folder / "relay.toml"
        port = silent.getsockname()[1]
        path.write_text(GLOBUS + f"service_url = 'https://127.0.0.1:{port}'\n")
        for command in (["globus", "check"], ["check", "--port=0"]):
            process = self.start(
                *(sys.executable, "-m", "proxyrelay.cli.main", *command),
                *("-c", path),
                env=environment(PYTHONPATH=str(Path(cli.__file__).parents[2])),
            )
            asked, _ = silent.accept()
            self.addCleanup(asked.close)
            self.assertEqual(process.stop(signal.SIGINT), 130, process.said)
            self.assertEqual((process.output, process.errors), ([], ["interrupted"]))
