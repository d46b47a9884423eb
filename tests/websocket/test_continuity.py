"""Connections that go on elsewhere, beside those that stay: no outcome may differ."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth.anonymous import AnonymousAuthenticator
from proxyrelay.config import Config, Offers
from proxyrelay.errors import Superseded
from proxyrelay.switchboard.candidates import HOST, ICE, PRIVATE_IPV4
from proxyrelay.switchboard.events import Event, Left, Refused
from proxyrelay.switchboard.peer import Registration
from proxyrelay.switchboard.relay import Relay
from proxyrelay.switchboard.user import User
from proxyrelay.websocket import flow
from proxyrelay.websocket.continuity import NOTHING, Record, Suspended
from proxyrelay.websocket.factory import RelayFactory
from proxyrelay.websocket.fastpath import FRAMES_PER_TURN
from proxyrelay.websocket.flow import header
from proxyrelay.websocket.protocol import RelayProtocol
from proxyrelay.websocket.revival import TORN
from proxyrelay.websocket.state import Phase
from proxyrelay.websocket.upstream import MAX_FRAMES_PER_MESSAGE
from tests.support.frames import BINARY, CLOSE, CONTINUATION, PING, TEXT, frame
from tests.support.recording import (
    A,
    B,
    C,
    RecordingObserver,
    RecordingWaiting,
    offer,
    registration,
)
from tests.support.served import upgrade
from tests.websocket import test_fastpath as fastpath
from tests.websocket.test_fastpath import EURO, Side, Step, Wire, pieces, spelt
from tests.websocket.test_served_class import LEFT

PING_BYTES = 6
"""Bytes of the ping that proves a stream."""


def copied(thing: Any) -> Any:
    """A struct as another process reads it."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(thing), type=type(thing))


class Noting:
    """In the place of the rules: all that a registered client says comes back to it."""

    registration: Registration | None

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        kind: Any = super() if self.registration is None else fastpath.Echo
        given = () if self.registration is None else (self,)
        kind.onMessage(*given, payload, isBinary)


class MovingSide(Side):
    """A relay in memory whose clients can go on in another process.

    Args:
        mixins: Put before the class that is served.
        limit: Bytes of the longest message.
        legacy: Whether the clients speak the dialect in which strange texts are
            skipped.
    """

    def __init__(
        self, *mixins: type, limit: int = fastpath.LONG_LIMIT, legacy: bool = False
    ) -> None:
        super().__init__(*mixins, limit=limit, legacy=legacy)
        self.limit, self.mixins = limit, mixins

    def move(self) -> None:
        """Let all open clients go on in another process."""
        before = self.factory
        self.factory = RelayFactory(
            *(self.relay, AnonymousAuthenticator(), self.journal, before.clock),
            Config(
                max_message_bytes=self.limit, max_unread_bytes=fastpath.UNREAD_LIMIT
            ),
            kind=RelayProtocol,
        )
        served: Any = self.factory.protocol
        tested: Any = type("Tested", (*self.mixins, served), {})
        self.factory.protocol = tested
        kept = {
            number: (copied(peer.record()), copied(peer.suspend()))
            for number, peer in enumerate(self.peers)
            if peer.can_survive
        }
        for number, (record, suspended) in kept.items():
            written = self.wires[number].value()
            peer = self.factory.revive(record, suspended, lambda _: Wire())
            wire = peer.transport
            unsent, ping = wire.value()[:-PING_BYTES], wire.value()[-PING_BYTES:]
            assert ping[:2] == header(0x80 | PING, 4)
            wire.clear()
            wire.write(written + unsent)
            self.peers[number], self.wires[number] = peer, wire
        for number in kept:
            self.peers[number].proceed()
            self.peers[number].onPong(self.peers[number]._ping)


def outcome(side: Side) -> dict[str, Any]:
    """All that comes out, without counts that have no effect any more."""
    seen: dict[str, Any] = side.seen()
    for client in seen["clients"]:
        del client["unread"]
        if client["registration"] is not None:
            # A new process looks at candidates anew.
            client["registration"] = replace(client["registration"], look_due=0.0)
    return seen


