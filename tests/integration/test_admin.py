"""The private listener of a relay under twistd, as an operator meets it."""

from __future__ import annotations

import contextlib  # trial reads a "suppress" of a module as its own
import json
import os
import pty
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.integration.test_twistd import TwistdTestCase, fetched
from tests.support.processes import PATIENCE, SCRIPTS, RelayProcess
from tests.support.recording import A, B

TOKEN = "0123456789abcdef0123456789abcdef"


class AdminTestCase(TwistdTestCase):
    def serve(self, more: str = "", token: bool = True) -> RelayProcess:
        self.token = self.folder / "token"
        self.token.write_text(TOKEN)
        self.token.chmod(0o600)
        text = "[admin]\nlisten = '127.0.0.1:0'\n" + more
        if token:
            text += f"token_file = '{self.token}'\n"
        self.config = self.write_config(text)
        relay = self.relay("--config", self.config)
        found = relay.wait_for(r"the private listener is http://127.0.0.1:(\d+)")
        self.admin = int(found[1])
        self.address = f"127.0.0.1:{self.admin}"
        return relay

    def ask(
        self, path: str, method: str = "GET", token: str = TOKEN
    ) -> tuple[int, Any]:
        """Ask; returns the status and the body, decoded if it is JSON."""
        status, body = fetched(f"127.0.0.1:{self.admin}", path, method, token)
        return status, json.loads(body) if body.startswith("{") else body


