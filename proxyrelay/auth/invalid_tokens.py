"""Who brings tokens that are nobody's. Pure."""

from __future__ import annotations

from collections import OrderedDict

BURST = 100
"""Tokens in a row from one source that may turn out to be nobody's. A whole machine
room may share one address, and all its tokens may expire on one day."""

RECOVERY = 1.0
"""Of these are forgiven in a second."""

SOURCES = 10_000
"""Sources that are remembered."""


class InvalidTokenLimiter:
    """Knows from where so many made-up tokens come that others must not wait for them.

    Each costs the relay and the identity provider more than whoever made it up.
    """

    def __init__(self) -> None:
        # How much each has spent, and when that was right.
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._spent)

    def trusted(self, source: str, now: float) -> bool:
        """Whether a token of a source may well be somebody's.

        Args:
            source: Where it comes from.
            now: The time in seconds.
        """
        return self._of(source, now) < BURST

    def was_nobody(self, source: str, now: float) -> None:
        """A token turned out to be nobody's.

        Args:
            source: Where it came from.
            now: The time in seconds.
        """
        self._spent[source] = (self._of(source, now) + 1, now)
        self._spent.move_to_end(source)
        if len(self._spent) > SOURCES:
            self._spent.popitem(last=False)

    def _of(self, source: str, now: float) -> float:
        spent, then = self._spent.get(source, (0.0, now))
        return max(0.0, spent - RECOVERY * (now - then))
