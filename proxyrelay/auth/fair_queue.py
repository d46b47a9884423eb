"""Who may go next, where only a few may go at once."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

STARTS = 2
"""How many set off in one turn of the reactor: asking about a token costs 1 ms."""


class FairSemaphore:
    """A semaphore that is fair between sources.

    Whoever waits is served in turn by where it comes from, and in its order within one
    source: a source that asks a thousand times delays another by one turn only.

    Twisted's semaphore knows no sources, and hands each turn on from within the one
    before: when many are given back at once, the stack ends.

    When many could go, only some set off in one turn of the reactor: setting off is
    work, and what other clients wait for has its place between.

    Args:
        count: How many may go at once.
        clock: Runs the next turn of the reactor.
    """

    def __init__(self, count: int, clock: IReactorTime) -> None:
        self._free = count
        self._clock = clock
        self._starts = STARTS
        self._waiting: OrderedDict[str, OrderedDict[Deferred[None], None]] = (
            OrderedDict()
        )
        self._handing_on = False

    def take(self, source: str) -> Deferred[None]:
        """Wait for a turn; whoever got one gives it back.

        Args:
            source: Where the request comes from.

        Returns:
            Fires when it is there, and can be cancelled until then.
        """
        turn: Deferred[None] = Deferred(partial(self._leave, source))
        self._waiting.setdefault(source, OrderedDict())[turn] = None
        self._hand_on()
        return turn

    def give_back(self) -> None:
        """End a turn."""
        self._free += 1
        self._hand_on()

    def _leave(self, source: str, turn: Deferred[None]) -> None:
        queue = self._waiting[source]
        del queue[turn]
        if not queue:
            del self._waiting[source]

    def _hand_on(self) -> None:
        if self._handing_on:
            return
        self._handing_on = True
        try:
            while self._free and self._waiting and self._starts:
                self._starts -= 1
                if self._starts == STARTS - 1:
                    self._clock.callLater(0, self._next_turn)
                self._free -= 1
                source, queue = self._waiting.popitem(last=False)
                turn, _ = queue.popitem(last=False)
                if queue:
                    self._waiting[source] = queue
                turn.callback(None)
        finally:
            self._handing_on = False

    def _next_turn(self) -> None:
        self._starts = STARTS
        self._hand_on()
