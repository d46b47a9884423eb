"""Requests to the Globus Auth API, field by field."""

from __future__ import annotations

import base64
import json
from typing import Any, cast

from treq.client import HTTPClient
from treq.testing import StringStubbingResource, StubTreq
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth.globus_api import Globus
from proxyrelay.auth.globus_error import GlobusError
from proxyrelay.auth.http import BoundedClient
from proxyrelay.auth.policy import Introspection
from tests.support.globus import (
    CLIENT_ID,
    CREDENTIALS,
    JO,
    SECRET,
    SERVICE,
    TOKEN,
    active,
)

BASIC = "Basic " + base64.b64encode(f"{CLIENT_ID}:{SECRET}".encode()).decode()


class RequestTests(SynchronousTestCase):
    """Method, path, header fields and body of each request."""

    def expect(
        self,
        method: str,
        path: str,
        body: bytes | None,
        answer: object,
        code: int = 200,
    ) -> Globus:
        """Globus with one answer to one expected request."""

        def respond(
            method_: bytes, url: str, params: object, headers: Any, data: bytes
        ) -> tuple[int, dict[bytes, bytes], bytes]:
            self.assertEqual((method_.decode(), url), (method, SERVICE + path))
            fields = {name.lower(): value for name, value in headers.items()}
            self.assertEqual(fields[b"authorization"], [BASIC.encode()])
            self.assertEqual(fields[b"accept"], [b"application/json"])
            if body is not None:
                self.assertEqual(data, body)
            self.asked.append(fields)
            sent = {b"Content-Type": b"application/json"}
            if 300 <= code < 400:
                sent[b"Location"] = b"https://elsewhere.example/"
            return code, sent, json.dumps(answer).encode()

        self.asked: list[dict[bytes, list[bytes]]] = []
        http = cast(HTTPClient, StubTreq(StringStubbingResource(respond)))
        client = BoundedClient(http, SERVICE + "/", CREDENTIALS.auth, Clock())
        return Globus(client, CREDENTIALS)

    def test_introspects(self) -> None:
        service = self.expect(
            "POST",
            "/v2/oauth2/token/introspect",
            b"token=a%2Fb%2Bc%3D",
            active(exp=17, iat=1, something="new", aud=["x", CLIENT_ID]),
        )
        answer = self.successResultOf(service.introspect("a/b+c=", 7))
        self.assertEqual((answer.sub, answer.exp), (JO, 17))
        self.assertEqual(answer.audience, ("x", CLIENT_ID))
        self.assertEqual(
            self.asked[0][b"content-type"], [b"application/x-www-form-urlencoded"]
        )

    def test_an_inactive_token_is_an_answer(self) -> None:
        service = self.expect(
            "POST", "/v2/oauth2/token/introspect", None, {"active": False}
        )
        self.assertEqual(
            self.successResultOf(service.introspect(TOKEN, 7)),
            Introspection(active=False),
        )

    def test_looks_the_application_up(self) -> None:
        client = {"id": CLIENT_ID, "name": "relay", "scopes": ["a"], "fqdns": []}
        service = self.expect(
            "GET", f"/v2/api/clients/{CLIENT_ID}", b"", {"client": client}
        )
        found = self.successResultOf(service.client(7))
        self.assertEqual(
            (found.id, found.name, found.scopes), (CLIENT_ID, "relay", ["a"])
        )

    def test_looks_a_scope_up(self) -> None:
        scope = {"id": "a", "scope_string": "urn:a"}
        for answer in ({"scope": scope}, {"scopes": [scope]}):
            service = self.expect("GET", "/v2/api/scopes/a", b"", answer)
            found = self.successResultOf(service.scope("a", 7))
            self.assertEqual(found.scope_string, "urn:a")

    def test_an_answer_without_the_scope(self) -> None:
        service = self.expect("GET", "/v2/api/scopes/a", b"", {"scopes": []})
        failure = self.failureResultOf(service.scope("a", 7), GlobusError)
        self.assertEqual(str(failure.value), "answered without the scope")

    def test_creates_a_scope(self) -> None:
        meant = {
            "scope": {
                "name": "n",
                "description": "d",
                "scope_suffix": "relay_all",
                "dependent_scopes": [],
                "advertised": True,
                "allows_refresh_token": True,
            }
        }
        service = self.expect(
            "POST",
            f"/v2/api/clients/{CLIENT_ID}/scopes",
            json.dumps(meant, separators=(",", ":")).encode(),
            {"scopes": [{"id": "a", "scope_string": "urn:a"}]},
            201,
        )
        created = service.create_scope(meant["scope"], 7)
        self.assertEqual(self.successResultOf(created).id, "a")

    def test_does_not_follow_redirects(self) -> None:
        for code in (301, 302, 303, 307, 308):
            service = self.expect("POST", "/v2/oauth2/token/introspect", None, {}, code)
            asked = service.introspect(TOKEN, 7)
            error = self.failureResultOf(asked, GlobusError).value
            self.assertEqual((error.status, error.is_transient), (code, False))
            self.assertEqual(len(self.asked), 1)
