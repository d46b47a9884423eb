"""Authenticators: from the headers of a handshake to a `User`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from twisted.internet.defer import Deferred

from proxyrelay.auth.anonymous import AnonymousAuthenticator
from proxyrelay.config import Auth
from proxyrelay.errors import ConfigError, Problem
from proxyrelay.identity import User


class Authenticator(Protocol):
    """Tells whom a connection belongs to."""

    def authenticate(self, headers: Mapping[str, str]) -> Deferred[User]:
        """Start to identify a client.

        The caller cancels the Deferred when it no longer wants the answer.

        Args:
            headers: Header fields of the opening handshake, names in lower case.

        Returns:
            Fires with the user, or fails with a
            `proxyrelay.errors.Refusal`, which the client is then closed with.
        """


def authenticator(settings: Auth) -> Authenticator:
    """Build the authenticator that the settings ask for.

    Raises:
        ConfigError: There is none, so that nothing is served rather than
            everybody let in.
    """
    if settings.method is None:
        return AnonymousAuthenticator()
    raise ConfigError(
        [
            Problem(
                "auth.method",
                f"{settings.method} is not available in this version; leave [auth] "
                "out to serve without authentication",
            )
        ]
    )
