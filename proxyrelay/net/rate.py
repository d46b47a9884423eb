"""How fast something may happen. Pure: time is an argument."""

from __future__ import annotations

LONGEST = 1.0
"""Seconds that a client waits at most until it is read from again, so that it can
answer a ping. What it has sent beyond that is forgiven."""


class Rate:
    """How fast something may happen: so often in a second, and in bursts.

    What happened is kept as one number, the time at which it will be paid for; at first
    it is 0.

    Args:
        per_second: How often in a second, in the long run.
        burst: How many seconds' worth may happen at once.
    """

    __slots__ = ("_burst", "_ceiling", "_cost")

    def __init__(self, per_second: float, burst: float) -> None:
        self._cost = 1 / per_second
        self._burst = burst
        self._ceiling = burst + LONGEST

    def spend(self, due: float, now: float, count: float = 1) -> float:
        """Note that something happens.

        Args:
            due: What was returned last.
            now: The time in seconds.
            count: How often it happens.

        Returns:
            When all is paid for.
        """
        # By hand, as max() and min() take three times as long.
        due = (due if due > now else now) + count * self._cost  # noqa: FURB136
        ceiling = now + self._ceiling
        return due if due < ceiling else ceiling  # noqa: FURB136

    def over(self, due: float, now: float) -> bool:
        """Whether more has happened than may."""
        return due - now > self._burst
