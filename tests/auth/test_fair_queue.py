"""The semaphore with a fair queue, and the limit on invalid tokens."""

from __future__ import annotations

from functools import partial

from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth.fair_queue import (
    BURST_TOKENS,
    MAX_GRANTS_PER_TURN,
    MAX_SOURCES,
    SECONDS_PER_TOKEN,
    FairSemaphore,
    InvalidTokenLimiter,
)
from tests.support.clock import EagerClock


class FairSemaphoreTests(SynchronousTestCase):
    """Order, limits and cancellation."""

    def use(self, tokens: int, clock: Clock | None = None) -> None:
        self.semaphore = FairSemaphore(tokens, clock or EagerClock())
        self.granted: list[object] = []

    def wait(self, source: str, name: object) -> None:
        self.semaphore.acquire(source).addCallback(lambda _: self.granted.append(name))

    def test_semaphore_one_source_grants_in_order(self) -> None:
        self.use(2)
        for number in range(3):
            self.wait("a", number)
        leaving = self.semaphore.acquire("a")
        self.wait("a", 4)
        self.assertEqual(self.granted, [0, 1])
        self.semaphore.release()
        self.assertEqual(self.granted, [0, 1, 2])
        leaving.cancel()
        self.failureResultOf(leaving, CancelledError)
        self.semaphore.release()
        self.assertEqual(self.granted, [0, 1, 2, 4])

    def test_semaphore_thousands_of_releases_do_not_recurse(self) -> None:
        self.use(1)
        self.successResultOf(self.semaphore.acquire("a"))

        def come(number: int, _: None) -> None:
            self.granted.append(number)
            self.semaphore.release()

        for number in range(5000):
            self.semaphore.acquire("a").addCallback(partial(come, number))
        self.semaphore.release()
        self.assertEqual(self.granted, list(range(5000)))
        self.successResultOf(self.semaphore.acquire("a"))
        self.assertNoResult(self.semaphore.acquire("a"))

    def test_semaphore_greedy_source_delays_another_by_one_grant(self) -> None:
        self.use(1)
        self.successResultOf(self.semaphore.acquire("greedy"))
        for source in ("greedy", "greedy", "greedy", "modest", "greedy", "modest"):
            self.wait(source, source)
        for _ in range(6):
            self.semaphore.release()
        order = ["greedy", "modest", "greedy", "modest", "greedy", "greedy"]
        self.assertEqual(self.granted, order)

    def test_semaphore_cancelled_waiter_gets_no_grant(self) -> None:
        self.use(1)
        self.successResultOf(self.semaphore.acquire("a"))
        leaving = self.semaphore.acquire("a")
        self.wait("b", "b")
        leaving.cancel()
        self.failureResultOf(leaving, CancelledError)
        self.semaphore.release()
        self.assertEqual(self.granted, ["b"])
        self.semaphore.release()
        self.successResultOf(self.semaphore.acquire("c"))

    def test_semaphore_grants_are_spread_over_turns(self) -> None:
        clock = Clock()
        self.use(100, clock)
        for number in range(2 * MAX_GRANTS_PER_TURN + 1):
            self.wait("a", number)
        self.assertEqual(self.granted, list(range(MAX_GRANTS_PER_TURN)))
        (next_turn,) = clock.getDelayedCalls()
        self.assertEqual(next_turn.getTime(), clock.seconds())
        clock.advance(0)
        self.assertEqual(self.granted, list(range(2 * MAX_GRANTS_PER_TURN + 1)))
        clock.advance(0)
        self.assertEqual(clock.getDelayedCalls(), [])


class InvalidTokenLimiterTests(SynchronousTestCase):
    """A bucket for each source."""

    def setUp(self) -> None:
        self.limiter = InvalidTokenLimiter()

    def spend(self, source: str, now: float, count: int = BURST_TOKENS) -> None:
        """Record so many invalid tokens; then the source is no longer trusted."""
        for _ in range(count):
            self.assertTrue(self.limiter.trusts(source, now))
            self.limiter.record(source, now)
        self.assertFalse(self.limiter.trusts(source, now))

    def test_limiter_burst_of_one_source_leaves_others_trusted(self) -> None:
        self.spend("a", 100)
        self.spend("b", 100)

    def test_limiter_tokens_are_forgiven_with_time(self) -> None:
        self.spend("a", 100)
        self.spend("a", 100 + 10 * SECONDS_PER_TOKEN, 10)
        self.spend("a", 1e6)

    def test_limiter_many_sources_forgets_the_oldest(self) -> None:
        self.spend("a", 0)
        for number in range(MAX_SOURCES):
            self.limiter.record(str(number), 0)
        self.assertEqual(len(self.limiter._empty_at), MAX_SOURCES)
        self.assertTrue(self.limiter.trusts("a", 0))
