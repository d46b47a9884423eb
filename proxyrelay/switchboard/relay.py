"""The rules of the switchboard: register, forward, leave.

A client says who it is, and from then on texts addressed to it reach it. Every
answer, error text and close code is that of the ProxyStore relay, so that all
released clients keep working. Pure: peers, clock and journal are given, and
nothing here waits.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Protocol

from proxyrelay.config import Offers
from proxyrelay.errors import (
    Deaf,
    Forbidden,
    PeerBusy,
    PeerGone,
    Refusal,
    Superseded,
    UnknownMessage,
)
from proxyrelay.switchboard import messages
from proxyrelay.switchboard.directory import Alone, Directory
from proxyrelay.switchboard.events import BounceReason, RelayObserver
from proxyrelay.switchboard.messages import (
    LegacyRegistrationRequest,
    PeerConnection,
    RegistrationRequest,
)
from proxyrelay.switchboard.offers import DropReason, Offer, OfferTable
from proxyrelay.switchboard.peer import (
    NAME_LENGTH,
    REPLACED,
    LeaveReason,
    Peer,
    Registration,
    share_of,
)
from proxyrelay.switchboard.registry import Registry
from proxyrelay.switchboard.user import ANONYMOUS

SILENCES = 2
"""Offers in a row that a client which came back does not answer if it is deaf."""

WITNESSES = 3
"""Addresses that must have made such offers before the client is closed for it. One
stranger cannot bring that about."""

PATIENCE_SECONDS = 28.0
"""Age of an offer after which its sender is sent no error and no answer. Stock clients
wait for 30 s from a moment before, and end at what comes later."""

ROUND = 60.0
"""Seconds within which a UUID that is taken over again may be fought over."""

FOREIGN = "The requested peer {} is owned by a different user."
BUSY = "The requested peer {} does not read what the relay server sends to it."
LEFT = "The requested peer {} left before it answered."
CROSSED = "The requested peer {} has made an offer itself, which is on its way."
SELF = "The requested peer {} is the client itself."
SILENT = "The requested peer {} did not answer in time."
DEAF = "The requested peer {} did not answer in time. It must probably be started anew."
FULL = "Too many offers to or from the requested peer {} wait for an answer."
"""Why a message comes back."""


_WORDS: Mapping[str, BounceReason] = {
    FOREIGN: BounceReason.FOREIGN,
    BUSY: BounceReason.BUSY,
    LEFT: BounceReason.LEFT,
    CROSSED: BounceReason.CROSSED,
    SILENT: BounceReason.SILENT,
    DEAF: BounceReason.DEAF,
    FULL: BounceReason.FULL,
    SELF: BounceReason.SELF,
}
"""That of each text; any other is a directory's, for a peer that it does not know."""


class Waiting(Protocol):
    """Has `Relay.pass_on` called for offers that have waited ``offers.crossing``."""

    def begin(self, offer: Offer, peer: Peer, /) -> None:
        """Do so when the receiver makes no offer itself, or in that time from now."""

    def yield_time(self, offer: Offer, /) -> None:
        """Do so in that time from now, and not before."""


