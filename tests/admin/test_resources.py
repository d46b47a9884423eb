"""Answers of the private listener. Its clients are tested in `test_clients`."""

from __future__ import annotations

import os
from pathlib import Path
from socket import gethostname
from typing import Any, cast

import msgspec

from proxyrelay import __version__
from proxyrelay.admin.report import Status
from proxyrelay.admin.resources import files
from proxyrelay.config import Secret
from proxyrelay.errors import Problem
from proxyrelay.switchboard.events import WrongAdminToken
from proxyrelay.websocket.state import RelayState
from tests.support.candidates import candidate, description
from tests.support.certificates import Authority
from tests.support.recording import A, B, RecordingObserver, answer, offer
from tests.support.watched import START, WatchedTestCase

TOKEN = "0123456789abcdef"

BEARER = f"Bearer {TOKEN}"

CALLER = "192.168.1.1:54321"
"""Where callers seem to be."""

PATHS = ("/metrics", "/status", "/clients", "/history", "/events", "/nothing")

ACTIONS = ("/drain", "/reload", f"/clients/{A}/disconnect")


class ResourceTestCase(WatchedTestCase):
    """Has a relay whose settings change."""

    def change(self, **settings: Any) -> None:
        """Change settings of the file; a reload applies them."""
        self.found.config = msgspec.structs.replace(self.found.config, **settings)

    def texts(self, kind: str) -> list[str]:
        """Texts of all events of a kind."""
        found = self.ask("/events").json["events"]
        return [event["text"] for event in found if event["kind"] == kind]


class HealthTests(WatchedTestCase):
    """What supervisors and load balancers ask."""

    def check_unready(self, *reasons: str) -> None:
        answer = self.ask("/readyz")
        self.assertEqual(answer.status, 503)
        self.assertEqual(answer.body.decode().splitlines(), list(reasons))
        status = self.ask("/status").json
        self.assertEqual((status["ready"], status["reasons"]), (False, list(reasons)))

    def test_health_of_serving_relay_is_ok(self) -> None:
        self.serve(token=TOKEN)
        for path in ("/livez", "/readyz"):
            answer = self.ask(path)
            self.assertEqual((answer.status, answer.body), (200, b"ok\n"))

    def test_health_of_draining_relay_is_unready(self) -> None:
        self.serve()
        self.registered()
        self.relay.drain()
        self.check_unready("draining")

    def test_health_of_stopping_relay_is_unready_but_alive(self) -> None:
        self.serve()
        self.registered()
        self.relay.stopService()
        self.check_unready("stopping")
        self.assertEqual(self.ask("/livez").status, 200)

    def test_health_without_socket_is_unready(self) -> None:
        self.serve()
        self.relay.ports.close()
        self.check_unready("listener: no socket is listened on")

    def test_health_with_several_obstacles_lists_all(self) -> None:
        pair = Authority().pair()
        self.serve(pair=pair)
        end = pair.chain[0].not_valid_after_utc
        self.reactor.rightNow = end.timestamp() + 1
        self.registered()
        self.relay.drain()
        self.check_unready(
            "draining", f"certificate: expired on {end.date().isoformat()}"
        )


class StatusTests(WatchedTestCase):
    """The relay in one piece."""

    def test_status_after_start_describes_the_relay(self) -> None:
        self.serve()
        answer = self.ask("/status")
        self.assertEqual(answer.headers["content-type"], "application/json")
        status = msgspec.json.decode(answer.body, type=Status, strict=True)
        self.assertEqual(status.version, __version__)
        self.assertEqual(status.name, gethostname())
        self.assertEqual(status.started, START)
        self.assertEqual(status.listening, self.relay.urls)
        self.assertEqual((status.tls, status.authentication), (False, "none"))
        self.assertEqual((status.certificate, status.globus), (None, None))
        self.assertEqual((status.lag.median, status.lag.max), (None, None))

    def test_status_after_messages_counts_them(self) -> None:
        self.serve()
        one, other = self.registered(A), self.registered(B)
        self.connect()
        self.send(one, offer())
        self.reactor.pump([0.25] * 4)
        self.send(other, answer(B, A))
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

    def test_status_with_tls_has_dates_of_the_certificate(self) -> None:
        pair = Authority().pair()
        self.serve(pair=pair)
        status = self.ask("/status").json
        self.assertTrue(status["tls"])
        end = pair.chain[0].not_valid_after_utc.timestamp()
        dates = {"expires": end, "renewal": pair.renewal.timestamp()}
        self.assertEqual(status["certificate"], dates)


