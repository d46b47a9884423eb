"""Many deadlines of one length, with one timer for all of them.

A process may stand still, by SIGSTOP or while its machine is moved. Twisted runs timers
before it reads sockets. So work that comes late waits until what came meanwhile was
read: nobody is called late for what lies unread.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

CATCH_UP_SECONDS = 5.0
"""Longest time that late work waits until what came meanwhile was read."""

BACKLOG_SECONDS = 0.02
"""Time from one look at the backlog to the next."""

LATE_SECONDS = 1.0
"""Lateness from which on the process was held up: by SIGSTOP, by the move of its
machine, or by work."""

T = TypeVar("T")


def _never() -> bool:
    return False


class CatchUp:
    """Does work now, or late work after what came meanwhile was read.

    Args:
        clock: Gives the time in seconds, and runs the next turn of the reactor.
        busy: Tells whether more has come than was read so far.
    """

    def __init__(self, clock: IReactorTime, busy: Callable[[], bool] = _never) -> None:
        self._clock = clock
        self._busy = busy
        self._call: IDelayedCall | None = None

    def do(self, due: float, work: Callable[[], None]) -> None:
        """Do work that was due at a time. Only one piece of work may wait.

        Args:
            due: The time, in seconds of the clock.
            work: The work.
        """
        now = self._clock.seconds()
        if now - due > LATE_SECONDS:
            # The next turn of the reactor begins with reading.
            self._wait(0, now + CATCH_UP_SECONDS, work)
        else:
            work()

    def stop(self) -> bool:
        """Forget work that waits.

        Returns:
            Whether there was any.
        """
        if self._call is None:
            return False
        self._call.cancel()
        self._call = None
        return True

    def _wait(self, wait: float, latest: float, work: Callable[[], None]) -> None:
        self._call = self._clock.callLater(wait, self._look, latest, work)

    def _look(self, latest: float, work: Callable[[], None]) -> None:
        self._call = None
        if self._busy() and self._clock.seconds() < latest:
            self._wait(BACKLOG_SECONDS, latest, work)
        else:
            work()


class Heartbeat:
    """Calls at an interval; after the process was held up, not before reading.

    Args:
        clock: Gives the time in seconds, and runs the timer.
        seconds: Interval.
        beat: Called each time.
        busy: Tells whether more has come than was read so far.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        seconds: float,
        beat: Callable[[], None],
        busy: Callable[[], bool] = _never,
    ) -> None:
        self._clock = clock
        self._seconds = seconds
        self._beat = beat
        self._catch_up = CatchUp(clock, busy)
        self._due: float | None = None
        self._timer: IDelayedCall | None = None

    @property
    def overdue(self) -> bool:
        """Whether the process was held up, and has not caught up yet."""
        return (
            self._due is not None and self._clock.seconds() - self._due > LATE_SECONDS
        )

    def start(self) -> None:
        """Begin."""
        self._due = self._clock.seconds() + self._seconds
        self._timer = self._clock.callLater(self._seconds, self._look, self._due)

    def stop(self) -> None:
        """End. May be called again."""
        self._due = None
        self._catch_up.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, due: float) -> None:
        self._timer = None
        self._catch_up.do(due, self._act)

    def _act(self) -> None:
        try:
            self._beat()
        except Exception:
            # There is a next time.
            self._log.failure("a regular look failed")
        if self._due is not None:
            self.start()


class TimeoutQueue(Generic[T]):
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
        busy: Callable[[], bool] = _never,
    ) -> None:
        self._clock = clock
        self._catch_up = CatchUp(clock, busy)
        self._slack = slack
        self._seconds = seconds
        self._expired = expired
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
        if self._catch_up.stop():
            self._timer = None
        elif self._timer is not None and self._timer.active():
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        # The timer stays, so that what begins meanwhile sets no other one.
        due = math.inf if self._timer is None else self._timer.getTime()
        self._catch_up.do(due, self._act)

    def _act(self) -> None:
        # What begins meanwhile sets no timer of its own: this one has not ended yet.
        while self._ends:
            now = self._clock.seconds()
            item, end = next(iter(self._ends.items()))
            if now < end:
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
