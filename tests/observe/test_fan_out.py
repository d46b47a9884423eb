"""Several observers in the place of one."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.observe.fan_out import fan_out, fan_out_forwards
from proxyrelay.switchboard.events import Slowed
from proxyrelay.switchboard.messages import PeerConnection
from tests.support.recording import A, B, RecordingJournal, RecordingPeer

OFFER = PeerConnection(A, "a", B, "offer", "v=0")


def failing(*event: Any) -> None:
    """Fail at whatever happens."""
    raise RuntimeError(event)


class FanOutTests(SynchronousTestCase):
    """All observers hear of everything, and one that fails harms nobody."""

    def setUp(self) -> None:
        self.one, self.other = RecordingJournal(), RecordingJournal()

    def test_an_event_reaches_all_observers(self) -> None:
        fan_out((self.one, failing, self.other))(Slowed("a"))
        self.assertEqual(self.one.events, [Slowed("a")])
        self.assertEqual(self.other.events, [Slowed("a")])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_a_message_reaches_all_observers(self) -> None:
        forwarded = fan_out_forwards(
            (self.one.forwarded, self.other.forwarded, failing)
        )
        forwarded(RecordingPeer(), RecordingPeer(), OFFER, None)
        self.assertEqual(self.one.names, ["forwarded"])
        self.assertEqual(self.other.events, self.one.events)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_a_message_costs_a_single_observer_no_further_call(self) -> None:
        self.assertIs(fan_out_forwards((failing,)), failing)
