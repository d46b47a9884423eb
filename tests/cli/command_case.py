"""Base of the tests of the command."""

from __future__ import annotations

import io
import os
import sys
from contextlib import redirect_stdout
from datetime import timedelta
from pathlib import Path

import trustme
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth.credentials import ID_VARIABLE, SECRET_VARIABLE, Credentials
from proxyrelay.cli import globus
from proxyrelay.cli import main as cli
from proxyrelay.net import certificates
from tests.support.globus import CLIENT_ID, PendingAgent
from tests.support.globus import globus as service_of

HOST = "host = '127.0.0.1'\n"

DAY = timedelta(days=1)

GLOBUS = f"""[auth]
method = 'globus'
[auth.kwargs]
client_id = '{CLIENT_ID}'
client_secret = 'hunter2'
"""

OUR_CLIENT = (
    {
        "client": {"id": CLIENT_ID, "name": "ours"},
        "scope": {"id": "a", "scope_string": "urn:a"},
    },
    200,
)


class CommandTestCase(SynchronousTestCase):
    """A command in this process, and its folder."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.path = self.folder / "relay.toml"

    def run_command(self, *arguments: str) -> tuple[int, list[str]]:
        """Run it; return exit status and lines of standard output."""
        output = io.StringIO()
        with redirect_stdout(output):
            status = cli.main(arguments)
        return status, output.getvalue().splitlines()

    def check(self, text: str, *options: str) -> tuple[int, list[str]]:
        """Check a file."""
        self.path.write_text(text)
        self.path.chmod(0o600)
        return self.run_command("check", "-c", str(self.path), *options)

    def checked(self, text: str, *options: str) -> list[str]:
        """Lines about a file without a problem."""
        status, lines = self.check(text, *options)
        self.assertEqual(status, 0, lines)
        return lines

    def problem(self, text: str, *options: str) -> str:
        """The only problem of a file."""
        status, lines = self.check(text, *options)
        found = [line for line in lines if line.startswith("problem: ")]
        self.assertEqual((status, len(found)), (1, 1), lines)
        return found[0]

    def certificates(self, days: int = 90, whole: bool = True) -> str:
        """Write certificate and key; return their settings."""
        authority = trustme.CA()
        now = certificates.now()
        issued = authority.issue_cert(
            "relay.example",
            "192.0.2.1",
            not_before=now - 100 * DAY,
            not_after=now + days * DAY + timedelta(hours=1),
        )
        chain = [blob.bytes() for blob in issued.cert_chain_pems]
        if whole:
            chain.append(authority.cert_pem.bytes())
        (self.folder / "cert.pem").write_bytes(b"".join(chain))
        (self.folder / "key.pem").write_bytes(issued.private_key_pem.bytes())
        return HOST + "port = 0\ncertfile = 'cert.pem'\nkeyfile = 'key.pem'\n"


class GlobusCommandTestCase(CommandTestCase):
    """A command that sends requests to Globus."""

    def setUp(self) -> None:
        super().setUp()
        self.agent = PendingAgent()
        self.answer: tuple[object, int] = ({}, 500)
        self.ran: list[Credentials] = []
        for variable in (ID_VARIABLE, SECRET_VARIABLE, "CREDENTIALS_DIRECTORY"):
            if variable in os.environ:
                value = os.environ.pop(variable)
                self.addCleanup(os.environ.__setitem__, variable, value)
        # A reactor does not start twice in one process.
        self.patch(globus, "run", self.run_globus)

    def run_globus(
        self, settings: object, found: Credentials, command: globus.GlobusTask
    ) -> int:
        self.ran.append(found)
        done = ensureDeferred(command(service_of(self.agent, Clock(), found)))
        while self.agent.pending:
            self.agent.last.reply(*self.answer)
        return self.successResultOf(done)

    def stdin(self, text: str | None) -> None:
        """Set standard input: a file, or /dev/null."""
        path = Path(os.devnull) if text is None else self.folder / "stdin"
        if text is not None:
            path.write_text(text)
        stream = path.open(encoding="utf-8")
        self.addCleanup(stream.close)
        self.patch(sys, "stdin", stream)
