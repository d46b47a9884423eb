"""Circuit breaker in front of a service. Pure."""

from __future__ import annotations

from collections.abc import Callable

FAILURE_THRESHOLD = 5
"""Consecutive failures that open the breaker."""

MIN_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 10.0
"""Bounds of a pause; the service asks for one by ``Retry-After``. Longer pauses would
miss the good times of a flapping service."""

MAX_JITTER_SECONDS = 1.0
"""Random part of a pause: probes must not keep step with a flapping service."""


class CircuitBreaker:
    """A circuit breaker with one probe.

    Closed, it lets each attempt through. `FAILURE_THRESHOLD` failures in a row open it
    for a pause. Then one attempt, the probe, closes it or opens it again. Attempts from
    before the opening may end at any time: a success closes the breaker, any other end
    says nothing about the probe.

    In its methods, ``now`` is monotonic time in seconds. ``chance`` gives random
    numbers from 0 to 1.
    """

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._failures = 0
        self._open_until = 0.0
        self._last_attempt = 0
        self._probe: int | None = None

    @property
    def closed(self) -> bool:
        """Whether the service counts as healthy."""
        return self._failures < FAILURE_THRESHOLD

    def blocks(self, now: float) -> bool:
        """Whether an attempt is forbidden."""
        is_paused = now < self._open_until or self._probe is not None
        return is_paused and not self.closed

    def attempt(self) -> int:
        """Begin an attempt that is not blocked; return its number."""
        self._last_attempt += 1
        if not self.closed:
            self._probe = self._last_attempt
        return self._last_attempt

    def succeeded(self) -> None:
        """End an attempt with an answer."""
        self._failures = 0
        self._probe = None

    def failed(self, attempt: int, now: float, retry_after: float = 0.0) -> None:
        """End an attempt with a failure; the service may ask for a pause in seconds."""
        was_closed = self.closed
        self._failures += 1
        if attempt == self._probe or (was_closed and not self.closed):
            pause = max(MIN_PAUSE_SECONDS, min(retry_after, MAX_PAUSE_SECONDS))
            self._open_until = now + pause + MAX_JITTER_SECONDS * self._chance()
        self.abandoned(attempt)

    def abandoned(self, attempt: int) -> None:
        """End an attempt without an outcome."""
        if attempt == self._probe:
            self._probe = None
