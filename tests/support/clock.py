"""A clock for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock


class EagerClock(Clock):
    """Where work is paced, the next turn of the reactor comes at once."""

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
