"""Introspection, while Globus answers and while it fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectionLost,
    ConnectionRefusedError,  # noqa: A004 - Twisted's
)
from twisted.python.failure import Failure
from twisted.web.client import ResponseNeverReceived

from proxyrelay.auth.circuit_breaker import (
    FAILURE_THRESHOLD,
    MAX_PAUSE_SECONDS,
    MIN_PAUSE_SECONDS,
)
from proxyrelay.auth.globus_error import GlobusError, Late
from proxyrelay.auth.http import MAX_CONNECTIONS
from proxyrelay.auth.introspector import (
    FIRST_ATTEMPT_SHARE,
    LOG_INTERVAL_SECONDS,
)
from proxyrelay.auth.invalid_tokens import BURST_TOKENS
from proxyrelay.auth.policy import Introspection
from proxyrelay.errors import TryAgainLater
from tests.auth.globus_case import TIMEOUT, GlobusTestCase
from tests.support.globus import (
    JO,
    JSON,
    SECRET,
    TOKEN,
    Asked,
    active,
)


class IntrospectorTests(GlobusTestCase):
    """Retries, fair queueing and the circuit breaker."""

    def failed(self, asked: Deferred[Introspection]) -> str:
        return str(self.failureResultOf(asked, GlobusError).value)

    def open_breaker(self) -> None:
        for number in range(FAILURE_THRESHOLD):
            asked = self.ask(f"opening{number}")
            self.agent.last.reply({}, 401)
            self.failed(asked)

    def test_a_question_that_globus_dislikes_says_nothing_of_globus(self) -> None:
        for code, value in ((400, {}), (403, {}), (404, {}), (200, active(sub=None))):
            for number in range(2 * FAILURE_THRESHOLD):
                asked = self.ask(f"strange{number}")
                self.agent.last.reply(value, code)
                self.failed(asked)
        self.works()

    def time_out(self) -> None:
        self.clock.advance(FIRST_ATTEMPT_SHARE * TIMEOUT)
        self.clock.advance(TIMEOUT)

    def works(self) -> None:
        """Introspect one token at once."""
        asked = self.ask("well")
        self.agent.last.reply(active())
        self.assertEqual(self.successResultOf(asked).sub, JO)
        self.nothing_is_left()

    def test_asks_once_if_it_is_answered(self) -> None:
        asked = self.ask()
        self.assertEqual([each.token for each in self.agent.requests], [TOKEN])
        self.agent.last.reply(active())
        self.assertEqual(self.successResultOf(asked).sub, JO)
        self.nothing_is_left()
        self.assertEqual(self.captured.lines(), [])

    def test_tries_again_while_there_is_time(self) -> None:
        asked = self.ask()
        self.agent.last.fail(ConnectionRefusedError())
        for delay in (0.25, 0.5, 1.0, 2.0):
            self.agent.last.fail(ConnectionRefusedError())
            self.assertEqual(self.agent.pending, [])
            self.clock.advance(delay - 0.01)
            self.assertEqual(self.agent.pending, [])
            self.clock.advance(0.01)
            self.assertEqual(len(self.agent.pending), 1)
        self.assertEqual(len(self.agent.requests), 6)
        self.agent.last.reply(active())
        self.assertEqual(self.successResultOf(asked).sub, JO)
        self.nothing_is_left()

    def test_does_not_try_again_in_vain(self) -> None:
        for code, value in ((400, {}), (401, {"error": "invalid_client"}), (302, {})):
            asked = self.ask()
            self.agent.last.reply(value, code)
            self.assertIn(str(code), self.failed(asked))
            self.nothing_is_left()

    def test_waits_for_as_long_as_globus_asks(self) -> None:
        asked = self.ask()
        self.agent.last.reply({}, 503, JSON | {"Retry-After": "3"})
        self.clock.advance(2.9)
        self.assertEqual(len(self.agent.requests), 1)
        self.clock.advance(0.1)
        self.agent.last.reply(active())
        self.successResultOf(asked)
        self.nothing_is_left()

    def test_does_not_wait_beyond_its_time(self) -> None:
        for pause in ("7", "120", "1" * 30):
            asked = self.ask()
            self.agent.last.reply({}, 429, JSON | {"Retry-After": pause})
            self.assertIn("429", self.failed(asked))
            self.nothing_is_left()

    def test_the_time_is_for_all_attempts(self) -> None:
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

    def test_the_time_is_for_the_turn_too(self) -> None:
        others = [self.ask(f"other{number}") for number in range(MAX_CONNECTIONS)]
        asked = self.ask()
        self.clock.advance(2)
        self.assertNotEqual(self.agent.last.token, TOKEN)
        self.agent.requests[0].reply(active())
        self.successResultOf(others[0])
        # The grant comes with 5 s left.
        self.assertEqual(self.agent.last.token, TOKEN)
        for other in others[1:]:
            other.cancel()
            self.failureResultOf(other, CancelledError)
        self.clock.advance(4)
        self.clock.advance(0.875)
        self.assertNoResult(asked)
        self.clock.advance(0.125)
        self.failed(asked)
        self.nothing_is_left()

    def test_a_turn_that_does_not_come(self) -> None:
        for number in range(MAX_CONNECTIONS):
            self.ask(f"other{number}")
        asked = self.ask()
        # Delay the timeouts of the earlier requests.
        waiting = list(self.clock.getDelayedCalls())
        for call in waiting[:-1]:
            call.delay(TIMEOUT)
        self.clock.advance(TIMEOUT)
        self.assertIn("too many questions", self.failed(asked))
        self.assertEqual(len(self.agent.requests), MAX_CONNECTIONS)
        for each in self.agent.pending:
            each.reply(active())
        self.nothing_is_left()
        self.assertIn("too many questions", self.errors()[0])

    def test_takes_turns_in_order(self) -> None:
        asked = [self.ask(str(number)) for number in range(MAX_CONNECTIONS + 5)]
        self.assertEqual(len(self.agent.pending), MAX_CONNECTIONS)
        asked[MAX_CONNECTIONS + 1].cancel()
        self.failureResultOf(asked[MAX_CONNECTIONS + 1], CancelledError)
        while self.agent.pending:
            self.agent.pending[0].reply(active())
            self.assertLessEqual(len(self.agent.pending), MAX_CONNECTIONS)
        tokens = [each.token for each in self.agent.requests]
        numbers = [n for n in range(MAX_CONNECTIONS + 5) if n != MAX_CONNECTIONS + 1]
        self.assertEqual(tokens, list(map(str, numbers)))
        self.nothing_is_left()

    def test_a_connection_that_the_network_has_forgotten(self) -> None:
        """It costs a part of the time; the breaker stays closed."""
        for number in range(2 * FAILURE_THRESHOLD):
            asked = self.ask(f"forgotten{number}")
            self.clock.advance(FIRST_ATTEMPT_SHARE * TIMEOUT)
            self.assertEqual(len(self.agent.requests), 2 * number + 2)
            self.agent.last.reply(active())
            self.successResultOf(asked)
            self.nothing_is_left()
        self.assertEqual(self.captured.lines(), [])

    def test_connections_that_are_reset(self) -> None:
        """They cost no time; the breaker stays closed."""
        asked = [self.ask(str(number)) for number in range(2 * FAILURE_THRESHOLD)]
        for each in self.agent.pending:
            each.fail(ResponseNeverReceived([Failure(ConnectionLost())]))
        for each in self.agent.pending:
            each.reply(active())
        for one in asked:
            self.successResultOf(one)
        self.assertEqual(self.captured.lines(), [])
        self.nothing_is_left()

    def test_globus_is_silent(self) -> None:
        asked = [self.ask(str(number)) for number in range(FAILURE_THRESHOLD)]
        self.time_out()
        for one in asked:
            self.assertIn("did not answer within", self.failed(one))
        self.assertIn("at the moment", self.failed(self.ask()))
        self.assertIn("did not answer", self.errors()[0])
        self.nothing_is_left()

    def test_a_silent_probe_is_followed_by_a_pause(self) -> None:
        self.open_breaker()
        self.clock.advance(MIN_PAUSE_SECONDS)
        probe = self.ask()
        self.clock.advance(FIRST_ATTEMPT_SHARE * TIMEOUT)
        self.assertIn("at the moment", self.failed(self.ask("other")))
        self.clock.advance(TIMEOUT)
        self.failed(probe)
        self.assertIn("at the moment", self.failed(self.ask("other")))
        self.clock.advance(MIN_PAUSE_SECONDS)
        self.works()

    def nobodys(self, source: str, token: str) -> Deferred[Introspection]:
        asked = self.ask(token, source)
        if self.agent.pending:
            self.agent.last.reply({"active": False})
        return asked

    def exhaust(self, source: str) -> None:
        """Use up the invalid tokens of a source."""
        for number in range(BURST_TOKENS):
            self.successResultOf(self.nobodys(source, str(number)))

    def test_one_at_a_time_from_where_many_were_nobodys(self) -> None:
        self.exhaust("192.0.2.7")
        asked = [self.ask(str(n), "192.0.2.7") for n in range(50)]
        (suspect,) = self.agent.pending
        another = self.ask("well")
        self.agent.last.reply(active())
        self.successResultOf(another)
        known = self.introspector.introspect("known", "192.0.2.7", was_active=True)
        self.assertEqual(self.agent.last.token, "known")
        self.agent.last.reply(active())
        self.successResultOf(known)
        self.assertEqual(self.agent.pending, [suspect])
        while self.agent.pending:
            (one,) = self.agent.pending
            one.reply(active())
        for each in asked:
            self.successResultOf(each)
        self.nothing_is_left()

    def test_who_waits_too_long_there_is_asked_to_come_back(self) -> None:
        self.exhaust("192.0.2.7")
        asked = [self.ask(str(n), "192.0.2.7") for n in range(200)]
        for _ in range(6):
            self.clock.advance(1)
            self.agent.last.reply({"active": False})
        self.clock.advance(1)
        for one in asked[:6]:
            self.assertFalse(self.successResultOf(one).active)
        self.failureResultOf(asked[6], GlobusError)
        for one in asked[7:]:
            self.failureResultOf(one, TryAgainLater)
        self.nothing_is_left()

    def test_are_trusted_again(self) -> None:
        self.exhaust("192.0.2.7")
        self.clock.advance(10)
        asked = [self.ask(str(n), "192.0.2.7") for n in range(5)]
        self.assertEqual(len(self.agent.pending), 5)
        for each in self.agent.pending:
            each.reply(active())
        for one in asked:
            self.successResultOf(one)

    def test_those_in_line_are_not_spared(self) -> None:
        asked = [
            self.introspector.introspect(str(number), "192.0.2.7")
            for number in range(2000)
        ]
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

    def test_good_tokens_have_none(self) -> None:
        for number in range(3 * BURST_TOKENS):
            asked = self.ask(str(number))
            self.agent.last.reply(active())
            self.successResultOf(asked)

    def test_stops_asking_while_globus_does_not_answer(self) -> None:
        self.open_breaker()
        for _ in range(100):
            self.assertEqual(self.failed(self.ask()), "does not answer at the moment")
        self.assertEqual(len(self.agent.requests), FAILURE_THRESHOLD)
        self.nothing_is_left()

    def test_tries_again_by_one_question(self) -> None:
        self.open_breaker()
        self.clock.advance(MIN_PAUSE_SECONDS)
        probe = self.ask()
        for _ in range(10):
            self.failed(self.ask())
        self.assertEqual(len(self.agent.pending), 1)
        self.agent.last.reply(active())
        self.successResultOf(probe)
        self.works()

    def test_a_probe_that_is_given_up_makes_way(self) -> None:
        self.open_breaker()
        self.clock.advance(MIN_PAUSE_SECONDS)
        probe = self.ask()
        probe.cancel()
        self.failureResultOf(probe, CancelledError)
        self.nothing_is_left()
        self.works()

    def test_a_failed_probe_is_not_repeated(self) -> None:
        self.open_breaker()
        self.clock.advance(MIN_PAUSE_SECONDS)
        probe = self.ask()
        self.agent.last.fail(ConnectionRefusedError())
        self.agent.last.fail(ConnectionRefusedError())
        self.clock.advance(0.25)
        self.failed(probe)
        self.nothing_is_left()

    def test_an_outage_ends_by_itself(self) -> None:
        for _ in range(100):
            self.clock.advance(MAX_PAUSE_SECONDS / 3)
            asked = self.ask()
            for each in self.agent.pending:
                each.reply({}, 500)
            self.clock.advance(TIMEOUT)
            self.failed(asked)
        self.clock.advance(MAX_PAUSE_SECONDS)
        self.works()

    def test_thousands_in_line_when_it_stops(self) -> None:
        """All waiters fail at once; no grant is lost."""
        asked = [self.ask(str(number)) for number in range(3000)]
        for _ in range(2):
            for each in self.agent.pending:
                each.fail(ConnectionRefusedError())
        self.clock.advance(0.25)
        for one in asked:
            self.assertIn("at the moment", self.failed(one))
        self.nothing_is_left()
        self.clock.advance(MAX_PAUSE_SECONDS)
        self.works()
        for number in range(MAX_CONNECTIONS):
            self.ask(str(number))
        self.assertEqual(len(self.agent.pending), MAX_CONNECTIONS)
        for each in self.agent.pending:
            each.reply(active())

    def test_leaves_nothing_whenever_it_is_given_up(self) -> None:
        def waits_for_its_turn() -> None:
            for number in range(MAX_CONNECTIONS):
                self.ask(str(number))

        def waits_for_another_attempt(asked: Asked) -> None:
            asked.fail(ConnectionRefusedError())

        stages: tuple[Callable[[Asked], Any], ...] = (
            lambda _: None,
            lambda asked: asked.respond(),
            lambda asked: asked.respond().feed(b"{"),
            waits_for_another_attempt,
        )
        for stage in stages:
            asked = self.ask()
            stage(self.agent.last)
            asked.cancel()
            self.failureResultOf(asked, CancelledError)
            self.nothing_is_left()
            self.clock.advance(TIMEOUT)
            self.nothing_is_left()
        # No grant is lost.
        waits_for_its_turn()
        self.assertEqual(len(self.agent.pending), MAX_CONNECTIONS)
        asked = self.ask()
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        for each in self.agent.pending:
            each.reply(active())
        self.nothing_is_left()

    def test_departures_are_no_failures(self) -> None:
        for _ in range(3 * FAILURE_THRESHOLD):
            asked = self.ask()
            asked.cancel()
            self.failureResultOf(asked, CancelledError)
        self.works()
        self.assertEqual(self.captured.lines(), [])

    def test_an_attempt_without_time_is_no_failure(self) -> None:
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


class LogTests(GlobusTestCase):
    """Log lines at the beginning, each change and the end of trouble."""

    def fail_with(self, value: object, code: int = 400) -> None:
        asked = self.ask()
        self.agent.last.reply(value, code)
        self.failureResultOf(asked, GlobusError)
        self.introspector._breaker._open_until = 0

    def test_once(self) -> None:
        for _ in range(20):
            self.fail_with({"error": "invalid_client"}, 401)
            self.clock.advance(LOG_INTERVAL_SECONDS)
        (line,) = self.captured.lines()
        self.assertIn("answered 401 (invalid_client)", line)
        self.assertEqual(len(self.errors()), 1)

    def test_when_it_changes_and_when_it_ends(self) -> None:
        self.fail_with({}, 400)
        self.clock.advance(LOG_INTERVAL_SECONDS)
        self.fail_with({}, 404)
        self.clock.advance(LOG_INTERVAL_SECONDS)
        self.fail_with({}, 404)
        for _ in range(2):
            self.answered()
        self.clock.advance(LOG_INTERVAL_SECONDS)
        self.fail_with({}, 404)
        lines = self.captured.lines()
        self.assertEqual(
            [
                word
                for line in lines
                for word in ("400", "404", "again")
                if word in line
            ],
            ["400", "404", "again", "404"],
        )

    def answered(self) -> None:
        asked = self.ask()
        self.agent.last.reply(active())
        self.successResultOf(asked)

    def test_not_at_every_change(self) -> None:
        for _ in range(100):
            self.fail_with({}, 400)
            self.answered()
            self.clock.advance(LOG_INTERVAL_SECONDS / 10)
        self.assertLess(len(self.captured.lines()), 25)
        self.assertIn("answers again", self.captured.lines()[-1])

    def test_numbers_in_globus_words_are_no_change(self) -> None:
        for number in range(10):
            self.fail_with({"errors": [{"code": "E", "detail": f"request {number}"}]})
            self.clock.advance(LOG_INTERVAL_SECONDS)
        self.assertEqual(len(self.captured.lines()), 1)

    def test_how_long_globus_was_late_is_no_change(self) -> None:
        for wait in (0, 1, 2):
            others = [
                self.introspector.introspect(str(n), "192.0.2.1")
                for n in range(MAX_CONNECTIONS)
            ]
            asked = self.ask()
            self.clock.advance(wait)
            for each in self.agent.pending[:MAX_CONNECTIONS]:
                each.reply(active())
            for other in others:
                self.successResultOf(other)
            self.introspector._trouble = Late if wait else None
            self.clock.advance(FIRST_ATTEMPT_SHARE * TIMEOUT)
            self.clock.advance(TIMEOUT)
            self.failureResultOf(asked, GlobusError)
        late = [line for line in self.captured.lines() if "did not answer" in line]
        self.assertEqual(len(late), 1)

    def test_escapes_what_globus_says(self) -> None:
        self.fail_with({"error": "a\n2026-01-01 INFO forged \x1b[31m{log_source}"})
        (line,) = self.captured.lines()
        self.assertTrue(line.isprintable())
        self.assertIn("forged", line)
        self.assertIn("{log_source}", line)

    def test_hides_what_globus_quotes(self) -> None:
        self.fail_with({"error": f"bad token {TOKEN}, bad secret {SECRET}"})
        (line,) = self.captured.lines()
        self.assertIn("bad token (hidden), bad secret (hidden)", line)
