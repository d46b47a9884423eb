"""``proxyrelay live``, ``status`` and ``clients``: words and repetition."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, cast

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.admin.report import (
    Certificate,
    Client,
    Clients,
    GlobusAuth,
    Lateness,
    MessageCounts,
    Quantiles,
    Silence,
    Status,
)
from proxyrelay.cli.admin_client import AdminClient
from proxyrelay.cli.status import (
    CURSOR_HOME,
    ERASE_BELOW,
    ERASE_LINE,
    client_lines,
    plain_json,
    status_line,
    status_lines,
    watch,
)
from proxyrelay.errors import Unanswered
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


class WordsTests(SynchronousTestCase):
    """Lines for people."""

    def test_status(self) -> None:
        self.assertEqual(
            list(status_lines(STATUS)),
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

    def test_what_is_in_the_way(self) -> None:
        status = msgspec.structs.replace(
            STATUS,
            ready=False,
            reasons=["draining", "globus: a"],
            globus=GlobusAuth("open"),
            certificate=None,
        )
        lines = list(status_lines(status))
        self.assertIn("state: not ready (draining; globus: a)", lines)
        self.assertEqual(lines[-1], "globus: does not answer")
        self.assertIn("not ready", status_line(status))

    def test_in_one_line(self) -> None:
        self.assertEqual(
            status_line(STATUS),
            "2027-01-15 08:00:00Z ready, clients 2, connections 3, registrations 4, "
            "offers 5, answers 4, late by 1.0 ms",
        )

    def client(self, **fields: Any) -> Client:
        usual: dict[str, Any] = {
            "uuid": A,
            "name": "a",
            "user": "jo",
            "address": "192.0.2.1:1",
            "since": NOW - 61,
            "last_offer": None,
            "sent": 1,
            "received": 2,
            "unanswered": 0,
            "marks": [],
        }
        return Client(**usual | fields)

    def test_clients(self) -> None:
        listed = Clients(
            2,
            [
                self.client(),
                self.client(
                    uuid=B,
                    since=NOW - 3600,
                    last_offer=NOW,
                    unanswered=2,
                    marks=["deaf", "legacy"],
                ),
            ],
        )
        self.assertEqual(
            list(client_lines(listed, NOW)),
            [
                "clients: 2",
                f"{B} name='a' user='jo' from 192.0.2.1:1 for 1 h 0 min (messages: "
                "1 sent, 2 received; last offer: 0 s ago; unanswered: 2): deaf, legacy",
                f"{A} name='a' user='jo' from 192.0.2.1:1 for 1 min 1 s (messages: "
                "1 sent, 2 received; last offer: never; unanswered: 0)",
            ],
        )

    def test_nobody_controls_a_terminal(self) -> None:
        evil = self.client(uuid=EVIL, name=EVIL, user=EVIL, address=EVIL, marks=[EVIL])
        lines = [*client_lines(Clients(1, [evil]), NOW)]
        status = msgspec.structs.replace(
            STATUS,
            version=EVIL,
            authentication=EVIL,
            listening=[EVIL],
            ready=False,
            reasons=[EVIL],
            returned={EVIL: 1},
        )
        lines += [*status_lines(status), status_line(status)]
        lines += plain_json(msgspec.json.encode(evil)).splitlines()
        for line in lines:
            self.assertTrue(line.isascii() and line.isprintable(), ascii(line))

    def test_json_stays_the_same(self) -> None:
        body = msgspec.json.encode(self.client(name=EVIL))
        self.assertEqual(json.loads(plain_json(body)), json.loads(body))
        self.assertNotIn("\n", plain_json(body, indent=None))
        with self.assertRaises(Unanswered):
            plain_json(b"<html>")


class Restarting:
    """A relay with one restart between two answers."""

    def __init__(self) -> None:
        self._answers = iter((STATUS, Unanswered("refused"), STATUS))

    def status(self) -> Status:
        """State, error, state; then Ctrl-C."""
        answer = next(self._answers, KeyboardInterrupt())
        if isinstance(answer, BaseException):
            raise answer
        return answer


class Terminal(io.StringIO):
    """Standard output on a terminal."""

    def isatty(self) -> bool:
        return True


class WatchTests(SynchronousTestCase):
    """``proxyrelay status --watch`` over a restart of the relay."""

    def watch(self, output: io.StringIO, as_json: bool = False) -> tuple[str, str]:
        """Watch it; return standard output and standard error."""
        errors = io.StringIO()
        with redirect_stdout(output), redirect_stderr(errors):
            asked = cast(AdminClient, Restarting())
            self.assertRaises(KeyboardInterrupt, watch, asked, 0.0, as_json)
        return output.getvalue(), errors.getvalue()

    def test_goes_on_in_lines(self) -> None:
        line = status_line(STATUS)
        shown = self.watch(io.StringIO())
        self.assertEqual(shown, (f"{line}\nno answer: refused\n{line}\n", ""))

    def test_goes_on_in_place(self) -> None:
        output, errors = self.watch(Terminal())
        frames = output.split(CURSOR_HOME)[1:]
        self.assertEqual((len(frames), errors), (3, ""))
        self.assertEqual(frames[1], f"no answer: refused{ERASE_LINE}{ERASE_BELOW}")
        self.assertEqual(frames[0], frames[2])

    def test_goes_on_in_json(self) -> None:
        output, errors = self.watch(io.StringIO(), as_json=True)
        lines = output.splitlines()
        self.assertEqual([json.loads(line)["pid"] for line in lines], [4711, 4711])
        self.assertEqual(errors, "no answer: refused\n")

    def test_the_first_look_must_be_answered(self) -> None:
        asked = Restarting()
        asked.status()
        self.assertRaises(Unanswered, watch, cast(AdminClient, asked), 0.0, False)
