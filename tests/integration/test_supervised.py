"""A relay that systemd has started, as systemd sees it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from unittest import SkipTest

from proxyrelay.net.listening import ADMIN
from tests.integration.test_twistd import TWISTD, TwistdTestCase, fetched
from tests.support.processes import PATIENCE, Process, environment
from tests.support.recording import A, B


class NotificationTests(TwistdTestCase):
    def setUp(self) -> None:
        super().setUp()
        name = f"proxyrelay.test.{os.getpid()}.{id(self)}"
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.listener.close)
        self.listener.bind(f"\0{name}")
        self.listener.settimeout(PATIENCE)
        self.variables = environment(NOTIFY_SOCKET=f"@{name}")
        self.heard: list[str] = []

    def wait_for(self, assignment: str) -> None:
        """Wait for a notification that has an assignment, and keep all until then."""
        lines: list[str] = []
        while assignment not in lines:
            lines = self.listener.recv(4096).decode().splitlines()
            self.heard += lines

    def test_relay_tells_start_reload_and_end(self) -> None:
        relay = self.relay(env=self.variables)
        self.wait_for("STATUS=serving, clients: 0")
        self.assertEqual(self.heard, ["READY=1", "STATUS=serving, clients: 0"])
        # Who reads that it is ready may send signals, and clients.
        self.registered(relay.url)
        relay.send(signal.SIGHUP)
        self.heard.clear()
        self.wait_for("RELOADING=1")
        self.assertRegex(self.heard[-1], r"^MONOTONIC_USEC=\d+$")
        self.wait_for("READY=1")
        relay.wait_for("reloaded, changed: nothing")
        relay.send(signal.SIGTERM)
        self.wait_for("STOPPING=1")
        self.assertEqual(relay.wait(), 0)
        self.assertEqual(relay.errors, [])

    def test_reload_by_the_operator_is_told(self) -> None:
        config = self.write_config("[admin]\nlisten = '127.0.0.1:0'\n")
        relay = self.relay("--config", config, env=self.variables)
        place = relay.wait_for(r"the private listener is http://(\S+)")[1]
        self.wait_for("STATUS=serving, clients: 0")
        config.write_text("wrong\n")
        self.heard.clear()
        status, _ = fetched(place, "/reload", "POST")
        self.assertEqual(status, 409)
        self.wait_for("READY=1")
        self.assertIn("RELOADING=1", self.heard)
        relay.send(signal.SIGTERM)
        self.assertEqual(relay.wait(), 0)

    def test_relay_with_watchdog_tells_that_it_lives_and_drains(self) -> None:
        relay = self.relay(env={**self.variables, "WATCHDOG_USEC": "100000"})
        for _ in range(3):
            self.wait_for("WATCHDOG=1")
        relay.send(signal.SIGSTOP)
        relay.send(signal.SIGCONT)
        self.wait_for("WATCHDOG=1")
        client = self.registered(relay.url)
        relay.wait_for(f"registered {A} ")
        relay.send(signal.SIGUSR2)
        self.wait_for("STATUS=draining, clients: 1")
        # If it told that it stops, systemd would not wait for the clients.
        self.assertNotIn("STOPPING=1", self.heard)
        client.close()
        self.wait_for("STOPPING=1")
        self.assertEqual(relay.wait(), 0)

    def test_relay_without_a_supervisor_loads_nothing_for_it(self) -> None:
        del self.variables["NOTIFY_SOCKET"]
        for variables, expected in (
            ({}, "False"),
            ({"NOTIFY_SOCKET": "@proxyrelay.test.nobody"}, "True"),
        ):
            loaded = self.start(
                sys.executable, "-c", LOADED, env={**self.variables, **variables}
            )
            self.assertEqual(loaded.wait(), 0, loaded.said)
            self.assertEqual(loaded.output[-1], expected)


LOADED = """
import sys
from proxyrelay.service.app import Options, makeService
options = Options()
options.parseOptions(["--host=127.0.0.1", "--port=0"])
makeService(options).stopService()
print("proxyrelay.service.systemd" in sys.modules)
"""


class ActivationTests(TwistdTestCase):
    def activated(self, ports: Mapping[str, int], *options: str | Path) -> Process:
        """What systemd starts when somebody comes to one of its sockets."""
        activate = shutil.which("systemd-socket-activate")
        if activate is None:
            raise SkipTest("no systemd-socket-activate on this machine")
        relay = self.start(
            *("/bin/sh", "-c", 'exec "$0" "$@" 2>&1', activate),
            *(f"--listen=127.0.0.1:{port}" for port in ports.values()),
            f"--fdname={':'.join(ports)}",
            *(f"--setenv={name}" for name in environment()),
            *(TWISTD, "-n", "--pidfile=", "proxyrelay", *options),
        )
        relay.wait_for(f"Listening on 127.0.0.1:{list(ports.values())[-1]} ")
        return relay

    def test_clients_come_in_by_each_socket_but_the_operators(self) -> None:
        names = ("proxyrelay.socket", ADMIN, "another")
        ports = {name: self.reserve() for name in names}
        relay = self.activated(ports)
        urls = [f"ws://127.0.0.1:{ports[name]}" for name in names if name != ADMIN]
        for url, uuid in zip(urls, (A, B), strict=True):
            self.registered(url, uuid=uuid)
        relay.wait_for(f" serves {', '.join(urls)} ")
        self.assertEqual(relay.stop(), 0, relay.said)

    def test_operator_comes_in_by_the_socket_of_that_name(self) -> None:
        ports = {name: self.reserve() for name in ("relay", ADMIN)}
        place = f"127.0.0.1:{ports[ADMIN]}"
        config = self.write_config(f"[admin]\nlisten = '{place}'\n")
        relay = self.activated(ports, "--config", config)
        status, text = fetched(place, "/readyz")
        self.assertEqual((status, text), (200, "ok\n"))
        relay.wait_for(f"the private listener is http://{place}$")
        self.assertEqual(relay.stop(), 0, relay.said)
