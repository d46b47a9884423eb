"""A connection, as the rules see it. Pure.

State per connection hangs on the peer, so that no table has to be searched or cleaned.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol

import msgspec

from proxyrelay.switchboard.candidates import Kinds
from proxyrelay.switchboard.messages import PeerConnection
from proxyrelay.switchboard.user import ANONYMOUS, User

NAME_CHARACTERS = 128
"""Characters of a client's name that the relay keeps. The name is only shown."""

REPLACED = "replaced by a newer connection"
"""Log text for a client whose UUID another connection has taken over."""


class LeaveReason(Enum):
    """Why a client no longer holds its UUID, in one word."""

    CLOSED = "closed"
    """The client has closed its connection."""
    SHUT = "shut"
    """The relay has closed it: it stops, or its drain is overdue."""
    LOST = "lost"
    """The connection has ended without a close handshake."""
    IDLE = "idle"
    """The client does not answer a ping."""
    REPLACED = "replaced"
    """Another connection has taken over the UUID."""
    REFUSED = "refused"
    """The relay has refused the client."""
    MOVED = "moved"
    """The client has registered another UUID."""


class Registration(msgspec.Struct, gc=False):
    """A client's hold on a UUID, from its acceptance until it leaves.

    Attributes:
        uuid: The UUID, canonical.
        name: The client's name for itself, cut to `NAME_CHARACTERS`; not trusted.
        legacy: Whether the client speaks the dialect of ProxyStore 0.4 and 0.5.
        registered_at: Time of the acceptance, in seconds of the relay's clock.
        sent: Messages of this client that reached their peer.
        received: Messages of others that reached this client.
        dropped: Messages of this client that the shield dropped.
        takeovers: Takeovers of the UUID in a row, each shortly after the one before.
        is_reconnect: Whether another connection held the UUID shortly before.
        unanswered: Offers in a row that this client left unanswered.
        unheard: The senders' addresses of the first few of these offers.
        deaf: Whether the client seems to read nothing.
        last_offer: Arrival of its last offer that was passed on, in seconds of the
            relay's clock; None before the first, and without the shield.
        candidates: Kinds of its candidates, as of the last look.
        look_due: Time from which on they are looked at again, on the relay's clock.
        is_private_told: Whether the log says that it offers private addresses only.
    """

    uuid: str
    name: str
    legacy: bool
    registered_at: float
    sent: int = 0
    received: int = 0
    dropped: int = 0
    takeovers: int = 0
    is_reconnect: bool = False
    unanswered: int = 0
    unheard: frozenset[str] = frozenset()
    deaf: bool = False
    last_offer: float | None = None
    candidates: Kinds = 0
    look_due: float = 0.0
    is_private_told: bool = False


class Sender(Protocol):
    """A client here or elsewhere that sends a message.

    Attributes:
        user: The user of the connection.
        address: The client's address, as it may be shown.
        registration: The hold on a UUID, or None.
    """

    user: User
    address: str
    registration: Registration | None

    @property
    def source(self) -> str:
        """The address, as limits count it: with IPv6 its network of 64 bits."""

    @property
    def limited(self) -> bool:
        """Whether the limits of one address apply to it."""


class Peer(Sender, Protocol):
    """A connected client, as the rules see it. No method blocks.

    Attributes:
        arrival: Number of the connection, in the order of acceptance.
    """

    arrival: int

    def registers(self) -> None:
        """Count a registration of this peer.

        Raises:
            TryAgainLater: The peer, or its address, registers too often.
        """

    def answer(self, text: bytes) -> None:
        """Send the relay's answer to a message of this peer.

        Raises:
            PeerGone: The connection is closing or closed.
        """

    def deliver(self, text: bytes) -> None:
        """Send a message of another peer.

        Raises:
            PeerGone: The connection is closing or closed.
            PeerBusy: The client leaves too much unread. Its connection stays open
                while it answers pings.
        """

    def follow(self, other: Peer) -> None:
        """Keep all texts until a replaced peer's connection ends, for a second at most.

        A client thus sees the end of its old connection first.
        """

    def ping(self, answered: Callable[[], None]) -> bool:
        """Ping the client; a client that reads nothing gets no ping.

        Only the pong to the latest ping calls ``answered``. The messages before the
        pong are processed by then.

        Returns:
            Whether a ping was sent.
        """

    def await_claim(self, awaits: bool) -> None:
        """Read nothing from the client until other relays have decided on its UUID.

        `close` ends this wait.
        """

    def close(self, code: int, reason: str) -> None:
        """Close the connection through the close handshake, if it is open."""


class Sent(msgspec.Struct, gc=False):
    """A message of a registered peer, with its text as it came."""

    peer: Sender
    registration: Registration
    message: PeerConnection
    text: bytes = b""


def share_of(peer: Sender) -> str:
    """Name the share of a table that a peer takes.

    Without authentication all peers are one user, so each address has its share.
    """
    sub = peer.user.sub
    return peer.source if sub == ANONYMOUS.sub else sub
