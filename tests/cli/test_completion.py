"""``proxyrelay completion``, in real shells."""

from __future__ import annotations

import io
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from contextlib import redirect_stderr
from unittest import SkipTest, mock

from tests.cli.command_case import CommandTestCase
from tests.support.processes import PATIENCE

BASH = """
source $1
COMP_WORDS=($2 "$3"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMP_LINE="$2 $3"
COMP_POINT=${#COMP_LINE}
$(complete -p proxyrelay | sed 's/.*-F \\([^ ]*\\).*/\\1/') proxyrelay "$3" ""
printf '%s\\n' "${COMPREPLY[@]}"
"""

ZSH = """PS1='ready> '; fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -D
"""


class CompletionTests(CommandTestCase):
    """Words that a shell offers."""

    def setUp(self) -> None:
        super().setUp()
        (self.folder / "relay.toml").touch()

    def script(self, shell: str) -> str:
        """Text of the script of a shell; the test is skipped without the shell."""
        if shutil.which(shell) is None:
            raise SkipTest(f"needs {shell}")
        status, lines = self.run_command("completion", shell)
        self.assertEqual(status, 0, lines)
        return "\n".join(lines) + "\n"

    def said(self, *command: str) -> list[str]:
        """Words that a shell prints."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        self.assertEqual(done.stderr, "")
        return done.stdout.split()

    def test_bash_completes_commands_options_and_files(self) -> None:
        (self.folder / "c").write_text(self.script("bash"))
        for before, word, words in (
            ("proxyrelay", "re", {"reload", "restart"}),
            ("proxyrelay globus", "", {"setup", "check"}),
            ("proxyrelay drain", "--pidf", {"--pidfile"}),
            ("proxyrelay check --config", "rel", {"relay.toml"}),
            ("proxyrelay completion", "b", {"bash"}),
        ):
            found = self.said("bash", "--norc", "-c", BASH, "bash", "./c", before, word)
            self.assertLessEqual(words, set(found), (before, word))
            self.assertTrue(all(each.startswith(word) for each in found), found)

    def test_fish_completes_commands_options_and_files(self) -> None:
        (self.folder / "c").write_text(self.script("fish"))
        for line, words in (
            ("proxyrelay re", {"reload", "restart"}),
            ("proxyrelay globus ", {"setup", "check"}),
            ("proxyrelay drain --pidf", {"--pidfile"}),
            ("proxyrelay check --config rel", {"relay.toml"}),
        ):
            command = f"source c; complete -C '{line}'"
            found = self.said("fish", "--no-config", "-c", command)
            self.assertLessEqual(words, set(found), line)

    def test_zsh_completes_commands_and_files(self) -> None:
        (self.folder / "_proxyrelay").write_text(self.script("zsh"))
        own, its = pty.openpty()
        self.addCleanup(os.close, own)
        shell = subprocess.Popen(
            ["zsh", "-f"],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "TERM": "xterm"},
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
        )
        os.close(its)
        self.addCleanup(shell.wait, PATIENCE)
        self.addCleanup(shell.kill)
        os.write(own, ZSH.encode())
        self.wait_for(own, b"ready> ")
        os.write(own, b"proxyrelay re\t")
        self.wait_for(own, b"restart")
        os.write(own, b"s\t--config rel\t")
        self.wait_for(own, b"relay.toml")

    def wait_for(self, terminal: int, text: bytes) -> None:
        """Read until a text comes."""
        seen, end = b"", time.monotonic() + PATIENCE
        while text not in seen:
            left = end - time.monotonic()
            ready, _, _ = select.select([terminal], [], [], max(0.0, left))
            self.assertTrue(ready, seen)
            seen += os.read(terminal, 4096)

    def test_completion_without_its_package_names_it(self) -> None:
        errors = io.StringIO()
        with mock.patch.dict(sys.modules, {"shtab": None}), redirect_stderr(errors):
            status, lines = self.run_command("completion", "bash")
        self.assertEqual((status, lines), (1, []))
        self.assertIn("pip install 'proxyrelay[cli]'", errors.getvalue())
