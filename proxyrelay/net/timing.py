"""Durations: a histogram, and the most recent ones. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Histogram bounds for the relay's own work, in seconds."""

SLOW = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)
"""Histogram bounds for work of a network or a client, in seconds."""

MAX_RECENT = 1024
"""Most recent durations that are kept."""


class Timing:
    """Durations of one kind of work.

    New durations are only appended, since they may come with each message. Sorting many
    at once costs a fraction of finding a bucket for each.

    Args:
        bounds: Upper bounds of the histogram's buckets in seconds, ascending.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._within = [0] * len(self._bounds)
        self._count = 0
        self._total = 0.0
        self._recent: deque[float] = deque(maxlen=MAX_RECENT)
        self._new: list[float] = []

    def took(self, seconds: float) -> None:
        """Add a duration."""
        self._new.append(seconds)
        if len(self._new) >= MAX_RECENT:
            self._look()

    @property
    def count(self) -> int:
        """Number of durations."""
        return self._count + len(self._new)

    @property
    def total(self) -> float:
        """Sum of all durations in seconds."""
        self._look()
        return self._total

    def buckets(self) -> Iterator[tuple[str, int]]:
        """Each upper bound as text, and the number of durations up to it."""
        self._look()
        yield from zip(map(repr, self._bounds), self._within, strict=True)
        yield "+Inf", self._count

    def last(self, number: int = MAX_RECENT) -> list[float]:
        """The most recent durations in seconds, the shortest first."""
        self._look()
        last = islice(reversed(self._recent), max(0, number))
        return sorted(last)

    def _look(self) -> None:
        new, self._new = self._new, []
        self._recent.extend(new)
        self._count += len(new)
        new.sort()
        self._total += sum(new)
        for place, bound in enumerate(self._bounds):
            self._within[place] += bisect_right(new, bound)


def quantile(ascending: Sequence[float], share: float) -> float | None:
    """Quantile of ascending values by the nearest rank; None without values."""
    if not ascending:
        return None
    return ascending[min(int(share * len(ascending)), len(ascending) - 1)]
