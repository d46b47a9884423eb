"""How late the event loop is."""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from proxyrelay.net.timing import FAST, Timing

INTERVAL = 0.25
"""Seconds from one look to the next."""

MINUTE = int(60 / INTERVAL)
"""Looks in a minute."""


class Lag:
    """Asks to be called, and notes how much later it is.

    Args:
        clock: Calls.

    Attributes:
        timing: How late.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.timing = Timing(FAST)
        self._clock = clock
        self._due = 0.0
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        """Begin."""
        self._due = self._clock.seconds() + INTERVAL
        self._call = self._clock.callLater(INTERVAL, self._look)

    def stop(self) -> None:
        """End."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _look(self) -> None:
        self.timing.took(self._clock.seconds() - self._due)
        self.start()
