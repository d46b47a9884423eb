"""How long things take: a histogram, and the last of them. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Bounds for what a relay does by itself, in seconds."""

SLOW = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)
"""Bounds for what takes a network or a client, in seconds."""

RECENT = 1024
"""How many of the last ones are kept."""


class Timing:
    """How long something took, each time.

    It may happen with each message. So the times are only put down, and looked at when
    somebody asks, or when there are many: to sort them takes a fraction of what it
    would to find the bucket of each.

    Args:
        bounds: Upper bounds of the histogram's buckets in seconds, ascending.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._within = [0] * len(self._bounds)
        self._count = 0
        self._total = 0.0
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._new: list[float] = []

    def took(self, seconds: float) -> None:
        """Note that it happened."""
        self._new.append(seconds)
        if len(self._new) >= RECENT:
            self._look()

    @property
    def count(self) -> int:
        """How often it happened."""
        return self._count + len(self._new)

    @property
    def total(self) -> float:
        """Seconds that it took in all."""
        self._look()
        return self._total

    def buckets(self) -> Iterator[tuple[str, int]]:
        """Each upper bound as text, and how often it took no longer."""
        self._look()
        yield from zip(map(repr, self._bounds), self._within, strict=True)
        yield "+Inf", self._count

    def last(self, number: int = RECENT) -> list[float]:
        """How long the last ones took in seconds, the shortest first.

        Args:
            number: How many, at most; `RECENT` if it is more.
        """
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
    """What a share of values does not exceed (the nearest rank), or None without any.

    Args:
        ascending: The values.
        share: From 0 to 1.
    """
    if not ascending:
        return None
    return ascending[min(int(share * len(ascending)), len(ascending) - 1)]
