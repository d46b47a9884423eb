"""The authenticator of a relay that does not authenticate."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.internet.defer import Deferred, succeed

from proxyrelay.identity import ANONYMOUS, User


class AnonymousAuthenticator:
    """Everybody is the same user."""

    def authenticate(self, headers: Mapping[str, str]) -> Deferred[User]:  # noqa: ARG002
        """Identify nobody, at once."""
        return succeed(ANONYMOUS)
