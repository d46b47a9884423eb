"""Base of the tests of authentication: Globus behind a pending agent."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, eventAsText
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth.introspector import Introspector
from proxyrelay.auth.policy import Introspection
from tests.service.test_app import Capture
from tests.support.clock import EagerClock
from tests.support.globus import SECRET, TOKEN, PendingAgent, globus

TIMEOUT = 7.0
START = 1_000_000.0


class GlobusTestCase(SynchronousTestCase):
    """Globus behind an agent that answers when the test says so."""

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
        self, token: str = TOKEN, source: str = "192.0.2.1"
    ) -> Deferred[Introspection]:
        return self.introspector.introspect(token, source)

    def errors(self) -> list[str]:
        return self.captured.lines(LogLevel.error)

    def nothing_is_left(self) -> None:
        self.assertEqual(self.agent.pending, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])
