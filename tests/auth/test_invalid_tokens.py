"""From where too many tokens come that are nobody's."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth.invalid_tokens import BURST, RECOVERY, SOURCES, InvalidTokenLimiter


class StrangersTests(SynchronousTestCase):
    """A bucket for each source."""

    def setUp(self) -> None:
        self.strangers = InvalidTokenLimiter()

    def spend(self, source: str, now: float, count: int = BURST) -> None:
        for _ in range(count):
            self.assertTrue(self.strangers.trusted(source, now))
            self.strangers.was_nobody(source, now)

    def test_so_many_and_no_more(self) -> None:
        self.spend("a", 100)
        self.assertFalse(self.strangers.trusted("a", 100))
        self.spend("b", 100)

    def test_are_forgiven(self) -> None:
        self.spend("a", 100)
        self.spend("a", 100 + 10 / RECOVERY, 10)
        self.assertFalse(self.strangers.trusted("a", 100 + 10 / RECOVERY))
        self.spend("a", 1e6)
        self.assertFalse(self.strangers.trusted("a", 1e6))

    def test_remembers_so_many_sources(self) -> None:
        self.spend("a", 0)
        for number in range(SOURCES):
            self.strangers.was_nobody(str(number), 0)
        self.assertEqual(len(self.strangers), SOURCES)
        self.assertTrue(self.strangers.trusted("a", 0))
