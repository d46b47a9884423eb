"""The last things that happened."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.admin.recent_events import KEPT_EVENTS, RecentEvents
from proxyrelay.switchboard.events import (
    FIGHT_TAKEOVERS,
    Deafness,
    Failed,
    Fight,
    Operator,
    Probed,
    Refused,
    Rejected,
    Replaced,
    Shielded,
    Skipped,
    Slowed,
)
from proxyrelay.switchboard.offers import DropReason
from tests.support.recording import A, B

EVIL = "a\x1b[2J\n\u202e"


class EventsTests(SynchronousTestCase):
    """What is worth a look."""

    def setUp(self) -> None:
        self.now = 5.0
        self.events = RecentEvents(lambda: self.now)

    def texts(self) -> list[tuple[str, str]]:
        return [(event.kind, event.text) for event in self.events.since(0)]

    def test_have_a_number_and_a_time(self) -> None:
        self.events.note("drain", "a")
        self.now = 6.0
        self.events.note("reload", "b")
        first, second = self.events.since(0)
        self.assertEqual((first.number, first.time), (1, 5.0))
        self.assertEqual((second.number, second.time), (2, 6.0))
        self.assertEqual(self.events.since(1), [second])
        self.assertEqual(self.events.last, 2)

    def test_only_the_last_are_kept(self) -> None:
        for number in range(KEPT_EVENTS + 5):
            self.events.note("drain", str(number))
        self.assertEqual(len(self.events.since(0)), KEPT_EVENTS)
        self.assertEqual(self.events.since(0)[0].number, 6)

    def test_strangers_push_out_nothing_grave(self) -> None:
        """Two hundred of them, refused in a second, pushed out all else."""
        self.events.note("reload", "a")
        for _ in range(KEPT_EVENTS * 3):
            self.events(Rejected("a", 400, "b"))
            self.events(Failed("a", 1002, "b"))
            self.events(Slowed("a"))
            self.events(Refused(None, "me", "a", 4002, "no"))
        self.events.note("drain", "b")
        kinds = [kind for kind, _ in self.texts()]
        self.assertEqual((kinds[0], kinds[-1]), ("reload", "drain"))
        self.assertEqual(len(kinds), KEPT_EVENTS + 2)
        numbers = [event.number for event in self.events.since(0)]
        self.assertEqual(numbers, sorted(numbers))
        self.assertEqual(self.events.since(self.events.last - 1)[0].kind, "drain")

    def test_repeats_and_debugging_are_left_out(self) -> None:
        for event in (
            Replaced(A, "a", "b", FIGHT_TAKEOVERS + 1),
            shielded(count=2),
            Probed("a"),
            Skipped("a", "b"),
        ):
            self.events(event)
        self.assertEqual(self.texts(), [])

    def test_have_words(self) -> None:
        for event in (
            Replaced(A, "192.0.2.1:1", "192.0.2.2:1"),
            Fight(A, "192.0.2.1:1", "192.0.2.2:1", FIGHT_TAKEOVERS),
            Refused(A, "me", "a", 4002, "no", EVIL),
            Deafness(A, EVIL, "me", "a", 1.0),
            Rejected("a", 400, EVIL),
            Failed("a", 1002, EVIL),
            Slowed("a"),
            Operator("drain", "local"),
            Operator("disconnect", "local", A),
            shielded(count=1),
        ):
            self.events(event)
        self.assertEqual(
            self.texts(),
            [
                (
                    "replaced",
                    f"{A} has registered again from 192.0.2.1:1; it was held from "
                    "192.0.2.2:1",
                ),
                (
                    "fight",
                    f"{A} registers again and again, from 192.0.2.1:1; it was held "
                    "from 192.0.2.2:1",
                ),
                ("refused", "a with 4002: no"),
                ("deaf", f"{A} at a answers no offers since it came back: restart it"),
                ("rejected", f"a with HTTP 400: {EVIL!a}"),
                ("failed", f"a with 1002: {EVIL!a}"),
                ("slowed", "a sends more than [limits] allows"),
                ("operator", "drain is asked for from local"),
                ("operator", f"disconnect of {A} is asked for from local"),
                (
                    "shielded",
                    f"{B} from an offer of {A} at a: {DropReason.DUPLICATE.value}",
                ),
            ],
        )


def shielded(count: int) -> Shielded:
    """A dropped message of a client."""
    why = DropReason.DUPLICATE
    return Shielded(
        kind="offer",
        source=A,
        target=B,
        user="me",
        address="a",
        reason=why.value,
        why=why,
        count=count,
    )
