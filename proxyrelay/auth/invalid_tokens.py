"""Limit on invalid tokens from one source. Pure."""

from __future__ import annotations

from collections import OrderedDict

BURST_TOKENS = 100
"""Invalid tokens in a row from a trusted source. A machine room may share one address,
and all its tokens may expire on one day."""

TOKENS_FORGIVEN_PER_SECOND = 1.0

MAX_SOURCES = 10_000
"""Sources in memory; the oldest one is forgotten."""


class InvalidTokenLimiter:
    """A leaky bucket for each source: made-up tokens must not delay other clients.

    In its methods, ``now`` is monotonic time in seconds.
    """

    def __init__(self) -> None:
        # Level of each bucket, and the time of that level.
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def trusts(self, source: str, now: float) -> bool:
        """Whether the bucket of a source has room."""
        return self._level(source, now) < BURST_TOKENS

    def record(self, source: str, now: float) -> None:
        """Count one invalid token of a source."""
        self._levels[source] = (self._level(source, now) + 1, now)
        self._levels.move_to_end(source)
        if len(self._levels) > MAX_SOURCES:
            self._levels.popitem(last=False)

    def _level(self, source: str, now: float) -> float:
        level, then = self._levels.get(source, (0.0, now))
        return max(0.0, level - TOKENS_FORGIVEN_PER_SECOND * (now - then))
