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
INACTIVE = Introspection(active=False)


def active(exp: float | None = None) -> Introspection:
    """Answer about a valid token."""
    return Introspection(active=True, sub="jo", exp=exp)


def size(cache: TokenCache) -> int:
    """Entries in both tables."""
    return len(cache._active) + len(cache._inactive)


class CacheTests(SynchronousTestCase):
    """Times and sizes; `CacheMachine` has any sequence."""

    def test_answer_is_fresh_then_stale_then_gone(self) -> None:
        for ttl, stale_if_error, answer, fresh_until, stale_until in (
            (60, 300, active(), 160, 460),
            (60, 0, active(), 160, 160),
            (0, 300, active(), 100, 400),
            (60, 300, active(exp=130), 130, 130),
            (60, 300, active(exp=200), 160, 200),
            (60, 300, active(exp=50), 100, 100),
            (60, 300, INACTIVE, 100 + INACTIVE_TTL_SECONDS, 100),
            (2, 300, INACTIVE, 102, 100),
        ):
            with self.subTest(answer=answer, ttl=ttl):
                cache = TokenCache(3, ttl, stale_if_error)
                cache.put(KEY, answer, 100)
                for look_up, end in (
                    (cache.fresh, fresh_until),
                    (cache.stale, stale_until),
                ):
                    if end > 100:
                        self.assertEqual(look_up(KEY, end - 0.1, end - 0.1), answer)
                    self.assertIsNone(look_up(KEY, end, end))
        self.assertLessEqual(INACTIVE_TTL_SECONDS, 10)

    def test_inactive_answers_displace_no_active_one(self) -> None:
        cache = TokenCache(3, 60, 300)
        cache.put(KEY, active(), 100)
        for number in range(2 * MAX_INACTIVE_ENTRIES):
            cache.put(fingerprint(str(number)), INACTIVE, 100)
        self.assertEqual(cache.fresh(KEY, 101, 101), active())
        self.assertEqual(size(cache), MAX_INACTIVE_ENTRIES + 1)

    def test_was_active_follows_the_last_answer(self) -> None:
        cache = TokenCache(3, 60, 300)
        self.assertFalse(cache.was_active(KEY, 0))
        for answer, wall, was_active in (
            (active(), 1e6, True),
            (active(2000), 1999, True),
            (active(2000), 2000, False),
            (INACTIVE, 1, False),
        ):
            cache.put(KEY, answer, 0)
            self.assertEqual(cache.was_active(KEY, wall), was_active)

    def test_cache_keeps_no_token(self) -> None:
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
        wall = self.now + AHEAD
        fresh = self.cache.fresh(key, self.now, wall)
        stale = self.cache.stale(key, self.now, wall)
        answer, since = self.model.get(key, (None, 0.0))
        if answer is None:
            assert fresh is stale is None
            return
        is_unexpired = answer.exp is None or wall < answer.exp
        ttl = TTL if answer.active else INACTIVE_TTL_SECONDS
        is_usable = is_unexpired and answer.active
        assert (fresh is answer) == (is_unexpired and self.now < since + ttl)
        assert (stale is answer) == (is_usable and self.now < since + ttl + STALE)
        if fresh is not None:
            self.model.move_to_end(key)

    @invariant()
    def it_is_bounded(self) -> None:
        assert size(self.cache) == len(self.model)


class CacheMachineTests(SynchronousTestCase):
    """Runs the machine."""

    def test_cache_any_sequence_follows_the_model(self) -> None:
        run_state_machine_as_test(
            CacheMachine, settings=settings(max_examples=60, stateful_step_count=40)
        )
