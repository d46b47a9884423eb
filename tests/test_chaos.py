"""The pure parts of the chaos test. Nothing here starts a relay."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine
from itertools import islice, pairwise
from pathlib import Path
from ssl import create_default_context
from typing import Any

import trustme
from twisted.trial.unittest import SynchronousTestCase

from chaos import __main__ as chaos
from chaos import cluster, honest, stayers, survive, travellers, trouble
from chaos.faults import FaultLine
from chaos.line import HOST, Place
from chaos.plan import FAULTS, LASTS, RELOADS, WELL, plan
from chaos.report import Check, Vitals, counted, kept, suspicious, table
from proxyrelay.config import Loaded, load
from proxyrelay.errors import UnknownMessage
from proxyrelay.switchboard.messages import (
    MESSAGE_CEILING,
    PeerConnection,
    canonical_uuid,
    decode,
)
from tests.support.globus_service import MODES


class PlanTests(SynchronousTestCase):
    def test_plan_is_in_order_and_has_an_end(self) -> None:
        for seconds in (7, 20, 60, 300):
            times = [step.at for step in plan(seconds)]
            self.assertEqual(times, sorted(times))
            self.assertLess(times[-1], seconds)

    def test_fault_ends_before_the_next_one_and_has_a_stand_in(self) -> None:
        steps = [step for step in plan(300) if step.command is not None]
        for fault, end in zip(steps[::2], steps[1::2], strict=True):
            self.assertNotEqual(fault.command, WELL)
            self.assertEqual(end.command, WELL)
            self.assertEqual(end.at - fault.at, LASTS)
        self.assertEqual({s.words for s in steps[::2]}, {words for words, _ in FAULTS})
        for _, command in FAULTS:
            self.assertIn(command.get("mode", "well"), MODES)

    def test_plan_of_the_least_time_has_a_fault_and_all_reloads(self) -> None:
        steps = plan(chaos.LEAST)
        self.assertEqual(sum(step.command == WELL for step in steps), 1)
        reloads = [step.reload for step in steps if step.reload]
        self.assertEqual(reloads, ["good", "bad", "good"])
        self.assertEqual(set(reloads), set(RELOADS))
        self.assertEqual(chaos.RELOADED.keys(), set(RELOADS))

    def test_plan_undoes_what_it_does(self) -> None:
        steps = plan(60)
        totals = [0.0, *(step.clock for step in steps if step.clock is not None)]
        self.assertEqual(totals[-1], 0)
        made = [after - before for before, after in pairwise(totals)]
        self.assertEqual(sorted(made), [-3600, -60, -1.5, 1.5, 60, 3600])
        reads = [step.reads for step in steps if step.reads is not None]
        self.assertEqual(reads, [False, True])
        logs = [step.logs for step in steps if step.logs]
        self.assertEqual(logs, ["full", "room", "removed", "made"])

    def test_plan_reloads_only_while_output_is_read(self) -> None:
        reads = True
        for step in plan(60):
            reads = reads if step.reads is None else step.reads
            self.assertTrue(reads or not step.reload)

    def test_plan_of_some_kinds_has_no_others(self) -> None:
        self.assertEqual(plan(60, ["flood"]), [])
        steps = plan(60, ["clock", "reload"])
        self.assertEqual(len(steps), 3 + 6)
        self.assertTrue(all(s.reload or s.clock is not None for s in steps))


class InboxTests(SynchronousTestCase):
    """What a client on a cluster takes, and what ends it."""

    def setUp(self) -> None:
        self.one, self.other = honest.uuid_of(3, 0), honest.uuid_of(3, 1)
        self.inbox = travellers.Inbox(self.one, self.other)
        self.loop = asyncio.new_event_loop()
        self.addCleanup(self.loop.close)

    def ask(self, number: int) -> asyncio.Future[str]:
        end: asyncio.Future[str] = self.loop.create_future()
        self.inbox.asked = travellers.Ask(number, 100.0, end)
        return end

    def take(self, kind: str, number: int, now: float = 101.0) -> int | None:
        text = honest.text_of(kind, self.other, self.one, number)
        return self.inbox.take(text, now)

    def take_error(self, kind: str, number: int) -> None:
        text = json.loads(honest.text_of(kind, self.one, self.other, number))
        self.inbox.take(json.dumps(text | {"error": "no"}).encode(), 101.0)

    def assert_end(self, words: str, take: Callable[..., Any], *message: Any) -> None:
        with self.assertRaises(travellers.Ended) as caught:
            take(*message)
        self.assertIn(words, str(caught.exception))

    def test_offer_is_answered_once(self) -> None:
        self.assertEqual(self.take("offer", 1), 1)
        self.assert_end("second time", self.take, "offer", 1)

    def test_open_offer_ends_once(self) -> None:
        end = self.ask(1)
        self.take("answer", 1)
        self.assertEqual(end.result(), "")
        self.assert_end("unasked", self.take, "answer", 1)
        self.assert_end("unasked", self.take_error, "offer", 1)

    def test_error_ends_an_open_offer(self) -> None:
        end = self.ask(1)
        self.take_error("offer", 1)
        self.assertEqual(end.result(), "no")

    def test_messages_against_the_contract_end_a_client(self) -> None:
        self.assert_end("unasked", self.take, "answer", 1)
        self.ask(2)
        self.assert_end("unasked", self.take, "answer", 1)
        self.assert_end("after 31 s", self.take, "answer", 2, 131.0)
        self.assert_end("crosses its own 2", self.take, "offer", 2)
        wrong = honest.text_of("offer", self.one, self.other, 3)
        self.assert_end("nobody has sent", self.inbox.take, wrong, 101.0)

    def test_answer_comes_back_once(self) -> None:
        self.take("offer", 1)
        self.take_error("answer", 1)
        self.assert_end("second time", self.take_error, "answer", 1)


class ClusterTests(SynchronousTestCase):
    def test_settings_of_a_node_are_served(self) -> None:
        path = Path(self.mktemp())
        line = Path("/tmp/line.sock")
        timing = cluster.LEASES["quick"]
        path.write_text(
            cluster.settings("https://127.0.0.1:1", "node-0", 0, line, timing)
        )
        path.chmod(0o600)
        loaded = load(path)
        self.assertEqual(loaded.problems + loaded.warnings, [])

    def test_pairs_are_of_each_kind(self) -> None:
        root = Path(self.mktemp())
        root.write_bytes(trustme.CA().cert_pem.bytes())

        async def pairs() -> list[travellers.Pair]:
            places = [Place(port, root) for port in (1, 2, 3)]
            return travellers.Travellers(places, 60, 1, 1.0).pairs

        kinds = Counter((p.is_local, p.moves, p.crosses) for p in asyncio.run(pairs()))
        self.assertEqual(set(kinds.values()), {10})
        self.assertEqual(len(kinds), 6)

    def test_checks_name_what_is_wrong(self) -> None:
        fault = cluster.FAULTS[2]
        journal = travellers.Journal()
        for key in ((fault.name, "local"), (travellers.CALM, "across")):
            score = journal.scores[key] = travellers.Score()
            score.add(1.0, "")
        well = cluster.Outcome(fault, 0.1, [], [])
        self.assertTrue(all(c.passed for c in cluster.checks([well], journal)))
        ill = cluster.Outcome(fault, None, ["one is away"], ["pair 1"])
        journal.breaches.append("one ends")
        journal.scores[fault.name, "local"].add(3.0, "")
        failed = [c.words for c in cluster.checks([ill], journal) if not c.passed]
        self.assertEqual(len(failed), 4)


class FaultLineTests(SynchronousTestCase):
    """A line to a server that sends everything back."""

    def play(self, scenario: Callable[[FaultLine], Coroutine[Any, Any, None]]) -> None:
        async def echo(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            while data := await reader.read(100):
                writer.write(data)
            writer.close()

        async def run() -> None:
            folder = Path(tempfile.mkdtemp(prefix="line-"))
            try:
                server = await asyncio.start_unix_server(echo, folder / "server")
                line = FaultLine(folder / "line", folder / "server")
                await line.start()
                await scenario(line)
                await line.stop()
                server.close()
            finally:
                shutil.rmtree(folder)

        asyncio.run(asyncio.wait_for(run(), 30))

    def test_line_passes_bytes_on_and_delays_all_by_the_same_time(self) -> None:
        async def scenario(line: FaultLine) -> None:
            line.delay = 0.05
            reader, writer = await asyncio.open_unix_connection(line.path)
            began = asyncio.get_running_loop().time()
            for _ in range(3):
                writer.write(b"x" * 100)
                await writer.drain()
            self.assertEqual(await reader.readexactly(300), b"x" * 300)
            passed = asyncio.get_running_loop().time() - began
            self.assertGreaterEqual(passed, 0.1)
            writer.close()

        self.play(scenario)

    def test_cut_ends_connections_until_it_heals(self) -> None:
        async def scenario(line: FaultLine) -> None:
            reader, writer = await asyncio.open_unix_connection(line.path)
            writer.write(b"x")
            await reader.readexactly(1)
            line.cut()
            with contextlib.suppress(ConnectionError):
                self.assertEqual(await reader.read(), b"")
            line.heal()
            reader, writer = await asyncio.open_unix_connection(line.path)
            writer.write(b"y")
            self.assertEqual(await reader.readexactly(1), b"y")
            writer.close()

        self.play(scenario)

    def test_black_hole_keeps_bytes_until_it_heals(self) -> None:
        async def scenario(line: FaultLine) -> None:
            line.passes.clear()
            reader, writer = await asyncio.open_unix_connection(line.path)
            writer.write(b"x")
            coming = asyncio.create_task(reader.readexactly(1))
            await asyncio.sleep(0)
            self.assertFalse(coming.done())
            line.heal()
            self.assertEqual(await coming, b"x")
            writer.close()

        self.play(scenario)


class HonestTests(SynchronousTestCase):
    def loaded(self, number: int, *, good: bool) -> Loaded:
        path = Path(self.mktemp())
        path.write_text(chaos.settings("https://127.0.0.1:1", number, good=good))
        path.chmod(0o600)
        return load(path)

    def test_settings_are_served_or_have_the_expected_problem(self) -> None:
        one, other = self.loaded(0, good=True), self.loaded(1, good=True)
        self.assertEqual(one.problems + one.warnings, [])
        self.assertNotEqual(one.config, other.config)
        (problem,) = self.loaded(0, good=False).problems
        line = f"2000-01-01 00:00:00+0000 ERROR    /tmp/relay.toml:1: {problem.key}: "
        self.assertEqual(suspicious([f"{line}{problem.message}"]), [])

    def test_pairs_have_their_own_names_and_half_of_them_stay(self) -> None:
        uuids = [honest.uuid_of(pair, side) for pair in range(500) for side in (0, 1)]
        self.assertEqual(len(set(uuids)), 1000)
        self.assertEqual(uuids, [canonical_uuid(uuid) for uuid in uuids])
        self.assertEqual(sum(map(honest.stays, range(500))), 250)
        self.assertEqual(list(islice(honest.backoff(), 6)), [1, 2, 4, 8, 8, 8])

    def test_message_is_that_of_a_client_and_has_a_number(self) -> None:
        one, other = honest.uuid_of(3, 0), honest.uuid_of(3, 1)
        for kind in ("offer", "answer"):
            message = decode(honest.text_of(kind, one, other, 17))
            assert isinstance(message, PeerConnection)
            self.assertEqual((message.source_uuid, message.peer_uuid), (one, other))
            self.assertEqual(message.description_type, kind)
            fields = {"description": message.description}
            self.assertEqual(honest.number_of(fields), 17)

    def test_tally_keeps_some_failures(self) -> None:
        tally = honest.Tally()
        for number in range(2 * honest.SHOWN):
            tally.fail(str(number))
        self.assertEqual(len(tally.failures), honest.SHOWN)


class TroubleTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.scene = trouble.Scene(
            Place(443, Path("root.pem")),
            HOST,
            create_default_context(),
            random.Random(1),
            ["token"],
            [honest.uuid_of(0, 0)],
        )

    def test_each_kind_of_trouble_has_words_and_an_address(self) -> None:
        kinds = trouble.TROUBLES
        self.assertEqual(len({kind.name for kind in kinds}), len(kinds))
        sources = set(map(trouble.source_of, range(len(kinds))))
        self.assertEqual(len(sources - {HOST, trouble.PROXY}), len(kinds))
        for kind in kinds:
            self.assertTrue(kind.make.__doc__, kind.name)
            self.assertGreater(kind.many, 0)
            self.assertGreater(kind.pause, 0)
        self.assertEqual(
            {kind.group for kind in kinds},
            {
                *("stall", "flood", "half-close", "garbage", "open and leave"),
                *("slow TLS", "slow headers", trouble.LEDGER),
            },
        )

    def test_message_of_trouble_is_none_of_the_protocol(self) -> None:
        for message in trouble._messages(self.scene):
            if len(message) <= MESSAGE_CEILING:
                with self.assertRaises(UnknownMessage):
                    decode(message)

    def test_garbage_is_different_each_time(self) -> None:
        for made in (trouble._requests(self.scene), trouble._frames(self.scene)):
            self.assertEqual(len(set(made)), len(made))


class ReportTests(SynchronousTestCase):
    def test_suspicious_lines_are_those_of_no_trouble(self) -> None:
        when = "2000-01-01 00:00:00+0000"
        expected = [
            f"{when} INFO     registered",
            f"{when} WARNING  failed 127.0.0.2:1 with 1002: 'ERROR'",
            f"{when} ERROR    Globus Auth answered 503 (TROUBLE): new clients are "
            "asked to come back",
            f"{when} ERROR    nothing is reloaded; problems: 1",
            f"{when} ERROR    the log to /a/b.log cannot be written: File too large; "
            "the relay serves on",
        ]
        bad = [
            f"{when} ERROR    anything else",
            f"{when} ERROR    nothing is reloaded; problems: 2",
            f"{when} CRITICAL a message of 127.0.0.1:1 failed",
            "    Traceback (most recent call last):",
        ]
        self.assertEqual(suspicious([*expected, *bad]), bad)

    def test_files_and_memory_that_are_kept_are_found(self) -> None:
        before = Vitals(10, 100_000_000)
        for after, passed in (
            (Vitals(10, 120_000_000), [True, True]),
            (Vitals(10, 90_000_000), [True, True]),
            (Vitals(11, 100_000_000), [False, True]),
            (Vitals(9, 100_000_000), [False, True]),
            (Vitals(10, 121_000_000), [True, False]),
        ):
            found = [check.passed for check in kept(before, after)]
            self.assertEqual(found, passed)

    def test_report_has_a_line_for_each_check_and_kind(self) -> None:
        check = Check("it stops", True, "at once")
        self.assertEqual(str(check), "ok      it stops: at once")
        self.assertEqual(str(Check("it stops", False)), "FAILED  it stops")
        self.assertEqual(counted(Counter(a=1, b=2)), "b 2, a 1")
        self.assertEqual(counted(Counter()), "none")
        lines = table({"one": "a", "other": "b"}, {"one": Counter({"1013": 2})})
        head, *rows = [line.split() for line in lines]
        self.assertEqual(head, ["group", "trouble", "times", "ended"])
        self.assertEqual(
            rows, [["a", "one", "2", "1013", "2"], ["b", "other", "0", "none"]]
        )

    def test_failures_of_each_round_are_checked(self) -> None:
        calm = Vitals(10, 1000)
        rounds = [
            chaos.Round([], *tallies, trouble.Mischief(), 0.1, calm, calm)
            for tallies in [(honest.Tally(), honest.Tally()) for _ in range(2)]
        ]
        self.assertTrue(all(check.passed for check in chaos.checks(rounds, [])))
        rounds[0].tally.fail("one")
        rounds[1].mischief.fail("two")
        found = [c.words for c in chaos.checks(rounds, [" CRITICAL x"]) if not c.passed]
        for words in ("one", "two", " CRITICAL x", "nothing in the log"):
            self.assertIn(words, found)
        self.assertEqual(len(found), 6)


class CommandTests(SynchronousTestCase):
    def test_options_have_bounds_and_kinds(self) -> None:
        parse = chaos._parser().parse_args
        self.assertEqual(parse(["--seconds", "60"]).seconds, 60)
        self.assertEqual(parse([]).only, chaos.ALL)
        only = ["--only", "clock,open and leave,ledger"]
        self.assertEqual(parse(only).only, ("clock", "open and leave", "ledger"))
        for wrong, words in (
            ("--seconds=1", "--seconds"),
            ("--seconds=1000", "--seconds"),
            ("--warm-up=x", "--warm-up"),
            ("--pairs=0", "--pairs"),
            ("--only=clock,sunshine", "there is no sunshine"),
        ):
            said = io.StringIO()
            with contextlib.redirect_stderr(said), self.assertRaises(SystemExit):
                parse([wrong])
            self.assertIn(words, said.getvalue())


class SurviveTests(SynchronousTestCase):
    """One kill at 10 s, and one restart at 20 s, until 30 s."""

    kill, restart = survive.FAULTS[0], survive.FAULTS[1]
    blows = (survive.Blow(kill, 10.0), survive.Blow(restart, 20.0))

    def exchanges(self, *others: stayers.Exchange) -> list[stayers.Exchange]:
        """Two pairs, with a complete exchange in each second, and others."""
        return [
            *(
                stayers.Exchange(pair, at + 0.1, at + 0.3, stayers.COMPLETE)
                for pair in (0, 1)
                for at in range(30)
            ),
            *others,
        ]

    def failed(
        self, exchanges: list[stayers.Exchange], **kinds: list[Any]
    ) -> list[str]:
        """What is not as it must be."""
        entries = [
            stayers.Entry(place, blow.at, 0.5)
            for blow in self.blows
            for place in (0, 1)
        ]
        record = stayers.Record(exchanges, entries=entries)
        for name, value in kinds.items():
            setattr(record, name, value)
        found = survive.checks(record, self.blows, 30.0, 2, 1.0)
        return [check.words for check in found if not check.passed]

    def test_checks_pass_when_all_is_well(self) -> None:
        self.assertEqual(self.failed(self.exchanges()), [])

    def test_checks_name_what_clients_have_met(self) -> None:
        for name, words in (
            ("closed", "closed"),
            ("breaches", "twice"),
            ("others", "work"),
        ):
            (found,) = self.failed(self.exchanges(), **{name: ["one"]})
            self.assertIn(words, found)
        self.assertEqual(self.failed(self.exchanges(), unanswered=[29.0]), [])
        (found,) = self.failed(self.exchanges(), unanswered=[5.0])
        self.assertIn("pong", found)

    def test_exchange_may_fail_at_a_fault_alone(self) -> None:
        error, silence = "gone", stayers.SILENCE
        for began, ended, end, is_well in (
            (9.9, 12.0, error, True),
            (19.9, 22.0, error, True),
            (9.9, 18.0, silence, True),
            (19.9, 28.0, silence, False),
            (5.0, 9.9, error, False),
            (15.0, 16.0, error, False),
        ):
            one = stayers.Exchange(0, began, ended, end)
            found = self.failed(self.exchanges(one))
            self.assertEqual(found == [], is_well, (one, found))

    def test_exchange_that_fails_again_is_found(self) -> None:
        again = [
            stayers.Exchange(0, 9.95, 14.0, "gone"),
            stayers.Exchange(0, 14.01, 14.02, "gone"),
        ]
        kept = [x for x in self.exchanges() if x.pair == 1 or not 9 < x.began < 15]
        found = self.failed([*kept, *again])
        self.assertIn("they succeed when made again", found)

    def test_deaf_pair_and_late_relay_are_found(self) -> None:
        kept = [one for one in self.exchanges() if one.pair == 0 or one.began < 20]
        (found,) = self.failed(kept)
        self.assertIn("restart at 20.00: no pair is deaf", found)
        late = [one for one in self.exchanges() if not 10 < one.began < 11.5]
        (found,) = self.failed(late)
        self.assertIn("kill at 10.00: back within 1 s", found)

    def test_late_new_client_is_found(self) -> None:
        entries = [stayers.Entry(place, 10.0, 0.5) for place in (0, 1)]
        entries += [stayers.Entry(0, 20.0, 1.5), stayers.Entry(1, 20.0, None, "no")]
        (found,) = self.failed(self.exchanges(), entries=entries)
        self.assertIn("restart at 20.00: new clients", found)

    def test_proxy_is_that_of_the_example(self) -> None:
        text = survive.proxied(Path("/x"), 1, 2)
        self.assertIn(
            f"server relay 127.0.0.1:1 send-proxy-v2 source {survive.PROXY}", text
        )
        self.assertIn("bind 127.0.0.1:2 ssl crt /x/relay.pem", text)
