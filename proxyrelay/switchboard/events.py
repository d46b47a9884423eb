"""What happens to clients, for those that only note it. Pure."""

from __future__ import annotations

from enum import Enum
from http import HTTPStatus
from typing import Protocol

from proxyrelay.errors import Refusal, UnknownMessage
from proxyrelay.switchboard.messages import PeerConnection
from proxyrelay.switchboard.offers import DropReason, Offer
from proxyrelay.switchboard.peer import LeaveReason, Peer, Registration


class BounceReason(Enum):
    """Why a message goes back to its sender."""

    UNKNOWN = "unknown"
    FOREIGN = "foreign"
    BUSY = "busy"
    LEFT = "left"
    CROSSED = "crossed"
    SILENT = "silent"
    DEAF = "deaf"
    FULL = "full"
    SOURCE = "source"
    SELF = "self"


class RelayObserver(Protocol):
    """Hears of everything that the rules decide."""

    def registered(self, peer: Peer, registration: Registration) -> None:
        """A peer holds a UUID from now on, or once more."""

    def replaced(self, old: Peer, new: Peer, uuid: str, rounds: int) -> None:
        """A newer connection of the same user took over a UUID.

        Args:
            old: Who held it.
            new: Who holds it from now on.
            uuid: The UUID.
            rounds: How many times in a row this has happened now, each time shortly
                after the one before.
        """

    def left(
        self, peer: Peer, registration: Registration, why: str, cause: LeaveReason
    ) -> None:
        """A peer no longer holds its UUID."""

    def refused(self, peer: Peer, refusal: Refusal) -> None:
        """A peer is being closed for what it did or is."""

    def forwarded(
        self,
        source: Peer,
        target: Peer,
        message: PeerConnection,
        offer: Offer | None,
    ) -> None:
        """An offer or answer was handed to its receiver.

        Args:
            source: Whose message it is.
            target: Who has got it.
            message: The message.
            offer: The offer, or the one that an answer answers; None where the relay
                does not look at that.
        """

    def returned(
        self, source: Peer, message: PeerConnection, error: str, why: BounceReason
    ) -> None:
        """An offer or answer went back to its sender with an error.

        Args:
            source: The sender.
            message: The message.
            error: What it was told.
            why: The reason in one word.
        """

    def held(self, source: Peer, message: PeerConnection) -> None:
        """An offer waits for its receiver, which has just left, to come back."""

    def shielded(self, source: Peer, message: PeerConnection, why: DropReason) -> None:
        """A message was dropped that would have harmed its receiver."""

    def deaf(self, peer: Peer, registration: Registration) -> None:
        """A client that came back seems to read nothing since."""

    def skipped(self, peer: Peer, refusal: UnknownMessage) -> None:
        """A message of an old client was ignored, as old clients expect."""


class ConnectionObserver(RelayObserver, Protocol):
    """Hears also of what happens to connections below the rules."""

    def rejected(self, address: str, status: HTTPStatus, detail: str) -> None:
        """A request was answered with an HTTP error."""

    def failed(self, address: str, code: int, detail: str) -> None:
        """A client broke the WebSocket protocol and is closed with a code."""

    def dropped(self, address: str, why: str) -> None:
        """A connection that holds no UUID ended without a close handshake."""

    def probed(self, address: str) -> None:
        """A connection ended that has sent nothing: a load balancer's probe."""

    def slowed(self, address: str) -> None:
        """A client sends faster than it may, and is read from more slowly."""

    def operator(self, action: str, address: str, uuid: str | None) -> None:
        """A caller of the private listener has it do something.

        Args:
            action: ``drain``, ``reload`` or ``disconnect``.
            address: Where the caller is.
            uuid: The client that it is done to, if it is one.
        """

    def unauthorized(self, address: str) -> None:
        """A caller of the private listener has brought a wrong token."""
