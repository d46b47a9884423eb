"""What becomes of messages that are not delivered, or not answered. Pure.

Such a message goes back to its sender with an error, or the shield drops it: the relay
neither passes it on nor returns it. The shield is what ``[offers]`` turns on: it keeps
from stock clients all messages that would end them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import TypeVar, cast

from proxyrelay.errors import PeerGone
from proxyrelay.switchboard import events, messages
from proxyrelay.switchboard.directory import Directory
from proxyrelay.switchboard.events import BounceReason, MessageEvent, Observer
from proxyrelay.switchboard.messages import PeerConnection
from proxyrelay.switchboard.offers import DropReason, Offer, OfferTable
from proxyrelay.switchboard.peer import Peer, Sender, Sent
from proxyrelay.switchboard.registry import Registry

SENDER_WAIT_SECONDS = 28.0
"""Age of an offer after which its sender gets neither error nor answer. Stock clients
wait for 30 s, and end at a text that comes later."""

SILENCES = 2
"""Unanswered offers in a row, after which a client that came back counts as deaf."""

WITNESSES = 3
"""Addresses that must have made such offers before the client is closed. One stranger
cannot bring that about."""

UNKNOWN = (
    "Cannot forward peer connection message to peer {} because this peer is not "
    "registered this relay server."
)
PARTED = (
    "The requested peer {} is not connected to this relay server, which is being "
    "replaced: it may be connected to the one that has taken over."
)
"""Error texts for unknown peers. Clients match the start of the first one, sic."""

FOREIGN = "The requested peer {} is owned by a different user."
BUSY = "The requested peer {} does not read what the relay server sends to it."
LEFT = "The requested peer {} left before it answered."
CROSSED = "The requested peer {} has made an offer itself, which is on its way."
SELF = "The requested peer {} is the client itself."
SILENT = "The requested peer {} did not answer in time."
DEAF = "The requested peer {} did not answer in time. It must probably be started anew."
FULL = "Too many offers to or from the requested peer {} wait for an answer."
SOURCE = "The source {1} is not the UUID {2} that this client has registered."

TEXTS: Mapping[BounceReason, str] = {
    BounceReason.FOREIGN: FOREIGN,
    BounceReason.BUSY: BUSY,
    BounceReason.LEFT: LEFT,
    BounceReason.CROSSED: CROSSED,
    BounceReason.SILENT: SILENT,
    BounceReason.DEAF: DEAF,
    BounceReason.FULL: FULL,
    BounceReason.SELF: SELF,
    BounceReason.SOURCE: SOURCE,
}
"""Error text of each reason, for the UUIDs of the peer, the source and the sender. That
of `BounceReason.UNKNOWN` may change."""


class Undelivered:
    """Returns messages to their senders, or drops them.

    Attributes:
        table: The outstanding offers.
        unknown_text: Error text for an unknown peer, with ``{}`` for its UUID.
        directory: Clients of other relays; None without a cluster.
    """

    def __init__(
        self,
        registry: Registry,
        observer: Observer,
        clock: Callable[[], float],
        leave: Callable[[Peer, str], None],
    ) -> None:
        self.table = OfferTable()
        self.unknown_text = UNKNOWN
        self.directory: Directory | None = None
        self._registry = registry
        self._observer = observer
        self._clock = clock
        self._leave = leave
        self._orphans: deque[Offer] = deque()
        self._returning = False

    def drop(self, sent: Sent, why: DropReason, offer: Offer | None = None) -> None:
        """Drop a message that would end its receiver, or its sender if it came back.

        An offer that was outstanding may end with it.
        """
        sent.registration.dropped += 1
        self._observer(
            about(
                events.Shielded,
                sent,
                reason=why.value,
                seconds=self._age(offer),
                why=why,
                is_repeat=sent.registration.dropped > 1,
                is_audited=sent.registration.dropped == 1 or offer is not None,
            )
        )

    def send_back(
        self, sent: Sent, why: BounceReason, offer: Offer | None = None
    ) -> None:
        """Send a message back to its sender with an error.

        An offer that was outstanding may end with it.
        """
        message = sent.message
        error = TEXTS.get(why, self.unknown_text).format(
            message.peer_uuid, message.source_uuid, sent.registration.uuid
        )
        target_address = None
        if offer is not None and message.description_type == "offer":
            target_address = offer.target_address
        self._observer(
            about(
                events.Returned,
                sent,
                reason=error,
                target_address=target_address,
                seconds=self._age(offer),
                why=why,
            )
        )
        # Only messages of this relay's own clients come here.
        self.answer(cast(Peer, sent.peer), messages.echo(message, error))

    def answer(self, peer: Peer, text: bytes) -> None:
        """Send a peer the relay's own answer."""
        try:
            peer.answer(text)
        except PeerGone:
            self._leave(peer, "gone while it was answered")

    def bounce(self, offer: Offer, why: BounceReason) -> None:
        """Return an offer to its sender, unless it is closed or comes too late."""
        sent, text = self.sent(offer), offer.text
        if not self.table.close(offer) or sent is None:
            return
        if offer.origin is not None:
            if self.directory is not None:
                self.directory.give_back(offer, why, text)
            return
        if self.is_late(offer):
            self.drop(sent, DropReason.LATE, offer)
        else:
            self.send_back(sent, why, offer)

    def sent(self, offer: Offer) -> Sent | None:
        """The message of an offer without the description; None if its sender left."""
        peer = offer.origin or self._registry.get(offer.source)
        if peer is None or peer.registration is None:
            return None
        message = PeerConnection(offer.source, offer.name, offer.target, "offer", "")
        return Sent(peer, peer.registration, message, offer.text or b"")

    def is_late(self, offer: Offer) -> bool:
        """Whether the sender waits no longer, since the process stood still."""
        return self._clock() - offer.since > SENDER_WAIT_SECONDS

    def _age(self, offer: Offer | None) -> float | None:
        return None if offer is None else self._clock() - offer.since

    # -- offers without an answer

    def report(
        self, kind: Callable[..., MessageEvent], offer: Offer, reason: str
    ) -> None:
        """Report an offer that ends without a text for its sender, unless that left."""
        sent = self.sent(offer)
        if sent is not None:
            self._observer(
                about(
                    kind,
                    sent,
                    target_address=offer.target_address,
                    seconds=self._age(offer),
                    reason=reason,
                )
            )

    def report_abandoned(self, uuid: str) -> None:
        """Report the outstanding offers of a client that is about to leave."""
        for offer in self.table.of(uuid):
            if offer.source == uuid and offer.origin is None:
                why = "its sender left before it was answered"
                self.report(events.Abandoned, offer, why)

    def abandon(self, uuid: str) -> None:
        """Return the offers that a client can no longer answer, since it left.

        Its own offers vanish while they wait. Others stay in the table, so that the
        answer goes back to the peer. The peer then ends its half of the connection,
        on which the next offer of the client would fail.
        """
        for offer in self.table.of(uuid):
            if offer.target == uuid and (offer.origin or not offer.waits):
                self._orphans.append(offer)
            elif offer.waits and offer.source == uuid:
                self.table.close(offer)
        if self._returning:
            return  # The outer loop returns them: no recursion over clients.
        self._returning = True
        try:
            while self._orphans:
                self.bounce(self._orphans.popleft(), BounceReason.LEFT)
        finally:
            self._returning = False

    def give_up(self, offer: Offer) -> Peer | None:
        """Return an offer that was not answered in time.

        Returns:
            The receiver, if enough addresses witness that it is deaf.
        """
        target = self._registry.get(offer.target)
        registration = None if target is None else target.registration
        if target is None or registration is None or offer.waits:
            is_away = target is None and offer.waits
            self.bounce(offer, BounceReason.UNKNOWN if is_away else BounceReason.SILENT)
            return None
        registration.unanswered += 1
        if len(registration.unheard) < WITNESSES:
            registration.unheard |= {offer.place}
        if (
            registration.is_reconnect
            and registration.unanswered >= SILENCES
            and not registration.deaf
        ):
            registration.deaf = True
            self._observer(
                events.Deafness(
                    *(registration.uuid, registration.name),
                    *(target.user.sub, target.address),
                    seconds=self._clock() - registration.registered_at,
                )
            )
        is_deaf = registration.deaf
        self.bounce(offer, BounceReason.DEAF if is_deaf else BounceReason.SILENT)
        is_proven = is_deaf and len(registration.unheard) >= WITNESSES
        return target if is_proven else None


E = TypeVar("E", bound=MessageEvent)


def about(kind: Callable[..., E], sent: Sent, **more: object) -> E:
    """An event about a message of a peer, whatever UUID the message claims."""
    return kind(
        kind=sent.message.description_type,
        source=sent.registration.uuid,
        target=sent.message.peer_uuid,
        user=sent.peer.user.sub,
        address=sent.peer.address,
        **more,
    )


def forwarded(
    source: Sender, target: Peer, message: PeerConnection
) -> events.Forwarded:
    """The event of a message that has reached its receiver."""
    return events.Forwarded(
        kind=message.description_type,
        source=message.source_uuid,
        target=message.peer_uuid,
        user=source.user.sub,
        address=source.address,
        target_address=target.address,
    )
