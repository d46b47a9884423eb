"""Durations."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.net.timing import MAX_RECENT, Timing, quantile


class TimingTests(SynchronousTestCase):
    """A histogram, and the last values."""

    def test_buckets_count_up_to_each_bound(self) -> None:
        timing = Timing((1.0, 2.0))
        for seconds in (0.5, 1.0, 1.5, 3.0):
            timing.took(seconds)
        self.assertEqual(list(timing.buckets()), [("1.0", 2), ("2.0", 3), ("+Inf", 4)])
        self.assertEqual((timing.count, timing.total), (4, 6.0))

    def test_last_returns_the_most_recent(self) -> None:
        timing = Timing((1.0,))
        for number in range(MAX_RECENT + 10):
            timing.took(float(number))
        self.assertEqual(
            timing.last(3), [MAX_RECENT + 7, MAX_RECENT + 8, MAX_RECENT + 9]
        )
        self.assertEqual(len(timing.last()), MAX_RECENT)
        self.assertEqual(timing.count, MAX_RECENT + 10)
        self.assertEqual(timing.total, sum(range(MAX_RECENT + 10)))
        self.assertEqual(timing.last(0), [])


class QuantileTests(SynchronousTestCase):
    """Values that a share of all does not exceed."""

    def test_quantile_is_one_of_the_values(self) -> None:
        values = [float(number) for number in range(100)]
        self.assertEqual(quantile(values, 0.0), 0)
        self.assertEqual(quantile(values, 0.5), 50)
        self.assertEqual(quantile(values, 0.99), 99)
        self.assertEqual(quantile(values, 1.0), 99)
        self.assertEqual(quantile([7.0], 0.5), 7)
        self.assertIsNone(quantile([], 0.5))
