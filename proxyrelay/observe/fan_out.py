"""Several journals in the place of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.logger import Logger

from proxyrelay.observe.null import NullObserver
from proxyrelay.switchboard.events import ConnectionObserver
from proxyrelay.switchboard.messages import PeerConnection
from proxyrelay.switchboard.offers import Offer
from proxyrelay.switchboard.peer import Peer

EVENTS = {name: method for name, method in vars(NullObserver).items() if name[0] != "_"}
"""What a journal hears of, and the methods of one that does nothing about it."""

_log = Logger()


class FanOut(NullObserver):
    """Tells several journals of everything.

    Who has inherited a method of `NullObserver` is not told of that event.

    Args:
        journals: The journals, in the order in which they are told.
    """

    def __init__(self, journals: Sequence[ConnectionObserver]) -> None:
        listening = {
            event: tuple(
                getattr(journal, event)
                for journal in journals
                if getattr(type(journal), event) is not nothing
            )
            for event, nothing in EVENTS.items()
        }
        self._forwarded = listening.pop("forwarded")
        for event, methods in listening.items():
            setattr(self, event, _all(methods))

    def forwarded(
        self, source: Peer, target: Peer, message: PeerConnection, offer: Offer | None
    ) -> None:
        """An offer or answer was handed to its receiver.

        It happens by the thousand: as one of `_all` it would take twice as long.
        """
        try:
            for method in self._forwarded:
                method(source, target, message, offer)
        except Exception:
            _log.failure("a journal has failed")


def _all(methods: Sequence[Callable[..., None]]) -> Callable[..., None]:
    """Call some methods. One that fails harms neither the others nor a client."""

    def tell(*event: Any) -> None:
        for method in methods:
            try:
                method(*event)
            except Exception:  # noqa: PERF203
                _log.failure("a journal has failed")

    return tell
