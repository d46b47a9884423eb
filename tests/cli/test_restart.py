"""``proxyrelay restart`` and ``stop``: what they refuse, and real relays."""

from __future__ import annotations

import io
import os
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import SkipTest

from msgspec.structs import replace

from proxyrelay import config
from proxyrelay.admin.report import Survival
from proxyrelay.cli import actions, restart, served
from proxyrelay.cli import main as cli
from tests.cli.command_case import HOST, CommandTestCase
from tests.cli.test_status import STATUS
from tests.integration.test_twistd import TwistdTestCase
from tests.support.certificates import SETTINGS, Authority
from tests.support.kept import KeptRelay
from tests.support.processes import PATIENCE

KEPT = Survival(True, 2, 0, 10, 0, 0, 0)


class RefusalTests(CommandTestCase):
    """No signal is sent."""

    def setUp(self) -> None:
        super().setUp()
        self.sent: list[tuple[int, signal.Signals]] = []
        self.patch(os, "kill", lambda pid, number: self.sent.append((pid, number)))
        self.patch(actions, "PROC", self.folder / "proc")
        self.path.write_text(HOST)

    def refused(self, *arguments: str) -> str:
        """The last line of a command that sends nothing."""
        status, lines = self.run_command(*arguments)
        self.assertEqual((status, self.sent), (1, []), lines)
        return lines[-1]

    def restart(self) -> str:
        return self.refused("restart", "-c", str(self.path), "--pid=4711")

    def test_restart_with_problem_sends_nothing(self) -> None:
        self.path.write_text("prot = 1\n")
        self.assertIn("prot", self.restart())

    def test_restart_that_may_close_connections_is_refused(self) -> None:
        self.assertIn("nothing shows whether", self.restart())
        descriptors = actions.PROC / "4711" / "fd"
        descriptors.mkdir(parents=True)
        (descriptors / "3").symlink_to("/dev/null")
        self.assertIn("the relay keeps no connections", self.restart())
        (descriptors / "4").symlink_to("/memfd:proxyrelay (deleted)")
        self.assertEqual(restart._loss(None, 4711, config.Config()), "")
        self.path.write_text(self.certificates())
        self.assertIn("over TLS of the relay itself", self.restart())

    def test_process_without_a_name_has_a_hint(self) -> None:
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(self.folder)
        self.assertIn(actions.PID_HINT, self.refused("stop"))

    def test_loss_is_what_the_private_listener_says(self) -> None:
        for status, words in (
            (replace(STATUS, survival=KEPT), ""),
            (STATUS, "all 2 would be closed"),
            (replace(STATUS, survival=replace(KEPT, works=False)), "all 2 would"),
            (replace(STATUS, survival=replace(KEPT, kept=1)), "1 of 2 clients"),
            (replace(STATUS, survival=KEPT, draining=True), "drains"),
        ):
            found = restart._loss(status, 4711, config.Config())
            self.assertEqual(bool(found), bool(words), found)
            self.assertIn(words, found)

    def test_outcome_tells_what_went_on(self) -> None:
        after = replace(STATUS, survival=replace(KEPT, resumed=512, lost=1))
        for found, words in (
            (None, "process 4711 -> the next one in 0.9 s"),
            (STATUS, "process 4711 -> 4711 in 0.9 s; it keeps no connections"),
            (
                after,
                "process 4711 -> 4711 in 0.9 s, connections that go on: 512, lost: 1",
            ),
        ):
            self.assertEqual(restart._outcome(4711, found, 0.94), words)


class KeptTests(TwistdTestCase):
    """Relays whose connections are kept."""

    def setUp(self) -> None:
        super().setUp()
        if sys.platform != "linux":
            raise SkipTest("descriptors are kept on Linux only")

    def keep(self, text: str) -> KeptRelay:
        self.config = self.write_config(f"{HOST}[survive]\nenabled = true\n{text}")
        relay = KeptRelay(["--config", self.config, "--port", "0"], self.folder)
        self.addCleanup(relay.end)
        return relay

    def test_restart_and_stop_through_the_private_listener(self) -> None:
        place = f"unix:{self.folder}/admin.sock"
        relay = self.keep(f"[admin]\nlisten = '{place}'\n")
        client = self.registered(relay.url)
        (before,) = relay.children()
        status, lines = self.command("restart", "--config", self.config)
        self.assertEqual(status, 0, lines)
        (after,) = relay.children()
        self.assertRegex(
            lines[-1],
            rf"^restarted: process {before} -> {after} in \d+\.\d s, "
            "connections that go on: 1, lost: 0$",
        )
        self.assertNotEqual(before, after)
        status, lines = self.command("status", "--config", self.config)
        self.assertIn(
            "survive: 1 of at most 10,000 connections are kept; at the start 1 went "
            "on, 0 were lost",
            lines,
        )
        status, lines = self.command("stop", "--admin", place, "--pid", str(before))
        self.assertEqual(status, 1)
        self.assertIn(f"is that of process {after}, not of {before}", lines[-1])
        status, lines = self.command("stop", "--admin", place)
        self.assertEqual(status, 0, lines)
        self.assertRegex(
            lines[-1],
            rf"^stopped: process {after} has ended after \S+ s, connections closed: 1$",
        )
        self.assert_closed(client, 1001)
        self.assertEqual(relay.wait(), 0)

    def test_restart_without_the_private_listener(self) -> None:
        relay = self.keep("")
        file = self.folder / "asked.toml"
        file.write_text(f"{HOST}port = {relay.port}\n")
        self.registered(relay.url)
        (before,) = relay.children()
        status, lines = self.command("restart", "--config", file, "--pid", str(before))
        self.assertEqual(status, 0, lines)
        self.assertRegex(lines[-1], rf"^restarted: process {before} -> the next one")
        relay.wait_for("process before .*: 1 go on, 0 were lost")


class UnkeptTests(TwistdTestCase):
    """Relays of which nobody keeps anything."""

    def test_restart_that_nobody_starts_again_fails(self) -> None:
        relay = self.relay()
        client = self.registered(relay.url)
        file = self.write_config(f"{HOST}port = {relay.port}\n")
        asked = ("restart", "--config", file, "--pid", str(relay.pid))
        status, lines = self.command(*asked)
        self.assertEqual(status, 1)
        self.assertIn("keeps no connections", lines[-1])
        output, errors = io.StringIO(), io.StringIO()
        with redirect_stdout(output), redirect_stderr(errors):
            status = cli.main([*map(str, asked), "--yes", "--timeout", "1"])
        self.assertEqual(status, 1)
        self.assertEqual(output.getvalue(), f"sent SIGTERM to process {relay.pid}\n")
        self.assertIn("in time: its port: connection refused.", errors.getvalue())
        self.assert_closed(client, 1001)

    def test_relay_behind_a_proxy_and_tls_is_seen(self) -> None:
        Authority().write(self.folder)
        text = (
            f"{SETTINGS}[limits]\nproxy_protocol = true\n"
            "trusted_proxies = ['127.0.0.1']\n"
        )
        relay = self.relay("--config", self.write_config(text))
        path = self.folder / "asked.toml"
        path.write_text(f"{HOST}port = {relay.port}\n{text}")
        asked = config.load(path).config
        self.assertTrue(served.is_served(asked, PATIENCE, True))
        without = replace(asked, limits=config.Limits())
        with self.assertRaises(OSError):
            served.is_served(without, PATIENCE, True)
