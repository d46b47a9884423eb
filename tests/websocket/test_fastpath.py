"""The hot path beside plain Autobahn: nothing that comes out may differ."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Any

from autobahn.websocket.xormasker import (  # type: ignore[attr-defined]
    create_xor_masker,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth.anonymous import AnonymousAuthenticator
from proxyrelay.config import Config, Offers
from proxyrelay.switchboard.relay import Relay
from proxyrelay.websocket import flow
from proxyrelay.websocket.factory import RelayFactory
from proxyrelay.websocket.fastpath import (
    NOTHING,
    frame_end,
    small_frame,
    unmask,
)
from proxyrelay.websocket.flow import header
from proxyrelay.websocket.protocol import RelayProtocol
from tests.support import frames
from tests.support.clock import EagerClock
from tests.support.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame
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

SHORT_LIMIT, LONG_LIMIT = 300, 70_000
"""Bytes of the longest message: just enough for an offer, and for a long frame."""

UNREAD_LIMIT = 65536

HEADER_CEILING = 14
"""Bytes of the longest header of a frame (RFC 6455, section 5.2)."""

PIECES_CEILING = 400
"""Reads into which one step is cut."""

BURST = 65536
"""Bytes of one read, as Twisted reads them."""


class Wire(StringTransport):
    """A transport that remembers how it was ended, and behind which byte."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[tuple[str, int]] = []

    def loseConnection(self) -> None:  # noqa: N802
        self.ends.append(("lost", len(self.value())))

    def abortConnection(self) -> None:  # noqa: N802
        self.ends.append(("aborted", len(self.value())))

    def detach(self) -> bytes:
        return b""


class Plain:
    """What Autobahn does by itself, but for a connection that is over."""

    state: int
    _dataReceived: Callable[[bytes], None]

    def dataReceived(self, data: bytes) -> None:
        if self.state != RelayProtocol.STATE_CLOSED:
            self._dataReceived(data)


class Echo:
    """In the place of the rules: all that a client says comes back to it."""

    state: int
    sendData: Callable[[bytes], None]

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self.state == RelayProtocol.STATE_OPEN:
            first = 0x80 | (BINARY if isBinary else TEXT)
            self.sendData(header(first, len(payload)) + payload)


class Side:
    """A relay in memory, with clients that have registered.

    Args:
        mixins: Put before the class that is served.
        limit: Bytes of the longest message.
        uuids: Of the clients.
        legacy: Whether they speak the dialect in which strange texts are skipped.
    """

    def __init__(
        self,
        *mixins: type,
        limit: int = LONG_LIMIT,
        uuids: tuple[str, ...] = (A, B),
        legacy: bool = False,
    ) -> None:
        clock = EagerClock()
        self.journal = RecordingObserver()
        # The fast path passes on much that the shield would drop.
        terms = Offers(shield=False)
        self.relay = Relay(
            *(self.journal, clock.seconds, RecordingWaiting(), terms),
            self.journal.forwarded,
        )
        self.factory = RelayFactory(
            self.relay,
            AnonymousAuthenticator(),
            self.journal,
            clock,
            Config(max_message_bytes=limit, max_unread_bytes=UNREAD_LIMIT),
            kind=RelayProtocol,
        )
        served: Any = self.factory.protocol
        tested: Any = type("Tested", (*mixins, served), {})
        self.factory.protocol = tested
        self.wires: list[Wire] = []
        self.peers: list[RelayProtocol] = []
        for uuid in uuids:
            self.open(uuid, legacy)

    def open(self, uuid: str, legacy: bool) -> None:
        """Connect a client, and let it register."""
        wire = Wire()
        peer = self.factory.buildProtocol(wire.getPeer())
        peer.makeConnection(wire)
        self.wires.append(wire)
        self.peers.append(peer)
        peer.dataReceived(upgrade())
        assert wire.value().startswith(b"HTTP/1.1 101 ")
        peer.dataReceived(frame(TEXT, registration(uuid, legacy=legacy)))
        assert peer.state == RelayProtocol.STATE_OPEN
        wire.clear()

    def read(self, peer: RelayProtocol, data: bytes) -> None:
        """Take what a client has sent, with the fast path in a batch of writes."""
        if isinstance(peer, Plain):
            peer.dataReceived(data)
            return
        self.factory.outbox.open()
        peer.dataReceived(data)
        self.factory.outbox.close()

    def lose(self) -> None:
        """Let all connections end."""
        for peer in self.peers:
            peer.connectionLost()

    def seen(self) -> dict[str, object]:
        """All that comes out."""
        return {
            "journal": list(self.journal.events),
            "registry": [peer.arrival for peer in self.relay.registry],
            "clients": [
                _seen(peer, wire)
                for peer, wire in zip(self.peers, self.wires, strict=True)
            ],
        }