class Relay:
    """The switchboard.

    Args:
        journal: Told of every decision.
        clock: Gives the time in seconds.
        waiting: Tells when offers have waited for those that may cross them.
        offers: The settings for offers and answers.

    Attributes:
        offers: These settings. They may change.
        registry: Which peer holds which UUID.
        directory: Who is connected elsewhere. It may change.
        ledger: Which offers are outstanding.
        drops: How many messages were dropped so that they harm nobody, and why.
    """

    def __init__(
        self,
        journal: RelayObserver,
        clock: Callable[[], float],
        waiting: Waiting,
        offers: Offers = Offers(),  # noqa: B008 - frozen
    ) -> None:
        self.offers = offers
        self.registry = Registry()
        self.directory: Directory = Alone()
        self.ledger = OfferTable()
        self.drops: Counter[DropReason] = Counter()
        self._journal = journal
        self._clock = clock
        self._waiting = waiting
        self._began = clock()
        self._orphans: deque[Offer] = deque()
        self._returning = False

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
        self.leave(peer, f"refused with {refusal.code}", LeaveReason.REFUSED)
        peer.close(refusal.code, refusal.reason)

    def leave(
        self, peer: Peer, why: str, cause: LeaveReason = LeaveReason.LOST
    ) -> None:
        """Forget a peer. Does nothing if it holds no UUID.

        Args:
            peer: Whose connection is closing, closed or lost.
            why: The cause, in the relay's own words.
            cause: The same in one word.
        """
        registration = peer.registration
        if registration is not None:
            peer.registration = None
            moved = cause is LeaveReason.MOVED
            now = None if moved else self._clock()
            self.registry.remove(registration.uuid, peer, now)
            self._journal.left(peer, registration, why, cause)
            if moved:
                self._forget_offers_of(registration.uuid)
            self._abandon(registration.uuid)

    def tick(self) -> None:
        """Act on what has waited for long enough; to be called twice a second."""
        now, terms = self._clock(), self.offers
        if not terms.shield:
            self._put_down()
        for offer in self.ledger.unclaimed(now, terms.hold):
            if self.registry.get(offer.target) is None:
                self._bounce(offer, self.directory.missing)
        for offer in self.ledger.unanswered(now, terms.answer_timeout):
            self._give_up(offer)
        self.registry.forget(now - terms.recent)
        self.ledger.forget(now)

    def pass_on(self, offer: Offer) -> None:
        """Hand over an offer that waits, if it still does and its receiver is there.

        Args:
            offer: It; what has been dealt with is left alone.
        """
        source, text = self.registry.get(offer.source), offer.text
        if text is None or source is None:
            return
        offer.waited = self._clock() - offer.since
        error = self._deliver(source, _request(offer), text, offer)
        if error is None:
            self.ledger.pass_on(offer)
        elif error != self.directory.missing:
            self._bounce(offer, error)

    # -- registering

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
        peer.registers()
        now = self._clock()
        holder = self.registry.get(request.uuid)
        rounds = 0
        since = now - self.offers.recent
        again = self.registry.left(request.uuid, since) is not None
        if holder is not None and holder is not peer:
            rounds = self._take_over(holder, peer, request.uuid, now)
            again = True

        name = request.name[:NAME_LENGTH]
        legacy = isinstance(request, LegacyRegistrationRequest)
        registration = peer.registration
        if registration is not None and registration.uuid == request.uuid:
            registration.name = name
            registration.legacy = legacy
        else:
            self.leave(peer, "registered another UUID", LeaveReason.MOVED)
            registration = Registration(
                request.uuid, name, legacy, now, rounds=rounds, again=again
            )
            peer.registration = registration
            self.registry.add(request.uuid, peer)
            self._forget_offers_of(request.uuid)
        self._journal.registered(peer, registration)
        self._answer(peer, messages.LEGACY_ACCEPTED if legacy else messages.ACCEPTED)
        self._offer_held(peer, request.uuid)

    def _take_over(self, holder: Peer, peer: Peer, uuid: str, now: float) -> int:
        """Let a peer take the place of another one.

        Returns:
            How many times in a row this has happened to the UUID.
        """
        if holder.user != peer.user:
            raise Forbidden(
                f"The client UUID {uuid} is already registered to another user."
            )
        # A client that gave up on a slow connection has opened another one. What
        # it still says on the first must not end the second.
        if holder.arrival > peer.arrival:
            raise Superseded
        superseded = Superseded()
        held = holder.registration
        rounds = 1
        if held is not None and now - held.since < ROUND:
            rounds += held.rounds
        self._journal.replaced(holder, peer, uuid, rounds)
        self.leave(holder, REPLACED, LeaveReason.REPLACED)
        holder.close(superseded.code, superseded.reason)
        # Stock clients decide by the state of their old socket whether they were
        # replaced. So that is closed before the new one hears of its success.
        peer.follow(holder)
        return rounds

    # -- forwarding

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
                BounceReason.SOURCE,
            )
        elif not self.offers.shield:
            error = self._deliver(peer, message, text)
            if error is not None:
                self._return(peer, message, error)
        elif message.error is not None:
            self._drop(peer, registration, message, DropReason.ERROR)
        elif not messages.is_described(message):
            self._forward_undescribed(peer, registration, message)
        elif message.description_type == "answer":
            self._forward_answer(peer, registration, message, text)
        else:
            self._forward_offer(peer, registration, message, text)

    def _forward_undescribed(
        self, peer: Peer, registration: Registration, message: PeerConnection
    ) -> None:
        """Keep a message from a receiver that would end on its description.

        Its sender is no stock client. An offer to nobody comes back all the same: a
        client can ask that way whether its peer is there.
        """
        uuid = message.peer_uuid
        target = self.registry.get(uuid) or self.directory.find(uuid)
        if target is None and message.description_type == "offer":
            self._return(peer, message, self.directory.missing)
        else:
            self._drop(peer, registration, message, DropReason.DESCRIPTION)

    def _forward_offer(
        self,
        peer: Peer,
        registration: Registration,
        message: PeerConnection,
        text: bytes,
    ) -> None:
        source, target, ledger = message.source_uuid, message.peer_uuid, self.ledger
        forbidden = ledger.forbids(source, target)
        if source == target:
            # It has just made this offer itself, and would end at the sight of it.
            self._return(peer, message, SELF)
        elif forbidden is DropReason.CROSSING and self._crosses_held(source, target):
            # This client must have let go of its own offer when it hears of the other.
            self._return(peer, message, CROSSED)
        elif forbidden is not None:
            # No error either: to the client, all offers of the two are for one
            # connection, which would end for it although another offer may succeed.
            self._drop(peer, registration, message, forbidden)
        else:
            anonymous = peer.user.sub == ANONYMOUS.sub
            offer = Offer(
                source,
                target,
                message.source_name,
                self._clock(),
                user=peer.user.sub,
                place=peer.source,
                holder=share_of(peer),
                capped=peer.limited or not anonymous,
            )
            if not self._make_room(offer):
                self._return(peer, message, FULL)
                return
            if self.offers.crossing and self._delay(peer, registration, offer, text):
                return
            error = self._deliver(peer, message, text, offer)
            if error is None:
                ledger.add(offer)
            elif error == self.directory.missing and self._hold(peer, offer, text):
                self._journal.held(peer, message)
            else:
                self._return(peer, message, error)

    def _make_room(self, offer: Offer) -> bool:
        """Whether an offer may be outstanding, perhaps instead of another one.

        A full table takes room from its largest holder. That offer comes back, since
        its answer would no longer be passed on.
        """
        if not self.ledger.allows(offer):
            return False
        while (full := self.ledger.full(offer)) is not None:
            other = full.displaced(offer.holder)
            if other is None:
                return False
            self._bounce(other, FULL)
        return True

    def _forward_answer(
        self,
        peer: Peer,
        registration: Registration,
        message: PeerConnection,
        text: bytes,
    ) -> None:
        registration.unanswered = 0
        registration.unheard = frozenset()
        registration.deaf = False
        offer = self.ledger.find(message.peer_uuid, message.source_uuid)
        if offer is None:
            self._drop(peer, registration, message, DropReason.UNASKED)
            return
        self.ledger.close(offer)
        if self._is_late(offer):
            self._drop(peer, registration, message, DropReason.LATE)
            return
        error = self._deliver(peer, message, text, offer)
        if error is None:
            if self.offers.crossing:
                self.ledger.mark_connected(offer.source, offer.target, self._clock())
        else:
            # It makes the sender let go of the connection, so that the next offer of
            # its peer finds a new one.
            self._return(peer, message, error)

    def _deliver(
        self,
        peer: Peer,
        message: PeerConnection,
        text: bytes,
        offer: Offer | None = None,
    ) -> str | None:
        """Hand a text to its receiver, or say why it cannot be."""
        uuid = message.peer_uuid
        target = self.registry.get(uuid) or self.directory.find(uuid)
        if target is None:
            return self.directory.missing
        # Mostly it is the very same: to compare its fields would take a while.
        if target.user is not peer.user and target.user != peer.user:
            return FOREIGN
        try:
            target.deliver(text)
        except PeerBusy:
            return BUSY
        except PeerGone:
            self.leave(target, "gone while it was sent a message")
            return self.directory.missing
        if peer.registration is not None:
            peer.registration.sent += 1
        if target.registration is not None:
            target.registration.received += 1
        self._journal.forwarded(peer, target, message, offer)
        return None

    def _drop(
        self,
        peer: Peer,
        registration: Registration,
        message: PeerConnection,
        why: DropReason,
    ) -> None:
        self.drops[why] += 1
        registration.dropped += 1
        self._journal.shielded(peer, message, why)

    def _return(
        self,
        peer: Peer,
        message: PeerConnection,
        why: str,
        word: BounceReason = BounceReason.UNKNOWN,
    ) -> None:
        error = why.format(message.peer_uuid)
        self._journal.returned(peer, message, error, _WORDS.get(why, word))
        self._answer(peer, messages.echo(message, error))

    def _answer(self, peer: Peer, text: bytes) -> None:
        try:
            peer.answer(text)
        except PeerGone:
            self.leave(peer, "gone while it was answered")

    # -- offers that wait for their peers

    def _hold(self, peer: Peer, offer: Offer, text: bytes) -> bool:
        """Let an offer wait, if its receiver is likely to come back.

        Returns:
            Whether it does.
        """
        since = self._clock() - self.offers.recent
        owner = self.registry.left(offer.target, since)
        likely = self._began > since if owner is None else owner == peer.user
        if self.offers.hold == 0 or not likely:
            return False
        offer.text = text
        return self._keep(offer)

    def _keep(self, offer: Offer) -> bool:
        """Let an offer wait if it may, perhaps instead of another one."""
        other = self.ledger.displaced(offer, self.offers)
        if other is not None:
            self.pass_on(other)
            if other.text is not None:
                self._bounce(other, self.directory.missing)
        return self.ledger.hold(offer, self.offers)

    def _delay(
        self, peer: Peer, registration: Registration, offer: Offer, text: bytes
    ) -> bool:
        """Let an offer wait for one that crosses it, where there may be one.

        So it is if its receiver is there, and the two have not found each other since
        they came.

        Returns:
            Whether it does.
        """
        target = self.registry.get(offer.target)
        if target is None or target.registration is None or target.user != peer.user:
            return False
        found = self.ledger.last_connected(offer.source, offer.target, offer.since)
        if found > max(registration.since, target.registration.since):
            return False
        offer.text = text
        if not self._keep(offer):
            offer.text = None
            return False
        self._waiting.begin(offer, target)
        return True

    def _crosses_held(self, source: str, target: str) -> bool:
        """Whether an offer crosses one that still waits. That waits anew then.

        The sender needs time to let go of its own offer.
        """
        other = self.ledger.find(target, source)
        if other is None or other.text is None:
            return False
        self._waiting.yield_time(other)
        return True

    def _offer_held(self, peer: Peer, uuid: str) -> None:
        """Hand over what has waited for a client, in the order in which it came.

        A client may come to make an offer itself, so that may be crossed, too.
        """
        for offer in self.ledger.of(uuid):
            if offer.target != uuid or offer.text is None:
                continue
            if self.offers.crossing and offer.user == peer.user.sub:
                self._waiting.begin(offer, peer)
            else:
                self.pass_on(offer)

    def _forget_offers_of(self, uuid: str) -> None:
        """Forget what a client asked for before it registered anew."""
        for offer in self.ledger.of(uuid):
            if offer.source == uuid:
                self.ledger.close(offer)

    # -- offers that nobody will answer

    def _abandon(self, uuid: str) -> None:
        """Return the offers that a client which has left can no longer answer.

        Its own that wait vanish. Those that were passed on stay, as the client may come
        back: the answer goes back to the peer, which lets go of its half of the
        connection. Otherwise the next offer of the client finds that half, and fails.
        """
        for offer in self.ledger.of(uuid):
            if offer.text is None and offer.target == uuid:
                self._orphans.append(offer)
            elif offer.text is not None and offer.source == uuid:
                self.ledger.close(offer)
        if self._returning:
            return  # Whoever turns out to be gone meanwhile would go ever deeper.
        self._returning = True
        try:
            while self._orphans:
                self._bounce(self._orphans.popleft(), LEFT)
        finally:
            self._returning = False

    def _give_up(self, offer: Offer) -> None:
        """Return an offer that was not answered in time, and draw conclusions."""
        target = self.registry.get(offer.target)
        registration = None if target is None else target.registration
        if target is None and offer.text is not None:
            self._bounce(offer, self.directory.missing)
        elif target is None or registration is None or offer.text is not None:
            self._bounce(offer, SILENT)
        else:
            registration.unanswered += 1
            if len(registration.unheard) < WITNESSES:
                registration.unheard |= {offer.place}
            if (
                registration.again
                and registration.unanswered >= SILENCES
                and not registration.deaf
            ):
                registration.deaf = True
                self._journal.deaf(target, registration)
            self._bounce(offer, DEAF if registration.deaf else SILENT)
            if (
                registration.deaf
                and self.offers.close_deaf
                and len(registration.unheard) >= WITNESSES
            ):
                self.refuse(target, Deaf())

    def _put_down(self) -> None:
        """Forget who may be answered, since anybody may from now on."""
        for offer in self.ledger.unanswered(self._clock(), 0.0):
            self.pass_on(offer)
            if offer.text is None:
                self.ledger.close(offer)
            else:
                self._bounce(offer, self.directory.missing)

    def _bounce(self, offer: Offer, error: str) -> None:
        """Return an offer to its sender, unless it has been dealt with."""
        source = self.registry.get(offer.source)
        if not self.ledger.close(offer) or source is None:
            return
        registration, request = source.registration, _request(offer)
        if registration is not None and self._is_late(offer):
            self._drop(source, registration, request, DropReason.LATE)
        else:
            self._return(source, request, error)

    def _is_late(self, offer: Offer) -> bool:
        """Whether the process stood still for so long that nobody waits any more."""
        return self._clock() - offer.since > PATIENCE_SECONDS


def _request(offer: Offer) -> PeerConnection:
    """The offer as it came, but for the description."""
    return PeerConnection(offer.source, offer.name, offer.target, "offer", "")
