"""Globus Auth API: introspection, applications and scopes."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import quote_plus

import msgspec
from twisted.internet.defer import Deferred

from proxyrelay.auth.globus_error import GlobusError, MissingSubject
from proxyrelay.auth.http import BoundedClient
from proxyrelay.auth.policy import Introspection


class ClientInfo(msgspec.Struct):
    """An application: client ID, display name, and IDs of its scopes."""

    id: str
    name: str
    scopes: tuple[str, ...] = ()


class ScopeInfo(msgspec.Struct):
    """A scope: its ID, and the text that clients request."""

    id: str
    scope_string: str


class _ClientReply(msgspec.Struct):
    client: ClientInfo


class _ScopeReply(msgspec.Struct):
    """Globus answers with one of the two fields."""

    scope: ScopeInfo | None = None
    scopes: tuple[ScopeInfo, ...] = ()

    def one(self) -> ScopeInfo:
        found = self.scope or next(iter(self.scopes), None)
        if found is None:
            raise GlobusError("answered without the scope")
        return found


class Globus(BoundedClient):
    """The part of the Globus Auth API that a relay needs.

    Each request returns a Deferred that fails with `GlobusError`. Its ``timeout`` is in
    seconds and bounds the whole answer.
    """

    @property
    def client_id(self) -> str:
        """Client ID of the relay's application."""
        return self._credentials.client_id

    def explained(self, error: GlobusError) -> str:
        """Text of an error, with the settings that may be wrong."""
        text = f"Globus Auth {error}"
        if error.status == HTTPStatus.UNAUTHORIZED:
            origin = self._credentials.origin
            return f"{text}: the client ID or the secret is wrong ({origin})"
        if error.is_about_address:
            return f"{text} (auth.kwargs.service_url is {self._url})"
        return text

    def introspect(self, token: str, timeout: float) -> Deferred[Introspection]:
        """Introspect a token (RFC 7662)."""
        return self.request(
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
        reply = self.request(_ClientReply, "GET", path, timeout)
        return reply.addCallback(lambda answer: answer.client)

    def scope(self, scope_id: str, timeout: float) -> Deferred[ScopeInfo]:
        """Look up a scope."""
        path = f"/v2/api/scopes/{scope_id}"
        reply = self.request(_ScopeReply, "GET", path, timeout)
        return reply.addCallback(_ScopeReply.one)

    def create_scope(
        self, scope: Mapping[str, object], timeout: float
    ) -> Deferred[ScopeInfo]:
        """Add a scope, in the form of the API, to the relay's application."""
        path = f"/v2/api/clients/{self.client_id}/scopes"
        reply = self.request(_ScopeReply, "POST", path, timeout, json={"scope": scope})
        return reply.addCallback(_ScopeReply.one)


def _with_subject(answer: Introspection) -> Introspection:
    if answer.active and not answer.sub:
        text = "says that a token is active, but not whose it is"
        raise MissingSubject(text, HTTPStatus.OK)
    return answer
