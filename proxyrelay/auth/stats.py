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
    """Result of one look-up in the cache; stale answers serve while Globus fails."""

    HIT = "hit"
    MISS = "miss"
    STALE = "stale"


class IntrospectionStats:
    """Counters of look-ups in the cache and of requests; they only grow."""

    def __init__(self) -> None:
        self.cache_results: Counter[CacheResult] = Counter()
        self.outcomes: Counter[IntrospectionOutcome] = Counter()
        self.durations = Timing(SLOW)

    def record(self, outcome: IntrospectionOutcome, seconds: float) -> None:
        """Count one request and its duration."""
        self.outcomes[outcome] += 1
        self.durations.took(seconds)
