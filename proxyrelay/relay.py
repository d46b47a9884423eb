"""The rules of the switchboard: register, forward, leave.

A client says who it is, and from then on texts addressed to it reach it. Every
answer, error text and close code is that of the ProxyStore relay, so that all
released clients keep working. Pure: peers, clock and journal are given, and
nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from proxyrelay import messages
from proxyrelay.errors import (
    Forbidden,
    PeerBusy,
    PeerGone,
    Refusal,
    Superseded,
    UnknownMessage,
)
from proxyrelay.messages import (
    LegacyRegistrationRequest,
    PeerConnection,
    RegistrationRequest,
)
from proxyrelay.peer import NAME_LENGTH, Peer, Registration
from proxyrelay.registry import Registry


class Journal(Protocol):
    """Hears of everything that the rules decide."""

    def registered(self, peer: Peer, registration: Registration) -> None:
        """A peer holds a UUID from now on, or once more."""

    def replaced(self, old: Peer, new: Peer, uuid: str) -> None:
        """A newer connection of the same user took over a UUID."""

    def left(self, peer: Peer, registration: Registration, why: str) -> None:
        """A peer no longer holds its UUID."""

    def refused(self, peer: Peer, refusal: Refusal) -> None:
        """A peer is being closed for what it did or is."""

    def forwarded(self, source: Peer, target: Peer, message: PeerConnection) -> None:
        """An offer or answer was handed to its receiver."""

    def returned(self, source: Peer, message: PeerConnection, error: str) -> None:
        """An offer or answer went back to its sender with an error."""

    def skipped(self, peer: Peer, refusal: UnknownMessage) -> None:
        """A message of an old client was ignored, as old clients expect."""


class Relay:
    """The switchboard.

    Args:
        journal: Told of every decision.
        clock: Gives the time in seconds.

    Attributes:
        registry: Which peer holds which UUID.
    """

    def __init__(self, journal: Journal, clock: Callable[[], float]) -> None:
        self.registry = Registry()
        self._journal = journal
        self._clock = clock

    def receive(self, peer: Peer, payload: bytes, *, binary: bool = False) -> None:
        """Act on one message of a peer.

        Args:
            peer: Who sent it.
            payload: The message as it came.
            binary: Whether it came in a binary frame.
        """
        try:
            message = self._decode(peer, payload, binary)
            if isinstance(message, PeerConnection):
                self._forward(peer, message, payload)
            elif message is not None:
                self._register(peer, message)
        except Refusal as refusal:
            self.refuse(peer, refusal)

    def refuse(self, peer: Peer, refusal: Refusal) -> None:
        """Close a peer that is not, or no longer, to be served."""
        self._journal.refused(peer, refusal)
        self.leave(peer, f"refused with {refusal.code}")
        peer.close(refusal.code, refusal.reason)

    def leave(self, peer: Peer, why: str) -> None:
        """Forget a peer. Does nothing if it holds no UUID.

        Args:
            peer: Whose connection is closing, closed or lost.
            why: The cause, in the relay's own words.
        """
        registration = peer.registration
        if registration is not None:
            peer.registration = None
            self.registry.remove(registration.uuid, peer)
            self._journal.left(peer, registration, why)

    def _decode(
        self, peer: Peer, payload: bytes, binary: bool
    ) -> messages.ClientMessage | None:
        try:
            return messages.decode(payload, binary=binary)
        except UnknownMessage as refusal:
            # ProxyStore 0.4 and 0.5 expect what cannot be read to be skipped.
            if peer.registration is None or not peer.registration.legacy:
                raise
            self._journal.skipped(peer, refusal)
            return None

    def _register(self, peer: Peer, request: RegistrationRequest) -> None:
        holder = self.registry.get(request.uuid)
        if holder is not None and holder is not peer:
            self._take_over(holder, peer, request.uuid)

        name = request.name[:NAME_LENGTH]
        legacy = isinstance(request, LegacyRegistrationRequest)
        registration = peer.registration
        if registration is not None and registration.uuid == request.uuid:
            registration.name = name
            registration.legacy = legacy
        else:
            self.leave(peer, "registered another UUID")
            registration = Registration(request.uuid, name, legacy, self._clock())
            peer.registration = registration
            self.registry.add(request.uuid, peer)
        self._journal.registered(peer, registration)
        self._answer(peer, messages.LEGACY_ACCEPTED if legacy else messages.ACCEPTED)

    def _take_over(self, holder: Peer, peer: Peer, uuid: str) -> None:
        if holder.user != peer.user:
            raise Forbidden(
                f"The client UUID {uuid} is already registered to another user."
            )
        # A client that gave up on a slow connection has opened another one. What
        # it still says on the first must not end the second.
        if holder.arrival > peer.arrival:
            raise Superseded
        superseded = Superseded()
        self._journal.replaced(holder, peer, uuid)
        self.leave(holder, "replaced by a newer connection")
        holder.close(superseded.code, superseded.reason)

    def _forward(self, peer: Peer, message: PeerConnection, text: bytes) -> None:
        registration = peer.registration
        if registration is None:
            raise Forbidden(
                "Client has not registered and authenticated with the relay server."
            )
        if message.source_uuid != registration.uuid:
            self._return(
                peer,
                message,
                f"The source {message.source_uuid} is not the UUID "
                f"{registration.uuid} that this client has registered.",
            )
            return
        target = self.registry.get(message.peer_uuid)
        error = self._deliver(peer, target, message, text)
        if error is not None:
            self._return(peer, message, error)
            return
        registration.sent += 1
        if target is not None and target.registration is not None:
            target.registration.received += 1
            self._journal.forwarded(peer, target, message)

    def _deliver(
        self, peer: Peer, target: Peer | None, message: PeerConnection, text: bytes
    ) -> str | None:
        """Hand a text to its receiver, or say why it cannot be."""
        if target is not None:
            if target.user != peer.user:
                return (
                    f"The requested peer {message.peer_uuid} is owned by a "
                    "different user."
                )
            try:
                target.deliver(text)
            except PeerBusy:
                return (
                    f"The requested peer {message.peer_uuid} does not read what the "
                    "relay server sends to it."
                )
            except PeerGone:
                self.leave(target, "gone while it was sent a message")
            else:
                return None
        return (
            f"Cannot forward peer connection message to peer {message.peer_uuid} "
            "because this peer is not registered this relay server."
        )

    def _return(self, peer: Peer, message: PeerConnection, error: str) -> None:
        self._journal.returned(peer, message, error)
        self._answer(peer, messages.echo(message, error))

    def _answer(self, peer: Peer, text: bytes) -> None:
        try:
            peer.answer(text)
        except PeerGone:
            self.leave(peer, "gone while it was answered")
