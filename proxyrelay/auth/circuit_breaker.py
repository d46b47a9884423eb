"""When to stop asking a service that does not answer. Pure."""

from __future__ import annotations

from collections.abc import Callable

THRESHOLD = 5
"""Failures in a row after which the service is left alone."""

SHORTEST_PAUSE = 1.0
LONGEST_PAUSE = 10.0
"""Seconds for which it is left alone: as long as it asks for, between these. One
attempt a second is no burden. Pauses that grew would miss the good times of a service
that is well now and then, and clients come back after 1, 2, 4 to 60 s only."""

SPREAD = 1.0
"""Seconds by which a pause is longer, at most: by chance, so that the probes do not
keep step with the bad times of such a service."""


class CircuitBreaker:
    """A circuit breaker.

    Closed, it lets everything through. After `THRESHOLD` failures in a row it opens
    for a pause, and then lets one attempt through, the probe, on whose outcome it
    closes or opens again. What began before it opened may end at any time: that an
    answer comes closes it, but anything else says nothing about the probe.

    Args:
        chance: Gives numbers from 0 to 1 at random.
    """

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._failures = 0
        self._open_until = 0.0
        self._last = 0
        self._probe: int | None = None

    @property
    def closed(self) -> bool:
        """Whether the service is believed to be well."""
        return self._failures < THRESHOLD

    def blocks(self, now: float) -> bool:
        """Whether an attempt must not be made.

        Args:
            now: The time in seconds.
        """
        if self.closed:
            return False
        return now < self._open_until or self._probe is not None

    def attempt(self) -> int:
        """An attempt begins, which is not blocked.

        Returns:
            Its number, with which its outcome must be reported.
        """
        self._last += 1
        if not self.closed:
            self._probe = self._last
        return self._last

    def succeeded(self) -> None:
        """An attempt was answered."""
        self._failures = 0
        self._probe = None

    def failed(self, attempt: int, now: float, pause: float = 0.0) -> None:
        """An attempt was not answered.

        Args:
            attempt: Its number.
            now: The time in seconds.
            pause: For how long the service asks to be left alone.
        """
        was_closed = self.closed
        self._failures += 1
        if attempt == self._probe or (was_closed and not self.closed):
            asked = max(SHORTEST_PAUSE, min(pause, LONGEST_PAUSE))
            self._open_until = now + asked + SPREAD * self._chance()
        self.abandoned(attempt)

    def abandoned(self, attempt: int) -> None:
        """An attempt was given up without an outcome.

        Args:
            attempt: Its number.
        """
        if attempt == self._probe:
            self._probe = None
