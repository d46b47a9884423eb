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
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay import relay
from proxyrelay.config import Offers
from proxyrelay.directory import UNKNOWN, Alone
from proxyrelay.identity import User
from proxyrelay.ledger import OUTSTANDING_OF_ONE, Drop, Offer
from proxyrelay.messages import ACCEPTED
from proxyrelay.peer import NAME_LENGTH
from proxyrelay.registry import REMEMBERED, Registry
from proxyrelay.relay import (
    BUSY,
    CROSSED,
    DEAF,
    FOREIGN,
    FULL,
    LEFT,
    SILENT,
    Relay,
    Return,
)
from tests.support.recording import (
    A,
    B,
    C,
    RecordingJournal,
    RecordingPeer,
    answer,
    offer,
    registration,
)


class RelayTestCase(SynchronousTestCase):
    """A relay at a time that stands still."""

    def setUp(self) -> None:
        self.now = 0.0
        self.journal = RecordingJournal()
        self.relay = Relay(self.journal, lambda: self.now)

    def registered(self, uuid: str, **fields: object) -> RecordingPeer:
        peer = RecordingPeer(**fields)  # type: ignore[arg-type]
        self.relay.receive(peer, registration(uuid))
        peer.take()
        return peer


class RelayTests(RelayTestCase):
    """What the contract tests over sockets cannot see."""

    def test_remembers_when_and_how_much(self) -> None:
        self.now = 5.0
        one, other = self.registered(A), self.registered(B)
        self.relay.receive(one, offer(A, B))
        self.relay.receive(one, offer(A, C))
        assert one.registration is not None
        assert other.registration is not None
        self.assertEqual(one.registration.since, 5.0)
        self.assertEqual((one.registration.sent, one.registration.received), (1, 0))
        self.assertEqual((other.registration.sent, other.registration.received), (0, 1))

    def test_a_repeated_registration_keeps_the_counts(self) -> None:
        peer = self.registered(A)
        self.relay.receive(peer, offer(A, A))
        self.now = 9.0
        self.relay.receive(peer, registration(A, name="renamed", legacy=True))
        assert peer.registration is not None
        self.assertEqual(
            (peer.registration.name, peer.registration.legacy), ("renamed", True)
        )
        self.assertEqual((peer.registration.since, peer.registration.sent), (0.0, 1))

    def test_keeps_no_more_of_a_name_than_it_needs(self) -> None:
        peer = RecordingPeer()
        self.relay.receive(peer, registration(A, name="n" * 100_000))
        assert peer.registration is not None
        self.assertEqual(peer.registration.name, "n" * NAME_LENGTH)

    def test_leaving_twice_is_leaving_once(self) -> None:
        peer = self.registered(A)
        self.relay.leave(peer, "first")
        self.relay.leave(peer, "second")
        self.assertEqual(self.journal.names, ["registered", "left"])
        self.assertIsNone(self.relay.registry.get(A))

    def test_a_replaced_peer_cannot_take_the_entry_with_it(self) -> None:
        old = self.registered(A)
        new = self.registered(A)
        self.relay.leave(old, "its socket is closed at last")
        self.assertIs(self.relay.registry.get(A), new)
        self.assertEqual(
            self.journal.names, ["registered", "replaced", "left", "registered"]
        )

    def test_a_registry_entry_goes_only_with_its_owner(self) -> None:
        peer, stranger = self.registered(A), RecordingPeer()
        self.relay.registry.remove(A, stranger, 0.0)
        self.assertIs(self.relay.registry.get(A), peer)

    def test_a_peer_that_is_gone_is_unknown(self) -> None:
        self.relay.offers = Offers(hold=0)
        source, target = self.registered(A), self.registered(B)
        target.gone = True
        self.relay.receive(source, offer(A, B))
        self.assertIn("is not registered this relay server", source.take()["error"])
        self.assertIsNone(self.relay.registry.get(B))
        self.assertNotIn("forwarded", self.journal.names)

    def test_a_peer_that_is_busy_stays(self) -> None:
        source, target = self.registered(A), self.registered(B)
        target.busy = True
        self.relay.receive(source, offer(A, B))
        self.assertIn("does not read", source.take()["error"])
        self.assertIs(self.relay.registry.get(B), target)

    def test_a_peer_that_is_gone_before_its_answer_leaves(self) -> None:
        peer = RecordingPeer(gone=True)
        self.relay.receive(peer, registration(A))
        self.assertIsNone(peer.registration)
        self.assertEqual(len(self.relay.registry), 0)

    def test_a_refused_peer_leaves_before_it_is_closed(self) -> None:
        peer = self.registered(A)
        self.relay.receive(peer, b"hello")
        self.assertEqual(peer.closed, (4000, "Unknown message type."))
        self.assertEqual(self.journal.names, ["registered", "refused", "left"])

    def test_an_old_client_is_old_only_while_it_is_registered(self) -> None:
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
        self.relay = Relay(RecordingJournal(), lambda: 0.0, Offers(shield=False))
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


