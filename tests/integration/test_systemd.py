"""The shipped unit under a real systemd."""

from __future__ import annotations

import signal

from tests.support.processes import SCRIPTS, ProcessTestCase
from tests.support.systemd import Systemd, shipped_unit

UNIT = "proxyrelay.service"


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
        (self.systemd.folder / "relay.toml").write_text(settings)
        self.systemd.write_unit(UNIT, shipped_unit(SCRIPTS))
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
