"""Offers and answers between nodes: the directory of a relay in a cluster. Pure.

Each node keeps its own table of offers: that of the sender, to pass on at most one
answer or error, and that of the receiver, to pass on at most one offer. So whatever
the engine loses, repeats or delays, no client gets what would end it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from proxyrelay.cluster import codec
from proxyrelay.cluster.bus import Bus, NoReply, NotSent, hashed_user, ignore
from proxyrelay.cluster.claims import Claims
from proxyrelay.cluster.seal import Seal, Unsealable
from proxyrelay.switchboard.events import BounceReason
from proxyrelay.switchboard.messages import PeerConnection, RegistrationRequest
from proxyrelay.switchboard.offers import Offer
from proxyrelay.switchboard.peer import Peer, Registration, Sent
from proxyrelay.switchboard.relay import Relay
from proxyrelay.switchboard.user import ANONYMOUS, User

LATE_US = 5_000_000
"""Age of an offer, from the engine to its receiver, over which it goes back. Its node
stood still, and the sender may have given it up."""

SEALED_US = 60_000_000
"""The same since it was sealed. A node that has not met the sender's cannot know by the
serial number whether it is a repetition. Nodes read the engine's clock now and then."""

GONE = "gone"
"""Reason for an offer to a connection that the node does not have."""

ANSWER = "answer"
"""Reason for an answer that its receiver does not get."""

REASONS = frozenset({GONE, ANSWER, *(why.name.lower() for why in BounceReason)})
"""Reasons of a `codec.Returned`. Any other one counts as ``silent``."""


@dataclass
class FarSender:
    """A client of another node: the `proxyrelay.switchboard.peer.Sender` of its offer.

    Attributes:
        address: Its node, as it may be shown. The client's address stays there.
        source: Its node, with the incarnation.
        number: Number of the offer there.
        registration: Stands for the one at that node, and counts for nobody.
    """

    user: User
    address: str
    source: str
    number: int
    registration: Registration | None
    limited: bool = False


