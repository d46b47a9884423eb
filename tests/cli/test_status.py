"""``proxyrelay live``, ``status`` and ``clients``: words and repetition."""

from __future__ import annotations

import io
import json
import os
from contextlib import redirect_stderr, redirect_stdout
from itertools import chain
from typing import Any, cast

import msgspec
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.admin.report import (
    Certificate,
    Client,
    Clients,
    FarClient,
    FarClients,
    GlobusAuth,
    Lateness,
    Membership,
    MessageCounts,
    Nodes,
    NodeStatus,
    Pair,
    Pairs,
    PairSide,
    Peer,
    Quantiles,
    Reach,
    Silence,
    Status,
    Survival,
)
from proxyrelay.cli.status import (
    CLIENT_HEADS,
    CURSOR_HOME,
    ERASE_BELOW,
    ERASE_LINE,
    client_lines,
    client_rows,
    node_lines,
    pair_lines,
    plain_json,
    status_line,
    status_lines,
    watch,
)
from proxyrelay.errors import Unanswered
from tests.cli.test_prompts import Terminal
from tests.support.recording import A, B

NOW = 1_800_000_000.0

EVIL = "a\x1b[2J\n\x9b\u202eb"

STATUS = Status(
    version="1.2.3",
    pid=4711,
    started=NOW - 93_784,
    uptime=93_784,
    listening=["wss://192.0.2.1:8700"],
    tls=True,
    authentication="globus",
    draining=False,
    ready=True,
    reasons=[],
    clients=2,
    connections=3,
    users=1,
    registrations=4,
    forwarded=MessageCounts(5, 4),
    returned={"unknown": 2, "busy": 1},
    dropped={},
    held=6,
    unanswered=Silence(2, 3),
    refused={"4000": 7},
    rejected={},
    certificate=Certificate(NOW, NOW),
    lag=Lateness(0.0005, 0.001, 0.25),
    offer_to_answer=Quantiles(None, None),
    offer_wait=Quantiles(0.01, 0.25),
    globus=GlobusAuth("closed"),
)

NODES = Nodes(
    "n1:a",
    [
        NodeStatus("n1:a", False, False, "1.2.3", 60, 2, 0, True, False),
        NodeStatus("n2:b", False, False, "1.2.4", 3600, 3, 1, False, True),
        NodeStatus("n3:c", silent=True),
        NodeStatus("n4:d", gone=True),
    ],
    ["n3:c"],
    [],
)

CLIENT = Client(A, "a", "jo", "192.0.2.1:1", NOW - 61, None, 1, 2, 0, [])

PAIR = Pair(
    PairSide(A, "a", ["host"]),
    PairSide(B, None, None),
    user="jo",
    exchanges=4,
    since=NOW - 140,
    last=NOW - 20,
    cause="stun",
    text="is STUN blocked?",
)


