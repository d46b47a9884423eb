"""A clock for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock


class EagerClock(Clock):
    """Where work is paced, the next turn of the reactor comes at once."""

    def turn(self, passed: float = 0.0) -> None:
        """Run only what is put off already, as one turn of the reactor does."""
        self.rightNow += passed
        due = [call for call in self.calls if call.getTime() <= self.rightNow]
        for call in sorted(due, key=lambda call: call.getTime()):
            if call.active():
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)

    def callLater(  # noqa: N802
        self,
        delay: float,
        callable: Callable[..., object],  # noqa: A002
        *args: Any,
        **kw: Any,
    ) -> IDelayedCall:
        call = super().callLater(delay, callable, *args, **kw)
        if getattr(callable, "__name__", None) == "_next_turn":
            call.cancel()
            callable(*args, **kw)
        return call
