"""What the settings make of authentication."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth import authenticator, policy
from proxyrelay.auth.anonymous import AnonymousAuthenticator
from proxyrelay.auth.credentials import Credentials
from proxyrelay.auth.introspection import GlobusAuthenticator
from proxyrelay.config import PROXYSTORE_RELAY, Auth, AuthArguments, Secret
from proxyrelay.errors import TryAgainLater
from proxyrelay.identity import ANONYMOUS, Policy
from tests.support.globus import CLIENT_ID, SECRET, TOKEN

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
