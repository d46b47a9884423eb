"""The client of the private listener: answers, and none."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.cli.admin_client import AdminClient
from proxyrelay.config import Secret
from proxyrelay.errors import Unanswered
from tests.cli.test_status import STATUS


class AnswerTests(SynchronousTestCase):
    """Answers and errors."""

    def answering(self, answer: bytes, token: Secret | None = None) -> AdminClient:
        """Client of a server with one answer to one request."""
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
        return AdminClient(listener.getsockname(), token)

    def http(self, status: str, body: bytes = b"", token: str = "") -> AdminClient:
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n"
        return self.answering(head.encode() + body, Secret(token) if token else None)

    def refused(self, asked: AdminClient) -> str:
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
            text = self.refused(AdminClient(bound.getsockname(), None))
        self.assertIn("no private listener answers at 127.0.0.1:", text)
        self.assertIn("connection refused", text)

    def test_a_name_that_is_none(self) -> None:
        for host in ("a..b", "a" * 64):
            text = self.refused(AdminClient((host, 1), None))
            self.assertEqual(text, f"{host}:1: no host has such a name")

    def test_no_file(self) -> None:
        path = Path(self.mktemp()).absolute()
        text = self.refused(AdminClient(path, None))
        self.assertIn(f"answers at unix:{path}", text)

    def test_all_interfaces_are_called_here(self) -> None:
        asked = self.http("200 OK", msgspec.json.encode(STATUS))
        port: Any = asked._place
        self.assertEqual(AdminClient(("0.0.0.0", port[1]), None).status(), STATUS)
