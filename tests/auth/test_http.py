"""Bounded HTTP: answers of every kind, and none."""

from __future__ import annotations

import base64
import json
from typing import Any

from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.error import DNSLookupError
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseFailed, ResponseNeverReceived
from twisted.web.http import PotentialDataLoss

from proxyrelay.auth.globus_api import Globus
from proxyrelay.auth.globus_error import MAX_QUOTED_CHARACTERS, GlobusError, Late
from proxyrelay.auth.http import MAX_BODY_BYTES
from proxyrelay.auth.policy import Introspection
from tests.support.globus import (
    CLIENT_ID,
    CREDENTIALS,
    JO,
    JSON,
    SECRET,
    TOKEN,
    PendingAgent,
    active,
    globus,
)

PAIR = base64.b64encode(f"{CLIENT_ID}:{SECRET}".encode()).decode()


class HTTPTestCase(SynchronousTestCase):
    """A client behind an agent under the control of the test."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.agent = PendingAgent()
        self.globus = globus(self.agent, self.clock)

    def ask(self, timeout: float = 7, token: str = TOKEN) -> Deferred[Introspection]:
        return self.globus.introspect(token, timeout)

    def error(self, asked: Deferred[Any]) -> GlobusError:
        """The error of a request; it holds no secret."""
        error = self.failureResultOf(asked, GlobusError).value
        self.assertEqual(self.clock.getDelayedCalls(), [])
        assert isinstance(error, GlobusError)
        for secret in (SECRET, TOKEN, PAIR):
            self.assertNotIn(secret, f"{error!r} {error} {error.code}")
        return error

    def refused(
        self,
        value: object,
        code: int = 200,
        headers: dict[str, str] | None = None,
        token: str = TOKEN,
    ) -> GlobusError:
        asked = self.ask(token=token)
        self.agent.last.reply(value, code, JSON | (headers or {}))
        return self.error(asked)


class BoundTests(HTTPTestCase):
    """Limits of encoding, size and time."""

    def test_request_asks_for_no_compression(self) -> None:
        asked = self.ask()
        self.assertFalse(self.agent.last.headers.hasHeader("Accept-Encoding"))
        self.agent.last.reply(active())
        self.assertEqual(self.successResultOf(asked).sub, JO)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_answer_compressed_is_refused_and_aborted(self) -> None:
        for coding in ("gzip", "x-gzip", "deflate", "br"):
            asked = self.ask()
            response = self.agent.last.respond(
                headers=JSON | {"Content-Encoding": coding}
            )
            error = self.error(asked)
            self.assertIn("compressed", str(error))
            self.assertFalse(error.is_transient)
            self.assertEqual(response.transport.ended, 1)

    def test_body_over_the_limit_is_refused_and_aborted(self) -> None:
        body = json.dumps(active()).encode().ljust(MAX_BODY_BYTES)
        asked = self.ask()
        self.agent.last.reply(body)
        self.assertEqual(self.successResultOf(asked).sub, JO)

        asked = self.ask()
        response = self.agent.last.respond()
        response.feed(body)
        self.assertNoResult(asked)
        response.feed(b" ")
        error = self.error(asked)
        self.assertEqual(str(error), f"answered with over {MAX_BODY_BYTES} bytes")
        self.assertFalse(error.is_transient)
        self.assertGreaterEqual(response.transport.ended, 1)
        response.feed(b" " * MAX_BODY_BYTES)
        response.end(PotentialDataLoss())

    def test_body_over_the_limit_to_its_end_stays_refused(self) -> None:
        asked = self.ask()
        self.agent.last.reply(b" " * (MAX_BODY_BYTES + 1))
        self.assertIn("answered with over", str(self.error(asked)))

    def test_body_too_slow_fails_at_the_timeout(self) -> None:
        asked = self.ask(7)
        self.clock.advance(3)
        response = self.agent.last.respond()
        for piece in (b"{", b'"active"', b":"):
            self.clock.advance(1)
            response.feed(piece)
        self.assertNoResult(asked)
        self.clock.advance(1)
        error = self.error(asked)
        self.assertIsInstance(error, Late)
        self.assertEqual(str(error), "did not answer within 7 s")
        self.assertTrue(error.is_transient)
        self.assertEqual(response.transport.ended, 1)
        response.end(ResponseFailed([Failure(CancelledError())]))

    def test_silence_fails_at_the_timeout(self) -> None:
        asked = self.ask(2.5)
        self.clock.advance(2.4)
        self.assertNoResult(asked)
        self.clock.advance(0.1)
        self.assertEqual(str(self.error(asked)), "did not answer within 2.5 s")
        self.assertEqual(self.agent.last.cancelled, 1)

    def test_body_broken_off_is_transient(self) -> None:
        for reason in (PotentialDataLoss(), ResponseFailed([])):
            asked = self.ask()
            response = self.agent.last.respond()
            response.feed(json.dumps(active()).encode())
            response.end(reason)
            error = self.error(asked)
            self.assertIn("broke off", str(error))
            self.assertTrue(error.is_transient)

    def test_agent_cancelled_by_itself_is_cancelled(self) -> None:
        asked = self.ask()
        self.agent.last.fail(CancelledError())
        self.failureResultOf(asked, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ErrorTests(HTTPTestCase):
    """Texts and kinds of errors; none quotes a secret."""

    def test_unreachable_names_the_innermost_cause(self) -> None:
        for error, words in (
            (Refused(), "refused"),
            (DNSLookupError("no such name"), "no such name"),
            (ResponseNeverReceived([Failure(ValueError("inner"))]), "inner"),
            (ValueError(), "ValueError"),
            (
                SSL.Error([("", "", "certificate verify failed")]),
                "(SSL_CERT_FILE",
            ),
            (ValueError(f"token={TOKEN} by Basic {PAIR}"), "token=(hidden) by Basic ("),
        ):
            asked = self.ask()
            self.agent.last.fail(error)
            found = self.error(asked)
            self.assertTrue(str(found).startswith("cannot be reached: "), found)
            self.assertIn(words, str(found))
            self.assertTrue(found.is_transient)
            self.assertIsNone(found.__cause__)

    def test_status_without_success_is_an_error(self) -> None:
        final = (100, 204, 206, 400, 401, 403, 404, 409, 413, 418, 501, 599)
        for code in (*final, 408, 429, 500, 502, 503, 504):
            error = self.refused({}, code)
            self.assertEqual((str(error), error.status), (f"answered {code}", code))
            self.assertEqual(error.is_transient, code not in final)

    def test_error_body_is_quoted(self) -> None:
        for value, words, code in (
            ({"error": "invalid_client"}, "invalid_client", "invalid_client"),
            ({"error": "a", "error_description": "b"}, "a: b", "a"),
            ({"errors": [{"code": "C", "detail": "d", "title": "t"}]}, "C: d", "C"),
            ({"errors": [{"title": "t"}]}, "t", None),
            ({"errors": [{"code": 5, "detail": ["x"]}]}, "5: ['x']", "5"),
        ):
            error = self.refused(value, 401)
            self.assertEqual(str(error), f"answered 401 ({words})")
            self.assertEqual(error.code, code)

    def test_error_body_of_another_form_is_left_out(self) -> None:
        for value in (b"", b"<html>", b"[1]", b'{"error": 1}', b"[" * 9999, b"\xff"):
            self.assertEqual(str(self.refused(value, 503)), "answered 503")
        error = self.refused({"error": "x"}, 502, {"Content-Type": "text/html"})
        self.assertEqual(str(error), "answered 502")

    def test_error_body_with_secrets_is_hidden(self) -> None:
        for text in (SECRET, TOKEN, PAIR, f"Basic {PAIR}", f"a {TOKEN}{SECRET} b"):
            for value in (
                {"error": text, "error_description": text},
                {"errors": [{"code": text, "detail": {"x": text}}]},
            ):
                self.assertIn("(hidden)", str(self.refused(value, 400)))
            for length in range(MAX_QUOTED_CHARACTERS - 20, MAX_QUOTED_CHARACTERS + 1):
                error = self.refused({"error": "\u00d7" * length + text}, 400)
                self.assertNotIn(text.removeprefix("Basic ")[:4], str(error))

    def test_error_body_hides_an_encoded_token_but_no_words(self) -> None:
        for token, quoted, shown in (
            ("abc/def+ghi=", "token=abc%2Fdef%2Bghi%3D", "token=(hidden)"),
            ("e", "server_error", "server_error"),
        ):
            error = self.refused({"error": quoted}, 400, token=token)
            self.assertEqual(str(error), f"answered 400 ({shown})")

    def test_error_body_is_quoted_in_one_short_line(self) -> None:
        error = self.refused({"error": "a\n\x1b[2J\u2028b" + "x" * 60_000}, 400)
        self.assertTrue(str(error).isprintable())
        self.assertLess(len(str(error)), 2 * MAX_QUOTED_CHARACTERS)
        self.assertIn(r"a\n\x1b[2J\u2028b", str(error))

    def test_answer_of_another_type_is_an_error(self) -> None:
        kinds = ("text/html", "application/jsonp", "", "text/json")
        for headers in ({}, *({"Content-Type": kind} for kind in kinds)):
            asked = self.ask()
            self.agent.last.reply(active(), 200, headers)
            error = self.error(asked)
            self.assertIn("something else than JSON", str(error))
            self.assertFalse(error.is_transient)
        for kind in ("application/json; charset=UTF-8", "Application/JSON"):
            asked = self.ask()
            self.agent.last.reply(active(), 200, {"Content-Type": kind})
            self.successResultOf(asked)

    def test_answer_of_another_form_is_an_error(self) -> None:
        for value in (
            *(b"", b"{", b"null", b"[]", b"{}", b"\xff", b"[" * 30_000),
            *({"active": "yes"}, {"active": 1}, {"active": None}),
            *(active(sub=1), active(aud=[1]), active(exp="tomorrow"), active(scope=[])),
            *(active(username={}), active(aud={}), b'{"active": true, "exp": NaN}'),
        ):
            error = self.refused(value)
            self.assertIn("makes no sense", str(error))
            self.assertFalse(error.is_transient)

    def test_active_token_without_subject_is_an_error(self) -> None:
        for sub in (None, ""):
            error = self.refused(active(sub=sub))
            self.assertIn("not whose", str(error))
            self.assertFalse(error.is_transient)

    def test_null_fields_count_as_missing(self) -> None:
        asked = self.ask()
        names = ("username", "scope", "exp", "client_id", "aud")
        self.agent.last.reply(active(**dict.fromkeys(names)))
        expected = Introspection(active=True, sub=JO)
        self.assertEqual(self.successResultOf(asked), expected)

    def test_retry_after_seconds_or_date_is_read(self) -> None:
        for value, pause in (
            ("0", 0),
            ("3", 3),
            ("120", 120),
            ("9" * 400, float("inf")),
            ("Thu, 01 Jan 1970 00:16:45 GMT", 5),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            *((wrong, 0) for wrong in ("-1", "1.5", "soon", "")),
            ("Thu, 99 Foo 9999 00:00:00 GMT", 0),
        ):
            error = self.refused({}, 429, {"Retry-After": value})
            self.assertEqual(error.retry_after, pause, value)
        self.assertEqual(self.refused({}, 429).retry_after, 0)

    def test_secrets_show_in_no_representation(self) -> None:
        asked = self.ask()
        self.agent.last.reply(active())
        text = f"{self.globus!r} {self.successResultOf(asked)!r}"
        for secret in (SECRET, TOKEN, PAIR):
            self.assertNotIn(secret, text)


class ConnectionTests(SynchronousTestCase):
    """Twisted's agent over transports in memory."""

    HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

    def setUp(self) -> None:
        self.memory = MemoryReactorClock()
        self.globus = Globus.connect(self.memory, "http://127.0.0.1:1", CREDENTIALS, 3)

    def connected(self) -> tuple[Any, StringTransport]:
        """The newest connection."""
        _, _, factory, _, _ = self.memory.tcpClients[-1]
        protocol: Any = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        transport = StringTransport()
        protocol.makeConnection(transport)
        # Twisted's own reactor would write the body of a POST.
        self.assertTrue(transport.value().startswith(b"GET /v2/api/clients/"))
        return protocol, transport

    def answered(self, asked: Deferred[Any]) -> StringTransport:
        """Answer on the newest connection, and keep it."""
        protocol, transport = self.connected()
        body = json.dumps({"client": {"id": CLIENT_ID, "name": "relay"}}).encode()
        length = b"Content-Length: %d\r\n\r\n" % len(body)
        protocol.dataReceived(self.HEAD + length + body)
        self.successResultOf(asked)
        return transport

    def test_request_cancelled_while_connecting_is_cancelled(self) -> None:
        asked = self.globus.client(7)
        ((host, port, _, timeout, _),) = self.memory.tcpClients
        self.assertEqual((host, port, timeout), ("127.0.0.1", 1, 3))
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertEqual(self.memory.getDelayedCalls(), [])

    def test_request_cancelled_on_a_connection_aborts_it(self) -> None:
        for data in (b"", self.HEAD + b"Content-Length: 9\r\n\r\n{"):
            asked = self.globus.client(7)
            protocol, transport = self.connected()
            protocol.dataReceived(data)
            asked.cancel()
            self.failureResultOf(asked, CancelledError)
            # `loseConnection` would wait for the peer's end of TLS.
            is_stopped = transport.producerState == "stopped"
            self.assertTrue(transport.disconnected or is_stopped)
            self.assertEqual(self.memory.getDelayedCalls(), [])

    def test_answer_compressed_ends_the_connection(self) -> None:
        asked = self.globus.client(7)
        protocol, transport = self.connected()
        coding = b"Content-Encoding: gzip\r\nContent-Length: 9\r\n\r\n"
        protocol.dataReceived(self.HEAD + coding)
        self.failureResultOf(asked, GlobusError)
        self.assertEqual(transport.producerState, "stopped")
        self.assertEqual(self.memory.getDelayedCalls(), [])

    def test_connections_after_silence_are_replaced(self) -> None:
        silent = self.answered(self.globus.client(7))
        first, second = self.globus.client(7), self.globus.client(7)
        self.assertEqual(len(self.memory.tcpClients), 2)  # the first reuses one
        idle = self.answered(second)
        self.memory.advance(7)
        self.failureResultOf(first, Late)
        self.assertTrue(silent.disconnected)
        self.globus.forget_connections()
        self.assertTrue(idle.disconnecting)
        third = self.globus.client(7)
        self.assertEqual(len(self.memory.tcpClients), 3)
        self.answered(third).loseConnection()
        self.successResultOf(third)
