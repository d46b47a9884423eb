"""Numbers of events, and how long things take. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from proxyrelay.net.timing import FAST, SLOW, Timing
from proxyrelay.switchboard.events import Event
from proxyrelay.switchboard.messages import PeerConnection
from proxyrelay.switchboard.offers import Offer
from proxyrelay.switchboard.peer import Peer, Sender

KNOWN_CODES = frozenset({*range(1000, 1016), *range(4000, 4005)})
"""Close codes with numbers of their own; a client can choose any."""


class RelayCounters:
    """Counts events. Numbers only grow.

    Args:
        clock: Gives the time in seconds, as it does to the rules.

    Attributes:
        closes: Close handshakes, by the code (0 for an unknown one) and by whether the
            client began it.
        received_bytes: Bytes of WebSocket and HTTP from clients.
        sent_bytes: Bytes of WebSocket and HTTP to clients.
        answering: From the passing on of an offer to its answer.
        waiting: From an offer that waits to its passing on.
        handshakes: From the connection to the end of the opening handshake.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # By the name of the event, then by its label.
        self._events: defaultdict[str, Counter[Any]] = defaultdict(Counter)
        self.accepted = 0
        self.closes: Counter[tuple[int, bool]] = Counter()
        self.offers = 0
        self.answers = 0
        self.received_bytes = 0
        self.sent_bytes = 0
        self.answering = Timing(SLOW)
        self.waiting = Timing(SLOW)
        self.handshakes = Timing(FAST)

    def __call__(self, event: Event) -> None:
        """Count an event."""
        label = getattr(event, event.label) if event.label else None
        self._events[event.event][label] += 1

    def by_label(self, event: type[Event]) -> Counter[Any]:
        """Numbers of an event, by the field that its class names as `Event.label`."""
        return self._events[event.event]

    def total(self, event: type[Event]) -> int:
        """Number of an event, whatever its label is."""
        return self._events[event.event].total()

    def forwarded(
        self,
        source: Sender,  # noqa: ARG002
        target: Peer,  # noqa: ARG002
        message: PeerConnection,
        offer: Offer | None,
    ) -> None:
        """Count a forwarded message."""
        if message.description_type == "answer":
            self.answers += 1
            if offer is not None:
                passed_on = offer.since + offer.waited
                self.answering.took(self._clock() - passed_on)
        else:
            self.offers += 1
            if offer is not None and offer.waits:
                self.waiting.took(offer.waited)

    def closed(self, code: int | None, by_client: bool) -> None:
        """Count a close handshake; the code is None if the client names none."""
        known = 1005 if code is None else code
        self.closes[known if known in KNOWN_CODES else 0, by_client] += 1
