"""Several observers in the place of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ParamSpec

from twisted.logger import Logger

from proxyrelay.switchboard.events import ForwardObserver

P = ParamSpec("P")

_log = Logger()


def fan_out(observers: Sequence[Callable[P, None]]) -> Callable[P, None]:
    """Call several observers in order.

    A failure of one harms neither the others nor a client.
    """

    def tell(*args: P.args, **kwargs: P.kwargs) -> None:
        for observer in observers:
            try:
                observer(*args, **kwargs)
            except Exception:
                _log.failure("an observer has failed")

    return tell


def fan_out_forwards(observers: Sequence[ForwardObserver]) -> ForwardObserver:
    """The same, without a call between if there is one: messages come by thousands."""
    return observers[0] if len(observers) == 1 else fan_out(observers)
