"""Base of the tests of authentication: Globus behind a pending agent."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogLevel, eventAsText
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth.authenticator import GlobusAuthenticator
from proxyrelay.auth.cache import TokenCache
from proxyrelay.auth.globus_error import GlobusError
from proxyrelay.auth.introspector import Introspector
from proxyrelay.auth.policy import Introspection, Policy
from proxyrelay.errors import TryAgainLater
from proxyrelay.switchboard.user import User
from tests.support.capture import Capture
from tests.support.clock import EagerClock
from tests.support.globus import (
    CLIENT_ID,
    JO,
    SECRET,
    TOKEN,
    PendingAgent,
    active,
    globus,
)

TIMEOUT = 7.0
START = 1_000_000.0
TTL_SECONDS, STALE_SECONDS = 60.0, 300.0


class GlobusTestCase(SynchronousTestCase):
    """Globus behind an agent under the control of the test."""

    def setUp(self) -> None:
        self.clock = EagerClock()
        self.clock.advance(START)
        self.agent = PendingAgent()
        self.globus = globus(self.agent, self.clock)
        self.introspector = Introspector(self.globus, self.clock, TIMEOUT, lambda: 0.0)
        self.captured = Capture(self)
        self.addCleanup(self.check_log)

    def check_log(self) -> None:
        """No secret is in any event, in whatever field."""
        for event in self.captured.events:
            text = eventAsText(event) + repr(event)
            for secret in (SECRET, TOKEN):
                self.assertNotIn(secret, text)

    def ask(
        self, token: str = TOKEN, source: str = "192.0.2.1", was_active: bool = False
    ) -> Deferred[Introspection]:
        return Deferred.fromCoroutine(
            self.introspector.introspect(token, source, was_active=was_active)
        )

    def ask_many(
        self, count: int, source: str = "192.0.2.1"
    ) -> list[Deferred[Introspection]]:
        """Ask about so many tokens, named by their numbers."""
        return [self.ask(str(number), source) for number in range(count)]

    def works(self) -> None:
        """Introspect one token at once."""
        asked = self.ask("well")
        self.agent.last.reply(active())
        self.assertEqual(self.successResultOf(asked).sub, JO)
        self.nothing_is_left()

    def failed(self, asked: Deferred[Introspection]) -> str:
        return str(self.failureResultOf(asked, GlobusError).value)

    def give_up(self, waiting: Deferred[Any]) -> None:
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)

    def errors(self) -> list[str]:
        return self.captured.lines(LogLevel.error)

    def nothing_is_left(self) -> None:
        self.assertEqual(self.agent.pending, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class AuthenticatorTestCase(GlobusTestCase):
    """An authenticator in front of Globus."""

    def setUp(self) -> None:
        super().setUp()
        self.use_cache(stale_if_error=STALE_SECONDS)

    def use_cache(self, stale_if_error: float) -> None:
        self.cache = TokenCache(100, TTL_SECONDS, stale_if_error)
        self.auth = GlobusAuthenticator(
            *(self.introspector, self.cache, Policy(CLIENT_ID), self.clock),
            wall=self.clock.seconds,
        )

    def nothing_is_left(self) -> None:
        super().nothing_is_left()
        self.assertEqual(self.auth._pending, {})

    def come(self, token: str = TOKEN) -> Deferred[User]:
        return self.auth.authenticate({"authorization": f"Bearer {token}"}, "192.0.2.1")

    def come_to(
        self, value: object, code: int = 200, token: str = TOKEN
    ) -> Deferred[User]:
        """A client comes, and Globus answers the newest request."""
        coming = self.come(token)
        self.agent.last.reply(value, code)
        return coming

    def enter(self, **fields: Any) -> None:
        """Admit a client with the usual token."""
        self.let_in(self.come_to(active(**fields)))

    def let_in(self, coming: Deferred[User]) -> None:
        self.assertEqual(self.successResultOf(coming), User(JO))

    def sent_away(self, coming: Deferred[User]) -> None:
        refusal = self.failureResultOf(coming, TryAgainLater).value
        self.assertEqual(refusal.code, 1013)
        self.assertEqual(str(refusal), "Globus Auth cannot be asked right now.")
