"""The circuit breaker: closed, open, and one probe."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth.circuit_breaker import (
    FAILURE_THRESHOLD,
    MAX_JITTER_SECONDS,
    MAX_PAUSE_SECONDS,
    MIN_PAUSE_SECONDS,
    CircuitBreaker,
)


def never() -> float:
    """Jitter of 0."""
    return 0.0


class BreakerTests(SynchronousTestCase):
    """Pauses and stragglers; `BreakerMachine` has the rest."""

    def opened(self, now: float = 0.0, pause: float = 0.0) -> CircuitBreaker:
        breaker = CircuitBreaker(never)
        for attempt in [breaker.attempt() for _ in range(FAILURE_THRESHOLD)]:
            self.assertFalse(breaker.blocks(now))
            breaker.failed(attempt, now, pause)
        self.assertFalse(breaker.closed)
        return breaker

    def test_opens_after_failures_in_a_row(self) -> None:
        breaker = self.opened(now=5)
        self.assertTrue(breaker.blocks(5))
        self.assertTrue(breaker.blocks(5 + MIN_PAUSE_SECONDS - 0.1))
        self.assertFalse(breaker.blocks(5 + MIN_PAUSE_SECONDS))

    def test_one_probe_at_a_time(self) -> None:
        breaker = self.opened()
        probe = breaker.attempt()
        self.assertTrue(breaker.blocks(1000))
        breaker.failed(probe, 1000)
        self.assertTrue(breaker.blocks(1000))
        self.assertFalse(breaker.blocks(1000 + MIN_PAUSE_SECONDS))

    def test_each_pause_is_longer_by_chance(self) -> None:
        numbers = [0.0, 0.5, 1.0, 0.25]
        asked = [0.0, 0.5, 3.0, 100.0]
        pauses = [1.0, 1.5, 4.0, MAX_PAUSE_SECONDS + 0.25]
        breaker, now = CircuitBreaker(iter([0.0, *numbers]).__next__), 0.0
        for attempt in [breaker.attempt() for _ in range(FAILURE_THRESHOLD)]:
            breaker.failed(attempt, now)
        for ask, pause in zip(asked, pauses, strict=True):
            now += 100
            breaker.failed(breaker.attempt(), now, ask)
            self.assertTrue(breaker.blocks(now + pause - 0.01))
            self.assertFalse(breaker.blocks(now + pause))

    def test_does_what_the_service_asks_for_within_reason(self) -> None:
        breaker = self.opened(pause=3)
        self.assertTrue(breaker.blocks(2.9))
        self.assertFalse(breaker.blocks(3))
        breaker = self.opened(pause=float("inf"))
        self.assertFalse(breaker.blocks(MAX_PAUSE_SECONDS))

    def test_what_began_before_says_nothing_about_the_probe(self) -> None:
        for end in ("failed", "abandoned"):
            breaker = CircuitBreaker(never)
            straggler = breaker.attempt()
            for _ in range(FAILURE_THRESHOLD):
                breaker.failed(breaker.attempt(), 0)
            probe = breaker.attempt()
            if end == "failed":
                breaker.failed(straggler, 100)
            else:
                breaker.abandoned(straggler)
            self.assertTrue(breaker.blocks(1000), end)
            breaker.failed(probe, 100)
            self.assertFalse(breaker.blocks(100 + MIN_PAUSE_SECONDS), end)


class BreakerMachine(RuleBasedStateMachine):
    """Attempts in any order, against a plain model."""

    def __init__(self) -> None:
        super().__init__()
        self.chance = 0.0
        self.breaker = CircuitBreaker(lambda: self.chance)
        self.now = 0.0
        self.running: list[int] = []
        self.probes: set[int] = set()
        self.row = 0

    def take(self, data: st.DataObject) -> int:
        attempt = data.draw(st.sampled_from(self.running))
        self.running.remove(attempt)
        return attempt

    @precondition(lambda self: not self.breaker.blocks(self.now))
    @rule()
    def begin(self) -> None:
        attempt = self.breaker.attempt()
        if not self.breaker.closed:
            self.probes.add(attempt)
        self.running.append(attempt)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        self.take(data)
        self.breaker.succeeded()
        self.row = 0
        # The success of any attempt ends the probe.
        self.probes.clear()
        assert self.breaker.closed

    @precondition(lambda self: self.running)
    @rule(data=st.data(), pause=st.floats(0, 1000), chance=st.floats(0, 1))
    def fail(self, data: st.DataObject, pause: float, chance: float) -> None:
        attempt = self.take(data)
        self.chance = chance
        self.breaker.failed(attempt, self.now, pause)
        self.row += 1
        if attempt in self.probes:
            assert self.breaker.blocks(self.now)
        self.probes.discard(attempt)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        attempt = self.take(data)
        self.breaker.abandoned(attempt)
        self.probes.discard(attempt)

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def it_is_open_after_enough_failures(self) -> None:
        assert self.breaker.closed == (self.row < FAILURE_THRESHOLD)

    @invariant()
    def there_is_one_probe(self) -> None:
        assert len(self.probes) <= 1

    @invariant()
    def it_never_stays_shut(self) -> None:
        later = self.now + MAX_PAUSE_SECONDS + MAX_JITTER_SECONDS
        assert self.breaker.blocks(later) == bool(self.probes)


class BreakerMachineTests(SynchronousTestCase):
    """Runs the machine."""

    def test_any_sequence(self) -> None:
        run_state_machine_as_test(
            BreakerMachine, settings=settings(max_examples=80, stateful_step_count=50)
        )
