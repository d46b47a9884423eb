"""Peers of other relays. Pure.

The directory is asked only for a UUID that no client of this relay holds. So messages
between clients of one relay depend on nothing else.
"""

from __future__ import annotations

from typing import Protocol

from proxyrelay.switchboard.peer import Peer

UNKNOWN = (
    "Cannot forward peer connection message to peer {} because this peer is not "
    "registered this relay server."
)
PARTED = (
    "The requested peer {} is not connected to this relay server, which is being "
    "replaced: it may be connected to the one that has taken over."
)
"""Error texts for unknown peers. Clients match the start of the first one, sic."""


class Directory(Protocol):
    """Knows of peers beyond this relay.

    Attributes:
        missing: Error text for a peer that is not found.
    """

    @property
    def missing(self) -> str:
        """A text with ``{}`` for the UUID."""

    def find(self, uuid: str) -> Peer | None:
        """A peer that stands for a client of another relay, or None. Does not block."""


class Alone:
    """A directory without entries: there is no other relay.

    Args:
        missing: Error text for a peer that is not found.
    """

    def __init__(self, missing: str = UNKNOWN) -> None:
        self.missing = missing

    def find(self, uuid: str) -> Peer | None:  # noqa: ARG002
        """None."""
        return None
