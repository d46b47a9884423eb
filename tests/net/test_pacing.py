"""Work in turns."""

from __future__ import annotations

from functools import partial

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.net.pacing import BACKLOG_HOLD_SECONDS, TurnBudget


class PaceTests(SynchronousTestCase):
    """A burst of work."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.pace = TurnBudget(self.clock, 2)
        self.done: list[str] = []

    def do(self, names: str) -> None:
        for name in names:
            self.pace.do(partial(self.done.append, name))

    def turn(self) -> None:
        """One turn of the reactor: what is due now, and not what that asks for."""
        for call in list(self.clock.calls):
            work = call.func
            call.cancel()
            work()

    def test_is_spread_over_turns_in_its_order(self) -> None:
        self.do("abcde")
        self.assertEqual(self.done, ["a", "b"])
        self.turn()
        self.assertEqual(self.done, ["a", "b", "c", "d"])
        self.do("f")
        self.assertEqual(self.done, ["a", "b", "c", "d"])
        self.turn()
        self.assertEqual(self.done, ["a", "b", "c", "d", "e", "f"])

    def test_leaves_nothing_behind(self) -> None:
        self.do("ab")
        self.turn()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.do("c")
        self.assertEqual(self.done, ["a", "b", "c"])

    def test_work_that_comes_back_by_itself_is_counted(self) -> None:
        self.assertEqual(
            [self.pace.try_acquire() for _ in range(3)], [True, True, False]
        )
        self.assertTrue(self.pace.full)
        self.do("a")
        self.assertEqual(self.done, [])
        self.turn()
        # Those that have a place go first.
        self.assertEqual((self.done, self.pace.try_acquire()), (["a"], True))

    def test_is_behind_for_a_moment_after_a_refusal(self) -> None:
        self.pace.try_acquire()
        self.pace.try_acquire()
        self.assertFalse(self.pace.backlogged)
        self.pace.try_acquire()
        self.assertTrue(self.pace.backlogged)
        self.clock.advance(BACKLOG_HOLD_SECONDS * 0.9)
        self.assertTrue(self.pace.backlogged)
        self.clock.advance(BACKLOG_HOLD_SECONDS * 0.2)
        self.assertFalse(self.pace.backlogged)

    def test_goes_on_after_a_failure(self) -> None:
        def fail() -> None:
            raise IndexError

        self.pace.do(fail)
        self.do("ab")
        self.turn()
        self.assertEqual(self.done, ["a", "b"])
        self.assertEqual(len(self.flushLoggedErrors(IndexError)), 1)

    def test_work_that_asks_for_more_waits_for_its_place(self) -> None:
        self.pace.do(lambda: self.do("bc"))
        self.assertEqual(self.done, ["b"])
        self.turn()
        self.assertEqual(self.done, ["b", "c"])
