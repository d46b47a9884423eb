"""Offers and answers: which is passed on, waits, comes back or is dropped. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from proxyrelay.config import Offers
from proxyrelay.errors import Deaf, Forbidden, PeerBusy, PeerGone, Refusal
from proxyrelay.switchboard import events, messages
from proxyrelay.switchboard.delivery import Undelivered, about
from proxyrelay.switchboard.events import BounceReason, ForwardObserver, Observer
from proxyrelay.switchboard.messages import PeerConnection
from proxyrelay.switchboard.offers import DropReason, Offer
from proxyrelay.switchboard.peer import Peer, Sent, share_of
from proxyrelay.switchboard.reach import Reach
from proxyrelay.switchboard.registry import Registry
from proxyrelay.switchboard.user import ANONYMOUS


class Waiting(Protocol):
    """Calls `Broker.pass_on` for offers that have waited ``offers.crossing``."""

    def begin(self, offer: Offer, peer: Peer, /) -> None:
        """Wait for an offer of the receiver, at most that time."""

    def yield_time(self, offer: Offer, /) -> None:
        """Wait all of that time from now on."""


class Broker:
    """Decides on offers and answers, and hands them over.

    Peers that turn out to be gone leave, and deaf ones are refused. The settings may
    change.
    """

    def __init__(
        self,
        registry: Registry,
        undelivered: Undelivered,
        observer: Observer,
        on_forward: ForwardObserver | None,
        clock: Callable[[], float],
        waiting: Waiting,
        settings: Offers,
        leave: Callable[[Peer, str], None],
        refuse: Callable[[Peer, Refusal], None],
    ) -> None:
        self.settings = settings
        self.table = undelivered.table
        self.reach = Reach(observer, clock)
        self._find = registry.get
        self._left = registry.left
        self._undelivered = undelivered
        self._observer = observer
        self._on_forward = on_forward
        self._clock = clock
        self._waiting = waiting
        self._leave = leave
        self._refuse = refuse
        self._began = clock()

    def tick(self) -> None:
        """Act on offers whose time is over; to be called twice a second."""
        now, settings = self._clock(), self.settings
        if not settings.shield:
            self._put_down()
        for offer in self.table.unclaimed(now, settings.hold):
            if self._find(offer.target) is None:
                self._undelivered.bounce(offer, BounceReason.UNKNOWN)
        for offer in self.table.unanswered(now, settings.answer_timeout):
            deaf = self._undelivered.give_up(offer)
            if deaf is not None and settings.close_deaf:
                self._refuse(deaf, Deaf())
        self.table.forget(now)
        self.reach.tick()

    def _put_down(self) -> None:
        """Empty the table after the shield is turned off: answers need no offer."""
        for offer in self.table.unanswered(self._clock(), 0.0):
            self.pass_on(offer)
            if offer.waits:
                self._undelivered.bounce(offer, BounceReason.UNKNOWN)
            elif self.table.close(offer):
                why = "the shield was turned off before it was answered"
                self._undelivered.report(events.Forwarded, offer, why)

    # -- forwarding

    def forward(self, peer: Peer, message: PeerConnection, text: bytes) -> None:
        """Act on an offer or answer of a peer, with its text as it came.

        Raises:
            Forbidden: The sender holds no UUID.
        """
        registration = peer.registration
        if registration is None:
            raise Forbidden(
                "Client has not registered and authenticated with the relay server."
            )
        sent, undelivered = Sent(peer, registration, message, text), self._undelivered
        if message.source_uuid != registration.uuid:
            undelivered.send_back(sent, BounceReason.SOURCE)
        elif not self.settings.shield:
            self.reach.look(sent)
            why = self._deliver(sent)
            if why is not None:
                undelivered.send_back(sent, why)
        elif message.error is not None:
            undelivered.drop(sent, DropReason.ERROR)
        elif (sdp := messages.sdp_of(message)) is None:
            self._forward_undescribed(sent)
        else:
            self.reach.look(sent, sdp)
            if message.description_type == "answer":
                self._forward_answer(sent)
            else:
                self._forward_offer(sent)

    def _deliver(self, sent: Sent, offer: Offer | None = None) -> BounceReason | None:
        """Hand a message to its receiver, or say why that cannot be."""
        peer, message = sent.peer, sent.message
        target = self._find(message.peer_uuid)
        if target is None:
            return BounceReason.UNKNOWN
        # The object is mostly the same, which saves the comparison of its fields.
        if target.user is not peer.user and target.user != peer.user:
            return BounceReason.FOREIGN
        try:
            target.deliver(sent.text)
        except PeerBusy:
            return BounceReason.BUSY
        except PeerGone:
            self._leave(target, "gone while it was sent a message")
            return BounceReason.UNKNOWN
        sent.registration.sent += 1
        if offer is not None and message.description_type == "offer":
            sent.registration.last_offer = offer.since
            offer.target_address = target.address
        if target.registration is not None:
            target.registration.received += 1
        if self._on_forward is not None:
            self._on_forward(peer, target, message, offer)
        return None

    def _forward_undescribed(self, sent: Sent) -> None:
        """Drop a message on whose description its receiver would end.

        The sender is no stock client. An offer to an unknown peer comes back all the
        same, so that a client can ask whether the peer is there.
        """
        is_offer = sent.message.description_type == "offer"
        if is_offer and self._find(sent.message.peer_uuid) is None:
            self._undelivered.send_back(sent, BounceReason.UNKNOWN)
        else:
            self._undelivered.drop(sent, DropReason.DESCRIPTION)

    def _forward_answer(self, sent: Sent) -> None:
        undelivered, registration = self._undelivered, sent.registration
        registration.unanswered = 0
        registration.unheard = frozenset()
        registration.deaf = False
        offer = self.table.find(sent.message.peer_uuid, sent.message.source_uuid)
        if offer is None:
            undelivered.drop(sent, DropReason.UNASKED)
            return
        self.table.close(offer)
        if undelivered.is_late(offer):
            undelivered.drop(sent, DropReason.LATE, offer)
            return
        if offer.origin is None:
            why = self._deliver(sent, offer)
        else:
            why = self._answer_elsewhere(sent, offer)
        if why is not None:
            # The error makes the sender end its half of the connection. The next
            # offer of its peer would fail on that half.
            undelivered.send_back(sent, why, offer)
        else:
            self._note_answered(sent, offer)

    def _note_answered(self, sent: Sent, offer: Offer) -> None:
        now, source = self._clock(), self._find(offer.source)
        if self.settings.crossing:
            self.table.mark_connected(offer.source, offer.target, now)
        if source is not None and offer.origin is None:
            self.reach.answered(offer, source, sent.registration, now)

    def _forward_offer(self, sent: Sent) -> None:
        source, target = sent.message.source_uuid, sent.message.peer_uuid
        undelivered, other = self._undelivered, self.table.find(target, source)
        if other is not None and self._is_elsewhere(other, sent):
            undelivered.bounce(other, BounceReason.CROSSED)
            other = None
        if source == target:
            # A stock client ends on an offer that it has just made itself.
            undelivered.send_back(sent, BounceReason.SELF)
        elif self.table.find(source, target) is not None:
            # An error would end the connection of the two clients, although
            # another offer may succeed.
            undelivered.drop(sent, DropReason.DUPLICATE)
        elif other is not None and other.waits:
            # The client must give up its own offer before it gets the other one,
            # which waits anew.
            self._waiting.yield_time(other)
            undelivered.send_back(sent, BounceReason.CROSSED)
        elif other is not None:
            undelivered.drop(sent, DropReason.CROSSING)
        else:
            self._forward_new(sent)

    def _is_elsewhere(self, other: Offer, sent: Sent) -> bool:
        """Whether an offer does not concern this connection of its receiver.

        The sender has left this relay before the offer was passed on; or it was passed
        on to an older connection at another relay.
        """
        if self._undelivered.directory is None:
            return False
        if other.waits:
            return other.origin is None and self._find(other.source) is None
        return other.since + other.waited < sent.registration.registered_at

    def _forward_new(self, sent: Sent) -> None:
        """Pass on an offer that no other one forbids, now or later."""
        peer, message = sent.peer, sent.message
        offer = Offer(
            *(message.source_uuid, message.peer_uuid, message.source_name),
            self._clock(),
            user=peer.user.sub,
            place=peer.source,
            holder=share_of(peer),
            capped=peer.limited or peer.user.sub != ANONYMOUS.sub,
        )
        if not self._make_room(offer):
            self._undelivered.send_back(sent, BounceReason.FULL)
            return
        if self.settings.crossing and self._delay(sent, offer):
            return
        why = self._deliver(sent, offer)
        directory = self._undelivered.directory
        if why is BounceReason.UNKNOWN and directory is not None:
            why = directory.forward(offer, sent.text)
        if why is None:
            self.table.add(offer)
        elif why is BounceReason.UNKNOWN and self._hold(sent, offer):
            self._observer(about(events.Held, sent))
        else:
            self._undelivered.send_back(sent, why)

    def _make_room(self, offer: Offer) -> bool:
        """Make room for an offer if there is none, by the return of another one."""
        if not self.table.allows(offer):
            return False
        while (full := self.table.full(offer)) is not None:
            other = full.displaced(offer.holder)
            if other is None:
                return False
            self._undelivered.bounce(other, BounceReason.FULL)
        return True

    # -- messages from and to clients of other relays

    def _answer_elsewhere(self, sent: Sent, offer: Offer) -> BounceReason | None:
        # The sender of the offer may have come here since. It waits for no answer on
        # its new connection.
        directory = self._undelivered.directory
        if directory is None:
            return BounceReason.UNKNOWN
        return directory.answer(sent, offer)

    def receive_offer(self, sent: Sent, offer: Offer) -> BounceReason | None:
        """Act on an offer of a client elsewhere, or say why that cannot be.

        Of two offers that cross on their way, both relays keep that of the lower UUID.
        """
        older = self.table.find(offer.source, offer.target)
        if older is not None:
            # Its sender has given it up: a client has one offer to a peer.
            self.table.close(older)
        own = self.table.find(offer.target, offer.source)
        if own is not None:
            if not own.waits and offer.source > offer.target:
                return None  # The other relay returns it.
            self._undelivered.bounce(own, BounceReason.CROSSED)
        if not self._make_room(offer):
            return BounceReason.FULL
        if self.settings.crossing and self._delay(sent, offer, own is not None):
            return None
        why = self._deliver(sent, offer)
        if why is None:
            self.table.add(offer)
        return why

    def receive_answer(self, sent: Sent, offer: Offer) -> BounceReason | None:
        """Hand over the answer of a client elsewhere, or say why that cannot be."""
        self.table.close(offer)
        if self._undelivered.is_late(offer):
            return None
        why = self._deliver(sent, offer)
        if why is None:
            self._note_answered(sent, offer)
        return why

    def await_arrival(self, offer: Offer, text: bytes) -> None:
        """Let an offer wait that was under way to a client that is away."""
        sent = self._undelivered.sent(offer)
        if sent is None or not self.table.close(offer):
            return
        sent.text = text
        if self.settings.hold and self._keep(sent, offer):
            self._observer(about(events.Held, sent))
        else:
            self._undelivered.send_back(sent, BounceReason.UNKNOWN, offer)

    # -- offers that wait for their peers

    def resume_waiting(self, offer: Offer, text: bytes) -> None:
        """Let an offer wait again that waited in the process before."""
        sent = self._undelivered.sent(offer)
        if sent is None:
            return
        sent.text = text
        if not self._keep(sent, offer):
            self.table.add(offer)
            self._undelivered.bounce(offer, BounceReason.UNKNOWN)
            return
        target = self._find(offer.target)
        if target is not None and self.settings.crossing:
            self._waiting.begin(offer, target)
        elif target is not None:
            self.pass_on(offer)

    def _hold(self, sent: Sent, offer: Offer) -> bool:
        """Let an offer wait, if its receiver is likely to come back."""
        since = self._clock() - self.settings.recent
        owner = self._left(offer.target, since)
        likely = self._began > since if owner is None else owner == sent.peer.user
        directory = self._undelivered.directory
        if directory is not None:
            # Other relays know better whether it has just left.
            likely = directory.is_blind
        return self.settings.hold != 0 and likely and self._keep(sent, offer)

    def _delay(self, sent: Sent, offer: Offer, crosses: bool = False) -> bool:
        """Let an offer wait, if another one may cross it.

        No offer crosses it if the receiver is away, or if the two clients have
        connected since both registered.
        """
        target = self._find(offer.target)
        other = None if target is None else target.registration
        if target is None or other is None or target.user != sent.peer.user:
            return False
        found = self.table.last_connected(offer.source, offer.target, offer.since)
        registered_at = max(sent.registration.registered_at, other.registered_at)
        if (found > registered_at and not crosses) or not self._keep(sent, offer):
            return False
        if crosses:
            # The receiver needs the time to give up its own offer.
            self._waiting.yield_time(offer)
        else:
            self._waiting.begin(offer, target)
        return True

    def _keep(self, sent: Sent, offer: Offer) -> bool:
        """Add an offer that waits, perhaps in the place of another one."""
        offer.text = sent.text
        other = self.table.displaced(offer, self.settings)
        if other is not None:
            self.pass_on(other)
            if other.waits:
                self._undelivered.bounce(other, BounceReason.UNKNOWN)
        if not self.table.hold(offer, self.settings):
            offer.text = None
        return offer.waits

    def pass_on(self, offer: Offer) -> None:
        """Hand over an offer that still waits, if its receiver is there."""
        sent = self._undelivered.sent(offer)
        if not offer.waits or sent is None:
            return
        offer.waited = self._clock() - offer.since
        why = self._deliver(sent, offer)
        if why is None:
            self.table.mark_passed_on(offer)
        elif why is not BounceReason.UNKNOWN:
            self._undelivered.bounce(offer, why)

    def hand_over(self, peer: Peer, uuid: str) -> None:
        """Hand over the offers that wait for a client, the oldest first.

        The client may come to make an offer itself, which may cross them.
        """
        for offer in self.table.of(uuid):
            if offer.target != uuid or not offer.waits:
                continue
            if self.settings.crossing and offer.user == peer.user.sub:
                self._waiting.begin(offer, peer)
            else:
                self.pass_on(offer)

    def forget_offers_of(self, uuid: str) -> None:
        """Forget the offers of a client, since it registers anew."""
        for offer in self.table.of(uuid):
            if offer.source == uuid:
                self.table.close(offer)
