"""The audit log: who was here, and what became of each offer."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import formatEvent
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.config import Logging, Offers
from proxyrelay.errors import ConfigError, Forbidden, TryAgainLater
from proxyrelay.observe.audit import AuditObserver, open_audit_log
from proxyrelay.observe.privacy import Pseudonyms
from proxyrelay.switchboard.delivery import (
    BUSY,
    FOREIGN,
    LEFT,
    SENDER_WAIT_SECONDS,
    SILENT,
)
from proxyrelay.switchboard.events import (
    Event,
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
from tests.support.capture import Capture
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

ONE, OTHER = "192.0.2.1:4711", "192.0.2.2:4711"

BEGIN = 1700000000.0


class RecordingAudit(AuditObserver):
    """An audit log that keeps its text."""

    def __init__(self, clock: Clock, pseudonyms: Pseudonyms) -> None:
        sink: Any = SimpleNamespace(name="nowhere")
        super().__init__(sink, cast(Any, clock), pseudonyms, clock.seconds)
        self.text = ""

    def put(self, line: str, about: object = None) -> None:
        self.text += line


class AuditTestCase(SynchronousTestCase):
    """A switchboard that is observed by the audit log."""

    offers = Offers(crossing=0)
    pseudonyms = Pseudonyms()

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(BEGIN)
        self.audit = RecordingAudit(self.clock, self.pseudonyms)
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
        """The lines since the last look, less the times."""
        text, self.audit.text = self.audit.text, ""
        found = [json.loads(line) for line in text.splitlines()]
        for line in found:
            del line["time"]
        return found

    def assert_line(self, **fields: Any) -> None:
        """There is one line, with these fields among others."""
        (line,) = self.lines()
        self.assertEqual(line, {**line, **fields})


class PresenceTests(AuditTestCase):
    """Lines about clients."""

    def test_registered_has_a_line(self) -> None:
        self.client(A, "\xe9")
        self.assertEqual(
            json.loads(self.audit.text),
            {
                "time": "2023-11-14T22:30:00.000Z",
                "event": "registered",
                "uuid": A,
                "name": "\xe9",
                "user": "me",
                "address": ONE,
            },
        )

    def test_registered_again_has_a_line_for_another_name_only(self) -> None:
        peer = self.client(A, "a")
        self.lines()
        for name, names in (("a", []), ("b", ["b"]), ("b", []), ("a", ["a"])):
            self.relay.receive(peer, registration(A, name))
            self.assertEqual([line["name"] for line in self.lines()], names)

    def test_left_has_a_line_with_the_reason(self) -> None:
        peer = self.client(A)
        self.lines()
        self.clock.advance(12.34)
        self.relay.leave(peer, "closed by the client")
        line: dict[str, Any]
        line = {"event": "left", "uuid": A, "name": "a", "user": "me", "address": ONE}
        line |= {"sent": 0, "received": 0, "shielded": 0}
        line |= {"seconds": 12.34, "reason": "closed by the client"}
        self.assertEqual(self.lines(), [line])

    def test_replaced_has_the_line_of_the_old_connection_first(self) -> None:
        self.client(A)
        self.lines()
        self.client(A)
        left, came = self.lines()
        self.assertEqual(
            (left["event"], left["address"], left["reason"]), ("left", ONE, REPLACED)
        )
        self.assertEqual((came["event"], came["address"]), ("registered", OTHER))

    def test_refused_has_a_line_with_the_reason(self) -> None:
        self.client(A)
        self.lines()
        self.client(A, user=User("other"))
        reason = f"ForbiddenError: The client UUID {A} is already registered to "
        reason += "another user."
        line: dict[str, Any]
        line = {"event": "refused", "uuid": None, "user": "other", "address": OTHER}
        line |= {"code": 4002, "reason": reason, "detail": ""}
        self.assertEqual(self.lines(), [line])

    def test_refused_token_of_a_known_user_names_it(self) -> None:
        refusal = Forbidden("no")
        for sub, user in ((None, "anonymous"), ("me", "me")):
            refusal.sub = sub
            self.relay.refuse(RecordingPeer(), refusal)
            self.assert_line(user=user)

    def test_refused_after_registration_leaves(self) -> None:
        peer = self.client(A)
        self.lines()
        self.relay.receive(peer, b"{")
        refused, left = self.lines()
        self.assertEqual((refused["uuid"], refused["code"]), (A, 4000))
        self.assertIn("JSON", refused["detail"])
        self.assertEqual(left["reason"], "refused with 4000")

    def test_event_without_a_client_has_its_fields(self) -> None:
        for event, line in (
            (
                Operator("disconnect", ONE, A),
                {"event": "operator", "action": "disconnect", "uuid": A},
            ),
            (
                Operator("drain", ONE),
                {"event": "operator", "action": "drain", "uuid": None},
            ),
            (
                Rejected(ONE, 403, "an origin"),
                {"event": "rejected", "status": 403, "detail": "an origin"},
            ),
            (
                Failed(ONE, 1002, "a frame"),
                {"event": "failed", "code": 1002, "detail": "a frame"},
            ),
        ):
            self.audit(event)
            self.assertEqual(self.lines(), [{**line, "address": ONE}])


class OfferTests(AuditTestCase):
    """Lines about offers with the shield."""

    def setUp(self) -> None:
        super().setUp()
        self.one, self.other = self.client(A), self.client(B)
        self.lines()

    def outcome(self, outcome: str, **fields: Any) -> dict[str, Any]:
        """The line of an offer of one to the other."""
        line = {"event": "offer", "outcome": outcome, "reason": None, "source": A}
        line |= {"target": B, "user": "me", "address": ONE, "target_address": OTHER}
        return {**line, "seconds": None, **fields}

    def assert_leaves(self) -> None:
        """Nothing is left of the offer: its sender leaves without a line of it."""
        self.relay.leave(self.one, "closed")
        self.assert_line(event="left")

    def test_offer_answered_has_one_line(self) -> None:
        self.relay.receive(self.one, offer())
        self.assertEqual(self.lines(), [])
        self.clock.advance(0.25)
        self.relay.receive(self.other, answer())
        self.assertEqual(self.lines(), [self.outcome("answered", seconds=0.25)])
        self.assert_leaves()

    def test_offer_waited_for_a_crossing_age_counts_from_arrival(self) -> None:
        self.relay.broker.settings = Offers(crossing=1)
        self.relay.receive(self.one, offer())
        self.clock.advance(1)
        (waiting,) = self.relay.broker.table.of(A)
        self.relay.broker.pass_on(waiting)
        self.clock.advance(1)
        self.relay.receive(self.other, answer())
        self.assertEqual(self.lines(), [self.outcome("answered", seconds=2.0)])

    def test_offer_to_nobody_or_another_user_is_returned(self) -> None:
        missing = self.relay.undelivered.unknown_text.format(C)
        for reason in (missing, FOREIGN.format(C)):
            self.relay.receive(self.one, offer(peer=C))
            line = self.outcome("returned", target=C, target_address=None)
            self.assertEqual(self.lines(), [{**line, "reason": reason}])
            self.client(C, user=User("other"))
            self.lines()

    def test_offer_receiver_leaves_is_returned(self) -> None:
        self.relay.receive(self.one, offer())
        self.clock.advance(2)
        self.relay.leave(self.other, "closed")
        left, line = self.lines()
        self.assertEqual((left["event"], left["uuid"]), ("left", B))
        reason = LEFT.format(B)
        self.assertEqual(line, self.outcome("returned", reason=reason, seconds=2.0))

    def test_offer_unanswered_is_returned(self) -> None:
        self.relay.receive(self.one, offer())
        self.clock.advance(self.offers.answer_timeout)
        self.relay.tick()
        line = self.outcome("returned", reason=SILENT.format(B), seconds=20)
        self.assertEqual(self.lines(), [line])

    def test_offer_sender_leaves_has_a_line_and_answer_is_returned(self) -> None:
        self.relay.receive(self.one, offer())
        self.clock.advance(1)
        self.relay.leave(self.one, "closed")
        line, left = self.lines()
        reason = "its sender left before it was answered"
        self.assertEqual(line, self.outcome("left", reason=reason, seconds=1))
        self.assertEqual(left["event"], "left")
        self.relay.receive(self.other, answer())
        line = self.outcome(
            "returned",
            source=B,
            target=A,
            address=OTHER,
            target_address=None,
            seconds=1,
            reason=self.relay.undelivered.unknown_text.format(A),
        )
        self.assertEqual(self.lines(), [{**line, "event": "answer"}])

    def test_answer_cannot_be_delivered_ends_the_offer(self) -> None:
        self.relay.receive(self.one, offer())
        self.one.busy = True
        self.clock.advance(1)
        self.relay.receive(self.other, answer())
        reason = BUSY.format(A)
        self.assert_line(event="answer", outcome="returned", reason=reason, seconds=1)
        self.assert_leaves()

    def test_offer_waits_sender_leaves_has_a_line(self) -> None:
        self.relay.broker.settings = Offers(crossing=1)
        self.relay.receive(self.one, offer())
        self.relay.leave(self.one, "closed")
        line, left = self.lines()
        self.assertEqual((line["outcome"], line["target_address"]), ("left", None))
        self.assertEqual(left["event"], "left")

    def test_offer_late_after_another_drop_has_a_line(self) -> None:
        for _ in range(2):
            self.relay.receive(self.one, offer())
        self.lines()
        self.clock.advance(SENDER_WAIT_SECONDS + 1)
        self.relay.tick()
        self.assert_line(outcome="dropped", reason=DropReason.LATE.value)
        self.assert_leaves()

    def test_offer_held_has_a_line_and_that_of_its_outcome(self) -> None:
        self.relay.leave(self.other, "closed")
        self.lines()
        self.relay.receive(self.one, offer())
        self.assertEqual(self.lines(), [self.outcome("held", target_address=None)])
        self.clock.advance(1)
        newer = self.client(B)
        self.assert_line(event="registered")
        self.relay.receive(newer, answer())
        self.assertEqual(
            self.lines(),
            [self.outcome("answered", target_address="192.0.2.3:4711", seconds=1)],
        )

    def test_offer_held_in_vain_is_returned(self) -> None:
        self.relay.leave(self.other, "closed")
        self.relay.receive(self.one, offer())
        self.lines()
        self.clock.advance(self.offers.hold)
        self.relay.tick()
        self.assert_line(outcome="returned", seconds=5)

    def test_offer_dropped_has_a_line_once_and_is_counted(self) -> None:
        for _ in range(4):
            self.relay.receive(self.one, offer())
        reason = DropReason.DUPLICATE.value
        line = self.outcome("dropped", target_address=None, reason=reason)
        self.assertEqual(self.lines(), [line])
        self.relay.receive(self.other, answer())
        self.assert_line(outcome="answered")
        self.relay.leave(self.one, "closed")
        self.assert_line(shielded=3)

    def test_offer_claims_another_source_is_of_its_sender(self) -> None:
        liar = self.client(C)
        self.lines()
        self.relay.receive(self.one, offer())
        for message in (offer(), answer(A, B), answer(B, A), offer(B, A)):
            self.relay.receive(liar, message)
            self.assert_line(source=C, outcome="returned", seconds=None)
        # It has ended no offer.
        self.clock.advance(1)
        self.relay.receive(self.other, answer())
        self.assertEqual(self.lines(), [self.outcome("answered", seconds=1)])


class UnshieldedTests(AuditTestCase):
    """A relay that passes on all messages, and remembers nothing of them."""

    offers = Offers(shield=False)

    def test_message_without_the_shield_has_a_line(self) -> None:
        one, other = self.client(A), self.client(B)
        self.lines()
        known = {"source": A, "target": B, "seconds": None, "target_address": OTHER}
        self.relay.receive(one, offer())
        self.assert_line(outcome="forwarded", **known)
        for _ in range(2):
            self.relay.receive(other, answer())
            self.assert_line(outcome="answered", **known)
        self.relay.leave(one, "closed")
        self.assert_line(event="left")


class PrivacyTests(AuditTestCase):
    """Lines with pseudonyms."""

    pseudonyms = Pseudonyms(b"k" * 32)

    def test_privacy_no_line_names_a_user(self) -> None:
        secret = User("11111111-8bf9-3888-9912-ace4e6543002")
        one, other = self.client(A, user=secret), self.client(B, user=secret)
        self.relay.receive(one, offer())
        self.relay.receive(other, answer())
        for text in (offer(), offer(), offer(peer=C)):
            self.relay.receive(one, text)
        refusal = TryAgainLater("later")
        refusal.sub = secret.sub
        self.relay.refuse(RecordingPeer(), refusal)
        self.relay.leave(one, "closed")
        lines = self.lines()
        self.assertGreater(len(lines), 6)
        for line in lines:
            self.assertEqual(line["user"], self.pseudonyms.user(secret.sub))
            self.assertNotIn(secret.sub, json.dumps(line))


class FileTests(SynchronousTestCase):
    """The file of the audit log."""

    TEXTS = st.text(st.characters(exclude_categories=()))

    @given(TEXTS, TEXTS, TEXTS)
    def test_event_any_text_of_a_client_is_one_line_of_ascii(
        self, name: str, user: str, address: str
    ) -> None:
        log = RecordingAudit(Clock(), Pseudonyms())
        events: tuple[Event, ...] = (
            Registered(A, name, user, address),
            Refused(None, user, address, 4002, name),
            Rejected(address, 400, name),
            Failed(address, 1002, name),
            Left(A, name, user, address, 1.0, 0, 0, 0, name, LeaveReason.LOST),
        )
        for event in events:
            log(event)
        lines = log.text.split("\n")
        self.assertEqual((len(lines), lines.pop()), (len(events) + 1, ""))
        for line in lines:
            self.assertTrue(line.isascii())
            self.assertTrue(line.isprintable())
            self.assertIsInstance(json.loads(line), dict)

    def test_audit_without_a_file_is_none(self) -> None:
        self.assertIsNone(open_audit_log(Logging(), Clock(), Pseudonyms()))

    def test_audit_file_has_begin_end_and_gaps(self) -> None:
        path = Path(self.mktemp()).absolute() / "audit.log"
        log = open_audit_log(Logging(audit_log=path), Clock(), Pseudonyms())
        assert log is not None
        log.started()
        log.put(log.gap(3))
        log.stopped()
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        self.assertEqual([x["event"] for x in lines], ["started", "gap", "stopped"])
        self.assertEqual((lines[1]["count"], log.lost), (3, 0))

    def test_audit_file_fails_the_log_tells(self) -> None:
        log, capture = RecordingAudit(Clock(), Pseudonyms()), Capture(self)
        (writer,) = log.writers
        log.fails(writer, "No space left on device")
        log.resumes(writer, 7)
        first, second = map(formatEvent, capture.events)
        self.assertIn("audit log cannot be written: No space left", first)
        self.assertIn("is written again; lines that it lacks: 7", second)

    def test_audit_file_cannot_be_opened_is_a_problem(self) -> None:
        path = Path(self.mktemp()).absolute()
        path.mkdir()
        settings = Logging(audit_log=path)
        error = self.assertRaises(
            ConfigError, open_audit_log, settings, Clock(), Pseudonyms()
        )
        (problem,) = error.problems
        self.assertEqual(problem.key, "logging.audit_log")
        self.assertIn(f"{path} cannot be written: Is a directory", problem.message)
