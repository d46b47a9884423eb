"""The rules, without a network."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.config import Offers
from proxyrelay.switchboard import offers
from proxyrelay.switchboard.delivery import (
    BUSY,
    CROSSED,
    DEAF,
    FOREIGN,
    FULL,
    LEFT,
    SELF,
    SENDER_WAIT_SECONDS,
    SILENT,
    TEXTS,
    UNKNOWN,
)
from proxyrelay.switchboard.events import BounceReason, Forwarded, Shielded
from proxyrelay.switchboard.messages import ACCEPTED
from proxyrelay.switchboard.offers import (
    MAX_OFFERS_OF_CLIENT,
    DropReason,
    Offer,
    OfferTable,
)
from proxyrelay.switchboard.peer import NAME_CHARACTERS
from proxyrelay.switchboard.registry import MAX_REMEMBERED_DEPARTURES, Registry
from proxyrelay.switchboard.relay import Relay
from proxyrelay.switchboard.user import User
from proxyrelay.websocket.crossing import Crossing
from tests.support.recording import (
    A,
    B,
    C,
    RecordingObserver,
    RecordingPeer,
    answer,
    offer,
    registration,
)

AT_ONCE = Offers(crossing=0)
"""Offers wait for none that cross them."""


def relay(
    clock: Clock, terms: Offers, journal: RecordingObserver | None = None
) -> tuple[Relay, Crossing]:
    """A relay, and what tells it of offers that have waited."""

    def pass_on(waited: Offer) -> None:
        made.broker.pass_on(waited)

    waiting = Crossing(clock, terms.crossing or 1.0, pass_on)
    journal = journal or RecordingObserver()
    made = Relay(journal, clock.seconds, waiting, terms, journal.forwarded)
    return made, waiting


class RelayTestCase(SynchronousTestCase):
    """A relay at a time that stands still."""

    terms = AT_ONCE

    def setUp(self) -> None:
        self.clock = Clock()
        self.journal = RecordingObserver()
        self.relay, self.waiting = relay(self.clock, self.terms, self.journal)

    @property
    def now(self) -> float:
        """The time. When it is set, nothing happens meanwhile."""
        return self.clock.seconds()

    @now.setter
    def now(self, seconds: float) -> None:
        self.clock.rightNow = seconds

    @property
    def table(self) -> OfferTable:
        return self.relay.broker.table

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.relay.tick()

    def errors(self, peer: RecordingPeer) -> list[str]:
        """The errors that a peer has got, in order; it has got nothing else."""
        found = [json.loads(text)["error"] for text in peer.sent]
        peer.sent.clear()
        self.assertNotIn(None, found)
        return found

    def assert_dropped(self, peer: RecordingPeer, why: DropReason) -> None:
        """The last event is that a message of a peer was dropped."""
        last = self.journal.events[-1]
        assert isinstance(last, Shielded)
        assert peer.registration is not None
        self.assertEqual((last.source, last.why), (peer.registration.uuid, why))

    def registered(self, uuid: str, **fields: object) -> RecordingPeer:
        peer = RecordingPeer(**fields)  # type: ignore[arg-type]
        self.relay.receive(peer, registration(uuid))
        peer.take()
        return peer


class RelayTests(RelayTestCase):
    """What the contract tests over sockets cannot see."""

    def test_relay_repeated_registration_keeps_the_counts(self) -> None:
        self.now = 5.0
        one, other = self.registered(A), self.registered(B)
        self.relay.receive(one, offer(A, B))
        self.relay.receive(one, offer(A, C))
        self.now = 9.0
        self.relay.receive(one, registration(A, name="n" * 100_000, legacy=True))
        mine, theirs = one.registration, other.registration
        assert mine is not None
        assert theirs is not None
        self.assertEqual((mine.name, mine.legacy), ("n" * NAME_CHARACTERS, True))
        self.assertEqual((mine.registered_at, mine.sent, mine.received), (5.0, 1, 0))
        self.assertEqual((theirs.sent, theirs.received), (0, 1))

    def test_relay_registration_over_the_rate_is_refused(self) -> None:
        peer = self.registered(A)
        peer.hasty = True
        self.relay.receive(peer, registration(B))
        self.assertEqual(peer.closed, (1013, "Too many registrations."))
        self.assertEqual(self.journal.names, ["registered", "refused", "left"])
        self.assertEqual(len(self.relay.registry), 0)

    def test_relay_replaced_peer_leaves_the_entry_to_the_new_one(self) -> None:
        old = self.registered(A)
        new = self.registered(A)
        self.relay.leave(old, "its socket is closed at last")
        self.assertIs(self.relay.registry.get(A), new)
        self.assertIs(new.follows, old)
        self.assertEqual(
            self.journal.names, ["registered", "replaced", "left", "registered"]
        )

    def test_registry_entry_goes_only_with_its_owner(self) -> None:
        peer, stranger = self.registered(A), RecordingPeer()
        self.relay.registry.remove(A, stranger, 0.0)
        self.assertIs(self.relay.registry.get(A), peer)

    def test_relay_gone_target_leaves_and_is_unknown(self) -> None:
        self.relay.broker.settings = Offers(hold=0, crossing=0)
        source, target = self.registered(A), self.registered(B)
        target.gone = True
        self.relay.receive(source, offer(A, B))
        self.assertIn("is not registered this relay server", source.take()["error"])
        self.assertIsNone(self.relay.registry.get(B))
        self.assertNotIn("forwarded", self.journal.names)

    def test_relay_busy_target_stays(self) -> None:
        source, target = self.registered(A), self.registered(B)
        target.busy = True
        self.relay.receive(source, offer(A, B))
        self.assertIn("does not read", source.take()["error"])
        self.assertIs(self.relay.registry.get(B), target)

    def test_relay_peer_gone_before_its_answer_leaves(self) -> None:
        peer = RecordingPeer(gone=True)
        self.relay.receive(peer, registration(A))
        self.assertIsNone(peer.registration)
        self.assertEqual(len(self.relay.registry), 0)

    def test_relay_old_client_is_old_only_while_registered(self) -> None:
        peer = RecordingPeer()
        self.relay.receive(peer, registration(A, legacy=True))
        self.relay.receive(peer, b"hello")
        self.assertIsNone(peer.closed)
        self.assertEqual(self.journal.names, ["registered", "skipped"])
        self.relay.receive(peer, registration(A))
        self.relay.receive(peer, b"hello")
        self.assertEqual(peer.closed, (4000, "Unknown message type."))


PEERS = st.integers(0, 5)
UUIDS = st.sampled_from([A, B, C])


class RelayMachine(RuleBasedStateMachine):
    """Any sequence of registrations, offers, departures and new connections.

    Without the shield, so that each message is heard of by exactly one peer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.relay, _ = relay(Clock(), Offers(shield=False))
        self.users = [User("me"), User("me"), User("them")]
        self.peers = [RecordingPeer(user=self.users[n % 3]) for n in range(6)]
        self.past: list[RecordingPeer] = []

    def open(self, number: int) -> RecordingPeer:
        """A peer that is connected: a new one in the place of one that is not."""
        peer = self.peers[number]
        if peer.closed or peer.gone:
            self.past.append(peer)
            peer = self.peers[number] = RecordingPeer(user=peer.user)
        return peer

    @rule(number=PEERS, uuid=UUIDS, legacy=st.booleans())
    def register(self, number: int, uuid: str, legacy: bool) -> None:
        peer, holder = self.open(number), self.relay.registry.get(uuid)
        self.relay.receive(peer, registration(uuid, legacy=legacy))
        if holder is None or holder is peer:
            assert self.relay.registry.get(uuid) is peer
        elif holder.user != peer.user:
            assert peer.closed is not None
            assert peer.closed[0] == 4002
            assert self.relay.registry.get(uuid) is holder
        else:
            younger, older = sorted((peer, holder), key=lambda p: -p.arrival)
            assert self.relay.registry.get(uuid) is younger
            assert isinstance(older, RecordingPeer)
            assert older.closed is not None
            assert older.closed[0] == 4004

    @rule(number=PEERS, source=UUIDS, receiver=UUIDS)
    def send(self, number: int, source: str, receiver: str) -> None:
        peer = self.open(number)
        known = peer.registration
        before = {id(other): len(other.sent) for other in self.peers}
        text = offer(source, receiver)
        self.relay.receive(peer, text)
        changed = [p for p in self.peers if len(p.sent) != before.get(id(p), 0)]
        if known is None:
            assert peer.closed is not None
            assert peer.closed[0] == 4002
            assert changed == []
            return
        # Exactly one peer hears of it: the receiver, or the sender.
        (heard,) = changed
        if heard.sent[-1] == text:
            assert known.uuid == source
            assert heard.user == peer.user
            assert self.relay.registry.get(receiver) is heard
        else:
            assert heard is peer

    @rule(number=PEERS)
    def depart(self, number: int) -> None:
        peer = self.open(number)
        peer.gone = True
        self.relay.leave(peer, "connection lost")

    @rule(number=PEERS)
    def vanish(self, number: int) -> None:
        """A connection that the relay still believes in does not take more."""
        self.peers[number].gone = True

    @invariant()
    def the_registry_is_what_the_peers_hold(self) -> None:
        everyone = self.peers + self.past
        held = {p.registration.uuid: p for p in everyone if p.registration}
        known = {p.registration.uuid: p for p in self.relay.registry if p.registration}
        assert known == held
        assert len(self.relay.registry) == len(held)
        assert not any(p.closed for p in everyone if p.registration)


