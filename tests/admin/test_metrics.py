"""Metrics for Prometheus: each is moved by something that really happens."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import msgspec
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics,
)
from twisted.internet.error import ConnectionRefusedError as Refused

from proxyrelay.admin.cluster_metrics import RETURN_REASONS
from proxyrelay.admin.metrics import METRICS
from proxyrelay.admin.prometheus import PREFIX
from proxyrelay.auth.authenticator import GlobusAuthenticator
from proxyrelay.auth.cache import TokenCache
from proxyrelay.auth.introspector import Introspector
from proxyrelay.auth.policy import Policy
from proxyrelay.cluster import codec
from proxyrelay.cluster.member import Member
from proxyrelay.cluster.node import REASONS
from proxyrelay.config import Config, Limits, Logging
from proxyrelay.errors import Problem
from proxyrelay.net import certificates
from proxyrelay.observe import log as logs
from proxyrelay.survive.resume import Outcome
from proxyrelay.survive.survival import Survival
from proxyrelay.switchboard.events import BounceReason
from proxyrelay.switchboard.pairs import EXCHANGES
from proxyrelay.switchboard.peer import LeaveReason
from proxyrelay.websocket.handshake import plain_upgrade
from proxyrelay.websocket.state import RelayState
from tests.support.candidates import candidate, description
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

    def pair(self) -> tuple[Any, Any]:
        """Two clients that have registered."""
        return self.registered(A), self.registered(B)

    # -- what happens

    def look(self) -> None:
        """Remember how everything is before what is going to happen."""
        self.before = self.metrics()

    def a_user(self) -> None:
        self.serve(authenticator=HeaderAuthenticator())
        self.look()
        self.connect("X-User: jo")

    def a_silence(self) -> None:
        """A client that came back answers no offers."""
        self.serve()
        self.lose(self.registered(B))
        self.registered(B)
        one, other = self.registered(A), self.registered(C)
        self.look()
        self.send(one, offer(A, B))
        self.send(other, offer(C, B))
        self.reactor.pump([0.5] * 50)

    def a_call_that_breaks_off(self) -> None:
        self.serve()
        client = self.accept()
        client.dataReceived(b"GET")
        self.look()
        self.lose(client)

    def a_flood(self) -> None:
        limits = Limits(messages_per_client=1, registrations_per_client=1, burst=1)
        self.serve(Config(limits=limits))
        self.look()
        self.registered().dataReceived(frame(PING) * 100)

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

    def a_private_offer(self) -> None:
        self.serve()
        one, _ = self.pair()
        self.look()
        self.send(one, offer(sdp=PRIVATE))

    def a_pair_that_does_not_connect(self) -> None:
        self.serve()
        one, other = self.pair()
        self.look()
        for _ in range(EXCHANGES):
            self.send(one, offer(sdp=PRIVATE))
            self.reactor.advance(2)
            self.send(other, answer(sdp=PRIVATE))

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


Case = MetricsTestCase

PRIVATE = description(candidate("192.168.1.7"))

Scenario = Callable[[Any], None]


def step(
    act: Callable[[Any, Any], object], first: Callable[[Any], object] = lambda _: None
) -> Scenario:
    """Serve, do something first, and look at the metrics before an act."""

    def happen(case: MetricsTestCase) -> None:
        case.serve()
        found = first(case)
        case.look()
        act(case, found)

    return happen


def sends(data: bytes, first: Callable[[Any], object]) -> Scenario:
    """Have a client send bytes."""
    return step(lambda _, client: client.dataReceived(data), first)


def stops(case: MetricsTestCase, _: object) -> None:
    """Begin to stop."""
    case.relay.factory.state = RelayState.STOPPING


def in_cluster(act: Callable[[Any, Any], object]) -> Scenario:
    """Serve in a cluster without an engine, and do something with its member."""

    def happen(case: MetricsTestCase) -> None:
        case.serve_in_cluster()
        case.look()
        act(case, case.relay.member)

    return happen


def joins(_: object, member: Member) -> None:
    """Reach the engine."""
    member.link.ready = True
    member.link.connects += 1


def forwards(_: object, member: Member) -> None:
    """Pass an offer on to another relay."""
    member.node.forwards["SENT"] = 1


def returns(_: object, member: Member) -> None:
    """Get an offer back."""
    returned = codec.Returned(1, "n2:x", 1, A, B, "gone")
    member.inbox_received(codec.DIRECT + codec.encode(returned))


def asserts(_: object, member: Member) -> None:
    """Assert a registration, for which the engine names another relay."""
    member.claims.asserted += 1
    member.claims.stale += 1


def kept(act: Callable[[Any, Any], object]) -> Scenario:
    """Serve under a supervisor with room for one connection, and do something."""

    def happen(case: MetricsTestCase) -> None:
        survival = case.serve_under_supervisor(1)
        case.look()
        act(case, survival)

    return happen


def registers_in_file(case: MetricsTestCase, _: object, uuid: str = A) -> None:
    """Register a client whose connection has a descriptor."""
    client = case.connect()
    reading, writing = os.pipe()
    case.addCleanup(os.close, reading)
    case.addCleanup(os.close, writing)
    cast(Any, client.transport).fileno = lambda: reading
    case.send(client, registration(uuid))


def registers_two(case: MetricsTestCase, survival: object) -> None:
    """Register one client more than there is room for."""
    registers_in_file(case, survival)
    registers_in_file(case, survival, B)


def resumes(_: object, survival: Survival) -> None:
    """Come back after another process."""
    survival.outcome = Outcome(back=510, lost=2, offers=3)


def has_more_room(_: object, survival: Survival) -> None:
    """Have another capacity."""
    survival.capacity += 1


REGISTERS = step(lambda case, _: case.registered())

CONNECTS = step(lambda case, _: case.connect())

OFFERS = step(lambda case, both: case.send(both[0], offer()), Case.pair)

MOVED: Mapping[str, Scenario] = {
    "build_info": step(lambda *_: None),
    "ready": step(stops, Case.registered),
    "draining": step(lambda case, _: case.relay.drain(), Case.registered),
    "clients": REGISTERS,
    "connections": CONNECTS,
    "users": Case.a_user,
    "unregistered": CONNECTS,
    "deaf_clients": Case.a_silence,
    "unanswered_clients": Case.a_silence,
    "unanswered_offers_max": Case.a_silence,
    "candidate_clients": Case.a_private_offer,
    "private_only_clients": Case.a_private_offer,
    "unconnected_pairs": Case.a_pair_that_does_not_connect,
    "accepted_connections_total": CONNECTS,
    "registrations_total": REGISTERS,
    "departures_total": step(Case.lose, Case.registered),
    "refusals_total": sends(frame(TEXT, b"?"), Case.registered),
    "rejections_total": sends(b"GET / HTTP/1.1\r\n\r\n", Case.accept),
    "failures_total": sends(frame(3), Case.connect),
    "dropped_connections_total": Case.a_call_that_breaks_off,
    "probes_total": step(Case.lose, Case.accept),
    "closes_total": sends(frame(CLOSE, (1000).to_bytes(2, "big")), Case.registered),
    "slowed_total": Case.a_flood,
    "messages_forwarded_total": OFFERS,
    "messages_returned_total": Case.an_offer_in_vain,
    "messages_dropped_total": step(
        lambda case, both: case.send(both[0], answer(A, B)), Case.pair
    ),
    "offers_held_total": Case.an_offer_to_somebody_who_left,
    "offers_outstanding": OFFERS,
    "offers_waiting": Case.an_offer_to_somebody_who_left,
    "received_bytes_total": CONNECTS,
    "sent_bytes_total": CONNECTS,
    "offer_to_answer_seconds": Case.an_answer,
    "offer_wait_seconds": Case.an_offer_to_somebody_who_comes_back,
    "handshake_seconds": CONNECTS,
    "introspection_seconds": Case.a_question,
    "introspections_total": Case.a_question,
    "introspection_cache_total": Case.a_token_that_is_known,
    "introspection_breaker_open": Case.an_outage,
    "event_loop_lag_seconds": step(lambda case, _: case.reactor.advance(0.75)),
    "certificate_expiry_timestamp_seconds": Case.a_new_certificate,
    "log_lines_lost_total": Case.a_lost_line,
    "certificate_renewal_timestamp_seconds": Case.a_new_certificate,
    "reloads_total": step(lambda case, _: case.reload.reload()),
    "survive_kept_connections": kept(registers_in_file),
    "survive_unkept_connections": kept(registers_two),
    "survive_capacity_connections": kept(has_more_room),
    "survive_resumed_connections": kept(resumes),
    "survive_lost_connections": kept(resumes),
    "survive_resumed_offers": kept(resumes),
    "cluster_ready": in_cluster(joins),
    "cluster_lease_age_seconds": in_cluster(joins),
    "cluster_connects_total": in_cluster(joins),
    "cluster_unsynced": in_cluster(lambda case, _: case.registered()),
    "cluster_forwards_total": in_cluster(forwards),
    "cluster_returns_total": in_cluster(returns),
    "cluster_stale_total": in_cluster(asserts),
    "cluster_asserted_total": in_cluster(asserts),
    "cluster_ignored_total": in_cluster(
        lambda _, member: member.inbox_received(b"nonsense")
    ),
    "cluster_engine_seconds": in_cluster(lambda _, member: member.replied(0.25)),
}
"""What moves each metric from where it was just before."""


class EveryMetricTests(MetricsTestCase):
    """The whole table, so that none is forgotten."""

    def samples(self, name: str, found: Mapping[str, float]) -> dict[str, float]:
        """The samples of one metric."""
        sample = re.compile(rf"{PREFIX}{name}(_count|_sum|_bucket)?({{.*)?")
        return {key: found[key] for key in found if sample.fullmatch(key)}

    def test_metrics_in_table_move(self) -> None:
        self.assertEqual(set(MOVED), {metric.name for metric in METRICS})
        for name, happens in MOVED.items():
            self.reactor = type(self.reactor)()
            happens(self)
            before = self.samples(name, self.before)
            after = self.samples(name, self.metrics())
            self.stop()
            self.assertNotEqual(after, {}, name)
            self.assertLessEqual(set(before), set(after), name)
            self.assertEqual(before == after, name == "build_info", name)
        self.flushLoggedErrors(Refused)


class ValueTests(MetricsTestCase):
    """Some of them in detail."""

    def test_metrics_without_a_cluster_have_no_samples_of_one(self) -> None:
        self.serve()
        self.assertEqual([name for name in self.metrics() if "cluster_" in name], [])

    def test_metrics_without_survival_have_no_samples_of_it(self) -> None:
        self.serve()
        self.assertEqual([name for name in self.metrics() if "survive" in name], [])

    def test_lost_supervisor_is_told_and_keeps_nothing(self) -> None:
        survival = self.serve_under_supervisor(1)
        registers_in_file(self, survival)
        self.assertEqual(self.ask("/readyz").body, b"ok\n")
        survival._store.is_lost = True
        self.assertEqual(self.value("survive_kept_connections"), 0)
        self.assertIn(b"supervisor that keeps connections", self.ask("/readyz").body)
        told = self.ask("/status").json["survival"]
        self.assertEqual((told["works"], told["kept"]), (False, 0))

    def test_returns_of_the_cluster_have_all_reasons(self) -> None:
        self.assertEqual(set(RETURN_REASONS), REASONS)

    def test_engine_seconds_have_a_sum_and_a_number(self) -> None:
        self.serve_in_cluster()
        member = self.relay.member
        assert member is not None
        member.replied(0.25)
        member.replied(0.5)
        self.assertEqual(self.value("cluster_engine_seconds_sum"), 0.75)
        self.assertEqual(self.value("cluster_engine_seconds_count"), 2)

    def value(self, sample: str) -> float | None:
        return self.metrics().get(PREFIX + sample)

    def check(self, **values: Mapping[str, float | None]) -> None:
        """Check samples, by metric and labels."""
        found = self.metrics()
        for name, samples in values.items():
            for labels, value in samples.items():
                self.assertEqual(found.get(PREFIX + name + labels), value, labels)

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
        counts = {f"{{cause={cause.value}}}": 1.0 for cause in LeaveReason}
        # The last one in the place of A has not answered a ping, either.
        counts["{cause=idle}"] = 2.0
        self.check(departures_total=counts)

    def test_departure_after_violation_is_a_refusal(self) -> None:
        self.serve()
        self.registered(A).dataReceived(frame(0xB))
        self.check(departures_total={"{cause=refused}": 1, "{cause=shut}": 0})

    def test_closes_name_who_has_begun(self) -> None:
        self.serve()
        for code in (1000, 4999):
            data = code.to_bytes(2, "big")
            self.registered(A).dataReceived(frame(CLOSE, data))
        self.send(self.registered(A), b"?")
        self.check(
            closes_total={
                "{by=client,code=1000}": 1,
                "{by=client,code=other}": 1,
                "{by=relay,code=4000}": 1,
            }
        )

    def test_codes_before_use_are_0(self) -> None:
        self.serve(Config(allowed_origins=("a",)))
        codes = {f"{{code={code}}}": 0 for code in (1013, *range(4000, 4005))}
        self.check(refusals_total={**codes, "{code=1008}": None})
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
        found = self.metrics()
        statuses = {name for name in found if "rejections_total" in name}
        self.assertEqual(sum(found[name] for name in statuses), 6)
        self.assertLessEqual(statuses, set(self.before))

    def test_returned_messages_have_a_reason(self) -> None:
        limits = Limits(registrations_per_client=1000)
        self.serve(Config(limits=limits, offers=AT_ONCE))
        self.reactor.advance(3600)
        one = self.registered(A)
        self.send(one, offer(A, B))
        self.send(one, offer(C, B))
        other = self.registered(B)
        self.send(one, offer(A, B))
        self.lose(other)
        reasons = (BounceReason.UNKNOWN, BounceReason.SOURCE, BounceReason.LEFT)
        counts = {f"{{reason={why.value}}}": 1.0 for why in reasons}
        self.check(messages_returned_total=counts)

    def test_answer_to_offer_has_its_time(self) -> None:
        self.an_answer()
        self.check(
            offer_to_answer_seconds_count={"": 1},
            offer_to_answer_seconds_sum={"": 1},
            offer_to_answer_seconds_bucket={"{le=0.5}": 0, "{le=1.0}": 1},
            messages_forwarded_total={"{kind=offer}": 1, "{kind=answer}": 1},
        )

    def test_answer_to_held_offer_is_timed_without_the_wait(self) -> None:
        self.serve()
        one, other = self.pair()
        self.lose(other)
        self.send(one, offer())
        self.reactor.pump([0.25] * 4)
        other = self.registered(B)
        self.check(offer_wait_seconds_count={"": 1}, offer_wait_seconds_sum={"": 1})
        self.reactor.pump([0.25] * 2)
        self.send(other, answer())
        self.assertEqual(self.value("offer_to_answer_seconds_sum"), 0.5)

    def test_handshake_in_pieces_has_its_time(self) -> None:
        self.serve()
        client = self.accept()
        self.reactor.advance(0.5)
        self.assertEqual(self.value("handshake_seconds_count"), 0)
        head, end = upgrade()[:40], upgrade()[40:]
        client.dataReceived(head)
        client.dataReceived(end)
        self.assertEqual(self.value("handshake_seconds_sum"), 0.5)

    def test_handshake_that_autobahn_reads_is_counted(self) -> None:
        self.serve()
        client = self.accept()
        self.reactor.advance(0.5)
        request = upgrade().replace(b"Connection: ", b"Connection: keep-alive, ")
        self.assertIsNone(plain_upgrade(request))
        client.dataReceived(request)
        sent = client.transport.value()
        self.assertTrue(sent.startswith(b"HTTP/1.1 101 "))
        self.check(
            handshake_seconds_sum={"": 0.5},
            received_bytes_total={"": len(request)},
            sent_bytes_total={"": len(sent)},
        )

    def test_bytes_of_both_directions_are_counted(self) -> None:
        self.serve()
        client = self.registered(A)
        self.look()
        sent = len(client.transport.value())
        data = frame(TEXT, registration(A))
        client.dataReceived(data)
        after = self.metrics()
        for name, count in (
            ("received_bytes_total", len(data)),
            ("sent_bytes_total", len(client.transport.value()) - sent),
        ):
            self.assertEqual(after[PREFIX + name] - self.before[PREFIX + name], count)

    def test_introspections_have_an_outcome(self) -> None:
        self.a_token_that_is_known()
        self.check(
            introspections_total={"{outcome=active}": 1},
            introspection_seconds_count={"": 1},
            introspection_seconds_sum={"": 0.25},
            introspection_cache_total={"{result=miss}": 1, "{result=hit}": 1},
            introspection_breaker_open={"": 0},
        )

    def test_introspections_in_outage_are_unreachable(self) -> None:
        self.an_outage()
        self.check(
            introspection_breaker_open={"": 1},
            introspections_total={"{outcome=active}": 0},
            ready={"": 0},
        )
        failed = self.value("introspections_total{outcome=unreachable}")
        self.assertGreaterEqual(failed or 0, 5)

    def test_introspections_without_globus_are_absent(self) -> None:
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
        outcomes = ("unchanged", "changed", "refused")
        self.check(reloads_total={f"{{outcome={each}}}": 1 for each in outcomes})

    def test_labels_are_no_choice_of_clients(self) -> None:
        self.serve()
        self.send(self.registered(A, "evil-name"), b"evil-text")
        self.connect("Origin: http://evil.example").dataReceived(
            frame(CLOSE, (4321).to_bytes(2, "big") + b"evil-reason")
        )
        text = self.ask("/metrics").body.decode()
        for word in ("evil", A, "4321", "192.0.2.1"):
            self.assertNotIn(word, text)

    def test_process_is_measured_too(self) -> None:
        self.serve()
        found = self.metrics()
        self.assertGreater(found["process_resident_memory_bytes"], 0)
        self.assertTrue([name for name in found if name.startswith("python_info")])

    def test_format_is_that_of_the_accept_header(self) -> None:
        self.serve()
        for accept, expected in (
            ("", "text/plain"),
            ("application/openmetrics-text", "application/openmetrics-text"),
            ("text/plain; version=evil", "text/plain"),
            ("application/openmetrics-text; version=evil", ""),
        ):
            answer = self.ask("/metrics", Accept=accept)
            self.assertEqual(answer.status, 200)
            kind = answer.headers["content-type"]
            self.assertTrue(kind.startswith(expected), kind)
            if accept == expected:
                families = {one.name for one in openmetrics(answer.body.decode())}
                self.assertIn("proxyrelay_registrations", families)
