"""Authenticators: from the headers of a handshake to a `User`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from proxyrelay.auth.anonymous import AnonymousAuthenticator
from proxyrelay.auth.cache import TokenCache
from proxyrelay.auth.credentials import Credentials
from proxyrelay.auth.globus_api import Globus
from proxyrelay.auth.introspector import GlobusAuthenticator, Introspector
from proxyrelay.auth.policy import RELAY_SCOPE, SCOPES, Policy
from proxyrelay.config import Auth, AuthArguments
from proxyrelay.switchboard.user import User


class Authenticator(Protocol):
    """Tells whom a connection belongs to."""

    def start(self) -> None:
        """The relay serves: see whether clients can be identified, and log if not.

        It neither waits nor raises.
        """

    def stop(self) -> None:
        """The relay stops: give up what `start` has begun."""

    def authenticate(self, headers: Mapping[str, str], source: str) -> Deferred[User]:
        """Start to identify a client.

        The caller cancels the Deferred when it no longer wants the answer.

        Args:
            headers: Header fields of the opening handshake, names in lower case.
            source: Where the client comes from, by
                `proxyrelay.net.addresses.source`. Sources share fairly what is scarce.

        Returns:
            Fires with the user, or fails with a
            `proxyrelay.errors.Refusal`, which the client is then closed with.
        """


def authenticator(
    settings: Auth, credentials: Credentials | None, reactor: Any
) -> Authenticator:
    """Build the authenticator that the settings ask for.

    Args:
        settings: The settings.
        credentials: What the relay's application identifies itself with, if the
            method needs it.
        reactor: Runs what has to be asked.

    Raises:
        ValueError: The method needs credentials, and there are none.
    """
    if settings.method is None:
        return AnonymousAuthenticator()
    if credentials is None:
        raise ValueError("Globus Auth needs credentials")
    return GlobusAuthenticator(
        _introspector(settings.kwargs, credentials, reactor),
        _cache(settings.kwargs),
        policy(settings.kwargs, credentials.client_id),
        reactor,
    )


def _introspector(
    arguments: AuthArguments, credentials: Credentials, reactor: Any
) -> Introspector:
    globus = Globus.connect(
        reactor, arguments.service_url, credentials, arguments.timeout
    )
    return Introspector(globus, reactor, arguments.timeout)


def _cache(arguments: AuthArguments) -> TokenCache:
    return TokenCache(
        arguments.cache_size, arguments.cache_ttl, arguments.stale_if_error
    )


Basis = tuple[AuthArguments, Credentials | None]
"""What an authenticator is built from: settings, and credentials if it needs some."""


def changed(
    before: Authenticator, was: Basis, basis: Basis, reactor: Any
) -> Authenticator:
    """The authenticator that follows another one of the same method.

    It remembers the same tokens and asks over the same connections, unless settings
    have changed which matter for that.

    Args:
        before: The one that serves. What it is asked already, it still answers.
        was: What that was built from.
        basis: What the new one is to be built from.
        reactor: Runs what has to be asked.

    Returns:
        The new one, or the same if nothing has changed.
    """
    (old, used), (new, credentials) = was, basis
    if was == basis or not isinstance(before, GlobusAuthenticator):
        return before
    if used is None or credentials is None:
        raise ValueError("Globus Auth needs credentials")
    asks_alike = used == credentials and _same(old, new, "service_url", "timeout")
    knows_alike = used.client_id == credentials.client_id and _same(
        old, new, "service_url", "cache_size", "cache_ttl", "stale_if_error"
    )
    return before.changed(
        policy(new, credentials.client_id),
        None if asks_alike else _introspector(new, credentials, reactor),
        None if knows_alike else _cache(new),
    )


def _same(old: AuthArguments, new: AuthArguments, *names: str) -> bool:
    return all(getattr(old, name) == getattr(new, name) for name in names)


def policy(arguments: AuthArguments, client_id: str) -> Policy:
    """Which tokens the settings let in.

    Args:
        arguments: The settings.
        client_id: The relay's application.
    """
    scopes = arguments.required_scopes
    if scopes is None:
        own = f"{SCOPES}/{client_id}/{RELAY_SCOPE}"
        scopes = (own,) if arguments.audience == client_id else ()
    return Policy(
        audience=arguments.audience,
        required_scopes=frozenset(scopes),
        allowed_users=frozenset(arguments.allowed_users),
        denied_users=frozenset(arguments.denied_users),
        allowed_domains=frozenset(map(str.lower, arguments.allowed_domains)),
        denied_domains=frozenset(map(str.lower, arguments.denied_domains)),
    )