class BesideOneProcessTests(SynchronousTestCase):
    """Streams that are cut by ends of the process, and the same without them."""

    def setUp(self) -> None:
        # Frames behind a close are counted in one process only.
        self.patch(flow, "MAX_FRAMES_AFTER_CLOSE", sys.maxsize)

    def compare(
        self, steps: list[Step], cuts: set[int], *mixins: type, **options: Any
    ) -> None:
        """Play steps, and cut behind the reads of some numbers."""
        moving = MovingSide(*mixins, **options)
        staying = MovingSide(*mixins, **options)
        count = 0
        for who, stream, sizes in steps:
            for piece in pieces(stream, sizes):
                for side in (moving, staying):
                    side.read(side.peers[who], piece)
                if count in cuts:
                    moving.move()
                    for peer in staying.peers:
                        # A new process does not wait for the end of a replaced client.
                        peer.flow.stop_following()
                count += 1
        self.assertEqual(outcome(moving), outcome(staying))
        for side in (moving, staying):
            side.lose()
            self.assertEqual(side.factory.limits._origins, {})
            queues = side.factory.lifecycle.queues
            self.assertEqual([*map(len, queues.values())], [0] * 8)
        self.assertEqual(outcome(moving), outcome(staying))

    @settings(max_examples=100)
    @given(
        fastpath.STEPS,
        st.sets(st.integers(0, 40)),
        st.sampled_from([fastpath.SHORT_LIMIT, fastpath.LONG_LIMIT]),
        st.booleans(),
    )
    def test_suspend_in_any_stream_under_the_rules_changes_nothing(
        self, steps: list[Step], cuts: set[int], limit: int, legacy: bool
    ) -> None:
        self.compare(steps, cuts, limit=limit, legacy=legacy)

    @settings(max_examples=100)
    @given(
        fastpath.STEPS,
        st.sets(st.integers(0, 40)),
        st.sampled_from([fastpath.SHORT_LIMIT, fastpath.LONG_LIMIT]),
    )
    def test_suspend_in_any_stream_under_an_echo_changes_nothing(
        self, steps: list[Step], cuts: set[int], limit: int
    ) -> None:
        self.compare(steps, cuts, Noting, limit=limit)

    @settings(max_examples=100)
    @given(
        st.lists(fastpath.fragmented(), max_size=4).map(b"".join),
        st.sets(st.integers(0, 60)),
        fastpath.SIZES,
    )
    @example(frame(TEXT, EURO, fin=False) + frame(PING, b"x"), {0, 1, 2, 3}, [5])
    def test_suspend_in_fragments_changes_nothing(
        self, stream: bytes, cuts: set[int], sizes: list[int]
    ) -> None:
        self.compare([(0, stream, sizes)], cuts, Noting)

    @given(st.binary(max_size=300), st.sets(st.integers(0, 40)), fastpath.SIZES)
    def test_suspend_in_garbage_changes_nothing(
        self, stream: bytes, cuts: set[int], sizes: list[int]
    ) -> None:
        self.compare([(0, stream, sizes)], cuts, Noting)

    def test_suspend_during_a_takeover_changes_nothing(self) -> None:
        both = frame(TEXT, registration(A)) + frame(TEXT, offer(A, B))
        self.compare([(1, both, [1 << 20]), (0, both, [1 << 20])], {0})

    def test_suspend_behind_each_byte_changes_nothing(self) -> None:
        stream = (
            frame(PING, b"1")
            + spelt(0x80 | TEXT, EURO, b"mask", 0)
            + spelt(TEXT, b"\xe2", b"mask", 0)
            + spelt(0x80 | PING, b"between", b"MASK", 0)
            + spelt(CONTINUATION, b"", b"mask", 0)
            + spelt(0x80, b"\x82\xac", b"mask", 0)
            + spelt(BINARY, b"\xff" * 3, b"mask", 0)
            + spelt(0x80, b"\xfe", b"mask", 0)
            + frame(TEXT, b"x" * 126)
            + frame(CLOSE, b"\x03\xe8bye")
        )
        for cut in range(len(stream)):
            self.compare([(0, stream, [cut + 1, 1 << 20])], {0}, Noting)
        self.compare([(0, stream, [1])], {*range(len(stream))}, Noting)

    def test_suspend_in_a_long_frame_changes_nothing(self) -> None:
        for opcode in (TEXT, BINARY):
            for size in (126, 65535, 65536, 70_000):
                stream = spelt(0x80 | opcode, EURO[:3] * (size // 3), b"mask", 0)
                for first in (2, 4, 10, 14, 15, 100, len(stream) - 1):
                    self.compare([(0, stream, [first, 1 << 20])], {0}, Noting)

    def test_suspend_in_the_last_allowed_fragment_changes_nothing(self) -> None:
        part = frame(CONTINUATION, fin=False)
        for count in (MAX_FRAMES_PER_MESSAGE - 1, MAX_FRAMES_PER_MESSAGE):
            stream = frame(TEXT, b"x", fin=False) + part * (count - 1)
            ends = frame(CONTINUATION, b"y")
            for cut in (0, 3):
                self.compare(
                    [(0, stream + ends[:cut], [1 << 20]), (0, ends[cut:], [1 << 20])],
                    {0},
                    Noting,
                )

    def test_suspend_in_an_invalid_text_is_found_at_the_same_byte(self) -> None:
        for bad in (b"\xe2\x28", b"\xff", b"\xed\xa0\x80"):
            stream = frame(TEXT, b"good" + bad[:1], fin=False)
            stream += frame(0x80, bad[1:] + b"z")
            for cut in range(len(stream)):
                self.compare([(0, stream, [cut + 1, 1 << 20])], {0}, Noting)


class RevivalCase(SynchronousTestCase):
    """Relays in memory, on one clock whose turns are run one by one."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.observed = RecordingObserver()

    def serve(self, **config: Any) -> RelayFactory:
        relay = Relay(
            *(self.observed, self.clock.seconds, RecordingWaiting()),
            Offers(shield=False),
        )
        return RelayFactory(
            *(relay, AnonymousAuthenticator(), self.observed, self.clock),
            Config(**config),
            kind=RelayProtocol,
        )

    def open(self, factory: RelayFactory, uuid: str = A) -> RelayProtocol:
        peer: RelayProtocol = factory.buildProtocol(Wire().getPeer())
        peer.makeConnection(Wire())
        peer.dataReceived(upgrade())
        peer.dataReceived(frame(TEXT, registration(uuid)))
        self.assertIsNotNone(peer.registration)
        peer.transport.clear()
        return peer

    def move(
        self,
        peer: RelayProtocol,
        factory: RelayFactory,
        is_torn: bool = False,
        crashed: bool = False,
    ) -> RelayProtocol:
        record, suspended = copied(peer.record()), copied(peer.suspend())
        moved: RelayProtocol = factory.revive(
            record, None if crashed else suspended, lambda _: Wire(), is_torn
        )
        return moved

    def happened(self, *kinds: type[Event]) -> list[Any]:
        return [event for event in self.observed.events if isinstance(event, kinds)]


class StructTests(SynchronousTestCase):
    """What is written for another process."""

    def test_record_of_an_older_relay_has_defaults(self) -> None:
        written = msgspec.msgpack.encode({"uuid": A, "of a newer relay": 1})
        found = msgspec.msgpack.decode(written, type=Record)
        self.assertEqual((found.uuid, found.sub), (A, "anonymous"))
        self.assertEqual(msgspec.msgpack.decode(b"\x80", type=Suspended), NOTHING)

    def test_suspended_without_content_is_one_byte(self) -> None:
        self.assertEqual(msgspec.msgpack.encode(NOTHING), b"\x80")


class SuspendTests(RevivalCase):
    """The end in the process before."""

    def test_suspend_leaves_nothing_behind_and_tells_nobody(self) -> None:
        factory = self.serve()
        peer = self.open(factory)
        before = len(self.observed.events)
        self.assertTrue(peer.can_survive)
        peer.suspend()
        self.assertFalse(peer.can_survive)
        self.assertEqual(len(self.observed.events), before)
        self.assertEqual(len(factory.registry), 0)
        self.assertEqual(factory.connections, set())
        self.assertEqual(factory.limits._origins, {})
        self.assertEqual(factory.limits.unregistered, 0)
        self.assertEqual(factory.getConnectionCount(), 0)
        self.assertEqual([*map(len, factory.lifecycle.queues.values())], [0] * 8)
        self.assertEqual((peer.transport.ends, peer.transport.value()), ([], b""))

    def test_can_survive_unregistered_or_closing_is_false(self) -> None:
        factory = self.serve()
        peer = factory.buildProtocol(Wire().getPeer())
        peer.makeConnection(Wire())
        self.assertFalse(peer.can_survive)
        peer.dataReceived(upgrade())
        self.assertFalse(peer.can_survive)
        registered = self.open(factory, B)
        registered.close(1000, "")
        self.assertFalse(registered.can_survive)

    def test_suspend_in_an_open_batch_keeps_its_writes(self) -> None:
        factory, after = self.serve(), self.serve()
        peer = self.open(factory)
        factory.outbox.open()
        peer.deliver(b"one")
        peer.deliver(b"two")
        record, suspended = peer.record(), peer.suspend()
        factory.outbox.close()
        expected = b"\x81\x03one\x81\x03two"
        self.assertEqual((suspended.unsent, peer.transport.value()), (expected, b""))
        moved = after.revive(record, suspended, lambda _: Wire())
        self.assertEqual(moved.transport.value()[:-PING_BYTES], expected)

    def test_suspend_of_a_follower_keeps_its_writes(self) -> None:
        factory = self.serve()
        old, new = self.open(factory), self.open(factory, B)
        new.follow(old)
        new.deliver(b"one")
        suspended = new.suspend()
        self.assertEqual(suspended.unsent, b"\x81\x03one")
        old.connectionLost()
        self.clock.advance(flow.FOLLOW_SECONDS)
        self.assertEqual(new.transport.value(), b"")

    def test_suspend_keeps_deferred_frames_until_proceed(self) -> None:
        factory, after = self.serve(), self.serve()
        peer = self.open(factory)
        other = self.open(factory, B)
        sent = [offer(A, B, sdp=f"v={number}") for number in range(99)]
        burst = b"".join(frame(PING, bytes([n])) for n in range(FRAMES_PER_TURN))
        # The last frame of the burst is cut.
        peer.dataReceived(burst + b"".join(frame(TEXT, text) for text in sent)[:-3])
        rest = frame(TEXT, sent[-1])[-3:]
        moved = self.move(peer, after)
        early = other.transport.value()
        self.assertLess(len(early), sum(map(len, sent)))
        moved_too = self.move(other, after)
        self.clock.advance(0)
        self.assertEqual(moved_too.transport.value()[PING_BYTES:], b"")
        self.assertEqual(moved.transport.producerState, "paused")
        for each in (moved, moved_too):
            each.proceed()
        for _ in range(4):
            self.clock.advance(0)
        self.assertEqual(moved.transport.producerState, "producing")
        moved.dataReceived(rest)
        self.assertEqual(
            early + moved_too.transport.value()[PING_BYTES:],
            b"".join(header(0x81, len(text)) + text for text in sent),
        )

    def test_suspend_of_a_slow_client_ends_its_pause(self) -> None:
        factory, after = self.serve(), self.serve()
        peer = self.open(factory)
        burst = frame(PING) * FRAMES_PER_TURN
        peer.flow.message_debt = factory.limits.burst
        peer.dataReceived(burst)
        self.assertEqual(len(factory.flows.slow), 1)
        moved = self.move(peer, after)
        self.assertEqual(len(factory.flows.slow), 0)
        self.assertTrue(moved.slowed)
        moved.proceed()
        moved.dataReceived(burst)
        self.assertEqual(len(after.flows.slow), 1)


class ReviveTests(RevivalCase):
    """The beginning in the next process."""

    def test_revive_restores_what_is_known(self) -> None:
        factory, after = self.serve(), self.serve()
        factory.boottime = after.boottime = lambda: 7.0
        self.clock.advance(5)
        peer = self.open(factory)
        held = peer.registration
        assert held is not None
        held.sent, held.received, held.unheard = 1, 2, frozenset({"a"})
        held.deaf, held.last_offer, held.takeovers = True, 4.0, 2
        held.candidates, held.is_private_told = ICE | HOST | PRIVATE_IPV4, True
        peer._registration_debt = peer.flow.message_debt = 9.0
        moved = self.move(peer, after)
        self.assertEqual(moved.registration, held)
        self.assertEqual(moved.record(), peer.record())
        self.assertIs(after.registry.get(A), moved)
        self.assertEqual(moved.accepted_at, 7.0)
        self.assertEqual((moved._registration_debt, moved.flow.message_debt), (9, 9))
        self.assertEqual(moved.phase, Phase.AWAITING_PONG)
        self.assertEqual(moved.state, RelayProtocol.STATE_OPEN)
        self.assertEqual(after.getConnectionCount(), 1)

    def test_revive_after_a_crash_pings(self) -> None:
        peer = self.open(self.serve())
        moved = self.move(peer, self.serve(), crashed=True)
        self.assertEqual(moved.transport.value(), header(0x89, 4) + moved._ping)
        moved.dataReceived(frame(10, moved._ping))
        self.assertEqual(moved.phase, Phase.READY)

    def test_revive_without_a_pong_ends(self) -> None:
        after = self.serve()
        moved = self.move(self.open(self.serve()), after)
        self.clock.advance(after.lifecycle.queues[Phase.AWAITING_PONG]._seconds)
        self.assertEqual([kind for kind, _ in moved.transport.ends], ["aborted"])
        self.assertEqual(self.happened(Left)[0].reason, "no answer to a ping")

    def test_revive_numbers_later_arrivals_above(self) -> None:
        factory, after = self.serve(), self.serve()
        peers = [self.open(factory, uuid) for uuid in (A, B)]
        moved = [self.move(peer, after) for peer in peers]
        self.assertEqual([peer.arrival for peer in moved], [0, 1])
        newcomer = self.open(after, A)
        self.assertEqual(newcomer.arrival, 2)
        self.assertEqual(moved[0].localCloseCode, Superseded.code)

    def test_revive_torn_drops(self) -> None:
        after = self.serve()
        moved = self.move(self.open(self.serve()), after, is_torn=True, crashed=True)
        self.assertEqual(moved.transport.ends, [("aborted", 0)])
        self.assertEqual([event.reason for event in self.happened(Left)], [TORN])
        self.assertEqual(len(after.registry), 0)
        moved.proceed()
        moved.connectionLost()
        self.assertEqual(after.limits._origins, {})
        self.assertEqual(after.connections, set())

    def test_revive_two_of_one_uuid_keeps_the_later_one(self) -> None:
        factory, after = self.serve(), self.serve()
        old, new = self.open(factory), self.open(factory, B)
        records = [old.record(), msgspec.structs.replace(new.record(), uuid=A)]
        first, second = (
            after.revive(record, None, lambda _: Wire()) for record in records
        )
        self.assertIs(after.registry.get(A), second)
        self.assertEqual(len(after.registry), 1)
        self.assertEqual(self.happened(Refused)[0].code, Superseded.code)
        self.assertFalse(first.can_survive)

    def test_revive_counts_users_and_addresses_beyond_their_limits(self) -> None:
        after = self.serve()
        peer = self.open(self.serve())
        record = msgspec.structs.replace(
            peer.record(), sub="jo", source="192.0.2.1", limited=True
        )
        moved = [
            after.revive(
                msgspec.structs.replace(record, uuid=uuid, arrival=arrival),
                None,
                lambda _: Wire(),
            )
            for arrival, uuid in enumerate((A, B, C))
        ]
        self.assertEqual(moved[0].user, User("jo"))
        self.assertEqual(after.limits._users, {User("jo"): 3})
        self.assertEqual(after.limits._origins["192.0.2.1"].open, 3)
        self.assertEqual(after.limits.unregistered, 0)
        for each in moved:
            each.connectionLost()
        self.assertEqual((after.limits._users, after.limits._origins), ({}, {}))

    def test_revive_takes_the_memory_of_an_ordinary_connection(self) -> None:
        factory = self.serve()
        ordinary = self.open(factory)
        moved = self.move(self.open(self.serve(), B), factory)
        self.assertLessEqual(vars(moved).keys() - {"_ping"}, LEFT | {"registration"})
        self.assertEqual(vars(ordinary).keys(), vars(moved).keys() - {"_ping"})
        sizes = [sys.getsizeof(vars(each)) for each in (moved, ordinary)]
        self.assertLessEqual(sizes[0], sizes[1])

    def test_revive_of_an_unread_client_counts_on(self) -> None:
        class FullWire(Wire):
            """Pauses at every write, as a transport with a full buffer does."""

            producer: Any

            def write(self, data: bytes) -> None:
                super().write(data)
                self.producer.pauseProducing()

        after = self.serve(max_unread_bytes=1000)
        peer = self.open(self.serve())
        record = peer.record()
        suspended = Suspended(unsent=b"x" * 5000, unread=1990)
        moved = after.revive(record, suspended, lambda _: FullWire())
        self.assertEqual(moved.flow.unread, 1990 + PING_BYTES)
        moved.dataReceived(frame(PING, b"ping"))
        self.assertEqual([kind for kind, _ in moved.transport.ends], ["aborted"])
