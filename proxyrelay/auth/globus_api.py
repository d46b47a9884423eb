"""Globus Auth API: introspection, applications and scopes."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote_plus

import msgspec
from twisted.internet.defer import Deferred

from proxyrelay.auth.credentials import Credentials
from proxyrelay.auth.globus_error import GlobusError, MissingSubject
from proxyrelay.auth.http import BoundedClient
from proxyrelay.auth.policy import Introspection


class ClientInfo(msgspec.Struct):
    """An application.

    Attributes:
        id: Client ID.
        name: Display name.
        scopes: IDs of the scopes.
    """

    id: str
    name: str
    scopes: list[str] = msgspec.field(default_factory=list)


class ScopeInfo(msgspec.Struct):
    """A scope.

    Attributes:
        id: ID.
        scope_string: Text that clients request.
    """

    id: str
    scope_string: str


class _ClientReply(msgspec.Struct):
    client: ClientInfo


class _ScopeReply(msgspec.Struct):
    """Globus answers with one of the two fields."""

    scope: ScopeInfo | None = None
    scopes: list[ScopeInfo] = msgspec.field(default_factory=list)

    def one(self) -> ScopeInfo:
        found = [self.scope] if self.scope else self.scopes
        if not found:
            raise GlobusError("answered without the scope")
        return found[0]


class Globus:
    """The part of the Globus Auth API that a relay needs.

    Each method returns a Deferred that fails with `GlobusError`. Its ``timeout`` is in
    seconds and bounds the whole answer.

    Args:
        client: HTTP client, with the credentials.
        credentials: Credentials of the relay's application.
    """

    def __init__(self, client: BoundedClient, credentials: Credentials) -> None:
        self._client = client
        self._credentials = credentials

    @classmethod
    def connect(
        cls,
        reactor: Any,
        service_url: str,
        credentials: Credentials,
        connect_timeout: float,
    ) -> Globus:
        """Globus Auth over the network, see `BoundedClient.connect`."""
        client = BoundedClient.connect(
            reactor, service_url, credentials.auth, connect_timeout
        )
        return cls(client, credentials)

    @property
    def client_id(self) -> str:
        """Client ID of the relay's application."""
        return self._credentials.client_id

    def forget_connections(self) -> None:
        """Use new connections from now on."""
        self._client.forget_connections()

    def explained(self, error: GlobusError) -> str:
        """Text of an error with the settings that may be wrong.

        Args:
            error: Error of one of the other methods.
        """
        if error.status == HTTPStatus.UNAUTHORIZED:
            origin = self._credentials.origin
            return (
                f"Globus Auth {error}: the client ID or the secret is wrong ({origin})"
            )
        if error.is_about_address:
            return (
                f"Globus Auth {error} (auth.kwargs.service_url is {self._client.url})"
            )
        return f"Globus Auth {error}"

    def introspect(self, token: str, timeout: float) -> Deferred[Introspection]:
        """Introspect a token (RFC 7662)."""
        return self._client.request(
            Introspection,
            "POST",
            "/v2/oauth2/token/introspect",
            timeout,
            secrets=(token, quote_plus(token)),
            data={"token": token},
        ).addCallback(_with_subject)

    def client(self, timeout: float) -> Deferred[ClientInfo]:
        """Look up the relay's application."""
        path = f"/v2/api/clients/{self.client_id}"
        reply = self._client.request(_ClientReply, "GET", path, timeout)
        return reply.addCallback(lambda found: found.client)

    def scope(self, scope_id: str, timeout: float) -> Deferred[ScopeInfo]:
        """Look up a scope."""
        path = f"/v2/api/scopes/{scope_id}"
        reply = self._client.request(_ScopeReply, "GET", path, timeout)
        return reply.addCallback(_ScopeReply.one)

    def create_scope(
        self, scope: Mapping[str, object], timeout: float
    ) -> Deferred[ScopeInfo]:
        """Add a scope, in the form of the API, to the relay's application."""
        path = f"/v2/api/clients/{self.client_id}/scopes"
        reply = self._client.request(
            _ScopeReply, "POST", path, timeout, json={"scope": scope}
        )
        return reply.addCallback(_ScopeReply.one)


def _with_subject(answer: Introspection) -> Introspection:
    if answer.active and not answer.sub:
        raise MissingSubject(
            "says that a token is active, but not whose it is", HTTPStatus.OK
        )
    return answer
