"""Introspection of bearer tokens: retries, fair queueing, and the circuit breaker."""

from __future__ import annotations

import random
from collections.abc import Callable
from http import HTTPStatus

from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from proxyrelay.auth.circuit_breaker import CircuitBreaker
from proxyrelay.auth.fair_queue import FairSemaphore, InvalidTokenLimiter
from proxyrelay.auth.globus_api import Globus
from proxyrelay.auth.globus_error import GlobusError, Late, Unreachable
from proxyrelay.auth.http import MAX_CONNECTIONS
from proxyrelay.auth.policy import Introspection
from proxyrelay.auth.stats import IntrospectionOutcome, IntrospectionStats
from proxyrelay.errors import TryAgainLater
from proxyrelay.net.rate import RateLimitedLog

FIRST_DELAY_SECONDS = 0.25
"""Pause before the second attempt; each further pause is twice as long."""

FIRST_ATTEMPT_SHARE = 0.4
"""Share of the timeout for the first attempt. The network may have forgotten its
connection; the second attempt opens a new one."""

LOG_INTERVAL_SECONDS = 10.0
"""Shortest time between two log lines about trouble."""


class Introspector:
    """Introspects tokens at Globus, fairly between the sources of the clients.

    Args:
        globus: Globus Auth API.
        clock: Scheduler of the timeouts.
        timeout: Seconds for one token, with queueing and retries.
        chance: Source of random numbers from 0 to 1.
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
        self._queue = FairSemaphore(MAX_CONNECTIONS, clock)
        self._suspect_queue = FairSemaphore(1, clock)
        self._breaker = CircuitBreaker(chance)
        self._invalid_tokens = InvalidTokenLimiter()
        self.stats = IntrospectionStats()
        self._trouble: object = None
        self._lines_of_trouble = RateLimitedLog(LOG_INTERVAL_SECONDS)

    @property
    def breaker(self) -> str:
        """State of the circuit breaker: ``closed``, ``open`` or ``half-open``."""
        if self._breaker.closed:
            return "closed"
        return "open" if self._breaker.blocks(self._clock.seconds()) else "half-open"

    async def introspect(
        self, token: str, source: str, *, was_active: bool = False
    ) -> Introspection:
        """Introspect a token of a source within the timeout.

        After too many invalid tokens from a source, its tokens go one by one, unless
        the last answer about the token was active.

        Raises:
            GlobusError: Globus does not answer.
            TryAgainLater: Too many tokens of the source were invalid.
        """
        end = self._clock.seconds() + self._timeout
        queue = await self._acquire(source, was_active, end)
        try:
            answer = await self._attempts(token, end)
        finally:
            queue.release()
        if not answer.active:
            self._invalid_tokens.record(source, self._clock.seconds())
        return answer

    async def _acquire(
        self, source: str, was_active: bool, end: float
    ) -> FairSemaphore:
        """Wait for a grant; return the semaphore to release."""
        while True:
            now = self._clock.seconds()
            trusted = was_active or self._invalid_tokens.trusts(source, now)
            queue = self._queue if trusted else self._suspect_queue
            self._check_breaker()
            try:
                await queue.acquire(source).addTimeout(max(0.0, end - now), self._clock)
            except DeferredTimeout:
                if not trusted:
                    raise TryAgainLater(
                        "Too many tokens from this address were not valid."
                    ) from None
                slow = GlobusError("has too many questions to answer")
                self._report(slow)
                raise slow from None
            # The source may have lost trust during the wait.
            now = self._clock.seconds()
            if was_active or not trusted or self._invalid_tokens.trusts(source, now):
                return queue
            queue.release()

    async def _attempts(self, token: str, end: float) -> Introspection:
        delay, is_first = FIRST_DELAY_SECONDS, True
        while True:
            self._check_breaker()
            try:
                left = max(0.0, end - self._clock.seconds())
                return await self._attempt(token, left, is_first)
            except GlobusError as error:
                if is_first and error.status is None:
                    pause = 0.0
                else:
                    pause = max(error.retry_after, delay)
                    delay *= 2
                if not error.is_transient or self._clock.seconds() + pause >= end:
                    self._report(error)
                    raise
            is_first = False
            if pause:
                await deferLater(self._clock, pause)

    async def _attempt(self, token: str, left: float, is_first: bool) -> Introspection:
        share = FIRST_ATTEMPT_SHARE * self._timeout
        timeout = min(left, share) if is_first else left
        attempt = self._breaker.attempt()
        began = self._clock.seconds()
        try:
            answer = await self._globus.introspect(token, timeout)
        except GlobusError as error:
            self.stats.record(_outcome(error), self._clock.seconds() - began)
            if is_first and error.status is None:
                # A forgotten connection says nothing about Globus. The network may have
                # forgotten the others too.
                self._globus.forget_connections()
                self._breaker.abandoned(attempt)
            elif isinstance(error, Late) and timeout < share:
                # Other requests have used up its time.
                self._breaker.abandoned(attempt)
            else:
                if error.is_about_request:
                    self._breaker.abandoned(attempt)
                else:
                    now = self._clock.seconds()
                    self._breaker.failed(attempt, now, error.retry_after)
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
        self.stats.record(outcome, self._clock.seconds() - began)
        self._breaker.succeeded()
        self._report(None)
        return answer

    def _check_breaker(self) -> None:
        if self._breaker.blocks(self._clock.seconds()):
            raise GlobusError("does not answer at the moment")

    async def try_credentials(self) -> None:
        """Look up the relay's application once, and log what is wrong."""
        try:
            application = await self._globus.client(self._timeout)
        except GlobusError as error:
            if error.status == HTTPStatus.UNAUTHORIZED:
                self._report(error)
                return
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
        """Log the beginning, each change and the end of trouble."""
        trouble = None if error is None else _trouble(error)
        if trouble == self._trouble:
            return
        if error is None:
            self._trouble = None
            self.log.info("Globus Auth answers again", event="globus_answers")
        elif self._lines_of_trouble.admit(self._clock.seconds()) is not None:
            self._trouble = trouble
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


def _trouble(error: GlobusError) -> object:
    """The constant part of an error; Globus numbers its answers."""
    if isinstance(error, Late):
        return Late
    return (error.status, error.code) if error.status else str(error)


def _outcome(error: GlobusError) -> IntrospectionOutcome:
    if isinstance(error, Late):
        return IntrospectionOutcome.LATE
    if isinstance(error, Unreachable):
        return IntrospectionOutcome.UNREACHABLE
    return IntrospectionOutcome.ERROR
