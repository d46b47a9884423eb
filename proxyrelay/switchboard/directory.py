"""Who is connected elsewhere. Pure.

A relay knows its own clients. What lies beyond is asked when none of them has a UUID:
so what goes from one client to another of the same relay depends on nothing else.
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
"""Why a message comes back. Clients match the start of the first text, sic."""


class Directory(Protocol):
    """Knows of peers beyond this relay.

    Attributes:
        missing: Why a message for a peer that is not found comes back.
    """

    @property
    def missing(self) -> str:
        """A text with ``{}`` for the UUID."""

    def find(self, uuid: str) -> Peer | None:
        """A peer that stands for one which is connected elsewhere, or None.

        It answers at once, from what it has been told.
        """


class Alone:
    """There is nothing beyond this relay.

    Args:
        missing: Why a message for a peer that is not found comes back.
    """

    def __init__(self, missing: str = UNKNOWN) -> None:
        self.missing = missing

    def find(self, uuid: str) -> Peer | None:  # noqa: ARG002
        """Find nobody."""
        return None
