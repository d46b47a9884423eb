"""Calls at an interval that a reload may change."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.net.repeat import Repeat
from tests.support.capture import Capture


class RepeatTests(SynchronousTestCase):
    """A call that fails when it is told to."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.times: list[float] = []
        self.repeat = Repeat(self.call, self.clock, "no more calls")
        self.fails = False

    def call(self) -> None:
        if self.fails:
            raise ValueError("once")
        self.times.append(self.clock.seconds())

    def test_repeat_interval_changed_or_ended_is_kept(self) -> None:
        self.repeat.every(2)
        self.clock.pump([1, 1])
        self.repeat.every(2)
        self.clock.pump([1, 1])
        self.repeat.every(3)
        self.clock.pump([1, 1, 1])
        self.repeat.every(0)
        self.assertEqual((self.times, self.clock.getDelayedCalls()), ([2, 4, 7], []))
        self.repeat.every(5, now=True)
        self.assertEqual(self.times, [2, 4, 7, 7])

    def test_repeat_failing_is_logged_and_ends(self) -> None:
        captured = Capture(self)
        self.repeat.every(1)
        self.fails = True
        self.clock.advance(1)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(captured.lines(), ["no more calls"])
        self.assertEqual(self.clock.getDelayedCalls(), [])
