"""The last hour in samples."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.admin.history import FIELDS, KEPT_SAMPLES, History
from proxyrelay.net.timing import FAST, Timing
from proxyrelay.observe.counters import RelayCounters
from proxyrelay.switchboard.events import Refused, Registered

AHEAD = 1.7e9
"""Seconds by which the wall clock is ahead of the monotonic one."""


class HistoryTests(SynchronousTestCase):
    """Rates and times since the sample before."""

    def setUp(self) -> None:
        self.counts = RelayCounters(lambda: 0.0)
        self.lag = Timing(FAST)
        self.history = History(self.counts, self.lag, 100.0)

    def last(self) -> dict[str, float | None]:
        return dict(zip(FIELDS, self.history.since(0.0)[-1], strict=True))

    def register(self, count: int) -> None:
        for _ in range(count):
            self.counts(Registered("a", "b", "me", "c"))

    def take(self, now: float, clients: int) -> None:
        self.history.take(now, AHEAD + now, clients)

    def test_sample_has_rates_per_second(self) -> None:
        self.register(4)
        self.counts.offers += 1
        self.counts.answers += 2
        for _ in range(6):
            self.counts(Refused(None, "me", "a", 4000, "no"))
        self.take(102.0, 7)
        found = self.last()
        self.assertEqual((found["time"], found["clients"]), (AHEAD + 102, 7))
        self.assertEqual(found["registrations"], 2)
        self.assertEqual((found["messages"], found["refusals"]), (1.5, 3))
        self.take(104.0, 7)
        self.assertEqual(self.last()["messages"], 0)

    def test_sample_has_durations_of_its_interval(self) -> None:
        self.lag.took(0.5)
        self.counts.answering.took(1.0)
        self.counts.answering.took(3.0)
        self.counts.handshakes.took(0.25)
        self.take(102.0, 0)
        durations = [self.last()[name] for name in FIELDS[5:]]
        self.assertEqual(durations, [0.5, 3, 3, 0.25])
        self.take(104.0, 0)
        for name in FIELDS[5:]:
            self.assertIsNone(self.last()[name], name)

    def test_history_after_wall_clock_is_set_back_keeps_order(self) -> None:
        for number in range(5):
            self.take(100.0 + number, number)
        self.register(4)
        self.history.take(106.0, AHEAD + 102.5, 7)
        self.assertEqual(self.last()["registrations"], 2)
        samples = self.history.since(AHEAD + 104.0)
        times = [AHEAD + time for time in (100.0, 101.0, 102.0, 102.5)]
        self.assertEqual([sample[0] for sample in samples], times)
        self.assertEqual(self.history.since(AHEAD + 102.5), [])

    def test_history_after_an_hour_forgets_the_oldest(self) -> None:
        for number in range(KEPT_SAMPLES + 10):
            self.take(102.0 + 2 * number, number)
        samples = self.history.since(0.0)
        self.assertEqual((len(samples), samples[0][1]), (KEPT_SAMPLES, 10))
        self.assertEqual(samples[-1][0], AHEAD + 102.0 + 2 * (KEPT_SAMPLES + 9))