class LinesTests(SynchronousTestCase):
    """Lines for people."""

    def test_status_lines_of_ready_relay_tell_all(self) -> None:
        self.assertEqual(
            status_lines(STATUS),
            [
                "proxyrelay 1.2.3, process 4711, up for 1 d 2 h",
                "serves: wss://192.0.2.1:8700",
                "authentication: globus",
                "state: ready",
                "clients: 2 (connections: 3, users: 1)",
                "registrations: 4",
                "forwarded: offers 5, answers 4",
                "returned: busy 1, unknown 2",
                "dropped: none",
                "held: 6",
                "unanswered: 2 clients, at most 3 offers in a row",
                "refused: 4000 7",
                "rejected: none",
                "offer to answer: median unknown, 99 % within unknown",
                "wait of offers: median 10.0 ms, 99 % within 250.0 ms",
                "event loop is late by: median 0.5 ms, 99 % within 1.0 ms, "
                "most 250.0 ms",
                "certificate: valid until 2027-01-15 08:00:00Z",
                "globus: answers",
            ],
        )
        self.assertEqual(
            status_line(STATUS),
            "2027-01-15 08:00:00Z ready, clients 2, connections 3, registrations 4, "
            "offers 5, answers 4, late by 1.0 ms",
        )

    def test_status_lines_of_unready_relay_tell_why(self) -> None:
        status = replace(
            STATUS,
            ready=False,
            reasons=["draining", "globus: a"],
            globus=GlobusAuth("open"),
            certificate=None,
        )
        lines = status_lines(status)
        self.assertIn("state: not ready (draining; globus: a)", lines)
        self.assertEqual(lines[-1], "globus: does not answer")
        self.assertIn("not ready", status_line(status))
        bare = status_lines(replace(status, globus=None))
        self.assertEqual(bare, lines[:-1])

    def test_client_lines_begin_with_the_oldest(self) -> None:
        other = replace(
            CLIENT,
            uuid=B,
            since=NOW - 3600,
            last_offer=NOW,
            unanswered=2,
            marks=["deaf", "legacy"],
        )
        self.assertEqual(
            list(client_lines(Clients(2, [CLIENT, other]), NOW)),
            [
                "clients: 2",
                f"{B} name='a' user='jo' from 192.0.2.1:1 for 1 h 0 min (messages: "
                "1 sent, 2 received; last offer: 0 s ago; unanswered: 2): deaf, legacy",
                f"{A} name='a' user='jo' from 192.0.2.1:1 for 1 min 1 s (messages: "
                "1 sent, 2 received; last offer: never; unanswered: 0)",
            ],
        )

    def test_status_lines_tell_kept_connections(self) -> None:
        survival = Survival(True, 512, 0, 10_000, 0, 0, 0)
        line = "survive: 512 of at most 10,000 connections are kept"
        self.assertEqual(status_lines(replace(STATUS, survival=survival))[-1], line)
        survival = replace(survival, resumed=510, lost=2)
        self.assertEqual(
            status_lines(replace(STATUS, survival=survival))[-1],
            f"{line}; at the start 510 went on, 2 were lost",
        )
        for unkept, words in ((1, "1 is not"), (1200, "1,200 are not")):
            survival = Survival(True, 512, unkept, 10_000, 0, 0, 0)
            self.assertEqual(
                status_lines(replace(STATUS, survival=survival))[-1],
                f"{line}, {words}",
            )

    def test_status_lines_of_a_cluster_tell_the_other_nodes(self) -> None:
        peers = [Peer("n2:b", "1.2.4", True, True), Peer("n3:c", "", False, False)]
        status = replace(
            STATUS,
            degraded=["cluster: away"],
            cluster=Membership("n1:a", False, 61, 7, peers),
        )
        self.assertEqual(
            status_lines(status)[-4:],
            [
                "degraded: cluster: away",
                "cluster: node n1:a, lease renewed 1 min 1 s ago, unsynced clients 7",
                "other node: n2:b, draining, version 1.2.4",
                "other node: n3:c, gone",
            ],
        )
        alone = replace(status, cluster=Membership("n1:a", False, None, 0, []))
        self.assertIn("lease none yet", status_lines(alone)[-1])

    def test_node_lines_name_the_silent(self) -> None:
        self.assertEqual(
            node_lines(replace(NODES, degraded=["cluster: away"])),
            [
                "nodes: 4, clients: 5, silent: n3:c",
                "degraded: cluster: away",
                "n1:a: ready, clients 2 (unsynced: 0), version 1.2.3, up for 1 min 0 s",
                "n2:b: draining, clients 3 (unsynced: 1), version 1.2.4, up for "
                "1 h 0 min",
                "n3:c: silent",
                "n4:d: gone: its lease has ended",
            ],
        )

    def test_client_lines_of_all_nodes_show_what_they_tell(self) -> None:
        fields = msgspec.structs.asdict(CLIENT)
        bare = {**fields, "uuid": B, "name": "", "user": "", "address": ""}
        listed = FarClients(
            *(9, ["n3:c"], ["n2:b"], ["cluster: away"]),
            [FarClient(**fields, node="n1:a"), FarClient(**bare, node="n2:b")],
        )
        end = (
            "for 1 min 1 s (messages: 1 sent, 2 received; last offer: never; "
            "unanswered: 0)"
        )
        self.assertEqual(
            list(client_lines(listed, NOW)),
            [
                "clients: 9",
                "degraded: cluster: away",
                "silent: n3:c",
                "not all are listed: n2:b",
                f"{A} name='a' user='jo' from 192.0.2.1:1 at n1:a {end}",
                f"{B} at n2:b {end}",
            ],
        )

    def test_client_lines_show_candidates_that_are_known(self) -> None:
        for candidates, end in (
            (None, "unanswered: 0)"),
            ([], "unanswered: 0; candidates: none)"),
            (["host", "mdns"], "unanswered: 0; candidates: host, mdns)"),
        ):
            listed = Clients(1, [replace(CLIENT, candidates=candidates)])
            (_, line) = client_lines(listed, NOW)
            self.assertTrue(line.endswith(end), line)

    def test_status_lines_have_the_reach_of_clients(self) -> None:
        reach = Reach({"host": 3, "srflx": 0, "private_ipv4": 2}, 1, 4)
        self.assertEqual(
            status_lines(replace(STATUS, reach=reach))[-2:],
            [
                "candidates: host 3, private_ipv4 2",
                "reach: 1 client offers private addresses only, 4 pairs do not connect",
            ],
        )
        line = status_lines(replace(STATUS, reach=Reach({}, 0, 1)))[-1]
        self.assertIn("0 clients offer private addresses only, 1 pair does not", line)

    def test_pair_lines_have_both_sides_and_the_cause(self) -> None:
        self.assertEqual(
            list(pair_lines(Pairs(1, [PAIR]), NOW)),
            [
                "pairs that do not connect: 1",
                f"{A} name='a' (host) and {B} away (unknown) user='jo': 4 answered "
                "offers in 2 min 0 s, the last 20 s ago; cause: stun (is STUN "
                "blocked?)",
            ],
        )

    def test_lines_of_evil_texts_control_no_terminal(self) -> None:
        evil = replace(
            CLIENT,
            **dict.fromkeys(("uuid", "name", "user", "address"), EVIL),
            marks=[EVIL],
            candidates=[EVIL],
        )
        side = PairSide(EVIL, EVIL, [EVIL])
        pair = replace(PAIR, source=side, target=side, user=EVIL, cause=EVIL, text=EVIL)
        status = replace(
            STATUS,
            version=EVIL,
            authentication=EVIL,
            listening=[EVIL],
            ready=False,
            reasons=[EVIL],
            returned={EVIL: 1},
            degraded=[EVIL],
            cluster=Membership(EVIL, True, 1, 0, [Peer(EVIL, EVIL, False, True)]),
            reach=Reach({EVIL: 1}, 0, 0),
        )
        node = NodeStatus(EVIL, False, False, EVIL, 1, 1, 1, True, False)
        nodes = Nodes(EVIL, [node, NodeStatus(EVIL, silent=True)], [EVIL], [EVIL])
        far = FarClient(**msgspec.structs.asdict(evil), node=EVIL)
        for line in (
            *client_lines(Clients(1, [evil]), NOW),
            *chain(*client_rows(Clients(1, [evil]), NOW)),
            *chain(*client_rows(FarClients(1, [], [], [], [far]), NOW)),
            *client_lines(FarClients(1, [EVIL], [EVIL], [EVIL], [far]), NOW),
            *status_lines(status),
            *pair_lines(Pairs(1, [pair]), NOW),
            *node_lines(nodes),
            status_line(status),
            *plain_json(msgspec.json.encode(evil)).splitlines(),
        ):
            self.assertTrue(line.isascii() and line.isprintable(), ascii(line))

    def test_rows_have_a_cell_for_each_head(self) -> None:
        offered = replace(CLIENT, last_offer=NOW - 5, candidates=["host", "private"])
        for client in (CLIENT, offered):
            (row,) = client_rows(Clients(1, [client]), NOW)
            found = dict(zip(CLIENT_HEADS, row, strict=True))
            self.assertEqual(found["UUID"], client.uuid)
        self.assertEqual(found["last offer"], "5 s ago")
        self.assertEqual(found["candidates"], "host private")

    def test_plain_json_keeps_the_values(self) -> None:
        body = msgspec.json.encode(replace(CLIENT, name=EVIL))
        self.assertEqual(json.loads(plain_json(body)), json.loads(body))
        self.assertNotIn("\n", plain_json(body, indent=None))
        with self.assertRaises(Unanswered):
            plain_json(b"<html>")


