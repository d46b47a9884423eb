"""Calls at an interval that a reload may change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure


class Repeat:
    """Calls at an interval. A call that fails is logged, and is the last one.

    Args:
        call: The call.
        clock: Runs the interval.
        failure: Text of the log line about a failure.
    """

    _log = Logger()

    def __init__(self, call: Callable[[], object], clock: Any, failure: str) -> None:
        self._loop = LoopingCall(call)
        self._loop.clock = clock
        self._failure = failure

    def every(self, seconds: float, *, now: bool = False) -> None:
        """Call at an interval from now on; 0 for never. The same one goes on."""
        if self._loop.running and self._loop.interval != seconds:
            self._loop.stop()
        if seconds and not self._loop.running:
            self._loop.start(seconds, now).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        self._log.failure("{what}", failure, what=self._failure)