class ShieldTests(RelayTestCase):
    """What becomes of offers and answers."""

    def test_shield_message_that_would_end_a_client_is_dropped(self) -> None:
        one, other = self.registered(A), self.registered(B)
        self.relay.receive(one, offer(A, B))
        for sender, text, why in (
            (one, offer(A, B), DropReason.DUPLICATE),
            (other, offer(B, A), DropReason.CROSSING),
            (one, answer(A, B), DropReason.UNASKED),
            (one, offer(A, B, error="x"), DropReason.ERROR),
            (other, answer(B, A, error="x"), DropReason.ERROR),
            (one, offer(A, B, description="junk"), DropReason.DESCRIPTION),
            (one, answer(A, C, description="junk"), DropReason.DESCRIPTION),
            (other, answer(B, A, description="{}"), DropReason.DESCRIPTION),
        ):
            self.relay.receive(sender, text)
            self.assert_dropped(sender, why)
        self.relay.receive(other, answer(B, A))
        self.relay.receive(other, answer(B, A))
        self.assert_dropped(other, DropReason.UNASKED)
        self.assertEqual((one.sent, other.sent), ([answer(B, A)], [offer(A, B)]))
        self.assertEqual(self.journal.drops[DropReason.UNASKED], 2)
        assert one.registration is not None
        self.assertEqual(one.registration.dropped, 5)

    def test_shield_offer_without_description_comes_back_from_nobody(self) -> None:
        one = self.registered(A)
        self.relay.receive(one, offer(A, B, description="junk"))
        # It is not held: its peer would end on it.
        self.assertEqual(self.errors(one), [UNKNOWN.format(B)])
        self.assertEqual(len(self.table), 0)
        self.relay.receive(self.registered(B), offer(B, A, description="junk"))
        self.assertEqual(
            (one.sent, self.journal.drops), ([], {DropReason.DESCRIPTION: 1})
        )

    def test_shield_repeated_registration_keeps_the_offers(self) -> None:
        one, other = self.registered(A), self.registered(B)
        self.relay.receive(one, offer(A, B))
        self.relay.receive(one, registration(A))
        one.sent.clear()
        self.relay.receive(other, answer(B, A))
        self.assertEqual(one.sent, [answer(B, A)])

    def test_shield_client_that_moves_gives_up_its_offers(self) -> None:
        one, other = self.registered(A), self.registered(B)
        self.relay.receive(one, offer(A, B))
        self.relay.leave(self.registered(C), "gone")
        self.relay.receive(one, offer(A, C))
        self.assertEqual((len(self.table), self.table.held), (2, 1))
        self.relay.receive(one, registration(str(UUID(int=1))))
        self.assertEqual((len(self.table), self.table.held), (0, 0))
        # Nobody waits for it to come back.
        self.assertIsNone(self.relay.registry.left(A, -1.0))
        self.relay.receive(other, answer(B, A))
        self.assert_dropped(other, DropReason.UNASKED)

    def test_shield_full_client_is_full_only_for_the_largest_holder(self) -> None:
        other, one = self.registered(B), self.registered(A)
        strangers = [
            self.registered(str(UUID(int=number)), source="198.51.100.1")
            for number in range(MAX_OFFERS_OF_CLIENT + 1)
        ]
        for number, stranger in enumerate(strangers):
            self.relay.receive(stranger, offer(str(UUID(int=number)), B))
        self.assertEqual(self.errors(strangers[-1]), [FULL.format(B)])
        self.relay.receive(one, offer(A, B))
        # Their oldest one comes back, and is not answered any more.
        self.assertEqual(self.errors(strangers[0]), [FULL.format(B)])
        self.relay.receive(other, answer(B, str(UUID(int=0))))
        self.assert_dropped(other, DropReason.UNASKED)
        self.relay.receive(other, answer(B, A))
        self.assertEqual((one.sent, strangers[0].sent), ([answer(B, A)], []))

    def test_shield_one_address_keeps_nobody_from_exchanging_offers(self) -> None:
        one, other = self.registered(A), self.registered(B)
        strangers = [
            self.registered(str(UUID(int=number)), source="198.51.100.1")
            for number in range(64)
        ]
        numbers = iter(range(64, 10_000_000))
        for _ in range(3):
            for stranger in strangers:
                for _ in range(110):
                    assert stranger.registration is not None
                    mine = stranger.registration.uuid
                    made = offer(mine, str(UUID(int=next(numbers))))
                    self.relay.receive(stranger, made)
                self.relay.receive(stranger, registration(str(UUID(int=next(numbers)))))
                self.relay.receive(one, offer(A, B))
                self.assertEqual(other.sent.pop(), offer(A, B))
                self.relay.receive(other, answer(B, A))
                self.assertEqual(one.sent.pop(), answer(B, A))
        self.assertEqual(len(self.table), 0)
        # Nor do those of it that do not move, but leave and come back.
        for number in range(80):
            stranger = self.registered(str(UUID(int=number)), source="198.51.100.1")
            for count in range(110):
                to = str(UUID(int=1_000_000 + number * 110 + count))
                self.table.add(
                    Offer(str(UUID(int=number)), to, "", 0.0, holder=stranger.source)
                )
        self.relay.receive(stranger, offer(str(UUID(int=79)), B))
        self.assertEqual(stranger.take()["error"], FULL.format(B))
        self.relay.receive(one, offer(A, B))
        self.assertEqual(other.sent.pop(), offer(A, B))

    def test_shield_shares_are_of_users_or_of_limited_addresses(self) -> None:
        self.patch(offers, "MAX_OFFERS_OF_HOLDER", 1)
        me, them = {"user": User("me")}, {"user": User("them")}
        first, second = (str(UUID(int=number)) for number in (1, 2))
        for number, (options, expected) in enumerate(
            (
                ({"limited": False, "source": "x"}, []),
                ({"limited": True, "source": "y"}, [FULL.format(second)]),
                # A user is limited wherever it comes from.
                ({"limited": False, "source": "x", **me}, [FULL.format(second)]),
                ({"source": "y", **me}, [FULL.format(first), FULL.format(second)]),
                ({"source": "y", **them}, [FULL.format(second)]),
            )
        ):
            uuid = str(UUID(int=10 + number))
            peer = self.registered(uuid, **options)
            self.relay.receive(peer, offer(uuid, first))
            self.relay.receive(peer, offer(uuid, second))
            self.assertEqual((number, self.errors(peer)), (number, expected))

    def test_shield_many_gone_peers_at_once_need_no_recursion(self) -> None:
        uuids = [str(UUID(int=number)) for number in range(2000)]
        peers = [self.registered(uuid) for uuid in uuids]
        for source, peer, target in zip(uuids, peers, uuids[1:], strict=False):
            self.relay.receive(peer, offer(source, target))
        for peer in peers:
            peer.gone = True
        self.relay.leave(peers[-1], "gone")
        self.assertEqual((len(self.relay.registry), len(self.table)), (0, 0))

    # -- offers that wait

    def test_shield_held_offer_reaches_the_peer_that_comes_back(self) -> None:
        self.now = 1000.0
        one, two, other = self.registered(A), self.registered(C), self.registered(B)
        self.relay.leave(other, "gone")
        self.wait(119.0)
        self.relay.receive(one, offer(A, B))
        self.relay.receive(two, offer(C, B))
        self.relay.receive(two, offer(C, B))
        self.assertEqual(self.journal.names[-3:], ["held", "held", "shielded"])
        self.wait(4.0)
        other = RecordingPeer()
        self.relay.receive(other, registration(B))
        self.assertEqual(other.sent, [ACCEPTED, offer(A, B), offer(C, B)])
        self.relay.receive(other, answer(B, C))
        self.assertEqual((one.sent, two.sent), ([], [answer(B, C)]))
        # The time that it has waited counts.
        self.wait(15.9)
        self.assertEqual(one.sent, [])
        self.wait(0.1)
        self.assertEqual(self.errors(one), [SILENT.format(B)])

    def test_shield_standstill_sends_no_late_error_or_answer(self) -> None:
        one, other = self.registered(A), self.registered(B)
        self.relay.receive(one, offer(A, B))
        self.now += SENDER_WAIT_SECONDS + 0.1
        self.relay.receive(other, answer(B, A))
        self.relay.receive(one, offer(A, C))
        self.relay.receive(one, offer(A, B))
        self.wait(SENDER_WAIT_SECONDS + 0.1)
        self.assertEqual(self.journal.drops[DropReason.LATE], 3)
        self.assertEqual(one.sent, [])
        self.assertEqual(len(self.table), 0)

    def test_shield_offer_to_the_peer_of_another_user_is_not_held(self) -> None:
        one, other = self.registered(A), self.registered(B, user=User("them"))
        self.relay.leave(other, "gone")
        self.relay.receive(one, offer(A, B))
        self.assertEqual(self.errors(one), [UNKNOWN.format(B)])
        # Nobody knows yet whose this one is.
        self.relay.receive(one, offer(A, C))
        stranger = self.registered(C, user=User("them"))
        self.assertEqual(stranger.sent, [])
        self.assertEqual(self.errors(one), [FOREIGN.format(C)])

    def test_shield_offer_is_not_held_at_zero(self) -> None:
        one = self.registered(A, user=User("me"))
        for terms in (
            *(Offers(hold=0), Offers(recent=0)),
            *(Offers(held_total=0), Offers(held_per_user=0)),
        ):
            self.relay.broker.settings = terms
            self.relay.receive(one, offer(A, B))
            self.assertEqual(self.errors(one), [UNKNOWN.format(B)])

    def test_shield_held_offer_waits_on_if_its_peer_is_gone_again(self) -> None:
        one, two = self.registered(A), self.registered(C)
        self.relay.receive(one, offer(A, B))
        self.relay.receive(two, offer(C, B))
        self.relay.receive(RecordingPeer(gone=True), registration(B))
        self.relay.receive(RecordingPeer(room=1), registration(B))
        # They wait on.
        self.assertEqual((one.sent, two.sent), ([], []))
        other = RecordingPeer(room=2)
        self.relay.receive(other, registration(B))
        self.assertEqual(other.sent, [ACCEPTED, offer(A, B)])
        self.assertEqual(self.errors(one), [LEFT.format(B)])
        self.wait(5.0)
        self.assertEqual(self.errors(two), [UNKNOWN.format(B)])
        self.assertEqual(len(self.table), 0)

    def test_shield_held_offer_comes_back_from_a_busy_peer(self) -> None:
        one = self.registered(A)
        self.relay.receive(one, offer(A, B))
        self.relay.receive(RecordingPeer(busy=True), registration(B))
        self.assertEqual(self.errors(one), [BUSY.format(B)])

    def test_shield_held_offers_of_one_address_make_room_for_others(self) -> None:
        self.relay.broker.settings = Offers(held_total=3, crossing=0)
        one = self.registered(A)
        many = self.registered(C, source="198.51.100.1")
        targets = [str(UUID(int=number)) for number in range(4)]
        for target in targets:
            self.relay.receive(many, offer(C, target))
        self.assertEqual(self.errors(many), [UNKNOWN.format(targets[3])])
        self.relay.receive(one, offer(A, B))
        # The oldest of the others waits no longer.
        self.assertEqual(self.errors(many), [UNKNOWN.format(targets[0])])
        other = RecordingPeer()
        self.relay.receive(other, registration(B))
        self.assertEqual(other.sent, [ACCEPTED, offer(A, B)])

    def test_registry_remembers_bounded_departures(self) -> None:
        registry, peer = Registry(), RecordingPeer()
        first, other = RecordingPeer(source="198.51.100.1"), RecordingPeer()
        registry.add(A, first)
        registry.remove(A, first, 1.0)
        for number in range(MAX_REMEMBERED_DEPARTURES + 1):
            registry.add(str(number), peer)
            registry.remove(str(number), peer, 1.0)
        # They make room for each other, not the one of another address.
        self.assertIsNone(registry.left("1", 0.0))
        self.assertEqual(registry.left("2", 0.0), peer.user)
        self.assertEqual(registry.left(A, 0.0), peer.user)
        registry.add(A, other)
        self.assertIsNone(registry.left(A, 0.0))
        registry.forget(1.0)
        self.assertIsNone(registry.left("2", 0.0))

    # -- without the shield

    def test_broker_shield_turned_off_empties_the_table(self) -> None:
        one, other = self.registered(A), self.registered(B)
        self.relay.receive(one, offer(A, B))
        self.relay.receive(other, offer(B, C))
        self.relay.broker.settings = Offers(shield=False)
        self.wait(0.5)
        self.assertEqual(other.take(), json.loads(offer(A, B)))
        self.assertEqual(self.errors(other), [UNKNOWN.format(C)])
        # The audit log tells of the offer, since it ignores the answer.
        (told,) = (
            e for e in self.journal.events if isinstance(e, Forwarded) and e.reason
        )
        self.assertEqual((told.source, told.target, told.seconds), (A, B, 0.5))
        self.relay.receive(other, answer(B, A))
        self.wait(100.0)
        self.assertEqual(one.sent, [answer(B, A)])

    def test_broker_shield_turned_off_passes_on_waiting_offers(self) -> None:
        self.relay.broker.settings = Offers()
        one, other = self.registered(A), self.registered(B)
        self.relay.receive(one, offer(A, B))
        self.relay.broker.settings = Offers(shield=False)
        self.relay.tick()
        self.assertEqual(other.sent, [offer(A, B)])
        self.wait(100.0)
        self.assertEqual((one.sent, other.sent), ([], [offer(A, B)]))

    # -- clients that read nothing

    def unanswered(self, one: RecordingPeer) -> list[str]:
        self.relay.receive(one, offer(A, B))
        self.wait(20.0)
        return self.errors(one)

    def returned(self) -> RecordingPeer:
        """A client that has come back."""
        self.now = 1000.0
        self.relay.leave(self.registered(B), "gone")
        return self.registered(B)

    def test_deaf_client_that_came_back_is_reported_once(self) -> None:
        one, other = self.registered(A), self.returned()
        assert other.registration is not None
        self.assertEqual(self.unanswered(one), [SILENT.format(B)])
        self.assertFalse(other.registration.deaf)
        self.assertEqual(self.unanswered(one), [DEAF.format(B)])
        self.assertTrue(other.registration.deaf)
        self.assertEqual(self.unanswered(one), [DEAF.format(B)])
        self.assertEqual(self.journal.names.count("deaf"), 1)
        self.assertIsNone(other.closed)
        # It is not, after all.
        self.relay.receive(one, offer(A, B))
        self.relay.receive(other, answer(B, A))
        one.sent.clear()
        self.assertFalse(other.registration.deaf)
        self.assertEqual(self.unanswered(one), [SILENT.format(B)])

    def test_deaf_client_with_witnesses_is_closed(self) -> None:
        self.relay.broker.settings = Offers(close_deaf=True, crossing=0)
        one, other = self.registered(A), self.returned()
        third = str(UUID(int=3))
        # However often, one address or two are not enough.
        for _ in range(3):
            self.unanswered(one)
        for uuid, source in ((C, "198.51.100.1"), (third, "198.51.100.2")):
            self.assertIsNone(other.closed)
            peer = self.registered(uuid, source=source)
            self.relay.receive(peer, offer(uuid, B))
            self.wait(20.0)
            self.assertEqual(self.errors(peer), [DEAF.format(B)])
        assert other.closed is not None
        self.assertEqual(other.closed[0], 4004)
        self.assertLessEqual(len(other.closed[1].encode()), 123)
        self.assertIsNone(self.relay.registry.get(B))
        self.assertEqual(self.journal.names.count("deaf"), 1)

    def test_deaf_client_that_answers_has_no_witnesses(self) -> None:
        self.relay.broker.settings = Offers(close_deaf=True, crossing=0)
        one, other = self.registered(A), self.returned()
        for number in range(6):
            uuid = str(UUID(int=number))
            peer = self.registered(uuid, source=f"198.51.100.{number}")
            self.relay.receive(peer, offer(uuid, B))
            self.wait(20.0)
            if number % 2:
                self.relay.receive(one, offer(A, B))
                self.relay.receive(other, answer(B, A))
        self.assertIsNone(other.closed)

    # -- fights over a UUID

    def test_takeovers_in_a_row_are_counted(self) -> None:
        for seconds, takeovers in ((0, 0), (1, 1), (59, 2), (60, 1), (1, 2)):
            self.now += seconds
            registration = self.registered(A).registration
            assert registration is not None
            self.assertEqual(registration.takeovers, takeovers)


