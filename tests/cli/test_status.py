"""What a running relay says about itself, in words."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.admin.report import (
    Answering,
    Certificate,
    Client,
    Clients,
    Forwarded,
    GlobusAuth,
    Lateness,
    Silence,
    Status,
    Waiting,
)
from proxyrelay.cli import status as console
from proxyrelay.cli.status import Console
from proxyrelay.config import Secret
from proxyrelay.errors import Unanswered
from tests.support.recording import A, B

NOW = 1_800_000_000.0

EVIL = "a\x1b[2J\n\x9b\u202eb"

STATUS = Status(
    version="1.2.3",
    pid=4711,
    started=NOW - 93_784,
    uptime=93_784,
    listening=["wss://192.0.2.1:8700"],
    tls=True,
    authentication="globus",
    draining=False,
    ready=True,
    reasons=[],
    clients=2,
    connections=3,
    users=1,
    registrations=4,
    forwarded=Forwarded(5, 4),
    returned={"unknown": 2, "busy": 1},
    dropped={},
    held=6,
    unanswered=Silence(2, 3),
    refused={"4000": 7},
    rejected={},
    certificate=Certificate(NOW, NOW),
    lag=Lateness(0.0005, 0.001, 0.25),
    offer_to_answer=Answering(None, None),
    offer_wait=Waiting(0.01, 0.25),
    globus=GlobusAuth("closed"),
)


class WordsTests(SynchronousTestCase):
    """Lines for people."""

    def test_status(self) -> None:
        self.assertEqual(
            list(console.status_lines(STATUS)),
            [
                "proxyrelay 1.2.3, process 4711, up for 1 d 2 h",
                "serves: wss://192.0.2.1:8700",
                "authentication: globus",
                "state: ready",
                "clients: 2 (connections: 3, users: 1)",
                "registrations: 4",
                "forwarded: offers 5, answers 4",
                "returned: busy 1, unknown 2",
                "dropped: none",
                "held: 6",
                "unanswered: 2 clients, at most 3 offers in a row",
                "refused: 4000 7",
                "rejected: none",
                "offer to answer: median unknown, 99 % within unknown",
                "wait of offers: median 10.0 ms, 99 % within 250.0 ms",
                "event loop is late by: median 0.5 ms, 99 % within 1.0 ms, "
                "most 250.0 ms",
                "certificate: valid until 2027-01-15 08:00:00Z",
                "globus: answers",
            ],
        )

    def test_what_is_in_the_way(self) -> None:
        status = msgspec.structs.replace(
            STATUS,
            ready=False,
            reasons=["draining", "globus: a"],
            globus=GlobusAuth("open"),
            certificate=None,
        )
        lines = list(console.status_lines(status))
        self.assertIn("state: not ready (draining; globus: a)", lines)
        self.assertEqual(lines[-1], "globus: does not answer")
        self.assertIn("not ready", console.status_line(status))

    def test_in_one_line(self) -> None:
        self.assertEqual(
            console.status_line(STATUS),
            "2027-01-15 08:00:00Z ready, clients 2, connections 3, registrations 4, "
            "offers 5, answers 4, late by 1.0 ms",
        )

    def client(self, **fields: Any) -> Client:
        usual: dict[str, Any] = {
            "uuid": A,
            "name": "a",
            "user": "jo",
            "address": "192.0.2.1:1",
            "since": NOW - 61,
            "last_offer": None,
            "sent": 1,
            "received": 2,
            "unanswered": 0,
            "marks": [],
        }
        return Client(**usual | fields)

    def test_clients(self) -> None:
        listed = Clients(
            2,
            [
                self.client(),
                self.client(
                    uuid=B,
                    since=NOW - 3600,
                    last_offer=NOW,
                    unanswered=2,
                    marks=["deaf", "legacy"],
                ),
            ],
        )
        self.assertEqual(
            list(console.client_lines(listed, NOW)),
            [
                "clients: 2",
                f"{B} name='a' user='jo' from 192.0.2.1:1 for 1 h 0 min (messages: "
                "1 sent, 2 received; last offer: 0 s ago; unanswered: 2): deaf, legacy",
                f"{A} name='a' user='jo' from 192.0.2.1:1 for 1 min 1 s (messages: "
                "1 sent, 2 received; last offer: never; unanswered: 0)",
            ],
        )

    def test_nobody_controls_a_terminal(self) -> None:
        evil = self.client(uuid=EVIL, name=EVIL, user=EVIL, address=EVIL, marks=[EVIL])
        lines = [*console.client_lines(Clients(1, [evil]), NOW)]
        status = msgspec.structs.replace(
            STATUS,
            version=EVIL,
            authentication=EVIL,
            listening=[EVIL],
            ready=False,
            reasons=[EVIL],
            returned={EVIL: 1},
        )
        lines += [*console.status_lines(status), console.status_line(status)]
        lines += console.plain_json(msgspec.json.encode(evil)).splitlines()
        for line in lines:
            self.assertTrue(line.isascii() and line.isprintable(), ascii(line))

    def test_json_stays_the_same(self) -> None:
        body = msgspec.json.encode(self.client(name=EVIL))
        self.assertEqual(json.loads(console.plain_json(body)), json.loads(body))
        self.assertNotIn("\n", console.plain_json(body, indent=None))
        with self.assertRaises(Unanswered):
            console.plain_json(b"<html>")


class AnswerTests(SynchronousTestCase):
    """What answers, or does not."""

    def answering(self, answer: bytes, token: Secret | None = None) -> Console:
        """Asks somebody who says this to one caller."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        self.asked = b""

        def serve() -> None:
            caller, _ = listener.accept()
            with caller:
                while b"\r\n\r\n" not in self.asked:
                    self.asked += caller.recv(65536)
                caller.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        self.addCleanup(thread.join)
        return Console(listener.getsockname(), token)

    def http(self, status: str, body: bytes = b"", token: str = "") -> Console:
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n"
        return self.answering(head.encode() + body, Secret(token) if token else None)

    def refused(self, asked: Console) -> str:
        with self.assertRaises(Unanswered) as caught:
            asked.status()
        return str(caught.exception)

    def test_a_relay(self) -> None:
        asked = self.http("200 OK", msgspec.json.encode(STATUS), "secret")
        self.assertEqual(asked.status(), STATUS)
        self.assertIn(b"Authorization: Bearer secret\r\n", self.asked)

    def test_one_that_wants_a_token(self) -> None:
        text = self.refused(self.http("401 Unauthorized"))
        self.assertIn("wants a token", text)

    def test_one_that_wants_another_token(self) -> None:
        text = self.refused(self.http("401 Unauthorized", token="hunter2"))
        self.assertIn("has another token", text)
        self.assertNotIn("hunter2", text)

    def test_another_error(self) -> None:
        self.assertIn("HTTP 421", self.refused(self.http("421 Misdirected")))

    def test_something_else(self) -> None:
        self.assertIn("no relay", self.refused(self.http("200 OK", b"{}")))
        self.assertIn(
            "does not speak HTTP", self.refused(self.answering(b"SSH-2.0\r\n"))
        )

    def test_one_that_goes_away(self) -> None:
        for answer in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"):
            text = self.refused(self.answering(answer))
            self.assertIn("closes the connection before it has answered", text)

    def test_nobody(self) -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            text = self.refused(Console(bound.getsockname(), None))
        self.assertIn("no private listener answers at 127.0.0.1:", text)
        self.assertIn("connection refused", text)

    def test_a_name_that_is_none(self) -> None:
        for host in ("a..b", "a" * 64):
            text = self.refused(Console((host, 1), None))
            self.assertEqual(text, f"{host}:1: no host has such a name")

    def test_no_file(self) -> None:
        path = Path(self.mktemp()).absolute()
        text = self.refused(Console(path, None))
        self.assertIn(f"answers at unix:{path}", text)

    def test_all_interfaces_are_called_here(self) -> None:
        asked = self.http("200 OK", msgspec.json.encode(STATUS))
        port: Any = asked._place
        self.assertEqual(Console(("0.0.0.0", port[1]), None).status(), STATUS)
