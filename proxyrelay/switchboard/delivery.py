"""Delivery of a message, or its return to the sender. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from proxyrelay.errors import PeerBusy, PeerGone
from proxyrelay.switchboard import events, messages
from proxyrelay.switchboard.directory import Alone, Directory
from proxyrelay.switchboard.events import (
    BounceReason,
    ForwardObserver,
    MessageEvent,
    Observer,
)
from proxyrelay.switchboard.messages import PeerConnection
from proxyrelay.switchboard.offers import DropReason, Offer, OfferTable
from proxyrelay.switchboard.peer import Peer, Registration
from proxyrelay.switchboard.registry import Registry

PATIENCE_SECONDS = 28.0
"""Age of an offer after which its sender gets neither error nor answer. Stock clients
wait for 30 s, and end at a text that comes later."""

FOREIGN = "The requested peer {} is owned by a different user."
BUSY = "The requested peer {} does not read what the relay server sends to it."
LEFT = "The requested peer {} left before it answered."
CROSSED = "The requested peer {} has made an offer itself, which is on its way."
SELF = "The requested peer {} is the client itself."
SILENT = "The requested peer {} did not answer in time."
DEAF = "The requested peer {} did not answer in time. It must probably be started anew."
FULL = "Too many offers to or from the requested peer {} wait for an answer."

TEXTS: Mapping[BounceReason, str] = {
    BounceReason.FOREIGN: FOREIGN,
    BounceReason.BUSY: BUSY,
    BounceReason.LEFT: LEFT,
    BounceReason.CROSSED: CROSSED,
    BounceReason.SILENT: SILENT,
    BounceReason.DEAF: DEAF,
    BounceReason.FULL: FULL,
    BounceReason.SELF: SELF,
}
"""Error text of each reason. `BounceReason.UNKNOWN` has that of the directory."""


class Delivery:
    """Hands messages to their receivers, and errors to their senders.

    Args:
        registry: The peers here.
        observer: Hears of each event.
        on_forward: Hears of each forwarded message.
        clock: Gives the time in seconds.
        leave: Forgets a peer that turns out to be gone.

    Attributes:
        directory: The peers elsewhere. It may change.
        ledger: The outstanding offers.
    """

    def __init__(
        self,
        registry: Registry,
        observer: Observer,
        on_forward: ForwardObserver,
        clock: Callable[[], float],
        leave: Callable[[Peer, str], None],
    ) -> None:
        self.directory: Directory = Alone()
        self.ledger = OfferTable()
        self._registry = registry
        self._observer = observer
        self._on_forward = on_forward
        self._clock = clock
        self._leave = leave

    def deliver(
        self,
        peer: Peer,
        message: PeerConnection,
        text: bytes,
        offer: Offer | None = None,
    ) -> BounceReason | None:
        """Hand a text to its receiver.

        Returns:
            Why that cannot be; None if it was done.
        """
        uuid = message.peer_uuid
        target = self._registry.get(uuid) or self.directory.find(uuid)
        if target is None:
            return BounceReason.UNKNOWN
        # The object is mostly the same, which saves the comparison of its fields.
        if target.user is not peer.user and target.user != peer.user:
            return BounceReason.FOREIGN
        try:
            target.deliver(text)
        except PeerBusy:
            return BounceReason.BUSY
        except PeerGone:
            self._leave(target, "gone while it was sent a message")
            return BounceReason.UNKNOWN
        sender = peer.registration
        if sender is not None:
            sender.sent += 1
            if offer is not None and message.description_type == "offer":
                sender.last_offer = offer.since
                offer.target_address = target.address
        if target.registration is not None:
            target.registration.received += 1
        self._on_forward(peer, target, message, offer)
        return None

    def drop(
        self,
        peer: Peer,
        registration: Registration,
        message: PeerConnection,
        why: DropReason,
        offer: Offer | None = None,
    ) -> None:
        """Drop a message that would end its receiver.

        Args:
            peer: The sender.
            registration: The sender's.
            message: The message.
            why: The reason.
            offer: The offer that ends with it, if it was outstanding.
        """
        registration.dropped += 1
        self._observer(
            about(
                events.Shielded,
                peer,
                message,
                reason=why.value,
                seconds=self.age(offer),
                why=why,
                is_repeat=registration.dropped > 1,
                is_audited=registration.dropped == 1 or offer is not None,
            )
        )

    def send_back(
        self,
        peer: Peer,
        message: PeerConnection,
        why: BounceReason,
        offer: Offer | None = None,
    ) -> None:
        """Send a message back to its sender.

        Args:
            peer: The sender.
            message: The message.
            why: The reason.
            offer: The offer that ends with it, if it was outstanding.
        """
        error = self._error(peer, message, why)
        target_address = None
        if offer is not None and message.description_type == "offer":
            target_address = offer.target_address
        self._observer(
            about(
                events.Returned,
                peer,
                message,
                reason=error,
                target_address=target_address,
                seconds=self.age(offer),
                why=why,
            )
        )
        self.answer(peer, messages.echo(message, error))

    def _error(self, peer: Peer, message: PeerConnection, why: BounceReason) -> str:
        if why is BounceReason.SOURCE and peer.registration is not None:
            return (
                f"The source {message.source_uuid} is not the UUID "
                f"{peer.registration.uuid} that this client has registered."
            )
        text = TEXTS.get(why, self.directory.missing)
        return text.format(message.peer_uuid)

    def answer(self, peer: Peer, text: bytes) -> None:
        """Send a peer the relay's own answer."""
        try:
            peer.answer(text)
        except PeerGone:
            self._leave(peer, "gone while it was answered")

    def bounce(self, offer: Offer, why: BounceReason) -> None:
        """Return an offer to its sender, unless it is closed."""
        source = self._registry.get(offer.source)
        if not self.ledger.close(offer) or source is None:
            return
        registration, request = source.registration, request_of(offer)
        if registration is not None and self.is_late(offer):
            self.drop(source, registration, request, DropReason.LATE, offer)
        else:
            self.send_back(source, request, why, offer)

    def age(self, offer: Offer | None) -> float | None:
        """Age of an offer in seconds; None if there is none."""
        return None if offer is None else self._clock() - offer.since

    def is_late(self, offer: Offer) -> bool:
        """Whether the sender waits no longer, since the process stood still."""
        return self._clock() - offer.since > PATIENCE_SECONDS


def request_of(offer: Offer) -> PeerConnection:
    """The message of an offer, without the description."""
    return PeerConnection(offer.source, offer.name, offer.target, "offer", "")


E = TypeVar("E", bound=MessageEvent)


def about(
    kind: Callable[..., E], peer: Peer, message: PeerConnection, **more: object
) -> E:
    """An event about a message of a peer, whatever UUID the message claims."""
    registration = peer.registration
    uuid = message.source_uuid if registration is None else registration.uuid
    return kind(
        **{
            "kind": message.description_type,
            "source": uuid,
            "target": message.peer_uuid,
            "user": peer.user.sub,
            "address": peer.address,
            **more,
        }
    )
