"""The relay under twistd, as an operator meets it: start, log, signals, errors."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import ssl
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from unittest import SkipTest

from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)
from websockets.exceptions import ConnectionClosed

from proxyrelay.service.options import Options
from tests.support.certificates import Authority
from tests.support.processes import PATIENCE, SCRIPTS, SERVES, ProcessTestCase
from tests.support.recording import A, B, offer, registration
from tests.support.served import Client, Loop

TWISTD = SCRIPTS / "twistd"
LOOPBACK = ("--host", "127.0.0.1")

CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_NET_BIND_SERVICE = 1, 2, 10

DROPPING = """
import ctypes, os, sys
numbers, command = sys.argv[1], sys.argv[2:]
prctl, PR_CAPBSET_DROP = ctypes.CDLL(None).prctl, 24
if any(prctl(PR_CAPBSET_DROP, int(number), 0, 0, 0) for number in numbers.split(",")):
    sys.exit("cannot drop capabilities")
os.execv(command[0], command)
"""


def unprivileged(*capabilities: int) -> list[str]:
    """What to write before a command so that it lacks some rights of root.

    A user of another name could not read an interpreter below somebody's home.

    Raises:
        SkipTest: The tests run as root, and root cannot do without here.
    """
    if os.geteuid() != 0:
        return []
    prefix = [sys.executable, "-c", DROPPING, ",".join(map(str, capabilities))]
    tried = subprocess.run(
        [*prefix, sys.executable, "-c", ""],
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    if tried.returncode != 0:
        raise SkipTest("root cannot give up its capabilities on this system")
    return prefix


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
        """Open a WebSocket and register."""
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

    def assert_closed(self, client: Client, code: int) -> None:
        """The relay closes a client with a code, before any message."""
        with self.assertRaises(ConnectionClosed) as caught:
            client.recv()
        received = caught.exception.rcvd
        assert received is not None
        self.assertEqual(received.code, code)

    def write_config(self, text: str) -> Path:
        path = self.folder / "relay.toml"
        path.write_text(text)
        return path


class ServingTests(TwistdTestCase):
    """A relay that serves."""

    def test_serves_without_a_configuration(self) -> None:
        relay = self.relay()
        self.assertEqual(relay.url, f"ws://127.0.0.1:{relay.port}")
        self.assertTrue(relay.output[-1].endswith(" (authentication: none)"))
        self.registered(relay.url)
        relay.wait_for(
            rf"^\S+ \S+ INFO +registered {A} name='a' user='anonymous' "
            r"from 127\.0\.0\.1:\d+$"
        )
        self.assertEqual(relay.stop(), 0)
        self.assertEqual(relay.errors, [])

    def test_serves_wss_by_a_configuration(self) -> None:
        authority = Authority()
        authority.write(self.folder)
        path = self.write_config(
            'host = "127.0.0.1"\nport = 0\n'
            'certfile = "cert.pem"\nkeyfile = "privkey.pem"\n'
        )
        relay = self.start(TWISTD, "-n", "--pidfile=", "proxyrelay", "-c", path)
        url = relay.wait_for(SERVES)[1]
        self.assertTrue(url.startswith("wss://127.0.0.1:"), url)
        self.registered(url, authority.client_context())
        relay.wait_for(f"registered {A} ")
        self.assertEqual(relay.stop(), 0)
        self.assertEqual(relay.errors, [])

    def test_the_command_line_wins_over_the_configuration(self) -> None:
        path = self.write_config('port = 1\nhost = "192.0.2.1"\n')
        relay = self.relay("--config", path)
        self.registered(relay.url)

    def test_sigint_and_sigterm_end_it_in_order(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            relay = self.relay()
            client = self.registered(relay.url)
            self.assertEqual(relay.stop(number), 0)
            self.assert_closed(client, 1001)
            relay.wait_for(f"stopping on {number.name}, connections to close: 1")
            relay.wait_for(f"left {A} ")
            self.assertNotIn("Traceback", relay.said)
            self.assertEqual(relay.errors, [])

    def test_a_signal_ends_it_in_order_as_soon_as_it_says_that_it_serves(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            relay = self.relay()
            self.assertEqual(relay.stop(number), 0, relay.said)
            self.assertEqual(relay.errors, [])

    def test_removes_its_pid_file(self) -> None:
        relay = self.start(TWISTD, "-n", "proxyrelay", *LOOPBACK, "--port", "0")
        self.registered(relay.wait_for(SERVES)[1])
        self.assertEqual((self.folder / "twistd.pid").read_text(), str(relay.pid))
        self.assertEqual(relay.stop(), 0)
        self.assertFalse((self.folder / "twistd.pid").exists())

    def test_logs_into_a_folder_as_well(self) -> None:
        relay = self.relay("--log-dir", "logs/here")
        self.registered(relay.url)
        self.assertEqual(relay.stop(), 0)
        logged = (self.folder / "logs/here/proxyrelay.log").read_text()
        self.assertIn(f"serves {relay.url} ", logged)
        self.assertIn(f"registered {A} ", logged)
        self.assertEqual(logged.splitlines(), relay.output)

    def test_help_names_each_option(self) -> None:
        process = self.start(TWISTD, "proxyrelay", "--help")
        self.assertEqual(process.wait(), 0)
        names = [parameter[0] for parameter in Options.optParameters]
        self.assertEqual(
            sorted(names), ["config", "host", "log-dir", "log-level", "port"]
        )
        for name in names:
            self.assertIn(f"--{name}=", process.said)
        self.assertEqual(process.errors, [])

    def test_no_log_line_holds_a_token(self) -> None:
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

    def setUp(self) -> None:
        super().setUp()
        self.certfile, self.keyfile = Authority().write(self.folder)

    def secure(self) -> Path:
        """A configuration with the test's certificate and key."""
        return self.write_config(
            f'certfile = "{self.certfile.name}"\nkeyfile = "{self.keyfile.name}"\n'
        )

    def assert_fails(
        self, options: list[str | Path], *lines: str, prefix: list[str] | None = None
    ) -> None:
        """Starting ends with a line for each text, which is a part of it."""
        process = self.start(*(prefix or []), TWISTD, "-n", "proxyrelay", *options)
        self.assertEqual(process.wait(), 1, process.said)
        self.assertEqual(len(process.errors), len(lines), process.said)
        for line, text in zip(process.errors, lines, strict=True):
            self.assertTrue(line.startswith("proxyrelay: "), line)
            self.assertIn(text, line)
        self.assertEqual(process.output, [])
        self.assertFalse((self.folder / "twistd.pid").exists())

    def test_a_taken_port(self) -> None:
        port = self.relay().port
        self.assert_fails(
            [*LOOPBACK, "--port", str(port)],
            f"cannot listen on 127.0.0.1 port {port}: address already in use (another "
            "process listens there; stop it or set another port)",
        )

    def test_an_address_of_another_machine(self) -> None:
        self.assert_fails(
            ["--host", "198.51.100.1", "--port", "0"],
            "cannot listen on 198.51.100.1 port 0: cannot assign requested address "
            "(host must be an address of this machine)",
        )

    def test_a_privileged_port(self) -> None:
        start = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        if start.exists() and int(start.read_text()) <= 80:
            raise SkipTest("this system lets every user listen on port 80")
        self.assert_fails(
            [*LOOPBACK, "--port", "80"],
            "cannot listen on 127.0.0.1 port 80: permission denied (ports below 1024 "
            "are privileged; ",
            prefix=unprivileged(CAP_NET_BIND_SERVICE),
        )

    def test_an_unreadable_key(self) -> None:
        self.keyfile.chmod(0)
        self.assert_fails(
            ["--config", self.secure()],
            f"relay.toml:2: keyfile: {self.keyfile} cannot be read: Permission denied",
            prefix=unprivileged(CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH),
        )

    def test_a_missing_key(self) -> None:
        self.keyfile.unlink()
        self.assert_fails(
            ["--config", self.secure()],
            f"relay.toml:2: keyfile: {self.keyfile} cannot be read: No such file",
        )

    def test_the_key_of_another_certificate(self) -> None:
        self.keyfile.write_bytes(Authority().issued.private_key_pem.bytes())
        self.assert_fails(
            ["--config", self.secure()],
            f"relay.toml:2: keyfile: the key in {self.keyfile} is not that of the "
            f"certificate in {self.certfile}",
        )

    def test_an_encrypted_key(self) -> None:
        self.keyfile.write_bytes(
            Authority()
            .pair()
            .key.private_bytes(
                Encoding.PEM,
                PrivateFormat.PKCS8,
                BestAvailableEncryption(b"passphrase"),
            )
        )
        self.assert_fails(
            ["--config", self.secure()],
            f"relay.toml:2: keyfile: the key in {self.keyfile} is encrypted",
        )

    def test_a_missing_configuration(self) -> None:
        self.assert_fails(
            ["--config", "missing.toml"],
            "missing.toml: cannot be read: No such file or directory",
        )

    def test_an_unknown_setting(self) -> None:
        self.assert_fails(
            ["--config", self.write_config("prot = 8700\n")],
            "relay.toml:1: prot: unknown setting; did you mean port",
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

    def test_an_unknown_option(self) -> None:
        self.assert_fails(["--frobnicate"], "--frobnicate")

    def test_a_stray_argument(self) -> None:
        self.assert_fails(["8700"], "8700")

    def test_a_bad_port(self) -> None:
        for port in ("x", "-1", "65536", "1.5", ""):
            self.assert_fails(["--port", port], "--port: expected ")


class DaemonTests(TwistdTestCase):
    """A relay without a terminal."""

    pidfile = "relay.pid"

    def daemonise(self, *options: str) -> tuple[subprocess.CompletedProcess[str], int]:
        """Start a relay in the background.

        Returns:
            What the foreground did, and a descriptor that reads as ended when
            the background has ended.
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

    def stop(self, descriptor: int) -> None:
        """Stop the background by the process ID that it has left."""
        path = self.folder / self.pidfile
        self.assertFalse(self.ended(descriptor, 0))
        os.kill(int(path.read_text()), signal.SIGTERM)
        self.assertTrue(self.ended(descriptor))
        self.assertFalse(path.exists())

    def test_serves_in_the_background(self) -> None:
        port = str(self.reserve())
        done, descriptor = self.daemonise(
            *LOOPBACK, "--port", port, "--log-dir", "logs"
        )
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        client = self.registered(f"ws://127.0.0.1:{port}")
        self.stop(descriptor)
        self.assert_closed(client, 1001)
        logged = (self.folder / "logs/proxyrelay.log").read_text()
        self.assertIn(f"serves ws://127.0.0.1:{port} ", logged)
        self.assertIn(f"registered {A} ", logged)
        self.assertIn("stopping on SIGTERM, connections to close: 1", logged)
        self.assertNotIn("Traceback", logged)

    def test_leaves_the_log_to_twistd_without_a_folder(self) -> None:
        port = self.reserve()
        done, descriptor = self.daemonise(*LOOPBACK, "--port", str(port))
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        self.registered(f"ws://127.0.0.1:{port}")
        self.stop(descriptor)
        logged = (self.folder / "twistd.log").read_text()
        self.assertIn(f"serves ws://127.0.0.1:{port} ", logged)
        self.assertIn(f"registered {A} ", logged)

    def test_a_taken_port_fails_on_the_terminal(self) -> None:
        port = self.relay().port
        done, descriptor = self.daemonise(*LOOPBACK, "--port", str(port))
        self.assertTrue(self.ended(descriptor))
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stdout, "")
        self.assertEqual(
            done.stderr,
            f"proxyrelay: cannot listen on 127.0.0.1 port {port}: address already in "
            "use (another process listens there; stop it or set another port)\n",
        )
        self.assertFalse((self.folder / self.pidfile).exists())
