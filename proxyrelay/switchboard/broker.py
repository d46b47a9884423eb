"""Offers and answers: which is passed on, waits, comes back or is dropped. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from proxyrelay.config import Offers
from proxyrelay.errors import Deaf, Forbidden, Refusal
from proxyrelay.switchboard import events, messages
from proxyrelay.switchboard.delivery import Delivery, about, request_of
from proxyrelay.switchboard.events import BounceReason, Observer
from proxyrelay.switchboard.messages import PeerConnection
from proxyrelay.switchboard.offers import DropReason, Offer
from proxyrelay.switchboard.peer import Peer, Registration, share_of
from proxyrelay.switchboard.registry import Registry
from proxyrelay.switchboard.user import ANONYMOUS

SILENCES = 2
"""Unanswered offers in a row, after which a client that came back counts as deaf."""

WITNESSES = 3
"""Addresses that must have made such offers before the client is closed. One stranger
cannot bring that about."""


class Waiting(Protocol):
    """Calls `Broker.pass_on` for offers that have waited ``offers.crossing``."""

    def begin(self, offer: Offer, peer: Peer, /) -> None:
        """Wait for an offer of the receiver, at most that time."""

    def yield_time(self, offer: Offer, /) -> None:
        """Wait all of that time from now on."""


class Broker:
    """Decides on offers and answers.

    Args:
        registry: The peers here.
        delivery: Hands over messages, and returns them.
        observer: Hears of each event.
        clock: Gives the time in seconds.
        waiting: Times the offers that may be crossed.
        offers: The settings for offers and answers.
        refuse: Closes a peer.

    Attributes:
        offers: The settings. They may change.
        ledger: The outstanding offers.
    """

    def __init__(
        self,
        registry: Registry,
        delivery: Delivery,
        observer: Observer,
        clock: Callable[[], float],
        waiting: Waiting,
        offers: Offers,
        refuse: Callable[[Peer, Refusal], None],
    ) -> None:
        self.offers = offers
        self.ledger = delivery.ledger
        self._registry = registry
        self._delivery = delivery
        self._observer = observer
        self._clock = clock
        self._waiting = waiting
        self._refuse = refuse
        self._began = clock()
        self._orphans: deque[Offer] = deque()
        self._returning = False

    def tick(self) -> None:
        """Act on offers whose time is over; to be called twice a second."""
        now, terms = self._clock(), self.offers
        if not terms.shield:
            self._put_down()
        for offer in self.ledger.unclaimed(now, terms.hold):
            if self._registry.get(offer.target) is None:
                self._delivery.bounce(offer, BounceReason.UNKNOWN)
        for offer in self.ledger.unanswered(now, terms.answer_timeout):
            self._give_up(offer)
        self.ledger.forget(now)

    def pass_on(self, offer: Offer) -> None:
        """Hand over an offer that still waits, if its receiver is there."""
        source, text = self._registry.get(offer.source), offer.text
        if not offer.waits or text is None or source is None:
            return
        offer.waited = self._clock() - offer.since
        why = self._delivery.deliver(source, request_of(offer), text, offer)
        if why is None:
            self.ledger.pass_on(offer)
        elif why is not BounceReason.UNKNOWN:
            self._delivery.bounce(offer, why)

    # -- forwarding

    def forward(self, peer: Peer, message: PeerConnection, text: bytes) -> None:
        """Act on an offer or answer.

        Args:
            peer: The sender.
            message: The message.
            text: The message as it came.

        Raises:
            Forbidden: The sender holds no UUID.
        """
        registration = peer.registration
        if registration is None:
            raise Forbidden(
                "Client has not registered and authenticated with the relay server."
            )
        if message.source_uuid != registration.uuid:
            self._delivery.send_back(peer, message, BounceReason.SOURCE)
        elif not self.offers.shield:
            why = self._delivery.deliver(peer, message, text)
            if why is not None:
                self._delivery.send_back(peer, message, why)
        elif message.error is not None:
            self._delivery.drop(peer, registration, message, DropReason.ERROR)
        elif not messages.is_described(message):
            self._forward_undescribed(peer, registration, message)
        elif message.description_type == "answer":
            self._forward_answer(peer, registration, message, text)
        else:
            self._forward_offer(peer, registration, message, text)

    def _forward_undescribed(
        self, peer: Peer, registration: Registration, message: PeerConnection
    ) -> None:
        """Drop a message on whose description its receiver would end.

        The sender is no stock client. An offer to an unknown peer comes back all the
        same, so that a client can ask whether the peer is there.
        """
        uuid = message.peer_uuid
        target = self._registry.get(uuid) or self._delivery.directory.find(uuid)
        if target is None and message.description_type == "offer":
            self._delivery.send_back(peer, message, BounceReason.UNKNOWN)
        else:
            self._delivery.drop(peer, registration, message, DropReason.DESCRIPTION)

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
            # A stock client ends on an offer that it has just made itself.
            self._delivery.send_back(peer, message, BounceReason.SELF)
        elif forbidden is DropReason.CROSSING and self._crosses_held(source, target):
            # The client must give up its own offer before it gets the other one.
            self._delivery.send_back(peer, message, BounceReason.CROSSED)
        elif forbidden is not None:
            # An error would end the connection of the two clients, although
            # another offer may succeed.
            self._delivery.drop(peer, registration, message, forbidden)
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
                self._delivery.send_back(peer, message, BounceReason.FULL)
                return
            if self.offers.crossing and self._delay(peer, registration, offer, text):
                return
            why = self._delivery.deliver(peer, message, text, offer)
            if why is None:
                ledger.add(offer)
            elif why is BounceReason.UNKNOWN and self._hold(peer, offer, text):
                self._observer(about(events.Held, peer, message))
            else:
                self._delivery.send_back(peer, message, why)

    def _make_room(self, offer: Offer) -> bool:
        """Make room for an offer, perhaps by the return of another one.

        Returns:
            Whether there is room.
        """
        if not self.ledger.allows(offer):
            return False
        while (full := self.ledger.full(offer)) is not None:
            other = full.displaced(offer.holder)
            if other is None:
                return False
            self._delivery.bounce(other, BounceReason.FULL)
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
            self._delivery.drop(peer, registration, message, DropReason.UNASKED)
            return
        self.ledger.close(offer)
        if self._delivery.is_late(offer):
            self._delivery.drop(peer, registration, message, DropReason.LATE, offer)
            return
        why = self._delivery.deliver(peer, message, text, offer)
        if why is None:
            if self.offers.crossing:
                self.ledger.mark_connected(offer.source, offer.target, self._clock())
        else:
            # The error makes the sender drop its half of the connection. The next
            # offer of its peer would fail on that half.
            self._delivery.send_back(peer, message, why, offer)

    # -- offers that wait for their peers

    def _hold(self, peer: Peer, offer: Offer, text: bytes) -> bool:
        """Let an offer wait, if its receiver is likely to come back.

        Returns:
            Whether it waits.
        """
        since = self._clock() - self.offers.recent
        owner = self._registry.left(offer.target, since)
        likely = self._began > since if owner is None else owner == peer.user
        if self.offers.hold == 0 or not likely:
            return False
        offer.text = text
        return self._keep(offer)

    def _keep(self, offer: Offer) -> bool:
        """Add an offer that waits, perhaps in the place of another one."""
        other = self.ledger.displaced(offer, self.offers)
        if other is not None:
            self.pass_on(other)
            if other.waits:
                self._delivery.bounce(other, BounceReason.UNKNOWN)
        return self.ledger.hold(offer, self.offers)

    def _delay(
        self, peer: Peer, registration: Registration, offer: Offer, text: bytes
    ) -> bool:
        """Let an offer wait, if another one may cross it.

        No offer crosses it if the receiver is away, or if the two clients have
        connected since both registered.

        Returns:
            Whether it waits.
        """
        target = self._registry.get(offer.target)
        if target is None or target.registration is None or target.user != peer.user:
            return False
        found = self.ledger.last_connected(offer.source, offer.target, offer.since)
        registered_at = registration.registered_at, target.registration.registered_at
        if found > max(registered_at):
            return False
        offer.text = text
        if not self._keep(offer):
            offer.text = None
            return False
        self._waiting.begin(offer, target)
        return True

    def _crosses_held(self, source: str, target: str) -> bool:
        """Whether an offer crosses one that still waits.

        The waiting offer then waits anew: its receiver needs time to give up its own.
        """
        other = self.ledger.find(target, source)
        if other is None or not other.waits:
            return False
        self._waiting.yield_time(other)
        return True

    def hand_over(self, peer: Peer, uuid: str) -> None:
        """Hand over the offers that wait for a client, the oldest first.

        The client may come to make an offer itself, which may cross them.
        """
        for offer in self.ledger.of(uuid):
            if offer.target != uuid or not offer.waits:
                continue
            if self.offers.crossing and offer.user == peer.user.sub:
                self._waiting.begin(offer, peer)
            else:
                self.pass_on(offer)

    def forget_offers_of(self, uuid: str) -> None:
        """Forget the offers of a client, since it registers anew."""
        for offer in self.ledger.of(uuid):
            if offer.source == uuid:
                self.ledger.close(offer)

    # -- offers without an answer

    def report_abandoned(self, peer: Peer, uuid: str) -> None:
        """Report the outstanding offers of a client that leaves."""
        for offer in self.ledger.of(uuid):
            if offer.source == uuid:
                self._observer(
                    about(
                        events.Abandoned,
                        peer,
                        request_of(offer),
                        source=uuid,
                        target_address=offer.target_address,
                        seconds=self._delivery.age(offer),
                        reason="its sender left before it was answered",
                    )
                )

    def abandon(self, uuid: str) -> None:
        """Return the offers that a client can no longer answer, since it left.

        Its own offers vanish while they wait. Others stay in the table, so that the
        answer goes back to the peer. The peer then drops its half of the connection,
        on which the next offer of the client would fail.
        """
        for offer in self.ledger.of(uuid):
            if not offer.waits and offer.target == uuid:
                self._orphans.append(offer)
            elif offer.waits and offer.source == uuid:
                self.ledger.close(offer)
        if self._returning:
            return  # The outer loop returns them: no recursion over clients.
        self._returning = True
        try:
            while self._orphans:
                self._delivery.bounce(self._orphans.popleft(), BounceReason.LEFT)
        finally:
            self._returning = False

    def _give_up(self, offer: Offer) -> None:
        """Return an offer that was not answered in time, and note a deaf receiver."""
        target = self._registry.get(offer.target)
        registration = None if target is None else target.registration
        if target is None and offer.waits:
            self._delivery.bounce(offer, BounceReason.UNKNOWN)
        elif target is None or registration is None or offer.waits:
            self._delivery.bounce(offer, BounceReason.SILENT)
        else:
            registration.unanswered += 1
            if len(registration.unheard) < WITNESSES:
                registration.unheard |= {offer.place}
            if (
                registration.is_reconnect
                and registration.unanswered >= SILENCES
                and not registration.deaf
            ):
                registration.deaf = True
                self._report_deaf(target, registration)
            self._delivery.bounce(
                offer, BounceReason.DEAF if registration.deaf else BounceReason.SILENT
            )
            if (
                registration.deaf
                and self.offers.close_deaf
                and len(registration.unheard) >= WITNESSES
            ):
                self._refuse(target, Deaf())

    def _report_deaf(self, peer: Peer, registration: Registration) -> None:
        self._observer(
            events.Deafness(
                *(registration.uuid, registration.name, peer.user.sub, peer.address),
                seconds=self._clock() - registration.registered_at,
            )
        )

    def _put_down(self) -> None:
        """Empty the table, since every answer is passed on from now on."""
        for offer in self.ledger.unanswered(self._clock(), 0.0):
            self.pass_on(offer)
            if offer.waits:
                self._delivery.bounce(offer, BounceReason.UNKNOWN)
            else:
                self.ledger.close(offer)
