"""Several observers in the place of one."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.observe.fan_out import fan_out, fan_out_forwards
from proxyrelay.switchboard.events import Slowed
from proxyrelay.switchboard.messages import PeerConnection
from tests.support.recording import A, B, RecordingObserver, RecordingPeer

OFFER = PeerConnection(A, "a", B, "offer", "v=0")


def failing(*event: Any) -> None:
    """Fail at whatever happens."""
    raise RuntimeError(event)


class FanOutTests(SynchronousTestCase):
    """One call for several observers."""

    def setUp(self) -> None:
        self.one, self.other = RecordingObserver(), RecordingObserver()

    def test_fan_out_one_fails_others_hear_the_event(self) -> None:
        fan_out((self.one, failing, self.other))(Slowed("a"))
        self.assertEqual([self.one.events, self.other.events], [[Slowed("a")]] * 2)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_fan_out_forwards_one_fails_others_hear_the_message(self) -> None:
        observers = self.one.forwarded, failing, self.other.forwarded
        tell = fan_out_forwards(observers)
        tell(RecordingPeer(), RecordingPeer(), OFFER, None)
        self.assertEqual([self.one.names, self.other.names], [["forwarded"]] * 2)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_fan_out_forwards_single_observer_costs_no_call(self) -> None:
        self.assertIs(fan_out_forwards((failing,)), failing)
