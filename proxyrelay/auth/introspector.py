"""From a bearer token to a user, without making anybody wait who need not.

One question for each token at a time, whoever asks; answers are remembered; few
questions are under way at once; and none while Globus does not answer.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http import HTTPStatus
from math import inf
from traceback import format_tb

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from proxyrelay.auth.cache import TokenCache, fingerprint
from proxyrelay.auth.circuit_breaker import CircuitBreaker
from proxyrelay.auth.fair_queue import FairSemaphore
from proxyrelay.auth.globus_api import (
    CONNECTIONS,
    Globus,
    GlobusError,
    Late,
    Unreachable,
)
from proxyrelay.auth.invalid_tokens import InvalidTokenLimiter
from proxyrelay.auth.policy import Introspection, Policy, authorize, bearer_token
from proxyrelay.auth.stats import CacheResult, IntrospectionOutcome, IntrospectionStats
from proxyrelay.errors import Refusal, TryAgainLater
from proxyrelay.net.clock import Clock
from proxyrelay.switchboard.user import User

FIRST_DELAY = 0.25
"""Seconds before the second attempt; twice as long before each further one."""

FIRST_SHARE = 0.4
"""Share of its time that a question spends on the first attempt. That may go over a
connection which the network has forgotten; the next one goes over a new one."""

QUIET = 10.0
"""Seconds from one line of the log about trouble to the next, at least."""


class Introspector:
    """Asks Globus about tokens, as often as it makes sense.

    Questions take turns, fairly between the addresses that they come from.

    Args:
        globus: Is asked.
        clock: Runs the deadlines.
        timeout: Seconds for one token, turn and further attempts included.
        chance: Gives numbers from 0 to 1 at random.

    Attributes:
        tally: What came of it. One that follows another counts on in its tally.
    """

    log = Logger()

    def __init__(
        self,
        globus: Globus,
        clock: IReactorTime,
        timeout: float,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._globus = globus
        self._clock = clock
        self._timeout = timeout
        self._turns = FairSemaphore(CONNECTIONS, clock)
        self._last_turns = FairSemaphore(1, clock)
        self._breaker = CircuitBreaker(chance)
        self._strangers = InvalidTokenLimiter()
        self.tally = IntrospectionStats()
        self._trouble: object = None
        self._told = -inf

    @property
    def breaker(self) -> str:
        """Whether questions are asked: ``closed`` if so, ``open``, or ``half-open``."""
        if self._breaker.closed:
            return "closed"
        return "open" if self._breaker.blocks(self._clock.seconds()) else "half-open"

    def ask(
        self, token: str, source: str, *, known: bool = False
    ) -> Deferred[Introspection]:
        """Ask about a token.

        Args:
            token: The token.
            source: The address of the client that brings it.
            known: Whether it has been somebody's. Others have to wait when many tokens
                from there were nobody's: one of them is looked at at a time.

        Returns:
            Fires with the answer within the timeout, or fails with `GlobusError`, or
            with `TryAgainLater` if it was one of too many from there.
        """
        return Deferred.fromCoroutine(self._ask(token, source, known))

    async def _ask(self, token: str, source: str, known: bool) -> Introspection:
        end = self._clock.seconds() + self._timeout
        turns = await self._turn(source, known, end)
        try:
            answer = await self._attempts(token, end)
        finally:
            turns.give_back()
        if not answer.active:
            self._strangers.was_nobody(source, self._clock.seconds())
        return answer

    async def _turn(self, source: str, known: bool, end: float) -> FairSemaphore:
        """Wait for a turn, and tell to whom it is given back."""
        while True:
            now = self._clock.seconds()
            trusted = known or self._strangers.trusted(source, now)
            turns = self._turns if trusted else self._last_turns
            self._check_breaker()
            try:
                await turns.take(source).addTimeout(max(0.0, end - now), self._clock)
            except DeferredTimeout:
                if not trusted:
                    raise TryAgainLater(
                        "Too many tokens from this address were not valid."
                    ) from None
                slow = GlobusError("has too many questions to answer")
                self._report(slow)
                raise slow from None
            # It may have turned out while this one waited.
            now = self._clock.seconds()
            if known or not trusted or self._strangers.trusted(source, now):
                return turns
            turns.give_back()

    async def _attempts(self, token: str, end: float) -> Introspection:
        self._check_breaker()
        delay, fresh = FIRST_DELAY, False
        while True:
            try:
                return await self._attempt(token, end - self._clock.seconds(), fresh)
            except GlobusError as error:
                dead = not fresh and error.status is None
                pause = 0.0 if dead else max(error.pause, delay)
                if not error.transient or self._clock.seconds() + pause >= end:
                    self._report(error)
                    raise
            if pause:
                await deferLater(self._clock, pause)
            self._check_breaker()
            delay, fresh = delay if dead else 2 * delay, True

    async def _attempt(self, token: str, left: float, fresh: bool) -> Introspection:
        share = FIRST_SHARE * self._timeout
        timeout = max(0.0, left if fresh else min(left, share))
        attempt = self._breaker.attempt()
        began = self._clock.seconds()
        try:
            answer = await self._globus.introspect(token, timeout)
        except GlobusError as error:
            self.tally.asked(_outcome(error), self._clock.seconds() - began)
            if not fresh and error.status is None:
                # The network may have forgotten the connection, and then all of them.
                self._globus.forget_connections()
                self._breaker.abandoned(attempt)
                raise
            if isinstance(error, Late) and timeout < share:
                # Others have left it no time.
                self._breaker.abandoned(attempt)
                raise
            if error.about_the_question:
                self._breaker.abandoned(attempt)
            else:
                self._breaker.failed(attempt, self._clock.seconds(), error.pause)
            self._report(error)
            raise
        except BaseException:
            self._breaker.abandoned(attempt)
            raise
        outcome = (
            IntrospectionOutcome.ACTIVE
            if answer.active
            else IntrospectionOutcome.INACTIVE
        )
        self.tally.asked(outcome, self._clock.seconds() - began)
        self._breaker.succeeded()
        self._report(None)
        return answer

    def _check_breaker(self) -> None:
        if self._breaker.blocks(self._clock.seconds()):
            raise GlobusError("does not answer at the moment")

    def try_credentials(self) -> Deferred[None]:
        """Ask once about the relay's application, and log what is wrong.

        Returns:
            Fires when that is known, or is not to be known within the timeout.
        """
        return Deferred.fromCoroutine(self._try_credentials())

    async def _try_credentials(self) -> None:
        try:
            application = await self._globus.client(self._timeout)
        except GlobusError as error:
            if error.status == HTTPStatus.UNAUTHORIZED:
                self._report(error)
            else:
                self.log.warn(
                    "{trouble}: the relay's client ID and secret could not be tried",
                    event="globus_untried",
                    trouble=self._globus.explained(error),
                )
        else:
            self.log.debug(
                "Globus Auth knows the relay's application, {name!a}",
                event="globus_tried",
                name=application.name,
            )

    def _report(self, error: GlobusError | None) -> None:
        """Log when trouble begins, changes and ends, and not for every client."""
        trouble = None if error is None else _kind(error)
        if trouble == self._trouble:
            return
        now = self._clock.seconds()
        if error is None:
            self._trouble = None
            self.log.info("Globus Auth answers again", event="globus_answers")
        elif now - self._told >= QUIET:
            self._trouble = trouble
            self._told = now
            explained = self._globus.explained(error)
            if error.status == HTTPStatus.UNAUTHORIZED:
                self.log.error(
                    "{trouble}: new clients are asked to come back until that is put "
                    "right; 'proxyrelay check' tells whether it is",
                    event="globus_refuses",
                    trouble=explained,
                )
            else:
                self.log.error(
                    "{trouble}: new clients are asked to come back",
                    event="globus_fails",
                    trouble=explained,
                )


def _kind(error: GlobusError) -> object:
    """What stays the same while one trouble lasts; Globus numbers its answers."""
    if isinstance(error, Late):
        return Late
    return (error.status, error.code) if error.status else str(error)


def _outcome(error: GlobusError) -> IntrospectionOutcome:
    if isinstance(error, Late):
        return IntrospectionOutcome.LATE
    return (
        IntrospectionOutcome.UNREACHABLE
        if isinstance(error, Unreachable)
        else IntrospectionOutcome.ERROR
    )


class _Question:
    """One token that is being asked about, and all who wait for the answer."""

    def __init__(self) -> None:
        self.waiting: list[Deferred[Introspection]] = []
        self.asking: Deferred[None] | None = None

    def left(self) -> Iterator[Deferred[Introspection]]:
        """Each who still waits; one's answer may make another leave."""
        while self.waiting:
            yield self.waiting.pop(0)


