"""Fairness between the sources of clients: a queue, and a limit on invalid tokens."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

MAX_GRANTS_PER_TURN = 2
"""Grants in one turn of the reactor: an introspection costs 1 ms."""

BURST_TOKENS = 100
"""Invalid tokens in a row from a trusted source. A machine room may share one address,
and all its tokens may expire on one day."""

SECONDS_PER_TOKEN = 1.0
"""Time after which one invalid token is forgiven."""

MAX_SOURCES = 10_000
"""Sources in memory; the oldest one is forgotten."""


class FairSemaphore:
    """A semaphore, round-robin between sources and in order within one source.

    A source with a thousand requests delays another source by one grant only. Grants
    are spread over turns of the reactor: each one starts work, and other clients wait.

    `DeferredSemaphore` has one queue for all, and grants recursively: thousands of
    releases at once overflow the stack.
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
        """Wait for a grant; it needs one `release`. Can be cancelled before."""
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
        self._granting = False

    def _next_turn(self) -> None:
        self._grants_left = MAX_GRANTS_PER_TURN
        self._grant()


class InvalidTokenLimiter:
    """A leaky bucket for each source: made-up tokens must not delay other clients.

    In its methods, ``now`` is monotonic time in seconds.
    """

    def __init__(self) -> None:
        # Time at which the bucket of a source is empty.
        self._empty_at: OrderedDict[str, float] = OrderedDict()

    def trusts(self, source: str, now: float) -> bool:
        """Whether the bucket of a source has room."""
        return self._empty_at.get(source, now) - now < BURST_TOKENS * SECONDS_PER_TOKEN

    def record(self, source: str, now: float) -> None:
        """Count one invalid token of a source."""
        empty_at = max(now, self._empty_at.get(source, now))
        self._empty_at[source] = empty_at + SECONDS_PER_TOKEN
        self._empty_at.move_to_end(source)
        if len(self._empty_at) > MAX_SOURCES:
            self._empty_at.popitem(last=False)
