"""The cache: life of an answer, and number of answers."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth.cache import (
    INACTIVE_TTL_SECONDS,
    MAX_INACTIVE_ENTRIES,
    TokenCache,
    fingerprint,
)
from proxyrelay.auth.policy import Introspection

KEY = fingerprint("token")


def active(exp: float | None = None) -> Introspection:
    """Answer about a valid token."""
    return Introspection(active=True, sub="jo", exp=exp)


INACTIVE = Introspection(active=False)


class CacheTests(SynchronousTestCase):
    """Times and sizes; `CacheMachine` has any sequence."""

    def test_an_active_answer_is_fresh_and_then_stale(self) -> None:
        cache = TokenCache(3, 60, 300)
        cache.put(KEY, active(), 100)
        self.assertEqual(cache.fresh(KEY, 159.9, 159.9), active())
        self.assertIsNone(cache.fresh(KEY, 160, 160))
        self.assertEqual(cache.stale(KEY, 459.9, 459.9), active())
        self.assertIsNone(cache.stale(KEY, 460, 460))

    def test_never_past_the_end_of_the_token(self) -> None:
        cache = TokenCache(3, 60, 300)
        cache.put(KEY, active(130), 100)
        self.assertIsNotNone(cache.fresh(KEY, 129.9, 129.9))
        self.assertIsNone(cache.fresh(KEY, 130, 130))
        self.assertIsNone(cache.stale(KEY, 130, 130))
        cache.put(KEY, active(200), 100)
        self.assertIsNotNone(cache.stale(KEY, 199.9, 199.9))
        self.assertIsNone(cache.stale(KEY, 200, 200))
        cache.put(KEY, active(50), 100)
        self.assertIsNone(cache.fresh(KEY, 100, 100))
        self.assertIsNone(cache.stale(KEY, 100, 100))

    def test_staleness_can_be_turned_off(self) -> None:
        cache = TokenCache(3, 60, 0)
        cache.put(KEY, active(), 100)
        self.assertIsNone(cache.stale(KEY, 160, 160))

    def test_freshness_can_be_turned_off(self) -> None:
        cache = TokenCache(3, 0, 300)
        cache.put(KEY, active(), 100)
        self.assertIsNone(cache.fresh(KEY, 100, 100))
        self.assertIsNotNone(cache.stale(KEY, 399, 399))

    def test_inactive_answers_displace_no_active_one(self) -> None:
        cache = TokenCache(3, 60, 300)
        cache.put(KEY, active(), 100)
        for number in range(2 * MAX_INACTIVE_ENTRIES):
            cache.put(fingerprint(str(number)), INACTIVE, 100)
        self.assertEqual(cache.fresh(KEY, 101, 101), active())
        self.assertEqual(len(cache), MAX_INACTIVE_ENTRIES + 1)

    def test_the_newest_answer_is_the_one(self) -> None:
        cache = TokenCache(3, 60, 300)
        for answer in (active(), INACTIVE, active()):
            cache.put(KEY, answer, 100)
            self.assertEqual(cache.fresh(KEY, 101, 101), answer)
            self.assertEqual(len(cache), 1)
        cache.put(KEY, INACTIVE, 100)
        self.assertIsNone(cache.stale(KEY, 101, 101))

    def test_knows_what_was_once_active(self) -> None:
        cache = TokenCache(3, 60, 300)
        self.assertFalse(cache.was_active(KEY, 0))
        cache.put(KEY, active(), 0)
        self.assertTrue(cache.was_active(KEY, 1e6))
        cache.put(KEY, active(2000), 0)
        self.assertFalse(cache.was_active(KEY, 2000))
        cache.put(KEY, INACTIVE, 0)
        self.assertFalse(cache.was_active(KEY, 1))

    def test_inactive_answers_are_soon_forgotten(self) -> None:
        cache = TokenCache(3, 60, 300)
        cache.put(KEY, INACTIVE, 100)
        self.assertEqual(
            cache.fresh(
                KEY, 100 + INACTIVE_TTL_SECONDS - 0.1, 100 + INACTIVE_TTL_SECONDS - 0.1
            ),
            INACTIVE,
        )
        self.assertIsNone(
            cache.fresh(KEY, 100 + INACTIVE_TTL_SECONDS, 100 + INACTIVE_TTL_SECONDS)
        )
        self.assertIsNone(
            cache.stale(KEY, 100 + INACTIVE_TTL_SECONDS, 100 + INACTIVE_TTL_SECONDS)
        )
        self.assertLessEqual(INACTIVE_TTL_SECONDS, 10)
        cache = TokenCache(3, 2, 300)
        cache.put(KEY, INACTIVE, 100)
        self.assertIsNone(cache.fresh(KEY, 102, 102))

    def test_keeps_no_token(self) -> None:
        cache = TokenCache(3, 60, 300)
        cache.put(fingerprint("sesame"), active(), 0)
        self.assertNotIn("sesame", repr(vars(cache)))
        self.assertEqual(len(fingerprint("sesame")), 32)


KEYS = st.sampled_from([fingerprint(str(number)) for number in range(5)])
SIZE, TTL, STALE = 3, 60.0, 100.0
AHEAD = 1e9
"""Seconds by which the wall clock is ahead of the monotonic one."""


class CacheMachine(RuleBasedStateMachine):
    """Any sequence of answers and look-ups, against a plain model."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = TokenCache(SIZE, TTL, STALE)
        self.now = 1000.0
        self.model: OrderedDict[bytes, tuple[Introspection, float]] = OrderedDict()

    @rule(key=KEYS, left=st.none() | st.floats(-10, 300))
    def put_active(self, key: bytes, left: float | None) -> None:
        self.put(key, active(None if left is None else self.now + AHEAD + left))

    @rule(key=KEYS)
    def put_inactive(self, key: bytes) -> None:
        self.put(key, INACTIVE)

    def put(self, key: bytes, answer: Introspection) -> None:
        self.cache.put(key, answer, self.now)
        self.model[key] = (answer, self.now)
        self.model.move_to_end(key)
        kept = [other for other, (known, _) in self.model.items() if known.active]
        if len(kept) > SIZE:
            del self.model[kept[0]]

    @rule(seconds=st.floats(0, 90))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(key=KEYS)
    def look(self, key: bytes) -> None:
        # Only the end of a token is wall time.
        fresh = self.cache.fresh(key, self.now, self.now + AHEAD)
        stale = self.cache.stale(key, self.now, self.now + AHEAD)
        answer, since = self.model.get(key, (None, 0.0))
        if answer is None:
            assert fresh is stale is None
            return
        expired = answer.exp is not None and self.now + AHEAD >= answer.exp
        ttl = TTL if answer.active else INACTIVE_TTL_SECONDS
        assert (fresh is answer) == (not expired and self.now < since + ttl)
        if stale is not None:
            assert stale is answer
            assert not expired
            assert self.now < since + ttl + STALE
        if fresh is not None:
            self.model.move_to_end(key)
            assert stale is (fresh if fresh.active else None)
        elif answer.active and not expired and answer.exp is None:
            assert (stale is answer) == (self.now < since + TTL + STALE)
        elif not answer.active:
            assert stale is None

    @invariant()
    def it_is_bounded(self) -> None:
        assert len(self.cache) == len(self.model)


class CacheMachineTests(SynchronousTestCase):
    """Runs the machine."""

    def test_any_sequence(self) -> None:
        run_state_machine_as_test(
            CacheMachine, settings=settings(max_examples=60, stateful_step_count=40)
        )
