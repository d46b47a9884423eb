"""The shipped unit under a real systemd."""

from __future__ import annotations

import signal
from pathlib import Path

from websockets.exceptions import ConnectionClosed

from tests.integration.test_twistd import TwistdTestCase
from tests.support.processes import SCRIPTS, ProcessTestCase
from tests.support.recording import answer, offer
from tests.support.served import Client
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


class SurviveTests(UnitTestCase, TwistdTestCase):
    """The connections of a relay with ``[survive]``."""

    def setUp(self) -> None:
        super().setUp()
        port = self.reserve()
        self.url = f"ws://127.0.0.1:{port}"
        self.serve(f"host = '127.0.0.1'\nport = {port}\n[survive]\nenabled = true\n")
        self.one, self.other = self.meet(self.url)

    def assert_served(self, number: int) -> None:
        """The clients exchange an offer and its answer, on their connections."""
        for source, target, text in (
            (self.one, self.other, offer(sdp=str(number))),
            (self.other, self.one, answer()),
        ):
            source.send(text.decode())
            self.assertEqual(target.recv(), text.decode())
        self.other.ping()

    def kept(self) -> int:
        """How many descriptors systemd has."""
        return int(self.systemd.show(UNIT, "NFileDescriptorStore"))

    def test_connections_outlive_crash_restart_and_an_orderly_end(self) -> None:
        kept = self.kept()
        self.assertGreater(kept, 2)
        self.systemd.kill(UNIT, signal.SIGKILL)
        self.assert_served(1)
        self.systemd.wait_for_restart(UNIT, 1)
        self.systemd.control("restart", UNIT)
        self.assert_served(2)
        self.systemd.kill(UNIT, signal.SIGTERM)
        self.assert_served(3)
        self.systemd.wait_for_restart(UNIT, 1)
        self.systemd.control("daemon-reload")
        self.assertEqual(self.kept(), kept)
        self.one.close()
        self.other.close()
        self.systemd.wait_until("their end", lambda: self.kept() == kept - 2)
        self.assertEqual(self.log.read_text().count(" registered "), 2)

    def test_stop_closes_connections_and_an_interrupt_says_goodbye(self) -> None:
        self.systemd.control("stop", UNIT)
        self.assertEqual(self.code(self.one), None)
        self.systemd.control("start", UNIT)
        self.assertEqual(self.systemd.show(UNIT, "StatusText"), "serving, clients: 0")
        client = self.registered(self.url)
        self.systemd.kill(UNIT, signal.SIGINT)
        self.assertEqual(self.code(client), 1001)
        self.systemd.wait_until("its end", lambda: not self.kept())
        self.assertEqual(self.systemd.show(UNIT, "Result"), "success")

    def code(self, client: Client) -> int | None:
        """The close code that a client gets, if it gets one."""
        with self.assertRaises(ConnectionClosed) as caught:
            client.recv()
        received = caught.exception.rcvd
        return None if received is None else received.code


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


class CommandTests(UnitTestCase, TwistdTestCase):
    """``proxyrelay restart`` and ``stop``, and no more than the unit for survival."""

    def command_there(self, name: str) -> str:
        """The last line of a command in the unit's namespaces."""
        config = Path("/run/test/relay.toml")
        said = self.systemd.run(SCRIPTS / "proxyrelay", name, "--config", config)
        return said.splitlines()[-1]

    def test_restart_closes_nothing_and_stop_is_for_good(self) -> None:
        port = self.reserve()
        self.serve(
            f"host = '127.0.0.1'\nport = {port}\n"
            "[admin]\nlisten = 'unix:/run/proxyrelay/admin.sock'\n"
        )
        client = self.registered(f"ws://127.0.0.1:{port}")
        self.assertRegex(
            self.command_there("restart"),
            r"^restarted: process \d+ -> \d+ in .* that go on: 1, lost: 0$",
        )
        client.ping()
        self.assertRegex(self.command_there("stop"), r"^stopped: .* closed: 1$")
        self.assert_closed(client, 1001)
        self.assertEqual(self.systemd.show(UNIT, "Result"), "success")
        self.systemd.wait_until(
            "the end", lambda: self.systemd.show(UNIT, "ActiveState") == "inactive"
        )
