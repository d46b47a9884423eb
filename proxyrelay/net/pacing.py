"""A burst of work, spread over turns of the reactor."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

MOMENT = 0.5
"""Seconds for which there is taken to be too much after a piece of work had to wait."""


class TurnBudget:
    """Does so much in one turn of the reactor, and the rest in the next ones.

    When all clients come back at once, what those want who are there has its place
    between.

    Args:
        clock: Runs the next turn of the reactor.
        count: How many pieces of work are done in one turn.
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
        """Whether work waits for the next turn, or did a moment ago."""
        ago = self._clock.seconds() - self._refused
        return bool(self._waiting) or ago < MOMENT

    @property
    def full(self) -> bool:
        """Whether no more may be done in this turn."""
        return not self._left or bool(self._waiting)

    def do(self, work: Callable[[], None]) -> None:
        """Do a piece of work: now, or after those that wait already."""
        self._waiting.append(work)
        self._go_on()

    def take(self) -> bool:
        """Whether a piece of work may be done in this turn.

        For work that comes back by itself in the next one: its place is not kept.
        """
        if self.full:
            self._refused = self._clock.seconds()
            return False
        self._spend()
        return True

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
                    # The next one has nothing to do with it.
                    self._log.failure("a piece of work failed")
        finally:
            self._going_on = False

    def _next_turn(self) -> None:
        self._left = self._count
        self._go_on()
