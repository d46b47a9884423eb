"""Base of the tests of the command."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from datetime import timedelta
from pathlib import Path

import trustme
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.cli import main as cli
from proxyrelay.net import certificates
from tests.support.globus import CLIENT_ID

HOST = "host = '127.0.0.1'\n"

DAY = timedelta(days=1)

GLOBUS = f"[auth]\nmethod = 'globus'\n[auth.kwargs]\nclient_id = '{CLIENT_ID}'\n"


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
