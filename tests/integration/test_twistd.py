"""The relay under twistd, as an operator meets it: start, log, signals, errors."""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import signal
import socket
import ssl
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from http.client import HTTPConnection
from pathlib import Path

from websockets.exceptions import ConnectionClosed

from proxyrelay.cli import main as cli
from proxyrelay.config import OVERRIDES
from proxyrelay.service.options import Options
from tests.support.certificates import SETTINGS, Authority
from tests.support.processes import PATIENCE, SCRIPTS, SERVES, ProcessTestCase
from tests.support.recording import A, B, answer, offer, registration
from tests.support.served import Client, Loop

TWISTD = SCRIPTS / "twistd"
LOOPBACK = ("--host", "127.0.0.1")


def fetched(
    place: str, path: str, method: str = "GET", token: str = ""
) -> tuple[int, str]:
    """Ask a private listener; returns the status and the body."""
    connection = HTTPConnection(place, timeout=PATIENCE)
    headers = {"Authorization": f"Bearer {token}", "X-Proxyrelay": "1"}
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


class TwistdTestCase(ProcessTestCase):
    """Talks to relays with the library of the stock client."""

    def setUp(self) -> None:
        super().setUp()
        self.loop = Loop()
        self.addCleanup(self.loop.stop)

    def registered(
        self,
        url: str,
        context: ssl.SSLContext | None = None,
        headers: dict[str, str] | None = None,
        uuid: str = A,
    ) -> Client:
        client = self.loop.connect(
            url,
            ssl=context,
            additional_headers=headers,
            open_timeout=PATIENCE,
            close_timeout=PATIENCE,
        )
        self.addCleanup(client.close)
        client.send(registration(uuid).decode())
        self.assertIn('"success": true', client.recv())
        return client

    def meet(self, url: str) -> tuple[Client, Client]:
        """Two clients that have exchanged an offer and its answer."""
        one, other = self.registered(url), self.registered(url, uuid=B)
        for source, target, text in ((one, other, offer()), (other, one, answer())):
            source.send(text.decode())
            self.assertEqual(target.recv(), text.decode())
        return one, other

    def assert_closed(self, client: Client, code: int) -> None:
        """The relay closes a client with a code, before any message."""
        with self.assertRaises(ConnectionClosed) as caught:
            client.recv()
        received = caught.exception.rcvd
        assert received is not None
        self.assertEqual(received.code, code)

    def command(self, *arguments: str | Path) -> tuple[int, list[str]]:
        """Run ``proxyrelay`` in this process; returns its exit status and lines.

        All lines are on one stream: standard error, if the relay was asked in vain.
        """
        output, errors = io.StringIO(), io.StringIO()
        with redirect_stdout(output), redirect_stderr(errors):
            status = cli.main([str(argument) for argument in arguments])
        lines, none = output.getvalue(), errors.getvalue()
        if status and arguments[0] in {"live", "status", "clients", "disconnect"}:
            lines, none = none, lines
        self.assertEqual(none, "")
        return status, lines.splitlines()


