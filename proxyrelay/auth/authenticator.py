"""Authentication by Globus: from a bearer token to a `User`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from traceback import format_tb
from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from proxyrelay.auth.cache import TokenCache, fingerprint
from proxyrelay.auth.globus_error import GlobusError
from proxyrelay.auth.policy import Introspection, Policy, authorize, bearer_token
from proxyrelay.auth.stats import CacheResult, IntrospectionStats
from proxyrelay.errors import Refusal, TryAgainLater
from proxyrelay.net.clock import Clock
from proxyrelay.switchboard.user import User

if TYPE_CHECKING:
    from proxyrelay.auth.introspector import Introspector


class _Pending:
    """One token under introspection, and its waiting clients."""

    def __init__(self) -> None:
        self.waiters: list[Deferred[Introspection]] = []
        self.introspection: Deferred[None] | None = None

    def leave(self, waiter: Deferred[Introspection]) -> None:
        """Cancel one waiter; the last one cancels the introspection."""
        self.waiters.remove(waiter)
        if not self.waiters and self.introspection is not None:
            self.introspection.cancel()


class GlobusAuthenticator:
    """Authenticates clients by their bearer tokens; one introspection for each token.

    ``clock`` times the cache; ``wall`` gives the seconds since 1970, for the ``exp`` of
    a token.
    """

    log = Logger()

    def __init__(
        self,
        introspector: Introspector,
        cache: TokenCache,
        policy: Policy,
        clock: IReactorTime,
        wall: Clock = time.time,
    ) -> None:
        self._introspector = introspector
        self._cache = cache
        self._policy = policy
        self._clock = clock
        self._wall = wall
        self._pending: dict[bytes, _Pending] = {}
        self._stale_logged = False
        self._trial: Deferred[None] | None = None

    def changed(
        self,
        policy: Policy,
        introspector: Introspector | None = None,
        cache: TokenCache | None = None,
    ) -> GlobusAuthenticator:
        """Successor with other rules; None keeps the introspector or the cache."""
        if introspector is not None:
            introspector.stats = self.stats
        return GlobusAuthenticator(
            introspector or self._introspector,
            cache or self._cache,
            policy,
            self._clock,
            self._wall,
        )

    @property
    def stats(self) -> IntrospectionStats:
        """Counters of introspection and cache."""
        return self._introspector.stats

    @property
    def breaker(self) -> str:
        """State of the circuit breaker; see `Introspector.breaker`."""
        return self._introspector.breaker

    def start(self) -> None:
        """Try the credentials, and log the result."""
        self._trial = Deferred.fromCoroutine(self._introspector.try_credentials())
        self._trial.addErrback(self._trial_failed)

    def stop(self) -> None:
        """Cancel that trial."""
        if self._trial is not None:
            self._trial.cancel()

    def _trial_failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log_defect("trying the credentials", failure)

    def authenticate(self, headers: Mapping[str, str], source: str) -> Deferred[User]:
        """Authenticate a client; see `proxyrelay.auth.Authenticator`."""
        try:
            token = bearer_token(headers)
        except Refusal as refusal:
            return fail(refusal)
        key = fingerprint(token)
        cached = self._cache.fresh(key, self._clock.seconds(), self._wall())
        result = CacheResult.MISS if cached is None else CacheResult.HIT
        self.stats.cache_results[result] += 1
        answer = self._wait(key, token, source) if cached is None else succeed(cached)
        return answer.addCallback(self._authorize)

    def _authorize(self, answer: Introspection) -> User:
        try:
            return authorize(answer, self._policy, self._wall())
        except Refusal as refusal:
            refusal.sub = answer.sub
            raise

    def _wait(self, key: bytes, token: str, source: str) -> Deferred[Introspection]:
        """Wait for the answer about a token; the first waiter starts it."""
        is_first = key not in self._pending
        pending = self._pending.setdefault(key, _Pending())
        waiter: Deferred[Introspection] = Deferred(pending.leave)
        pending.waiters.append(waiter)
        if is_first:
            was_active = self._cache.was_active(key, self._wall())
            answer = Deferred.fromCoroutine(
                self._introspector.introspect(token, source, was_active=was_active)
            )
            answer.addCallback(partial(self._remember, key))
            answer.addErrback(partial(self._fall_back, key))
            pending.introspection = answer.addBoth(partial(self._deliver, key))
        return waiter

    def _remember(self, key: bytes, answer: Introspection) -> Introspection:
        self._cache.put(key, answer, self._clock.seconds())
        self._stale_logged = False
        return answer

    def _fall_back(self, key: bytes, failure: Failure) -> Introspection | Failure:
        """Answer with a stale entry; trouble is never the fault of the client."""
        if failure.check(Refusal):
            return failure
        waiters = self._pending[key].waiters
        stale = self._cache.stale(key, self._clock.seconds(), self._wall())
        if waiters and not failure.check(GlobusError):
            self._log_defect("asking about a token", failure)
        elif waiters and stale is not None and not self._stale_logged:
            self._stale_logged = True
            self.log.warn(
                "Globus Auth cannot be asked: until it answers, clients that it knew "
                "are let in on an older answer",
                event="globus_stale",
            )
        if stale is None:
            raise TryAgainLater("Globus Auth cannot be asked right now.")
        self.stats.cache_results[CacheResult.STALE] += len(waiters)
        return stale

    def _deliver(self, key: bytes, result: Introspection | Failure) -> None:
        # One waiter's callback may cancel another waiter.
        waiters = self._pending.pop(key).waiters
        while waiters:
            waiter = waiters.pop(0)
            if isinstance(result, Failure):
                waiter.errback(result.value)
            else:
                waiter.callback(result)

    def _log_defect(self, what: str, failure: Failure) -> None:
        """Log an own error without its text: that may hold a token."""
        self.log.error(
            "{what} failed with {error} at\n{traceback}",
            event="defect",
            what=what,
            error=type(failure.value).__name__,
            traceback="".join(format_tb(failure.getTracebackObject())),
        )
