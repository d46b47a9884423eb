"""The last hour in samples, and how late the event loop is."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.observe.counts import Counts
from proxyrelay.observe.history import FIELDS, KEPT, History
from proxyrelay.observe.lag import INTERVAL, Lag
from proxyrelay.timing import FAST, Timing


class HistoryTests(SynchronousTestCase):
    """Rates and times since the sample before."""

    def setUp(self) -> None:
        self.counts = Counts(lambda: 0.0)
        self.lag = Timing(FAST)
        self.history = History(self.counts, self.lag, 100.0)

    def last(self) -> dict[str, float | None]:
        return dict(zip(FIELDS, self.history.since(0.0)[-1], strict=True))

    def test_rates_are_per_second(self) -> None:
        self.counts.registrations += 4
        self.counts.offers += 1
        self.counts.answers += 2
        self.counts.refusals[4000] += 6
        self.history.take(102.0, 7)
        found = self.last()
        self.assertEqual((found["time"], found["clients"]), (102, 7))
        self.assertEqual(found["registrations"], 2)
        self.assertEqual((found["messages"], found["refusals"]), (1.5, 3))
        self.history.take(104.0, 7)
        self.assertEqual(self.last()["messages"], 0)

    def test_a_clock_that_was_set_back_divides_by_nothing(self) -> None:
        self.counts.registrations += 4
        self.history.take(50.0, 0)
        self.assertEqual(self.last()["registrations"], 2)

    def test_times_are_those_of_the_interval(self) -> None:
        self.lag.took(0.5)
        self.counts.answering.took(1.0)
        self.counts.answering.took(3.0)
        self.counts.handshakes.took(0.25)
        self.history.take(102.0, 0)
        found = self.last()
        self.assertEqual(found["lag_p99"], 0.5)
        self.assertEqual(found["offer_to_answer_median"], 3)
        self.assertEqual(found["offer_to_answer_p99"], 3)
        self.assertEqual(found["handshake_p99"], 0.25)
        self.history.take(104.0, 0)
        for name in FIELDS[5:]:
            self.assertIsNone(self.last()[name], name)

    def test_has_an_hour(self) -> None:
        for number in range(KEPT + 10):
            self.history.take(102.0 + 2 * number, number)
        samples = self.history.since(0.0)
        self.assertEqual((len(samples), samples[0][1]), (KEPT, 10))
        self.assertEqual(samples[-1][0], 102.0 + 2 * (KEPT + 9))


class LateClock(Clock):
    """Calls later than it was asked to."""

    late = 0.0

    def jump(self, seconds: float) -> None:
        """Let time pass at once."""
        self.rightNow += seconds
        self.advance(0)


class LagTests(SynchronousTestCase):
    """How late the event loop is."""

    def test_is_what_comes_on_top(self) -> None:
        clock = LateClock()
        lag = Lag(clock)
        lag.start()
        clock.jump(INTERVAL)
        clock.jump(INTERVAL + 0.5)
        self.assertEqual(lag.timing.last(), [0.0, 0.5])
        clock.jump(INTERVAL)
        self.assertEqual(lag.timing.count, 3)
        self.assertAlmostEqual(lag.timing.total, 0.5)
        lag.stop()
        lag.stop()
        self.assertEqual(clock.getDelayedCalls(), [])
