"""Log lines that strangers can cause, at a bounded rate. Pure: time is an argument."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

MAX_KEYS = 65_536
"""Keys of which the state is kept, at some 0.2 kB each; the oldest is forgotten."""


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

    def __len__(self) -> int:
        return len(self._keys)

    def admit(self, now: float, key: Hashable = None) -> int | None:
        """Ask for one line.

        Args:
            now: The time in seconds.
            key: Tells apart what has a limit of its own.

        Returns:
            Number of lines left out since the last one; None to leave out this one.
        """
        log_debt, suppressed = self._keys.get(key, (now, 0))
        if log_debt - now > self._allowance:
            self._keys[key] = (log_debt, suppressed + 1)
            return None
        self._keys[key] = (max(log_debt, now) + self._interval, 0)
        if len(self._keys) > MAX_KEYS:
            self._keys.popitem(last=False)
        return suppressed

    def forget(self, key: Hashable) -> None:
        """Forget a key, whose client has left."""
        self._keys.pop(key, None)
