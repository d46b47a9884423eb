"""Spreading a burst of work over turns of the reactor."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

BACKLOG_HOLD_SECONDS = 0.5
"""Seconds for which a refusal still counts as a backlog."""


class TurnBudget:
    """A number of pieces of work per turn of the reactor; the rest waits its turn.

    So connected clients are served while all others come back at once.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, count: int) -> None:
        self._clock = clock
        self._count = count
        self._left = count
        self._waiting: deque[Callable[[], None]] = deque()
        self._going_on = False
        self._refused = -math.inf

    @property
    def backlogged(self) -> bool:
        """Whether work waits for the next turn, or was refused a moment ago."""
        ago = self._clock.seconds() - self._refused
        return bool(self._waiting) or ago < BACKLOG_HOLD_SECONDS

    @property
    def full(self) -> bool:
        """Whether the budget of this turn is spent."""
        return not self._left or bool(self._waiting)

    def do(self, work: Callable[[], None]) -> None:
        """Do a piece of work now, or in its place after the waiting ones."""
        self._waiting.append(work)
        self._go_on()

    def try_acquire(self) -> bool:
        """Take one piece of work from the budget of this turn, if any is left.

        Refused work is not queued: the caller retries on its next event.
        """
        if self.full:
            self.note_refusal()
            return False
        self._spend()
        return True

    def note_refusal(self) -> None:
        """Count refused work as a backlog, for `BACKLOG_HOLD_SECONDS`."""
        self._refused = self._clock.seconds()

    def _spend(self) -> None:
        self._left -= 1
        if self._left == self._count - 1:
            self._clock.callLater(0, self._next_turn)

    def _go_on(self) -> None:
        if self._going_on:
            return  # from within a piece of work
        self._going_on = True
        try:
            while self._waiting and self._left:
                self._spend()
                work = self._waiting.popleft()
                try:
                    work()
                except Exception:
                    # The other pieces of work go on.
                    self._log.failure("a piece of work failed")
        finally:
            self._going_on = False

    def _next_turn(self) -> None:
        self._left = self._count
        self._go_on()
