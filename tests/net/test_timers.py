"""Many deadlines with one timer, beside a list that is looked through each time."""

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
    """A clock that goes on while one looks at it, as all but those of tests do."""

    def seconds(self) -> float:
        self.rightNow += 2**-20
        return self.rightNow


class DeadlinesTests(SynchronousTestCase):
    """Deadlines of ten seconds."""

    def setUp(self) -> None:
        self.serve(Clock())

    def serve(self, clock: Clock) -> None:
        self.clock = clock
        self.met: list[str] = []
        self.actions: dict[str, Callable[[], object]] = {}
        self.deadlines: TimeoutQueue[str] = TimeoutQueue(clock, SECONDS, self.expired)

    def expired(self, item: str) -> None:
        self.met.append(item)
        self.actions.pop(item, lambda: None)()

    @property
    def timers(self) -> list[float]:
        """When the clock is to call."""
        return [call.getTime() for call in self.clock.getDelayedCalls()]

    def test_come_after_their_time_and_not_before(self) -> None:
        self.deadlines.begin("a")
        self.clock.advance(SECONDS - 1)
        self.assertEqual((self.met, len(self.deadlines)), ([], 1))
        self.clock.advance(1)
        self.assertEqual((self.met, len(self.deadlines)), (["a"], 0))
        self.assertEqual(self.timers, [])

    def test_come_in_the_order_in_which_they_began(self) -> None:
        for item in "abc":
            self.deadlines.begin(item)
            self.clock.advance(1)
        self.assertEqual(self.timers, [SECONDS])
        self.clock.advance(SECONDS - 3)
        self.assertEqual((self.met, self.timers), (["a"], [SECONDS + 1]))
        self.clock.advance(SECONDS)
        self.assertEqual(self.met, ["a", "b", "c"])

    def test_that_ended_do_not_come(self) -> None:
        self.deadlines.begin("a")
        self.clock.advance(1)
        self.deadlines.begin("b")
        self.deadlines.end("a")
        self.deadlines.end("never begun")
        self.clock.advance(SECONDS - 1)
        self.assertEqual((self.met, self.timers), ([], [SECONDS + 1]))
        self.clock.advance(1)
        self.assertEqual(self.met, ["b"])

    def test_begin_anew_behind_the_others(self) -> None:
        self.deadlines.begin("a")
        self.deadlines.begin("b")
        self.clock.advance(1)
        self.deadlines.end("a")
        self.deadlines.begin("a")
        self.clock.advance(SECONDS - 1)
        self.assertEqual(self.met, ["b"])
        self.clock.advance(1)
        self.assertEqual(self.met, ["b", "a"])

    def test_may_become_shorter_or_longer(self) -> None:
        for seconds, ends in ((2 * SECONDS, [15, 21]), (SECONDS / 10, [5.5, 5.8])):
            self.serve(Clock())
            self.deadlines.begin("a")
            self.clock.advance(3)
            self.deadlines.begin("b")
            self.clock.advance(2)
            self.deadlines.change(seconds, 0)
            self.assertEqual((self.met, self.timers), ([], [ends[0]]))
            self.clock.advance(ends[0] - 5)
            self.assertEqual((self.met, self.timers), (["a"], [ends[1]]))
            self.deadlines.begin("c")
            self.clock.advance(ends[1] - ends[0])
            self.assertEqual(self.met, ["a", "b"])
            self.clock.advance(seconds)
            self.assertEqual(self.met, ["a", "b", "c"])

    def test_may_change_when_there_are_none(self) -> None:
        self.deadlines.change(2 * SECONDS, 1)
        self.assertEqual(self.timers, [])
        self.deadlines.begin("a")
        self.deadlines.end("a")
        self.deadlines.change(SECONDS, 1)
        self.assertEqual(self.timers, [SECONDS])

    def test_many_have_one_timer(self) -> None:
        for number in range(100):
            self.deadlines.begin(str(number))
            self.clock.advance(0.01)
        self.assertEqual(self.timers, [SECONDS])

    def test_none_is_left_once_stopped(self) -> None:
        self.deadlines.begin("a")
        self.deadlines.stop()
        self.assertEqual((self.timers, len(self.deadlines)), ([], 0))
        self.deadlines.stop()
        self.deadlines.begin("b")
        self.assertEqual(self.timers, [SECONDS])

    def test_one_may_begin_anew_when_it_comes(self) -> None:
        self.deadlines.begin("a")
        self.actions["a"] = lambda: self.deadlines.begin("a")
        self.clock.advance(SECONDS)
        self.assertEqual((self.met, self.timers), (["a"], [2 * SECONDS]))
        self.clock.advance(SECONDS)
        self.assertEqual(self.met, ["a", "a"])

    def test_one_that_begins_anew_lasts_as_long_while_the_clock_goes_on(self) -> None:
        self.serve(TickingClock())
        self.deadlines.begin("a")
        self.actions["a"] = lambda: self.deadlines.begin("a")
        self.clock.advance(SECONDS + 1)
        self.assertEqual((self.met, len(self.deadlines)), (["a"], 1))
        self.clock.advance(SECONDS - 1)
        self.assertEqual(self.met, ["a"])
        self.clock.advance(2)
        self.assertEqual(self.met, ["a", "a"])

    def test_one_may_end_another_that_is_due(self) -> None:
        for item in "abc":
            self.deadlines.begin(item)
        self.actions["a"] = lambda: self.deadlines.end("b")
        self.clock.advance(SECONDS)
        self.assertEqual(self.met, ["a", "c"])

    def test_one_may_stop_them_all(self) -> None:
        self.deadlines.begin("a")
        self.deadlines.begin("b")
        self.actions["a"] = self.deadlines.stop
        self.clock.advance(SECONDS)
        self.assertEqual((self.met, self.timers), (["a"], []))

    def test_one_may_stop_them_all_and_begin_another(self) -> None:
        def stop_and_begin() -> None:
            self.deadlines.stop()
            self.deadlines.begin("b")

        self.deadlines.begin("a")
        self.actions["a"] = stop_and_begin
        self.clock.advance(SECONDS)
        self.assertEqual((self.met, self.timers), (["a"], [2 * SECONDS]))

    def test_one_that_fails_holds_up_no_other(self) -> None:
        for item in "ab":
            self.deadlines.begin(item)
            self.clock.advance(1)
        self.deadlines.begin("c")
        self.actions["a"] = lambda: self.actions["a"]
        self.clock.advance(SECONDS - 1)
        self.assertEqual((self.met, self.timers), (["a", "b"], [SECONDS + 2]))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_a_clock_that_jumped_ahead_lets_all_come_at_once(self) -> None:
        for item in "ab":
            self.deadlines.begin(item)
            self.clock.advance(1)
        self.clock.advance(10_000)
        self.assertEqual((self.met, self.timers), (["a", "b"], []))

    def held_up(self, seconds: float) -> EagerClock:
        """Deadlines of "a" and "b", after the process stood still for so long."""
        clock = EagerClock()
        self.serve(clock)
        self.deadlines.begin("a")
        self.deadlines.begin("b")
        clock.turn(SECONDS + seconds)
        return clock

    def test_do_not_come_before_who_was_heard_meanwhile(self) -> None:
        clock = self.held_up(LATE_SECONDS + 0.5)
        self.assertEqual((self.met, len(self.timers)), ([], 1))
        # Here sockets are read.
        self.deadlines.end("a")
        self.deadlines.begin("c")
        clock.turn()
        self.assertEqual(self.met, ["b"])
        clock.turn(SECONDS)
        self.assertEqual((self.met, self.timers), (["b", "c"], []))

    def test_come_at_once_if_they_are_hardly_late(self) -> None:
        self.held_up(LATE_SECONDS)
        self.assertEqual((self.met, self.timers), (["a", "b"], []))

    def test_are_put_off_once(self) -> None:
        clock = self.held_up(LATE_SECONDS + 0.5)
        clock.turn(10 * LATE_SECONDS)
        self.assertEqual((self.met, self.timers), (["a", "b"], []))

    def test_wait_until_what_has_come_was_read(self) -> None:
        for turns, left in ((3, 0), (99, 1)):
            clock, met = EagerClock(), list[str]()
            busy = [False, *[True] * turns]
            deadlines = TimeoutQueue(clock, SECONDS, met.append, busy=busy.pop)
            deadlines.begin("a")
            clock.turn(SECONDS + LATE_SECONDS + 0.5)
            for _ in range(3):
                clock.turn(CATCH_UP_SECONDS / 4)
                self.assertEqual(met, [])
            clock.turn(CATCH_UP_SECONDS / 3)
            self.assertEqual((met, bool(busy)), (["a"], bool(left)))

    def test_that_are_put_off_can_be_stopped_and_changed(self) -> None:
        self.held_up(LATE_SECONDS + 0.5)
        self.deadlines.stop()
        self.assertEqual((self.met, self.timers), ([], []))
        clock = self.held_up(LATE_SECONDS + 0.5)
        self.deadlines.change(2 * SECONDS, 0.0)
        clock.turn()
        self.assertEqual((self.met, self.timers), (["a", "b"], []))

    @given(st.lists(st.integers(0, 5), max_size=60), st.integers(1, SECONDS))
    def test_slack_makes_them_late_and_looks_rare(
        self, gaps: list[int], slack: int
    ) -> None:
        clock, late, looks = Clock(), [], []
        ends: dict[int, float] = {}

        def expired(item: int) -> None:
            late.append(clock.seconds() - ends.pop(item))
            looks.append(clock.seconds())

        deadlines = TimeoutQueue(clock, SECONDS, expired, slack)
        for item, gap in enumerate(gaps):
            ends[item] = clock.seconds() + SECONDS
            deadlines.begin(item)
            clock.pump([1] * gap)
        clock.pump([1] * (2 * SECONDS))
        self.assertEqual((ends, clock.getDelayedCalls()), ({}, []))
        self.assertTrue(all(0 <= seconds < slack for seconds in late), late)
        self.assertEqual(len(late), len(gaps))
        times = sorted(set(looks))
        self.assertTrue(all(b - a >= slack for a, b in pairwise(times)), times)

    def test_of_another_length_keep_their_order_and_their_share(self) -> None:
        self.deadlines.begin("a")
        self.clock.advance(SECONDS / 2)
        self.deadlines.begin("b")
        self.deadlines.change(4 * SECONDS, 0.0)
        self.deadlines.begin("c")
        self.assertEqual(self.timers, [2.5 * SECONDS])
        self.clock.advance(2 * SECONDS)
        self.assertEqual((self.met, self.timers), (["a"], [4.5 * SECONDS]))
        self.deadlines.change(SECONDS, 0.0)
        self.assertEqual((self.met, self.timers), (["a"], [3 * SECONDS]))
        self.clock.advance(SECONDS / 2)
        self.assertEqual((self.met, self.timers), (["a", "b", "c"], []))

    def test_of_another_length_begin_later(self) -> None:
        self.deadlines.begin("a")
        self.deadlines.end("a")
        self.deadlines.change(1, 0.0)
        self.deadlines.begin("b")
        self.clock.advance(1)
        self.assertEqual(self.met, ["b"])

    def test_behave_as_a_list(self) -> None:
        self.addCleanup(self.flushLoggedErrors, ZeroDivisionError)
        run_state_machine_as_test(DeadlinesMachine, settings=settings(max_examples=100))


