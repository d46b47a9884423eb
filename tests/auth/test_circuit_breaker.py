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


class BreakerTests(SynchronousTestCase):
    """Pauses and stragglers; `BreakerMachine` has the rest."""

    def opened(self, now: float = 0.0, pause: float = 0.0) -> CircuitBreaker:
        breaker = CircuitBreaker(lambda: 0.0)
        for attempt in [breaker.attempt() for _ in range(FAILURE_THRESHOLD)]:
            self.assertFalse(breaker.blocks(now))
            breaker.failed(attempt, now, pause)
        self.assertFalse(breaker.closed)
        return breaker

    def blocks_until(self, breaker: CircuitBreaker, now: float, end: float) -> None:
        self.assertTrue(breaker.blocks(now))
        self.assertTrue(breaker.blocks(end - 0.01))
        self.assertFalse(breaker.blocks(end))

    def test_breaker_failures_in_a_row_open_it(self) -> None:
        self.blocks_until(self.opened(now=5), 5, 5 + MIN_PAUSE_SECONDS)

    def test_breaker_failed_probe_opens_it_again(self) -> None:
        breaker = self.opened()
        probe = breaker.attempt()
        self.assertTrue(breaker.blocks(1000))
        breaker.failed(probe, 1000)
        self.blocks_until(breaker, 1000, 1000 + MIN_PAUSE_SECONDS)

    def test_breaker_retry_after_sets_the_pause_within_bounds(self) -> None:
        self.blocks_until(self.opened(pause=3), 0, 3)
        self.blocks_until(self.opened(pause=float("inf")), 0, MAX_PAUSE_SECONDS)

    def test_breaker_pause_is_longer_by_chance(self) -> None:
        chance = 0.0
        breaker, now = CircuitBreaker(lambda: chance), 0.0
        for attempt in [breaker.attempt() for _ in range(FAILURE_THRESHOLD)]:
            breaker.failed(attempt, now)
        for asked, chance, pause in (  # noqa: B007 - the breaker reads it
            (0.0, 0.0, 1.0),
            (0.5, 0.5, 1.5),
            (3.0, 1.0, 4.0),
            (100.0, 0.25, MAX_PAUSE_SECONDS + 0.25),
        ):
            now += 100
            breaker.failed(breaker.attempt(), now, asked)
            self.blocks_until(breaker, now, now + pause)

    def test_breaker_straggler_says_nothing_about_the_probe(self) -> None:
        for end in ("failed", "abandoned"):
            breaker = CircuitBreaker(lambda: 0.0)
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

    def test_breaker_any_sequence_follows_the_model(self) -> None:
        run_state_machine_as_test(
            BreakerMachine, settings=settings(max_examples=80, stateful_step_count=50)
        )
