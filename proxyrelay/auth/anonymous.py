"""The authenticator of a relay that does not authenticate."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.internet.defer import Deferred, succeed

from proxyrelay.switchboard.user import ANONYMOUS, User


class AnonymousAuthenticator:
    """Everybody is the same user."""

    def start(self) -> None:
        """Nothing has to be found out."""

    def stop(self) -> None:
        """Nothing has begun."""

    def authenticate(
        self,
        headers: Mapping[str, str],  # noqa: ARG002
        source: str,  # noqa: ARG002
    ) -> Deferred[User]:
        """Identify nobody, at once."""
        return succeed(ANONYMOUS)