class RelayMachineTests(SynchronousTestCase):
    """Runs the machine."""

    def test_any_sequence(self) -> None:
        run_state_machine_as_test(
            RelayMachine, settings=settings(max_examples=60, stateful_step_count=40)
        )


class Elsewhere(Alone):
    """Knows one peer beyond the relay."""

    def __init__(self, peer: RecordingPeer) -> None:
        super().__init__()
        self.peer = peer

    def find(self, uuid: str) -> RecordingPeer | None:
        """Find it."""
        return self.peer


class ShieldTests(RelayTestCase):
    """What becomes of offers and answers."""

    def errors(self, peer: RecordingPeer) -> list[str]:
        """The errors that a peer has got, in order; it has got nothing else."""
        found = [json.loads(text)["error"] for text in peer.sent]
        peer.sent.clear()
        self.assertNotIn(None, found)
        return found

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.relay.tick()

    def test_passes_an_offer_and_its_answer_on(self) -> None:
        one, other = self.registered(A), self.registered(B)
        for _ in range(3):
            self.relay.receive(one, offer(A, B))
            self.relay.receive(other, answer(B, A))
        self.wait(100.0)
        self.assertEqual(other.sent, [offer(A, B)] * 3)
        self.assertEqual(one.sent, [answer(B, A)] * 3)
        self.assertEqual((len(self.relay.ledger), self.relay.drops), (0, {}))

    def test_drops_what_would_end_a_client(self) -> None:
        one, other = self.registered(A), self.registered(B)
        self.relay.receive(one, offer(A, B))
        for sender, text, why in (
            (one, offer(A, B), Drop.DUPLICATE),
            (other, offer(B, A), Drop.CROSSING),
            (one, answer(A, B), Drop.UNASKED),
            (one, offer(A, B, error="x"), Drop.ERROR),
            (other, answer(B, A, error="x"), Drop.ERROR),
        ):
            self.relay.receive(sender, text)
            self.assertEqual(self.journal.events[-1], ("shielded", sender, why))
        self.relay.receive(other, answer(B, A))
        self.relay.receive(other, answer(B, A))
        self.assertEqual(self.journal.events[-1], ("shielded", other, Drop.UNASKED))
        self.assertEqual((one.sent, other.sent), ([answer(B, A)], [offer(A, B)]))
        self.assertEqual(self.relay.drops[Drop.UNASKED], 2)
        assert one.registration is not None
        self.assertEqual(one.registration.dropped, 3)

    def test_returns_an_offer_that_is_not_answered(self) -> None:
        one, other = self.registered(A), self.registered(B)
        self.relay.receive(one, offer(A, B, source_name="é"))
        self.wait(19.9)
        self.assertEqual(one.sent, [])
        self.wait(0.1)
        expected = offer(A, B, source_name="é", description="", error=SILENT.format(B))
        self.assertEqual(one.take(), json.loads(expected))
        self.relay.receive(other, answer(B, A))
        self.wait(100.0)
        self.assertEqual(one.sent, [])

    def test_returns_an_offer_when_its_peer_leaves(self) -> None:
        one, other = self.registered(A), self.registered(B)
        self.relay.receive(one, offer(A, B))
        self.relay.leave(other, "gone")
        self.assertEqual(self.errors(one), [LEFT.format(B)])
        self.wait(100.0)
        self.assertEqual(one.sent, [])

    def test_returns_an_offer_when_its_peer_is_replaced(self) -> None:
        one, old = self.registered(A), self.registered(B)
        self.relay.receive(one, offer(A, B))
        new = self.registered(B)
        self.assertEqual(self.errors(one), [LEFT.format(B)])
        self.relay.receive(one, offer(A, B))
        self.assertEqual((old.sent, new.sent), ([offer(A, B)], [offer(A, B)]))

    def test_an_answer_to_a_client_that_left_comes_back(self) -> None:
        one, other = self.registered(A), self.registered(B)
        self.relay.receive(one, offer(A, B))
        self.relay.leave(one, "gone")
        other.sent.clear()
        self.relay.receive(other, answer(B, A))
        self.relay.receive(other, answer(B, A))
        self.assertEqual(self.errors(other), [UNKNOWN.format(A)])

    def test_forgets_the_offers_of_a_uuid_that_registers_anew(self) -> None:
        one, other = self.registered(A), self.registered(B)
        self.relay.receive(one, offer(A, B))
        one = self.registered(A)
        self.relay.receive(other, answer(B, A))
        self.assertEqual(self.journal.names[-1], "shielded")
        self.relay.receive(one, offer(A, B))
        self.relay.receive(other, answer(B, A))
        self.assertEqual(one.sent, [answer(B, A)])

    def test_a_registration_on_the_same_socket_forgets_nothing(self) -> None:
        one, other = self.registered(A), self.registered(B)
        self.relay.receive(one, offer(A, B))
        self.relay.receive(one, registration(A))
        one.sent.clear()
        self.relay.receive(other, answer(B, A))
        self.assertEqual(one.sent, [answer(B, A)])

    def test_returns_what_there_is_no_room_for(self) -> None:
        one = self.registered(A)
        self.registered(B)
        others = [Offer(str(n), B, "", 0.0) for n in range(OUTSTANDING_OF_ONE)]
        for other in others:
            self.relay.ledger.add(other)
        self.relay.receive(one, offer(A, B))
        self.assertEqual(self.errors(one), [FULL.format(B)])
        self.relay.ledger.close(others[0])
        self.relay.receive(one, offer(A, B))
        self.assertEqual(self.journal.names[-1], "forwarded")

    def test_many_that_turn_out_to_be_gone_at_once(self) -> None:
        uuids = [str(UUID(int=number)) for number in range(2000)]
        peers = [self.registered(uuid) for uuid in uuids]
        for source, peer, target in zip(uuids, peers, uuids[1:], strict=False):
            self.relay.receive(peer, offer(source, target))
        for peer in peers:
            peer.gone = True
        self.relay.leave(peers[-1], "gone")
        self.assertEqual((len(self.relay.registry), len(self.relay.ledger)), (0, 0))

    # -- offers that wait

    def test_holds_an_offer_until_its_peer_is_back(self) -> None:
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

    def test_returns_an_offer_when_its_peer_does_not_come_back(self) -> None:
        one = self.registered(A)
        self.relay.receive(one, offer(A, B))
        self.wait(4.9)
        self.assertEqual(one.sent, [])
        self.wait(0.1)
        self.assertEqual(self.errors(one), [UNKNOWN.format(B)])
        other = self.registered(B)
        self.assertEqual(other.sent, [])

    def test_holds_nothing_for_whom_it_does_not_know(self) -> None:
        one, other = self.registered(A), self.registered(B)
        self.relay.leave(other, "gone")
        self.wait(120.0)
        for uuid in (B, C):
            self.relay.receive(one, offer(A, uuid))
            self.assertEqual(self.errors(one), [UNKNOWN.format(uuid)])

    def test_holds_nothing_for_the_peer_of_another_user(self) -> None:
        one, other = self.registered(A), self.registered(B, user=User("them"))
        self.relay.leave(other, "gone")
        self.relay.receive(one, offer(A, B))
        self.assertEqual(self.errors(one), [UNKNOWN.format(B)])
        # Nobody knows yet whose this one is.
        self.relay.receive(one, offer(A, C))
        stranger = self.registered(C, user=User("them"))
        self.assertEqual(stranger.sent, [])
        self.assertEqual(self.errors(one), [FOREIGN.format(C)])

    def test_holds_nothing_if_it_is_told_not_to(self) -> None:
        one = self.registered(A)
        for terms in (
            *(Offers(hold=0), Offers(recent=0)),
            *(Offers(held_total=0), Offers(held_per_user=0)),
        ):
            self.relay.offers = terms
            self.relay.receive(one, offer(A, B))
            self.assertEqual(self.errors(one), [UNKNOWN.format(B)])

    def test_what_a_client_has_waiting_leaves_with_it(self) -> None:
        one = self.registered(A)
        self.relay.receive(one, offer(A, B))
        self.relay.leave(one, "gone")
        self.assertEqual(len(self.relay.ledger), 0)
        self.assertEqual(self.registered(B).sent, [])

    def test_a_peer_that_comes_back_and_is_gone_again(self) -> None:
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
        self.assertEqual(len(self.relay.ledger), 0)

    def test_a_peer_that_comes_back_and_does_not_read(self) -> None:
        one = self.registered(A)
        self.relay.receive(one, offer(A, B))
        self.relay.receive(RecordingPeer(busy=True), registration(B))
        self.assertEqual(self.errors(one), [BUSY.format(B)])

    def test_an_offer_that_waits_for_one_that_crosses_it(self) -> None:
        self.relay.offers = Offers(crossing=0.5)
        one, other = self.registered(A), self.registered(B)
        self.relay.receive(one, offer(A, B))
        self.assertEqual(other.sent, [])
        self.now += 0.4
        self.relay.receive(other, offer(B, A))
        error = CROSSED.format(A)
        self.assertEqual(other.take(), json.loads(offer(B, A, error=error)))
        # It has time to act on that.
        self.wait(0.4)
        self.assertEqual(other.sent, [])
        self.wait(0.1)
        self.assertEqual(other.sent, [offer(A, B)])
        self.relay.receive(other, answer(B, A))
        self.wait(100.0)
        self.assertEqual((one.sent, len(other.sent)), ([answer(B, A)], 1))

    def test_an_offer_that_waits_for_none(self) -> None:
        self.relay.offers = Offers(crossing=0.5, hold=0, held_per_user=1)
        one, other, two = self.registered(A), self.registered(B), self.registered(C)
        self.relay.receive(one, offer(A, B))
        self.wait(0.4)
        self.assertEqual(other.sent, [])
        # There is no room to wait for another one.
        self.relay.receive(two, offer(C, B))
        self.assertEqual(other.sent, [offer(C, B)])
        self.wait(0.1)
        self.assertEqual(other.sent, [offer(C, B), offer(A, B)])
        self.relay.receive(other, offer(B, A))
        self.assertEqual(self.journal.names[-1], "shielded")
        self.relay.receive(other, answer(B, A))
        self.assertEqual(one.sent, [answer(B, A)])

    def test_a_receiver_that_leaves_while_an_offer_waits_may_come_back(self) -> None:
        self.relay.offers = Offers(crossing=0.5)
        one, other = self.registered(A), self.registered(B)
        self.relay.receive(one, offer(A, B))
        self.relay.leave(other, "gone")
        self.wait(1.0)
        self.assertEqual(one.sent, [])
        other = RecordingPeer()
        self.relay.receive(other, registration(B))
        self.assertEqual(other.sent, [ACCEPTED, offer(A, B)])

    def test_an_offer_waits_no_longer_than_for_an_answer(self) -> None:
        self.relay.offers = Offers(crossing=0.5, hold=20, answer_timeout=2)
        one = self.registered(A)
        self.relay.receive(one, offer(A, B))
        self.wait(2.0)
        self.assertEqual(self.errors(one), [UNKNOWN.format(B)])

    def test_a_peer_elsewhere_that_does_not_answer(self) -> None:
        one, elsewhere = self.registered(A), RecordingPeer()
        self.relay.directory = Elsewhere(elsewhere)
        self.relay.receive(one, offer(A, B))
        self.assertEqual(elsewhere.sent, [offer(A, B)])
        self.wait(20.0)
        self.assertEqual(self.errors(one), [SILENT.format(B)])

    def test_remembers_only_so_many_that_have_left(self) -> None:
        registry, peer = Registry(), RecordingPeer()
        for number in range(REMEMBERED + 1):
            registry.add(str(number), peer)
            registry.remove(str(number), peer, 1.0)
        self.assertIsNone(registry.left("0", 0.0))
        self.assertEqual(registry.left("1", 0.0), peer.user)

    # -- without the shield

    def test_without_shield_passes_everything_on(self) -> None:
        self.relay.offers = Offers(shield=False)
        one, other = self.registered(A), self.registered(B)
        texts = [offer(A, B), offer(A, B), answer(A, B), offer(A, B, error="x")]
        for text in texts:
            self.relay.receive(one, text)
        self.relay.receive(other, offer(B, A))
        self.relay.receive(one, offer(A, C))
        self.assertEqual((other.sent, one.sent.pop(0)), (texts, offer(B, A)))
        self.assertEqual(self.errors(one), [UNKNOWN.format(C)])
        self.relay.leave(other, "gone")
        self.wait(100.0)
        self.assertEqual(one.sent, [])

    def test_the_shield_is_put_down(self) -> None:
        one, other = self.registered(A), self.registered(B)
        self.relay.receive(one, offer(A, B))
        self.relay.receive(other, offer(B, C))
        self.relay.offers = Offers(shield=False)
        self.wait(0.5)
        self.assertEqual(other.take(), json.loads(offer(A, B)))
        self.assertEqual(self.errors(other), [UNKNOWN.format(C)])
        self.relay.receive(other, answer(B, A))
        self.wait(100.0)
        self.assertEqual(one.sent, [answer(B, A)])

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

    def test_who_came_back_and_does_not_answer_is_deaf(self) -> None:
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

    def test_who_answers_now_and_then_is_not_deaf(self) -> None:
        one, other = self.registered(A), self.returned()
        for _ in range(3):
            self.assertEqual(self.unanswered(one), [SILENT.format(B)])
            self.relay.receive(other, answer(B, A))
        self.assertNotIn("deaf", self.journal.names)

    def test_who_was_there_all_the_time_is_not_deaf(self) -> None:
        self.now = 1000.0
        one = self.registered(A)
        self.registered(B)
        for _ in range(3):
            self.assertEqual(self.unanswered(one), [SILENT.format(B)])
        self.assertNotIn("deaf", self.journal.names)

    def test_who_comes_back_to_a_relay_that_has_just_started_may_be_deaf(self) -> None:
        one = self.registered(A)
        self.registered(B)
        for _ in range(2):
            self.unanswered(one)
        self.assertIn("deaf", self.journal.names)

    def test_closes_who_is_deaf_if_it_is_told_to(self) -> None:
        self.relay.offers = Offers(close_deaf=True)
        one, other = self.registered(A), self.returned()
        self.unanswered(one)
        self.registered(C)
        self.relay.receive(one, offer(A, B))
        self.wait(20.0)
        self.assertEqual(self.errors(one), [DEAF.format(B)])
        assert other.closed is not None
        self.assertEqual(other.closed[0], 4004)
        self.assertLessEqual(len(other.closed[1].encode()), 123)
        self.assertIsNone(self.relay.registry.get(B))

    # -- fights over a UUID

    def test_counts_the_rounds_of_a_fight(self) -> None:
        for seconds in (0.0, 1.0, 59.0, 60.0, 1.0):
            self.now += seconds
            self.registered(A)
        rounds = [e[-1] for e in self.journal.events if e[0] == "replaced"]
        self.assertEqual(rounds, [1, 2, 1, 2])