class Node:
    """This relay in its cluster.

    Args:
        name: Name of this node, with its incarnation.
        bus: The engine.
        relay: The rules of this relay.
        claims: The UUIDs of this node.
        seal: Seals messages.
        issuer: The identity provider.
        clock: Time in seconds.

    Attributes:
        forwards: Offers passed on, by the engine's reply.
        returns: Offers and answers that other nodes sent back, by reason.
        ignored: Messages without effect: repeated, too late, or malformed.
        further: Called with each envelope that is about no offer and no claim.
    """

    def __init__(
        self,
        name: str,
        bus: Bus,
        relay: Relay,
        claims: Claims,
        seal: Seal,
        issuer: str,
        clock: Callable[[], float],
    ) -> None:
        self.forwards: dict[str, int] = {}
        self.returns: dict[str, int] = {}
        self.ignored = 0
        self.further: Callable[[codec.Query | codec.Report], None] = ignore
        self._name = name
        self._bus = bus
        self._relay = relay
        self._claims = claims
        self._seal = seal
        self._issuer = issuer
        self._clock = clock
        self._number = 0
        self._serial = 0
        self._serials: dict[str, int] = {}
        claims.say = self._say

    # -- the directory

    @property
    def is_blind(self) -> bool:
        """Whether the engine cannot be reached."""
        return not self._bus.ready

    def claim(self, peer: Peer, request: RegistrationRequest) -> None:
        """Ask the engine for a UUID."""
        self._claims.claim(peer, request)

    def release(self, peer: Peer, uuid: str | None) -> None:
        """Give up a UUID."""
        self._claims.release(peer, uuid)

    def forward(self, offer: Offer, text: bytes) -> BounceReason | None:
        """Pass on an offer of a client of this node."""
        if not self._bus.ready:
            return BounceReason.UNKNOWN
        self._number += 1
        offer.number = self._number
        self._send(offer, text)
        return None

    def answer(self, sent: Sent, offer: Offer) -> BounceReason | None:
        """Pass on an answer to the node of the offer."""
        origin = offer.origin
        if not self._bus.ready or not isinstance(origin, FarSender):
            return BounceReason.UNKNOWN
        self._say(
            origin.source,
            partial(
                codec.Answered,
                number=origin.number,
                source=offer.source,
                target=offer.target,
                text=sent.text,
                age=self._clock() - sent.registration.registered_at,
                candidates=sent.registration.candidates,
            ),
            partial(self._answer_sent, sent, offer),
        )
        return None

    def give_back(self, offer: Offer, why: BounceReason, text: bytes | None) -> None:
        """Return an offer to its node."""
        origin = offer.origin
        if isinstance(origin, FarSender):
            # An offer that still waited may go where its receiver is now.
            moved = why in {BounceReason.LEFT, BounceReason.UNKNOWN}
            reason = GONE if text is not None and moved else why.name.lower()
            self._return(origin.source, origin.number, offer, reason, text or b"")

    # -- to other nodes

    def _say(
        self, node: str, message: Callable[..., codec.Envelope], done: Any = ignore
    ) -> None:
        self._serial += 1
        envelope = codec.encode(message(serial=self._serial, node=self._name))
        sealed = self._seal.seal(envelope, node.encode())
        self._bus.publish(done, node, codec.DIRECT + sealed)

    def _return(
        self, node: str, number: int, offer: Offer, reason: str, text: bytes
    ) -> None:
        self._say(
            node,
            partial(
                codec.Returned,
                number=number,
                source=offer.source,
                target=offer.target,
                reason=reason,
                text=text,
            ),
        )

    def _send(self, offer: Offer, text: bytes) -> None:
        self._serial += 1
        user = hashed_user(self._issuer, offer.user)
        envelope = codec.encode(
            codec.Offered(
                *(self._serial, self._name, offer.number, offer.source, offer.target),
                *(user, offer.name, text, self._is_connected(offer)),
                self._bus.engine_time(),
            )
        )
        hold_ms = round(self._relay.broker.settings.hold * 1000)
        self._bus.call(
            partial(self._sent, offer, text),
            *("forward", offer.target, user, self._name, hold_ms),
            self._seal.seal(envelope, offer.target.encode()),
        )

    def _is_connected(self, offer: Offer) -> bool:
        """Whether a stock client would not expect an offer of its peer now."""
        peer = self._relay.registry.get(offer.source)
        if peer is None or peer.registration is None:
            return False
        table, now = self._relay.broker.table, self._clock()
        connected = table.last_connected(offer.source, offer.target, now)
        return connected > peer.registration.registered_at

    def _sent(self, offer: Offer, text: bytes, reply: Any) -> None:
        kind = type(reply).__name__ if isinstance(reply, Exception) else _text(reply[0])
        self.forwards[kind] = self.forwards.get(kind, 0) + 1
        # Without a reply the offer may be on its way. An answer or its timeout decides.
        if isinstance(reply, NoReply) or not self._is_open(offer):
            return
        relay = self._relay
        if kind == "SENT":
            offer.target_address = _text(reply[1])
            source = relay.registry.get(offer.source)
            if source is not None and source.registration is not None:
                source.registration.sent += 1
                source.registration.last_offer = offer.since
        elif kind == "HOLD" or isinstance(reply, NotSent):
            self._await_arrival(offer, text)
            if offer.has_arrived and offer.waits:
                offer.has_arrived = False
                self._send_again(offer)
        else:
            foreign = kind == "FOREIGN"
            why = BounceReason.FOREIGN if foreign else BounceReason.UNKNOWN
            relay.undelivered.bounce(offer, why)

    def _await_arrival(self, offer: Offer, text: bytes) -> None:
        """Let an offer wait for its receiver, which may have come here meanwhile."""
        broker = self._relay.broker
        broker.await_arrival(offer, text)
        peer = self._relay.registry.get(offer.target)
        if peer is not None:
            broker.hand_over(peer, offer.target)

    def _is_open(self, offer: Offer) -> bool:
        return self._relay.broker.table.find(offer.source, offer.target) is offer

    def _answer_sent(self, sent: Sent, offer: Offer, reply: Any) -> None:
        is_lost = isinstance(reply, NotSent) or reply == 0
        if is_lost and sent.peer.registration is sent.registration:
            self._relay.undelivered.send_back(sent, BounceReason.UNKNOWN, offer)

    def resume(self) -> None:
        """Pass on the offers that have waited for the engine."""
        table = self._relay.broker.table
        for offer in table.unclaimed(self._clock(), 0.0):
            self._send_again(offer)

    def _arrived(self, uuid: str) -> None:
        for offer in self._relay.broker.table.of(uuid):
            if offer.target != uuid:
                continue
            if offer.waits:
                self._send_again(offer)
            else:  # perhaps the reply that it should wait is on its way
                offer.has_arrived = True

    def _send_again(self, offer: Offer) -> None:
        is_here = self._relay.registry.get(offer.target) is not None
        text = offer.text
        if offer.origin is None and not is_here and text is not None:
            self._relay.broker.table.mark_passed_on(offer)
            if not offer.number:
                self._number += 1
                offer.number = self._number
            self._send(offer, text)

    # -- from other nodes

    def received(self, message: bytes) -> None:
        """Act on a message in the inbox of this node."""
        try:
            parsed = codec.parse(message)
            if isinstance(parsed, codec.Kick):
                self._claims.kick(parsed)
            elif isinstance(parsed, codec.Arrived):
                self._arrived(parsed.uuid)
            elif isinstance(parsed, codec.ForClient):
                envelope = self._open(parsed.envelope, parsed.uuid)
                if isinstance(envelope, codec.Offered):
                    self._offered(parsed, envelope)
            else:
                self._act(self._open(parsed.envelope, self._name))
        except (codec.Malformed, Unsealable):
            self.ignored += 1

    def _open(self, envelope: bytes, bound_to: str) -> codec.AnyEnvelope:
        found = codec.decode(self._seal.open(envelope, bound_to.encode()))
        if found.serial <= self._serials.get(found.node, 0):
            raise codec.Malformed("it was there before")
        self._serials[found.node] = found.serial
        return found

    def forget(self, node: str) -> None:
        """Forget a node that has ended."""
        self._serials.pop(node, None)

    def _act(self, message: codec.AnyEnvelope) -> None:
        if isinstance(message, codec.Answered):
            self._answered(message)
        elif isinstance(message, codec.Returned):
            self._returned(message)
        elif isinstance(message, codec.Question):
            self._claims.asked(message)
        elif isinstance(message, codec.Confirmation):
            self._claims.told(message)
        elif isinstance(message, codec.Query | codec.Report):
            self.further(message)

    def _offered(self, head: codec.ForClient, message: codec.Offered) -> None:
        relay = self._relay
        if message.node == self._name:
            self._claims.disown(head.uuid, head.connection)
            mine = self._mine(message.source, message.target, message.number)
            if mine is not None:
                self._await_arrival(mine, message.text)
            return
        peer = relay.registry.get(head.uuid)
        reason, text = "", b""
        now = self._bus.engine_time()
        if now - head.time > LATE_US or now - message.time > SEALED_US:
            reason = "silent"
        elif peer is None or peer.arrival != head.connection:
            self._claims.disown(head.uuid, head.connection)
            reason, text = GONE, message.text
        elif hashed_user(self._issuer, peer.user.sub) != message.user:
            reason = "foreign"
        if peer is None or reason:
            offer = Offer(message.source, message.target, message.name, self._clock())
            self._return(message.node, message.number, offer, reason, text)
            return
        request = PeerConnection(
            message.source, message.name, message.target, "offer", ""
        )
        sent = self._sent_there(peer.user, message, request)
        older = relay.broker.table.find(message.source, message.target)
        if older is not None and _is_from(older, message):
            self.ignored += 1
            return
        anonymous = peer.user.sub == ANONYMOUS.sub
        offer = Offer(
            message.source,
            message.target,
            message.name,
            self._clock(),
            user=peer.user.sub,
            place=message.node,
            holder=message.node if anonymous else peer.user.sub,
            capped=not anonymous,
            origin=sent.peer,
        )
        why = relay.broker.receive_offer(sent, offer)
        if why is not None:
            moved = why is BounceReason.UNKNOWN
            reason = GONE if moved else why.name.lower()
            text = message.text if moved else b""
            self._return(message.node, message.number, offer, reason, text)

    def _mine(self, source: str, target: str, number: int) -> Offer | None:
        """The offer of this node with a number, if it is still open."""
        offer = self._relay.broker.table.find(source, target)
        if offer is None or offer.origin is not None or offer.number != number:
            self.ignored += 1
            return None
        return offer

    def _answered(self, message: codec.Answered) -> None:
        offer = self._mine(message.source, message.target, message.number)
        source = self._relay.registry.get(message.source)
        if offer is None:
            return
        why: BounceReason | None = BounceReason.UNKNOWN
        if source is None:
            self._relay.broker.table.close(offer)
        else:
            answer = PeerConnection(message.target, "", message.source, "answer", "")
            sent = self._sent_there(source.user, message, answer)
            why = self._relay.broker.receive_answer(sent, offer)
        if why is not None:
            self._return(message.node, message.number, offer, ANSWER, b"")

    def _sent_there(
        self,
        user: User,
        message: codec.Offered | codec.Answered,
        request: PeerConnection,
    ) -> Sent:
        kinds, since = 0, -math.inf
        if isinstance(message, codec.Answered):
            kinds = message.candidates
            if message.age is not None:
                since = self._clock() - message.age
        elif not message.is_connected:
            # An offer of a client that has registered anew may be crossed.
            since = math.inf
        registered = Registration(
            request.source_uuid, "", False, since, candidates=kinds
        )
        node = message.node
        origin = FarSender(user, f"node {node}", node, message.number, registered)
        return Sent(origin, registered, request, message.text)

    def _returned(self, message: codec.Returned) -> None:
        reason = message.reason
        if reason not in REASONS:
            reason = BounceReason.SILENT.value
        self.returns[reason] = self.returns.get(reason, 0) + 1
        if reason == ANSWER:
            self._answer_returned(message)
            return
        offer = self._mine(message.source, message.target, message.number)
        if offer is None or offer.waits:
            return
        if reason != GONE:
            why = BounceReason.__members__.get(reason.upper(), BounceReason.SILENT)
            self._relay.undelivered.bounce(offer, why)
        elif offer.is_sent_again or self._relay.registry.get(offer.target):
            # Wrong records would send it in circles.
            self._await_arrival(offer, message.text)
        else:
            offer.is_sent_again = True
            self._send(offer, message.text)

    def _answer_returned(self, message: codec.Returned) -> None:
        peer = self._relay.registry.get(message.target)
        table = self._relay.broker.table
        # The client would take the error for one of an exchange that has begun since.
        has_begun = table.find(message.target, message.source) or table.find(
            message.source, message.target
        )
        if peer is not None and peer.registration is not None and not has_begun:
            name = peer.registration.name
            answer = PeerConnection(message.target, name, message.source, "answer", "")
            sent = Sent(peer, peer.registration, answer)
            self._relay.undelivered.send_back(sent, BounceReason.UNKNOWN)


def _is_from(offer: Offer, message: codec.Offered) -> bool:
    origin = offer.origin
    return isinstance(origin, FarSender) and (origin.source, origin.number) == (
        message.node,
        message.number,
    )


def _text(word: bytes | str) -> str:
    return word.decode() if isinstance(word, bytes) else word