class ListenerTests(AdminTestCase):
    def test_listener_with_two_clients_shows_and_does_all(self) -> None:
        relay = self.serve()
        one, other = self.meet(relay.url)
        status, body = self.ask("/metrics")
        self.assertEqual(status, 200)
        for line in (
            "proxyrelay_clients 2.0",
            "proxyrelay_registrations_total 2.0",
            'proxyrelay_messages_forwarded_total{kind="answer"} 1.0',
            "proxyrelay_offer_to_answer_seconds_count 1.0",
            "proxyrelay_handshake_seconds_count 2.0",
        ):
            self.assertIn(line + "\n", body)
        self.assertEqual(self.ask("/livez"), (200, "ok\n"))
        self.assertEqual(self.ask("/readyz"), (200, "ok\n"))
        status, found = self.ask("/clients")
        self.assertEqual(found["total"], 2)
        self.assertEqual([client["uuid"] for client in found["clients"]], [A, B])
        self.assertIsNotNone(found["clients"][0]["last_offer"])

        where = ["--admin", self.address, "--token-file", str(self.token)]
        status, lines = self.command("status", *where)
        self.assertEqual(status, 0)
        self.assertIn(f"process {relay.pid}, up for", lines[0])
        self.assertIn("state: ready", lines)
        self.assertIn("forwarded: offers 1, answers 1", lines)
        for command, key in (("status", "clients"), ("clients", "total")):
            status, lines = self.command(command, "--json", *where)
            self.assertEqual(json.loads("".join(lines))[key], 2)
        status, lines = self.command("clients", *where)
        self.assertEqual((status, len(lines)), (0, 3))

        status, found = self.ask("/reload", "POST")
        self.assertEqual((status, found["detail"]), (200, "nothing has changed"))
        self.assertEqual(self.ask(f"/clients/{A}/disconnect", "POST")[0], 200)
        self.assert_closed(one, 4004)
        self.assertEqual(self.ask("/drain", "POST")[0], 202)
        relay.wait_for(r"disconnect of .* is asked for from 127\.0\.0\.1")
        relay.wait_for(r"drain is asked for from 127\.0\.0\.1")
        self.assertEqual(self.ask("/readyz"), (503, "draining\n"))
        other.close()
        self.assertEqual(relay.wait(), 0)
        self.assertEqual(relay.errors, [])
        self.assertNotIn(TOKEN, relay.said)

    def test_listener_with_many_requests_at_once_answers_one(self) -> None:
        self.serve()
        one = b"GET /page/uPlot.iife.min.js HTTP/1.1\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self.admin)) as caller:
            caller.settimeout(PATIENCE)
            caller.sendall(one * (64 * 1024 // len(one)))
            received = b""
            # What it has not read is lost.
            with contextlib.suppress(ConnectionResetError):
                while piece := caller.recv(1 << 16):
                    received += piece
        self.assertLessEqual(received.count(b"HTTP/1.1 200"), 1)
        self.assertEqual(self.ask("/livez"), (200, "ok\n"))

    def test_listener_in_privacy_hides_what_the_logs_hide(self) -> None:
        audit = self.folder / "audit.log"
        relay = self.serve(
            f"[logging]\naudit_log = '{audit}'\nprivacy = true\nformat = 'json'\n",
            token=False,
        )
        self.meet(relay.url)
        _, found = self.ask("/clients")
        logged = relay.wait_for(rf'"event":"registered".*"uuid":"{A}".*')[0]
        self.assertEqual(relay.stop(), 0)
        audited = [json.loads(line) for line in audit.read_text().splitlines()]
        kinds = ["started", "registered", "registered", "offer"]
        self.assertEqual([line["event"] for line in audited[:4]], kinds)
        places = {
            *(json.loads("{" + logged)["address"], audited[1]["address"]),
            *(client["address"] for client in found["clients"]),
        }
        self.assertEqual(len(places), 1)
        self.assertRegex(places.pop(), r"^[0-9a-f]{16}$")

    def test_reload_changes_the_token_but_not_the_address(self) -> None:
        relay = self.serve()
        self.assertEqual(self.ask("/status", token="wrong-wrong-wrong")[0], 401)
        self.token.write_text("another-0123456789")
        relay.send(signal.SIGHUP)
        relay.wait_for("reloaded, changed: token")
        self.assertEqual(self.ask("/status")[0], 401)
        self.assertEqual(self.ask("/status", token="another-0123456789")[0], 200)
        self.write_config("[admin]\nlisten = '127.0.0.1:1'\n")
        relay.send(signal.SIGHUP)
        relay.wait_for("only for a relay that is started anew: admin.listen")
        self.assertEqual(self.ask("/status", token="another-0123456789")[0], 200)
        self.assertEqual(self.ask("/status", token="")[0], 401)

    def test_listener_with_taken_port_is_an_error_at_the_start(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            listen = f"127.0.0.1:{taken.getsockname()[1]}"
            text = f"host = '127.0.0.1'\nport = 0\n[admin]\nlisten = '{listen}'\n"
            path = self.write_config(text)
            command = ("-n", "--pidfile=", "proxyrelay", "--config", path)
            relay = self.start(SCRIPTS / "twistd", *command)
            self.assertEqual(relay.wait(), 1)
            status, lines = self.command("check", "--config", path)
        self.assertIn("admin.listen: cannot listen on 127.0.0.1 port", relay.said)
        self.assertEqual(status, 1)
        self.assertIn(f"problem: {path}:4: admin.listen: cannot listen", lines[0])

    def test_socket_in_the_file_system_is_there_while_its_relay_is(self) -> None:
        # The path of the test's folder may be too long for a socket.
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        path = Path(place.name) / "admin.sock"
        config = self.write_config(f"[admin]\nlisten = 'unix:{path}'\n")
        self.relay("--config", config).end()
        self.assertTrue(path.exists())  # it was killed
        relay = self.relay("--config", config)
        relay.wait_for(f"the private listener is unix:{path}")
        self.assertEqual(path.stat().st_mode & 0o777, 0o660)
        self.registered(relay.url)
        status, lines = self.command("clients", "--config", config)
        self.assertEqual((status, lines[0]), (0, "clients: 1"))
        self.assertTrue(lines[1].startswith(f"{A} name='a' user='anonymous' from "))
        self.assertEqual(relay.stop(), 0)
        self.assertFalse(path.exists())

    def test_listener_during_takeover_is_that_of_the_new_relay(self) -> None:
        port = self.reserve()
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            free.bind(("127.0.0.1", 0))
            self.admin = free.getsockname()[1]
            text = f"reuse_port = true\n[admin]\nlisten = '127.0.0.1:{self.admin}'\n"
            path = self.write_config(text)
            first = self.relay("--config", path, port=port)
            self.registered(first.url)
            second = self.relay("--config", path, port=port)
            second.wait_for("the private listener is")
            status, found = self.ask("/drain", "POST")
            self.assertEqual(status, 409)
            self.assertRegex(found["error"], f"{first.pid}|{second.pid}")
            first.send(signal.SIGUSR2)
            first.wait_for("draining: ")
            for _ in range(5):
                self.assertEqual(self.ask("/status")[1]["pid"], second.pid)


class CommandTests(AdminTestCase):
    def test_live_with_wrong_file_asks_all_the_same(self) -> None:
        relay = self.serve()
        table = f"[admin]\nlisten = '{self.address}'\n"
        for text in (
            f"max_mesage_bytes = 1\n{table}",
            f"port = eighty\n{table}",
            f"certfile = 'missing'\n{table}token_file = 'missing'\n",
        ):
            self.write_config(text)
            relay.send(signal.SIGHUP)
            relay.wait_for_next("nothing is reloaded")
            self.assertEqual(self.command("check", "--config", self.config)[0], 1)
            done = self.command("live", "--config", self.config)
            self.assertEqual(done, (0, ["alive"]))
        self.assertEqual(self.command("live", "--admin", self.address)[0], 0)
        self.assertEqual(relay.stop(), 0)
        status, lines = self.command("live", "--config", self.config)
        self.assertEqual((status, len(lines)), (1, 1))
        self.assertIn("connection refused", lines[0])

    def test_command_without_an_answer_says_why(self) -> None:
        self.serve()
        wrong, off = self.folder / "wrong", self.folder / "off.toml"
        wrong.write_text("wrong-0123456789abcdef")
        off.write_text("")
        for options, words in (
            (["--config", off], "the private listener of this relay is off"),
            (["--config", self.folder / "missing"], "cannot be read"),
            (["--config", self.config], "the port is 0"),
            (["--admin", "nonsense"], "expected an address and a port"),
            ([], "name the relay"),
        ):
            for name in ("live", "status", "clients"):
                status, lines = self.command(name, *options)
                self.assertEqual((status, len(lines)), (1, 1), lines)
                self.assertIn(words, lines[0])
        for options, words in (
            (["--admin", self.address], "wants a token"),
            (["--admin", self.address, "--token-file", wrong], "has another token"),
            (["--admin", self.address, "--token-file", "missing"], "cannot be read"),
            (["--admin", f"127.0.0.1:{self.reserve()}"], "connection refused"),
        ):
            status, lines = self.command("status", *options)
            self.assertEqual((status, len(lines)), (1, 1), lines)
            self.assertTrue(lines[0].startswith("problem: "), lines)
            self.assertIn(words, lines[0])

    def test_watch_repeats_lines_in_a_pipe_and_in_place_on_a_terminal(self) -> None:
        self.serve()
        command = [str(SCRIPTS / "proxyrelay"), "status", "--watch", "--interval=0.1"]
        command += ["--admin", self.address, "--token-file", str(self.token)]
        watching = self.start(*command)
        for _ in range(3):
            watching.wait_for_next("ready, clients 0, connections 0")
        self.assertNotIn("\x1b", watching.said)
        self.assertEqual(watching.stop(signal.SIGINT), 130)

        ours, theirs = pty.openpty()
        self.addCleanup(os.close, ours)
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TERM": "dumb"},  # no colours
        )
        os.close(theirs)
        self.addCleanup(child.wait, PATIENCE)
        self.addCleanup(child.kill)
        seen = b""
        while seen.count(b"\x1b[Hproxyrelay ") < 3:
            seen += os.read(ours, 65536)
        self.assertIn(b"state: ready\x1b[K\r\n", seen.partition(b"\x1b[J")[0])
