"""Timeouts with one timer, compared with a list; heartbeats."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.net.timers import (
    CATCH_UP_SECONDS,
    LATE_SECONDS,
    Heartbeat,
    TimeoutQueue,
)
from tests.support.clock import EagerClock

SECONDS = 10


class TickingClock(Clock):
    """A clock that goes on with each look."""

    def seconds(self) -> float:
        self.rightNow += 2**-20
        return self.rightNow


class TimeoutQueueTests(SynchronousTestCase):
    """Timeouts of ten seconds."""

    def setUp(self) -> None:
        self.serve(Clock())

    def serve(self, clock: Clock) -> None:
        self.clock = clock
        self.met: list[str] = []
        self.actions: dict[str, Callable[[], object]] = {}
        self.queue: TimeoutQueue[str] = TimeoutQueue(clock, SECONDS, self.expired)

    def expired(self, item: str) -> None:
        self.met.append(item)
        self.actions.pop(item, lambda: None)()

    @property
    def timers(self) -> list[float]:
        return [call.getTime() for call in self.clock.getDelayedCalls()]

    def test_timeout_comes_after_its_time(self) -> None:
        self.queue.begin("a")
        self.clock.advance(SECONDS - 1)
        self.assertEqual((self.met, len(self.queue)), ([], 1))
        self.clock.advance(1)
        self.assertEqual((self.met, len(self.queue)), (["a"], 0))
        self.assertEqual(self.timers, [])

    def test_change_of_an_empty_queue_starts_no_timer(self) -> None:
        self.queue.change(2 * SECONDS, 1)
        self.assertEqual(self.timers, [])
        self.queue.begin("a")
        self.queue.end("a")
        self.queue.change(SECONDS, 1)
        self.assertEqual(self.timers, [SECONDS])

    def test_timeouts_share_one_timer(self) -> None:
        for number in range(100):
            self.queue.begin(str(number))
            self.clock.advance(0.01)
        self.assertEqual(self.timers, [SECONDS])

    def test_stop_leaves_no_timeout(self) -> None:
        self.queue.begin("a")
        self.queue.stop()
        self.assertEqual((self.timers, len(self.queue)), ([], 0))
        self.queue.stop()
        self.queue.begin("b")
        self.assertEqual(self.timers, [SECONDS])

    def test_timeout_begun_anew_by_itself_has_its_whole_length(self) -> None:
        self.serve(TickingClock())
        self.queue.begin("a")
        self.actions["a"] = lambda: self.queue.begin("a")
        self.clock.advance(SECONDS + 1)
        self.assertEqual((self.met, len(self.queue)), (["a"], 1))
        self.clock.advance(SECONDS - 1)
        self.assertEqual(self.met, ["a"])
        self.clock.advance(2)
        self.assertEqual(self.met, ["a", "a"])

    def held_up(self, seconds: float) -> EagerClock:
        """Timeouts of "a" and "b", late after a pause of the process."""
        clock = EagerClock()
        self.serve(clock)
        self.queue.begin("a")
        self.queue.begin("b")
        clock.turn(SECONDS + seconds)
        return clock

    def test_timeout_after_a_pause_waits_for_a_turn_of_reading(self) -> None:
        self.held_up(LATE_SECONDS)
        self.assertEqual((self.met, self.timers), (["a", "b"], []))
        for standstill in (0, 10 * LATE_SECONDS):
            clock = self.held_up(LATE_SECONDS + 0.5)
            self.assertEqual((self.met, len(self.timers)), ([], 1))
            # Here sockets are read.
            self.queue.end("a")
            self.queue.begin("c")
            clock.turn(standstill)
            self.assertEqual(self.met[:1], ["b"])
            clock.turn(SECONDS)
            self.assertEqual((self.met, self.timers), (["b", "c"], []))

    def test_timeout_with_a_backlog_waits_within_a_bound(self) -> None:
        for turns, left in ((3, 0), (99, 1)):
            clock, met = EagerClock(), list[str]()
            busy = [False, *[True] * turns]
            queue = TimeoutQueue(clock, SECONDS, met.append, busy=busy.pop)
            queue.begin("a")
            clock.turn(SECONDS + LATE_SECONDS + 0.5)
            for _ in range(3):
                clock.turn(CATCH_UP_SECONDS / 4)
                self.assertEqual(met, [])
            clock.turn(CATCH_UP_SECONDS / 3)
            self.assertEqual((met, bool(busy)), (["a"], bool(left)))

    def test_late_timeout_can_be_stopped_and_changed(self) -> None:
        self.held_up(LATE_SECONDS + 0.5)
        self.queue.stop()
        self.assertEqual((self.met, self.timers), ([], []))
        clock = self.held_up(LATE_SECONDS + 0.5)
        self.queue.change(2 * SECONDS, 0.0)
        clock.turn()
        self.assertEqual((self.met, self.timers), (["a", "b"], []))

    @given(st.lists(st.integers(0, 5), max_size=60), st.integers(1, SECONDS))
    def test_slack_delays_timeouts_and_saves_checks(
        self, gaps: list[int], slack: int
    ) -> None:
        clock, late, looks = Clock(), [], []
        ends: dict[int, float] = {}

        def expired(item: int) -> None:
            late.append(clock.seconds() - ends.pop(item))
            looks.append(clock.seconds())

        queue = TimeoutQueue(clock, SECONDS, expired, slack)
        for item, gap in enumerate(gaps):
            ends[item] = clock.seconds() + SECONDS
            queue.begin(item)
            clock.pump([1] * gap)
        clock.pump([1] * (2 * SECONDS))
        self.assertEqual((ends, clock.getDelayedCalls()), ({}, []))
        self.assertTrue(all(0 <= seconds < slack for seconds in late), late)
        self.assertEqual(len(late), len(gaps))
        times = sorted(set(looks))
        self.assertTrue(all(b - a >= slack for a, b in pairwise(times)), times)

    def test_change_keeps_the_order_and_the_share(self) -> None:
        self.queue.begin("a")
        self.clock.advance(SECONDS / 2)
        self.queue.begin("b")
        self.queue.change(4 * SECONDS, 0.0)
        self.queue.begin("c")
        self.assertEqual(self.timers, [2.5 * SECONDS])
        self.clock.advance(2 * SECONDS)
        self.assertEqual((self.met, self.timers), (["a"], [4.5 * SECONDS]))
        self.queue.change(SECONDS, 0.0)
        self.assertEqual((self.met, self.timers), (["a"], [3 * SECONDS]))
        self.clock.advance(SECONDS / 2)
        self.assertEqual((self.met, self.timers), (["a", "b", "c"], []))

    def test_queue_behaves_as_a_list(self) -> None:
        self.addCleanup(self.flushLoggedErrors, ZeroDivisionError)
        run_state_machine_as_test(
            TimeoutQueueMachine, settings=settings(max_examples=100)
        )


ITEMS = st.sampled_from("abcde")

ACTIONS = ("nothing", "begin", "end", "stop", "fail")


class HeartbeatTests(SynchronousTestCase):
    """A beat twice a second."""

    def setUp(self) -> None:
        self.clock = EagerClock()
        self.beats: list[float] = []
        self.busy = False
        self.heart = Heartbeat(self.clock, 0.5, self.beat, lambda: self.busy)
        self.heart.start()

    def stop_it(self) -> None:
        self.heart.stop()

    def fail_to_beat(self) -> None:
        raise IndexError

    def beat(self) -> None:
        self.beats.append(self.clock.seconds())

    def test_heartbeat_in_time_beats_at_its_interval(self) -> None:
        for _ in range(4):
            self.clock.turn(0.25)
        self.assertEqual(self.beats, [0.5, 1.0])
        self.assertFalse(self.heart.overdue)

    def test_heartbeat_after_a_standstill_waits_for_a_turn_of_reading(self) -> None:
        self.clock.turn(30)
        self.assertEqual((self.beats, self.heart.overdue), ([], True))
        self.clock.turn()
        self.assertEqual((self.beats, self.heart.overdue), ([30], False))
        self.clock.turn(0.5)
        self.assertEqual(self.beats, [30, 30.5])

    def test_heartbeat_with_a_backlog_waits_within_a_bound(self) -> None:
        self.busy = True
        self.clock.turn(30)
        for _ in range(3):
            self.clock.turn(CATCH_UP_SECONDS / 4)
            self.assertEqual((self.beats, self.heart.overdue), ([], True))
        self.clock.turn(CATCH_UP_SECONDS / 4)
        self.assertEqual(self.beats, [30 + CATCH_UP_SECONDS])

    def test_heartbeat_after_a_failed_beat_goes_on(self) -> None:
        self.heart.stop()
        self.heart = Heartbeat(self.clock, 0.5, self.fail_to_beat)
        self.heart.start()
        self.clock.turn(0.5)
        self.assertEqual(len(self.flushLoggedErrors(IndexError)), 1)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_heartbeat_stopped_at_any_moment_leaves_nothing(self) -> None:
        self.clock.turn(30)
        self.heart.stop()
        self.heart.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertFalse(self.heart.overdue)
        self.heart = Heartbeat(self.clock, 0.5, self.stop_it)
        self.heart.start()
        self.clock.turn(0.5)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class TimeoutQueueMachine(RuleBasedStateMachine):
    """Timeouts begin, end, and act when they expire."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.queue: TimeoutQueue[str] = TimeoutQueue(self.clock, SECONDS, self.expired)
        self.actions: dict[str, tuple[str, str]] = {}
        self.met: list[str] = []
        # The list: begun items with their ends.
        self.now, self.seconds = 0.0, SECONDS
        self.ends: list[tuple[float, str]] = []
        self.expected: list[str] = []

    def expired(self, item: str) -> None:
        self.met.append(item)
        action, other = self.actions.pop(item, ("nothing", item))
        if action == "begin":
            self.queue.end(other)
            self.queue.begin(other)
        elif action == "end":
            self.queue.end(other)
        elif action == "stop":
            self.queue.stop()
            self.queue.begin(other)
        elif action == "fail":
            raise ZeroDivisionError

    def model_begin(self, item: str) -> None:
        self.model_end(item)
        self.ends.append((self.now + self.seconds, item))

    def model_end(self, item: str) -> None:
        self.ends = [entry for entry in self.ends if entry[1] != item]

    def model_expire(self, actions: dict[str, tuple[str, str]]) -> None:
        while due := [entry for entry in self.ends if entry[0] <= self.now]:
            item = due[0][1]
            self.model_end(item)
            self.expected.append(item)
            action, other = actions.pop(item, ("nothing", item))
            if action == "begin":
                self.model_begin(other)
            elif action == "end":
                self.model_end(other)
            elif action == "stop":
                self.ends = []
                self.model_begin(other)

    @rule(item=ITEMS)
    def begin(self, item: str) -> None:
        self.queue.end(item)
        self.queue.begin(item)
        self.model_begin(item)

    @rule(item=ITEMS)
    def end(self, item: str) -> None:
        self.queue.end(item)
        self.model_end(item)

    @rule(item=ITEMS, action=st.sampled_from(ACTIONS), other=ITEMS)
    def will_do(self, item: str, action: str, other: str) -> None:
        self.actions[item] = (action, other)

    @rule(seconds=st.sampled_from([SECONDS // 2, SECONDS, 2 * SECONDS]))
    def change(self, seconds: int) -> None:
        scale = seconds / self.seconds
        self.ends = [(self.now + (e - self.now) * scale, i) for e, i in self.ends]
        self.seconds = seconds
        self.queue.change(seconds, 0.0)

    @rule(seconds=st.integers(0, SECONDS + 2))
    def pass_time(self, seconds: float) -> None:
        actions = dict(self.actions)
        self.now += seconds
        self.clock.advance(seconds)
        self.model_expire(actions)

    @precondition(lambda self: self.ends)
    @rule()
    def wait_for_the_next(self) -> None:
        self.pass_time(self.ends[0][0] - self.now)

    @rule()
    def stop(self) -> None:
        self.queue.stop()
        self.ends = []
        assert self.clock.getDelayedCalls() == []

    @invariant()
    def all_came_in_their_order(self) -> None:
        assert self.met == self.expected
        assert len(self.queue) == len(self.ends)

    @invariant()
    def there_is_one_timer(self) -> None:
        timers = [call.getTime() for call in self.clock.getDelayedCalls()]
        assert len(timers) <= 1
        if self.ends:
            # It may be for one that has ended since.
            assert timers[0] <= self.ends[0][0]
