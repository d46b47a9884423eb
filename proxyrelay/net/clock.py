"""A monotonic clock for the reactor.

Twisted's reactor uses the wall clock, and NTP may set that by any amount. Nothing sets
CLOCK_MONOTONIC. Wall time is for display, the ``exp`` of a token, and certificates.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.internet.base import ReactorBase

Clock = Callable[[], float]
"""Time in seconds: monotonic, or since 1970 for wall time."""


def boottime() -> float:
    """Seconds of a clock that runs on while the process or the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def use_monotonic_time(reactor: Any, seconds: Clock = time.monotonic) -> None:
    """Have a reactor of Twisted use another clock.

    Pending calls keep their distance from now, and so their order in Twisted's heap.
    Checked against Twisted 26.10.0.
    """
    if not isinstance(reactor, ReactorBase) or reactor.seconds is seconds:
        return
    shift = seconds() - reactor.seconds()
    for call in (*reactor._pendingTimedCalls, *reactor._newTimedCalls):
        call.time += shift
        call.seconds = seconds
    reactor.seconds = seconds
