"""The last things that happened."""

from __future__ import annotations

from http import HTTPStatus

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.admin.events import KEPT, Events
from proxyrelay.errors import Forbidden
from proxyrelay.observe.journal import FIGHT
from proxyrelay.switchboard.messages import PeerConnection
from proxyrelay.switchboard.offers import DropReason
from proxyrelay.switchboard.peer import Registration
from tests.support.recording import A, B, RecordingPeer

EVIL = "a\x1b[2J\n\u202e"


class EventsTests(SynchronousTestCase):
    """What is worth a look."""

    def setUp(self) -> None:
        self.now = 5.0
        self.events = Events(lambda: self.now)

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
        for number in range(KEPT + 5):
            self.events.note("drain", str(number))
        self.assertEqual(len(self.events.since(0)), KEPT)
        self.assertEqual(self.events.since(0)[0].number, 6)

    def test_strangers_push_out_nothing_grave(self) -> None:
        """Two hundred of them, refused in a second, pushed out all else."""
        self.events.note("reload", "a")
        for _ in range(KEPT * 3):
            self.events.rejected("a", HTTPStatus.BAD_REQUEST, "b")
            self.events.failed("a", 1002, "b")
            self.events.slowed("a")
            self.events.refused(RecordingPeer(), Forbidden("no"))
        self.events.note("drain", "b")
        kinds = [kind for kind, _ in self.texts()]
        self.assertEqual((kinds[0], kinds[-1]), ("reload", "drain"))
        self.assertEqual(len(kinds), KEPT + 2)
        numbers = [event.number for event in self.events.since(0)]
        self.assertEqual(numbers, sorted(numbers))
        self.assertEqual(self.events.since(self.events.last - 1)[0].kind, "drain")

    def test_a_fight_is_one(self) -> None:
        for rounds in range(1, FIGHT + 3):
            self.events.replaced(RecordingPeer(), RecordingPeer(), A, rounds)
        kinds = [kind for kind, _ in self.texts()]
        self.assertEqual(kinds, ["replaced"] * (FIGHT - 1) + ["fight"])

    def test_of_what_is_dropped_the_first_counts(self) -> None:
        peer = RecordingPeer(registration=Registration(A, "a", False, 0.0))
        message = PeerConnection(A, "a", B, "offer", "v=0")
        assert peer.registration is not None
        for dropped in (1, 2):
            peer.registration.dropped = dropped
            self.events.shielded(peer, message, DropReason.DUPLICATE)
        self.assertEqual([kind for kind, _ in self.texts()], ["shielded"])

    def test_have_words(self) -> None:
        peer = RecordingPeer(registration=Registration(A, EVIL, False, 0.0))
        assert peer.registration is not None
        self.events.refused(peer, Forbidden("no"))
        self.events.deaf(peer, peer.registration)
        self.events.rejected("a", HTTPStatus.BAD_REQUEST, EVIL)
        self.events.failed("a", 1002, EVIL)
        self.events.slowed("a")
        kinds = [kind for kind, _ in self.texts()]
        self.assertEqual(kinds, ["refused", "deaf", "rejected", "failed", "slowed"])
        for kind, text in self.texts():
            self.assertTrue(text.isprintable(), kind)
        self.assertIn("4002", self.texts()[0][1])
