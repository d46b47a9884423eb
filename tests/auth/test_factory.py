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
from tests.support.globus import CLIENT_ID, CREDENTIALS, SECRET, TOKEN

OLD = AuthArguments(service_url="http://127.0.0.1:4711")


class AuthenticatorTests(SynchronousTestCase):
    """The authenticator of the settings."""

    def test_authenticator_without_method_is_anonymous(self) -> None:
        for credentials in (None, CREDENTIALS):
            built = authenticator(Auth(), credentials, MemoryReactorClock())
            built.start()
            built.stop()
            self.assertIsInstance(built, AnonymousAuthenticator)
            user = self.successResultOf(built.authenticate({}, "192.0.2.1"))
            self.assertEqual(user, ANONYMOUS)

    def test_authenticator_globus_without_credentials_raises(self) -> None:
        with self.assertRaises(ValueError):
            authenticator(Auth("globus"), None, MemoryReactorClock())

    def test_authenticator_globus_uses_url_and_timeout(self) -> None:
        memory = MemoryReactorClock()
        arguments = msgspec.structs.replace(OLD, timeout=3)
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

    def changed(
        self, credentials: Credentials | None = CREDENTIALS, **settings: Any
    ) -> tuple[GlobusAuthenticator, GlobusAuthenticator]:
        memory = MemoryReactorClock()
        before = authenticator(Auth("globus", OLD), CREDENTIALS, memory)
        new = msgspec.structs.replace(OLD, **settings)
        after = changed(before, (OLD, CREDENTIALS), (new, credentials), memory)
        assert isinstance(before, GlobusAuthenticator)
        assert isinstance(after, GlobusAuthenticator)
        return before, after

    def test_changed_keeps_what_no_setting_concerns(self) -> None:
        other_secret = Credentials(CLIENT_ID, Secret("another secret"))
        other_application = Credentials("0-1", Secret(SECRET))
        for (before, after), keeps_introspector, keeps_cache in (
            (self.changed(denied_users=("a",)), True, True),
            (self.changed(timeout=3), False, True),
            (self.changed(other_secret), False, True),
            (self.changed(cache_ttl=1), True, False),
            (self.changed(cache_size=1), True, False),
            (self.changed(stale_if_error=1), True, False),
            (self.changed(service_url="http://127.0.0.1:4712"), False, False),
            (self.changed(other_application), False, False),
        ):
            is_same = after._introspector is before._introspector
            self.assertEqual(is_same, keeps_introspector)
            self.assertEqual(after._cache is before._cache, keeps_cache)

    def test_changed_lists_apply_to_the_successor_alone(self) -> None:
        before, after = self.changed(denied_users=("a",))
        self.assertEqual(after._policy.denied_users, {"a"})
        self.assertEqual(before._policy.denied_users, set())

    def test_changed_nothing_returns_the_same(self) -> None:
        before, after = self.changed()
        self.assertIs(after, before)
        anonymous = AnonymousAuthenticator()
        basis = (AuthArguments(cache_ttl=1), None)
        after_ = changed(anonymous, (OLD, None), basis, MemoryReactorClock())
        self.assertIs(after_, anonymous)

    def test_changed_without_credentials_raises(self) -> None:
        with self.assertRaises(ValueError):
            self.changed(None)
