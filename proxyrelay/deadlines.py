"""Many deadlines of one length, with one timer for all of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

PATIENCE = 5.0
"""Seconds for which what has come meanwhile may take to be read."""

LATE = 1.0
"""Seconds by which a look at the deadlines comes too late only if the process was held
up: by SIGSTOP, by the move of its machine, or by work."""

T = TypeVar("T")


class Deadlines(Generic[T]):
    """What has a deadline, the earliest first.

    Since all have the same length, those that begin last end last: there is nothing to
    sort, and to begin or end one is a step in a linked list. A timer of Twisted's for
    each would take 0.8 kB and several times as long.

    Args:
        clock: Tells the time, and runs the timer.
        seconds: How long each deadline is.
        expired: Called with what has reached its deadline; after the process was held
            up, not before what has come meanwhile was read.
        slack: Seconds from one look at the deadlines to the next, at least: how much
            later it may be called, so that thousands do not take a wake-up each.
        busy: Tells whether more has come than could be read yet.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        seconds: float,
        expired: Callable[[T], None],
        slack: float = 0.0,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._clock = clock
        self._slack = slack
        self._seconds = seconds
        self._expired = expired
        self._busy = busy
        self._ends: OrderedDict[T, float] = OrderedDict()
        self._timer: IDelayedCall | None = None

    def __len__(self) -> int:
        return len(self._ends)

    def begin(self, item: T) -> None:
        """Let the deadline of something begin now, which has none."""
        self._ends[item] = self._clock.seconds() + self._seconds
        if self._timer is None:
            self._timer = self._clock.callLater(self._seconds, self._look)

    def end(self, item: T) -> None:
        """Forget the deadline of something, if it has one."""
        self._ends.pop(item, None)

    def change(self, seconds: float, slack: float) -> None:
        """Give deadlines another length.

        Of those that run, what is left is stretched or shrunk alike: they keep their
        order, and none comes of the change itself.

        Args:
            seconds: How long each deadline is; more than 0.
            slack: As for the class.
        """
        if (seconds, slack) == (self._seconds, self._slack):
            return
        now, scale = self._clock.seconds(), seconds / self._seconds
        self._seconds, self._slack = seconds, slack
        for item, end in self._ends.items():
            self._ends[item] = now + max(0.0, end - now) * scale
        if self._timer is not None and self._timer.active():
            left = min(self._ends.values(), default=now + seconds) - now
            self._timer.reset(max(0.0, left))

    def stop(self) -> None:
        """Forget everything."""
        self._ends.clear()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        now = self._clock.seconds()
        if self._timer is not None and now - self._timer.getTime() > LATE:
            # Timers run before sockets are read. What has come while the process was
            # held up is heard first.
            self._timer = self._clock.callLater(0, self._act_when_heard, now + PATIENCE)
        else:
            self._act()

    def _act_when_heard(self, latest: float) -> None:
        if self._busy() and self._clock.seconds() < latest:
            self._timer = self._clock.callLater(0, self._act_when_heard, latest)
        else:
            self._act()

    def _act(self) -> None:
        # What begins meanwhile sets no timer of its own: this one has not ended yet.
        while self._ends:
            now = self._clock.seconds()
            item, end = next(iter(self._ends.items()))
            # A clock that was set back must not make anybody wait for longer.
            if now < end <= now + self._seconds:
                wait = max(end - now, self._slack)
                self._timer = self._clock.callLater(wait, self._look)
                return
            del self._ends[item]
            try:
                self._expired(item)
            except Exception:
                # The others have nothing to do with it.
                self._log.failure("what follows a deadline failed")
        self._timer = None