class ServingTests(TwistdTestCase):
    def test_relay_without_configuration_serves_and_logs_until_sigterm(self) -> None:
        relay = self.relay("--log-dir", "logs/here")
        self.assertEqual(relay.url, f"ws://127.0.0.1:{relay.port}")
        self.assertTrue(relay.output[-1].endswith(" (authentication: none)"))
        client = self.registered(relay.url)
        relay.wait_for(
            rf"^\S+ \S+ INFO +registered {A} name='a' user='anonymous' "
            r"from 127\.0\.0\.1:\d+$"
        )
        self.assertEqual(relay.stop(), 0)
        self.assert_closed(client, 1001)
        relay.wait_for("stopping on SIGTERM, connections to close: 1")
        relay.wait_for(f"left {A} ")
        self.assertEqual(relay.errors, [])
        logged = (self.folder / "logs/here/proxyrelay.log").read_text()
        self.assertIn(f"serves {relay.url} ", logged)
        self.assertEqual(logged.splitlines(), relay.output)

    def test_relay_with_options_and_configuration_serves_wss_by_both(self) -> None:
        authority = Authority()
        authority.write(self.folder)
        path = self.write_config(f"host = '192.0.2.1'\nport = 1\n{SETTINGS}")
        relay = self.relay("-c", path)
        self.assertTrue(relay.url.startswith("wss://127.0.0.1:"), relay.url)
        self.registered(relay.url, authority.client_context())
        relay.wait_for(f"registered {A} ")
        self.assertEqual(relay.stop(), 0)
        self.assertEqual(relay.errors, [])

    def test_relay_with_pid_file_removes_it_after_sigint(self) -> None:
        relay = self.start(TWISTD, "-n", "proxyrelay", *LOOPBACK, "--port", "0")
        client = self.registered(relay.wait_for(SERVES)[1])
        self.assertEqual((self.folder / "twistd.pid").read_text(), str(relay.pid))
        self.assertEqual(relay.stop(signal.SIGINT), 0)
        self.assert_closed(client, 1001)
        relay.wait_for("stopping on SIGINT, connections to close: 1")
        self.assertEqual(relay.errors, [])
        self.assertFalse((self.folder / "twistd.pid").exists())

    def test_signal_as_soon_as_relay_serves_ends_it_in_order(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            relay = self.relay()
            self.assertEqual(relay.stop(number), 0, relay.said)
            self.assertEqual(relay.errors, [])

    def test_help_of_twistd_names_each_option(self) -> None:
        process = self.start(TWISTD, "proxyrelay", "--help")
        self.assertEqual(process.wait(), 0)
        names = {parameter[0] for parameter in Options.optParameters}
        flags = {flag[0] for flag in Options.optFlags}
        overrides = {option.removeprefix("--") for option in OVERRIDES}
        self.assertEqual(names | flags, {"config", *overrides})
        for option in (
            *(f"{name}=" for name in names),
            *(f"{flag} " for flag in flags),
        ):
            self.assertIn(f"--{option}", process.said)
        self.assertEqual(process.errors, [])

    def test_token_of_client_is_in_no_log_line(self) -> None:
        path = self.write_config('[logging]\nwebsockets_level = "DEBUG"\n')
        relay = self.relay(
            "--log-level", "DEBUG", "--log-dir", "logs", "--config", path
        )
        headers = {"Authorization": "Bearer correct-horse-battery"}
        client = self.registered(relay.url, headers=headers)
        other = self.registered(relay.url, uuid=B)
        client.send(offer(A, B).decode())
        other.recv()
        # Neither an upgrade that fails, nor a plain request.
        for more in ({"Upgrade": "websocket", "Connection": "Upgrade"}, {}):
            plain = HTTPConnection("127.0.0.1", relay.port, timeout=PATIENCE)
            self.addCleanup(plain.close)
            plain.request("GET", "/correct-horse-path", headers={**headers, **more})
            self.assertGreaterEqual(plain.getresponse().status, 400)
        relay.wait_for(f" DEBUG +forwarded offer of {A} ")
        relay.wait_for(" rejected 127.* 426: ")
        self.assertEqual(relay.stop(), 0)
        logged = (self.folder / "logs/proxyrelay.log").read_text()
        for text in (relay.said, logged):
            self.assertIn(f"registered {A} ", text)
            self.assertNotIn("correct-horse-battery", text)


class FailingTests(TwistdTestCase):
    """A relay that cannot start says why, and leaves nothing."""

    def assert_fails(self, options: list[str | Path], *lines: str) -> None:
        """Starting ends with a line for each text, which is a part of it."""
        process = self.start(TWISTD, "-n", "proxyrelay", *options)
        self.assertEqual(process.wait(), 1, process.said)
        self.assertEqual(len(process.errors), len(lines), process.said)
        for line, text in zip(process.errors, lines, strict=True):
            self.assertTrue(line.startswith("proxyrelay: "), line)
            self.assertIn(text, line)
        self.assertEqual(process.output, [])
        self.assertFalse((self.folder / "twistd.pid").exists())

    def test_address_that_cannot_be_bound_is_told(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            self.assert_fails(
                [*LOOPBACK, "--port", str(port)],
                f"cannot listen on 127.0.0.1 port {port}: address already in use "
                "(another process listens there: set another port)",
            )
        self.assert_fails(
            ["--host", "198.51.100.1", "--port", "0"],
            "cannot listen on 198.51.100.1 port 0: cannot assign requested address "
            "(host must be an address of this machine)",
        )

    def test_each_problem_has_a_line(self) -> None:
        path = self.write_config('port = "x"\n\n[serving]\ncertfile = "cert.pem"\n')
        self.assert_fails(
            ["--config", path, "--log-level", "LOUD"],
            "--log-level: expected DEBUG, INFO, WARNING, ERROR or CRITICAL",
            "relay.toml:1: port: ",
            "relay.toml:4: serving.certfile: unknown setting; did you mean certfile at "
            "the top of the file?",
        )

    def test_wrong_command_line_is_told(self) -> None:
        for argument, text in (
            ("--frobnicate", "--frobnicate"),
            ("8700", "8700"),
            ("--port=1.5", "--port: expected "),
            ("--config=missing.toml", "missing.toml: cannot be read: No such file"),
        ):
            self.assert_fails([argument], text)


class DaemonTests(TwistdTestCase):
    pidfile = "relay.pid"

    def daemonise(self, *options: str) -> tuple[subprocess.CompletedProcess[str], int]:
        """Start a relay in the background.

        Returns:
            The foreground's result, and a descriptor that ends with the background.
        """
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        self.addCleanup(self._kill, reading)
        try:
            done = subprocess.run(
                [TWISTD, f"--pidfile={self.pidfile}", "proxyrelay", *options],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                timeout=PATIENCE,
                pass_fds=[writing],
                check=False,
            )
        finally:
            os.close(writing)
        return done, reading

    def ended(self, descriptor: int, patience: float = PATIENCE) -> bool:
        """Whether the background has ended, or does within bounds."""
        return bool(select.select([descriptor], [], [], patience)[0])

    def _kill(self, descriptor: int) -> None:
        path = self.folder / self.pidfile
        if not self.ended(descriptor, 0) and path.exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(path.read_text()), signal.SIGKILL)

    def run_until_sigterm(self, *options: str) -> str:
        """Serve one client in the background; returns what is served."""
        port = self.reserve()
        url = f"ws://127.0.0.1:{port}"
        done, descriptor = self.daemonise(*LOOPBACK, f"--port={port}", *options)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        client = self.registered(url)
        self.assertFalse(self.ended(descriptor, 0))
        path = self.folder / self.pidfile
        os.kill(int(path.read_text()), signal.SIGTERM)
        self.assertTrue(self.ended(descriptor))
        self.assertFalse(path.exists())
        self.assert_closed(client, 1001)
        return url

    def test_daemon_writes_its_files_from_start_to_stop(self) -> None:
        path = self.write_config("[logging]\naudit_log = 'audit.log'\n")
        url = self.run_until_sigterm("--log-dir=logs", f"--config={path}")
        logged = (self.folder / "logs/proxyrelay.log").read_text()
        self.assertIn(f"serves {url} ", logged)
        self.assertIn(f"registered {A} ", logged)
        self.assertIn("stopping on SIGTERM, connections to close: 1", logged)
        self.assertRegex(logged, r" stopped\n\Z")
        self.assertNotIn("Traceback", logged)
        audited = (self.folder / "audit.log").read_text().splitlines()
        events = [json.loads(line)["event"] for line in audited]
        self.assertEqual(events, ["started", "registered", "left", "stopped"])

    def test_daemon_without_folder_leaves_its_log_to_twistd(self) -> None:
        url = self.run_until_sigterm()
        logged = (self.folder / "twistd.log").read_text()
        self.assertIn(f"serves {url} ", logged)
        self.assertIn(f"registered {A} ", logged)

    def test_daemon_with_taken_port_fails_on_the_terminal(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            done, descriptor = self.daemonise(*LOOPBACK, f"--port={port}")
        self.assertTrue(self.ended(descriptor))
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stdout, "")
        self.assertTrue(
            done.stderr.startswith(
                f"proxyrelay: cannot listen on 127.0.0.1 port {port}"
            ),
            done.stderr,
        )
        self.assertFalse((self.folder / self.pidfile).exists())
