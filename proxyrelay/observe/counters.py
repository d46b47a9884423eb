"""How often everything happens, as plain numbers. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from http import HTTPStatus

from proxyrelay.errors import Refusal
from proxyrelay.net.timing import FAST, SLOW, Timing
from proxyrelay.observe.null import NullObserver
from proxyrelay.switchboard.events import BounceReason
from proxyrelay.switchboard.messages import PeerConnection
from proxyrelay.switchboard.offers import Offer
from proxyrelay.switchboard.peer import LeaveReason, Peer, Registration

KNOWN_CODES = frozenset({*range(1000, 1016), *range(4000, 4005)})
"""Close codes that are counted one by one; a client can choose any."""


class RelayCounters(NullObserver):
    """A journal that counts.

    Numbers only grow. It is told of each message that is forwarded, so each event is a
    few steps here, and what is to be made of the numbers is somebody else's.

    Args:
        clock: Gives the time in seconds, as the relay's does.

    Attributes:
        accepted: Connections.
        registrations: Accepted ones, further ones of a client included.
        departures: Clients that no longer hold their UUID.
        refusals: Clients that were closed for what they did or are, by the code.
        rejections: Requests that were answered with an HTTP error, by the status.
        failures: Clients that broke the WebSocket protocol, by the code.
        dropped_connections: Those without a UUID that ended without a close handshake.
        probes: Connections that their clients have closed, and sent nothing.
        closes: Close handshakes, by the code (0 for an unknown one) and by whether the
            client has begun it.
        offers: Forwarded ones.
        answers: Forwarded ones.
        returns: Messages that went back to their senders.
        holds: Offers that had to wait for a peer to come back.
        slowdowns: Clients that were read from more slowly.
        received_bytes: Bytes of WebSocket and HTTP that clients have sent.
        sent_bytes: The same that they were sent.
        answering: From the passing on of an offer to its answer.
        waiting: From an offer that waits to its passing on.
        handshakes: From the connection to the end of the opening handshake.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.accepted = 0
        self.registrations = 0
        self.departures: Counter[LeaveReason] = Counter()
        self.refusals: Counter[int] = Counter()
        self.rejections: Counter[int] = Counter()
        self.failures: Counter[int] = Counter()
        self.dropped_connections = 0
        self.probes = 0
        self.closes: Counter[tuple[int, bool]] = Counter()
        self.offers = 0
        self.answers = 0
        self.returns: Counter[BounceReason] = Counter()
        self.holds = 0
        self.slowdowns = 0
        self.received_bytes = 0
        self.sent_bytes = 0
        self.answering = Timing(SLOW)
        self.waiting = Timing(SLOW)
        self.handshakes = Timing(FAST)

    def registered(self, peer: Peer, registration: Registration) -> None:  # noqa: ARG002
        """A peer holds a UUID from now on, or once more."""
        self.registrations += 1

    def left(
        self,
        peer: Peer,  # noqa: ARG002
        registration: Registration,  # noqa: ARG002
        why: str,  # noqa: ARG002
        cause: LeaveReason,
    ) -> None:
        """A peer no longer holds its UUID."""
        self.departures[cause] += 1

    def refused(self, peer: Peer, refusal: Refusal) -> None:  # noqa: ARG002
        """A peer is being closed for what it did or is."""
        self.refusals[refusal.code] += 1

    def forwarded(
        self,
        source: Peer,
        target: Peer,  # noqa: ARG002
        message: PeerConnection,
        offer: Offer | None,
    ) -> None:
        """An offer or answer was handed to its receiver."""
        if message.description_type == "answer":
            self.answers += 1
            if offer is not None:
                passed_on = offer.since + offer.waited
                self.answering.took(self._clock() - passed_on)
        else:
            self.offers += 1
            if offer is not None and offer.text is not None:
                self.waiting.took(offer.waited)
            if offer is not None and source.registration is not None:
                source.registration.offered = offer.since

    def returned(
        self,
        source: Peer,  # noqa: ARG002
        message: PeerConnection,  # noqa: ARG002
        error: str,  # noqa: ARG002
        why: BounceReason,
    ) -> None:
        """An offer or answer went back to its sender with an error."""
        self.returns[why] += 1

    def held(self, source: Peer, message: PeerConnection) -> None:  # noqa: ARG002
        """An offer waits for its receiver, which has just left, to come back."""
        self.holds += 1

    def rejected(self, address: str, status: HTTPStatus, detail: str) -> None:  # noqa: ARG002
        """A request was answered with an HTTP error."""
        self.rejections[status.value] += 1

    def failed(self, address: str, code: int, detail: str) -> None:  # noqa: ARG002
        """A client broke the WebSocket protocol and is closed with a code."""
        self.failures[code] += 1

    def dropped(self, address: str, why: str) -> None:  # noqa: ARG002
        """A connection that holds no UUID ended without a close handshake."""
        self.dropped_connections += 1

    def probed(self, address: str) -> None:  # noqa: ARG002
        """A connection ended that has sent nothing: a load balancer's probe."""
        self.probes += 1

    def slowed(self, address: str) -> None:  # noqa: ARG002
        """A client sends faster than it may, and is read from more slowly."""
        self.slowdowns += 1

    def closed(self, code: int | None, by_client: bool) -> None:
        """A close handshake has begun.

        Args:
            code: Its code; None if the client has named none.
            by_client: Whether the client has begun it.
        """
        known = 1005 if code is None else code
        self.closes[known if known in KNOWN_CODES else 0, by_client] += 1
