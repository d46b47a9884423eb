"""The client of the private listener: answers, and none."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.cli.admin_client import AdminClient
from proxyrelay.config import Secret
from proxyrelay.errors import Unanswered
from tests.cli.test_status import STATUS


def answer(status: str, body: bytes = b"") -> bytes:
    """Build an answer over HTTP."""
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


STATE = answer("200 OK", msgspec.json.encode(STATUS))


class AdminClientTests(SynchronousTestCase):
    """Answers and errors."""

    def answering(self, data: bytes, token: str | None = None) -> AdminClient:
        """Client of a server with one answer to one request."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        self.asked = b""

        def serve() -> None:
            caller, _ = listener.accept()
            with caller:
                while b"\r\n\r\n" not in self.asked:
                    self.asked += caller.recv(65536)
                caller.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        self.addCleanup(thread.join)
        self.port = listener.getsockname()[1]
        secret = None if token is None else Secret(token)
        return AdminClient(("127.0.0.1", self.port), secret)

    def refused(self, client: AdminClient) -> str:
        with self.assertRaises(Unanswered) as caught:
            client.status()
        return str(caught.exception)

    def test_status_of_relay_is_returned(self) -> None:
        client = self.answering(STATE, "secret")
        self.assertEqual(client.status(), STATUS)
        self.assertIn(b"Authorization: Bearer secret\r\n", self.asked)

    def test_place_on_all_interfaces_is_called_on_loopback(self) -> None:
        self.answering(STATE)
        client = AdminClient(("0.0.0.0", self.port), None)
        self.assertEqual(client.status(), STATUS)

    def test_answer_of_no_use_is_explained(self) -> None:
        gone = "closes the connection before it has answered"
        for data, token, words in (
            (answer("401 Unauthorized"), None, "wants a token"),
            (answer("401 Unauthorized"), "hunter2", "has another token"),
            (answer("421 Misdirected"), None, "HTTP 421"),
            (answer("200 OK", b"{}"), None, "no relay"),
            (b"SSH-2.0\r\n", None, "does not speak HTTP"),
            (b"", None, gone),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", None, gone),
        ):
            text = self.refused(self.answering(data, token))
            self.assertIn(words, text)
            self.assertNotIn("hunter2", text)

    def test_disconnect_asks_and_tells_what_was_done(self) -> None:
        client = self.answering(answer("200 OK", b'{"ok": true, "detail": "closed"}'))
        self.assertEqual(client.disconnect("a/b"), "closed")
        self.assertTrue(self.asked.startswith(b"POST /clients/a%2Fb/disconnect "))
        self.assertIn(b"X-Proxyrelay: 1\r\n", self.asked)

    def test_error_of_the_relay_is_shown_escaped(self) -> None:
        body = b'{"error": "n2 is silent\x5cu001b"}'
        client = self.answering(answer("504 Gateway Timeout", body))
        with self.assertRaises(Unanswered) as caught:
            client.disconnect("a")
        self.assertTrue(str(caught.exception).endswith("HTTP 504: n2 is silent\\x1b"))

    def test_place_without_listener_is_named(self) -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            text = self.refused(AdminClient(bound.getsockname(), None))
        self.assertIn("no private listener answers at 127.0.0.1:", text)
        self.assertIn("connection refused", text)
        path = Path(self.mktemp()).absolute()
        text = self.refused(AdminClient(path, None))
        self.assertIn(f"answers at unix:{path}", text)

    def test_host_that_is_no_name_is_refused(self) -> None:
        for host in ("a..b", "a" * 64):
            text = self.refused(AdminClient((host, 1), None))
            self.assertEqual(text, f"{host}:1: no host has such a name")