def _seen(peer: RelayProtocol, wire: Wire) -> dict[str, object]:
    state: Any = peer
    seen: dict[str, object] = {
        "written": wire.value(),
        "ends": wire.ends,
        "unread": (peer.flow.paused, peer.flow.unread),
        "registration": peer.registration,
        "phase": peer.phase,
        "state": state.state,
        "closed": (state.closedByMe, state.failedByMe, state.droppedByMe),
        "clean": (state.wasClean, state.wasNotCleanReason),
        "local": (state.localCloseCode, state.localCloseReason),
        "remote": (state.remoteCloseCode, state.remoteCloseReason),
    }
    if state.state != RelayProtocol.STATE_CLOSED:
        seen["left over"] = state.data
        seen["inside a message"] = state.inside_message
        if state.inside_message and not state.failedByMe:
            seen["message"] = (state.message_is_binary, b"".join(state.message_data))
        if state.current_frame is not None:
            at = state.current_frame
            seen["frame"] = (at.opcode, at.fin, at.rsv, at.length, at.mask)
            seen["read of it"] = state.current_frame_masker.pointer()
    return seen


Step = tuple[int, bytes, list[int]]
"""Which client, what it sends (nothing: it stops to read, or goes on), and the bytes of
each read, over and over."""


def play(side: Side, steps: list[Step]) -> None:
    """Let clients do something, one after the other."""
    for who, stream, sizes in steps:
        peer = side.peers[who]
        for piece in pieces(stream, sizes):
            side.read(peer, piece)
        if not stream and peer.flow.paused:
            peer.flow.resumeProducing()
        elif not stream:
            peer.flow.pauseProducing()


def pieces(stream: bytes, sizes: list[int]) -> Iterator[bytes]:
    """Cut a stream."""
    start = 0
    for count in range(PIECES_CEILING):
        if start >= len(stream):
            return
        size = sizes[count % len(sizes)]
        yield stream[start : start + size]
        start += size
    if start < len(stream):
        yield stream[start:]


def spelt(first: int, payload: bytes, mask: bytes | None, size: int) -> bytes:
    """A frame, right or wrong.

    Args:
        first: Its first byte.
        payload: What is in it.
        mask: The key; None to leave it unmasked.
        size: Bytes that the length has at least: 0, 2 or 8.
    """
    length, masked = len(payload), 0 if mask is None else 0x80
    if length < 126 and size == 0:
        head = bytes([first, masked | length])
    elif length < 65536 and size <= 2:
        head = bytes([first, masked | 126]) + length.to_bytes(2, "big")
    else:
        head = bytes([first, masked | 127]) + length.to_bytes(8, "big")
    return head + (payload if mask is None else mask + masked_by(mask, payload))


def masked_by(mask: bytes, payload: bytes) -> bytes:
    """A payload under its mask, by Autobahn."""
    masked: bytes = create_xor_masker(mask, len(payload)).process(payload)
    return masked


WHOLE = [0x80 | opcode for opcode in (TEXT, PING, PONG)]

FIRSTS = st.one_of(
    st.sampled_from(WHOLE),
    st.sampled_from([0x80 | BINARY, TEXT, BINARY, CONTINUATION, 0x80 | CONTINUATION]),
    st.sampled_from([0x80 | CLOSE, PING, CLOSE, 0x83, 0x8B, 0xC1, 0xA9, 0x91]),
    st.integers(0, 255),
)

MESSAGES = [
    registration(A),
    registration(B),
    registration(C),
    registration(A, legacy=True),
    offer(A, B),
    offer(B, A),
    offer(A, A),
    offer(A, C),
    offer(A, B, sdp="\u20ac"),
    b'{"message_type": "strange"}',
]

LENGTHS = [125, 126, 127, 128, 298, 300, 301, 65535, 65536, 69_999, 70_000, 70_001]