class CrossingTests(RelayTestCase):
    """What becomes of offers that two clients make each other at once."""

    terms = Offers(crossing=0.25)

    def setUp(self) -> None:
        super().setUp()
        self.one, self.other = self.registered(A), self.registered(B)
        # They have not just come.
        self.now = 1000.0

    def offer(self, source: str = A, target: str = B) -> None:
        """Make an offer."""
        peers = {A: self.one, B: self.other}
        self.relay.receive(peers[source], offer(source, target))

    def meet(self) -> None:
        """An offer, and its answer."""
        self.offer()
        self.wait(0.25)
        self.relay.receive(self.other, answer(B, A))
        self.one.sent.clear()
        self.other.sent.clear()

    def test_crossing_later_offer_comes_back_and_the_first_waits_anew(self) -> None:
        self.offer()
        self.wait(0.24)
        self.assertEqual(self.other.sent, [])
        for _ in range(2):
            self.offer(B, A)
            self.assertEqual(self.errors(self.other), [CROSSED.format(A)])
            # It has time to act on that.
            self.wait(0.24)
            self.assertEqual(self.other.sent, [])
        self.wait(0.01)
        self.assertEqual(self.other.sent, [offer(A, B)])
        self.relay.receive(self.other, answer(B, A))
        self.wait(100.0)
        self.assertEqual(self.one.sent, [answer(B, A)])
        self.assertEqual((len(self.other.sent), len(self.table)), (1, 0))

    def test_crossing_lost_answer_connects_nobody(self) -> None:
        self.offer()
        self.wait(0.25)
        self.one.busy = True
        self.relay.receive(self.other, answer(B, A))
        self.one.busy = False
        self.offer()
        self.assertEqual(self.table.held, 1)

    def test_crossing_offer_that_nothing_can_cross_does_not_wait(self) -> None:
        others = self.registered(C, user=User("them"))
        for terms in (
            Offers(crossing=0, hold=0),
            Offers(held_total=0, recent=0),
        ):
            self.relay.broker.settings = terms
            self.offer()
            self.assertEqual(self.other.sent, [offer(A, B)])
            self.relay.leave(self.other, "gone")
            self.assertEqual(self.errors(self.one), [LEFT.format(B)])
            self.offer()
            self.assertEqual(self.errors(self.one), [UNKNOWN.format(B)])
            self.other = self.registered(B)
            self.offer(A, C)
            self.assertEqual(self.errors(self.one), [FOREIGN.format(C)])
        self.assertEqual((others.sent, len(self.waiting._deadlines)), ([], 0))

    def test_crossing_receiver_of_another_user_gets_no_offer(self) -> None:
        self.offer()
        self.relay.leave(self.other, "gone")
        stranger = self.registered(B, user=User("them"))
        self.assertEqual(self.errors(self.one), [FOREIGN.format(B)])
        self.wait(1.0)
        self.assertEqual(stranger.sent, [])

    def test_crossing_offer_waits_no_longer_than_for_an_answer(self) -> None:
        self.relay.broker.settings = Offers(crossing=5, hold=20, answer_timeout=2)
        self.waiting.change(5.0)
        registered = self.other.registration
        self.offer()
        self.offer(A, C)
        self.wait(2.0)
        self.assertEqual(
            sorted(self.errors(self.one)), sorted([SILENT.format(B), UNKNOWN.format(C)])
        )
        # It was not asked at all.
        assert registered is not None
        self.assertEqual((registered.unanswered, self.other.sent), (0, []))
        self.wait(5.0)
        self.assertEqual(self.other.sent, [])