class GlobusAuthenticator:
    """Identifies clients by their bearer tokens.

    Args:
        introspector: Asks about the tokens that are not known.
        cache: Remembers the others.
        policy: Which tokens are taken.
        clock: Gives the time in seconds, and runs what waits.
        wall: Gives the time in seconds since 1970, which the end of a token is in.
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
        self._questions: dict[bytes, _Question] = {}
        self._lenient = False
        self._trying: Deferred[None] | None = None

    def changed(
        self,
        policy: Policy,
        introspector: Introspector | None = None,
        cache: TokenCache | None = None,
    ) -> GlobusAuthenticator:
        """One that follows this one, and goes on with what is not replaced.

        Args:
            policy: Which tokens are taken.
            introspector: Asks in the place of this one's.
            cache: Remembers in the place of this one's.
        """
        if introspector is not None:
            introspector.tally = self.tally
        return GlobusAuthenticator(
            introspector or self._introspector,
            self._cache if cache is None else cache,
            policy,
            self._clock,
            self._wall,
        )

    @property
    def tally(self) -> IntrospectionStats:
        """What has come of looking at tokens."""
        return self._introspector.tally

    @property
    def breaker(self) -> str:
        """Whether Globus is asked; see `Introspector.breaker`."""
        return self._introspector.breaker

    def start(self) -> None:
        """Try the credentials, and log what comes of it."""
        self._trying = self._introspector.try_credentials()
        self._trying.addErrback(self._untried)

    def stop(self) -> None:
        """Give that up, if it still goes on."""
        if self._trying is not None:
            self._trying.cancel()

    def _untried(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log_mistake("trying the credentials", failure)

    def authenticate(self, headers: Mapping[str, str], source: str) -> Deferred[User]:
        """Start to identify a client; see `proxyrelay.auth.Authenticator`."""
        try:
            token = bearer_token(headers)
        except Refusal as refusal:
            return fail(refusal)
        key = fingerprint(token)
        known = self._cache.fresh(key, self._clock.seconds(), self._wall())
        self.tally.known[CacheResult.MISS if known is None else CacheResult.HIT] += 1
        answer = self._wait(key, token, source) if known is None else succeed(known)
        return answer.addCallback(self._judge)

    def _judge(self, answer: Introspection) -> User:
        try:
            return authorize(answer, self._policy, self._wall())
        except Refusal as refusal:
            refusal.sub = answer.sub
            raise

    def _wait(self, key: bytes, token: str, source: str) -> Deferred[Introspection]:
        """Join those who wait for the answer about a token, or be the first."""
        question = self._questions.get(key)
        first = question is None
        if question is None:
            question = self._questions[key] = _Question()
        joined = question

        def leave(waiter: Deferred[Introspection]) -> None:
            joined.waiting.remove(waiter)
            if not joined.waiting and joined.asking is not None:
                joined.asking.cancel()

        waiter: Deferred[Introspection] = Deferred(leave)
        question.waiting.append(waiter)
        if first:
            known = self._cache.knows(key, self._wall())
            asking = self._introspector.ask(token, source, known=known)
            question.asking = asking.addCallbacks(
                partial(self._answered, key), partial(self._unanswered, key)
            )
        return waiter

    def _answered(self, key: bytes, answer: Introspection) -> None:
        self._cache.put(key, answer, self._clock.seconds())
        self._lenient = False
        for waiter in self._questions.pop(key).left():
            waiter.callback(answer)

    def _unanswered(self, key: bytes, failure: Failure) -> None:
        question = self._questions.pop(key)
        waiting = question.waiting
        stale = self._cache.stale(key, self._clock.seconds(), self._wall())
        if failure.check(Refusal):
            for waiter in question.left():
                waiter.errback(failure.value)
            return
        if not failure.check(GlobusError) and waiting:
            self._log_mistake("asking about a token", failure)
        elif waiting and stale is not None and not self._lenient:
            self._lenient = True
            self.log.warn(
                "Globus Auth cannot be asked: until it answers, clients that it knew "
                "are let in on an older answer",
                event="globus_stale",
            )
        for waiter in question.left():
            if stale is not None:
                self.tally.known[CacheResult.STALE] += 1
                waiter.callback(stale)
            else:
                waiter.errback(TryAgainLater("Globus Auth cannot be asked right now."))

    def _log_mistake(self, what: str, failure: Failure) -> None:
        """Log an error of the relay's own without its text, which may have a token."""
        self.log.error(
            "{what} failed with {error} at\n{traceback}",
            event="defect",
            what=what,
            error=type(failure.value).__name__,
            traceback="".join(format_tb(failure.getTracebackObject())),
        )
