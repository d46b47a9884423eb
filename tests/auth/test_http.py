"""Bounded HTTP: answers of every kind, and none."""

from __future__ import annotations

import base64
import json
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectionRefusedError,  # noqa: A004 - Twisted's
    DNSLookupError,
)
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseFailed, ResponseNeverReceived
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers

from proxyrelay.auth.agent import MAX_BODY_BYTES, CachedTLSPolicy, PlainAgent
from proxyrelay.auth.globus_api import Globus
from proxyrelay.auth.globus_error import GlobusError, Late
from proxyrelay.auth.http import MAX_QUOTED_CHARACTERS
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

BASIC = "Basic " + base64.b64encode(f"{CLIENT_ID}:{SECRET}".encode()).decode()


class AnswerTests(SynchronousTestCase):
    """Limits, errors and secrets."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.agent = PendingAgent()
        self.globus = globus(self.agent, self.clock)

    def ask(self, timeout: float = 7, token: str = TOKEN) -> Deferred[Introspection]:
        return self.globus.introspect(token, timeout)

    def error(self, asked: Deferred[Any]) -> GlobusError:
        error = self.failureResultOf(asked, GlobusError).value
        self.assertEqual(self.clock.getDelayedCalls(), [])
        assert isinstance(error, GlobusError)
        for secret in (SECRET, TOKEN, BASIC[6:]):
            self.assertNotIn(secret, f"{error!r} {error} {error.code}")
        return error

    def refused(
        self, value: object, code: int, headers: dict[str, str] | None = None
    ) -> GlobusError:
        asked = self.ask()
        self.agent.last.reply(value, code, JSON | (headers or {}))
        return self.error(asked)

    def test_asks_for_no_compression(self) -> None:
        asked = self.ask()
        self.assertFalse(self.agent.last.headers.hasHeader("Accept-Encoding"))
        self.assertEqual(
            self.agent.last.headers.getRawHeaders("Authorization"), [BASIC]
        )
        self.agent.last.reply(active())
        self.assertEqual(self.successResultOf(asked).sub, JO)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_agent_without_headers(self) -> None:
        PlainAgent(self.agent).request(b"GET", b"https://auth.example.org/")
        self.assertEqual(self.agent.last.headers, Headers())

    def test_takes_no_compressed_answer(self) -> None:
        for coding in ("gzip", "x-gzip", "deflate", "br"):
            asked = self.ask()
            response = self.agent.last.respond(
                headers=JSON | {"Content-Encoding": coding}
            )
            error = self.error(asked)
            self.assertIn("compressed", str(error))
            self.assertFalse(error.is_transient)
            self.assertEqual(response.transport.ended, 1)

    def test_reads_so_much_and_no_more(self) -> None:
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

    def test_the_time_is_for_the_whole_answer(self) -> None:
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

    def test_silence_has_an_end(self) -> None:
        asked = self.ask(2.5)
        self.clock.advance(2.4)
        self.assertNoResult(asked)
        self.clock.advance(0.1)
        self.assertEqual(str(self.error(asked)), "did not answer within 2.5 s")
        self.assertEqual(self.agent.last.cancelled, 1)

    def test_a_body_that_breaks_off(self) -> None:
        for reason in (PotentialDataLoss(), ResponseFailed([])):
            asked = self.ask()
            response = self.agent.last.respond()
            response.feed(json.dumps(active()).encode())
            response.end(reason)
            error = self.error(asked)
            self.assertIn("broke off", str(error))
            self.assertTrue(error.is_transient)

    def test_cannot_be_reached(self) -> None:
        for error, words in (
            (ConnectionRefusedError(), "refused"),
            (DNSLookupError("no such name"), "no such name"),
            (ResponseNeverReceived([Failure(ValueError("inner"))]), "inner"),
            (ValueError(), "ValueError"),
        ):
            asked = self.ask()
            self.agent.last.fail(error)
            found = self.error(asked)
            self.assertTrue(str(found).startswith("cannot be reached: "), found)
            self.assertIn(words, str(found))
            self.assertTrue(found.is_transient)
            self.assertIsNone(found.__cause__)

    def test_an_agent_that_is_given_up_by_itself(self) -> None:
        asked = self.ask()
        self.agent.last.fail(CancelledError())
        self.failureResultOf(asked, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_every_status_but_success_is_an_error(self) -> None:
        final = (100, 204, 206, 400, 401, 403, 404, 409, 413, 418, 501, 599)
        for code in (*final, 408, 429, 500, 502, 503, 504):
            error = self.refused({}, code)
            self.assertEqual(
                (str(error), error.status, error.is_transient),
                (f"answered {code}", code, code not in final),
            )

    def test_shows_what_globus_says(self) -> None:
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

    def test_an_error_that_is_not_described(self) -> None:
        for value in (b"", b"<html>", b"[1]", b'{"error": 1}', b"[" * 9999, b"\xff"):
            self.assertEqual(str(self.refused(value, 503)), "answered 503")
        error = self.refused({"error": "x"}, 502, {"Content-Type": "text/html"})
        self.assertEqual(str(error), "answered 502")

    def test_hides_secrets_that_globus_quotes(self) -> None:
        pair = BASIC[6:]
        for text in (SECRET, TOKEN, pair, BASIC, f"a {TOKEN}{SECRET} b"):
            for value in (
                {"error": text, "error_description": text},
                {"errors": [{"code": text, "detail": {"x": text}}]},
            ):
                self.assertIn("(hidden)", str(self.refused(value, 400)))
            for length in range(MAX_QUOTED_CHARACTERS - 20, MAX_QUOTED_CHARACTERS + 1):
                error = self.refused({"error": "\u00d7" * length + text}, 400)
                self.assertNotIn(text.removeprefix("Basic ")[:4], str(error))

    def test_hides_a_token_in_the_form_of_forms(self) -> None:
        asked = self.ask(token="abc/def+ghi=")
        self.agent.last.reply({"error": "token=abc%2Fdef%2Bghi%3D"}, 400)
        self.assertEqual(str(self.error(asked)), "answered 400 (token=(hidden))")

    def test_a_token_too_short_to_hide_does_not_hide_words(self) -> None:
        asked = self.ask(token="e")
        self.agent.last.reply({"error": "server_error"}, 500)
        self.assertEqual(str(self.error(asked)), "answered 500 (server_error)")

    def test_hides_secrets_that_an_exception_quotes(self) -> None:
        asked = self.ask()
        self.agent.last.fail(ValueError(f"cannot send token={TOKEN} by {BASIC}"))
        error = self.error(asked)
        self.assertIn("token=(hidden) by Basic (hidden)", str(error))

    def test_what_globus_says_is_one_short_line(self) -> None:
        error = self.refused({"error": "a\n\x1b[2J\u2028b" + "x" * 60_000}, 400)
        self.assertTrue(str(error).isprintable())
        self.assertLess(len(str(error)), 2 * MAX_QUOTED_CHARACTERS)
        self.assertIn(r"a\n\x1b[2J\u2028b", str(error))

    def test_wants_json(self) -> None:
        for kind in ("text/html", "application/jsonp", "", "text/json"):
            asked = self.ask()
            self.agent.last.reply(active(), 200, {"Content-Type": kind})
            error = self.error(asked)
            self.assertIn("something else than JSON", str(error))
            self.assertFalse(error.is_transient)
        asked = self.ask()
        self.agent.last.reply(active(), 200, {})
        self.assertIn("something else than JSON", str(self.error(asked)))
        for kind in ("application/json; charset=UTF-8", "Application/JSON"):
            asked = self.ask()
            self.agent.last.reply(active(), 200, {"Content-Type": kind})
            self.successResultOf(asked)

    def test_wants_sense(self) -> None:
        for value in (
            *(b"", b"{", b"null", b"[]", b"{}", b"\xff", b"[" * 30_000),
            *({"active": "yes"}, {"active": 1}, {"active": None}),
            *(active(sub=1), active(aud=[1]), active(exp="tomorrow"), active(scope=[])),
            *(active(username={}), active(aud={}), b'{"active": true, "exp": NaN}'),
        ):
            asked = self.ask()
            self.agent.last.reply(value)
            error = self.error(asked)
            self.assertIn("makes no sense", str(error))
            self.assertFalse(error.is_transient)

    def test_an_active_token_is_somebodys(self) -> None:
        for sub in (None, ""):
            asked = self.ask()
            self.agent.last.reply(active(sub=sub))
            error = self.error(asked)
            self.assertIn("not whose", str(error))
            self.assertFalse(error.is_transient)

    def test_null_is_as_good_as_nothing(self) -> None:
        asked = self.ask()
        names = ("username", "scope", "exp", "client_id", "aud")
        self.agent.last.reply(active(**dict.fromkeys(names)))
        self.assertEqual(
            self.successResultOf(asked), Introspection(active=True, sub=JO)
        )

    def test_reads_how_long_globus_wants_to_be_left_alone(self) -> None:
        for value, pause in (
            ("0", 0),
            ("3", 3),
            ("120", 120),
            ("9" * 400, float("inf")),
            ("Thu, 01 Jan 1970 00:16:45 GMT", 5),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("-1", 0),
            ("1.5", 0),
            ("soon", 0),
            ("", 0),
            ("Thu, 99 Foo 9999 00:00:00 GMT", 0),
        ):
            error = self.refused({}, 429, {"Retry-After": value})
            self.assertEqual(error.retry_after, pause, value)
        self.assertEqual(self.refused({}, 429).retry_after, 0)

    def test_secrets_show_in_no_representation(self) -> None:
        asked = self.ask()
        self.agent.last.reply(active())
        text = f"{self.globus!r} {self.successResultOf(asked)!r}"
        for secret in (SECRET, TOKEN, BASIC[6:]):
            self.assertNotIn(secret, text)


class ClientTests(SynchronousTestCase):
    """Twisted's agent over transports in memory."""

    def service(self, memory: MemoryReactorClock) -> Globus:
        return Globus.connect(memory, "http://127.0.0.1:1", CREDENTIALS, 3)

    def test_connects_and_gives_up(self) -> None:
        memory = MemoryReactorClock()
        asked = self.service(memory).client(7)
        ((host, port, _, timeout, _),) = memory.tcpClients
        self.assertEqual((host, port, timeout), ("127.0.0.1", 1, 3))
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertEqual(memory.getDelayedCalls(), [])

    def connected(self) -> tuple[Deferred[Any], Any, StringTransport]:
        """A request on a connection."""
        memory = MemoryReactorClock()
        service = self.service(memory)
        # Twisted's own reactor would write the body of a POST.
        asked = service.client(7)
        _, _, factory, _, _ = memory.tcpClients[0]
        protocol: Any = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        transport = StringTransport()
        protocol.makeConnection(transport)
        self.assertTrue(transport.value().startswith(b"GET /v2/api/clients/"))
        self.addCleanup(lambda: self.assertEqual(memory.getDelayedCalls(), []))
        return asked, protocol, transport

    def test_a_departure_while_globus_thinks_is_a_departure(self) -> None:
        asked, _, transport = self.connected()
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertTrue(transport.disconnected)

    def test_a_departure_while_globus_answers_is_a_departure(self) -> None:
        asked, protocol, transport = self.connected()
        protocol.dataReceived(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            b"Content-Length: 9\r\n\r\n{"
        )
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        # `loseConnection` would wait for the peer's end of TLS.
        self.assertEqual(transport.producerState, "stopped")

    def test_a_compressed_answer_ends_the_connection(self) -> None:
        asked, protocol, transport = self.connected()
        protocol.dataReceived(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            b"Content-Encoding: gzip\r\nContent-Length: 9\r\n\r\n"
        )
        self.failureResultOf(asked, GlobusError)
        self.assertEqual(transport.producerState, "stopped")

    def test_after_silence_no_connection_is_trusted(self) -> None:
        memory = MemoryReactorClock()
        service = self.service(memory)
        silent = self.answered(memory, service.client(7))
        first, second = service.client(7), service.client(7)
        self.assertEqual(len(memory.tcpClients), 2)  # the first reuses one
        idle = self.answered(memory, second)
        memory.advance(7)
        self.failureResultOf(first, Late)
        self.assertTrue(silent.disconnected)
        service.forget_connections()
        self.assertTrue(idle.disconnecting)
        third = service.client(7)
        self.assertEqual(len(memory.tcpClients), 3)
        self.answered(memory, third).loseConnection()
        self.successResultOf(third)

    def answered(
        self, memory: MemoryReactorClock, asked: Deferred[Any]
    ) -> StringTransport:
        """Answer on the newest connection, and keep it."""
        _, _, factory, _, _ = memory.tcpClients[-1]
        protocol: Any = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        transport = StringTransport()
        protocol.makeConnection(transport)
        body = json.dumps({"client": {"id": CLIENT_ID, "name": "relay"}}).encode()
        protocol.dataReceived(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        self.successResultOf(asked)
        return transport

    def test_makes_the_tls_settings_of_a_host_once(self) -> None:
        policy = CachedTLSPolicy()
        one = policy.creatorForNetloc(b"auth.example.org", 443)
        self.assertIs(policy.creatorForNetloc(b"auth.example.org", 443), one)
        self.assertIsNot(policy.creatorForNetloc(b"auth.example.com", 443), one)
