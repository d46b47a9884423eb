"""Lag of the event loop."""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from proxyrelay.net.timing import FAST, Timing

INTERVAL = 0.25
"""Seconds from one measurement to the next."""

MINUTE = int(60 / INTERVAL)
"""Measurements in a minute."""


class Lag:
    """Measures by how much a timer is late.

    Args:
        clock: Runs the timer.

    Attributes:
        timing: The lag in seconds.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.timing = Timing(FAST)
        self._clock = clock
        self._expected = 0.0
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        """Start to measure."""
        self._expected = self._clock.seconds() + INTERVAL
        self._call = self._clock.callLater(INTERVAL, self._look)

    def stop(self) -> None:
        """Stop."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _look(self) -> None:
        self.timing.took(self._clock.seconds() - self._expected)
        self.start()
