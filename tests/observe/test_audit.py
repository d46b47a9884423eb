"""Who was here, and who was connected to whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.config import Logging, Offers
from proxyrelay.errors import ConfigError, Forbidden, TryAgainLater
from proxyrelay.observe.audit import AuditObserver, audit
from proxyrelay.observe.pseudonyms import Clear, Pseudonyms
from proxyrelay.switchboard.delivery import (
    BUSY,
    FOREIGN,
    LEFT,
    SENDER_WAIT_SECONDS,
    SILENT,
)
from proxyrelay.switchboard.event import Event
from proxyrelay.switchboard.events import (
    Failed,
    Left,
    Operator,
    Refused,
    Registered,
    Rejected,
)
from proxyrelay.switchboard.offers import DropReason
from proxyrelay.switchboard.peer import REPLACED, LeaveReason
from proxyrelay.switchboard.relay import Relay
from proxyrelay.switchboard.user import User
from tests.support.recording import (
    A,
    B,
    C,
    RecordingPeer,
    RecordingWaiting,
    answer,
    offer,
    registration,
)

ME = User("me")

BEGIN = 1700000000.0

LATE = DropReason.LATE.value


class Page:
    """What the lines are written to."""

    lost = 3

    def __init__(self) -> None:
        self.text = b""
        self.started = self.reopened = self.closed = False

    def start(self) -> None:
        self.started = True

    def put(self, line: str) -> None:
        self.text += line.encode()

    def reopen(self) -> None:
        self.reopened = True

    def close(self) -> None:
        self.closed = True


class AuditTestCase(SynchronousTestCase):
    """A switchboard whose journal is the audit log."""

    offers = Offers(crossing=0)
    pseudonyms = Clear()

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(BEGIN)
        self.page = Page()
        self.audit = AuditObserver(
            self.page, self.clock, self.pseudonyms, self.clock.seconds
        )
        self.relay = Relay(
            *(self.audit, self.clock.seconds, RecordingWaiting(), self.offers),
            self.audit.forwarded,
        )
        self.clock.advance(1000)  # nobody has left just now
        self.numbers = iter(range(1, 1000))

    def client(self, uuid: str, name: str = "a", user: User = ME) -> RecordingPeer:
        """A client that has registered."""
        peer = RecordingPeer(user, f"192.0.2.{next(self.numbers)}:4711")
        self.relay.receive(peer, registration(uuid, name))
        return peer

    def lines(self) -> list[dict[str, Any]]:
        """What was written since the last look, less the times."""
        self.clock.advance(0)
        text, self.page.text = self.page.text.decode("ascii"), b""
        found = [json.loads(line) for line in text.splitlines()]
        for line in found:
            del line["time"]
        return found

    def line(self) -> dict[str, Any]:
        """The only such line."""
        (line,) = self.lines()
        return line


class PresenceTests(AuditTestCase):
    """Who is here."""

    def test_who_registers_has_a_line(self) -> None:
        self.client(A, "\xe9")
        self.assertEqual(
            self.line(),
            {
                "event": "registered",
                "uuid": A,
                "name": "\xe9",
                "user": "me",
                "address": "192.0.2.1:4711",
            },
        )

    def test_has_the_time(self) -> None:
        self.client(A)
        self.clock.advance(0.0)
        line = json.loads(self.page.text)
        self.assertEqual(line["time"], "2023-11-14T22:30:00.000Z")

    def test_who_says_so_again_has_none_but_with_another_name(self) -> None:
        peer = self.client(A, "a")
        self.lines()
        for name, names in (("a", []), ("b", ["b"]), ("b", []), ("a", ["a"])):
            self.relay.receive(peer, registration(A, name))
            self.assertEqual([line["name"] for line in self.lines()], names)

    def test_who_leaves_has_one_with_the_reason(self) -> None:
        peer = self.client(A)
        self.lines()
        self.clock.advance(12.34)
        self.relay.leave(peer, "closed by the client")
        self.assertEqual(
            self.line(),
            {
                "event": "left",
                "uuid": A,
                "name": "a",
                "user": "me",
                "address": "192.0.2.1:4711",
                "seconds": 12.34,
                "sent": 0,
                "received": 0,
                "shielded": 0,
                "reason": "closed by the client",
            },
        )

    def test_a_newer_connection_has_one_after_that_of_the_old_one(self) -> None:
        self.client(A)
        self.lines()
        self.client(A)
        left, came = self.lines()
        self.assertEqual(
            (left["event"], left["address"], left["reason"]),
            ("left", "192.0.2.1:4711", REPLACED),
        )
        self.assertEqual(
            (came["event"], came["address"]), ("registered", "192.0.2.2:4711")
        )

    def test_who_is_refused_has_one_with_the_reason(self) -> None:
        self.client(A)
        self.lines()
        self.client(A, user=User("other"))
        self.assertEqual(
            self.line(),
            {
                "event": "refused",
                "uuid": None,
                "user": "other",
                "address": "192.0.2.2:4711",
                "code": 4002,
                "reason": f"ForbiddenError: The client UUID {A} is already registered "
                "to another user.",
                "detail": "",
            },
        )

    def test_the_user_of_a_token_that_is_not_taken_is_known(self) -> None:
        refusal = Forbidden("no")
        for sub, user in ((None, "anonymous"), ("me", "me")):
            refusal.sub = sub
            self.relay.refuse(RecordingPeer(), refusal)
            self.assertEqual(self.line()["user"], user)

    def test_who_is_refused_later_leaves(self) -> None:
        peer = self.client(A)
        self.lines()
        self.relay.receive(peer, b"{")
        refused, left = self.lines()
        self.assertEqual((refused["uuid"], refused["code"]), (A, 4000))
        self.assertIn("JSON", refused["detail"])
        self.assertEqual(left["reason"], "refused with 4000")

    def test_what_operators_do_has_a_line(self) -> None:
        self.audit(Operator("disconnect", "192.0.2.1:1", A))
        self.audit(Operator("drain", "local"))
        one, other = self.lines()
        self.assertEqual(
            one,
            {
                "event": "operator",
                "action": "disconnect",
                "address": "192.0.2.1:1",
                "uuid": A,
            },
        )
        self.assertEqual((other["address"], other["uuid"]), ("local", None))

    def test_what_is_no_client_has_a_line(self) -> None:
        self.audit(Rejected("192.0.2.1:1", 403, "an origin"))
        self.audit(Failed("192.0.2.1:1", 1002, "a frame"))
        self.assertEqual(
            self.lines(),
            [
                {
                    "event": "rejected",
                    "address": "192.0.2.1:1",
                    "status": 403,
                    "detail": "an origin",
                },
                {
                    "event": "failed",
                    "address": "192.0.2.1:1",
                    "code": 1002,
                    "detail": "a frame",
                },
            ],
        )

    def test_says_when_it_begins_and_ends(self) -> None:
        self.audit.started()
        self.audit.stopped()
        text = self.page.text.decode()
        self.assertEqual(
            [json.loads(line)["event"] for line in text.splitlines()],
            ["started", "stopped"],
        )
        self.assertTrue(self.page.started)
        self.assertTrue(self.page.closed)


class OfferTests(AuditTestCase):
    """Who was connected to whom."""

    def setUp(self) -> None:
        super().setUp()
        self.one, self.other = self.client(A), self.client(B)
        self.lines()

    def outcome(self, outcome: str, **fields: Any) -> dict[str, Any]:
        """The line of an offer of one to the other."""
        return {
            "event": "offer",
            "outcome": outcome,
            "reason": None,
            "source": A,
            "target": B,
            "user": "me",
            "address": "192.0.2.1:4711",
            "target_address": "192.0.2.2:4711",
            "seconds": None,
            **fields,
        }

    def test_an_answer_has_the_line_of_both(self) -> None:
        self.relay.receive(self.one, offer())
        self.assertEqual(self.lines(), [])
        self.clock.advance(0.25)
        self.relay.receive(self.other, answer())
        self.assertEqual(self.line(), self.outcome("answered", seconds=0.25))
        # Nothing is left of it.
        self.relay.leave(self.one, "closed")
        self.assertEqual(self.line()["event"], "left")

    def test_it_has_waited_since_the_offer_came(self) -> None:
        """Also while it waited for one that may cross it."""
        self.relay.broker.settings = Offers(crossing=1)
        self.relay.receive(self.one, offer())
        self.clock.advance(1)
        (waiting,) = self.relay.broker.table.of(A)
        self.relay.broker.pass_on(waiting)
        self.clock.advance(1)
        self.relay.receive(self.other, answer())
        self.assertEqual(self.line(), self.outcome("answered", seconds=2.0))

    def test_an_offer_to_nobody_is_returned(self) -> None:
        self.relay.receive(self.one, offer(peer=C))
        self.assertEqual(
            self.line(),
            self.outcome(
                "returned",
                target=C,
                target_address=None,
                reason=self.relay.undelivered.unknown_text.format(C),
            ),
        )

    def test_an_offer_to_another_user_is_returned(self) -> None:
        self.client(C, user=User("other"))
        self.lines()
        self.relay.receive(self.one, offer(peer=C))
        line = self.line()
        self.assertEqual(line["reason"], FOREIGN.format(C))
        self.assertEqual(line["target_address"], None)

    def test_an_offer_whose_receiver_leaves_is_returned(self) -> None:
        self.relay.receive(self.one, offer())
        self.clock.advance(2)
        self.relay.leave(self.other, "closed")
        left, returned = self.lines()
        self.assertEqual((left["event"], left["uuid"]), ("left", B))
        self.assertEqual(
            returned, self.outcome("returned", reason=LEFT.format(B), seconds=2.0)
        )

    def test_an_offer_that_is_not_answered_is_returned(self) -> None:
        self.relay.receive(self.one, offer())
        self.clock.advance(self.offers.answer_timeout)
        self.relay.tick()
        self.assertEqual(
            self.line(), self.outcome("returned", reason=SILENT.format(B), seconds=20)
        )

    def test_an_offer_whose_sender_leaves_is_not_forgotten(self) -> None:
        self.relay.receive(self.one, offer())
        self.clock.advance(1)
        self.relay.leave(self.one, "closed")
        asked, left = self.lines()
        self.assertEqual(
            asked,
            self.outcome(
                "left", reason="its sender left before it was answered", seconds=1
            ),
        )
        self.assertEqual(left["event"], "left")
        # The answer goes back to its sender.
        self.relay.receive(self.other, answer())
        self.assertEqual(
            self.line(),
            self.outcome(
                "returned",
                event="answer",
                source=B,
                target=A,
                address="192.0.2.2:4711",
                target_address=None,
                seconds=1,
                reason=self.relay.undelivered.unknown_text.format(A),
            ),
        )

    def test_an_answer_that_cannot_be_passed_on_ends_the_offer(self) -> None:
        self.relay.receive(self.one, offer())
        self.one.busy = True
        self.clock.advance(1)
        self.relay.receive(self.other, answer())
        line = self.line()
        self.assertEqual((line["event"], line["outcome"]), ("answer", "returned"))
        self.assertEqual((line["reason"], line["seconds"]), (BUSY.format(A), 1))
        self.relay.leave(self.one, "closed")
        self.assertEqual(self.line()["event"], "left")

    def test_an_offer_that_waits_when_its_sender_leaves_has_a_line(self) -> None:
        self.relay.broker.settings = Offers(crossing=1)
        self.relay.receive(self.one, offer())
        self.relay.leave(self.one, "closed")
        asked, left = self.lines()
        self.assertEqual((asked["outcome"], asked["target_address"]), ("left", None))
        self.assertEqual(left["event"], "left")

    def test_an_offer_that_comes_too_late_has_a_line(self) -> None:
        """Also where it is not the first message of the client that is dropped."""
        for _ in range(2):
            self.relay.receive(self.one, offer())
        self.lines()
        self.clock.advance(SENDER_WAIT_SECONDS + 1)
        self.relay.tick()
        line = self.line()
        self.assertEqual((line["outcome"], line["reason"]), ("dropped", LATE))
        self.relay.leave(self.one, "closed")
        self.assertEqual(self.line()["event"], "left")

    def test_an_offer_that_waits_has_a_line_and_another_one(self) -> None:
        self.relay.leave(self.other, "closed")
        self.lines()
        self.relay.receive(self.one, offer())
        self.assertEqual(self.line(), self.outcome("held", target_address=None))
        self.clock.advance(1)
        newer = self.client(B)
        self.assertEqual(self.line()["event"], "registered")
        self.relay.receive(newer, answer())
        self.assertEqual(
            self.line(),
            self.outcome("answered", target_address="192.0.2.3:4711", seconds=1),
        )

    def test_an_offer_that_waits_in_vain_is_returned(self) -> None:
        self.relay.leave(self.other, "closed")
        self.relay.receive(self.one, offer())
        self.lines()
        self.clock.advance(self.offers.hold)
        self.relay.tick()
        line = self.line()
        self.assertEqual((line["outcome"], line["seconds"]), ("returned", 5))

    def test_what_is_dropped_has_a_line_once_and_is_counted(self) -> None:
        self.relay.receive(self.one, offer())
        for _ in range(3):
            self.relay.receive(self.one, offer())
        self.assertEqual(
            self.line(),
            self.outcome(
                "dropped", target_address=None, reason=DropReason.DUPLICATE.value
            ),
        )
        self.relay.receive(self.other, answer())
        self.assertEqual(self.line()["outcome"], "answered")
        self.relay.leave(self.one, "closed")
        self.assertEqual(self.line()["shielded"], 3)

    def test_nobody_speaks_for_another_one(self) -> None:
        """What a client only claims ends no offer, and is not its name."""
        liar = self.client(C)
        self.lines()
        self.relay.receive(self.one, offer())
        for message in (offer(), answer(A, B), answer(B, A), offer(B, A)):
            self.relay.receive(liar, message)
            line = self.line()
            self.assertEqual((line["source"], line["outcome"]), (C, "returned"))
            self.assertEqual(line["seconds"], None)
        self.clock.advance(1)
        self.relay.receive(self.other, answer())
        self.assertEqual(self.line(), self.outcome("answered", seconds=1))


class UnshieldedTests(AuditTestCase):
    """A relay that passes on all messages, and remembers nothing of them."""

    offers = Offers(shield=False)

    def test_an_offer_is_forwarded_and_not_followed(self) -> None:
        one, other = self.client(A), self.client(B)
        self.lines()
        self.relay.receive(one, offer())
        line = self.line()
        self.assertEqual((line["outcome"], line["seconds"]), ("forwarded", None))
        self.assertEqual(line["target_address"], other.address)
        self.relay.leave(one, "closed")
        self.assertEqual(self.line()["event"], "left")

    def test_an_answer_to_nothing_is_one(self) -> None:
        self.client(A)
        other = self.client(B)
        self.lines()
        for _ in range(2):
            self.relay.receive(other, answer())
            line = self.line()
            self.assertEqual((line["outcome"], line["seconds"]), ("answered", None))
            self.assertEqual((line["source"], line["target"]), (A, B))


class PrivacyTests(AuditTestCase):
    """What is written where users are hidden."""

    pseudonyms = Pseudonyms(b"k" * 32)

    def test_no_line_names_a_user(self) -> None:
        secret = User("11111111-8bf9-3888-9912-ace4e6543002")
        one, other = self.client(A, user=secret), self.client(B, user=secret)
        self.relay.receive(one, offer())
        self.relay.receive(other, answer())
        self.relay.receive(one, offer())
        self.relay.receive(one, offer())
        self.relay.receive(one, offer(peer=C))
        refusal = TryAgainLater("later")
        refusal.sub = secret.sub
        self.relay.refuse(RecordingPeer(), refusal)
        self.relay.leave(one, "closed")
        lines = self.lines()
        self.assertGreater(len(lines), 6)
        for line in lines:
            self.assertEqual(line["user"], self.pseudonyms.user(secret.sub))
            self.assertNotIn(secret.sub, json.dumps(line))


class EvilTests(SynchronousTestCase):
    """Whatever clients choose, a line is a line."""

    TEXTS = st.text(st.characters(exclude_categories=()))

    @given(TEXTS, TEXTS, TEXTS)
    def test_is_one_line_of_ascii(self, name: str, user: str, address: str) -> None:
        page, clock = Page(), Clock()
        audit = AuditObserver(page, clock, Clear())
        calls: list[Event] = [
            Registered(A, name, user, address),
            Refused(None, user, address, 4002, name),
            Rejected(address, 400, name),
            Failed(address, 1002, name),
            Left(A, name, user, address, 1.0, 0, 0, 0, name, LeaveReason.LOST),
        ]
        for event in calls:
            audit(event)
        lines = page.text.split(b"\n")
        self.assertEqual((len(lines), lines.pop()), (len(calls) + 1, b""))
        for line in lines:
            text = line.decode("ascii")
            self.assertTrue(text.isprintable())
            self.assertIsInstance(json.loads(text), dict)


class OpenTests(SynchronousTestCase):
    """The file that the settings name."""

    def test_without_one_there_is_no_audit(self) -> None:
        self.assertIsNone(audit(Logging(), Clock(), Clear()))

    def test_writes_to_it(self) -> None:
        path = Path(self.mktemp()).absolute() / "audit.log"
        journal = audit(Logging(audit_log=path), Clock(), Clear())
        assert journal is not None
        journal.started()
        journal.stopped()
        self.assertEqual(len(path.read_text().splitlines()), 2)

    def test_one_that_cannot_be_written_is_a_problem(self) -> None:
        path = Path(self.mktemp()).absolute()
        path.mkdir()
        with self.assertRaises(ConfigError) as caught:
            audit(Logging(audit_log=path), Clock(), Clear())
        (problem,) = caught.exception.problems
        self.assertEqual(problem.key, "logging.audit_log")
        self.assertIn(f"{path} cannot be written: Is a directory", problem.message)
