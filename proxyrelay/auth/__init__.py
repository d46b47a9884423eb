"""Authenticators: from the headers of a handshake to a `User`.

The way of a bearer token:

1. `policy.bearer_token` reads it from the Authorization header.
2. `authenticator` looks for an answer about it in the `cache`.
3. `introspector` waits in the `fair_queue`, if the `circuit_breaker` lets it.
4. `globus_api` introspects it at Globus Auth, over bounded `http`.
5. `policy.authorize` checks the answer, and gives the user.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred

from proxyrelay.auth.anonymous import AnonymousAuthenticator
from proxyrelay.auth.authenticator import GlobusAuthenticator
from proxyrelay.auth.cache import TokenCache
from proxyrelay.auth.credentials import Credentials
from proxyrelay.auth.policy import Policy
from proxyrelay.config import Auth, AuthArguments
from proxyrelay.switchboard.user import User

if TYPE_CHECKING:
    from proxyrelay.auth.introspector import Introspector


class Authenticator(Protocol):
    """Finds the user of a connection."""

    def start(self) -> None:
        """Check in the background whether authentication works; log trouble.

        The relay calls it when it begins to serve. It neither waits nor raises.
        """

    def stop(self) -> None:
        """Cancel that check; the relay calls it when it stops."""

    def authenticate(self, headers: Mapping[str, str], source: str) -> Deferred[User]:
        """Find the user of a client, or fail with a `Refusal` for it.

        The caller cancels the Deferred if the client leaves.

        Args:
            headers: Header fields of the opening handshake, names in lower case.
            source: Source of the client, from `proxyrelay.net.addresses.source`.
                Sources share the introspection fairly.
        """


Basis = tuple[AuthArguments, Credentials | None]
"""Input of an authenticator: settings, and credentials if the method needs them."""


def authenticator(
    settings: Auth, credentials: Credentials | None, reactor: Any
) -> Authenticator:
    """Build the authenticator of the settings.

    Raises:
        ValueError: The method needs credentials.
    """
    if settings.method is None:
        return AnonymousAuthenticator()
    credentials = _needed(credentials)
    return GlobusAuthenticator(
        _introspector(settings.kwargs, credentials, reactor),
        TokenCache(*_cache_limits(settings.kwargs)),
        Policy.from_settings(settings.kwargs, credentials.client_id),
        reactor,
    )


def changed(
    before: Authenticator, was: Basis, basis: Basis, reactor: Any
) -> Authenticator:
    """Build the successor of an authenticator with the same method.

    It keeps the cache and the connections, unless a setting of them has changed. The
    predecessor still finishes its requests. Without a change it is its own successor.

    Args:
        before: Authenticator in service.
        was: Input of that authenticator.
        basis: Input of the successor.
        reactor: Reactor of the requests.

    Raises:
        ValueError: The method needs credentials.
    """
    if was == basis or not isinstance(before, GlobusAuthenticator):
        return before
    (old, used), (new, credentials) = was, basis
    used, credentials = _needed(used), _needed(credentials)
    is_other_service = new.service_url != old.service_url
    is_other_application = credentials.client_id != used.client_id
    introspector = cache = None
    if is_other_service or credentials != used or new.timeout != old.timeout:
        introspector = _introspector(new, credentials, reactor)
    if (
        is_other_service
        or is_other_application
        or _cache_limits(new) != _cache_limits(old)
    ):
        cache = TokenCache(*_cache_limits(new))
    policy = Policy.from_settings(new, credentials.client_id)
    return before.changed(policy, introspector, cache)


def _needed(credentials: Credentials | None) -> Credentials:
    if credentials is None:
        raise ValueError("Globus Auth needs credentials")
    return credentials


def _introspector(
    settings: AuthArguments, credentials: Credentials, reactor: Any
) -> Introspector:
    # treq is large: a relay without Globus starts in two thirds of the time.
    from proxyrelay.auth.globus_api import Globus  # noqa: PLC0415
    from proxyrelay.auth.introspector import Introspector  # noqa: PLC0415

    url, timeout = settings.service_url, settings.timeout
    globus = Globus.connect(reactor, url, credentials, timeout)
    return Introspector(globus, reactor, timeout)


def _cache_limits(settings: AuthArguments) -> tuple[int, float, float]:
    return settings.cache_size, settings.cache_ttl, settings.stale_if_error
