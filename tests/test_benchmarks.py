"""The pure parts of the benchmarks. Nothing here measures anything."""

from __future__ import annotations

import itertools
import json
import operator
import random
import zlib
from collections import defaultdict, deque
from collections.abc import Callable
from xml.etree import ElementTree as ET

from twisted.trial.unittest import SynchronousTestCase

from benchmarks import frames, plot, processes
from benchmarks.client import Client, Failed, Hub
from benchmarks.figures import Result, Row, document, percentile, table
from benchmarks.load import Party, Traffic, identities
from proxyrelay.switchboard.messages import (
    PeerConnection,
    RegistrationRequest,
    decode,
    echo,
)
from tests.support.recording import A, B

ROW = Row("forward", "forward & more", "us", 1e6, ratio=0.5)


def unmasked(frame: bytes) -> tuple[int, bytes]:
    """Opcode with flags, and payload, of a client's short or middling frame."""
    start = 4 if frame[1] & 0x7F == 126 else 2
    key, hidden = frame[start : start + 4], frame[start + 4 :]
    mask = itertools.cycle(key)
    return frame[0], bytes(map(operator.xor, hidden, mask))


class FrameTests(SynchronousTestCase):
    def test_masked_frame_has_the_head_of_its_length(self) -> None:
        for length, head in (
            (0, b"\x81\x80"),
            (125, b"\x81\xfd"),
            (126, b"\x81\xfe\x00\x7e"),
            (65535, b"\x81\xfe\xff\xff"),
            (65536, b"\x81\xff\x00\x00\x00\x00\x00\x01\x00\x00"),
        ):
            frame = frames.masked(frames.TEXT, bytes(length))
            self.assertEqual(frame[: len(head) + 4], head + frames.KEY)
            self.assertEqual(len(frame), len(head) + 4 + length)
        payload = random.Random(1).randbytes(300)
        frame = frames.masked(frames.TEXT, payload)
        self.assertEqual(unmasked(frame), (0x81, payload))
        self.assertEqual(unmasked(frames.text(b"hello", None)), (0x81, b"hello"))

    def test_compressed_frame_is_inflated_at_any_time(self) -> None:
        offer = frames.message(A, B)
        first, payload = unmasked(frames.text(offer, 12))
        self.assertEqual(first, 0xC1)
        self.assertLess(len(payload), len(offer))
        inflate = frames.inflater()
        self.assertEqual([inflate(payload) for _ in range(3)], [offer] * 3)

    def test_compressed_stream_that_refers_back_is_inflated(self) -> None:
        deflate = zlib.compressobj(wbits=-12)
        inflate = frames.inflater()
        for _ in range(3):
            packed = deflate.compress(b"again" * 9) + deflate.flush(zlib.Z_SYNC_FLUSH)
            self.assertEqual(inflate(packed[:-4]), b"again" * 9)

    def test_received_frames_are_parsed(self) -> None:
        data = b"\x81\x02hi" + b"\x8a\x00" + b"\x81\x7e\x00\x80" + bytes(128)
        found, end = frames.parse(data)
        self.assertEqual(
            [(first, data[start:stop]) for first, start, stop in found],
            [(0x81, b"hi"), (0x8A, b""), (0x81, bytes(128))],
        )
        self.assertEqual(end, len(data))

    def test_received_part_of_a_frame_waits_for_more(self) -> None:
        long = b"\x81\x7f" + (70000).to_bytes(8, "big") + bytes(70000)
        self.assertEqual(frames.parse(long), ([frames.Frame(0x81, 10, 70010)], 70010))
        for cut in (0, 1, 2, 5, 9, 10, 70009):
            found, end = frames.parse(b"\x81\x00" + long[:cut])
            self.assertEqual((len(found), end), (1, 2), cut)


