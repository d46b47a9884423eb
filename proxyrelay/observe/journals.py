"""Several journals in the place of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.logger import Logger

from proxyrelay.observe.quiet import Quiet
from proxyrelay.websocket import ConnectionJournal

EVENTS = {name: method for name, method in vars(Quiet).items() if name[0] != "_"}
"""What a journal hears of, and the methods of one that does nothing about it."""

_log = Logger()


class Journals(Quiet):
    """Tells several journals of everything.

    Who has inherited a method of `Quiet` is not told of that event. Since messages are
    forwarded by the thousand, it is found out once who is.

    Args:
        journals: The journals, in the order in which they are told.
    """

    def __init__(self, journals: Sequence[ConnectionJournal]) -> None:
        for event, nothing in EVENTS.items():
            methods = [
                getattr(journal, event)
                for journal in journals
                if getattr(type(journal), event) is not nothing
            ]
            setattr(self, event, _all(methods))


def _all(methods: list[Callable[..., None]]) -> Callable[..., None]:
    """Call some methods. One that fails harms neither the others nor a client."""

    def tell(*event: Any) -> None:
        for method in methods:
            try:
                method(*event)
            except Exception:  # noqa: PERF203
                _log.failure("a journal has failed")

    return tell