ITEMS = st.sampled_from("abcde")

ACTIONS = ("nothing", "begin", "end", "stop", "fail")


class HeartbeatTests(SynchronousTestCase):
    """A look twice a second."""

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


class DeadlinesMachine(RuleBasedStateMachine):
    """Deadlines begin, end, and do something when they come."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.deadlines: TimeoutQueue[str] = TimeoutQueue(
            self.clock, SECONDS, self.expired
        )
        self.actions: dict[str, tuple[str, str]] = {}
        self.met: list[str] = []
        # The list: what has begun, and when it comes.
        self.now, self.seconds = 0.0, SECONDS
        self.ends: list[tuple[float, str]] = []
        self.expected: list[str] = []

    def expired(self, item: str) -> None:
        self.met.append(item)
        action, other = self.actions.pop(item, ("nothing", item))
        if action == "begin":
            self.deadlines.end(other)
            self.deadlines.begin(other)
        elif action == "end":
            self.deadlines.end(other)
        elif action == "stop":
            self.deadlines.stop()
            self.deadlines.begin(other)
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
        self.deadlines.end(item)
        self.deadlines.begin(item)
        self.model_begin(item)

    @rule(item=ITEMS)
    def end(self, item: str) -> None:
        self.deadlines.end(item)
        self.model_end(item)

    @rule(item=ITEMS, action=st.sampled_from(ACTIONS), other=ITEMS)
    def will_do(self, item: str, action: str, other: str) -> None:
        self.actions[item] = (action, other)

    @rule(seconds=st.sampled_from([SECONDS // 2, SECONDS, 2 * SECONDS]))
    def change(self, seconds: int) -> None:
        scale = seconds / self.seconds
        self.ends = [(self.now + (e - self.now) * scale, i) for e, i in self.ends]
        self.seconds = seconds
        self.deadlines.change(seconds, 0.0)

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
        self.deadlines.stop()
        self.ends = []
        assert self.clock.getDelayedCalls() == []

    @invariant()
    def all_came_in_their_order(self) -> None:
        assert self.met == self.expected
        assert len(self.deadlines) == len(self.ends)

    @invariant()
    def there_is_one_timer(self) -> None:
        timers = [call.getTime() for call in self.clock.getDelayedCalls()]
        assert len(timers) <= 1
        if self.ends:
            # It may be for one that has ended since.
            assert timers[0] <= self.ends[0][0]
