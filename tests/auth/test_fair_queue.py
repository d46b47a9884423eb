"""The semaphore with a fair queue."""

from __future__ import annotations

from functools import partial

from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth.fair_queue import MAX_GRANTS_PER_TURN, FairSemaphore
from tests.support.clock import EagerClock


class TurnsTests(SynchronousTestCase):
    """Order, limits and cancellation."""

    def test_come_in_order_of_arrival(self) -> None:
        turns, came = FairSemaphore(2, EagerClock()), list[int]()
        waiting = [turns.acquire("a") for _ in range(5)]
        for number, turn in enumerate(waiting):
            turn.addCallback(lambda _, number: came.append(number), number)
        self.assertEqual(came, [0, 1])
        turns.release()
        self.assertEqual(came, [0, 1, 2])
        waiting[3].cancel()
        self.failureResultOf(waiting[3], CancelledError)
        turns.release()
        self.assertEqual(came, [0, 1, 2, 4])

    def test_are_given_back_by_thousands_at_once(self) -> None:
        turns, came = FairSemaphore(1, EagerClock()), list[int]()
        self.successResultOf(turns.acquire("a"))

        def come(_: None, number: int) -> None:
            came.append(number)
            turns.release()

        for number in range(5000):
            turns.acquire("a").addCallback(come, number)
        turns.release()
        self.assertEqual(came, list(range(5000)))
        self.successResultOf(turns.acquire("a"))
        self.assertNoResult(turns.acquire("a"))

    def test_a_greedy_source_delays_another_by_one_turn(self) -> None:
        turns, came = FairSemaphore(1, EagerClock()), list[str]()

        def arrive(source: str, _: None) -> None:
            came.append(source)

        self.successResultOf(turns.acquire("greedy"))
        for source in ("greedy", "greedy", "greedy", "modest", "greedy", "modest"):
            turns.acquire(source).addCallback(partial(arrive, source))
        for _ in range(6):
            turns.release()
        self.assertEqual(
            came, ["greedy", "modest", "greedy", "modest", "greedy", "greedy"]
        )

    def test_who_leaves_the_queue_gets_no_turn(self) -> None:
        turns, came = FairSemaphore(1, EagerClock()), list[str]()
        self.successResultOf(turns.acquire("a"))
        leaving = turns.acquire("a")
        turns.acquire("b").addCallback(lambda _: came.append("b"))
        leaving.cancel()
        self.failureResultOf(leaving, CancelledError)
        turns.release()
        self.assertEqual(came, ["b"])
        turns.release()
        self.successResultOf(turns.acquire("c"))

    def test_only_some_set_off_in_one_turn_of_the_reactor(self) -> None:
        clock = Clock()
        turns, came = FairSemaphore(100, clock), list[int]()
        for number in range(2 * MAX_GRANTS_PER_TURN + 1):
            turns.acquire("a").addCallback(lambda _, who: came.append(who), number)
        self.assertEqual(came, list(range(MAX_GRANTS_PER_TURN)))
        (next_turn,) = clock.getDelayedCalls()
        self.assertEqual(next_turn.getTime(), clock.seconds())
        clock.advance(0)
        self.assertEqual(came, list(range(2 * MAX_GRANTS_PER_TURN + 1)))
        clock.advance(0)
        self.assertEqual(clock.getDelayedCalls(), [])
