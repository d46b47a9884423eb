"""``proxyrelay globus``: scope, credentials and tokens."""

from __future__ import annotations

import io
from collections.abc import Callable, Coroutine
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay import config
from proxyrelay.auth.credentials import Credentials
from proxyrelay.auth.globus_api import Globus
from proxyrelay.auth.globus_error import GlobusError
from proxyrelay.cli import globus
from proxyrelay.config import AuthArguments, Secret
from tests.support import globus as support
from tests.support.globus import (
    CLIENT_ID,
    JO,
    SECRET,
    SERVICE,
    TOKEN,
    Asked,
    PendingAgent,
    active,
)

WANTED = f"https://auth.globus.org/scopes/{CLIENT_ID}/relay_all"

APPLICATION = {"id": CLIENT_ID, "name": "Our \x1b[2Jrelay", "scopes": []}

OURS = AuthArguments(audience=CLIENT_ID)


class GlobusTestCase(SynchronousTestCase):
    """A command against an agent under the control of the test."""

    def setUp(self) -> None:
        self.agent = PendingAgent()
        self.clock = Clock()
        self.globus = support.globus(self.agent, self.clock)
        self.output = io.StringIO()

    def start(
        self, command: Callable[[Globus], Coroutine[Any, Any, int]]
    ) -> Deferred[int]:
        with redirect_stdout(self.output):
            return Deferred.fromCoroutine(command(self.globus))

    def reply(self, method: str, path: str, value: object, code: int = 200) -> Asked:
        """Answer the expected request."""
        (asked,) = self.agent.pending
        self.assertEqual((asked.method, asked.uri), (method, SERVICE + path))
        with redirect_stdout(self.output):
            asked.reply(value, code)
        return asked

    def lines(self) -> list[str]:
        text = self.output.getvalue()
        for secret in (SECRET, TOKEN):
            self.assertNotIn(secret, text)
        return text.splitlines()


class SetupTests(GlobusTestCase):
    """The scope for clients."""

    def application(self, *scopes: str) -> None:
        self.reply(
            "GET",
            f"/v2/api/clients/{CLIENT_ID}",
            {"client": APPLICATION | {"scopes": scopes}},
        )

    def scope(self, scope_id: str, string: str) -> None:
        self.reply(
            "GET",
            f"/v2/api/scopes/{scope_id}",
            {"scope": {"id": scope_id, "scope_string": string}},
        )

    def test_creates_the_scope(self) -> None:
        done = self.start(globus.ensure_scope)
        self.application()
        asked = self.reply(
            "POST",
            f"/v2/api/clients/{CLIENT_ID}/scopes",
            {"scopes": [{"id": "a", "scope_string": WANTED}]},
            201,
        )
        self.assertEqual(self.successResultOf(done), 0)
        (sent,) = msgspec.json.decode(asked.body).items()
        name, scope = sent
        self.assertEqual(name, "scope")
        texts = {scope.pop("name"), scope.pop("description")}
        self.assertTrue(all("ProxyStore" in text for text in texts))
        self.assertEqual(
            scope,
            {
                "scope_suffix": "relay_all",
                "dependent_scopes": [],
                "advertised": True,
                "allows_refresh_token": True,
            },
        )
        lines = self.lines()
        self.assertEqual(
            lines[:2],
            [
                f"application: 'Our \\x1b[2Jrelay', client ID {CLIENT_ID}",
                f"scope: {WANTED} has been created",
            ],
        )
        self.assertIn(f'    audience = "{CLIENT_ID}"', lines)
        self.assertEqual(lines[-1].strip() or lines[-2].strip(), WANTED)

    def test_leaves_the_scope_that_is_there(self) -> None:
        done = self.start(globus.ensure_scope)
        self.application("other", "ours", "never asked about")
        self.scope("other", f"https://auth.globus.org/scopes/{CLIENT_ID}/other")
        self.scope("ours", WANTED)
        self.assertEqual(self.successResultOf(done), 0)
        self.assertEqual(len(self.agent.requests), 3)
        self.assertEqual(self.lines()[1], f"scope: {WANTED} is there")

    def test_creates_it_beside_others(self) -> None:
        done = self.start(globus.ensure_scope)
        self.application("other")
        self.scope("other", f"{WANTED}_too")
        self.assertNoResult(done)
        self.assertEqual(self.agent.last.method, "POST")
        self.agent.last.reply({"errors": [{"code": "FORBIDDEN"}]}, 403)
        failure = self.failureResultOf(done, GlobusError)
        self.assertEqual(str(failure.value), "answered 403 (FORBIDDEN)")

    def test_what_it_prints_is_a_configuration(self) -> None:
        done = self.start(globus.ensure_scope)
        self.application("ours")
        self.scope("ours", WANTED)
        self.successResultOf(done)
        text = self.output.getvalue()
        table = text[text.index("    [auth]") : text.index("Clients must")]
        path = Path(self.mktemp())
        path.write_text("\n".join(line.strip() for line in table.splitlines()))
        printed = config.load(path)
        self.assertEqual(printed.problems + printed.warnings, [])
        kwargs = printed.config.auth.kwargs
        self.assertEqual((kwargs.client_id, kwargs.audience), (CLIENT_ID, CLIENT_ID))

    def test_does_not_wait_for_ever(self) -> None:
        done = self.start(globus.ensure_scope)
        self.clock.advance(globus.ANSWER_TIMEOUT_SECONDS)
        self.failureResultOf(done, GlobusError)


