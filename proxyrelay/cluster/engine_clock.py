"""The engine's clock, by which all nodes date connections and messages. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

TIME_SAMPLES = 10
"""Last readings of the engine's clock, of which the fastest one counts."""

STEP_SECONDS = 0.5
"""Difference of two readings by which the engine's clock was set. Clocks drift less."""


class EngineClock:
    """The engine's clock, as far as its replies tell it.

    Args:
        boottime: Seconds of a clock that runs on while the process or machine sleeps.
    """

    def __init__(self, boottime: Callable[[], float]) -> None:
        self._boottime = boottime
        self._samples: deque[tuple[float, float]] = deque(maxlen=TIME_SAMPLES)

    def forget(self) -> None:
        """Forget all readings: another engine may have another clock."""
        self._samples.clear()

    def read(self, began: float, ended: float, now: float) -> None:
        """Note a reading.

        Args:
            began: When it was asked for, in seconds of the own clock.
            ended: When the reply came.
            now: What the engine's clock has shown, in seconds since 1970.
        """
        took, offset = ended - began, now - (began + ended) / 2
        if self._samples:
            best, known_offset = min(self._samples)
            if abs(offset - known_offset) > best + took + STEP_SECONDS:
                self.forget()
        self._samples.append((took, offset))

    def time(self, boottime: float | None = None) -> int:
        """Convert a time of the own clock, now by default.

        Returns:
            Microseconds since 1970.
        """
        # The offset of the fastest reading is the most exact one.
        offset = min(self._samples)[1] if self._samples else 0.0
        when = self._boottime() if boottime is None else boottime
        return round((when + offset) * 1e6)
