"""The latest events for the page."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.admin.recent_events import KEPT_EVENTS, RecentEvents
from proxyrelay.switchboard.events import (
    BounceReason,
    Deafness,
    Failed,
    Fight,
    Left,
    Operator,
    Probed,
    Refused,
    Registered,
    Rejected,
    Replaced,
    Returned,
    Shielded,
    Skipped,
    Slowed,
)
from proxyrelay.switchboard.offers import DropReason
from proxyrelay.switchboard.peer import LeaveReason
from tests.support.recording import A, B

EVIL = "a\x1b[2J\n\u202e"

DUPLICATE = DropReason.DUPLICATE


def shielded(is_repeat: bool = False) -> Shielded:
    """A dropped message of a client."""
    return Shielded(
        kind="offer",
        source=A,
        target=B,
        user="me",
        address="a",
        reason=DUPLICATE.value,
        why=DUPLICATE,
        is_repeat=is_repeat,
    )


class RecentEventsTests(SynchronousTestCase):
    """Numbers, bounds and texts."""

    def setUp(self) -> None:
        self.now = 5.0
        self.events = RecentEvents(lambda: self.now)

    def test_events_have_number_and_time(self) -> None:
        self.events.note("drain", "a")
        self.now = 6.0
        self.events.note("reload", "b")
        first, second = self.events.since(0)
        self.assertEqual((first.number, first.time), (1, 5.0))
        self.assertEqual((second.number, second.time), (2, 6.0))
        self.assertEqual(self.events.since(1), [second])
        self.assertEqual(self.events.last, 2)

    def test_events_over_limit_push_out_the_oldest(self) -> None:
        for number in range(KEPT_EVENTS + 5):
            self.events.note("drain", str(number))
        self.assertEqual(len(self.events.since(0)), KEPT_EVENTS)
        self.assertEqual(self.events.since(0)[0].number, 6)

    def test_events_of_one_kind_push_out_no_others(self) -> None:
        self.events.note("reload", "a")
        for _ in range(KEPT_EVENTS * 3):
            self.events(Rejected("a", 400, "b"))
            self.events(Refused(None, "me", "a", 4002, "no"))
            self.events(Registered(A, "a", "me", "b"))
        self.events.note("drain", "b")
        found = self.events.since(0)
        self.assertEqual((found[0].kind, found[-1].kind), ("reload", "drain"))
        self.assertEqual(len(found), 3 * KEPT_EVENTS + 2)
        numbers = [event.number for event in found]
        self.assertEqual(numbers, sorted(numbers))

    def test_events_have_names_of_clients(self) -> None:
        self.events.name_of = {A: "Ada"}.get  # type: ignore[assignment]
        self.events(shielded())
        self.events(Registered(B, "Bob", "me", "b"))
        self.events(Registered(B, "", "me", "b"))
        self.events(Rejected("a", 400, "b"))
        names = [event.names for event in self.events.since(0)]
        self.assertEqual(names, [{A: "Ada"}, {B: "Bob"}, {}, {}])

    def test_events_without_news_are_left_out(self) -> None:
        for event in (
            Replaced(A, "a", "b", is_repeat=True),
            shielded(is_repeat=True),
            Probed("a"),
            Skipped("a", "b"),
        ):
            self.events(event)
        self.assertEqual(self.events.since(0), [])

    def test_events_with_texts_of_clients_are_escaped(self) -> None:
        one, two = "192.0.2.1:1", "192.0.2.2:1"
        for event, kind, text in (
            (
                Replaced(A, one, two),
                "replaced",
                f"{A} has registered again from {one}; it was held from {two}",
            ),
            (
                Fight(A, one, two),
                "fight",
                f"{A} registers again and again, from {one}; it was held from {two}",
            ),
            (Registered(A, EVIL, "me", "a"), "registered", f"{A} from a"),
            (
                Left(
                    *(A, EVIL, "me", "a"),
                    seconds=61.4,
                    sent=1,
                    received=2,
                    shielded=0,
                    reason="lost",
                    cause=LeaveReason.LOST,
                ),
                "left",
                f"{A} from a after 61 s: lost",
            ),
            (
                Returned(
                    kind="offer",
                    source=A,
                    target=B,
                    user="me",
                    address="a",
                    why=BounceReason.SILENT,
                ),
                "returned",
                f"offer of {A} to {B}: silent",
            ),
            (Refused(A, "me", "a", 4002, "no", EVIL), "refused", "a with 4002: no"),
            (
                Deafness(A, EVIL, "me", "a", 1.0),
                "deaf",
                f"{A} at a answers no offers since it came back: restart it",
            ),
            (Rejected("a", 400, EVIL), "rejected", f"a with HTTP 400: {EVIL!a}"),
            (Failed("a", 1002, EVIL), "failed", f"a with 1002: {EVIL!a}"),
            (Slowed("a"), "slowed", "a sends more than [limits] allows"),
            (Operator("drain", "b"), "operator", "drain is asked for from b"),
            (
                Operator("disconnect", "local", A),
                "operator",
                f"disconnect of {A} is asked for from local",
            ),
            (
                shielded(),
                "shielded",
                f"{B} from an offer of {A} at a: {DUPLICATE.value}",
            ),
        ):
            self.events(event)
            (found,) = self.events.since(self.events.last - 1)
            self.assertEqual((found.kind, found.text), (kind, text))
