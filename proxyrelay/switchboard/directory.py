"""Clients of other relays, as the rules see them. Pure.

The directory is asked only for a UUID that no client of this relay holds. So messages
between clients of one relay depend on nothing else. Without a cluster there is none.
"""

from __future__ import annotations

from typing import Protocol

from proxyrelay.switchboard.events import BounceReason
from proxyrelay.switchboard.messages import RegistrationRequest
from proxyrelay.switchboard.offers import Offer
from proxyrelay.switchboard.peer import Peer, Sent


class Directory(Protocol):
    """Passes messages on to other relays, and asks them for UUIDs. No method blocks."""

    @property
    def is_blind(self) -> bool:
        """Whether nothing is known of other relays at present."""

    def forward(self, offer: Offer, text: bytes) -> BounceReason | None:
        """Pass on an offer of a client of this relay.

        Returns:
            None if it is under way. What becomes of it shows later.
        """

    def answer(self, sent: Sent, offer: Offer) -> BounceReason | None:
        """Pass on the answer of a peer to an offer that came from elsewhere."""

    def give_back(self, offer: Offer, why: BounceReason, text: bytes | None) -> None:
        """Return an offer that came from elsewhere, with its text if it waited."""

    def claim(self, peer: Peer, request: RegistrationRequest) -> None:
        """Ask for a UUID; `Relay.accept` or `Relay.refuse` follow.

        Raises:
            Refusal: A newer connection asks for it, too.
        """

    def release(self, peer: Peer, uuid: str | None) -> None:
        """A peer gives up its UUID, or leaves before it has got one."""
