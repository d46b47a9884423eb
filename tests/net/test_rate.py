"""Rates of events, and log lines at a bounded rate."""

from __future__ import annotations

from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.net import rate as rate_module
from proxyrelay.net.rate import MAX_WAIT_SECONDS, Rate, RateLimitedLog


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


class RateLimitedLogTests(SynchronousTestCase):
    """Which lines are admitted, and what they say of the others."""

    def test_admit_within_the_interval_counts_the_lines_left_out(self) -> None:
        lines = RateLimitedLog(60.0)
        found = [lines.admit(now) for now in (5.0, 5.0, 64.9, 65.0, 65.1, 200.0)]
        self.assertEqual(found, [0, None, None, 2, None, 1])

    def test_admit_lets_a_burst_through(self) -> None:
        lines = RateLimitedLog(1.0, burst=2)
        self.assertEqual([lines.admit(0.0) for _ in range(5)], [0, 0, 0, None, None])
        self.assertEqual([lines.admit(1.0) for _ in range(2)], [2, None])
        self.assertEqual([lines.admit(9.0) for _ in range(4)], [1, 0, 0, None])

    def test_admit_limits_each_key_alone(self) -> None:
        lines = RateLimitedLog(1.0)
        found = [lines.admit(0.0, key) for key in ("a", "a", "b", "a", "b")]
        self.assertEqual(found, [0, None, 0, None, None])

    def test_forget_leaves_nothing_of_a_key(self) -> None:
        lines = RateLimitedLog(1.0)
        for _ in range(3):
            lines.admit(0.0, "a")
        lines.forget("a")
        lines.forget("b")
        self.assertEqual(lines.admit(0.0, "a"), 0)

    def test_admit_keeps_a_bounded_number_of_keys(self) -> None:
        lines = RateLimitedLog(1.0)
        with mock.patch.object(rate_module, "MAX_LOG_KEYS", 3):
            for key in range(10):
                lines.admit(0.0, key)
                lines.admit(0.0, key)
        found = [lines.admit(0.0, key) for key in (9, 8, 7, 6)]
        self.assertEqual(found, [None, None, None, 0])
