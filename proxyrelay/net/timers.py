"""Timeouts and intervals that survive a pause of the process.

The timeouts of connections are in `proxyrelay.websocket.lifecycle`.

SIGSTOP or a moved machine may pause the process. Twisted runs timers before it reads
sockets. So late work waits until the unread data has been read: a client is not timed
out for data that lies in its socket.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

CATCH_UP_SECONDS = 5.0
"""Longest wait of late work for the unread data."""

BACKLOG_SECONDS = 0.02
"""Interval between two checks of the backlog."""

LATE_SECONDS = 1.0
"""Lateness of a timer that means a pause of the process."""

T = TypeVar("T")


class TimeoutQueue(Generic[T]):
    """Items with timeouts of one length, and one timer for all of them.

    Equal timeouts end in the order of their beginning, so nothing is sorted. A Twisted
    timer for each item would take 0.8 kB and several times as long.

    Args:
        clock: Runs the timer.
        seconds: Length of each timeout.
        expired: Called with each expired item; after a pause of the process, once the
            unread data is read.
        slack: Seconds between two checks, at least. Calls may be this much later, so
            that thousands of items share a wake-up.
        busy: Whether readable sockets still wait to be read.
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
        self._busy = busy
        self._slack = slack
        self._seconds = seconds
        self._expired = expired
        self._ends: OrderedDict[T, float] = OrderedDict()
        self._timer: IDelayedCall | None = None

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def overdue(self) -> bool:
        """Whether the process was paused, and a timeout waits for the unread data."""
        now = self._clock.seconds()
        return now - next(iter(self._ends.values()), now) > LATE_SECONDS

    def begin(self, item: T) -> None:
        """Begin the timeout of an item. The item has no other timeout."""
        self._ends[item] = self._clock.seconds() + self._seconds
        if self._timer is None:
            self._timer = self._clock.callLater(self._seconds, self._look)

    def end(self, item: T) -> None:
        """End the timeout of an item, if it has one."""
        self._ends.pop(item, None)

    def change(self, seconds: float, slack: float) -> None:
        """Change the length of all timeouts, more than 0.

        The remaining time of each is scaled. So the order stays, and none expires at
        the change itself.
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
        """Forget everything. May be called again."""
        self._ends.clear()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        # The timer stays set, so a new item starts no second one.
        due = math.inf if self._timer is None else self._timer.getTime()
        now = self._clock.seconds()
        if now - due > LATE_SECONDS:
            # The next turn of the reactor begins with reading.
            self._timer = self._clock.callLater(
                0, self._catch_up, now + CATCH_UP_SECONDS
            )
        else:
            self._act()

    def _catch_up(self, latest: float) -> None:
        if self._busy() and self._clock.seconds() < latest:
            self._timer = self._clock.callLater(BACKLOG_SECONDS, self._catch_up, latest)
        else:
            self._act()

    def _act(self) -> None:
        # A new item starts no timer: the present one has not ended yet.
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
                # The other items expire all the same.
                self._log.failure("what follows a deadline failed")
        self._timer = None


class Heartbeat:
    """Calls at an interval; after a pause of the process, once the unread data is read.

    Args:
        clock: Runs the timer.
        seconds: Interval.
        beat: Called each time.
        busy: Whether readable sockets still wait to be read.
    """

    def __init__(
        self,
        clock: IReactorTime,
        seconds: float,
        beat: Callable[[], None],
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._beat = beat
        self._queue = TimeoutQueue(clock, seconds, Heartbeat._act, busy=busy)

    @property
    def overdue(self) -> bool:
        """Whether the process was paused, and has not caught up yet."""
        return self._queue.overdue

    def start(self) -> None:
        """Begin."""
        self._queue.begin(self)

    def stop(self) -> None:
        """End. May be called again."""
        self._queue.stop()

    def _act(self) -> None:
        self._queue.begin(self)
        self._beat()
