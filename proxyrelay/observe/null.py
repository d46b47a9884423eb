"""A journal that hears of everything, and does nothing about it. Pure."""

from __future__ import annotations

from http import HTTPStatus

from proxyrelay.errors import Refusal, UnknownMessage
from proxyrelay.switchboard.events import BounceReason
from proxyrelay.switchboard.messages import PeerConnection
from proxyrelay.switchboard.offers import DropReason, Offer
from proxyrelay.switchboard.peer import LeaveReason, Peer, Registration


class NullObserver:
    """What journals extend that care for some things only.

    It is a `proxyrelay.switchboard.events.ConnectionObserver`,
    which describes each method.
    """

    def registered(self, peer: Peer, registration: Registration) -> None:
        """A peer holds a UUID from now on, or once more."""

    def replaced(self, old: Peer, new: Peer, uuid: str, rounds: int) -> None:
        """A newer connection of the same user took over a UUID."""

    def left(
        self, peer: Peer, registration: Registration, why: str, cause: LeaveReason
    ) -> None:
        """A peer no longer holds its UUID."""

    def refused(self, peer: Peer, refusal: Refusal) -> None:
        """A peer is being closed for what it did or is."""

    def forwarded(
        self, source: Peer, target: Peer, message: PeerConnection, offer: Offer | None
    ) -> None:
        """An offer or answer was handed to its receiver."""

    def returned(
        self, source: Peer, message: PeerConnection, error: str, why: BounceReason
    ) -> None:
        """An offer or answer went back to its sender with an error."""

    def held(self, source: Peer, message: PeerConnection) -> None:
        """An offer waits for its receiver, which has just left, to come back."""

    def shielded(self, source: Peer, message: PeerConnection, why: DropReason) -> None:
        """A message was dropped that would have harmed its receiver."""

    def deaf(self, peer: Peer, registration: Registration) -> None:
        """A client that came back seems to read nothing since."""

    def skipped(self, peer: Peer, refusal: UnknownMessage) -> None:
        """A message of an old client was ignored, as old clients expect."""

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
        """A caller of the private listener has it do something."""

    def unauthorized(self, address: str) -> None:
        """A caller of the private listener has brought a wrong token."""
