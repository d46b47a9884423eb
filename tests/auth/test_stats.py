"""The counters of introspection and cache."""

from __future__ import annotations

from twisted.internet.error import ConnectionRefusedError as Refused

from proxyrelay.auth.circuit_breaker import FAILURE_THRESHOLD
from proxyrelay.auth.introspector import Introspector
from proxyrelay.auth.policy import Policy
from proxyrelay.auth.stats import CacheResult, IntrospectionOutcome
from tests.auth.globus_case import TIMEOUT, TTL_SECONDS, AuthenticatorTestCase
from tests.support.globus import CLIENT_ID, active


class StatsTests(AuthenticatorTestCase):
    """Requests by outcome, look-ups by result."""

    def arrive(self, token: str = "jo") -> None:
        """Authenticate a client, whatever the result."""
        self.come(token).addErrback(lambda _: None)

    def test_outcomes_answers_are_counted_and_timed(self) -> None:
        self.arrive()
        self.clock.advance(0.5)
        self.agent.last.reply(active())
        self.arrive("nobody")
        self.agent.last.reply({"active": False})
        stats = self.auth.stats
        expected = {IntrospectionOutcome.ACTIVE: 1, IntrospectionOutcome.INACTIVE: 1}
        self.assertEqual(stats.outcomes, expected)
        self.assertEqual((stats.durations.count, stats.durations.total), (2, 0.5))

    def test_outcomes_failures_are_counted_by_kind(self) -> None:
        self.arrive()
        self.clock.pump([0.1] * int(10 * TIMEOUT))
        self.arrive()
        self.agent.last.reply({}, 400)
        self.arrive()
        self.agent.last.fail(Refused())
        found = self.auth.stats.outcomes
        self.assertEqual(found[IntrospectionOutcome.ERROR], 1)
        self.assertEqual(found[IntrospectionOutcome.UNREACHABLE], 1)
        self.assertGreaterEqual(found[IntrospectionOutcome.LATE], 1)
        self.clock.advance(TIMEOUT)

    def test_cache_results_are_counted(self) -> None:
        self.arrive()
        self.agent.last.reply(active())
        self.arrive()
        self.clock.advance(TTL_SECONDS)
        self.arrive()
        self.agent.last.reply({}, 400)
        self.assertEqual(
            self.auth.stats.cache_results,
            {CacheResult.MISS: 2, CacheResult.HIT: 1, CacheResult.STALE: 1},
        )

    def test_stats_of_a_successor_go_on(self) -> None:
        before = self.auth.stats
        for introspector in (None, Introspector(self.globus, self.clock, TIMEOUT)):
            after = self.auth.changed(Policy(CLIENT_ID), introspector)
            self.assertIs(after.stats, before)

    def test_breaker_shows_each_state(self) -> None:
        self.assertEqual(self.auth.breaker, "closed")
        seen = set()
        for number in range(4 * FAILURE_THRESHOLD):
            self.arrive(f"token{number}")
            for asked in self.agent.pending:
                asked.reply({}, 500)
            seen.add(self.auth.breaker)
            self.clock.advance(0.5)
            seen.add(self.auth.breaker)
        self.assertEqual(seen, {"closed", "open", "half-open"})
        self.clock.advance(60)
