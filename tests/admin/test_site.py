"""HTTP of the private listener: bounds of callers, and requests in a row."""

from __future__ import annotations

from typing import Any

from proxyrelay.admin import site
from tests.support.watched import Caller, WatchedTestCase

CHUNKED: dict[str, Any] = {"Content_Length": "", "Transfer_Encoding": "chunked"}


class BoundsTests(WatchedTestCase):
    """What a caller may cost."""

    def setUp(self) -> None:
        super().setUp()
        self.serve()
        self.aborted = 0

    def caller(self) -> Caller:
        caller = Caller(self.admin)
        caller.wire.abortConnection = self.abort  # type: ignore[method-assign]
        return caller

    def abort(self) -> None:
        self.aborted += 1

    def check_deadline(self, seconds: float) -> None:
        self.reactor.advance(seconds - 1)
        self.assertEqual(self.aborted, 0)
        self.reactor.advance(1)
        self.assertEqual(self.aborted, 1)

    def test_connection_over_limit_replaces_the_idlest(self) -> None:
        first, second, *_ = [self.caller() for _ in range(site.MAX_CALLERS)]
        self.assertEqual(self.aborted, 0)
        first.ask("/livez")
        further = self.caller()
        self.assertEqual(self.aborted, 1)
        self.assertEqual(len(self.admin.site.open), site.MAX_CALLERS)
        self.assertIn(first.channel, self.admin.site.open)
        self.assertNotIn(second.channel, self.admin.site.open)
        further.ask("/livez")
        self.assertIn(b" 200 OK", further.wire.value())
        second.lose()
        self.assertEqual(len(self.admin.site.open), site.MAX_CALLERS)

    def test_connection_without_request_is_aborted(self) -> None:
        self.caller()
        self.check_deadline(site.FIRST_REQUEST_SECONDS)

    def test_connection_byte_by_byte_is_aborted(self) -> None:
        caller = self.caller()
        for _ in range(site.FIRST_REQUEST_SECONDS):
            caller.send(b"G")
            self.reactor.advance(1)
        self.assertEqual(self.aborted, 1)

    def test_connection_that_is_idle_is_aborted(self) -> None:
        caller = self.caller()
        self.reactor.advance(site.FIRST_REQUEST_SECONDS - 1)
        caller.ask("/livez")
        self.check_deadline(site.REQUEST_SECONDS)

    def test_answer_that_is_not_read_is_aborted(self) -> None:
        caller = self.caller()
        caller.wire.producerState = "paused"
        caller.ask("/clients")
        caller.channel.pauseProducing()
        self.check_deadline(site.ANSWER_SECONDS)
        caller.lose()

    def test_answer_that_is_the_last_is_aborted(self) -> None:
        self.caller().ask("/livez", Connection="close")
        self.check_deadline(site.ANSWER_SECONDS)

    def test_answer_at_stop_is_aborted(self) -> None:
        caller = self.caller()
        self.relay.stopService()
        ended = self.admin.stopService()
        self.reactor.advance(site.CLOSE_SECONDS)
        self.assertEqual(self.aborted, 1)
        caller.lose()
        self.successResultOf(ended)

    def test_body_over_limit_is_aborted(self) -> None:
        caller = self.caller()
        body = b"x" * site.MAX_REQUEST_BODY_BYTES
        caller.ask("/reload", "POST", body, X_Proxyrelay="1")
        self.assertIn(b" 200 OK", caller.wire.value())
        self.assertEqual(self.aborted, 0)
        self.caller().ask("/reload", "POST", body + b"x", X_Proxyrelay="1")
        self.assertEqual(self.aborted, 1)

    def test_body_in_chunks_over_limit_is_aborted(self) -> None:
        caller = self.caller()
        caller.ask("/reload", "POST", **CHUNKED)
        for _ in range(site.MAX_REQUEST_BODY_BYTES // 1024 + 1):
            caller.send(b"400\r\n" + b"x" * 1024 + b"\r\n")
        self.assertGreaterEqual(self.aborted, 1)

    def test_head_over_limit_is_refused(self) -> None:
        caller = self.caller()
        caller.send(b"GET / HTTP/1.1\r\n")
        caller.send(b"A: b\r\n" * 20_000)
        self.assertIn(b" 400 ", caller.wire.value())


class PipelineTests(WatchedTestCase):
    """Requests before and after the answer to the one in front of them."""

    def test_requests_before_an_answer_get_one(self) -> None:
        file = b"GET /page/uPlot.iife.min.js HTTP/1.1\r\n\r\n"
        post = b"POST /reload HTTP/1.1\r\nX-Proxyrelay: 1\r\n"
        body = post + b"Content-Length: 2\r\n\r\n{}"
        chunks = post + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
        self.serve()
        for data in (
            file * (64 * 1024 // len(file)),
            body * 2,
            chunks * 2,
            b"GET /livez HTTP/1.1\r\n\r\nG",
        ):
            caller = Caller(self.admin)
            caller.send(data)
            self.assertEqual(caller.wire.value().count(b"HTTP/1.1 "), 1)
            self.assertIn(b"\r\nConnection: close\r\n", caller.wire.value())
            self.assertTrue(caller.wire.disconnecting)

    def test_requests_after_each_answer_get_all(self) -> None:
        self.serve()
        caller = Caller(self.admin)
        chunks = b"2\r\n{}\r\n0\r\n\r\n"
        for _ in range(3):
            caller.ask("/livez")
            caller.ask("/reload", "POST", b"{}", X_Proxyrelay="1")
            caller.ask("/reload", "POST", chunks, X_Proxyrelay="1", **CHUNKED)
        self.assertEqual(caller.wire.value().count(b"HTTP/1.1 200 OK"), 9)
        self.assertNotIn(b"Connection: close", caller.wire.value())
        self.assertFalse(caller.wire.disconnecting)
