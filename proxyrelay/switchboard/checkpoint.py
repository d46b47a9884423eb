"""What a relay writes down, so that its successor can go on. Pure: only a type.

`proxyrelay.survive` has it. A relay without it writes nothing down.
"""

from __future__ import annotations

from typing import Protocol

from proxyrelay.switchboard.offers import Offer
from proxyrelay.switchboard.peer import Peer


class Checkpoint(Protocol):
    """The registrations and the open offers of a relay. No method blocks or raises."""

    def registered(self, peer: Peer) -> None:
        """A peer holds a UUID now, or its registration has changed."""

    def left(self, peer: Peer) -> None:
        """A peer holds no UUID any more."""

    def opened(self, offer: Offer) -> None:
        """An offer of a client of this relay is outstanding."""

    def passed_on(self, offer: Offer) -> None:
        """An offer that waited has reached its receiver."""

    def closed(self, offer: Offer) -> None:
        """An offer is answered, or about to be returned."""