class ShieldMachine(RuleBasedStateMachine):
    """Any sequence of steps, and stock clients that break as the real ones do.

    A list of offers is the model: who is told what follows from it by rules that look
    at all of it each time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.terms = Offers(held_per_user=2, held_total=3)
        self.relay = Relay(RecordingJournal(), lambda: self.now, self.terms)
        self.began = self.now
        self.peers: dict[str, RecordingPeer] = {}
        self.left: dict[str, float] = {}
        # Of clients that came back, in a row; of the others they do not count.
        self.silences: dict[str, float] = {}
        self.offers: list[dict[str, Any]] = []
        self.told: dict[str, list[bytes]] = {A: [], B: [], C: []}

    def pending(self, source: str, peer: str) -> dict[str, Any] | None:
        for found in self.offers:
            if (found["source"], found["peer"]) == (source, peer):
                return found
        return None

    def end(self, found: dict[str, Any], error: str) -> None:
        self.offers.remove(found)
        if found["source"] in self.peers:
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
            if found["peer"] == uuid:
                self.end(found, LEFT)
            elif found["source"] == uuid and found["held"]:
                self.offers.remove(found)

    def is_recent(self, uuid: str) -> bool:
        return self.now - max(self.left.get(uuid, 0.0), self.began) < 120

    @rule(uuid=UUIDS)
    def register(self, uuid: str) -> None:
        back = uuid in self.peers or self.is_recent(uuid)
        self.silences[uuid] = 0 if back else -math.inf
        if uuid in self.peers:
            self.gone(uuid)
        self.left.pop(uuid, None)
        self.offers = [found for found in self.offers if found["source"] != uuid]
        peer = self.peers[uuid] = RecordingPeer()
        self.relay.receive(peer, registration(uuid))
        self.told[uuid].append(ACCEPTED)
        for found in self.offers:
            if found["peer"] == uuid:
                found["held"] = False
                self.told[uuid].append(found["text"])

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
        text = offer(source, peer, description=name, error="x" if error else None)
        self.relay.receive(self.peers[source], text)
        if error or self.pending(source, peer) or self.pending(peer, source):
            return
        found = {"source": source, "peer": peer, "since": self.now, "text": text}
        held = [found for found in self.offers if found["held"]]
        if peer in self.peers:
            self.offers.append({**found, "held": False})
            self.told[peer].append(text)
        elif self.is_recent(peer) and len(held) < 2:
            self.offers.append({**found, "held": True})
        else:
            error_text = UNKNOWN.format(peer)
            self.told[source].append(
                offer(source, peer, description=name, error=error_text)
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
        else:
            error_text = UNKNOWN.format(peer)
            self.told[source].append(answer(source, peer, error=error_text))

    @rule(seconds=st.sampled_from([0.5, 3.0, 5.0, 12.0, 20.0, 130.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.relay.tick()
        for found in list(self.offers):
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
        assert len(self.relay.ledger) == len(self.offers)
        assert self.relay.ledger.held == sum(found["held"] for found in self.offers)


class ShieldMachineTests(SynchronousTestCase):
    """Runs the machine."""

    def test_any_sequence(self) -> None:
        run_state_machine_as_test(
            ShieldMachine, settings=settings(max_examples=100, stateful_step_count=40)
        )


class StockClient(RecordingPeer):
    """Ends, as the real client does, at what must not be sent to it."""

    def __init__(self, uuid: str) -> None:
        super().__init__()
        self.uuid = uuid
        self.asked: dict[str, float] = {}
        self.to_answer: list[str] = []
        self.now = 0.0

    def answer(self, text: bytes) -> None:
        super().answer(text)
        message = json.loads(self.sent.pop())
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
        if message["description_type"] == "offer":
            assert peer not in self.asked, "an offer that crosses its own"
            self.to_answer.append(peer)
        else:
            assert peer in self.asked, "an answer to nothing"
            del self.asked[peer]


class StockMachine(RuleBasedStateMachine):
    """Stock clients and one that does whatever it wants: none of the former ends."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.relay = Relay(RecordingJournal(), lambda: self.now)
        self.peers: dict[str, StockClient] = {}
        self.rogue = RecordingPeer()

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for peer in self.peers.values():
            peer.now = self.now
        self.relay.tick()

    @rule(uuid=st.sampled_from([A, B]))
    def start(self, uuid: str) -> None:
        peer = self.peers[uuid] = StockClient(uuid)
        peer.now = self.now
        self.relay.receive(peer, registration(uuid))

    @rule(uuid=st.sampled_from([A, B]))
    def lose(self, uuid: str) -> None:
        peer = self.peers.pop(uuid, None)
        if peer is not None:
            peer.gone = True
            self.relay.leave(peer, "lost")

    @rule(uuid=st.sampled_from([A, B]), peer=UUIDS)
    def ask(self, uuid: str, peer: str) -> None:
        client = self.peers.get(uuid)
        if client is None or peer == uuid or peer in client.asked:
            return
        if peer in client.to_answer:
            return
        client.asked[peer] = self.now
        dropped = self.relay.drops.total()
        self.relay.receive(client, offer(uuid, peer))
        if self.relay.drops.total() > dropped:
            # It crossed one on its way, and waits in vain.
            del client.asked[peer]

    @rule(uuid=st.sampled_from([A, B]))
    def reply(self, uuid: str) -> None:
        client = self.peers.get(uuid)
        if client is not None and client.to_answer:
            peer = client.to_answer.pop(0)
            self.relay.receive(client, answer(uuid, peer))

    @rule(
        peer=UUIDS,
        make=st.sampled_from([offer, answer]),
        error=st.sampled_from([None, "x"]),
    )
    def disturb(self, peer: str, make: Callable[..., bytes], error: str | None) -> None:
        if self.rogue.registration is None:
            self.rogue = RecordingPeer()
            self.relay.receive(self.rogue, registration(C))
        if peer != C:
            self.relay.receive(self.rogue, make(C, peer, error=error))

    @rule(seconds=st.sampled_from([0.5, 3.0, 11.0]))
    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds * 2)):
            self.advance(0.5)

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        for peer in self.peers.values():
            for asked in peer.asked.values():
                assert self.now - asked < 25


class StockMachineTests(SynchronousTestCase):
    """Runs the machine."""

    def test_any_sequence(self) -> None:
        run_state_machine_as_test(
            StockMachine, settings=settings(max_examples=100, stateful_step_count=60)
        )


class ReturnTests(SynchronousTestCase):
    """Why messages come back, in one word."""

    def test_each_text_has_its_own(self) -> None:
        for why in Return:
            text = getattr(relay, why.name, None)
            if text is not None:
                self.assertIs(relay._WORDS[text], why)
        self.assertGreater(len(relay._WORDS), 6)
        self.assertEqual(len(set(relay._WORDS.values())), len(relay._WORDS))
