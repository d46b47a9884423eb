"""Time: durations on a monotonic clock, wall time only for what is shown.

Twisted's reactor goes by the wall clock, which NTP or a resumed machine may set by any
amount. Here it goes by CLOCK_MONOTONIC, which nobody can set. Wall time is for what is
shown, for the ``exp`` of a token, and for certificates.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.internet.base import ReactorBase

Clock = Callable[[], float]
"""Gives the time in seconds: monotonic, or since 1970 where it is called wall time."""


def use_monotonic_time(reactor: Any, seconds: Clock = time.monotonic) -> None:
    """Have a reactor, and all that takes its time from it, go by another clock.

    Calls that are pending keep their distance from now. All of them move alike, so the
    order of Twisted's heap stays. Checked against Twisted 26.10.0.

    Args:
        reactor: The reactor. One that is none of Twisted's own, such as one of tests,
            keeps its clock.
        seconds: Time of the clock.
    """
    if not isinstance(reactor, ReactorBase) or reactor.seconds is seconds:
        return
    shift = seconds() - reactor.seconds()
    for call in (*reactor._pendingTimedCalls, *reactor._newTimedCalls):
        call.time += shift
        call.seconds = seconds
    reactor.seconds = seconds
