"""What the link is given: its settings, and whom it tells. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec


class LinkSettings(msgspec.Struct, frozen=True):
    """What the link needs to know.

    Attributes:
        node: Name of this node, with its incarnation.
        prefix: Start of all keys.
        lease: Life of the lease in seconds.
        call_timeout: Longest wait for a reply in seconds.
        username: User of the engine's ACL; empty for none.
        password: Read anew for each connection; empty for none.
        database: Number of the database.
        info: Text of the lease.
        place: Where the engine is, for the log.
    """

    node: str
    prefix: str
    lease: float
    call_timeout: float
    username: str = ""
    password: Callable[[], str] = str
    database: int = 0
    info: Callable[[], bytes] = bytes
    place: str = ""


class LinkObserver(Protocol):
    """Hears of the link."""

    def admits(self, nodes: list[bytes]) -> bool:
        """Tell whether this node may join others; else the link tries again later.

        Args:
            nodes: Names and texts of the leases in turn, the own one among them.
        """

    def link_ready(self, is_lost: bool) -> None:
        """Calls may be made.

        Args:
            is_lost: Whether the engine may have lost the registrations of this node.
        """

    def link_down(self, reason: str) -> None:
        """No call may be made."""

    def registrations_lost(self) -> None:
        """The lease had ended, or the engine was emptied."""

    def inbox_received(self, message: bytes) -> None:
        """A message of another node, or of a script."""

    def replied(self, seconds: float) -> None:
        """The engine has taken so long for a call."""
