"""The rules, without a network."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.identity import User
from proxyrelay.peer import NAME_LENGTH
from proxyrelay.relay import Relay
from tests.support.recording import (
    A,
    B,
    C,
    RecordingJournal,
    RecordingPeer,
    offer,
    registration,
)


class RelayTests(SynchronousTestCase):
    """What the contract tests over sockets cannot see."""

    def setUp(self) -> None:
        self.now = 0.0
        self.journal = RecordingJournal()
        self.relay = Relay(self.journal, lambda: self.now)

    def registered(self, uuid: str, **fields: object) -> RecordingPeer:
        peer = RecordingPeer(**fields)  # type: ignore[arg-type]
        self.relay.receive(peer, registration(uuid))
        peer.take()
        return peer

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
        self.relay.registry.remove(A, stranger)
        self.assertIs(self.relay.registry.get(A), peer)

    def test_a_peer_that_is_gone_is_unknown(self) -> None:
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
    """Any sequence of registrations, offers, departures and new connections."""

    def __init__(self) -> None:
        super().__init__()
        self.relay = Relay(RecordingJournal(), lambda: 0.0)
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
