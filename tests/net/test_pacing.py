"""Work over turns of the reactor."""

from __future__ import annotations

from functools import partial

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.net.pacing import BACKLOG_HOLD_SECONDS, TurnBudget


class TurnBudgetTests(SynchronousTestCase):
    """A burst of work."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.budget = TurnBudget(self.clock, 2)
        self.done: list[str] = []

    def do(self, names: str) -> None:
        for name in names:
            self.budget.do(partial(self.done.append, name))

    def turn(self) -> None:
        """Run the calls that are due now, and none that they add."""
        for call in list(self.clock.calls):
            work = call.func
            call.cancel()
            work()

    def test_work_is_spread_over_turns_in_order(self) -> None:
        self.do("abcde")
        self.assertEqual(self.done, ["a", "b"])
        self.turn()
        self.assertEqual(self.done, ["a", "b", "c", "d"])
        self.do("f")
        self.assertEqual(self.done, ["a", "b", "c", "d"])
        self.turn()
        self.assertEqual(self.done, ["a", "b", "c", "d", "e", "f"])

    def test_work_done_leaves_no_timer(self) -> None:
        self.do("ab")
        self.turn()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.do("c")
        self.assertEqual(self.done, ["a", "b", "c"])

    def test_acquired_work_comes_after_the_queue(self) -> None:
        self.assertEqual(
            [self.budget.try_acquire() for _ in range(3)], [True, True, False]
        )
        self.assertTrue(self.budget.full)
        self.do("a")
        self.assertEqual(self.done, [])
        self.turn()
        # Those that have a place go first.
        self.assertEqual((self.done, self.budget.try_acquire()), (["a"], True))

    def test_refusal_counts_as_a_backlog_for_a_moment(self) -> None:
        self.budget.try_acquire()
        self.budget.try_acquire()
        self.assertFalse(self.budget.backlogged)
        self.budget.try_acquire()
        self.assertTrue(self.budget.backlogged)
        self.clock.advance(BACKLOG_HOLD_SECONDS * 0.9)
        self.assertTrue(self.budget.backlogged)
        self.clock.advance(BACKLOG_HOLD_SECONDS * 0.2)
        self.assertFalse(self.budget.backlogged)

    def test_failed_work_stops_no_other(self) -> None:
        def fail() -> None:
            raise IndexError

        self.budget.do(fail)
        self.do("ab")
        self.turn()
        self.assertEqual(self.done, ["a", "b"])
        self.assertEqual(len(self.flushLoggedErrors(IndexError)), 1)

    def test_work_queued_by_work_waits_for_its_place(self) -> None:
        self.budget.do(lambda: self.do("bc"))
        self.assertEqual(self.done, ["b"])
        self.turn()
        self.assertEqual(self.done, ["b", "c"])
