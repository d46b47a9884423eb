"""Several observers in the place of one."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.logger import Logger

from proxyrelay.switchboard.event import Event, ForwardObserver, Observer
from proxyrelay.switchboard.messages import PeerConnection
from proxyrelay.switchboard.offers import Offer
from proxyrelay.switchboard.peer import Peer, Sender

_log = Logger()


def fan_out(observers: Sequence[Observer]) -> Observer:
    """Tell several observers of each event, in order.

    A failure of one harms neither the others nor a client.
    """

    def tell(event: Event) -> None:
        for observer in observers:
            try:
                observer(event)
            except Exception:  # noqa: PERF203
                _log.failure("an observer has failed")

    return tell


def fan_out_forwards(observers: Sequence[ForwardObserver]) -> ForwardObserver:
    """Tell several observers of each forwarded message, in order.

    A failure harms no client. One handler serves all, and a single observer has none:
    messages come by the thousand.
    """
    if len(observers) == 1:
        return observers[0]

    def tell(
        source: Sender, target: Peer, message: PeerConnection, offer: Offer | None
    ) -> None:
        try:
            for observer in observers:
                observer(source, target, message, offer)
        except Exception:
            _log.failure("an observer has failed")

    return tell
