"""The shipped unit under a real systemd."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from tests.support.processes import SCRIPTS, ProcessTestCase
from tests.support.systemd import Systemd

CONF = Path(__file__).parents[2] / "conf"

UNIT = "proxyrelay.service"

OUTPUT = """[Service]
StandardOutput=append:/run/test/relay.log
StandardError=inherit
"""
"""There is no journal."""


class UnitTestCase(ProcessTestCase):
    """Serves by conf/proxyrelay.service, with the programs of the tests."""

    def setUp(self) -> None:
        super().setUp()
        self.systemd = Systemd(self.folder)
        self.addCleanup(self.systemd.end)
        self.log = self.systemd.folder / "relay.log"

    def serve(self, settings: str) -> None:
        """Start the relay.

        Args:
            settings: The text of its relay.toml.
        """
        text = (CONF / UNIT).read_text()
        for old, new in (
            ("/opt/proxyrelay/bin/", f"{SCRIPTS}/"),
            ("/etc/proxyrelay/", "/run/test/"),
            ("[Service]\n", OUTPUT),
        ):
            self.assertIn(old, text)
            text = text.replace(old, new)
        if sys.base_prefix.startswith(("/home/", "/root/")):
            text = text.replace("ProtectHome=yes", "ProtectHome=no")
        (self.systemd.folder / "relay.toml").write_text(settings)
        self.systemd.write_unit(UNIT, text)
        self.systemd.control("start", UNIT)


class UnitTests(UnitTestCase):
    def test_unit_serves_is_restarted_after_a_crash_and_stops(self) -> None:
        port = self.reserve()
        self.serve(f"host = '127.0.0.1'\nport = {port}\n")
        self.assertEqual(self.systemd.show(UNIT, "StatusText"), "serving, clients: 0")
        self.systemd.kill(UNIT, signal.SIGKILL)
        self.systemd.wait_for_restart(UNIT, 1)
        self.systemd.control("stop", UNIT)
        self.assertEqual(self.systemd.show(UNIT, "Result"), "success")
        self.assertEqual(
            self.log.read_text().count(f" serves ws://127.0.0.1:{port}"), 2
        )
