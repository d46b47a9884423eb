"""A semaphore with a fair queue."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

MAX_GRANTS_PER_TURN = 2
"""Grants in one turn of the reactor: an introspection costs 1 ms."""


class FairSemaphore:
    """A semaphore, round-robin between sources and in order within one source.

    A source with a thousand requests delays another source by one grant only.

    `DeferredSemaphore` has one queue for all, and grants recursively: thousands of
    releases at once overflow the stack.

    Grants are spread over turns of the reactor: each one starts work, and other
    clients wait.

    Args:
        tokens: Concurrent grants.
        clock: Scheduler of the next turn.
    """

    def __init__(self, tokens: int, clock: IReactorTime) -> None:
        self._free = tokens
        self._clock = clock
        self._grants_left = MAX_GRANTS_PER_TURN
        self._waiting: OrderedDict[str, OrderedDict[Deferred[None], None]] = (
            OrderedDict()
        )
        self._granting = False

    def acquire(self, source: str) -> Deferred[None]:
        """Wait for a grant; each grant needs one `release`.

        Args:
            source: Source of the request.

        Returns:
            Fires with the grant; can be cancelled before.
        """
        waiter: Deferred[None] = Deferred(partial(self._leave, source))
        self._waiting.setdefault(source, OrderedDict())[waiter] = None
        self._grant()
        return waiter

    def release(self) -> None:
        """Give back one grant."""
        self._free += 1
        self._grant()

    def _leave(self, source: str, waiter: Deferred[None]) -> None:
        queue = self._waiting[source]
        del queue[waiter]
        if not queue:
            del self._waiting[source]

    def _grant(self) -> None:
        if self._granting:
            return
        self._granting = True
        try:
            while self._free and self._waiting and self._grants_left:
                self._grants_left -= 1
                if self._grants_left == MAX_GRANTS_PER_TURN - 1:
                    self._clock.callLater(0, self._next_turn)
                self._free -= 1
                source, queue = self._waiting.popitem(last=False)
                waiter, _ = queue.popitem(last=False)
                if queue:
                    self._waiting[source] = queue
                waiter.callback(None)
        finally:
            self._granting = False

    def _next_turn(self) -> None:
        self._grants_left = MAX_GRANTS_PER_TURN
        self._grant()
