"""What has come of looking at tokens, as plain numbers. Pure."""

from __future__ import annotations

from collections import Counter
from enum import Enum

from proxyrelay.net.timing import SLOW, Timing


class IntrospectionOutcome(Enum):
    """What came of a question to the identity provider."""

    ACTIVE = "active"
    INACTIVE = "inactive"
    LATE = "late"
    UNREACHABLE = "unreachable"
    ERROR = "error"


class CacheResult(Enum):
    """Whether the answer about a token was known already."""

    HIT = "hit"
    MISS = "miss"
    STALE = "stale"
    """Not any more, but the provider could not be asked."""


class IntrospectionStats:
    """Counts questions and answers. Numbers only grow.

    Attributes:
        known: How often the cache has helped, and how often not.
        outcomes: What came of each question.
        asking: How long each question took.
    """

    def __init__(self) -> None:
        self.known: Counter[CacheResult] = Counter()
        self.outcomes: Counter[IntrospectionOutcome] = Counter()
        self.asking = Timing(SLOW)

    def asked(self, outcome: IntrospectionOutcome, seconds: float) -> None:
        """A question has come to an end."""
        self.outcomes[outcome] += 1
        self.asking.took(seconds)