class HistoryTests(WatchedTestCase):
    """The last hour."""

    def test_history_has_a_sample_every_two_seconds(self) -> None:
        self.serve()
        self.registered(A)
        self.reactor.pump([0.25] * 24)
        found = self.ask("/history").json
        self.assertEqual(found["interval"], 2)
        samples = [dict(zip(found["fields"], s, strict=True)) for s in found["samples"]]
        self.assertEqual([sample["time"] - START for sample in samples], [2, 4, 6])
        self.assertEqual([sample["registrations"] for sample in samples], [0.5, 0, 0])
        found = self.ask(f"/history?since={START + 4}").json
        self.assertEqual([sample[0] - START for sample in found["samples"]], [6])

    def test_since_that_is_no_number_is_refused(self) -> None:
        self.serve()
        for path in ("/history", "/events"):
            for since in ("x", "nan", "inf", "", "9" * 5000, "%ff", "1e999", "%00"):
                answer = self.ask(f"{path}?since={since}")
                self.assertEqual(answer.status, 400, since)
                self.assertEqual(answer.json, {"error": "since must be a number"})


class PairTests(ResourceTestCase):
    """Pairs of clients."""

    def test_pairs_of_a_client_may_have_connected(self) -> None:
        self.serve()
        one, other = self.registered(A), self.registered(B)
        sdp = description(candidate("192.168.1.7"))
        self.send(one, offer(A, B, sdp))
        self.send(other, answer(B, A, sdp=sdp))
        for client, count in ((A, 1), (B, 1), ("%ff", 0), ("", 0)):
            found = self.ask(f"/pairs?client={client}").json
            self.assertEqual((found["total"], len(found["pairs"])), (count, count))
        (pair,) = self.ask(f"/pairs?client={A}").json["pairs"]
        self.assertFalse(pair["unconnected"])
        self.assertEqual(pair["exchanges"], 1)
        self.registered(A, "new name")
        (pair,) = self.ask(f"/pairs?client={A}").json["pairs"]
        self.assertEqual(pair["source"]["name"], "new name")


class EventTests(ResourceTestCase):
    """The latest events."""

    def kinds(self, since: int = 0) -> list[str]:
        found = self.ask(f"/events?since={since}").json
        return [event["kind"] for event in found["events"]]

    def test_events_have_numbers(self) -> None:
        self.serve()
        self.send(self.registered(A), b"?")
        self.registered(A)
        self.assertEqual(self.kinds(), ["registered", "refused", "left", "registered"])
        self.assertEqual(self.kinds(2), ["left", "registered"])
        self.assertEqual(self.ask("/events").json["last"], 4)

    def test_events_have_names_of_clients(self) -> None:
        self.serve()
        self.send(self.registered(A), offer(A, A))
        *_, returned = self.ask("/events").json["events"]
        self.assertEqual(returned["text"], f"offer of {A} to {A}: self")
        self.assertEqual(list(returned["names"]), [A])

    def test_events_of_operators_name_the_caller(self) -> None:
        self.serve()
        self.registered(A)
        self.post("/reload")
        self.post(f"/clients/{A}/disconnect")
        self.reload.renewed("serving a renewed certificate")
        self.post("/drain")
        self.assertEqual(
            self.kinds(),
            [
                *("registered", "operator", "reload"),
                *("operator", "refused", "left", "disconnected"),
                *("certificate", "operator", "drain"),
            ],
        )
        actions = ("reload", f"disconnect of {A}", "drain")
        expected = [f"{action} is asked for from {CALLER}" for action in actions]
        self.assertEqual(self.texts("operator"), expected)

    def test_events_of_refused_actions_are_left_out(self) -> None:
        self.serve(token=TOKEN, shared=True)
        self.post("/reload")
        self.post("/drain", Authorization=BEARER)
        self.post(f"/clients/{A}/disconnect", Authorization=BEARER)
        self.ask("/reload", "POST", Authorization=BEARER)
        found = self.ask("/events", Authorization=BEARER).json
        self.assertEqual(found["events"], [])

    def test_events_of_reloads_tell_the_changes(self) -> None:
        self.serve()
        self.post("/reload")
        self.change(max_message_bytes=1000)
        self.post("/reload")
        self.found.problems += [Problem("port", "is wrong")]
        self.post("/reload")
        self.assertEqual(
            self.texts("reload"),
            [
                "nothing has changed",
                "changed: max_message_bytes",
                "refused: port: is wrong",
            ],
        )