PAYLOADS = st.one_of(
    st.sampled_from(MESSAGES),
    st.sampled_from([b"", b"a", b"\xff", b"\xed\xa0\x80", b"a\xe2\x82", b"\xc3\xa9"]),
    st.sampled_from([b"\xf4\x90\x80\x80", b"\xc0\x80", b"\xef\xbf\xbf", b"\0"]),
    st.sampled_from([b"\x03\xe8", b"\x03\xe8bye", b"\x03\xe8\xff", b"\x03\xec", b"\1"]),
    st.builds(
        lambda length, text: (text * length)[:length],
        st.sampled_from(LENGTHS),
        st.sampled_from([b"a", "\u20ac".encode(), b"\xff"]),
    ),
    st.text(max_size=40).map(str.encode),
    st.binary(max_size=40),
)

MASKS = st.one_of(st.just(bytes(4)), st.binary(min_size=4, max_size=4))

GOOD = st.builds(spelt, st.sampled_from(WHOLE), PAYLOADS, MASKS, st.just(0))

ANY = st.builds(
    spelt, FIRSTS, PAYLOADS, st.one_of(MASKS, st.none()), st.sampled_from([0, 0, 2, 8])
)

TRUNCATED = st.builds(lambda whole, end: whole[:end], ANY, st.integers(1, 20))

ANNOUNCED = st.builds(
    lambda first, length, masked: (
        bytes([first, masked | 127])
        + length.to_bytes(8, "big")
        + bytes(4 if masked else 0)
    ),
    FIRSTS,
    st.sampled_from([0, 1, 65536, 1 << 20, (1 << 20) + 1, 1 << 63, (1 << 64) - 1]),
    st.sampled_from([0x80, 0x80, 0]),
)


@st.composite
def fragmented(draw: st.DrawFn) -> bytes:
    """A message in fragments, with control frames between them."""
    payload, first = draw(PAYLOADS), draw(st.sampled_from([TEXT, TEXT, BINARY]))
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=4)))
    parts = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
    sent = b""
    for number, part in enumerate(parts):
        opcode = CONTINUATION if number else first
        last = 0x80 if number == len(parts) - 1 else 0
        sent += spelt(opcode | last, part, draw(MASKS), 0)
        sent += draw(st.sampled_from([b"", b"", frame(PING, b"between"), frame(PONG)]))
    return sent


STREAMS = st.lists(
    st.one_of(
        GOOD, GOOD, GOOD, ANY, fragmented(), TRUNCATED, ANNOUNCED, st.binary(max_size=9)
    ),
    max_size=8,
).map(b"".join)

SIZES = st.one_of(
    st.just([1 << 20]),
    st.just([1]),
    st.lists(st.integers(1, 20), min_size=1, max_size=6),
    st.lists(st.integers(1, 80_000), min_size=1, max_size=6),
)

STEPS: st.SearchStrategy[list[Step]] = st.lists(
    st.tuples(st.integers(0, 1), STREAMS, SIZES), max_size=6
)


OPS = range(16)

SECONDS = (0x00, 0x7F, 0x80, 0x81, 0xFE, 0xFF)

EURO = "\u20ac".encode()

FRAMES = {
    "text": frame(TEXT, b"text"),
    "empty text": frame(TEXT),
    "text of 126 bytes": frame(TEXT, EURO * 42),
    "longest text": frame(TEXT, b"x" * SHORT_LIMIT),
    "text that is too long": frame(TEXT, b"x" * (SHORT_LIMIT + 1)),
    "invalid text": frame(TEXT, b"\xff"),
    "long invalid text": frame(TEXT, b"x" * 200 + b"\xed\xa0\x80"),
    "text that ends early": frame(TEXT, EURO[:2]),
    "first fragment": frame(TEXT, EURO[:1], fin=False),
    "last fragment": frame(CONTINUATION, EURO[1:]),
    "fragment": frame(CONTINUATION, fin=False),
    "long fragment": frame(TEXT, b"x" * SHORT_LIMIT, fin=False),
    "binary": frame(BINARY, b"\xff"),
    "first fragment of a binary": frame(BINARY, b"\xff", fin=False),
    "ping": spelt(0x80 | PING, b"ping", b"mask", 0),
    "longest ping": frame(PING, b"x" * 125),
    "long ping": frame(PING, b"x" * 126),
    "fragment of a ping": frame(PING, fin=False),
    "pong": frame(PONG),
    "close": frame(CLOSE, b"\x03\xe8bye"),
    "wrong close": frame(CLOSE, b"\0\0"),
    "short close": frame(CLOSE, b"\0"),
    "unmasked text": spelt(0x80 | TEXT, b"text", None, 0),
    "unmasked ping": spelt(0x80 | PING, b"", None, 0),
    "reserved bit": frame(0x40 | TEXT, b"text"),
    "reserved opcode": frame(3, b"text"),
    "reserved control frame": frame(11, b"text"),
    "length in two bytes": spelt(0x80 | TEXT, b"text", b"mask", 2),
    "length in eight bytes": spelt(0x80 | PING, b"ping", b"mask", 8),
    "too much announced": frames.header(TEXT, (1 << 20) + 1),
}


