"""What the rules see of a connection. Pure.

State per connection hangs on the peer, so that nothing has to be looked up, or
forgotten, beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from proxyrelay.switchboard.user import ANONYMOUS, User

NAME_LENGTH = 128
"""Characters of a client's name that the relay keeps. It is only ever logged."""

REPLACED = "replaced by a newer connection"
"""Why a client has left whose UUID another connection has taken over."""


class LeaveReason(Enum):
    """Why a client no longer holds its UUID, in one word."""

    CLOSED = "closed"
    """It has closed its connection."""
    SHUT = "shut"
    """The relay has, since it stops."""
    LOST = "lost"
    """The connection has ended without a close handshake."""
    IDLE = "idle"
    """It does not answer a ping."""
    REPLACED = "replaced"
    """Another connection has taken over the UUID."""
    REFUSED = "refused"
    """It is closed for what it did or is."""
    MOVED = "moved"
    """It has registered another UUID."""


@dataclass(slots=True)
class Registration:
    """A client's hold on a UUID, from its acceptance until it leaves.

    Attributes:
        uuid: The UUID, canonical.
        name: What the client calls itself, cut to `NAME_LENGTH`; not trusted.
        legacy: Whether it speaks the dialect of ProxyStore 0.4 and 0.5.
        since: When it was accepted, in seconds of the relay's clock.
        sent: Messages of this client that reached their peer.
        received: Messages of others that reached this client.
        dropped: Messages of this client that would have harmed their peer.
        rounds: How many times in a row the UUID was taken over, each time shortly after
            the one before.
        again: Whether another connection is known to have held the UUID shortly before.
        unanswered: Offers in a row to this client that it let go unanswered.
        unheard: The addresses of these offers, the first few.
        deaf: Whether it seems to read nothing of what it is sent.
        offered: When it last made an offer that was passed on, in seconds of the
            relay's clock, if anybody has written that down.
    """

    uuid: str
    name: str
    legacy: bool
    since: float
    sent: int = 0
    received: int = 0
    dropped: int = 0
    rounds: int = 0
    again: bool = False
    unanswered: int = 0
    unheard: frozenset[str] = frozenset()
    deaf: bool = False
    offered: float | None = None


class Peer(Protocol):
    """A connected client, as the rules see it.

    Attributes:
        user: Whom the connection belongs to.
        address: Where it comes from, as it may be shown: text for the log.
        arrival: Its place in the order in which connections were accepted.
        registration: The UUID that it holds, or None.
        told: When the lines of the log on what went back to it are paid for, in seconds
            of the journal's clock; at first 0.
        untold: How many of these lines were left out since the last one.
    """

    user: User
    address: str
    arrival: int
    registration: Registration | None
    told: float
    untold: int

    @property
    def source(self) -> str:
        """The address that limits count it for: with IPv6 its network of 64 bits."""

    @property
    def limited(self) -> bool:
        """Whether the limits of one address apply to it."""

    def registers(self) -> None:
        """Be told that this peer registers, for the first time or once more.

        Raises:
            TryAgainLater: It, or others of its address, do so too often.
        """

    def answer(self, text: bytes) -> None:
        """Send the answer to something that this peer sent, without waiting.

        Raises:
            PeerGone: The connection is closing or closed.
        """

    def deliver(self, text: bytes) -> None:
        """Send a message of another peer, without waiting.

        Raises:
            PeerGone: The connection is closing or closed.
            PeerBusy: The client leaves too much unread. It keeps its connection as
                long as it answers pings.
        """

    def follow(self, other: Peer) -> None:
        """Send nothing before the connection of a replaced peer has ended.

        What is sent meanwhile is kept, and sent then, or after a second.
        """

    def ping(self, answered: Callable[[], None]) -> bool:
        """Ping the client, without waiting. Takes the place of the ping before.

        Args:
            answered: Called when the pong is there, after all that came before it.

        Returns:
            Whether the ping was sent. A client that reads nothing gets none.
        """

    def close(self, code: int, reason: str) -> None:
        """Close the connection through the close handshake, if it is open."""


def share_of(peer: Peer) -> str:
    """Whose share of a table a peer takes.

    Without authentication all peers are one user, so each address has its share.
    """
    sub = peer.user.sub
    return peer.source if sub == ANONYMOUS.sub else sub