class Answers:
    """A relay with some answers; then Ctrl-C."""

    def __init__(self, *answers: Status | Unanswered) -> None:
        self._answers = iter(answers)

    def status(self) -> Status:
        answer: Any = next(self._answers, KeyboardInterrupt())
        if isinstance(answer, BaseException):
            raise answer
        return cast(Status, answer)


class WatchTests(SynchronousTestCase):
    """``proxyrelay status --watch`` over a restart of the relay."""

    def watch(self, output: io.StringIO, as_json: bool = False) -> tuple[str, str]:
        """Watch it; return standard output and standard error."""
        errors = io.StringIO()
        relay: Any = Answers(STATUS, Unanswered("refused"), STATUS)
        with redirect_stdout(output), redirect_stderr(errors):
            self.assertRaises(KeyboardInterrupt, watch, relay.status, 0.0, as_json)
        return output.getvalue(), errors.getvalue()

    def test_watch_into_file_prints_lines(self) -> None:
        line = status_line(STATUS)
        shown = self.watch(io.StringIO())
        self.assertEqual(shown, (f"{line}\nno answer: refused\n{line}\n", ""))

    def test_watch_on_terminal_prints_in_place(self) -> None:
        self.patch(os, "environ", {**os.environ, "TERM": "dumb"})
        output, errors = self.watch(Terminal())
        frames = output.split(CURSOR_HOME)[1:]
        self.assertEqual((len(frames), errors), (3, ""))
        self.assertEqual(frames[1], f"no answer: refused{ERASE_LINE}{ERASE_BELOW}")
        self.assertEqual(frames[0], frames[2])

    def test_watch_of_a_cluster_into_file_prints_lines(self) -> None:
        output = io.StringIO()
        found = iter([NODES])
        with redirect_stdout(output):
            self.assertRaises(StopIteration, watch, lambda: next(found), 0.0, False)
        self.assertEqual(output.getvalue(), "; ".join(node_lines(NODES)) + "\n")

    def test_watch_with_json_prints_errors_apart(self) -> None:
        output, errors = self.watch(io.StringIO(), as_json=True)
        lines = output.splitlines()
        self.assertEqual([json.loads(line)["pid"] for line in lines], [4711, 4711])
        self.assertEqual(errors, "no answer: refused\n")

    def test_watch_without_first_answer_fails(self) -> None:
        relay = Answers(Unanswered("refused"))
        self.assertRaises(Unanswered, watch, relay.status, 0.0, False)
