"""How long things take: a histogram, and the last of them. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice

FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Bounds for what a relay does by itself, in seconds."""

SLOW = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)
"""Bounds for what takes a network or a client, in seconds."""

RECENT = 1024
"""How many of the last ones are kept."""


class Timing:
    """How long something took, each time.

    Args:
        bounds: Upper bounds of the histogram's buckets in seconds, ascending.

    Attributes:
        count: How often it happened.
        total: Seconds that it took in all.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.count = 0
        self.total = 0.0
        self._bounds = tuple(bounds)
        self._in_bucket = [0] * (len(self._bounds) + 1)
        self._recent: deque[float] = deque(maxlen=RECENT)

    def took(self, seconds: float) -> None:
        """Note that it happened; less than nothing, after the clock was set, is 0."""
        seconds = max(seconds, 0.0)
        self.count += 1
        self.total += seconds
        self._in_bucket[bisect_left(self._bounds, seconds)] += 1
        self._recent.append(seconds)

    def buckets(self) -> Iterator[tuple[str, int]]:
        """Each upper bound as text, and how often it took no longer."""
        labels = (*map(repr, self._bounds), "+Inf")
        return zip(labels, accumulate(self._in_bucket), strict=True)

    def last(self, number: int = RECENT) -> list[float]:
        """How long the last ones took in seconds, the shortest first.

        Args:
            number: How many, at most; `RECENT` if it is more.
        """
        return sorted(islice(reversed(self._recent), max(0, number)))


def quantile(ascending: Sequence[float], share: float) -> float | None:
    """What a share of values does not exceed (the nearest rank), or None without any.

    Args:
        ascending: The values.
        share: From 0 to 1.
    """
    if not ascending:
        return None
    return ascending[min(int(share * len(ascending)), len(ascending) - 1)]