class ActionTests(ResourceTestCase):
    """Commands."""

    def test_drain_of_serving_relay_drains(self) -> None:
        self.serve()
        self.registered()
        for _ in range(2):
            answer = self.post("/drain")
            self.assertEqual(answer.status, 202)
            detail = "draining; clients left: 1, connections: 1"
            self.assertEqual(answer.json, {"ok": True, "detail": detail})
        self.assertIs(self.relay.state, RelayState.DRAINING)

    def test_drain_of_another_process_is_refused(self) -> None:
        """A shared relay drains only by its process ID."""
        own = os.getpid()
        other = b'{"pid": %d}' % (own + 1)
        for shared, refused in ((False, (other,)), (True, (other, b"", b"{}"))):
            self.serve(shared=shared)
            self.registered()
            for body in refused:
                answer = self.post("/drain", body=body)
                self.assertEqual(answer.status, 409, body)
                self.assertIn(str(own), answer.json["error"])
            self.assertIs(self.relay.state, RelayState.SERVING)
            answer = self.post("/drain", body=b'{"pid": %d}' % own)
            self.assertEqual(answer.status, 202)
            self.assertIs(self.relay.state, RelayState.DRAINING)
            self.stop()

    def test_drain_with_malformed_body_is_refused(self) -> None:
        self.serve(shared=True)
        deep = b'{"x":' + b"[" * 10_001
        for body in (b"?", b"[]", b'{"pid": "1"}', b"\xff", deep):
            self.assertEqual(self.post("/drain", body=body).status, 400, body[:20])
        for body in (
            *(b"[" * 10_001, b'{"a":' * 3_001, b'{"pid":' * 2_001, b"null"),
            *(b'{"pid":' + b"9" * 5000 + b"}", b'{"pid":' + b"9" * 4000 + b"}"),
            *(b'{"pid":1e999}', b'{"pid":-0}', b'{"pid":1,"pid":2}'),
            *(b'{"\xff":1}', b'{"pid":"\xff"}', b'{"\\ud800":1}'),
            *(b"{", b'"', b"\0", b"\xef\xbb\xbf{}"),
        ):
            answer = self.post("/drain", body=body)
            self.assertIn(answer.status, {400, 409}, body[:20])
            self.assertIn("error", answer.json)
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertIs(self.relay.state, RelayState.SERVING)

    def test_reload_of_changes_lists_them(self) -> None:
        self.serve()
        self.change(max_message_bytes=1000, reuse_port=True)
        detail = "changed: max_message_bytes; waits for a new start: reuse_port"
        self.assertEqual(self.post("/reload").json, {"ok": True, "detail": detail})
        self.assertEqual(self.relay.config.max_message_bytes, 1000)

    def test_reload_with_problems_lists_them(self) -> None:
        self.serve()
        self.found.problems += [Problem("port", "is wrong"), Problem("host", "too")]
        answer = self.post("/reload")
        self.assertEqual(answer.status, 409)
        self.assertEqual(answer.json, {"error": "port: is wrong\nhost: too"})

    def test_disconnect_of_client_closes_with_4004(self) -> None:
        """After any other code its process would go on, and read no more."""
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

    def test_disconnect_of_nobody_is_not_found(self) -> None:
        self.serve()
        for uuid in (A, "x", "%2e%2e"):
            answer = self.post(f"/clients/{uuid}/disconnect")
            self.assertEqual(answer.status, 404, uuid)
            self.assertIn("error", answer.json)

    def test_action_by_form_of_another_page_is_refused(self) -> None:
        """A form can send neither of the two header fields."""
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

    def test_action_with_other_method_is_refused(self) -> None:
        self.serve()
        for path in ACTIONS:
            answer = self.ask(path)
            self.assertEqual((answer.status, answer.headers["allow"]), (405, "POST"))
        answer = self.post("/status")
        self.assertEqual((answer.status, answer.headers["allow"]), (405, "GET"))


