"""Authenticators: from the headers of a handshake to a `User`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from proxyrelay.auth.anonymous import AnonymousAuthenticator
from proxyrelay.auth.authenticator import GlobusAuthenticator
from proxyrelay.auth.cache import TokenCache
from proxyrelay.auth.credentials import Credentials
from proxyrelay.auth.globus_api import Globus
from proxyrelay.auth.introspector import Introspector
from proxyrelay.auth.policy import Policy
from proxyrelay.config import Auth, AuthArguments
from proxyrelay.switchboard.user import User


class Authenticator(Protocol):
    """Finds the user of a connection."""

    def start(self) -> None:
        """Check in the background whether authentication works; log trouble.

        The relay calls it when it begins to serve. It neither waits nor raises.
        """

    def stop(self) -> None:
        """Cancel that check; the relay calls it when it stops."""

    def authenticate(self, headers: Mapping[str, str], source: str) -> Deferred[User]:
        """Authenticate a client.

        The caller cancels the Deferred if the client leaves.

        Args:
            headers: Header fields of the opening handshake, names in lower case.
            source: Source of the client, from `proxyrelay.net.addresses.source`.
                Sources share the introspection fairly.

        Returns:
            Fires with the user, or fails with a `proxyrelay.errors.Refusal` for the
            client.
        """


def authenticator(
    settings: Auth, credentials: Credentials | None, reactor: Any
) -> Authenticator:
    """Build the authenticator of the settings.

    Args:
        settings: Settings.
        credentials: Credentials of the relay's application, if the method needs them.
        reactor: Reactor of the requests.

    Raises:
        ValueError: The method needs credentials.
    """
    if settings.method is None:
        return AnonymousAuthenticator()
    if credentials is None:
        raise ValueError("Globus Auth needs credentials")
    return GlobusAuthenticator(
        _introspector(settings.kwargs, credentials, reactor),
        _cache(settings.kwargs),
        Policy.from_settings(settings.kwargs, credentials.client_id),
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
"""Input of an authenticator: settings, and credentials if the method needs them."""


def changed(
    before: Authenticator, was: Basis, basis: Basis, reactor: Any
) -> Authenticator:
    """Build the successor of an authenticator with the same method.

    It keeps the cache and the connections, unless a setting of them has changed.

    Args:
        before: Authenticator in service; it still finishes its requests.
        was: Input of that authenticator.
        basis: Input of the successor.
        reactor: Reactor of the requests.

    Returns:
        The successor; ``before`` itself if nothing has changed.
    """
    (old, used), (new, credentials) = was, basis
    if was == basis or not isinstance(before, GlobusAuthenticator):
        return before
    if used is None or credentials is None:
        raise ValueError("Globus Auth needs credentials")
    keep_introspector = used == credentials and _same(
        old, new, "service_url", "timeout"
    )
    keep_cache = used.client_id == credentials.client_id and _same(
        old, new, "service_url", "cache_size", "cache_ttl", "stale_if_error"
    )
    return before.changed(
        Policy.from_settings(new, credentials.client_id),
        None if keep_introspector else _introspector(new, credentials, reactor),
        None if keep_cache else _cache(new),
    )


def _same(old: AuthArguments, new: AuthArguments, *names: str) -> bool:
    return all(getattr(old, name) == getattr(new, name) for name in names)
