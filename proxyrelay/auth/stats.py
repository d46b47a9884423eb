"""Counters of introspection. Pure."""

from __future__ import annotations

from collections import Counter
from enum import Enum

from proxyrelay.net.timing import SLOW, Timing


class IntrospectionOutcome(Enum):
    """Outcome of one introspection request."""

    ACTIVE = "active"
    INACTIVE = "inactive"
    LATE = "late"
    UNREACHABLE = "unreachable"
    ERROR = "error"


class CacheResult(Enum):
    """Result of one look-up in the cache."""

    HIT = "hit"
    MISS = "miss"
    STALE = "stale"
    """An older answer, used while Globus fails."""


class IntrospectionStats:
    """Counters of introspection and cache; they only grow.

    Attributes:
        cache_results: Look-ups in the cache, by result.
        outcomes: Requests, by outcome.
        durations: Durations of the requests.
    """

    def __init__(self) -> None:
        self.cache_results: Counter[CacheResult] = Counter()
        self.outcomes: Counter[IntrospectionOutcome] = Counter()
        self.durations = Timing(SLOW)

    def record(self, outcome: IntrospectionOutcome, seconds: float) -> None:
        """Count one request."""
        self.outcomes[outcome] += 1
        self.durations.took(seconds)
