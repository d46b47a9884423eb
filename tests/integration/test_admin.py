"""The private listener of a relay under twistd, as an operator meets it."""

from __future__ import annotations

import contextlib  # trial reads a "suppress" of a module as its own
import json
import os
import pty
import re
import signal
import socket
import subprocess
import tempfile
from http.client import HTTPConnection
from itertools import cycle
from pathlib import Path
from typing import Any

from tests.integration.test_twistd import TwistdTestCase
from tests.support.processes import PATIENCE, SCRIPTS, RelayProcess
from tests.support.recording import A, B, answer, offer
from tests.support.served import Client

PROXYRELAY = SCRIPTS / "proxyrelay"

TOKEN = "0123456789abcdef0123456789abcdef"


class AdminTestCase(TwistdTestCase):
    """A relay with a private listener on a free port."""

    def serve(self, more: str = "", token: bool = True) -> RelayProcess:
        self.token = self.folder / "token"
        self.token.write_text(TOKEN)
        self.token.chmod(0o600)
        text = "[admin]\nlisten = '127.0.0.1:0'\n" + more
        if token:
            text += "token_file = 'token'\n"
        self.config = self.write_config(text)
        relay = self.relay("--config", self.config)
        found = relay.wait_for(r"the private listener is http://127.0.0.1:(\d+)")
        self.admin = int(found[1])
        return relay

    def ask(
        self, path: str, method: str = "GET", token: str = TOKEN
    ) -> tuple[int, Any]:
        """Ask; returns the status and the body, decoded if it is JSON."""
        connection = HTTPConnection("127.0.0.1", self.admin, timeout=PATIENCE)
        headers = {"Authorization": f"Bearer {token}", "X-Proxyrelay": "1"}
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            body = response.read().decode()
        finally:
            connection.close()
        kind = response.headers["Content-Type"]
        return response.status, json.loads(body) if "json" in kind else body

    def command(self, *arguments: str) -> tuple[int, list[str]]:
        """Run the command; returns its exit status and lines.

        All of these are on the standard output of one that succeeds, and otherwise
        what asks the relay has them on standard error.
        """
        done = subprocess.run(
            [str(PROXYRELAY), *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        asks = arguments[0] in {"live", "status", "clients"}
        lines, none = done.stdout, done.stderr
        if done.returncode and asks:
            lines, none = none, lines
        self.assertEqual(none, "")
        return done.returncode, lines.splitlines()

    def address(self) -> list[str]:
        """What leads the command to the relay."""
        return ["--admin", f"127.0.0.1:{self.admin}", "--token-file", str(self.token)]

    def meet(self, relay: RelayProcess) -> tuple[Client, Client]:
        """Two clients that have exchanged an offer and its answer."""
        one, other = self.registered(relay.url), self.registered(relay.url, uuid=B)
        one.send(offer().decode())
        other.recv()
        other.send(answer().decode())
        one.recv()
        return one, other


class ListenerTests(AdminTestCase):
    """What is seen, and done."""

    def test_shows_what_happens(self) -> None:
        relay = self.serve()
        self.meet(relay)
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
        self.assertEqual(self.ask("/status", token="wrong-wrong-wrong")[0], 401)
        self.assertEqual(relay.stop(), 0)
        self.assertEqual(relay.errors, [])

    def test_answers_one_request_at_a_time(self) -> None:
        relay = self.serve()
        one = b"GET /page/uPlot.iife.min.js HTTP/1.1\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self.admin)) as caller:
            caller.settimeout(PATIENCE)
            caller.sendall(one * (64 * 1024 // len(one)))
            received = b""
            with contextlib.suppress(
                ConnectionResetError
            ):  # what it has not read is lost
                while piece := caller.recv(1 << 16):
                    received += piece
        self.assertLessEqual(received.count(b"HTTP/1.1 200"), 1)
        self.assertEqual(self.ask("/livez"), (200, "ok\n"))
        self.assertEqual(relay.stop(), 0)

    def test_says_what_the_logs_say_and_hides_what_they_hide(self) -> None:
        audit = self.folder / "audit.log"
        relay = self.serve(
            f"[logging]\naudit_log = '{audit}'\nprivacy = true\nformat = 'json'\n",
            token=False,
        )
        self.meet(relay)
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

    def test_disconnects_drains_and_reloads(self) -> None:
        relay = self.serve()
        one, other = self.meet(relay)
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
        self.assertNotIn(TOKEN, relay.said)

    def test_a_new_token_comes_with_a_reload(self) -> None:
        relay = self.serve()
        self.token.write_text("another-0123456789")
        relay.send(signal.SIGHUP)
        relay.wait_for("reloaded, changed: token")
        self.assertEqual(self.ask("/status")[0], 401)
        self.assertEqual(self.ask("/status", token="another-0123456789")[0], 200)

    def test_another_place_waits(self) -> None:
        relay = self.serve()
        self.write_config("[admin]\nlisten = '127.0.0.1:1'\n")
        relay.send(signal.SIGHUP)
        relay.wait_for("only for a relay that is started anew: admin.listen")
        self.assertEqual(self.ask("/status")[0], 200)
        self.assertEqual(self.ask("/status", token="")[0], 401)

    def test_a_taken_port_is_an_error_at_the_start(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            listen = f"127.0.0.1:{taken.getsockname()[1]}"
            path = self.write_config(f"[admin]\nlisten = '{listen}'\n")
            command = ["-n", "--pidfile=", "proxyrelay", "--host=127.0.0.1", "--port=0"]
            relay = self.start(SCRIPTS / "twistd", *command, "--config", path)
            self.assertEqual(relay.wait(), 1)
        self.assertIn("admin.listen: cannot listen on 127.0.0.1 port", relay.said)


class SocketTests(AdminTestCase):
    """A socket in the file system."""

    def short_path(self) -> Path:
        """One of the tests' folder may be too long for a socket."""
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        return Path(place.name) / "admin.sock"

    def test_is_there_while_the_relay_is(self) -> None:
        path = self.short_path()
        config = self.write_config(f"[admin]\nlisten = 'unix:{path}'\n")
        relay = self.relay("--config", config)
        relay.wait_for(f"the private listener is unix:{path}")
        self.assertEqual(path.stat().st_mode & 0o777, 0o660)
        self.registered(relay.url)
        status, lines = self.command("clients", "--config", str(config))
        self.assertEqual((status, lines[0]), (0, "clients: 1"))
        self.assertTrue(lines[1].startswith(f"{A} name='a' user='anonymous' from "))
        self.assertEqual(relay.stop(), 0)
        self.assertFalse(path.exists())

    def test_one_that_was_left_behind_is_replaced(self) -> None:
        path = self.short_path()
        config = self.write_config(f"[admin]\nlisten = 'unix:{path}'\n")
        killed = self.relay("--config", config)
        killed.end()
        self.assertTrue(path.exists())
        relay = self.relay("--config", config)
        relay.wait_for("the private listener is")
        self.assertEqual(self.command("status", "--config", str(config))[0], 0)
        self.assertEqual(relay.stop(), 0)


class CommandTests(AdminTestCase):
    """``proxyrelay live``, ``proxyrelay status`` and ``proxyrelay clients``."""

    def test_live_whatever_the_file_says(self) -> None:
        relay = self.serve()
        table = f"[admin]\nlisten = '127.0.0.1:{self.admin}'\n"
        command = ("live", "--config", str(self.config))
        for text in (
            f"max_mesage_bytes = 1\n{table}",
            f"port = eighty\n{table}",
            f"certfile = 'missing'\n{table}token_file = 'missing'\n",
        ):
            self.write_config(text)
            relay.send(signal.SIGHUP)
            relay.wait_for_next("nothing is reloaded")
            self.assertEqual(self.command("check", *command[1:])[0], 1)
            self.assertEqual(self.command(*command), (0, ["alive"]))
        self.assertEqual(self.command("live", *self.address()[:2])[0], 0)
        self.assertEqual(relay.stop(), 0)
        status, lines = self.command(*command)
        self.assertEqual((status, len(lines)), (1, 1))
        self.assertIn("connection refused", lines[0])

    def test_status(self) -> None:
        relay = self.serve()
        self.meet(relay)
        status, lines = self.command("status", *self.address())
        self.assertEqual(status, 0)
        self.assertIn(f"process {relay.pid}, up for", lines[0])
        self.assertIn("state: ready", lines)
        self.assertIn("forwarded: offers 1, answers 1", lines)
        status, lines = self.command("status", "--json", *self.address())
        self.assertEqual(json.loads("".join(lines))["clients"], 2)

    def test_clients(self) -> None:
        relay = self.serve()
        self.meet(relay)
        status, lines = self.command("clients", *self.address())
        self.assertEqual((status, len(lines)), (0, 3))
        status, lines = self.command("clients", "--json", *self.address())
        self.assertEqual(json.loads("".join(lines))["total"], 2)

    def test_watch_in_lines(self) -> None:
        self.serve()
        watching = self.start(
            PROXYRELAY, "status", "--watch", "--interval=0.1", *self.address()
        )
        for _ in range(3):
            watching.wait_for_next("ready, clients 0, connections 0")
        self.assertNotIn("\x1b", watching.said)
        self.assertEqual(watching.stop(signal.SIGINT), 130)

    def test_watch_in_place(self) -> None:
        self.serve()
        ours, theirs = pty.openpty()
        self.addCleanup(os.close, ours)
        watching = subprocess.Popen(
            [str(PROXYRELAY), "status", "--watch", "--interval=0.1", *self.address()],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        self.addCleanup(watching.wait, PATIENCE)
        self.addCleanup(watching.kill)
        seen = b""
        while seen.count(b"\x1b[Hproxyrelay ") < 3:
            seen += os.read(ours, 65536)
        frames = re.split(rb"\x1b\[J", seen)
        self.assertIn(b"state: ready\x1b[K\r\n", frames[0])

    def test_say_why_there_is_no_answer(self) -> None:
        self.serve()
        place = f"127.0.0.1:{self.admin}"
        wrong = self.folder / "wrong"
        wrong.write_text("wrong-0123456789abcdef")
        off = self.folder / "off.toml"
        off.write_text("")
        commands = cycle(("status", "clients"))
        for arguments, words in (
            (["--config", str(off)], "the private listener of this relay is off"),
            (["--config", "missing"], "missing: cannot be read"),
            (["--config", str(self.config)], "the port is 0"),
            (["--admin", "nonsense"], "expected an address and a port"),
            ([], "name the relay"),
        ):
            status, lines = self.command("live", *arguments)
            self.assertEqual((status, len(lines)), (1, 1), lines)
            self.assertIn(words, lines[0])
        for arguments, words in (
            (["--admin", place], "wants a token"),
            (["--admin", place, "--token-file", str(wrong)], "has another token"),
            (["--admin", f"127.0.0.1:{self.reserve()}"], "connection refused"),
            (["--admin", "nonsense"], "expected an address and a port"),
            (["--config", str(off)], "the private listener of this relay is off"),
            (["--config", str(self.config)], "the port is 0"),
            (["--admin", place, "--token-file", "missing"], "cannot be read"),
            ([], "name the relay"),
        ):
            command = next(commands)
            status, lines = self.command(command, *arguments)
            self.assertEqual((status, len(lines)), (1, 1), lines)
            self.assertTrue(lines[0].startswith("problem: "), lines)
            self.assertIn(words, lines[0])

    def test_check_tries_the_port(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            listen = f"127.0.0.1:{taken.getsockname()[1]}"
            text = f"host = '127.0.0.1'\nport = 0\n[admin]\nlisten = '{listen}'\n"
            path = self.write_config(text)
            status, lines = self.command("check", "--config", str(path))
        self.assertEqual(status, 1)
        self.assertIn(f"problem: {path}:4: admin.listen: cannot listen", lines[0])


class TakeoverTests(AdminTestCase):
    """Relays that take over from each other have one place to listen."""

    def test_the_new_one_is_seen(self) -> None:
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
