"""Events that are logged while a test runs."""

from __future__ import annotations

from typing import Any, cast

from twisted.logger import (
    ILogObserver,
    LogEvent,
    formatEvent,
    globalLogPublisher,
)
from twisted.trial.unittest import SynchronousTestCase


class Capture:
    """Keeps what is logged while a test runs."""

    def __init__(self, case: SynchronousTestCase) -> None:
        self.events: list[LogEvent] = []
        observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(observer)
        case.addCleanup(globalLogPublisher.removeObserver, observer)

    def lines(self, *levels: Any) -> list[str]:
        """The texts of the relay's own events, of some levels or of all."""
        return [
            formatEvent(event)
            for event in self.events
            if event.get("log_namespace", "").startswith("proxyrelay")
            and (not levels or event["log_level"] in levels)
        ]
