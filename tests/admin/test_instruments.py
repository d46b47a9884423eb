"""The lag of the event loop. Counted connections are tested with the metrics."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.admin.instruments import LAG_INTERVAL_SECONDS, Lag


class LagTests(SynchronousTestCase):
    """How late the event loop is."""

    def test_lag_of_late_clock_is_measured(self) -> None:
        clock = Clock()
        lag = Lag(clock)
        lag.start()
        for late in (0.0, 0.5, 0.0):
            clock.rightNow += LAG_INTERVAL_SECONDS + late
            clock.advance(0)
        self.assertEqual(lag.timing.last(), [0.0, 0.0, 0.5])
        lag.stop()
        lag.stop()
        self.assertEqual(clock.getDelayedCalls(), [])
