"""Introspection, while Globus answers and while it fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.python.failure import Failure
from twisted.web.client import ResponseNeverReceived

from proxyrelay.auth.circuit_breaker import (
    FAILURE_THRESHOLD,
    MAX_PAUSE_SECONDS,
    MIN_PAUSE_SECONDS,
)
from proxyrelay.auth.fair_queue import BURST_TOKENS
from proxyrelay.auth.globus_error import Late
from proxyrelay.auth.http import MAX_CONNECTIONS
from proxyrelay.auth.introspector import FIRST_ATTEMPT_SHARE, LOG_INTERVAL_SECONDS
from proxyrelay.auth.policy import Introspection
from proxyrelay.errors import TryAgainLater
from tests.auth.globus_case import TIMEOUT, GlobusTestCase
from tests.support.globus import JO, JSON, SECRET, TOKEN, Asked, active

AWAY = "192.0.2.7"
"""A source with invalid tokens."""


class AttemptTests(GlobusTestCase):
    """Attempts and their times."""

    def test_attempt_answered_is_the_only_one(self) -> None:
        asked = self.ask()
        self.assertEqual([each.token for each in self.agent.requests], [TOKEN])
        self.agent.last.reply(active())
        self.assertEqual(self.successResultOf(asked).sub, JO)
        self.nothing_is_left()
        self.assertEqual(self.captured.lines(), [])

    def test_attempts_unreachable_follow_at_growing_pauses(self) -> None:
        asked = self.ask()
        self.agent.last.fail(Refused())
        for delay in (0.25, 0.5, 1.0, 2.0):
            self.agent.last.fail(Refused())
            self.assertEqual(self.agent.pending, [])
            self.clock.advance(delay - 0.01)
            self.assertEqual(self.agent.pending, [])
            self.clock.advance(0.01)
            self.assertEqual(len(self.agent.pending), 1)
        self.assertEqual(len(self.agent.requests), 6)
        self.agent.last.reply(active())
        self.assertEqual(self.successResultOf(asked).sub, JO)
        self.nothing_is_left()

    def test_attempt_final_error_is_not_repeated(self) -> None:
        for code, value in ((400, {}), (401, {"error": "invalid_client"}), (302, {})):
            asked = self.ask()
            self.agent.last.reply(value, code)
            self.assertIn(str(code), self.failed(asked))
            self.nothing_is_left()

    def test_attempt_after_retry_after_waits_that_long(self) -> None:
        asked = self.ask()
        self.agent.last.reply({}, 503, JSON | {"Retry-After": "3"})
        self.clock.advance(2.9)
        self.assertEqual(len(self.agent.requests), 1)
        self.clock.advance(0.1)
        self.agent.last.reply(active())
        self.successResultOf(asked)
        self.nothing_is_left()

    def test_attempt_too_long_retry_after_fails_at_once(self) -> None:
        for pause in ("7", "120", "1" * 30):
            asked = self.ask()
            self.agent.last.reply({}, 429, JSON | {"Retry-After": pause})
            self.assertIn("429", self.failed(asked))
            self.nothing_is_left()

    def test_attempts_together_end_at_the_timeout(self) -> None:
        asked = self.ask()
        self.clock.advance(2)
        self.agent.last.reply({}, 503)
        self.clock.advance(0.25)
        self.assertEqual(len(self.agent.pending), 1)
        self.clock.advance(4.7)
        self.assertNoResult(asked)
        self.clock.advance(0.05)
        self.failed(asked)
        self.nothing_is_left()

    def test_attempt_on_forgotten_connection_costs_its_share(self) -> None:
        for number in range(2 * FAILURE_THRESHOLD):
            asked = self.ask(f"forgotten{number}")
            self.clock.advance(FIRST_ATTEMPT_SHARE * TIMEOUT)
            self.assertEqual(len(self.agent.requests), 2 * number + 2)
            self.agent.last.reply(active())
            self.successResultOf(asked)
            self.nothing_is_left()
        self.assertEqual(self.captured.lines(), [])

    def test_attempts_on_reset_connections_cost_no_time(self) -> None:
        asked = self.ask_many(2 * FAILURE_THRESHOLD)
        for each in self.agent.pending:
            each.fail(ResponseNeverReceived([Failure(ConnectionLost())]))
        for each in self.agent.pending:
            each.reply(active())
        for one in asked:
            self.successResultOf(one)
        self.assertEqual(self.captured.lines(), [])
        self.nothing_is_left()

    def test_introspection_given_up_leaves_nothing(self) -> None:
        stages: tuple[Callable[[Asked], Any], ...] = (
            lambda _: None,
            lambda asked: asked.respond(),
            lambda asked: asked.respond().feed(b"{"),
            lambda asked: asked.fail(Refused()),
        )
        for stage in stages:
            asked = self.ask()
            stage(self.agent.last)
            self.give_up(asked)
            self.nothing_is_left()
            self.clock.advance(TIMEOUT)
            self.nothing_is_left()
        # No grant is lost.
        self.ask_many(MAX_CONNECTIONS)
        self.assertEqual(len(self.agent.pending), MAX_CONNECTIONS)
        self.give_up(self.ask())
        for each in self.agent.pending:
            each.reply(active())
        self.nothing_is_left()


class QueueTests(GlobusTestCase):
    """Waiting for a grant, and invalid tokens of one source."""

    def test_queue_over_the_limit_grants_in_order(self) -> None:
        asked = self.ask_many(MAX_CONNECTIONS + 5)
        self.assertEqual(len(self.agent.pending), MAX_CONNECTIONS)
        self.give_up(asked[MAX_CONNECTIONS + 1])
        while self.agent.pending:
            self.agent.pending[0].reply(active())
            self.assertLessEqual(len(self.agent.pending), MAX_CONNECTIONS)
        tokens = [each.token for each in self.agent.requests]
        numbers = [n for n in range(MAX_CONNECTIONS + 5) if n != MAX_CONNECTIONS + 1]
        self.assertEqual(tokens, list(map(str, numbers)))
        self.nothing_is_left()

    def test_queue_wait_counts_toward_the_timeout(self) -> None:
        others = self.ask_many(MAX_CONNECTIONS)
        asked = self.ask()
        self.clock.advance(2)
        self.assertNotEqual(self.agent.last.token, TOKEN)
        self.agent.requests[0].reply(active())
        self.successResultOf(others[0])
        # The grant comes with 5 s left.
        self.assertEqual(self.agent.last.token, TOKEN)
        for other in others[1:]:
            self.give_up(other)
        self.clock.advance(4)
        self.clock.advance(0.875)
        self.assertNoResult(asked)
        self.clock.advance(0.125)
        self.failed(asked)
        self.nothing_is_left()

    def test_queue_without_grant_fails_at_the_timeout(self) -> None:
        self.ask_many(MAX_CONNECTIONS)
        asked = self.ask()
        # Delay the timeouts of the earlier requests.
        for call in self.clock.getDelayedCalls()[:-1]:
            call.delay(TIMEOUT)
        self.clock.advance(TIMEOUT)
        self.assertIn("too many questions", self.failed(asked))
        self.assertEqual(len(self.agent.requests), MAX_CONNECTIONS)
        for each in self.agent.pending:
            each.reply(active())
        self.nothing_is_left()
        self.assertIn("too many questions", self.errors()[0])

    def exhaust(self) -> None:
        """Use up the invalid tokens of the source."""
        for number in range(BURST_TOKENS):
            asked = self.ask(str(number), AWAY)
            self.agent.last.reply({"active": False})
            self.successResultOf(asked)

    def test_suspect_source_unknown_tokens_go_one_by_one(self) -> None:
        self.exhaust()
        asked = self.ask_many(50, AWAY)
        (suspect,) = self.agent.pending
        self.works_beside(self.ask("well"))
        self.works_beside(self.ask("known", AWAY, was_active=True))
        self.assertEqual(self.agent.pending, [suspect])
        while self.agent.pending:
            (one,) = self.agent.pending
            one.reply(active())
        for each in asked:
            self.successResultOf(each)
        self.nothing_is_left()

    def works_beside(self, asked: Deferred[Introspection]) -> None:
        self.agent.last.reply(active())
        self.successResultOf(asked)

    def test_suspect_source_long_wait_gets_try_again_later(self) -> None:
        self.exhaust()
        asked = self.ask_many(200, AWAY)
        for _ in range(6):
            self.clock.advance(1)
            self.agent.last.reply({"active": False})
        self.clock.advance(1)
        for one in asked[:6]:
            self.assertFalse(self.successResultOf(one).active)
        self.failed(asked[6])
        for one in asked[7:]:
            self.failureResultOf(one, TryAgainLater)
        self.nothing_is_left()

    def test_suspect_source_after_a_while_is_trusted(self) -> None:
        self.exhaust()
        self.clock.advance(10)
        asked = self.ask_many(5, AWAY)
        self.assertEqual(len(self.agent.pending), 5)
        for each in self.agent.pending:
            each.reply(active())
        for one in asked:
            self.successResultOf(one)

    def test_suspect_source_waiting_tokens_go_one_by_one(self) -> None:
        asked = self.ask_many(600, AWAY)
        most = 0
        while self.agent.pending:
            if len(self.agent.requests) > 2 * (BURST_TOKENS + MAX_CONNECTIONS):
                most = max(most, len(self.agent.pending))
            for each in self.agent.pending:
                each.reply({"active": False})
        self.assertEqual(most, 1)
        for one in asked:
            self.successResultOf(one)
        self.nothing_is_left()

    def test_source_of_valid_tokens_is_never_suspect(self) -> None:
        for number in range(3 * BURST_TOKENS):
            self.works_beside(self.ask(str(number)))


class OutageTests(GlobusTestCase):
    """The circuit breaker while Globus fails."""

    def open_breaker(self) -> None:
        for number in range(FAILURE_THRESHOLD):
            asked = self.ask(f"opening{number}")
            self.agent.last.reply({}, 401)
            self.failed(asked)

    def probe(self) -> Deferred[Introspection]:
        """Open the breaker, and ask at the end of its pause."""
        self.open_breaker()
        self.clock.advance(MIN_PAUSE_SECONDS)
        return self.ask()

    def is_blocked(self) -> None:
        self.assertEqual(
            self.failed(self.ask("other")), "does not answer at the moment"
        )

    def test_breaker_open_fails_without_request(self) -> None:
        self.open_breaker()
        for _ in range(100):
            self.is_blocked()
        self.assertEqual(len(self.agent.requests), FAILURE_THRESHOLD)
        self.nothing_is_left()

    def test_breaker_silence_opens_it(self) -> None:
        asked = self.ask_many(FAILURE_THRESHOLD)
        self.clock.advance(FIRST_ATTEMPT_SHARE * TIMEOUT)
        self.clock.advance(TIMEOUT)
        for one in asked:
            self.assertIn("did not answer within", self.failed(one))
        self.is_blocked()
        self.assertIn("did not answer", self.errors()[0])
        self.nothing_is_left()

    def test_breaker_errors_about_requests_keep_it_closed(self) -> None:
        for code, value in ((400, {}), (403, {}), (404, {}), (200, active(sub=None))):
            for number in range(2 * FAILURE_THRESHOLD):
                asked = self.ask(f"strange{number}")
                self.agent.last.reply(value, code)
                self.failed(asked)
        self.works()

    def test_breaker_departures_keep_it_closed(self) -> None:
        for _ in range(3 * FAILURE_THRESHOLD):
            self.give_up(self.ask())
        self.works()
        self.assertEqual(self.captured.lines(), [])

    def test_breaker_attempts_without_time_are_not_counted(self) -> None:
        for _ in range(3 * FAILURE_THRESHOLD):
            asked = self.ask()
            self.clock.advance(2)
            self.agent.last.reply({}, 503)
            self.clock.advance(0.25)
            self.clock.advance(4)
            self.agent.last.reply({}, 503)
            self.clock.advance(0.5)
            self.clock.advance(0.25)
            self.assertIn("did not answer", self.failed(asked))
            self.assertEqual(self.introspector._breaker._failures, 2)
            self.introspector._breaker.succeeded()

    def test_probe_answered_closes_the_breaker(self) -> None:
        probe = self.probe()
        for _ in range(10):
            self.is_blocked()
        self.assertEqual(len(self.agent.pending), 1)
        self.agent.last.reply(active())
        self.successResultOf(probe)
        self.works()

    def test_probe_silent_is_followed_by_a_pause(self) -> None:
        probe = self.probe()
        self.clock.advance(FIRST_ATTEMPT_SHARE * TIMEOUT)
        self.is_blocked()
        self.clock.advance(TIMEOUT)
        self.failed(probe)
        self.is_blocked()
        self.clock.advance(MIN_PAUSE_SECONDS)
        self.works()

    def test_probe_given_up_makes_way(self) -> None:
        self.give_up(self.probe())
        self.nothing_is_left()
        self.works()

    def test_probe_failed_is_not_repeated(self) -> None:
        probe = self.probe()
        self.agent.last.fail(Refused())
        self.agent.last.fail(Refused())
        self.clock.advance(0.25)
        self.failed(probe)
        self.nothing_is_left()

    def test_outage_over_works_again(self) -> None:
        for _ in range(100):
            self.clock.advance(MAX_PAUSE_SECONDS / 3)
            asked = self.ask()
            for each in self.agent.pending:
                each.reply({}, 500)
            self.clock.advance(TIMEOUT)
            self.failed(asked)
        self.clock.advance(MAX_PAUSE_SECONDS)
        self.works()

    def test_outage_thousands_of_waiters_fail_at_once(self) -> None:
        asked = self.ask_many(1500)
        for _ in range(2):
            for each in self.agent.pending:
                each.fail(Refused())
        self.clock.advance(0.25)
        for one in asked:
            self.assertIn("at the moment", self.failed(one))
        self.nothing_is_left()
        self.clock.advance(MAX_PAUSE_SECONDS)
        self.works()
        # No grant is lost.
        self.ask_many(MAX_CONNECTIONS)
        self.assertEqual(len(self.agent.pending), MAX_CONNECTIONS)
        for each in self.agent.pending:
            each.reply(active())


class LogTests(GlobusTestCase):
    """Log lines at the beginning, each change and the end of trouble."""

    def fail_with(self, value: object, code: int = 400) -> None:
        asked = self.ask()
        self.agent.last.reply(value, code)
        self.failed(asked)
        self.introspector._breaker._open_until = 0

    def test_trouble_repeated_is_logged_once(self) -> None:
        for _ in range(20):
            self.fail_with({"error": "invalid_client"}, 401)
            self.clock.advance(LOG_INTERVAL_SECONDS)
        (line,) = self.captured.lines()
        self.assertIn("answered 401 (invalid_client)", line)
        self.assertEqual(len(self.errors()), 1)

    def test_trouble_changed_or_over_is_logged(self) -> None:
        for code in (400, 404, 404, None, None, 404):
            if code is None:
                self.works()
            else:
                self.clock.advance(LOG_INTERVAL_SECONDS)
                self.fail_with({}, code)
        words = ("400", "404", "again", "404")
        for line, word in zip(self.captured.lines(), words, strict=True):
            self.assertIn(word, line)

    def test_trouble_flapping_is_logged_at_intervals(self) -> None:
        for _ in range(100):
            self.fail_with({}, 400)
            self.works()
            self.clock.advance(LOG_INTERVAL_SECONDS / 10)
        self.assertLess(len(self.captured.lines()), 25)
        self.assertIn("answers again", self.captured.lines()[-1])

    def test_trouble_with_another_number_is_no_change(self) -> None:
        for number in range(10):
            self.fail_with({"errors": [{"code": "E", "detail": f"request {number}"}]})
            self.clock.advance(LOG_INTERVAL_SECONDS)
        self.assertEqual(len(self.captured.lines()), 1)

    def test_trouble_late_by_another_time_is_no_change(self) -> None:
        for wait in (0, 1, 2):
            others = self.ask_many(MAX_CONNECTIONS)
            asked = self.ask()
            self.clock.advance(wait)
            for each in self.agent.pending[:MAX_CONNECTIONS]:
                each.reply(active())
            for other in others:
                self.successResultOf(other)
            # The answers have ended the trouble.
            self.introspector._trouble = Late if wait else None
            self.clock.advance(FIRST_ATTEMPT_SHARE * TIMEOUT)
            self.clock.advance(TIMEOUT)
            self.failed(asked)
        late = [line for line in self.errors() if "did not answer" in line]
        self.assertEqual(len(late), 1)

    def test_trouble_text_from_globus_is_escaped(self) -> None:
        self.fail_with({"error": "a\n2026-01-01 INFO forged \x1b[31m{log_source}"})
        (line,) = self.captured.lines()
        self.assertTrue(line.isprintable())
        self.assertIn("forged", line)
        self.assertIn("{log_source}", line)

    def test_trouble_text_with_secrets_is_hidden(self) -> None:
        self.fail_with({"error": f"bad token {TOKEN}, bad secret {SECRET}"})
        (line,) = self.captured.lines()
        self.assertIn("bad token (hidden), bad secret (hidden)", line)
