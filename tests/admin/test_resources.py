"""What the private listener answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import msgspec
from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from proxyrelay import __version__
from proxyrelay.admin.report import Clients, Silence, Status
from proxyrelay.admin.resources import files
from proxyrelay.admin.view import BATCH
from proxyrelay.config import Config, Limits, Logging, Offers
from proxyrelay.errors import Problem
from proxyrelay.switchboard.events import WrongAdminToken
from proxyrelay.switchboard.peer import Registration
from proxyrelay.websocket.state import RelayState
from tests.support.certificates import Authority
from tests.support.recording import (
    A,
    B,
    RecordingJournal,
    RecordingPeer,
    answer,
    offer,
    registration,
)
from tests.support.served import HeaderAuthenticator
from tests.support.watched import START, Answer, Caller, WatchedTestCase

reactor: Any = _reactor

TOKEN = "0123456789abcdef"

CALLER = "192.168.1.1:54321"
"""Where callers seem to be."""

PATHS = ("/metrics", "/status", "/clients", "/history", "/events", "/nothing")

ACTIONS = ("/drain", "/reload", f"/clients/{A}/disconnect")


class HealthTests(WatchedTestCase):
    """What supervisors and load balancers ask."""

    def test_alive_as_long_as_it_answers(self) -> None:
        self.serve()
        self.relay.factory.state = RelayState.STOPPING
        answer = self.ask("/livez")
        self.assertEqual((answer.status, answer.body), (200, b"ok\n"))

    def test_ready_if_nothing_is_in_the_way(self) -> None:
        self.serve()
        answer = self.ask("/readyz")
        self.assertEqual((answer.status, answer.body), (200, b"ok\n"))

    def unready(self) -> list[str]:
        answer = self.ask("/readyz")
        self.assertEqual(answer.status, 503)
        status = self.ask("/status").json
        self.assertFalse(status["ready"])
        lines = answer.body.decode().splitlines()
        self.assertEqual(status["reasons"], lines)
        return lines

    def test_not_while_it_drains(self) -> None:
        self.serve()
        self.registered()
        self.relay.drain()
        self.assertEqual(self.unready(), ["draining"])

    def test_not_while_it_stops(self) -> None:
        self.serve()
        self.registered()
        self.relay.stopService()
        self.assertEqual(self.unready(), ["stopping"])

    def test_not_without_a_socket(self) -> None:
        self.serve()
        self.relay.ports.close()
        self.assertEqual(self.unready(), ["listener: no socket is listened on"])

    def test_tells_all_reasons(self) -> None:
        pair = Authority().pair()
        self.serve(pair=pair)
        end = pair.chain[0].not_valid_after_utc
        self.reactor.rightNow = end.timestamp() + 1
        self.registered()
        self.relay.drain()
        expired = f"certificate: expired on {end.date().isoformat()}"
        self.assertEqual(self.unready(), ["draining", expired])


class StatusTests(WatchedTestCase):
    """The relay in one piece."""

    def test_has_what_it_promises(self) -> None:
        self.serve()
        answer = self.ask("/status")
        self.assertEqual(answer.headers["content-type"], "application/json")
        status = msgspec.json.decode(answer.body, type=Status, strict=True)
        self.assertEqual(status.version, __version__)
        self.assertEqual(status.started, START)
        self.assertEqual(status.listening, self.relay.urls)
        self.assertEqual((status.tls, status.authentication), (False, "none"))
        self.assertEqual((status.certificate, status.globus), (None, None))
        self.assertEqual((status.lag.median, status.lag.max), (None, None))

    def test_counts(self) -> None:
        self.serve()
        one, other = self.registered(A), self.registered(B)
        self.connect()
        self.send(one, offer())
        self.reactor.pump([0.25] * 4)
        self.send(other, answer("".join(B), A))
        self.send(other, answer(B, A))
        self.send(one, b"?")
        status = msgspec.json.decode(self.ask("/status").body, type=Status)
        self.assertEqual(status.uptime, 1)
        self.assertEqual((status.clients, status.connections), (1, 3))
        self.assertEqual(status.registrations, 2)
        self.assertEqual((status.forwarded.offer, status.forwarded.answer), (1, 1))
        self.assertEqual(status.dropped, {"unasked": 1})
        self.assertEqual(status.refused, {"4000": 1})
        self.assertEqual(status.offer_to_answer.median, 1)
        self.assertEqual(status.lag.max, 0)

    def test_tells_of_the_certificate(self) -> None:
        pair = Authority().pair()
        self.serve(pair=pair)
        status = self.ask("/status").json
        self.assertTrue(status["tls"])
        end = pair.chain[0].not_valid_after_utc.timestamp()
        self.assertEqual(
            status["certificate"],
            {"expires": end, "renewal": pair.renewal.timestamp()},
        )


class HistoryTests(WatchedTestCase):
    """The last hour."""

    def test_has_a_sample_for_each_two_seconds(self) -> None:
        self.serve()
        self.registered(A)
        self.reactor.pump([0.25] * 24)
        found = self.ask("/history").json
        self.assertEqual(found["interval"], 2)
        times = [sample[0] - START for sample in found["samples"]]
        self.assertEqual(times, [2, 4, 6])
        rates = [
            sample[found["fields"].index("registrations")]
            for sample in found["samples"]
        ]
        self.assertEqual(rates, [0.5, 0, 0])
        self.assertEqual({len(sample) for sample in found["samples"]}, {9})

    def test_leaves_out_what_is_known(self) -> None:
        self.serve()
        self.reactor.pump([0.25] * 24)
        found = self.ask(f"/history?since={START + 4}").json
        self.assertEqual([sample[0] - START for sample in found["samples"]], [6])

    def test_refuses_what_is_no_number(self) -> None:
        self.serve()
        for path in ("/history", "/events"):
            for since in ("x", "nan", "inf", "", "9" * 5000, "%ff", "1e999", "%00"):
                answer = self.ask(f"{path}?since={since}")
                self.assertEqual(answer.status, 400, since)
                self.assertEqual(answer.json, {"error": "since must be a number"})


class EventTests(WatchedTestCase):
    """The last things that happened."""

    def kinds(self, since: int = 0) -> list[str]:
        found = self.ask(f"/events?since={since}").json
        return [event["kind"] for event in found["events"]]

    def test_have_numbers(self) -> None:
        self.serve()
        self.send(self.registered(A), b"?")
        self.registered(A)
        self.registered(A)
        self.assertEqual(self.kinds(), ["refused", "replaced"])
        self.assertEqual(self.kinds(1), ["replaced"])
        self.assertEqual(self.ask("/events").json["last"], 2)

    def test_tell_of_what_operators_do(self) -> None:
        self.serve()
        self.registered(A)
        self.post("/reload")
        self.post(f"/clients/{A}/disconnect")
        self.reload.renewed("serving a renewed certificate")
        self.post("/drain")
        self.assertEqual(
            self.kinds(),
            [
                *("operator", "reload"),
                *("operator", "refused", "disconnected"),
                "certificate",
                *("operator", "drain"),
            ],
        )
        texts = [
            event["text"]
            for event in self.ask("/events").json["events"]
            if event["kind"] == "operator"
        ]
        self.assertEqual(
            texts,
            [
                f"reload is asked for from {CALLER}",
                f"disconnect of {A} is asked for from {CALLER}",
                f"drain is asked for from {CALLER}",
            ],
        )

    def test_tell_of_no_action_that_is_not_done(self) -> None:
        self.serve(token=TOKEN, shared=True)
        bearer = f"Bearer {TOKEN}"
        self.post("/reload")
        self.post("/drain", Authorization=bearer)
        self.post(f"/clients/{A}/disconnect", Authorization=bearer)
        self.ask("/reload", "POST", Authorization=bearer)
        found = self.ask("/events", Authorization=bearer).json
        self.assertEqual(found["events"], [])

    def test_read_well_when_settings_are_read(self) -> None:
        self.serve()
        self.post("/reload")
        self.found.config = msgspec.structs.replace(
            self.found.config, max_message_bytes=1000
        )
        self.post("/reload")
        self.found.problems += [Problem("port", "is wrong")]
        self.post("/reload")
        texts = [
            event["text"]
            for event in self.ask("/events").json["events"]
            if event["kind"] == "reload"
        ]
        self.assertEqual(
            texts,
            [
                "nothing has changed",
                "changed: max_message_bytes",
                "refused: port: is wrong",
            ],
        )

    def test_tell_of_connections(self) -> None:
        limits = Limits(messages_per_client=1, registrations_per_client=1, burst=1)
        self.serve(Config(limits=limits))
        self.accept().dataReceived(b"GET / HTTP/1.1\r\n\r\n")
        self.connect().dataReceived(b"\x83\x80aaaa")
        client = self.registered(A)
        client.dataReceived(b"\x89\x80aaaa" * 100)
        self.assertEqual(self.kinds(), ["rejected", "failed", "slowed"])

    def test_are_bounded(self) -> None:
        self.serve()
        for _ in range(300):
            self.accept().dataReceived(b"?\r\n\r\n")
        found = self.ask("/events").json
        self.assertEqual((len(found["events"]), found["last"]), (100, 300))


class ActionTests(WatchedTestCase):
    """What can be done."""

    def test_drain(self) -> None:
        self.serve()
        self.registered()
        for _ in range(2):
            answer = self.post("/drain")
            self.assertEqual(answer.status, 202)
            detail = "draining; connections: 1"
            self.assertEqual(answer.json, {"ok": True, "detail": detail})
        self.assertIs(self.relay.state, RelayState.DRAINING)

    def check_meant(self, *bodies: bytes) -> None:
        own = os.getpid()
        self.registered()
        for body in (b'{"pid": %d}' % (own + 1), *bodies):
            answer = self.post("/drain", body=body)
            self.assertEqual(answer.status, 409, body)
            self.assertIn(str(own), answer.json["error"])
        for body in (b"?", b"[]", b'{"pid": "1"}', b"\xff"):
            self.assertEqual(self.post("/drain", body=body).status, 400, body)
        self.assertIs(self.relay.state, RelayState.SERVING)
        answer = self.post("/drain", body=b'{"pid": %d}' % own)
        self.assertEqual(answer.status, 202)
        self.assertIs(self.relay.state, RelayState.DRAINING)

    def test_drains_nobody_else_than_who_is_meant(self) -> None:
        self.serve()
        self.check_meant()

    def test_no_body_of_any_form_is_a_defect(self) -> None:
        self.serve(shared=True)
        for body in (
            *(b"[" * 10_001, b'{"a":' * 3_001, b'{"pid":' * 2_001),
            *(b'{"x":' + b"[" * 10_001, b'{"pid":' + b"9" * 5000 + b"}"),
            *(b'{"pid":' + b"9" * 4000 + b"}", b'{"pid":1e999}', b'{"pid":-0}'),
            *(b"\xff", b'{"\xff":1}', b'{"pid":"\xff"}', b'{"\\ud800":1}', b"null"),
            *(b'{"pid":1,"pid":2}', b"{", b'"', b"\0", b"\xef\xbb\xbf{}"),
        ):
            answer = self.post("/drain", body=body)
            self.assertIn(answer.status, {400, 409}, body[:20])
            self.assertIn("error", answer.json)
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertIs(self.relay.state, RelayState.SERVING)

    def test_deep_json_is_answered_with_400(self) -> None:
        self.serve()
        self.assertEqual(self.post("/drain", body=b'{"x":' + b"[" * 10_001).status, 400)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_must_say_who_is_to_drain_if_another_may_answer(self) -> None:
        self.serve(shared=True)
        self.check_meant(b"", b"{}")

    def test_reload(self) -> None:
        self.serve()
        self.found.config = msgspec.structs.replace(
            self.found.config, max_message_bytes=1000, reuse_port=True
        )
        answer = self.post("/reload")
        detail = "changed: max_message_bytes; only when it is started anew: reuse_port"
        self.assertEqual(answer.json, {"ok": True, "detail": detail})
        self.assertEqual(self.relay.config.max_message_bytes, 1000)

    def test_a_reload_with_problems_changes_nothing(self) -> None:
        self.serve()
        self.found.problems += [Problem("port", "is wrong"), Problem("host", "too")]
        answer = self.post("/reload")
        self.assertEqual(answer.status, 409)
        self.assertEqual(answer.json, {"error": "port: is wrong\nhost: too"})

    def test_disconnect(self) -> None:
        """It has to end the process: after any other code it would read no more."""
        self.serve()
        client, other = self.registered(A), self.registered(B)
        answer = self.post(f"/clients/{A.upper()}/disconnect")
        self.assertEqual(answer.status, 200)
        self.assertTrue(answer.json["ok"])
        self.assertIn("closed with 4004", answer.json["detail"])
        self.assertEqual(client.state, client.STATE_CLOSING)
        self.assertIn((4004).to_bytes(2, "big"), client.transport.value())
        self.assertEqual(other.state, other.STATE_OPEN)
        self.assertEqual(list(self.relay.factory.registry), [other])

    def test_disconnects_nobody_who_is_not_there(self) -> None:
        self.serve()
        for uuid in (A, "x", "%2e%2e"):
            answer = self.post(f"/clients/{uuid}/disconnect")
            self.assertEqual(answer.status, 404, uuid)
            self.assertIn("error", answer.json)

    def test_are_deliberate(self) -> None:
        """A form of another page can send neither of the two header fields."""
        self.serve()
        self.registered(A)
        for path in ACTIONS:
            for headers in ({}, {"Content_Type": "text/plain"}, {"X_Proxyrelay": "0"}):
                answer = self.ask(path, "POST", **headers)
                self.assertEqual(answer.status, 403, path)
        self.assertIs(self.relay.state, RelayState.SERVING)
        self.assertEqual(len(self.relay.factory.registry), 1)
        kind = "application/json; charset=utf-8"
        self.assertEqual(self.ask("/reload", "POST", Content_Type=kind).status, 200)

    def test_are_not_done_by_looking(self) -> None:
        self.serve()
        for path in ACTIONS:
            answer = self.ask(path)
            self.assertEqual((answer.status, answer.headers["allow"]), (405, "POST"))
        answer = self.post("/status")
        self.assertEqual((answer.status, answer.headers["allow"]), (405, "GET"))


class TokenTests(WatchedTestCase):
    """Who is let in."""

    def test_nobody_without_it(self) -> None:
        self.serve(token=TOKEN)
        for path in PATHS:
            for given in ("", "Bearer wrong", f"Basic {TOKEN}"):
                answer = self.ask(path, Authorization=given)
                self.assertEqual(answer.status, 401, path)
                self.assertIn("Bearer", answer.headers["www-authenticate"])
                self.assertIn("error", answer.json)
        for path in ACTIONS:
            self.assertEqual(self.post(path).status, 401)
        self.assertIs(self.relay.state, RelayState.SERVING)

    def test_who_has_it(self) -> None:
        self.serve(token=TOKEN)
        answer = self.ask("/status", Authorization=f"Bearer {TOKEN}")
        self.assertEqual(answer.status, 200)

    def test_is_guessed_in_public(self) -> None:
        """Not so who has brought none, as the page does before it asks for it."""
        self.serve(token=TOKEN)
        journal = RecordingJournal()
        self.relay.factory.journal = journal
        self.ask("/status")
        self.ask("/livez", Authorization="Bearer wrong")
        self.ask("/status", Authorization=f"Bearer {TOKEN}")
        self.assertEqual(journal.events, [])
        self.ask("/status", Authorization="Bearer wrong")
        self.assertEqual(journal.events, [WrongAdminToken(CALLER)])

    def test_health_needs_none(self) -> None:
        self.serve(token=TOKEN)
        for path in ("/livez", "/readyz"):
            self.assertEqual(self.ask(path).status, 200)

    def test_a_reload_brings_another(self) -> None:
        self.serve(token=TOKEN)
        self.found.token = type(cast(Any, self.found.token))("another-0123456789")
        detail = self.post("/reload", Authorization=f"Bearer {TOKEN}").json["detail"]
        self.assertEqual(detail, "changed: token")
        self.assertEqual(
            self.ask("/status", Authorization=f"Bearer {TOKEN}").status, 401
        )
        self.assertEqual(
            self.ask("/status", Authorization="Bearer another-0123456789").status, 200
        )


class RebindingTests(WatchedTestCase):
    """Pages of others that have their name point here."""

    def test_get_nothing(self) -> None:
        self.serve()
        for path in ("/", "/livez", "/readyz", "/page/page.js", *PATHS):
            answer = self.ask(path, Host="evil.example:8701")
            self.assertEqual(answer.status, 421, path)
        self.assertEqual(self.post("/drain", Host="evil.example").status, 421)
        self.assertIs(self.relay.state, RelayState.SERVING)


class PageTests(WatchedTestCase):
    """The page and its files."""

    def setUp(self) -> None:
        super().setUp()
        self.serve(token=TOKEN)
        root = self.admin.site.resource
        self.folder = self.mktemp_folder()
        root._files = files(self.folder)

    def mktemp_folder(self) -> Any:
        folder = Path(self.mktemp()).absolute()
        (folder / "inner").mkdir(parents=True)
        (folder / "index.html").write_text("<!doctype html>")
        (folder / "page.js").write_text("'use strict'")
        (folder / ".hidden").write_text("x")
        (folder / "inner" / "a.js").write_text("x")
        (folder.parent / "secret.js").write_text("x")
        return folder

    def test_is_served_without_the_token(self) -> None:
        page, script = self.ask("/"), self.ask("/page/page.js")
        self.assertEqual((page.status, page.body), (200, b"<!doctype html>"))
        self.assertEqual(page.headers["content-type"], "text/html; charset=utf-8")
        self.assertEqual((script.status, script.body), (200, b"'use strict'"))
        kind = script.headers["content-type"]
        self.assertEqual(kind, "text/javascript; charset=utf-8")

    def test_may_do_little(self) -> None:
        headers = self.ask("/").headers
        policy = headers["content-security-policy"]
        for rule in (
            "default-src 'none'",
            "script-src 'self'",
            "frame-ancestors 'none'",
        ):
            self.assertIn(rule, policy)
        self.assertNotIn("unsafe", policy)
        self.assertEqual(headers["x-content-type-options"], "nosniff")
        self.assertEqual(headers["referrer-policy"], "no-referrer")
        self.assertEqual(headers["cache-control"], "no-cache")

    def test_leaves_its_folder_nowhere(self) -> None:
        for path in (
            *("/page/", "/page", "/page/.hidden", "/page/inner", "/page/inner/a.js"),
            *(
                "/page/../secret.js",
                "/page/%2e%2e%2fsecret.js",
                "/page/..",
                "/page/x.js",
            ),
        ):
            answer = self.ask(path, Authorization=f"Bearer {TOKEN}")
            self.assertEqual(answer.status, 404, path)


class RequestTests(WatchedTestCase):
    """How it is asked."""

    def test_heads_have_no_body(self) -> None:
        self.serve()
        answer = self.ask("/livez", "HEAD")
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertEqual(answer.headers["content-length"], "3")

    def test_several_times_over_one_connection(self) -> None:
        self.serve()
        caller = Caller(self.admin)
        for _ in range(3):
            caller.ask("/livez")
        self.assertEqual(caller.wire.value().count(b"HTTP/1.1 200 OK"), 3)

    def test_an_error_of_its_own_is_kept_from_the_caller(self) -> None:
        self.serve()
        self.relay.factory.registry = cast(Any, None)
        answer = self.ask("/status")
        self.assertEqual(answer.status, 500)
        self.assertEqual(answer.json, {"error": "see the log of the relay"})
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)
        self.relay.factory.registry = type("Empty", (list,), {})()


class ClientsTests(WatchedTestCase, TestCase):
    """All clients, which come in pieces."""

    async def listed(self, caller: Caller | None = None) -> Clients:
        """Ask for them over the reactor of the tests, whose turns the pieces take."""
        caller = caller or Caller(self.admin)
        caller.ask("/clients")
        while not caller.wire.value().endswith(b"0\r\n\r\n"):
            await deferLater(reactor, 0)
        answer = Answer(caller.wire.value())
        self.assertEqual(answer.headers["content-type"], "application/json")
        body, left = b"", answer.body
        while left:
            size, _, left = left.partition(b"\r\n")
            body, left = body + left[: int(size, 16)], left[int(size, 16) + 2 :]
        caller.lose()
        self.listing = body
        return msgspec.json.decode(body, type=Clients)

    async def test_have_what_is_known(self) -> None:
        self.serve()
        one, other = self.registered(A, "caf\xe9"), self.registered(B, legacy=True)
        self.reactor.advance(1)
        self.send(one, offer())
        self.send(other, answer())
        found = await self.listed()
        self.assertEqual(found.total, 2)
        first, second = found.clients
        self.assertEqual(
            (first.uuid, first.name, first.user), (A, "caf\xe9", "anonymous")
        )
        self.assertEqual((first.address, first.since), ("192.0.2.1:4711", START))
        self.assertEqual((first.last_offer, second.last_offer), (START + 1, None))
        self.assertEqual((first.sent, first.received), (1, 1))
        self.assertEqual((first.marks, second.marks), ([], ["legacy"]))
        self.assertEqual((first.unanswered, second.unanswered), (0, 0))

    async def test_tell_of_offers_that_are_left_unanswered(self) -> None:
        self.serve(Config(offers=Offers(answer_timeout=1)))
        one, other = self.registered(A), self.registered(B)
        self.reactor.advance(1)
        for _ in range(2):
            self.send(one, offer())
            self.reactor.pump([0.5] * 4)
        found = await self.listed()
        # It was there from the start, so it is not called deaf.
        self.assertEqual([c.unanswered for c in found.clients], [0, 2])
        self.assertEqual([c.marks for c in found.clients], [[], []])
        status = msgspec.json.decode(self.ask("/status").body, type=Status)
        self.assertEqual(status.unanswered, Silence(1, 2))
        self.send(one, offer())
        self.reactor.advance(1)
        self.send(other, answer())
        status = msgspec.json.decode(self.ask("/status").body, type=Status)
        self.assertEqual(status.unanswered, Silence(0, 0))

    async def test_are_printable_ascii(self) -> None:
        """A terminal acts upon C1 controls, and marks of direction move text."""
        name = "a\x85\x9b31m\x7f\u202e\u2066\u2028\u200f\ufeff\U000e0001\U0001f600\xe9b"
        self.serve()
        self.registered(A, name)
        self.assertEqual((await self.listed()).clients[0].name, name)
        self.assertTrue(self.listing.isascii())
        self.assertTrue(self.listing.decode().isprintable(), self.listing)

    async def test_have_marks(self) -> None:
        limits = Limits(messages_per_client=1, registrations_per_client=1, burst=1)
        self.serve(Config(limits=limits))
        client = self.registered(A)
        client.dataReceived(b"\x89\x80aaaa" * 100)
        assert client.registration is not None
        client.registration.deaf = True
        client.registration.takeovers = 3
        (found,) = (await self.listed()).clients
        self.assertEqual(found.marks, ["deaf", "fight", "slowed"])

    async def test_are_hidden_as_the_log_hides_them(self) -> None:
        logging = Logging(privacy=True)
        self.serve(Config(logging=logging), authenticator=HeaderAuthenticator())
        names = self.relay.pseudonyms
        for host in ("192.0.2.7", "192.0.2.8"):
            client = self.connect("X-User: somebody", host=host)
            self.send(client, registration(A))
        (found,) = (await self.listed()).clients
        self.assertEqual(found.user, names.user("somebody"))
        self.assertEqual(found.address, names.address("192.0.2.8"))
        (event,) = self.ask("/events").json["events"]
        self.assertIn(names.address("192.0.2.7"), event["text"])
        self.send(client, b"?")
        for path in ("/events", "/status", "/metrics"):
            text = self.ask(path).body.decode()
            for secret in ("somebody", "192.0.2.7", "192.0.2.8"):
                self.assertNotIn(secret, text)

    async def test_may_be_none(self) -> None:
        self.serve()
        self.assertEqual(await self.listed(), Clients(0, []))

    def crowd(self, count: int) -> None:
        registry = self.relay.factory.registry
        for number in range(count):
            peer: Any = RecordingPeer()
            peer.slowed = False
            peer.registration = Registration(str(number), "a", False, START)
            registry.add(str(number), peer)

    async def test_come_in_pieces(self) -> None:
        self.serve()
        count = 3 * BATCH + 1
        self.crowd(count)
        caller = Caller(self.admin)
        found = await self.listed(caller)
        self.assertEqual(found.total, count)
        self.assertEqual(
            [client.uuid for client in found.clients], list(map(str, range(count)))
        )

    async def test_leave_out_who_leaves_meanwhile(self) -> None:
        self.serve()
        batches = self.admin._view.clients
        self.crowd(2 * BATCH)
        pieces = batches()
        self.assertEqual(len(next(pieces)), BATCH)
        for peer in self.relay.factory.registry:
            peer.registration = None
        self.assertEqual(next(pieces), [])

    async def test_are_not_looked_for_when_nobody_reads(self) -> None:
        self.serve()
        self.crowd(3 * BATCH)
        caller = Caller(self.admin)
        caller.ask("/clients")
        caller.lose()
        before = caller.wire.value()
        for _ in range(3):
            await deferLater(reactor, 0)
        self.assertEqual(caller.wire.value(), before)
        self.assertEqual(self.flushLoggedErrors(), [])
