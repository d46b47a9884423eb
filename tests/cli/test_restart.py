"""``proxyrelay restart`` and ``stop``: what they refuse, and real relays."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from unittest import SkipTest

from msgspec.structs import replace

from proxyrelay import config
from proxyrelay.admin.report import Survival
from proxyrelay.cli import actions, restart, served
from proxyrelay.errors import NothingSent, Unanswered
from tests.cli.command_case import HOST, CommandTestCase
from tests.cli.test_status import STATUS
from tests.integration.test_twistd import TwistdTestCase
from tests.support.certificates import SETTINGS, Authority
from tests.support.kept import KeptRelay
from tests.support.processes import PATIENCE
from tests.support.recording import B

ENDED = 4712
"""ID of a process that has ended."""

KEPT = Survival(True, 2, 0, 10, 0, 0, 0)


class RefusalTests(CommandTestCase):
    """No signal is sent."""

    def setUp(self) -> None:
        super().setUp()
        self.sent: list[tuple[int, signal.Signals]] = []
        self.patch(os, "kill", self.kill)
        self.patch(actions, "PROC", self.folder / "proc")
        self.path.write_text(HOST)

    def kill(self, pid: int, number: int) -> None:
        if pid == ENDED:
            raise ProcessLookupError
        if number:
            self.sent.append((pid, signal.Signals(number)))

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
        refused = self.restart()
        self.assertIn("nothing shows whether", refused)
        self.assertIn("--yes restarts", refused)
        descriptors = actions.PROC / "4711" / "fd"
        descriptors.mkdir(parents=True)
        (descriptors / "3").symlink_to("/dev/null")
        for more in ((), ("--yes",)):
            asked = ("restart", "-c", str(self.path), "--pid=4711", *more)
            refused = self.refused(*asked)
            self.assertIn("the relay keeps no connections: all would", refused)
            self.assertIn("systemctl restart", refused)
            self.assertIn("set survive.enabled", refused)
            self.assertNotIn("--yes", refused)
        (descriptors / "4").symlink_to("/memfd:proxyrelay (deleted)")
        self.assertEqual(restart._loss(None, 4711, config.Config()), "")
        self.path.write_text(self.certificates())
        self.assertIn("over TLS of the relay itself", self.restart())

    def test_process_without_a_name_has_a_hint(self) -> None:
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(self.folder)
        self.assertIn(actions.CONFIG_HINT + actions.PID_HINT, self.refused("stop"))

    def test_process_that_has_ended_is_named(self) -> None:
        for command in ("restart", "stop"):
            asked = (command, "-c", str(self.path), f"--pid={ENDED}")
            self.assertIn(f"process {ENDED} has ended", self.refused(*asked))

    def test_restart_without_configuration_is_refused(self) -> None:
        for named in ((), ("--pid=4711",), ("--pid=4711", "--yes")):
            refused = self.refused("restart", *named)
            self.assertIn("name the configuration of the relay with --config", refused)

    def test_relay_that_would_only_stop_is_refused(self) -> None:
        restart._must_be_kept(replace(STATUS, survival=KEPT), 4711)
        for status, words in (
            (STATUS, "all 2 would be closed"),
            (replace(STATUS, survival=replace(KEPT, works=False)), "all 2 would"),
            (replace(STATUS, survival=KEPT, draining=True), "drains"),
        ):
            with self.assertRaisesRegex(NothingSent, words):
                restart._must_be_kept(status, 4711)

    def test_loss_is_what_the_private_listener_says(self) -> None:
        plain, with_tls = config.Config(), config.Config(certfile=Path("cert.pem"))
        kept = replace(STATUS, survival=KEPT, tls=False)
        one = replace(kept, survival=replace(KEPT, kept=1))
        for status, settings, words in (
            (kept, plain, "^$"),
            (kept, with_tls, r"^2 of 2 clients would be closed \(TLS of the relay"),
            (one, plain, r"^1 of 2 clients would be closed \(survive\.capacity\)$"),
            (replace(one, tls=True), plain, r"^1 of 2 .* \(TLS of the relay itself\)$"),
        ):
            found = restart._loss(status, 4711, settings)
            self.assertRegex(found, words)

    def test_outcome_tells_what_went_on(self) -> None:
        after = replace(STATUS, survival=replace(KEPT, resumed=512, lost=1))
        before = replace(STATUS, survival=KEPT)
        part = replace(STATUS, survival=replace(KEPT, kept=1))
        next_one = "process 4711 -> 4711 in 0.9 s"
        went_on = f"{next_one}, connections that go on: 512, lost: 1"
        for old, found, words in (
            (None, None, "process 4711 -> the next one in 0.9 s"),
            (before, STATUS, f"{next_one}; it keeps no connections: all were closed"),
            (before, after, went_on),
            (part, after, f"{went_on}, not kept and closed: 1"),
        ):
            self.assertEqual(restart._outcome(4711, old, found, 0.94), words)


class KeptTests(TwistdTestCase):
    """Relays whose connections are kept."""

    def setUp(self) -> None:
        super().setUp()
        if sys.platform != "linux":
            raise SkipTest("descriptors are kept on Linux only")
        # The path of a socket must be short.
        self.sockets = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.sockets)

    def keep(self, text: str) -> KeptRelay:
        self.config = self.write_config(f"{HOST}[survive]\nenabled = true\n{text}")
        relay = KeptRelay(["--config", self.config, "--port", "0"], self.folder)
        self.addCleanup(relay.end)
        return relay

    def test_restart_and_stop_through_the_private_listener(self) -> None:
        place = f"unix:{self.sockets}/admin.sock"
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

    def test_restart_that_moves_the_private_listener_asks_at_both(self) -> None:
        old, new = (f"unix:{self.sockets}/{name}.sock" for name in ("old", "new"))
        relay = self.keep(f"[admin]\nlisten = '{old}'\n")
        self.registered(relay.url)
        self.config.write_text(self.config.read_text().replace(old, new))
        asked = ("restart", "--config", self.config, "--admin", old)
        status, lines = self.command(*asked)
        self.assertEqual(status, 0, lines)
        self.assertIn("connections that go on: 1, lost: 0", lines[-1])
        self.assertEqual(self.command("live", "--admin", new)[0], 0)

    def test_restart_of_a_full_store_takes_a_yes(self) -> None:
        place = f"unix:{self.sockets}/admin.sock"
        relay = self.keep(f"capacity = 1\n[admin]\nlisten = '{place}'\n")
        self.registered(relay.url)
        closed = self.registered(relay.url, uuid=B)
        status, lines = self.command("restart", "--config", self.config)
        self.assertEqual(status, 1)
        self.assertIn("1 of 2 clients would be closed (survive.capacity)", lines[-1])
        self.assertIn("--yes restarts", lines[-1])
        status, lines = self.command("status", "--config", self.config)
        self.assertIn("survive: 1 of at most 1 connections are kept, 1 is not", lines)
        status, lines = self.command("restart", "--config", self.config, "--yes")
        self.assertEqual(status, 0, lines)
        self.assertTrue(lines[-1].endswith("go on: 1, lost: 0, not kept and closed: 1"))
        self.assert_closed(closed, 1001)

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

    def test_relay_that_nobody_starts_again_is_not_restarted(self) -> None:
        relay = self.relay()
        client = self.registered(relay.url)
        file = self.write_config(f"{HOST}port = {relay.port}\n")
        asked = ("restart", "--config", file, "--pid", str(relay.pid))
        for more in ((), ("--yes",)):
            status, lines = self.command(*asked, *more)
            self.assertEqual(status, 1)
            self.assertIn("keeps no connections", lines[-1])
        client.ping()
        away = replace(config.load(file).config, port=(port := self.reserve()))
        with self.assertRaisesRegex(
            Unanswered, rf"in time: port {port}: connection refused\."
        ):
            restart._wait_for_port(away, 4711, time.monotonic())

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
