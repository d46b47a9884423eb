"""Rates of events, with bursts. Pure: time is an argument."""

from __future__ import annotations

MAX_WAIT_SECONDS = 1.0
"""Longest pause of a client above its rate, so that it can answer a ping. Debt beyond
that is forgiven."""


class Rate:
    """A rate of events, with bursts: a token bucket in one number.

    That number is the debt: the time at which all past events are paid. It starts at 0.

    Args:
        per_second: Events per second, in the long run.
        burst: Seconds' worth of events that may happen at once.
    """

    __slots__ = ("_burst", "_ceiling", "_cost")

    def __init__(self, per_second: float, burst: float) -> None:
        self._cost = 1 / per_second
        self._burst = burst
        self._ceiling = burst + MAX_WAIT_SECONDS

    def spend(self, debt: float, now: float, count: float = 1) -> float:
        """Count events.

        Args:
            debt: Return value of the last call.
            now: Time in seconds.
            count: Number of events.

        Returns:
            The new debt.
        """
        # max() and min() take three times as long.
        debt = (debt if debt > now else now) + count * self._cost  # noqa: FURB136
        ceiling = now + self._ceiling
        return debt if debt < ceiling else ceiling  # noqa: FURB136

    def over(self, debt: float, now: float) -> bool:
        """Whether the debt exceeds the burst."""
        return debt - now > self._burst