class BesideAutobahnTests(SynchronousTestCase):
    """The class that is served, with the fast path and without it."""

    def setUp(self) -> None:
        # How many frames come is counted in the fast path only.
        self.patch(flow, "MAX_FRAMES_AFTER_CLOSE", sys.maxsize)

    def compare(self, steps: list[Step], *mixins: type, **options: Any) -> None:
        quick = Side(*mixins, **options)
        plain = Side(Plain, *mixins, **options)
        for side in (quick, plain):
            play(side, steps)
        self.assertEqual(quick.seen(), plain.seen())
        for peer in quick.peers:
            if peer.state != RelayProtocol.STATE_CLOSED:
                self.assertLess(len(peer.data), HEADER_CEILING)
        for side in (quick, plain):
            side.lose()
            queues = side.factory.lifecycle.queues
            self.assertEqual([*map(len, queues.values())], [0] * 8)
        self.assertEqual(quick.seen(), plain.seen())

    @settings(max_examples=100)
    @given(STEPS, st.sampled_from([SHORT_LIMIT, LONG_LIMIT]), st.booleans())
    def test_fastpath_any_stream_under_the_rules_matches_autobahn(
        self, steps: list[Step], limit: int, legacy: bool
    ) -> None:
        self.compare(steps, limit=limit, legacy=legacy)

    @settings(max_examples=100)
    @given(STEPS, st.sampled_from([SHORT_LIMIT, LONG_LIMIT]))
    @example([(0, frame(TEXT, b"\xff") + frame(TEXT, b"after"), [1])], LONG_LIMIT)
    @example([(0, b"\x81\x01x" + frame(CLOSE, b"\x03\xe8"), [1])], LONG_LIMIT)
    def test_fastpath_any_stream_under_an_echo_matches_autobahn(
        self, steps: list[Step], limit: int
    ) -> None:
        self.compare(steps, Echo, limit=limit)

    def test_fastpath_stream_cut_anywhere_matches_autobahn(self) -> None:
        stream = (
            frame(PING, b"1")
            + spelt(0x80 | TEXT, "\u20ac".encode(), b"mask", 0)
            + spelt(TEXT, b"\xe2", b"mask", 0)
            + frame(PING)
            + spelt(0x80, b"\x82\xac", b"mask", 0)
            + frame(BINARY, b"")
            + frame(TEXT, b"x" * 126)
            + spelt(0x80 | PING, b"", None, 0)
            + frame(TEXT, b"too late")
        )
        for cut in range(1, len(stream)):
            self.compare([(0, stream, [cut, 1 << 20])], Echo)

    def compare_many(self, streams: Iterable[tuple[object, bytes, list[int]]]) -> None:
        """Compare what becomes of connections, each with its stream."""
        quick = Side(Echo, limit=SHORT_LIMIT, uuids=())
        plain = Side(Plain, Echo, limit=SHORT_LIMIT, uuids=())
        for what, stream, sizes in streams:
            for side in (quick, plain):
                side.open(C, False)
                side.peers, side.wires = side.peers[-1:], side.wires[-1:]
                play(side, [(0, stream, sizes), (0, frame(PING, b"last"), [1])])
            self.assertEqual(quick.seen(), plain.seen(), what)
            for side in (quick, plain):
                side.lose()
                side.journal.events.clear()

    def test_fastpath_each_violation_matches_autobahn(self) -> None:
        # A header that is not whole is judged at each read, and twice is too often.
        firsts = (fin | rsv | op for fin in (0x80, 0) for rsv in (0, 64) for op in OPS)
        starts = product(firsts, SECONDS, (0, 1, 40))
        streams = (bytes([first, second]) + bytes(n) for first, second, n in starts)
        self.compare_many((stream, stream, [3]) for stream in streams)

    def test_fastpath_each_pair_of_frames_matches_autobahn(self) -> None:
        self.compare_many(
            ((first, second, size), FRAMES[first] + FRAMES[second], [size])
            for first, second in product(FRAMES, FRAMES)
            for size in (1 << 20, len(FRAMES[first]) + 1)
        )

    def test_fastpath_client_that_does_not_read_matches_autobahn(self) -> None:
        text = offer(A, B, sdp="x" * 1000)
        talk: Step = (0, frame(TEXT, text) * 100, [5000])
        pings: Step = (1, frame(PING, b"x" * 100) * 1500, [5000])
        deaf: Step = (1, b"", [1])
        self.compare([deaf, talk, deaf, talk])
        self.compare([deaf, talk, pings, talk])

    def test_fastpath_replaced_connection_matches_autobahn(self) -> None:
        both = frame(TEXT, registration(A)) + frame(TEXT, offer(A, B))
        self.compare([(1, both, [1 << 20]), (0, both, [1 << 20])])

    def test_fastpath_closed_connection_keeps_nothing(self) -> None:
        side = Side()
        side.read(side.peers[0], frame(CLOSE, b"\x03\xe8"))
        self.assertEqual(side.peers[0].state, RelayProtocol.STATE_CLOSED)
        for data in (frame(TEXT, registration(A)), b"\x81", b"x" * 1000):
            side.read(side.peers[0], data)
        self.assertEqual(side.peers[0].data, b"")

    def test_fastpath_small_frames_bypass_autobahn(self) -> None:
        met: list[bytes] = []
        peer: Any = Side(Echo).peers[0]
        peer._dataReceived = met.append
        peer.dataReceived(
            frame(TEXT, b"x" * 125)
            + frame(TEXT, b"x" * 65535)
            + frame(PING)
            + frame(PONG)
        )
        self.assertEqual(met, [])