class AccessTests(WatchedTestCase):
    """Tokens and names."""

    def test_caller_without_token_is_refused(self) -> None:
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
        self.assertEqual(self.ask("/status", Authorization=BEARER).status, 200)

    def test_caller_with_wrong_token_is_logged(self) -> None:
        """The page brings none before it asks for it."""
        self.serve(token=TOKEN)
        journal = RecordingObserver()
        self.relay.factory.observer = journal
        self.ask("/status")
        self.ask("/livez", Authorization="Bearer wrong")
        self.ask("/status", Authorization=BEARER)
        self.assertEqual(journal.events, [])
        self.ask("/status", Authorization="Bearer wrong")
        self.assertEqual(journal.events, [WrongAdminToken(CALLER)])

    def test_token_after_reload_is_the_new_one(self) -> None:
        self.serve(token=TOKEN)
        self.found.token = Secret("another-0123456789")
        detail = self.post("/reload", Authorization=BEARER).json["detail"]
        self.assertEqual(detail, "changed: token")
        for bearer, status in ((BEARER, 401), ("Bearer another-0123456789", 200)):
            self.assertEqual(self.ask("/status", Authorization=bearer).status, status)

    def test_host_of_another_page_gets_nothing(self) -> None:
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
        folder = Path(self.mktemp()).absolute()
        (folder / "inner").mkdir(parents=True)
        (folder / "index.html").write_text("<!doctype html>")
        (folder / "page.js").write_text("'use strict'")
        for other in (".hidden", "inner/a.js", "../secret.js"):
            (folder / other).write_text("x")
        self.admin.site.resource._files = files(folder)

    def test_page_needs_no_token(self) -> None:
        page, script = self.ask("/"), self.ask("/page/page.js")
        self.assertEqual((page.status, page.body), (200, b"<!doctype html>"))
        self.assertEqual(page.headers["content-type"], "text/html; charset=utf-8")
        self.assertEqual((script.status, script.body), (200, b"'use strict'"))
        kind = script.headers["content-type"]
        self.assertEqual(kind, "text/javascript; charset=utf-8")

    def test_page_has_a_strict_policy(self) -> None:
        headers = self.ask("/").headers
        policy = headers["content-security-policy"]
        for kind in ("default-src 'none'", "script-src 'self'"):
            self.assertIn(kind, policy)
        self.assertIn("frame-ancestors 'none'", policy)
        self.assertNotIn("unsafe", policy)
        self.assertEqual(headers["x-content-type-options"], "nosniff")
        self.assertEqual(headers["referrer-policy"], "no-referrer")
        self.assertEqual(headers["cache-control"], "no-cache")

    def test_page_outside_its_folder_is_not_found(self) -> None:
        for path in (
            *("/page/", "/page", "/page/.hidden", "/page/inner", "/page/inner/a.js"),
            *("/page/../secret.js", "/page/%2e%2e%2fsecret.js", "/page/.."),
            "/page/x.js",
        ):
            answer = self.ask(path, Authorization=BEARER)
            self.assertEqual(answer.status, 404, path)


class RequestTests(WatchedTestCase):
    """Methods and defects."""

    def test_head_request_has_no_body(self) -> None:
        self.serve()
        answer = self.ask("/livez", "HEAD")
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertEqual(answer.headers["content-length"], "3")

    def test_defect_is_hidden_from_the_caller(self) -> None:
        self.serve()
        self.relay.factory.registry = cast(Any, None)
        answer = self.ask("/status")
        self.assertEqual(answer.status, 500)
        self.assertEqual(answer.json, {"error": "see the log of the relay"})
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)
        self.relay.factory.registry = type("Empty", (list,), {})()
