"""What Prometheus is told: each metric is moved by something that really happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import msgspec
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics,
)
from twisted.internet.error import ConnectionRefusedError as Refused

from proxyrelay.admin.metrics import METRICS, PREFIX
from proxyrelay.auth import Authenticator
from proxyrelay.auth.authenticator import GlobusAuthenticator
from proxyrelay.auth.cache import TokenCache
from proxyrelay.auth.introspector import Introspector
from proxyrelay.auth.policy import Policy
from proxyrelay.config import Config, Limits, Logging
from proxyrelay.errors import Problem, Refusal
from proxyrelay.net import certificates
from proxyrelay.observe import log as logs
from proxyrelay.switchboard.events import BounceReason
from proxyrelay.switchboard.peer import LeaveReason
from proxyrelay.websocket.handshake import plain_upgrade
from proxyrelay.websocket.state import RelayState
from tests.support.certificates import Authority
from tests.support.frames import CLOSE, PING, TEXT, frame
from tests.support.globus import CLIENT_ID, TOKEN, PendingAgent, active, globus
from tests.support.recording import A, B, C, answer, offer, registration
from tests.support.served import HeaderAuthenticator, upgrade
from tests.support.watched import AT_ONCE, WatchedTestCase

BEARER = f"Authorization: Bearer {TOKEN}"


class MetricsTestCase(WatchedTestCase):
    """A relay with Globus Auth, if a test asks for it."""

    def serve_with_globus(self) -> None:
        self.agent = PendingAgent()
        asked = globus(self.agent, self.reactor)
        self.serve(
            authenticator=GlobusAuthenticator(
                Introspector(asked, self.reactor, 7.0),
                TokenCache(10, 60.0, 300.0),
                Policy(CLIENT_ID),
                self.reactor,
            )
        )

    def serve_as(self, authenticator: Authenticator) -> None:
        self.serve(authenticator=authenticator)

    def pair(self) -> tuple[Any, Any]:
        """Two clients that have registered."""
        return self.registered(A), self.registered(B)

    # -- what happens

    def look(self) -> None:
        """Remember how everything is before what is going to happen."""
        self.before = self.metrics()

    def a_start(self) -> None:
        self.serve()
        self.look()

    def a_stop_that_begins(self) -> None:
        self.serve()
        self.registered()
        self.look()
        self.relay.factory.state = RelayState.STOPPING

    def a_drain(self) -> None:
        self.serve()
        self.registered()
        self.look()
        self.relay.drain()

    def a_registration(self) -> None:
        self.serve()
        self.look()
        self.registered()

    def a_connection(self) -> None:
        self.serve()
        self.look()
        self.connect()

    def a_user(self) -> None:
        self.serve(authenticator=HeaderAuthenticator())
        self.look()
        self.connect("X-User: jo")

    def a_silence(self) -> None:
        """A client that came back answers no offers."""
        self.serve()
        self.lose(self.registered(B))
        self.registered(B)
        self.registered(A)
        self.registered(C)
        self.look()
        for source in (A, C):
            client = self.relay.factory.registry.get(source)
            assert client is not None
            self.send(client, offer(source, B))  # type: ignore[arg-type]
        self.reactor.pump([0.5] * 50)

    def a_loss(self) -> None:
        self.serve()
        client = self.registered()
        self.look()
        self.lose(client)

    def a_strange_text(self) -> None:
        self.serve()
        client = self.registered()
        self.look()
        self.send(client, b"?")

    def a_strange_request(self) -> None:
        self.serve()
        client = self.accept()
        self.look()
        client.dataReceived(b"GET / HTTP/1.1\r\n\r\n")

    def a_strange_frame(self) -> None:
        self.serve()
        client = self.connect()
        self.look()
        client.dataReceived(frame(3))

    def a_call_that_breaks_off(self) -> None:
        self.serve()
        client = self.accept()
        client.dataReceived(b"GET")
        self.look()
        self.lose(client)

    def a_probe(self) -> None:
        self.serve()
        client = self.accept()
        self.look()
        self.lose(client)

    def a_goodbye(self) -> None:
        self.serve()
        client = self.registered()
        self.look()
        client.dataReceived(frame(CLOSE, (1000).to_bytes(2, "big")))

    def a_flood(self) -> None:
        limits = Limits(messages_per_client=1, registrations_per_client=1, burst=1)
        self.serve(Config(limits=limits))
        self.look()
        self.registered().dataReceived(frame(PING) * 100)

    def an_offer(self) -> None:
        self.serve()
        one, _ = self.pair()
        self.look()
        self.send(one, offer())

    def an_answer(self) -> None:
        self.serve()
        one, other = self.pair()
        self.send(one, offer())
        self.reactor.pump([0.25] * 4)
        self.look()
        self.send(other, answer())

    def an_offer_in_vain(self) -> None:
        self.serve()
        self.reactor.advance(3600)
        client = self.registered()
        self.look()
        self.send(client, offer())

    def an_answer_unasked(self) -> None:
        self.serve()
        one, _ = self.pair()
        self.look()
        self.send(one, answer(A, B))

    def an_offer_to_somebody_who_left(self) -> None:
        self.serve()
        one, other = self.pair()
        self.lose(other)
        self.look()
        self.send(one, offer())

    def an_offer_to_somebody_who_comes_back(self) -> None:
        self.an_offer_to_somebody_who_left()
        self.look()
        self.reactor.pump([0.25] * 4)
        self.registered(B)

    def a_question(self) -> None:
        self.serve_with_globus()
        self.look()
        self.connect(BEARER)
        self.reactor.advance(0.25)
        self.agent.last.reply(active())

    def a_token_that_is_known(self) -> None:
        self.a_question()
        self.look()
        self.connect(BEARER)

    def an_outage(self) -> None:
        self.serve_with_globus()
        self.look()
        self.connect(BEARER)
        for _ in range(40):
            for asked in self.agent.pending:
                asked.fail(Refused())
            self.reactor.advance(0.5)
            if len(self.agent.requests) < 10:
                self.connect(BEARER)

    def a_late_turn(self) -> None:
        self.serve()
        self.look()
        self.reactor.advance(0.75)

    def a_new_certificate(self) -> None:
        self.serve(pair=Authority().pair())
        self.look()
        self.found.pair = Authority(end=certificates.now() + timedelta(days=9)).pair()
        self.reload.reload()

    def a_lost_line(self) -> None:
        self.serve()
        self.look()
        log = logs.Log([], Logging())
        log.writers.append(cast(Any, SimpleNamespace(lost=1)))
        self.relay._observer = log

    def a_reload(self) -> None:
        self.serve()
        self.look()
        self.reload.reload()


MOVED: Mapping[str, Callable[[Any], None]] = {
    "build_info": MetricsTestCase.a_start,
    "ready": MetricsTestCase.a_stop_that_begins,
    "draining": MetricsTestCase.a_drain,
    "clients": MetricsTestCase.a_registration,
    "connections": MetricsTestCase.a_connection,
    "users": MetricsTestCase.a_user,
    "unregistered": MetricsTestCase.a_connection,
    "deaf_clients": MetricsTestCase.a_silence,
    "unanswered_clients": MetricsTestCase.a_silence,
    "unanswered_offers_max": MetricsTestCase.a_silence,
    "accepted_connections_total": MetricsTestCase.a_connection,
    "registrations_total": MetricsTestCase.a_registration,
    "departures_total": MetricsTestCase.a_loss,
    "refusals_total": MetricsTestCase.a_strange_text,
    "rejections_total": MetricsTestCase.a_strange_request,
    "failures_total": MetricsTestCase.a_strange_frame,
    "dropped_connections_total": MetricsTestCase.a_call_that_breaks_off,
    "probes_total": MetricsTestCase.a_probe,
    "closes_total": MetricsTestCase.a_goodbye,
    "slowed_total": MetricsTestCase.a_flood,
    "messages_forwarded_total": MetricsTestCase.an_offer,
    "messages_returned_total": MetricsTestCase.an_offer_in_vain,
    "messages_dropped_total": MetricsTestCase.an_answer_unasked,
    "offers_held_total": MetricsTestCase.an_offer_to_somebody_who_left,
    "offers_outstanding": MetricsTestCase.an_offer,
    "offers_waiting": MetricsTestCase.an_offer_to_somebody_who_left,
    "received_bytes_total": MetricsTestCase.a_connection,
    "sent_bytes_total": MetricsTestCase.a_connection,
    "offer_to_answer_seconds": MetricsTestCase.an_answer,
    "offer_wait_seconds": MetricsTestCase.an_offer_to_somebody_who_comes_back,
    "handshake_seconds": MetricsTestCase.a_connection,
    "introspection_seconds": MetricsTestCase.a_question,
    "introspections_total": MetricsTestCase.a_question,
    "introspection_cache_total": MetricsTestCase.a_token_that_is_known,
    "introspection_breaker_open": MetricsTestCase.an_outage,
    "event_loop_lag_seconds": MetricsTestCase.a_late_turn,
    "certificate_expiry_timestamp_seconds": MetricsTestCase.a_new_certificate,
    "log_lines_lost_total": MetricsTestCase.a_lost_line,
    "certificate_renewal_timestamp_seconds": MetricsTestCase.a_new_certificate,
    "reloads_total": MetricsTestCase.a_reload,
}
"""What moves each metric from where it was just before."""


class EveryMetricTests(MetricsTestCase):
    """The whole table, so that none is forgotten."""

    def test_the_table_is_whole(self) -> None:
        self.assertEqual(set(MOVED), {metric.name for metric in METRICS})

    def samples(self, name: str, found: Mapping[str, float]) -> dict[str, float]:
        """The samples of one metric."""
        suffixes = ("", "{", "_count", "_sum", "_bucket{")
        return {
            sample: value
            for sample, value in found.items()
            if any(
                sample == PREFIX + name + suffix
                or (suffix.endswith("{") and sample.startswith(PREFIX + name + suffix))
                for suffix in suffixes
            )
        }

    def test_each_moves(self) -> None:
        for name, happens in MOVED.items():
            self.reactor = type(self.reactor)()
            happens(self)
            before = self.samples(name, self.before)
            after = self.samples(name, self.metrics())
            self.stop()
            self.assertNotEqual(after, {}, name)
            self.assertLessEqual(set(before), set(after), name)
            if name == "build_info":
                self.assertEqual(before, after)
            else:
                self.assertNotEqual(before, after, name)
        self.flushLoggedErrors(Refused)


class ValueTests(MetricsTestCase):
    """Some of them in detail."""

    def value(self, sample: str) -> float | None:
        return self.metrics().get(PREFIX + sample)

    def test_departures_have_a_cause(self) -> None:
        self.serve()
        self.lose(self.registered(A))
        self.registered(A).dataReceived(frame(CLOSE))
        self.send(self.registered(A), b"?")
        self.registered(A)
        self.registered(A)  # takes the place of the one before
        client = self.registered(B)
        self.send(client, registration(C))
        client.close_going_away()
        silent = self.registered(B)
        self.reactor.pump([20.5, 20.5])
        self.assertEqual(silent.state, silent.STATE_CLOSED)
        causes = {
            cause: self.value(f"departures_total{{cause={cause.value}}}")
            for cause in LeaveReason
        }
        # The last one in the place of A has not answered a ping, either.
        self.assertEqual(
            causes, {**dict.fromkeys(LeaveReason, 1.0), LeaveReason.IDLE: 2.0}
        )

    def test_who_breaks_the_protocol_is_refused(self) -> None:
        self.serve()
        self.registered(A).dataReceived(frame(0xB))
        self.assertEqual(self.value("departures_total{cause=refused}"), 1)
        self.assertEqual(self.value("departures_total{cause=shut}"), 0)

    def test_closes_tell_who_has_begun(self) -> None:
        self.serve()
        for code in (1000, 4999):
            data = code.to_bytes(2, "big")
            self.registered(A).dataReceived(frame(CLOSE, data))
        self.send(self.registered(A), b"?")
        self.assertEqual(self.value("closes_total{by=client,code=1000}"), 1)
        self.assertEqual(self.value("closes_total{by=client,code=other}"), 1)
        self.assertEqual(self.value("closes_total{by=relay,code=4000}"), 1)

    def test_codes_are_there_before_they_are_seen(self) -> None:
        self.serve()
        for kind in Refusal.__subclasses__():
            self.assertEqual(self.value(f"refusals_total{{code={kind.code}}}"), 0)

    def test_statuses_are_there_before_they_are_seen(self) -> None:
        self.serve(Config(allowed_origins=("a",)))
        self.look()
        good = upgrade()
        for request in (
            upgrade("Origin: http://b"),
            good.replace(b"GET ", b"POST "),
            good.replace(b"HTTP/1.1", b"HTTP/1.0"),
            good.replace(b"Version: 13", b"Version: 7"),
            good.replace(b"Upgrade: websocket", b"A: b"),
            upgrade("A: " + "a" * 65536),
        ):
            self.accept().dataReceived(request)
        statuses = {
            sample: value
            for sample, value in self.metrics().items()
            if "rejections_total" in sample
        }
        self.assertEqual(sum(statuses.values()), 6)
        self.assertEqual(set(statuses) - set(self.before), set())

    def test_messages_return_for_a_reason(self) -> None:
        limits = Limits(registrations_per_client=1000)
        self.serve(Config(limits=limits, offers=AT_ONCE))
        self.reactor.advance(3600)
        one = self.registered(A)
        self.send(one, offer(A, B))
        self.send(one, offer(C, B))
        other = self.registered(B)
        self.send(one, offer(A, B))
        self.lose(other)
        for why in (BounceReason.UNKNOWN, BounceReason.SOURCE, BounceReason.LEFT):
            sample = f"messages_returned_total{{reason={why.value}}}"
            self.assertEqual(self.value(sample), 1, why)

    def test_an_answer_takes_its_time(self) -> None:
        self.an_answer()
        self.assertEqual(self.value("offer_to_answer_seconds_count"), 1)
        self.assertEqual(self.value("offer_to_answer_seconds_sum"), 1)
        self.assertEqual(self.value("offer_to_answer_seconds_bucket{le=0.5}"), 0)
        self.assertEqual(self.value("offer_to_answer_seconds_bucket{le=1.0}"), 1)
        self.assertEqual(self.value("messages_forwarded_total{kind=offer}"), 1)
        self.assertEqual(self.value("messages_forwarded_total{kind=answer}"), 1)

    def test_the_wait_of_an_offer_is_no_part_of_the_answer(self) -> None:
        self.serve()
        one, other = self.pair()
        self.lose(other)
        self.send(one, offer())
        self.reactor.pump([0.25] * 4)
        other = self.registered(B)
        self.assertEqual(self.value("offer_wait_seconds_count"), 1)
        self.assertEqual(self.value("offer_wait_seconds_sum"), 1)
        self.reactor.pump([0.25] * 2)
        self.send(other, answer())
        self.assertEqual(self.value("offer_to_answer_seconds_sum"), 0.5)

    def test_a_handshake_takes_its_time(self) -> None:
        self.serve()
        client = self.accept()
        self.reactor.advance(0.5)
        self.assertEqual(self.value("handshake_seconds_count"), 0)
        client.dataReceived(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n")
        client.dataReceived(
            b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Sec-WebSocket-Version: 13\r\n\r\n"
        )
        self.assertEqual(self.value("handshake_seconds_sum"), 0.5)

    def test_so_does_one_that_autobahn_reads(self) -> None:
        self.serve()
        client = self.accept()
        self.reactor.advance(0.5)
        request = upgrade().replace(b"Connection: ", b"Connection: keep-alive, ")
        self.assertIsNone(plain_upgrade(request))
        client.dataReceived(request)
        self.assertEqual(self.value("handshake_seconds_sum"), 0.5)
        self.assertEqual(self.value("received_bytes_total"), len(request))
        sent = client.transport.value()
        self.assertTrue(sent.startswith(b"HTTP/1.1 101 "))
        self.assertEqual(self.value("sent_bytes_total"), len(sent))

    def test_bytes_are_those_of_both_ways(self) -> None:
        self.serve()
        client = self.registered(A)
        before = self.metrics()
        sent = len(client.transport.value())
        data = frame(TEXT, registration(A))
        client.dataReceived(data)
        after = self.metrics()
        for name, count in (
            ("received_bytes_total", len(data)),
            ("sent_bytes_total", len(client.transport.value()) - sent),
        ):
            self.assertEqual(after[PREFIX + name] - before[PREFIX + name], count)

    def test_questions_have_an_outcome(self) -> None:
        self.a_token_that_is_known()
        for sample, value in (
            ("introspections_total{outcome=active}", 1),
            ("introspection_seconds_count", 1),
            ("introspection_seconds_sum", 0.25),
            ("introspection_cache_total{result=miss}", 1),
            ("introspection_cache_total{result=hit}", 1),
            ("introspection_breaker_open", 0),
        ):
            self.assertEqual(self.value(sample), value, sample)

    def test_an_outage_shows(self) -> None:
        self.an_outage()
        self.assertEqual(self.value("introspection_breaker_open"), 1)
        self.assertEqual(self.value("introspections_total{outcome=active}"), 0)
        failed = self.value("introspections_total{outcome=unreachable}")
        self.assertGreaterEqual(failed or 0, 5)
        self.assertEqual(self.value("ready"), 0)

    def test_without_globus_nothing_is_said_of_it(self) -> None:
        self.serve()
        self.assertFalse([name for name in self.metrics() if "introspection" in name])

    def test_reloads_have_an_outcome(self) -> None:
        self.serve()
        self.reload.reload()
        self.found.config = msgspec.structs.replace(
            self.found.config, max_message_bytes=1000
        )
        self.reload.reload()
        self.found.problems.append(Problem("port", "is wrong"))
        self.reload.reload()
        for outcome in ("unchanged", "changed", "refused"):
            self.assertEqual(self.value(f"reloads_total{{outcome={outcome}}}"), 1)

    def test_labels_are_never_a_clients_choice(self) -> None:
        self.serve()
        self.send(self.registered(A, "evil-name"), b"evil-text")
        self.connect("Origin: http://evil.example").dataReceived(
            frame(CLOSE, (4321).to_bytes(2, "big") + b"evil-reason")
        )
        text = self.ask("/metrics").body.decode()
        for word in ("evil", A, "4321", "192.0.2.1"):
            self.assertNotIn(word, text)

    def test_the_process_is_measured_too(self) -> None:
        self.serve()
        found = self.metrics()
        self.assertGreater(found["process_resident_memory_bytes"], 0)
        self.assertTrue([name for name in found if name.startswith("python_info")])


class FormatTests(MetricsTestCase):
    """How it is written."""

    def test_is_text_by_default(self) -> None:
        self.serve()
        answer = self.ask("/metrics")
        self.assertTrue(answer.headers["content-type"].startswith("text/plain"))

    def test_is_openmetrics_if_asked_for(self) -> None:
        self.serve()
        answer = self.ask("/metrics", Accept="application/openmetrics-text")
        kind = answer.headers["content-type"]
        self.assertTrue(kind.startswith("application/openmetrics-text"), kind)
        families = {family.name for family in openmetrics(answer.body.decode())}
        self.assertIn("proxyrelay_registrations", families)

    def test_a_version_that_is_none_does_no_harm(self) -> None:
        self.serve()
        for kind in ("text/plain", "application/openmetrics-text"):
            answer = self.ask("/metrics", Accept=f"{kind}; version=evil")
            self.assertEqual(answer.status, 200)