class CheckTests(GlobusTestCase):
    """Trial of the credentials and of a token."""

    def check(
        self, token: str | None, answer: object = None, arguments: AuthArguments = OURS
    ) -> int:
        done = self.start(globus.trial(arguments, token))
        self.reply("GET", f"/v2/api/clients/{CLIENT_ID}", {"client": APPLICATION})
        if answer is not None:
            asked = self.reply("POST", "/v2/oauth2/token/introspect", answer)
            self.assertEqual(asked.token, token)
        return self.successResultOf(done)

    def test_credentials_alone(self) -> None:
        self.assertEqual(self.check(None), 0)
        self.assertEqual(
            self.lines(),
            ["credentials: work, for the application 'Our \\x1b[2Jrelay'"],
        )

    def test_a_token_that_is_accepted(self) -> None:
        self.assertEqual(self.check(TOKEN, active(exp=4102444800)), 0)
        self.assertEqual(
            self.lines()[1:],
            [
                f"token: belongs to 'jo@example.org', identity '{JO}'",
                f"token: is meant for '{CLIENT_ID}'",
                f"token: has the scopes '{WANTED} openid'",
                "token: expires on 2100-01-01T00:00:00+00:00",
                "token: accepted by this relay",
            ],
        )

    def test_a_token_that_says_little(self) -> None:
        answer = {"active": True, "sub": JO}
        self.assertEqual(self.check(TOKEN, answer), 1)
        self.assertEqual(
            self.lines()[1:],
            [
                f"token: belongs to None, identity '{JO}'",
                "token: is meant for nobody",
                "token: has the scopes '(none)'",
                "token: refused with 4002: ForbiddenError: The token is not meant for "
                f"{CLIENT_ID}.",
            ],
        )

    def test_tokens_that_are_refused(self) -> None:
        denied = AuthArguments(audience=CLIENT_ID, denied_users=(JO,))
        for answer, arguments, words in (
            ({"active": False}, OURS, "expired or has been revoked"),
            (active(exp=1), OURS, "has expired"),
            (active(scope=""), OURS, "lacks the scope"),
            (active(), AuthArguments(), "is not meant for ebd5bbed"),
            (active(), denied, "may not use this relay"),
        ):
            self.assertEqual(self.check(TOKEN, answer, arguments), 1)
            self.assertIn(words, self.lines()[-1])

    def test_a_malformed_token_is_not_asked_about(self) -> None:
        self.assertEqual(self.check("a b"), 1)
        self.assertEqual(
            self.lines()[1:],
            [
                "token: expected the token alone, in one line",
                "token: refused with 4001: UnauthorizedError: The bearer token is "
                "malformed.",
            ],
        )
        self.assertEqual(len(self.agent.requests), 1)

    def test_a_token_as_it_stands_in_a_header(self) -> None:
        for scheme in ("Bearer ", "bearer  ", "BEARER\t"):
            done = self.start(globus.trial(OURS, scheme + TOKEN))
            self.reply("GET", f"/v2/api/clients/{CLIENT_ID}", {"client": APPLICATION})
            asked = self.reply("POST", "/v2/oauth2/token/introspect", active())
            self.assertEqual(asked.token, TOKEN)
            self.assertEqual(self.successResultOf(done), 0)

    def test_a_token_that_globus_does_not_know(self) -> None:
        self.assertEqual(self.check(TOKEN, {"active": False}), 1)
        self.assertEqual(
            self.lines()[1:],
            [
                "token: Globus does not know it: expired, revoked, or none of Globus's",
                "token: refused with 4002: ForbiddenError: The token is expired or has "
                "been revoked.",
            ],
        )

    def test_a_day_beyond_the_calendar(self) -> None:
        self.assertEqual(self.check(TOKEN, active(exp=1e18)), 0)
        self.assertIn(
            "token: expires on a day beyond the calendar (1e+18)", self.lines()
        )

    def test_wrong_credentials(self) -> None:
        done = self.start(globus.trial(OURS, TOKEN))
        self.agent.last.reply({"error": "invalid_client"}, 401)
        self.failureResultOf(done, GlobusError)


