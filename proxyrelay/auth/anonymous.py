"""Authenticator of a relay without authentication."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.internet.defer import Deferred, succeed

from proxyrelay.switchboard.user import ANONYMOUS, User


class AnonymousAuthenticator:
    """Gives the user `ANONYMOUS` to each client."""

    def start(self) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""

    def authenticate(
        self,
        headers: Mapping[str, str],  # noqa: ARG002
        source: str,  # noqa: ARG002
    ) -> Deferred[User]:
        """Fire at once."""
        return succeed(ANONYMOUS)