class ShieldMachine(RuleBasedStateMachine):
    """Any sequence of steps, and stock clients that break as the real ones do.

    A list of offers is the model: who is told what follows from it by rules that look
    at all of it each time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.clock.rightNow = 1000.0
        self.terms = Offers(crossing=0.25, held_per_user=2, held_total=3)
        self.relay, _ = relay(self.clock, self.terms)
        self.began = self.now
        self.peers: dict[str, RecordingPeer] = {}
        self.came: dict[str, float] = {}
        self.answered: dict[frozenset[str], float] = {}
        self.left: dict[str, float] = {}
        # Of clients that came back, in a row; of the others they do not count.
        self.silences: dict[str, float] = {}
        self.offers: list[dict[str, Any]] = []
        self.told: dict[str, list[bytes]] = {A: [], B: [], C: []}

    @property
    def now(self) -> float:
        return self.clock.seconds()

    def pending(self, source: str, peer: str) -> dict[str, Any] | None:
        for found in self.offers:
            if (found["source"], found["peer"]) == (source, peer):
                return found
        return None

    def end(self, found: dict[str, Any], error: str) -> None:
        self.offers.remove(found)
        waits = self.now - found["since"] <= SENDER_WAIT_SECONDS
        if found["source"] in self.peers and waits:
            text = offer(
                *(found["source"], found["peer"]),
                description="",
                error=error.format(found["peer"]),
            )
            self.told[found["source"]].append(text)

    def gone(self, uuid: str) -> None:
        del self.peers[uuid]
        self.left[uuid] = self.now
        self.told[uuid].clear()
        for found in list(self.offers):
            if found["peer"] == uuid and not found["held"]:
                self.end(found, LEFT)
            elif found["source"] == uuid and found["held"]:
                self.offers.remove(found)

    def pass_on(self, found: dict[str, Any]) -> None:
        if found["held"] and found["peer"] in self.peers:
            found["held"] = False
            self.told[found["peer"]].append(found["text"])

    def are_acquainted(self, source: str, peer: str) -> bool:
        met = self.answered.get(frozenset({source, peer}), 0.0)
        came = max(self.came[source], self.came[peer])
        return met > came and self.now - met < 10

    def is_recent(self, uuid: str) -> bool:
        return self.now - max(self.left.get(uuid, 0.0), self.began) < 120

    def came_back(self, uuid: str) -> bool:
        return uuid in self.peers or self.now - self.left.get(uuid, 0.0) < 120

    @rule(uuid=UUIDS)
    def register(self, uuid: str) -> None:
        back = self.came_back(uuid)
        self.silences[uuid] = 0 if back else -math.inf
        if uuid in self.peers:
            self.gone(uuid)
        self.left.pop(uuid, None)
        self.offers = [found for found in self.offers if found["source"] != uuid]
        peer = self.peers[uuid] = RecordingPeer(User("me"))
        self.relay.receive(peer, registration(uuid))
        self.told[uuid].append(ACCEPTED)
        self.came[uuid] = self.now
        for found in self.offers:
            if found["peer"] == uuid:
                found["due"] = self.now + 0.25

    @rule(uuid=UUIDS)
    def leave(self, uuid: str) -> None:
        if uuid in self.peers:
            peer = self.peers[uuid]
            peer.gone = True
            self.gone(uuid)
            self.relay.leave(peer, "gone")

    @rule(source=UUIDS, peer=UUIDS, name=st.sampled_from("ab"), error=st.booleans())
    def offer(self, source: str, peer: str, name: str, error: bool) -> None:
        if source not in self.peers:
            return
        text = offer(source, peer, sdp=name, error="x" if error else None)
        self.relay.receive(self.peers[source], text)
        if error or self.pending(source, peer):
            return
        crossed = self.pending(peer, source)
        why = SELF if peer == source else UNKNOWN
        if crossed is not None and crossed["held"]:
            crossed["due"] = self.now + 0.25
            why = CROSSED
        elif crossed is not None:
            return
        found = {"source": source, "peer": peer, "since": self.now, "text": text}
        found |= {"held": True, "due": self.now + 0.25}
        is_here, held = peer in self.peers, [o for o in self.offers if o["held"]]
        room = len(held) < 2
        if why == UNKNOWN and (is_here or (room and self.is_recent(peer))):
            self.offers.append(found)
            if is_here and (not room or self.are_acquainted(source, peer)):
                self.pass_on(found)
        else:
            self.told[source].append(
                offer(source, peer, sdp=name, error=why.format(peer))
            )

    @rule(source=UUIDS, peer=UUIDS, error=st.booleans())
    def answer(self, source: str, peer: str, error: bool) -> None:
        if source not in self.peers:
            return
        text = answer(source, peer, error="x" if error else None)
        self.relay.receive(self.peers[source], text)
        found = self.pending(peer, source)
        if not error:
            self.silences[source] = min(self.silences[source], 0)
        if error or found is None:
            return
        self.offers.remove(found)
        if peer in self.peers:
            self.told[peer].append(text)
            self.answered[frozenset({source, peer})] = self.now
        else:
            error_text = UNKNOWN.format(peer)
            self.told[source].append(answer(source, peer, error=error_text))

    @rule(seconds=st.sampled_from([0.125, 0.25, 0.5, 3.0, 5.0, 12.0, 20.0, 130.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.relay.tick()
        for found in sorted(self.offers, key=lambda o: o["due"]):
            if self.now >= found["due"]:
                self.pass_on(found)
        for found in list(self.offers):
            if found["held"] and found["peer"] in self.peers:
                continue
            if found["held"] and self.now - found["since"] >= 5:
                self.end(found, UNKNOWN)
        for found in list(self.offers):
            if self.now - found["since"] >= 20:
                self.silences[found["peer"]] += 1
                deaf = self.silences[found["peer"]] >= 2
                self.end(found, DEAF if deaf else SILENT)

    @invariant()
    def everybody_is_told_what_the_model_says(self) -> None:
        for uuid, peer in self.peers.items():
            expected = [json.loads(text) for text in self.told[uuid]]
            assert [json.loads(text) for text in peer.sent] == expected
            peer.sent.clear()
            self.told[uuid].clear()
        table = self.relay.broker.table
        assert len(table) == len(self.offers)
        assert table.held == sum(found["held"] for found in self.offers)


class StockClient(RecordingPeer):
    """Ends, as the real client does, at what must not be sent to it.

    What it is sent it hears when it reads, and what it says leaves when it is written.
    """

    def __init__(self, uuid: str, now: float) -> None:
        super().__init__()
        self.uuid = uuid
        self.asked: dict[str, float] = {}
        self.found: dict[str, float] = {}
        self.to_answer: list[str] = []
        self.to_write: list[bytes] = []
        self.now = now

    def ask(self, peer: str) -> None:
        """Make an offer, unless that is under way or done."""
        unread = [json.loads(text).get("source_uuid") for text in self.sent]
        busy = {*unread, *self.to_answer, *self.asked}
        if peer not in busy and self.now - self.found.get(peer, -math.inf) >= 10:
            self.asked[peer] = self.now
            self.to_write.append(offer(self.uuid, peer))

    def reply(self) -> None:
        """Answer the oldest offer that has been heard."""
        if self.to_answer:
            peer = self.to_answer.pop(0)
            self.found[peer] = self.now
            self.to_write.append(answer(self.uuid, peer))

    def read(self) -> None:
        while self.sent:
            self.hear(self.take())

    def hear(self, message: dict[str, Any]) -> None:
        if message["message_type"] != "peer_connection":
            return
        if message["source_uuid"] == self.uuid:
            peer = message["peer_uuid"]
            assert message["error"], "its own offer"
            if message["description_type"] == "offer":
                assert peer in self.asked, "an error for nothing"
                assert self.now - self.asked.pop(peer) <= 25, "a late error"
            return
        peer = message["source_uuid"]
        assert message["error"] is None, "an error of another client"
        described = json.loads(message["description"])
        assert described["type"] == message["description_type"], "another shape"
        if message["description_type"] == "offer":
            assert peer not in self.asked, "an offer that crosses its own"
            self.to_answer.append(peer)
        else:
            assert peer in self.asked, "an answer to nothing"
            del self.asked[peer]
            self.found[peer] = self.now


class StockMachine(RuleBasedStateMachine):
    """Stock clients and one that does whatever it wants: none of the former ends.

    What they send and are sent is on its way for a moment, in which no time passes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.journal = RecordingObserver()
        self.relay, _ = relay(self.clock, Offers(), self.journal)
        self.peers: dict[str, StockClient] = {}
        self.rogue = RecordingPeer()

    @property
    def now(self) -> float:
        return self.clock.seconds()

    def exchange(self) -> None:
        """Let everything arrive that is on its way."""
        for client in self.peers.values():
            client.now = self.now
            while client.to_write:
                dropped = self.journal.drops.copy()
                self.relay.receive(client, client.to_write.pop(0))
                # It may answer too late, but never asks in vain.
                assert (self.journal.drops - dropped).keys() <= {DropReason.UNASKED}
        for client in self.peers.values():
            client.read()

    @rule(uuid=st.sampled_from([A, B]))
    def start(self, uuid: str) -> None:
        client = self.peers[uuid] = StockClient(uuid, self.now)
        self.relay.receive(client, registration(uuid))

    @rule(uuid=st.sampled_from([A, B]))
    def lose(self, uuid: str) -> None:
        client = self.peers.pop(uuid, None)
        if client is not None:
            client.gone = True
            self.relay.leave(client, "lost")

    @rule(uuid=st.sampled_from([A, B]), peer=UUIDS)
    def ask(self, uuid: str, peer: str) -> None:
        if uuid in self.peers:
            self.peers[uuid].ask(peer)

    @rule(uuid=st.sampled_from([A, B]))
    def reply(self, uuid: str) -> None:
        if uuid in self.peers:
            self.peers[uuid].reply()

    @rule(
        peer=UUIDS,
        make=st.sampled_from([offer, answer]),
        fields=st.sampled_from([{}, {"error": "x"}, {"description": "junk"}]),
    )
    def disturb(
        self, peer: str, make: Callable[..., bytes], fields: dict[str, str]
    ) -> None:
        if self.rogue.registration is None:
            self.rogue = RecordingPeer()
            self.relay.receive(self.rogue, registration(C))
        if peer != C:
            self.relay.receive(self.rogue, make(C, peer, **fields))

    @rule(seconds=st.sampled_from([0.125, 0.5, 3.0, 11.0]))
    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds * 8)):
            self.exchange()
            self.clock.advance(0.125)
            self.relay.tick()
        self.exchange()

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        for peer in self.peers.values():
            for asked in peer.asked.values():
                assert self.now - asked < 25


class UndeliveredTests(SynchronousTestCase):
    """Texts of messages that come back."""

    def test_undelivered_each_reason_has_its_text(self) -> None:
        for why in BounceReason:
            if why not in {BounceReason.UNKNOWN, BounceReason.SOURCE}:
                self.assertIn("requested peer {}", TEXTS[why])
        self.assertEqual(len(set(TEXTS.values())), len(TEXTS))


class MachineTests(SynchronousTestCase):
    """Runs the machines."""

    def run_machine(
        self, machine: type[RuleBasedStateMachine], examples: int, steps: int
    ) -> None:
        bounds = settings(max_examples=examples, stateful_step_count=steps)
        run_state_machine_as_test(machine, settings=bounds)

    def test_relay_any_sequence_keeps_the_registry(self) -> None:
        self.run_machine(RelayMachine, 60, 40)

    def test_shield_any_sequence_matches_the_model(self) -> None:
        self.run_machine(ShieldMachine, 100, 40)

    def test_shield_any_sequence_ends_no_stock_client(self) -> None:
        self.run_machine(StockMachine, 100, 60)