class LinearTimeTests(SynchronousTestCase):
    """Bursts of tiny frames, by the bytes that are copied."""

    def copied(self, burst: bytes, *mixins: type, before: bytes = b"") -> int:
        """How many bytes are copied to take a burst in one read, and one before it."""
        frames_received = 0

        class Counted(bytes):
            def __getitem__(self, index: Any) -> Any:
                nonlocal frames_received
                if isinstance(index, slice):
                    frames_received += len(range(*index.indices(len(self))))
                return super().__getitem__(index)

        class Counting:
            data: bytes

            def _dataReceived(self, data: bytes) -> None:
                nonlocal frames_received
                frames_received += len(self.data) + len(data)
                super()._dataReceived(data)  # type: ignore[misc]

            def processData(self) -> bool:  # noqa: N802
                nonlocal frames_received
                frames_received += len(self.data)
                more: bool = super().processData()  # type: ignore[misc]
                return more

        side = Side(Counting, *mixins)
        side.peers[0].dataReceived(before)
        frames_received = 0
        side.peers[0].dataReceived(Counted(burst))
        return frames_received

    def test_fastpath_burst_is_copied_a_few_times(self) -> None:
        begun = frame(TEXT, b"x", fin=False)
        bursts = {
            "texts": frame(TEXT),
            "pings": frame(PING),
            "pongs": frame(PONG),
            "binaries": frame(BINARY),
            "fragments": frame(CONTINUATION, fin=False),
            "messages in two": frame(TEXT, fin=False) + frame(CONTINUATION),
            "wrong texts": frame(TEXT, b"\xff"),
            "pings with fragments": frame(PING) + frame(CONTINUATION, fin=False),
            "unmasked": b"\x89\x00",
            "reserved": frame(3),
        }
        for (what, piece), mixins in product(bursts.items(), ((), (Echo,))):
            start = begun if "fragments" in what else b""
            burst = start + piece * (BURST // len(piece))
            copied = self.copied(burst, *mixins)
            self.assertLess(copied, 6 * BURST, (what, mixins))

    def test_fastpath_partial_header_is_not_copied_again(self) -> None:
        for opcode in (TEXT, PING, BINARY):
            burst = (frame(opcode) * (BURST // 6))[:-1]
            self.assertLess(self.copied(burst, Echo), 6 * BURST)

    def test_fastpath_burst_behind_a_partial_frame_is_copied_a_few_times(self) -> None:
        begun = frame(TEXT, b"x" * 65000)
        burst = begun[-1:] + frame(BINARY) * (BURST // 6)
        self.assertLess(self.copied(burst, Echo, before=begun[:-1]), 6 * BURST)

    def test_fastpath_count_of_copies_sees_plain_autobahn(self) -> None:
        burst = frame(PING) * (BURST // 6)
        self.assertGreater(self.copied(burst, Plain, Echo), 100 * BURST)


class MaskTests(SynchronousTestCase):
    """Taking a mask off."""

    def test_unmask_any_length_gives_the_payload(self) -> None:
        for mask in (bytes(4), b"\xff" * 4, b"\x01\x80\xfe\x00"):
            for length in (*range(201), 4095, 65535, 65536, 1_000_001):
                payload = (b"proxystore\xff\x00\x80" * (length // 13 + 1))[:length]
                masked = masked_by(mask, payload)
                found = unmask(masked, mask)
                self.assertIs(type(found), bytes)
                if found != payload:
                    self.fail(f"{length} bytes with {mask!r}")

    def test_unmask_leaves_its_argument(self) -> None:
        for length in (1, 1000):
            masked = bytes(length)
            unmask(masked, b"mask")
            self.assertEqual(masked, bytes(length))


class HeaderTests(SynchronousTestCase):
    """Headers of frames that are sent."""

    def test_header_has_the_shortest_length(self) -> None:
        for length in (0, 1, 125, 126, 127, 255, 256, 65535, 65536, 1 << 20):
            for first in (0x81, 0x8A):
                expected = bytearray(frames.header(first & 15, length)[:-4])
                expected[1] &= 0x7F
                self.assertEqual(header(first, length), bytes(expected))


class FrameEndTests(SynchronousTestCase):
    """Where a frame ends."""

    @given(st.binary(max_size=5), ANY, st.binary(max_size=5), st.data())
    def test_frame_end_of_a_whole_or_cut_frame(
        self, before: bytes, whole: bytes, behind: bytes, data: st.DataObject
    ) -> None:
        start, expected = len(before), len(before) + len(whole)
        self.assertEqual(frame_end(before + whole + behind, start), expected)
        cut = before + whole[: data.draw(st.integers(0, len(whole) - 1))]
        length = {126: 2, 127: 8}.get(whole[1] & 0x7F, 0)
        head = 2 + length + (4 if whole[1] & 0x80 else 0)
        end = len(cut) if len(cut) - start < head else expected
        self.assertEqual(frame_end(cut, start), end)


class SmallFrameTests(SynchronousTestCase):
    """What is for the fast path."""

    @given(st.binary(max_size=5), GOOD, st.binary(max_size=5))
    def test_small_frame_whole_gives_its_payload(
        self, before: bytes, whole: bytes, backlogged: bytes
    ) -> None:
        data = before + whole + backlogged
        body, stop = small_frame(data, len(before), len(data))
        short = len(whole) < 126 + 6
        if short or (whole[0] == 0x81 and whole[1] != 0xFF):
            self.assertEqual(stop, len(before) + len(whole))
            self.assertEqual(body, len(before) + (6 if short else 8))
        else:
            self.assertEqual((body, stop), NOTHING)

    @given(GOOD, st.data())
    def test_small_frame_cut_gives_nothing(
        self, whole: bytes, data: st.DataObject
    ) -> None:
        cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
        self.assertEqual(small_frame(cut, 0, len(cut)), NOTHING)

    def test_small_frame_of_another_kind_gives_nothing(self) -> None:
        others = {
            "unmasked": spelt(0x81, b"x" * 10, None, 0),
            "not minimal": spelt(0x81, b"x" * 125, b"mask", 2),
            "of eight bytes": spelt(0x81, b"x" * 65536, b"mask", 8),
            "a long ping": spelt(0x89, b"x" * 126, b"mask", 0),
            "a long binary": spelt(0x82, b"x" * 126, b"mask", 0),
        }
        for what, data in others.items():
            self.assertEqual((what, small_frame(data, 0, len(data))), (what, NOTHING))
