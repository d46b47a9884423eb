"""Requests to the Globus Auth API, field by field."""

from __future__ import annotations

import base64
import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth.globus_error import GlobusError
from proxyrelay.auth.policy import Introspection
from tests.support.globus import (
    CLIENT_ID,
    JO,
    SECRET,
    SERVICE,
    TOKEN,
    PendingAgent,
    active,
    globus,
)

BASIC = "Basic " + base64.b64encode(f"{CLIENT_ID}:{SECRET}".encode()).decode()


class RequestTests(SynchronousTestCase):
    """Method, path, header fields and body of each request."""

    def setUp(self) -> None:
        self.agent = PendingAgent()
        self.globus = globus(self.agent, Clock())

    def answer(
        self,
        asked: Deferred[Any],
        method: str,
        path: str,
        body: bytes,
        value: object,
        code: int = 200,
    ) -> Any:
        """Check the request, answer it, and return the result."""
        (request,) = self.agent.pending
        self.assertEqual((request.method, request.uri), (method, SERVICE + path))
        self.assertEqual(request.body, body)
        for name, value_ in (("Authorization", BASIC), ("Accept", "application/json")):
            self.assertEqual(request.headers.getRawHeaders(name), [value_])
        request.reply(value, code)
        return self.successResultOf(asked)

    def test_introspect_sends_the_token_as_a_form(self) -> None:
        answer = self.answer(
            self.globus.introspect("a/b+c=", 7),
            *("POST", "/v2/oauth2/token/introspect", b"token=a%2Fb%2Bc%3D"),
            active(exp=17, iat=1, something="new", aud=["x", CLIENT_ID]),
        )
        self.assertEqual((answer.sub, answer.exp), (JO, 17))
        self.assertEqual(answer.audience, ("x", CLIENT_ID))
        self.assertEqual(
            self.agent.last.headers.getRawHeaders("Content-Type"),
            ["application/x-www-form-urlencoded"],
        )

    def test_introspect_inactive_token_is_an_answer(self) -> None:
        asked = self.globus.introspect(TOKEN, 7)
        self.agent.last.reply({"active": False})
        self.assertEqual(self.successResultOf(asked), Introspection(active=False))

    def test_client_gives_name_and_scopes(self) -> None:
        client = {"id": CLIENT_ID, "name": "relay", "scopes": ["a"], "fqdns": []}
        path = f"/v2/api/clients/{CLIENT_ID}"
        found = self.answer(self.globus.client(7), "GET", path, b"", {"client": client})
        self.assertEqual(found.id, CLIENT_ID)
        self.assertEqual((found.name, found.scopes), ("relay", ("a",)))

    def test_scope_alone_or_in_a_list_is_found(self) -> None:
        scope = {"id": "a", "scope_string": "urn:a"}
        for value in ({"scope": scope}, {"scopes": [scope]}):
            asked = self.globus.scope("a", 7)
            found = self.answer(asked, "GET", "/v2/api/scopes/a", b"", value)
            self.assertEqual(found.scope_string, "urn:a")

    def test_scope_missing_in_the_answer_fails(self) -> None:
        asked = self.globus.scope("a", 7)
        self.agent.last.reply({"scopes": []})
        failure = self.failureResultOf(asked, GlobusError)
        self.assertEqual(str(failure.value), "answered without the scope")

    def test_create_scope_sends_the_scope_as_json(self) -> None:
        scope = {"name": "n", "dependent_scopes": [], "advertised": True}
        created = self.answer(
            self.globus.create_scope(scope, 7),
            "POST",
            f"/v2/api/clients/{CLIENT_ID}/scopes",
            json.dumps({"scope": scope}, separators=(",", ":")).encode(),
            {"scopes": [{"id": "a", "scope_string": "urn:a"}]},
            201,
        )
        self.assertEqual(created.id, "a")

    def test_redirect_is_not_followed(self) -> None:
        for code in (301, 302, 303, 307, 308):
            asked = self.globus.introspect(TOKEN, 7)
            elsewhere = {"Location": "https://elsewhere.example/"}
            self.agent.last.reply({}, code, elsewhere)
            error = self.failureResultOf(asked, GlobusError).value
            self.assertEqual((error.status, error.is_transient), (code, False))
            self.assertEqual(self.agent.pending, [])
