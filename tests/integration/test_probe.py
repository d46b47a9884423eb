"""``proxyrelay probe`` against real relays, ours and the reference."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
from datetime import timedelta
from pathlib import Path

from proxyrelay.net import certificates
from tests.support.certificates import SETTINGS, Authority
from tests.support.globus import CLIENT_ID
from tests.support.loopback import Loopback, hangs, tunnels, upgrades
from tests.support.processes import (
    PATIENCE,
    SCRIPTS,
    Process,
    ProcessTestCase,
    environment,
)

COMMAND = (sys.executable, "-m", "proxyrelay.cli.main", "probe")

STEPS = ["name", "tcp", "tls", "upgrade", "registration", "exchange"]


class ProbeTests(ProcessTestCase):
    def probe(self, *arguments: str | Path, **variables: str) -> tuple[int, str]:
        kept = {
            k: v for k, v in os.environ.items() if not k.endswith(("_PROXY", "_proxy"))
        }
        kept["PYTHONPATH"] = str(Path(__file__).parents[2])
        process = self.start(*COMMAND, *arguments, env=kept | variables)
        status = process.wait()
        self.assertEqual(process.errors, [])
        return status, "\n".join(process.output)

    def secure(self, days: int) -> tuple[Path, Path]:
        """Settings of a relay with a certificate for some days, and its root."""
        end = certificates.now() + timedelta(days=days, hours=1)
        authority = Authority(end=end)
        authority.write(self.folder)
        return self.write_config(SETTINGS), authority.write_root(self.folder)

    def steps(self, output: str) -> list[str]:
        return re.findall(r"(?m)^(\w+) +[\d.]+ ms", output)

    def test_relay_over_tls_is_ok_in_each_form(self) -> None:
        config, root = self.secure(90)
        url = self.relay("--config", config).url.replace("127.0.0.1", "localhost")
        path = self.folder / "probe.prom"
        status, output = self.probe(
            *(url, "--count", "5", "--textfile", path), SSL_CERT_FILE=str(root)
        )
        self.assertEqual(status, 0, output)
        self.assertRegex(output, rf"^OK: {url} answers in [\d.]+ ms \| name=")
        self.assertIn("certificate_days=90;14:;0:", output)
        self.assertEqual(self.steps(output), STEPS)
        self.assertIn("offers with answers: 5", output)
        text = path.read_text()
        self.assertIn(f'proxyrelay_probe_status{{url="{url}"}} 0.0\n', text)
        self.assertRegex(text, r"certificate_end_seconds\{.*\} 1\.\d+e\+09")

        status, output = self.probe(url, "--ca-file", root, "--json")
        found = json.loads(output)
        self.assertEqual((status, found["status"]), (0, "OK"))
        self.assertEqual([each["name"] for each in found["steps"]], STEPS)
        self.assertEqual(found["certificate"]["days_left"], 90)
        self.assertEqual(found["exchanges"]["count"], 1)

    def test_certificate_that_ends_soon_is_a_warning(self) -> None:
        config, root = self.secure(5)
        url = self.relay("--config", config).url
        status, output = self.probe(url, "--ca-file", root)
        self.assertEqual(status, 1, output)
        self.assertRegex(output, r"^WARNING: the certificate ends on \d{4}-")
        self.assertEqual(self.steps(output), STEPS)
        status, _ = self.probe(url, "--ca-file", root, "--days", "3")
        self.assertEqual(status, 0)

    def test_relay_behind_a_proxy_is_ok(self) -> None:
        config, root = self.secure(90)
        url = self.relay("--config", config).url
        server = Loopback(tunnels)
        self.addCleanup(server.stop)
        proxy = f"http://127.0.0.1:{server.port}"
        status, output = self.probe(url, "--ca-file", root, HTTPS_PROXY=proxy)
        self.assertEqual(status, 0, output)
        self.assertEqual(self.steps(output), [*STEPS[:2], "proxy", *STEPS[2:]])

    def test_reference_is_ok(self) -> None:
        config, root = self.secure(90)
        port = self.reserve()
        config.write_text(f'host = "127.0.0.1"\nport = {port}\n{SETTINGS}')
        reference = Process(
            [str(SCRIPTS / "proxystore-relay"), "--config", str(config)], self.folder
        )
        self.addCleanup(reference.end)
        reference.wait_for("listening|serving|Serving")
        status, output = self.probe(f"wss://localhost:{port}", "--ca-file", root)
        self.assertEqual(status, 0, output)
        self.assertEqual(self.steps(output), STEPS)

    def test_relay_that_wants_a_token_is_critical(self) -> None:
        config = self.write_config(
            f"[auth]\nmethod = 'globus'\n[auth.kwargs]\nclient_id = '{CLIENT_ID}'\n"
            "client_secret = 'b'\nservice_url = 'https://127.0.0.1:1'\n"
        )
        config.chmod(0o600)
        url = self.relay("--config", config).url
        status, output = self.probe(url)
        self.assertEqual(status, 2, output)
        self.assertRegex(output, "^CRITICAL: registration: the relay closes with 4001")
        self.assertIn("--token-file", output)
        token = self.folder / "token"
        token.write_text("secret-token\n")
        status, output = self.probe(url, "--token-file", token)
        self.assertEqual(status, 2, output)
        self.assertRegex(output, "^CRITICAL: registration: the relay closes with 1013")
        self.assertNotIn("secret-token", output)

    def test_interrupt_ends_with_130(self) -> None:
        arrived = threading.Event()

        def silent(sock: socket.socket) -> None:
            arrived.set()
            hangs(sock)

        def unregistered(sock: socket.socket) -> None:
            upgrades(sock)
            if len(sock.recv(4096)) > 8:  # no close frame
                silent(sock)

        for handler in (silent, unregistered):
            arrived.clear()
            server = Loopback(handler)
            self.addCleanup(server.stop)
            process = self.start(
                *(*COMMAND, f"ws://127.0.0.1:{server.port}", "--timeout", "60"),
                env=environment(PYTHONPATH=str(Path(__file__).parents[2])),
            )
            self.assertTrue(arrived.wait(PATIENCE))
            self.assertEqual(process.stop(signal.SIGINT), 130, process.said)
            self.assertEqual((process.output, process.errors), ([], ["interrupted"]))
