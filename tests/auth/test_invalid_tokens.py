"""The limit on invalid tokens."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth.invalid_tokens import (
    BURST_TOKENS,
    MAX_SOURCES,
    TOKENS_FORGIVEN_PER_SECOND,
    InvalidTokenLimiter,
)


class InvalidTokenLimiterTests(SynchronousTestCase):
    """A bucket for each source."""

    def setUp(self) -> None:
        self.limiter = InvalidTokenLimiter()

    def spend(self, source: str, now: float, count: int = BURST_TOKENS) -> None:
        for _ in range(count):
            self.assertTrue(self.limiter.trusts(source, now))
            self.limiter.record(source, now)

    def test_so_many_and_no_more(self) -> None:
        self.spend("a", 100)
        self.assertFalse(self.limiter.trusts("a", 100))
        self.spend("b", 100)

    def test_are_forgiven(self) -> None:
        self.spend("a", 100)
        later = 100 + 10 / TOKENS_FORGIVEN_PER_SECOND
        self.spend("a", later, 10)
        self.assertFalse(self.limiter.trusts("a", later))
        self.spend("a", 1e6)
        self.assertFalse(self.limiter.trusts("a", 1e6))

    def test_remembers_so_many_sources(self) -> None:
        self.spend("a", 0)
        for number in range(MAX_SOURCES):
            self.limiter.record(str(number), 0)
        self.assertEqual(len(self.limiter), MAX_SOURCES)
        self.assertTrue(self.limiter.trusts("a", 0))
