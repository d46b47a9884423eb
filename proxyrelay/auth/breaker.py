"""When to stop asking a service that does not answer. Pure."""

from __future__ import annotations

THRESHOLD = 5
"""Failures in a row after which the service is left alone."""

SHORTEST_PAUSE = 1.0
LONGEST_PAUSE = 10.0
"""Seconds for which it is left alone: twice as long each time, up to this. Clients
come back after 1, 2, 4 to 60 s, so a longer pause would be felt after a recovery."""


class Breaker:
    """A circuit breaker.

    Closed, it lets everything through. After `THRESHOLD` failures in a row it opens
    for a pause, and then lets one attempt through, the probe, on whose outcome it
    closes or opens again. What began before it opened may end at any time: that an
    answer comes closes it, but anything else says nothing about the probe.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._pause = SHORTEST_PAUSE
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
        # A pause that seems longer than any was begun before the clock was set back.
        waits = now < self._open_until <= now + LONGEST_PAUSE
        return waits or self._probe is not None

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
        self._pause = SHORTEST_PAUSE
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
            self._open_until = now + max(self._pause, min(pause, LONGEST_PAUSE))
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self.abandoned(attempt)

    def abandoned(self, attempt: int) -> None:
        """An attempt was given up without an outcome.

        Args:
            attempt: Its number.
        """
        if attempt == self._probe:
            self._probe = None
