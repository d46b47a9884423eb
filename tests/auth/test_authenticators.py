"""What the settings make of authentication."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import msgspec
from treq.client import HTTPClient
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth import authenticator, changed, policy
from proxyrelay.auth.anonymous import AnonymousAuthenticator
from proxyrelay.auth.cache import TokenCache
from proxyrelay.auth.credentials import Credentials
from proxyrelay.auth.globus_api import Globus, PlainAgent
from proxyrelay.auth.introspector import GlobusAuthenticator, Introspector
from proxyrelay.auth.policy import Policy
from proxyrelay.config import PROXYSTORE_RELAY, Auth, AuthArguments, Secret
from proxyrelay.errors import TryAgainLater
from proxyrelay.switchboard.user import ANONYMOUS
from tests.support.capture import Capture
from tests.support.globus import (
    CLIENT_ID,
    JSON,
    SECRET,
    SERVICE,
    TOKEN,
    FakeResponse,
    PendingAgent,
)

CREDENTIALS = Credentials(CLIENT_ID, Secret(SECRET))


class BuilderTests(SynchronousTestCase):
    """The authenticator that the settings ask for."""

    def test_everybody_is_let_in_without_a_method(self) -> None:
        for credentials in (None, CREDENTIALS):
            built = authenticator(Auth(), credentials, MemoryReactorClock())
            self.assertIsInstance(built, AnonymousAuthenticator)
            self.assertEqual(
                self.successResultOf(built.authenticate({}, "192.0.2.1")), ANONYMOUS
            )

    def test_globus_needs_credentials(self) -> None:
        with self.assertRaises(ValueError):
            authenticator(Auth("globus"), None, MemoryReactorClock())

    def test_globus_is_asked_where_and_as_long_as_the_settings_say(self) -> None:
        memory = MemoryReactorClock()
        arguments = AuthArguments(service_url="http://127.0.0.1:4711", timeout=3)
        built = authenticator(Auth("globus", arguments), CREDENTIALS, memory)
        self.assertIsInstance(built, GlobusAuthenticator)
        coming = built.authenticate({"authorization": f"Bearer {TOKEN}"}, "192.0.2.1")
        host, port, *_ = memory.tcpClients[0]
        self.assertEqual((host, port), ("127.0.0.1", 4711))
        memory.advance(2.9)
        self.assertNoResult(coming)
        memory.advance(0.1)
        self.failureResultOf(coming, TryAgainLater)
        self.assertEqual(memory.getDelayedCalls(), [])


class ChangedTests(SynchronousTestCase):
    """The authenticator that follows another one when settings change."""

    OLD = AuthArguments(service_url="http://127.0.0.1:4711")

    def changed(
        self, credentials: Credentials = CREDENTIALS, **settings: Any
    ) -> tuple[GlobusAuthenticator, GlobusAuthenticator]:
        memory = MemoryReactorClock()
        before = authenticator(Auth("globus", self.OLD), CREDENTIALS, memory)
        new = msgspec.structs.replace(self.OLD, **settings)
        after = changed(before, (self.OLD, CREDENTIALS), (new, credentials), memory)
        assert isinstance(before, GlobusAuthenticator)
        assert isinstance(after, GlobusAuthenticator)
        return before, after

    def kept(
        self, before: GlobusAuthenticator, after: GlobusAuthenticator
    ) -> tuple[bool, bool]:
        """Whether it asks, and whether it remembers, like the other one."""
        return (
            after._introspector is before._introspector,
            after._cache is before._cache,
        )

    def test_is_the_same_without_a_change(self) -> None:
        before, after = self.changed()
        self.assertIs(after, before)

    def test_has_other_lists_and_all_else_is_kept(self) -> None:
        before, after = self.changed(denied_users=("a",))
        self.assertEqual(self.kept(before, after), (True, True))
        self.assertEqual(after._policy.denied_users, {"a"})
        self.assertEqual(before._policy.denied_users, set())

    def test_asks_otherwise_and_remembers_the_same(self) -> None:
        for before, after in (
            self.changed(timeout=3),
            self.changed(Credentials(CLIENT_ID, Secret("another secret"))),
        ):
            self.assertEqual(self.kept(before, after), (False, True))

    def test_remembers_otherwise(self) -> None:
        for before, after in (
            self.changed(cache_ttl=1),
            self.changed(cache_size=1),
            self.changed(stale_if_error=1),
        ):
            self.assertEqual(self.kept(before, after), (True, False))

    def test_forgets_what_another_service_or_application_was_told(self) -> None:
        for before, after in (
            self.changed(service_url="http://127.0.0.1:4712"),
            self.changed(Credentials("0-1", Secret(SECRET))),
        ):
            self.assertEqual(self.kept(before, after), (False, False))

    def test_needs_credentials(self) -> None:
        memory = MemoryReactorClock()
        before = authenticator(Auth("globus", self.OLD), CREDENTIALS, memory)
        with self.assertRaises(ValueError):
            changed(before, (self.OLD, CREDENTIALS), (self.OLD, None), memory)

    def test_is_the_same_where_nobody_is_asked(self) -> None:
        before = AnonymousAuthenticator()
        basis = (AuthArguments(cache_ttl=1), None)
        after = changed(before, (self.OLD, None), basis, MemoryReactorClock())
        self.assertIs(after, before)


class StartTests(SynchronousTestCase):
    """What is found out when the relay begins to serve."""

    def setUp(self) -> None:
        self.agent = PendingAgent()
        self.clock = Clock()
        self.clock.advance(1_000_000)
        credentials = Credentials(CLIENT_ID, Secret(SECRET), "here", "there")
        http = HTTPClient(PlainAgent(self.agent))
        asked = Globus(http, credentials, SERVICE, cast(Any, self.clock))
        self.built = GlobusAuthenticator(
            Introspector(asked, cast(Any, self.clock), 7),
            TokenCache(1, 0, 0),
            Policy(CLIENT_ID),
            cast(Any, self.clock),
            self.clock.seconds,
        )
        self.captured = Capture(self)

    def said(self, level: Any) -> str:
        """The only line that is logged, at one level."""
        (line,) = self.captured.lines()
        self.assertEqual(self.captured.lines(level), [line])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertNotIn(SECRET, line)
        return line

    def test_credentials_that_work(self) -> None:
        self.built.start()
        self.assertEqual(
            [(asked.method, asked.uri) for asked in self.agent.requests],
            [("GET", f"{SERVICE}/v2/api/clients/{CLIENT_ID}")],
        )
        self.assertEqual(self.captured.lines(), [])
        self.agent.last.reply({"client": {"id": CLIENT_ID, "name": "Our\nrelay"}})
        self.assertEqual(
            self.said(LogLevel.debug),
            "Globus Auth knows the relay's application, 'Our\\nrelay'",
        )
        self.built.stop()

    def test_credentials_that_do_not(self) -> None:
        self.built.start()
        self.agent.last.reply({"error": "invalid_client"}, 401)
        self.assertEqual(
            self.said(LogLevel.error),
            "Globus Auth answered 401 (invalid_client): the client ID or the secret is "
            "wrong (client ID from here, secret from there): new clients are asked to "
            "come back until that is put right; 'proxyrelay check' tells whether it is",
        )
        # The first client's token meets the same trouble, which is known.
        coming = self.built.authenticate({"authorization": f"Bearer {TOKEN}"}, "a")
        self.agent.last.reply({"error": "invalid_client"}, 401)
        self.failureResultOf(coming, TryAgainLater)
        self.clock.advance(0)
        self.said(LogLevel.error)

    def test_globus_that_cannot_be_asked(self) -> None:
        address = f"(auth.kwargs.service_url is {SERVICE})"
        untried = ": the relay's client ID and secret could not be tried"
        for end, words in (
            (lambda: self.agent.last.reply({}, 503), "answered 503"),
            (lambda: self.agent.last.reply({}, 404), f"answered 404 {address}"),
            (
                lambda: self.agent.last.fail(OSError("refused")),
                f"cannot be reached: refused {address}",
            ),
            (lambda: self.clock.advance(7), "did not answer within 7 s"),
        ):
            self.captured.events.clear()
            self.built.start()
            end()
            line = self.said(LogLevel.warn)
            self.assertEqual(line, f"Globus Auth {words}{untried}")

    def test_no_line_is_forged(self) -> None:
        self.built.start()
        self.agent.last.reply({"error": "a\nb\u2028c"}, 401)
        self.assertIn("(a\\nb\\u2028c)", self.said(LogLevel.error))

    def test_stopping_gives_it_up(self) -> None:
        self.built.stop()
        self.built.start()
        self.built.stop()
        self.assertEqual(self.agent.last.cancelled, 1)
        self.assertEqual(self.captured.lines(), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_mistake_of_the_relay_is_logged(self) -> None:
        self.built.start()
        broken = FakeResponse(200, JSON)
        self.patch(broken, "deliverBody", None)
        self.agent.last.answer.callback(broken)
        (line,) = self.captured.lines(LogLevel.error)
        self.assertIn("trying the credentials failed with TypeError at\n", line)

    def test_everybody_needs_nothing(self) -> None:
        anybody = AnonymousAuthenticator()
        anybody.start()
        anybody.stop()


class PolicyTests(SynchronousTestCase):
    """Which tokens the settings let in."""

    def test_the_defaults_are_those_of_stock_clients(self) -> None:
        self.assertEqual(policy(AuthArguments(), CLIENT_ID), Policy(PROXYSTORE_RELAY))

    def test_an_application_of_its_own_wants_its_scope(self) -> None:
        made = policy(AuthArguments(audience=CLIENT_ID), CLIENT_ID)
        self.assertEqual(made.audience, CLIENT_ID)
        self.assertEqual(
            made.required_scopes,
            {f"https://auth.globus.org/scopes/{CLIENT_ID}/relay_all"},
        )

    def test_scopes_can_be_set(self) -> None:
        for scopes in ((), ("a",), ("a", "b")):
            for audience in (CLIENT_ID, "other"):
                arguments = AuthArguments(audience=audience, required_scopes=scopes)
                made = policy(arguments, CLIENT_ID)
                self.assertEqual(made.required_scopes, set(scopes))

    def test_domains_are_compared_in_lower_case(self) -> None:
        made = policy(
            AuthArguments(
                client_secret_file=Path("secret"),
                allowed_users=("A",),
                denied_users=("B",),
                allowed_domains=("Example.ORG",),
                denied_domains=("EVIL.example",),
            ),
            CLIENT_ID,
        )
        self.assertEqual(
            (
                made.allowed_users,
                made.denied_users,
                made.allowed_domains,
                made.denied_domains,
            ),
            ({"A"}, {"B"}, {"example.org"}, {"evil.example"}),
        )