class RunTests(SynchronousTestCase):
    """One command in one process."""

    def run_command(self, ended: object, command: Any) -> tuple[int, str]:
        """Run it; the reactor ends as in `react`."""

        def react(main: Callable[[object], Deferred[None]]) -> None:
            self.successResultOf(main(MemoryReactorClock()))
            raise SystemExit(ended)

        self.patch(globus, "react", react)
        output = io.StringIO()
        with redirect_stdout(output):
            found = Credentials(CLIENT_ID, Secret(SECRET), "here", "there")
            status = globus.run(AuthArguments(), found, command)
        return status, output.getvalue()

    def test_hands_the_status_on(self) -> None:
        for status in (0, 1):

            async def command(service: Globus, status: int = status) -> int:
                return status

            self.assertEqual(self.run_command(0, command), (status, ""))

    def test_shows_what_globus_says(self) -> None:
        async def command(service: Globus) -> int:
            raise GlobusError("answered 401 (invalid_client)", 401)

        self.assertEqual(
            self.run_command(0, command),
            (
                1,
                "problem: Globus Auth answered 401 (invalid_client): the client ID or "
                "the secret is wrong (client ID from here, secret from there)\n",
            ),
        )

    def test_blames_the_credentials_for_nothing_else(self) -> None:
        async def command(service: Globus) -> int:
            raise GlobusError("answered 403", 403)

        self.assertEqual(
            self.run_command(0, command), (1, "problem: Globus Auth answered 403\n")
        )

    def test_is_interrupted_by_a_signal(self) -> None:
        def react(main: Callable[[object], Deferred[None]]) -> None:
            """Twisted's own; a signal stops the reactor."""
            reactor = MemoryReactorClock()
            running = main(reactor)
            self.assertNoResult(running)
            ((stop, _, _),) = reactor.triggers["before"]["shutdown"]
            stop()
            self.successResultOf(running)
            raise SystemExit(0)

        async def command(service: Globus) -> int:
            return await Deferred()

        self.patch(globus, "react", react)
        found = Credentials(CLIENT_ID, Secret(SECRET))
        with self.assertRaises(KeyboardInterrupt):
            globus.run(AuthArguments(), found, command)

    def test_ends_when_twisted_gives_up(self) -> None:
        async def command(service: Globus) -> int:
            return 0

        with self.assertRaises(SystemExit) as caught:
            self.run_command(1, command)
        self.assertEqual(caught.exception.code, 1)
