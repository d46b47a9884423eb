"""Rates of events, with bursts, and of log lines. Pure: time is an argument."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

MAX_WAIT_SECONDS = 1.0
"""Longest pause of a client above its rate, so that it can answer a ping. Debt beyond
that is forgiven."""

MAX_LOG_KEYS = 65_536
"""Keys of a log with a state, at some 0.2 kB each; the oldest is forgotten."""


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
        """Count events at a time in seconds; returns the new debt."""
        # max() and min() take three times as long.
        debt = (debt if debt > now else now) + count * self._cost  # noqa: FURB136
        ceiling = now + self._ceiling
        return debt if debt < ceiling else ceiling  # noqa: FURB136

    def over(self, debt: float, now: float) -> bool:
        """Whether the debt exceeds the burst."""
        return debt - now > self._burst


class RateLimitedLog:
    """Admits some lines of each key, and counts the others.

    Args:
        interval: Seconds from one line to the next, in the long run.
        burst: Further lines that may come at once.
    """

    def __init__(self, interval: float, burst: int = 0) -> None:
        self._interval = interval
        self._allowance = burst * interval
        # By key: the time at which its lines are paid for, and the lines left out.
        self._keys: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()

    def admit(self, now: float, key: Hashable = None) -> int | None:
        """Ask for one line, at a time in seconds.

        Returns:
            Number of lines left out since the last one; None to leave out this one.
        """
        log_debt, suppressed = self._keys.get(key, (now, 0))
        if log_debt - now > self._allowance:
            self._keys[key] = (log_debt, suppressed + 1)
            return None
        self._keys[key] = (max(log_debt, now) + self._interval, 0)
        if len(self._keys) > MAX_LOG_KEYS:
            self._keys.popitem(last=False)
        return suppressed

    def forget(self, key: Hashable) -> None:
        """Forget a key, whose client has left."""
        self._keys.pop(key, None)
