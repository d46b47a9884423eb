"""What the rules find out of offers and answers."""

from __future__ import annotations

from collections.abc import Sequence

from proxyrelay.config import Offers
from proxyrelay.switchboard.candidates import (
    HOST,
    ICE,
    PRIVATE_IPV4,
    PUBLIC_IPV4,
    SRFLX,
    Cause,
)
from proxyrelay.switchboard.events import FIGHT_TAKEOVERS, PrivateOnly, Unconnected
from proxyrelay.switchboard.pairs import EXCHANGES, WINDOW_SECONDS
from proxyrelay.switchboard.peer import Registration
from proxyrelay.switchboard.reach import LOOK_SECONDS
from tests.support.candidates import candidate, description
from tests.support.recording import A, B, RecordingPeer, answer, offer, registration
from tests.switchboard.test_relay import RelayTestCase

LAN = description(candidate("192.168.1.7"))
STUN = description(candidate("192.168.1.7"), candidate("203.0.113.5", "srflx"))


class ReachTestCase(RelayTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.now = 100.0
        self.one, self.other = RecordingPeer(), RecordingPeer(address="192.0.2.2:1")
        self.relay.receive(self.one, registration(A))
        self.relay.receive(self.other, registration(B))

    def held(self, peer: RecordingPeer) -> Registration:
        assert peer.registration is not None
        return peer.registration

    def said(self, kind: type) -> Sequence[object]:
        return [event for event in self.journal.events if isinstance(event, kind)]

    def exchange(self, sdp: str = STUN, answered: str = STUN) -> None:
        self.relay.receive(self.one, offer(A, B, sdp))
        self.relay.receive(self.other, answer(B, A, sdp=answered))


class LookTests(ReachTestCase):
    def test_look_takes_the_first_offer_or_answer(self) -> None:
        self.exchange(STUN, LAN)
        lan = ICE | HOST | PRIVATE_IPV4
        self.assertEqual(self.held(self.one).candidates, lan | SRFLX | PUBLIC_IPV4)
        self.assertEqual(self.held(self.other).candidates, lan)

    def test_look_is_repeated_once_a_minute(self) -> None:
        self.exchange(STUN)
        first = self.held(self.one).candidates
        self.now += LOOK_SECONDS - 1
        self.exchange(LAN)
        self.assertEqual(self.held(self.one).candidates, first)
        self.now += 1
        self.exchange(LAN)
        self.assertEqual(self.held(self.one).candidates, ICE | HOST | PRIVATE_IPV4)

    def test_look_at_a_description_that_is_none_for_ice_changes_nothing(self) -> None:
        for sdp in ("v=0", "", "junk", "\0"):
            self.exchange(sdp, sdp)
            self.now += LOOK_SECONDS
        self.assertEqual(self.held(self.one).candidates, 0)
        self.exchange(LAN)
        first = self.held(self.one).candidates
        self.assertNotEqual(first, 0)
        self.now += LOOK_SECONDS
        self.exchange("v=0")
        self.assertEqual(self.held(self.one).candidates, first)

    def test_look_takes_an_offer_to_nobody(self) -> None:
        self.relay.leave(self.other, "left")
        self.relay.receive(self.one, offer(A, B, LAN))
        self.assertNotEqual(self.held(self.one).candidates, 0)

    def test_look_private_addresses_only_are_told_once_a_registration(self) -> None:
        for _ in range(3):
            self.exchange(LAN, LAN)
            self.now += LOOK_SECONDS
        told = [event.uuid for event in self.said(PrivateOnly)]  # type: ignore[attr-defined]
        self.assertEqual(told, [A, B])
        self.relay.receive(self.one, registration(A, "another name"))
        self.exchange(LAN)
        self.assertEqual(len(self.said(PrivateOnly)), 2)
        self.relay.leave(self.one, "left")
        self.relay.receive(self.one, registration(A))
        self.exchange(LAN)
        self.assertEqual(len(self.said(PrivateOnly)), 3)

    def test_look_in_a_fight_is_not_told_each_round(self) -> None:
        for round_ in range(FIGHT_TAKEOVERS + 3):
            self.relay.receive(RecordingPeer(), registration(A)) if round_ else None
            peer = self.relay.registry.get(A)
            assert peer is not None
            self.relay.receive(peer, offer(A, B, LAN))
        repeats = [event.is_repeat for event in self.said(PrivateOnly)]  # type: ignore[attr-defined]
        expected = [False] * (FIGHT_TAKEOVERS + 1) + [True] * 2
        self.assertEqual(repeats, expected)

    def test_look_public_address_is_not_told(self) -> None:
        self.exchange(STUN, STUN)
        self.assertEqual(self.said(PrivateOnly), [])


class UnshieldedLookTests(ReachTestCase):
    terms = Offers(crossing=0, shield=False)

    def test_look_without_the_shield_finds_candidates_all_the_same(self) -> None:
        self.relay.receive(self.one, offer(A, B, description="junk"))
        self.now += LOOK_SECONDS
        self.exchange(STUN, LAN)
        self.assertNotEqual(self.held(self.one).candidates, 0)
        self.assertEqual(len(self.said(PrivateOnly)), 1)


class UnconnectedTests(ReachTestCase):
    def test_answers_again_and_again_are_told_once(self) -> None:
        for _ in range(EXCHANGES + 2):
            self.exchange(LAN, STUN)
            self.now += 40
        (told,) = self.said(Unconnected)
        assert isinstance(told, Unconnected)
        self.assertEqual((told.source, told.target, told.user), (A, B, "anonymous"))
        self.assertEqual((told.count, told.seconds), (EXCHANGES, 80.0))
        self.assertEqual((told.cause, told.reason), ("stun", Cause.STUN.value))
        self.now += WINDOW_SECONDS
        self.relay.tick()
        self.assertEqual(self.relay.broker.reach.pairs.unconnected(), [])

    def test_offers_without_an_answer_do_not_count(self) -> None:
        for _ in range(2 * EXCHANGES):
            self.relay.receive(self.one, offer(A, B, LAN))
            self.now += 40
            self.relay.tick()
        self.assertEqual(len(self.relay.broker.reach.pairs), 0)

    def test_answers_that_are_not_delivered_do_not_count(self) -> None:
        for _ in range(2 * EXCHANGES):
            self.relay.receive(self.one, offer(A, B, LAN))
            self.one.busy = True
            self.relay.receive(self.other, answer(B, A, sdp=LAN))
            self.one.busy = False
        self.assertEqual(len(self.relay.broker.reach.pairs), 0)

    def test_nothing_told_has_an_address_of_a_description(self) -> None:
        for _ in range(EXCHANGES):
            self.exchange(LAN, STUN)
        for event in self.journal.events:
            for address in ("192.168.1.7", "203.0.113.5"):
                self.assertNotIn(address, repr(event))


class CrossingUnconnectedTests(UnconnectedTests):
    """The same where offers may wait."""

    terms = Offers()

    def exchange(self, sdp: str = STUN, answered: str = STUN) -> None:
        self.relay.receive(self.one, offer(A, B, sdp))
        for waiting in self.table.waiting():
            self.relay.broker.pass_on(waiting)
        self.relay.receive(self.other, answer(B, A, sdp=answered))
