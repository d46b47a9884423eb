"""Rates of events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.net.rate import MAX_WAIT_SECONDS, Rate


class RateTests(SynchronousTestCase):
    """`Rate`."""

    def test_rate_after_burst_is_over(self) -> None:
        rate, due = Rate(per_second=2, burst=5), 0.0
        for _ in range(10):
            due = rate.spend(due, 100)
            self.assertFalse(rate.over(due, 100))
        due = rate.spend(due, 100)
        self.assertTrue(rate.over(due, 100))
        self.assertFalse(rate.over(due, 100.5))

    def test_rate_forgives_large_debt(self) -> None:
        rate = Rate(per_second=2, burst=5)
        due = rate.spend(0, 100, 1_000_000)
        self.assertTrue(rate.over(due, 100 + MAX_WAIT_SECONDS - 0.01))
        self.assertFalse(rate.over(due, 100 + MAX_WAIT_SECONDS))

    @given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=60))
    def test_rate_in_the_long_run_holds(self, steps: list[tuple[float, bool]]) -> None:
        rate = Rate(per_second=2, burst=5)
        due, now, done = 0.0, 1000.0, 0
        for passed, wanted in steps:
            now += passed
            if wanted and not rate.over(due, now):
                due = rate.spend(due, now)
                done += 1
        self.assertLessEqual(done, 2 * (5 + now - 1000) + 1.001)
