"""A reactor with a monotonic clock."""

from __future__ import annotations

from twisted.internet.base import ReactorBase
from twisted.internet.task import LoopingCall
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.net.clock import use_monotonic_time


class _Reactor(ReactorBase):
    """Runs timers only."""

    def installWaker(self) -> None:  # noqa: N802
        """There is nobody to wake it."""


class MonotonicTimeTests(SynchronousTestCase):
    """The change from the wall clock."""

    def setUp(self) -> None:
        self.wall, self.steady = 1.7e9, 5.0
        self.reactor = _Reactor()
        self.reactor.seconds = lambda: self.wall
        self.called: list[str] = []
        self.monotonic = lambda: self.steady

    def change(self) -> None:
        use_monotonic_time(self.reactor, self.monotonic)

    def call(self, seconds: float, name: str) -> None:
        self.reactor.callLater(seconds, self.called.append, name)

    def test_change_keeps_the_distance_and_order_of_calls(self) -> None:
        for seconds, name in ((3, "c"), (1, "a"), (2, "b")):
            self.call(seconds, name)
        self.reactor.callLater(0.5, self.called.append, "never").cancel()
        self.reactor.runUntilCurrent()
        self.call(2.5, "new")
        self.change()
        self.call(1.5, "between")
        for _ in range(6):
            self.steady += 0.5
            self.reactor.runUntilCurrent()
        self.assertEqual(self.called, ["a", "between", "b", "new", "c"])

    def test_call_before_the_change_can_be_reset(self) -> None:
        call = self.reactor.callLater(3, self.called.append, "a")
        self.change()
        call.reset(1)
        self.assertEqual(self.reactor.timeout(), 1)
        call.delay(1)
        self.steady += 1
        self.reactor.runUntilCurrent()
        self.assertEqual((self.called, self.reactor.timeout()), ([], 1))

    def test_looping_call_ignores_steps_of_the_wall_clock(self) -> None:
        self.change()
        repeated = LoopingCall(self.called.append, "a")
        repeated.clock = self.reactor
        repeated.start(1, now=False)
        for step in (-3600, 3600, -1.5, 60):
            self.wall += step
            self.steady += 1
            self.reactor.runUntilCurrent()
        self.assertEqual(self.called, 4 * ["a"])
        repeated.stop()

    def test_change_to_the_same_clock_moves_nothing(self) -> None:
        self.change()
        self.call(1, "a")
        self.change()
        self.assertEqual(self.reactor.timeout(), 1)
