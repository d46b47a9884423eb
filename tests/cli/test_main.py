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
from proxyrelay.cli.entry import run
from tests.cli.command_case import GLOBUS, CommandTestCase
from tests.support.processes import PATIENCE, ProcessTestCase, environment

COMMAND = (sys.executable, "-m", "proxyrelay.cli.main")


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

    def test_version_option_prints_version(self) -> None:
        self.assertEqual(self.ended("--version"), (0, f"{__version__}\n", ""))

    def test_command_line_that_is_wrong_exits_with_2(self) -> None:
        for arguments, word in (
            ((), "COMMAND"),
            (("serve",), "check"),
            (("check", "--bogus"), "--bogus"),
            (("globus",), "ACTION"),
            (("status", "--interval=0"), "invalid interval value: '0'"),
            (("keep", "--config", "relay.toml"), f"\n{cli.KEEP_HINT}\n"),
        ):
            status, output, errors = self.ended(*arguments)
            self.assertEqual((status, output), (2, ""))
            self.assertIn(word, errors)

    def test_interrupt_among_the_imports_is_quiet(self) -> None:
        finder = mock.Mock(**{"find_spec.side_effect": KeyboardInterrupt})
        errors = io.StringIO()
        with (
            mock.patch.dict(sys.modules),
            mock.patch.object(sys, "meta_path", [finder]),
            redirect_stderr(errors),
        ):
            del sys.modules["proxyrelay.cli.main"]
            self.assertEqual(run(), 130)
        self.assertEqual(errors.getvalue(), "interrupted\n")

    def test_help_option_lists_the_options(self) -> None:
        globus_options = ("--config", "--client-id", "--client-secret-file")
        for arguments, words in (
            ((), ("twistd -n proxyrelay", "check a configuration\n")),
            (("check",), ("--config", "--host", "--port", "--log-dir", "--log-level")),
            (("check",), ("--offline", "Loads a configuration, opens")),
            (("globus", "setup"), globus_options),
            (("globus", "check"), globus_options),
        ):
            status, output, _ = self.ended(*arguments, "--help")
            self.assertEqual(status, 0)
            for word in words:
                self.assertIn(word, output)

    def test_process_ends_with_the_exit_status(self) -> None:
        self.path.write_text("port = 'x'\n")
        for options, status in (([], 1), (["--port=0", "--host=127.0.0.1"], 0)):
            done = subprocess.run(
                [*COMMAND, "check", "-c", str(self.path), *options],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            self.assertEqual((done.returncode, done.stderr), (status, ""), done.stdout)

    def test_process_without_reader_ends_with_141(self) -> None:
        receiving, sending = os.pipe()
        os.close(receiving)
        done = subprocess.run(
            [*COMMAND, "check"],
            stdout=sending,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
        os.close(sending)
        self.assertEqual((done.returncode, done.stderr), (141, ""))

    def test_process_with_closed_output_ends_with_the_exit_status(self) -> None:
        for command, status in (("check --port=0 --host=::1", 0), ("probe x", 3)):
            done = subprocess.run(
                ["sh", "-c", f'"$@" {command} >&-', "sh", *COMMAND],
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
                check=False,
            )
            self.assertEqual((done.returncode, done.stderr), (status, ""))


class InterruptTests(ProcessTestCase):
    """Ctrl-C ends a command without a traceback."""

    def test_interrupt_at_prompt_ends_with_130(self) -> None:
        self.patch(sys, "stdin", mock.Mock(isatty=lambda: True))
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

    def test_interrupt_while_globus_is_asked_ends_with_130(self) -> None:
        silent = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(silent.close)
        silent.settimeout(PATIENCE)
        path = self.folder / "relay.toml"
        port = silent.getsockname()[1]
        path.write_text(GLOBUS + f"service_url = 'https://127.0.0.1:{port}'\n")
        for command in (["globus", "check"], ["check", "--port=0"]):
            process = self.start(
                *(*COMMAND, *command, "-c", str(path)),
                env=environment(PYTHONPATH=str(Path(cli.__file__).parents[2])),
            )
            asked, _ = silent.accept()
            self.addCleanup(asked.close)
            self.assertEqual(process.stop(signal.SIGINT), 130, process.said)
            self.assertEqual((process.output, process.errors), ([], ["interrupted"]))
