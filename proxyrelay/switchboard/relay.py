"""The rules of the switchboard: register, forward, leave. Pure.

A client says who it is, and from then on texts addressed to it reach it. Answers and
close codes are those of the ProxyStore relay, so that all released clients keep
working. Peers, clock and observers are given, and nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable

from proxyrelay.config import Offers
from proxyrelay.errors import (
    Disconnected,
    Forbidden,
    Refusal,
    Superseded,
    TryAgainLater,
    UnknownMessage,
)
from proxyrelay.switchboard import events, messages
from proxyrelay.switchboard.broker import Broker, Waiting
from proxyrelay.switchboard.checkpoint import Checkpoint
from proxyrelay.switchboard.delivery import Undelivered
from proxyrelay.switchboard.events import FIGHT_TAKEOVERS, ForwardObserver, Observer
from proxyrelay.switchboard.messages import (
    LegacyRegistrationRequest,
    PeerConnection,
    RegistrationRequest,
)
from proxyrelay.switchboard.peer import (
    NAME_CHARACTERS,
    REPLACED,
    LeaveReason,
    Peer,
    Registration,
)
from proxyrelay.switchboard.registry import Registry

ROUND_SECONDS = 60.0
"""Seconds from one takeover of a UUID to the next, below which both count in a row."""


def marks(registration: Registration) -> list[str]:
    """What is unusual about a client: ``deaf``, ``fight``, ``legacy``."""
    found = {
        "deaf": registration.deaf,
        "fight": registration.takeovers >= FIGHT_TAKEOVERS,
        "legacy": registration.legacy,
    }
    return [mark for mark, is_set in found.items() if is_set]


class Relay:
    """The switchboard. Its clock gives the time in seconds."""

    def __init__(
        self,
        observer: Observer,
        clock: Callable[[], float],
        waiting: Waiting,
        settings: Offers = Offers(),  # noqa: B008 - frozen
        on_forward: ForwardObserver | None = None,
    ) -> None:
        self.registry = Registry()
        self.undelivered = Undelivered(self.registry, observer, clock, self.leave)
        self.broker = Broker(
            *(self.registry, self.undelivered, observer, on_forward, clock),
            waiting,
            settings,
            self.leave,
            self.refuse,
        )
        self._observer = observer
        self._clock = clock
        self._checkpoint: Checkpoint | None = None

    def use_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write down all registrations and open offers from now on."""
        self._checkpoint = self.undelivered.table.log = checkpoint

    def receive(self, peer: Peer, payload: bytes, *, binary: bool = False) -> None:
        """Act on one message of a peer, as it came in a text or binary frame."""
        try:
            message = messages.decode(payload, binary=binary)
            if isinstance(message, PeerConnection):
                self.broker.forward(peer, message, payload)
            else:
                self._register(peer, message)
        except UnknownMessage as refusal:
            # ProxyStore 0.4 and 0.5 expect the relay to skip such a message.
            if peer.registration is not None and peer.registration.legacy:
                self._observer(events.Skipped(peer.address, refusal.detail))
            else:
                self.refuse(peer, refusal)
        except Refusal as refusal:
            self.refuse(peer, refusal)

    def refuse(self, peer: Peer, refusal: Refusal) -> None:
        """Close a peer, with the code and reason of a refusal."""
        registration = peer.registration
        is_temporary = isinstance(refusal, TryAgainLater)
        kind = events.RefusedForNow if is_temporary else events.Refused
        self._observer(
            kind(
                uuid=None if registration is None else registration.uuid,
                user=refusal.sub or peer.user.sub,
                address=peer.address,
                code=refusal.code,
                reason=refusal.reason,
                detail=refusal.detail if isinstance(refusal, UnknownMessage) else "",
            )
        )
        self.leave(peer, f"refused with {refusal.code}", LeaveReason.REFUSED)
        peer.close(refusal.code, refusal.reason)

    def disconnect(self, uuid: str, caller: str) -> Peer | None:
        """Close a client for an operator.

        Args:
            uuid: The client.
            caller: Where the operator is.

        Returns:
            The client; None if it is not here.
        """
        peer = self.registry.get(uuid)
        if peer is not None:
            self._observer(events.Operator("disconnect", caller, uuid))
            self.refuse(peer, Disconnected())
        return peer

    def leave(
        self, peer: Peer, why: str, cause: LeaveReason = LeaveReason.LOST
    ) -> None:
        """Forget a peer whose connection ends.

        The cause is given in the relay's own words, and in one word.
        """
        registration = peer.registration
        directory = self.undelivered.directory
        if directory is not None:
            directory.release(peer, None if registration is None else registration.uuid)
        if registration is None:
            return
        moved = cause is LeaveReason.MOVED
        now, uuid = self._clock(), registration.uuid
        self.undelivered.report_abandoned(uuid)
        peer.registration = None
        self.registry.remove(uuid, peer, None if moved else now)
        if self._checkpoint is not None and not moved:
            self._checkpoint.left(peer)
        self._observer(
            events.Left(
                *(uuid, registration.name, peer.user.sub, peer.address),
                seconds=now - registration.registered_at,
                sent=registration.sent,
                received=registration.received,
                shielded=registration.dropped,
                reason=why,
                cause=cause,
                is_repeat=cause is LeaveReason.REPLACED
                and registration.takeovers >= FIGHT_TAKEOVERS,
            )
        )
        if moved:
            self.broker.forget_offers_of(uuid)
        self.undelivered.abandon(uuid)

    def tick(self) -> None:
        """Act on offers whose time is over; to be called twice a second."""
        self.broker.tick()
        self.registry.forget(self._clock() - self.broker.settings.recent)

    # -- registering

    def _register(self, peer: Peer, request: RegistrationRequest) -> None:
        peer.registers()
        holder, directory = self.registry.get(request.uuid), self.undelivered.directory
        if directory is None or holder is peer:
            if directory is not None:
                directory.release(peer, None)  # its wish for another UUID
            self.accept(peer, request)
            return
        if holder is not None:
            self._check_takeover(holder, peer, request.uuid)
        directory.claim(peer, request)

    def accept(
        self,
        peer: Peer,
        request: RegistrationRequest,
        takeovers: int = 0,
        is_reconnect: bool = False,
    ) -> None:
        """Register a peer, and tell it so.

        Args:
            peer: The peer.
            request: What it has asked for.
            takeovers: Takeovers of the UUID in a row, from other relays.
            is_reconnect: Whether another relay had the UUID shortly before.

        Raises:
            Refusal: Another peer holds the UUID.
        """
        now = self._clock()
        holder = self.registry.get(request.uuid)
        since = now - self.broker.settings.recent
        if self.registry.left(request.uuid, since) is not None:
            is_reconnect = True
        if holder is not None and holder is not peer:
            takeovers = self._take_over(holder, peer, request.uuid, now)
            is_reconnect = True

        name = request.name[:NAME_CHARACTERS]
        legacy = isinstance(request, LegacyRegistrationRequest)
        registration = peer.registration
        if registration is not None and registration.uuid == request.uuid:
            is_new = registration.name != name
            registration.name = name
            registration.legacy = legacy
        else:
            self.leave(peer, "registered another UUID", LeaveReason.MOVED)
            is_new = True
            registration = Registration(
                *(request.uuid, name, legacy, now),
                takeovers=takeovers,
                is_reconnect=is_reconnect,
            )
            peer.registration = registration
            self.registry.add(request.uuid, peer)
            self.broker.forget_offers_of(request.uuid)
        if self._checkpoint is not None:
            self._checkpoint.registered(peer)
        self._observer(
            events.Registered(
                *(registration.uuid, name, peer.user.sub, peer.address),
                is_repeat=registration.takeovers > FIGHT_TAKEOVERS,
                is_audited=is_new,
            )
        )
        accepted = messages.LEGACY_ACCEPTED if legacy else messages.ACCEPTED
        self.undelivered.answer(peer, accepted)
        self.broker.hand_over(peer, request.uuid)

    def _check_takeover(self, holder: Peer, peer: Peer, uuid: str) -> None:
        if holder.user != peer.user:
            raise Forbidden(
                f"The client UUID {uuid} is already registered to another user."
            )
        # A client may give up a slow connection and open another one. A late
        # registration on the first must not end the second.
        if holder.arrival > peer.arrival:
            raise Superseded

    def _take_over(self, holder: Peer, peer: Peer, uuid: str, now: float) -> int:
        """Give the UUID of a peer to another one, and count takeovers in a row."""
        self._check_takeover(holder, peer, uuid)
        superseded = Superseded()
        held = holder.registration
        takeovers = 1
        if held is not None and now - held.registered_at < ROUND_SECONDS:
            takeovers += held.takeovers
        kind = events.Fight if takeovers == FIGHT_TAKEOVERS else events.Replaced
        is_repeat = takeovers > FIGHT_TAKEOVERS
        self._observer(kind(uuid, peer.address, holder.address, is_repeat=is_repeat))
        self.leave(holder, REPLACED, LeaveReason.REPLACED)
        holder.close(superseded.code, superseded.reason)
        # A stock client looks at its old socket to see whether it was replaced. So
        # the old socket closes before the new one gets its answer.
        peer.follow(holder)
        return takeovers
