"""From a bearer token to a user, without making anybody wait who need not.

One question for each token at a time, whoever asks; answers are remembered; few
questions are under way at once; and none while Globus does not answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from traceback import format_tb

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from proxyrelay.auth.breaker import Breaker
from proxyrelay.auth.cache import TokenCache, fingerprint
from proxyrelay.auth.globus import CONNECTIONS, Globus, GlobusError, Late
from proxyrelay.auth.turns import Turns
from proxyrelay.errors import Refusal, TryAgainLater
from proxyrelay.identity import Introspection, Policy, User, bearer_token, judge

FIRST_DELAY = 0.25
"""Seconds before the second attempt; twice as long before each further one."""


class Introspector:
    """Asks Globus about tokens, as often as it makes sense.

    Questions take turns, fairly between the addresses that they come from.

    Args:
        globus: Is asked.
        clock: Runs the deadlines.
        timeout: Seconds for one token, turn and further attempts included.
    """

    log = Logger()

    def __init__(self, globus: Globus, clock: IReactorTime, timeout: float) -> None:
        self._globus = globus
        self._clock = clock
        self._timeout = timeout
        self._turns = Turns(CONNECTIONS, clock)
        self._breaker = Breaker()
        self._trouble: object = None

    def ask(self, token: str, source: str) -> Deferred[Introspection]:
        """Ask about a token.

        Args:
            token: The token.
            source: The address of the client that brings it.

        Returns:
            Fires with the answer within the timeout, or fails with `GlobusError`.
        """
        return Deferred.fromCoroutine(self._ask(token, source))

    async def _ask(self, token: str, source: str) -> Introspection:
        end = self._clock.seconds() + self._timeout
        self._check()
        try:
            await self._turns.take(source).addTimeout(self._timeout, self._clock)
        except DeferredTimeout:
            raise GlobusError("has too many questions to answer") from None
        try:
            return await self._attempts(token, end)
        finally:
            self._turns.give_back()

    async def _attempts(self, token: str, end: float) -> Introspection:
        delay = FIRST_DELAY
        while True:
            self._check()
            try:
                return await self._attempt(token, end - self._clock.seconds())
            except GlobusError as error:
                wait = max(delay, error.pause)
                if not error.transient or self._clock.seconds() + wait >= end:
                    raise
            await deferLater(self._clock, wait)
            delay *= 2

    async def _attempt(self, token: str, timeout: float) -> Introspection:
        attempt = self._breaker.attempt()
        try:
            answer = await self._globus.introspect(token, max(0.0, timeout))
        except GlobusError as error:
            if isinstance(error, Late) and timeout < self._timeout / 2:
                # It had no time to answer, since others took theirs.
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
        self._breaker.succeeded()
        self._report(None)
        return answer

    def _check(self) -> None:
        if self._breaker.blocks(self._clock.seconds()):
            raise GlobusError("does not answer at the moment")

    def _report(self, error: GlobusError | None) -> None:
        """Log when trouble begins, changes and ends, and not for every client."""
        trouble = None if error is None else _kind(error)
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if error is None:
            self.log.info("Globus Auth answers again")
        else:
            self.log.error(
                "Globus Auth {trouble!a}: clients that it does not know are asked to "
                "come back",
                trouble=str(error),
            )


def _kind(error: GlobusError) -> object:
    """What stays the same while one trouble lasts; Globus numbers its answers."""
    if isinstance(error, Late):
        return Late
    return (error.status, error.code) if error.status else str(error)


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
        clock: Tells the time, in seconds since 1970.
    """

    log = Logger()

    def __init__(
        self,
        introspector: Introspector,
        cache: TokenCache,
        policy: Policy,
        clock: IReactorTime,
    ) -> None:
        self._introspector = introspector
        self._cache = cache
        self._policy = policy
        self._clock = clock
        self._questions: dict[bytes, _Question] = {}
        self._lenient = False

    def authenticate(self, headers: Mapping[str, str], source: str) -> Deferred[User]:
        """Start to identify a client; see `proxyrelay.auth.Authenticator`."""
        try:
            token = bearer_token(headers)
        except Refusal as refusal:
            return fail(refusal)
        key = fingerprint(token)
        known = self._cache.fresh(key, self._clock.seconds())
        answer = self._wait(key, token, source) if known is None else succeed(known)
        return answer.addCallback(self._judge)

    def _judge(self, answer: Introspection) -> User:
        return judge(answer, self._policy, self._clock.seconds())

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
            asking = self._introspector.ask(token, source)
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
        stale = self._cache.stale(key, self._clock.seconds())
        if not failure.check(GlobusError) and waiting:
            # Without its text, which may quote the token.
            self.log.error(
                "asking about a token failed with {kind} at\n{place}",
                kind=type(failure.value).__name__,
                place="".join(format_tb(failure.getTracebackObject())),
            )
        elif waiting and stale is not None and not self._lenient:
            self._lenient = True
            self.log.warn(
                "Globus Auth cannot be asked: until it answers, clients that it knew "
                "are let in on an older answer; the first is {sub!a}",
                sub=stale.sub,
            )
        for waiter in question.left():
            if stale is not None:
                waiter.callback(stale)
            else:
                waiter.errback(TryAgainLater("Globus Auth cannot be asked right now."))
