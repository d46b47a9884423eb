"""The factory of authenticators."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth import authenticator, changed
from proxyrelay.auth.anonymous import AnonymousAuthenticator
from proxyrelay.auth.authenticator import GlobusAuthenticator
from proxyrelay.auth.credentials import Credentials
from proxyrelay.config import Auth, AuthArguments, Secret
from proxyrelay.errors import TryAgainLater
from proxyrelay.switchboard.user import ANONYMOUS
from tests.support.globus import (
    CLIENT_ID,
    CREDENTIALS,
    SECRET,
    TOKEN,
)


class BuilderTests(SynchronousTestCase):
    """The authenticator of the settings."""

    def test_everybody_is_let_in_without_a_method(self) -> None:
        for credentials in (None, CREDENTIALS):
            built = authenticator(Auth(), credentials, MemoryReactorClock())
            built.start()
            built.stop()
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
    """The successor of an authenticator after a reload."""

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
        """Whether the introspector and the cache are the same."""
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