class MessageTests(SynchronousTestCase):
    def test_offer_and_registration_are_those_of_a_client(self) -> None:
        text = frames.message(A, B)
        self.assertIsInstance(decode(text), PeerConnection)
        self.assertEqual(list(json.loads(text))[-1], "message_type")
        self.assertEqual(json.loads(json.loads(text)["description"])["type"], "offer")
        self.assertEqual(round(len(text), -2), 1900)
        message = decode(frames.registration(A))
        self.assertIsInstance(message, RegistrationRequest)

    def test_request_offers_compression_and_has_its_own_key_and_token(self) -> None:
        request = frames.upgrade("127.0.0.1:8700", "/", 7, None)
        self.assertTrue(
            request.startswith(b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8700\r\n")
        )
        self.assertTrue(request.endswith(b"\r\n\r\n"))
        self.assertIn(b"permessage-deflate; client_max_window_bits\r\n", request)
        self.assertNotIn(b"Authorization", request)
        one, other = (frames.upgrade("a", "/", n, "token") for n in (1, 2))
        self.assertIn(b"\r\nAuthorization: Bearer token\r\n", one)
        self.assertNotEqual(one, other)

    def test_window_is_that_of_the_answer(self) -> None:
        for extension, bits in (
            (b"", None),
            (b"Sec-WebSocket-Extensions: permessage-deflate\r\n", 15),
            (
                b"Sec-WebSocket-Extensions: permessage-deflate; "
                b"server_max_window_bits=12; client_max_window_bits=11\r\n",
                11,
            ),
        ):
            head = b"HTTP/1.1 101 Switching Protocols\r\n" + extension
            self.assertEqual(frames.window(head), bits)


class PerfectQueue(Hub):
    """A relay without sockets: it passes on one message in each turn.

    Messages of one client to another one stay in order, and all others do not. A run
    hears of the end of its time some turns (``ahead``) later. Messages of the source
    and target in ``held`` are held back; ``most`` is how many have waited in a turn.
    """

    def __init__(self, seed: int, ahead: int = 0) -> None:
        self.clients: dict[str, QueueClient] = {}
        self.waiting: dict[tuple[str, str], deque[bytes]] = defaultdict(deque)
        self.most = 0
        self.held: tuple[str, str] | None = None
        self.change: Callable[[bytes], bytes] = lambda text: text
        self._ahead = ahead
        self._random = random.Random(seed)

    def crowd(self, count: int) -> list[QueueClient]:
        return [QueueClient(self, uuid) for uuid in identities(count)]

    def turn(self, _timeout: float) -> bool:
        waiting = self.waiting.items()
        pairs = [pair for pair, texts in waiting if texts and pair != self.held]
        if not pairs:
            return False
        self.most = max(self.most, sum(map(len, self.waiting.values())))
        source, target = self._random.choice(pairs)
        text = self.waiting[source, target].popleft()
        changed = self.change(text)
        returned = json.loads(changed)["error"] is not None
        self.clients[source if returned else target].on_texts([changed])
        return True

    def until(self, done: Callable[[], bool], patience: float = 0.0) -> None:
        for _ in range(self._ahead):
            self.turn(patience)
        super().until(done, patience)


class QueueClient(Client):
    """A client of a perfect queue."""

    def __init__(self, queue: PerfectQueue, uuid: str) -> None:
        self.uuid = uuid
        self.window = None
        self._queue = queue
        queue.clients[uuid] = self

    def send(self, frame: bytes) -> None:
        while frame:
            size = 8 + int.from_bytes(frame[2:4], "big")
            text = unmasked(frame[:size])[1]
            self._queue.waiting[self.uuid, json.loads(text)["peer_uuid"]].append(text)
            frame = frame[size:]


class TrafficTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.queue = PerfectQueue(1)

    def groups(
        self, queue: PerfectQueue, *, loop: bool = False
    ) -> list[tuple[list[QueueClient], list[QueueClient]]]:
        """Three sources and two targets, in one group or a group for each pair."""
        sources, targets = queue.crowd(3), queue.crowd(2)
        if not loop:
            return [(sources, targets)]
        return [([s], [t]) for s, t in itertools.product(sources, targets)]

    def test_run_closed_at_any_moment_ends_with_whole_rounds(self) -> None:
        for loop, exchange, moments in ((False, 12, 25), (True, 2, 15)):
            for seed, ahead in itertools.product(range(3), range(moments)):
                queue = PerfectQueue(seed, ahead)
                traffic = Traffic(queue, self.groups(queue, loop=loop))
                for _ in range(2):
                    traffic.run(0.0)
                    self.assertGreaterEqual(traffic.messages, max(12, ahead))
                    self.assertEqual(traffic.messages % exchange, 0)
                    self.assertFalse(any(queue.waiting.values()))

    def test_run_in_a_loop_lets_no_client_wait_for_another_pair(self) -> None:
        queue = PerfectQueue(1, 200)
        groups = self.groups(queue, loop=True)
        traffic = Traffic(queue, groups)
        (source,), (target,) = groups[0]
        queue.held = source.uuid, target.uuid
        self.assertRaises(Failed, traffic.run, 0.0)
        self.assertGreaterEqual(traffic.messages, 200)

    def test_run_in_turns_has_one_message_under_way(self) -> None:
        for ahead in range(13):
            queue = PerfectQueue(ahead, ahead)
            groups = [(queue.crowd(1), queue.crowd(1)) for _ in range(3)]
            traffic = Traffic(queue, groups, turns=True)
            for _ in range(2):
                traffic.run(0.0)
                self.assertEqual(traffic.messages % 6, 0)
            self.assertEqual(queue.most, 1)

    def test_run_with_sources_that_begin_alone_is_an_error(self) -> None:
        def begins(party: Party, may_begin: bool) -> bool:
            return together(party, may_begin) and may_begin

        together = Party.begins
        self.patch(Party, "begins", begins)
        outcomes = []
        for ahead in range(12, 36):
            queue = PerfectQueue(1, ahead)
            try:
                Traffic(queue, self.groups(queue))
            except Failed as error:
                outcomes.append(str(error))
        self.assertEqual(set(outcomes), {"the run ended inside a round"})

    def test_returned_offer_is_no_answer(self) -> None:
        def returned(text: bytes) -> bytes:
            message = decode(text)
            assert isinstance(message, PeerConnection)
            return echo(message, "The peer is unknown.")

        self.queue.change = returned
        for loop in (False, True):
            groups = self.groups(self.queue, loop=loop)
            error = self.assertRaises(Failed, Traffic, self.queue, groups)
            self.assertIn("The peer is unknown.", str(error))

    def test_second_message_of_a_round_is_an_error(self) -> None:
        groups = self.groups(self.queue)
        traffic = Traffic(self.queue, groups)
        client = groups[0][0][0]
        send = client.send
        self.patch(client, "send", lambda frame: send(frame * 2))
        error = self.assertRaises(Failed, traffic.run, 0.0)
        self.assertTrue(str(error).startswith("not awaited: "), error)

    def test_changed_message_is_an_error(self) -> None:
        self.queue.change = lambda text: text.replace(b"cluster", b"another", 1)
        error = self.assertRaises(Failed, Traffic, self.queue, self.groups(self.queue))
        self.assertEqual(str(error), "a message arrives otherwise than it was sent")

    def test_lost_message_is_an_error(self) -> None:
        groups = self.groups(self.queue)
        traffic = Traffic(self.queue, groups)
        self.queue.held = groups[0][0][0].uuid, groups[0][1][0].uuid
        error = self.assertRaises(Failed, traffic.run, 0.0)
        self.assertTrue(str(error).startswith("nothing from the relay"), error)


class FigureTests(SynchronousTestCase):
    def test_texts_of_proc_give_their_figures(self) -> None:
        self.assertEqual(processes.nanoseconds("1017273458 241550 31\n"), 1017273458)
        text = "7 (a) b (c) S 1 1 1 0 -1 4194304 855 0 3 0 101 22 0 0 20 0 1 0 1\n"
        self.assertEqual(processes.ticks(text), 123)
        text = "0-1 ---p 0 00:00 0    [rollup]\nRss:    8728 kB\nPss:    7334 kB\n"
        self.assertEqual(processes.kilobytes(text), 7334)
        self.assertEqual(processes.kilobytes(text, "Rss"), 8728)
        self.assertRaises(ValueError, processes.kilobytes, text, "Swap")

    def test_percentile_is_one_of_the_values(self) -> None:
        values = [float(number) for number in range(100, 0, -1)]
        for part, found in ((0.99, 99.0), (1.0, 100.0), (0.0, 1.0)):
            self.assertEqual(percentile(values, part), found)
        self.assertEqual(percentile([3.0], 0.99), 3.0)

    def test_ratios_are_of_the_same_round(self) -> None:
        result = Result(ROW, [1.0, 2.0, 3.0], [4.0, 4.0])
        self.assertEqual(result.ratios, [0.25, 0.5])
        self.assertEqual(Result(ROW, [1.0], [0.0]).ratios, [])

    def test_goal_is_reached_by_the_median_ratio_and_the_limit(self) -> None:
        stall = Row("stall", "stall", "ms", 1e3, limit=250)
        both = Row("idle", "idle", "%", 100, ratio=0.3, limit=1.0)
        for result, reached in (
            (Result(ROW, [1, 1, 9], [2, 2, 2]), True),
            (Result(ROW, [1, 9, 9], [2, 2, 2]), False),
            (Result(stall, [0.250]), True),
            (Result(stall, [0.251]), False),
            (Result(both, [0.01], [0.1]), True),
            (Result(both, [0.02], [0.1]), False),
            (Result(both, [0.01], [0.02]), False),
            # Nothing is said of what was not measured, or has no goal.
            (Result(ROW, [1.0]), None),
            (Result(Row("a", "a", "s", 1), [1.0], [2.0]), None),
        ):
            self.assertIs(result.reached, reached, result)

    def test_table_has_a_line_for_each_row(self) -> None:
        other = Row("stall", "stall", "ms", 1e3, limit=250)
        lines = table(
            [Result(ROW, [1e-5, 3e-5], [1e-4, 1e-4]), Result(other, [0.3])]
        ).splitlines()
        self.assertEqual(
            [line.split() for line in lines],
            [
                ["unit", "ours", "theirs", "ratio", "from", "to", "goal"],
                [
                    *("forward", "&", "more", "us", "20", "100", "0.200"),
                    *("0.100", "0.300", "0.5", "reached"),
                ],
                ["stall", "ms", "300", "250", "ms", "MISSED"],
            ],
        )

    def test_document_has_figures_in_units(self) -> None:
        written = document([Result(ROW, [1e-5, 3e-5], [1e-4, 1e-4])], {"cpus": 2})
        again = json.loads(json.dumps(written))
        self.assertEqual(again["cpus"], 2)
        (row,) = again["rows"]
        self.assertEqual(row["key"], "forward")
        self.assertAlmostEqual(row["ours"][0], 10)
        self.assertAlmostEqual(row["ratio"], 0.2)
        self.assertIs(row["reached"], True)

    def test_picture_has_a_bar_for_each_ratio(self) -> None:
        results = [
            Result(ROW, [1.0, 2.0], [8.0, 8.0]),
            Result(ROW, [3.0], [2.0]),
            Result(ROW, [3.0]),
        ]
        root = ET.fromstring(plot.svg(results))
        bars = root.findall("{*}rect")
        self.assertEqual([bar.get("class") for bar in bars], ["reached", "missed"])
        titles = [t.text for t in root.findall("{*}text[@class='title']")]
        self.assertEqual(titles, ["forward & more"] * 2)
        self.assertEqual(plot.svg(results), plot.svg(results))
        root = ET.fromstring(plot.svg([]))
        self.assertEqual(root.findall("{*}rect"), [])
