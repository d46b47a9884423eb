"""What is counted of looking at tokens."""

from __future__ import annotations

from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth.authenticator import GlobusAuthenticator
from proxyrelay.auth.cache import TokenCache
from proxyrelay.auth.circuit_breaker import FAILURE_THRESHOLD
from proxyrelay.auth.introspector import Introspector
from proxyrelay.auth.policy import Policy
from proxyrelay.auth.stats import CacheResult, IntrospectionOutcome
from tests.support.globus import CLIENT_ID, PendingAgent, active, globus

TIMEOUT = 7.0


class TallyTests(SynchronousTestCase):
    """Questions, and whether they had to be asked."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.agent = PendingAgent()
        self.authenticator = GlobusAuthenticator(
            self.introspector(),
            TokenCache(10, 60.0, 300.0),
            Policy(CLIENT_ID),
            self.clock,
        )

    def introspector(self) -> Introspector:
        return Introspector(globus(self.agent, self.clock), self.clock, TIMEOUT)

    def come(self, token: str = "jo") -> None:
        """Somebody brings a token."""
        headers = {"authorization": f"Bearer {token}"}
        coming = self.authenticator.authenticate(headers, "192.0.2.1")
        coming.addErrback(lambda _: None)

    def outcomes(self) -> dict[IntrospectionOutcome, int]:
        return dict(self.authenticator.stats.outcomes)

    def test_answers(self) -> None:
        self.come()
        self.clock.advance(0.5)
        self.agent.last.reply(active())
        self.come("nobody")
        self.agent.last.reply({"active": False})
        self.assertEqual(
            self.outcomes(),
            {IntrospectionOutcome.ACTIVE: 1, IntrospectionOutcome.INACTIVE: 1},
        )
        asking = self.authenticator.stats.durations
        self.assertEqual((asking.count, asking.total), (2, 0.5))

    def test_answers_that_are_none(self) -> None:
        self.come()
        self.clock.pump([0.1] * int(10 * TIMEOUT))
        self.come()
        self.agent.last.reply({}, 400)
        self.come()
        self.agent.last.fail(Refused())
        found = self.outcomes()
        self.assertEqual(
            (
                found[IntrospectionOutcome.ERROR],
                found[IntrospectionOutcome.UNREACHABLE],
            ),
            (1, 1),
        )
        self.assertGreaterEqual(found[IntrospectionOutcome.LATE], 1)
        self.clock.advance(TIMEOUT)

    def test_what_is_known(self) -> None:
        self.come()
        self.agent.last.reply(active())
        self.come()
        self.clock.advance(61)
        self.come()
        self.agent.last.reply({}, 400)
        self.assertEqual(
            dict(self.authenticator.stats.cache_results),
            {CacheResult.MISS: 2, CacheResult.HIT: 1, CacheResult.STALE: 1},
        )

    def test_who_follows_counts_on(self) -> None:
        self.come()
        self.agent.last.reply(active())
        before = self.authenticator.stats
        for introspector in (None, self.introspector()):
            after = self.authenticator.changed(Policy(CLIENT_ID), introspector)
            self.assertIs(after.stats, before)

    def test_the_breaker_shows(self) -> None:
        self.assertEqual(self.authenticator.breaker, "closed")
        seen = set()
        for number in range(4 * FAILURE_THRESHOLD):
            self.come(f"token{number}")
            for asked in self.agent.pending:
                asked.reply({}, 500)
            seen.add(self.authenticator.breaker)
            self.clock.advance(0.5)
            seen.add(self.authenticator.breaker)
        self.assertEqual(seen, {"closed", "open", "half-open"})
        self.clock.advance(60)
