"""``proxyrelay globus``: scope, credentials and tokens."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

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
from tests.cli.command_case import GLOBUS, OUR_CLIENT, GlobusCommandTestCase
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

    def start(self, command: globus.GlobusTask) -> Deferred[int]:
        with redirect_stdout(self.output):
            return Deferred.fromCoroutine(command(self.globus))

    def reply(self, method: str, path: str, value: object, code: int = 200) -> Asked:
        """Answer the expected request."""
        (asked,) = self.agent.pending
        self.assertEqual((asked.method, asked.uri), (method, SERVICE + path))
        with redirect_stdout(self.output):
            asked.reply(value, code)
        return asked

    def application(self, *scopes: str) -> None:
        self.reply(
            "GET",
            f"/v2/api/clients/{CLIENT_ID}",
            {"client": APPLICATION | {"scopes": scopes}},
        )

    def lines(self) -> list[str]:
        text = self.output.getvalue()
        for secret in (SECRET, TOKEN):
            self.assertNotIn(secret, text)
        return text.splitlines()


class EnsureScopeTests(GlobusTestCase):
    """The scope for clients."""

    def scope(self, scope_id: str, string: str) -> None:
        self.reply(
            "GET",
            f"/v2/api/scopes/{scope_id}",
            {"scope": {"id": scope_id, "scope_string": string}},
        )

    def test_scope_that_misses_is_created(self) -> None:
        done = self.start(globus.ensure_scope)
        self.application()
        asked = self.reply(
            "POST",
            f"/v2/api/clients/{CLIENT_ID}/scopes",
            {"scopes": [{"id": "a", "scope_string": WANTED}]},
            201,
        )
        self.assertEqual(self.successResultOf(done), 0)
        sent = msgspec.json.decode(asked.body)
        scope = sent.pop("scope")
        texts = {scope.pop("name"), scope.pop("description")}
        self.assertTrue(all("ProxyStore" in text for text in texts))
        self.assertEqual(
            (scope, sent),
            (
                {
                    "scope_suffix": "relay_all",
                    "dependent_scopes": [],
                    "advertised": True,
                    "allows_refresh_token": True,
                },
                {},
            ),
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

    def test_scope_that_exists_is_left_alone(self) -> None:
        done = self.start(globus.ensure_scope)
        self.application("other", "ours", "never asked about")
        self.scope("other", f"https://auth.globus.org/scopes/{CLIENT_ID}/other")
        self.scope("ours", WANTED)
        self.assertEqual(self.successResultOf(done), 0)
        self.assertEqual(len(self.agent.requests), 3)
        self.assertEqual(self.lines()[1], f"scope: {WANTED} is there")

    def test_scope_that_is_forbidden_is_an_error(self) -> None:
        done = self.start(globus.ensure_scope)
        self.application("other")
        self.scope("other", f"{WANTED}_too")
        self.assertNoResult(done)
        self.assertEqual(self.agent.last.method, "POST")
        self.agent.last.reply({"errors": [{"code": "FORBIDDEN"}]}, 403)
        failure = self.failureResultOf(done, GlobusError)
        self.assertEqual(str(failure.value), "answered 403 (FORBIDDEN)")

    def test_scope_as_printed_is_a_configuration(self) -> None:
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

    def test_scope_without_answer_times_out(self) -> None:
        done = self.start(globus.ensure_scope)
        self.clock.advance(globus.ANSWER_TIMEOUT_SECONDS)
        self.failureResultOf(done, GlobusError)


class TrialTests(GlobusTestCase):
    """Trial of the credentials and of a token."""

    def trial(
        self,
        token: str | None,
        answer: object = None,
        arguments: AuthArguments = OURS,
    ) -> int:
        self.output = io.StringIO()
        done = self.start(lambda service: globus.trial(service, arguments, token))
        self.application()
        if answer is not None:
            asked = self.reply("POST", "/v2/oauth2/token/introspect", answer)
            self.assertEqual(asked.token, TOKEN)
        return self.successResultOf(done)

    def test_trial_without_token_tries_credentials(self) -> None:
        self.assertEqual(self.trial(None), 0)
        works = "credentials: work, for the application 'Our \\x1b[2Jrelay'"
        self.assertEqual(self.lines(), [works])

    def test_trial_of_good_token_describes_it(self) -> None:
        for scheme in ("", "Bearer ", "bearer  ", "BEARER\t"):
            self.assertEqual(self.trial(scheme + TOKEN, active(exp=4102444800)), 0)
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
        self.assertEqual(self.trial(TOKEN, active(exp=1e18)), 0)
        far = "token: expires on a day beyond the calendar (1e+18)"
        self.assertIn(far, self.lines())

    def test_trial_of_token_without_details_refuses_it(self) -> None:
        self.assertEqual(self.trial(TOKEN, {"active": True, "sub": JO}), 1)
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

    def test_trial_of_wrong_token_tells_why(self) -> None:
        denied = AuthArguments(audience=CLIENT_ID, denied_users=(JO,))
        for answer, arguments, words in (
            ({"active": False}, OURS, "expired or has been revoked"),
            (active(exp=1), OURS, "has expired"),
            (active(scope=""), OURS, "lacks the scope"),
            (active(), AuthArguments(), "is not meant for ebd5bbed"),
            (active(), denied, "may not use this relay"),
        ):
            self.assertEqual(self.trial(TOKEN, answer, arguments), 1)
            *_, asked, line = self.lines()
            self.assertIn(words, line)
            is_unknown = "Globus does not know it" in asked
            self.assertEqual(is_unknown, answer == {"active": False})

    def test_trial_of_malformed_token_asks_nobody(self) -> None:
        self.assertEqual(self.trial("a b"), 1)
        self.assertEqual(
            self.lines()[1:],
            [
                "token: expected the token alone, in one line",
                "token: refused with 4001: UnauthorizedError: The bearer token is "
                "malformed.",
            ],
        )
        self.assertEqual(len(self.agent.requests), 1)


class CommandTests(GlobusCommandTestCase):
    """Settings, options and standard input of both commands."""

    def run_action(
        self, text: str | None, action: str, *options: str
    ) -> tuple[int, list[str]]:
        """Run an action, with the text as its configuration."""
        if text is None:
            return self.run_command("globus", action, *options)
        self.path.write_text(text)
        return self.run_command("globus", action, "-c", str(self.path), *options)

    def test_check_with_options_tries_their_credentials(self) -> None:
        secret = self.folder / "other"
        secret.write_text("hunter3\n")
        self.stdin(None)
        self.answer = ({"client": {"id": JO, "name": "theirs"}}, 200)
        options = ("--client-id", JO, "--client-secret-file", str(secret))
        for text in (GLOBUS, None):
            self.assertEqual(
                self.run_action(text, "check", *options),
                (0, ["credentials: work, for the application 'theirs'"]),
            )
            found = self.ran[-1]
            self.assertEqual(found, Credentials(JO, Secret("hunter3")))
            self.assertEqual(
                found.origin, f"client ID from --client-id, secret from {secret}"
            )

    def test_check_with_wrong_option_names_it(self) -> None:
        self.stdin(None)
        missing = str(self.folder / "missing")
        for options, start in (
            (("--client-id", "relay"), "problem: --client-id: expected an ID"),
            (("--client-secret-file", missing), "problem: --client-secret-file: "),
        ):
            status, lines = self.run_action(GLOBUS, "check", *options)
            self.assertEqual((status, len(lines)), (1, 1), lines)
            self.assertTrue(lines[0].startswith(start), lines)

    def test_check_with_token_on_stdin_tries_it(self) -> None:
        self.answer = OUR_CLIENT
        self.stdin("not a token\n")
        status, lines = self.run_action(GLOBUS, "check")
        self.assertEqual(status, 1)
        self.assertIn("refused with 4001", lines[-1])

    def test_check_with_empty_stdin_asks_nobody(self) -> None:
        self.stdin("\n")
        line = (
            "problem: standard input: is empty: expected a token; to try only the "
            "credentials, add </dev/null"
        )
        self.assertEqual(self.run_action(GLOBUS, "check"), (1, [line]))
        self.assertEqual(self.agent.requests, [])

    def test_check_without_stdin_tries_credentials(self) -> None:
        self.answer = OUR_CLIENT
        self.patch(sys, "stdin", None)
        works = "credentials: work, for the application 'ours'"
        self.assertEqual(self.run_action(GLOBUS, "check"), (0, [works]))
        status, lines = self.run_action("[auth]\nmethod = 'globus'\n", "check")
        self.assertEqual((status, len(lines)), (1, 2), lines)

    def test_check_of_open_relay_is_refused(self) -> None:
        self.stdin("token\n")
        for text, place in (
            ("", ": auth: lacks method"),
            ("\n[auth]\n", ":2: auth: lacks method"),
            (
                "[auth.kwargs]\nclient_id = 'relay'\nclient_secret = 'hunter2'\n",
                ":1: auth.kwargs: has no effect without method",
            ),
        ):
            status, lines = self.run_action(text, "check")
            self.assertEqual((status, len(lines)), (1, 1), lines)
            self.assertTrue(lines[0].startswith(f"problem: {self.path}{place}"), lines)
            self.assertIn("everybody would be let in", lines[0])
        self.assertEqual(self.agent.requests, [])

    def test_setup_with_credentials_ensures_the_scope(self) -> None:
        self.answer = OUR_CLIENT
        status, lines = self.run_action(GLOBUS, "setup")
        self.assertEqual(status, 0)
        self.assertIn("scope: urn:a has been created", lines)

    def test_setup_with_problem_runs_nothing(self) -> None:
        self.stdin("")
        for text, words in (
            ("", "auth.kwargs.client_id: is missing"),
            ("prot = 1\n", "unknown setting"),
        ):
            status, lines = self.run_action(text, "setup")
            self.assertEqual(status, 1)
            self.assertTrue(lines[0].startswith(f"problem: {self.path}:"), lines)
            self.assertIn(words, lines[0])
        self.assertEqual(self.ran, [])


class RunTests(SynchronousTestCase):
    """One command in one process."""

    def run_command(self, result: int | GlobusError, ended: int = 0) -> tuple[int, str]:
        """Run a command with a result; the reactor ends as in `react`."""

        def react(main: Callable[[object], Deferred[None]]) -> None:
            self.successResultOf(main(MemoryReactorClock()))
            raise SystemExit(ended)

        async def command(service: Globus) -> int:
            if isinstance(result, GlobusError):
                raise result
            return result

        self.patch(globus, "react", react)
        output = io.StringIO()
        with redirect_stdout(output):
            status = globus.run(AuthArguments(), support.CREDENTIALS, command)
        return status, output.getvalue()

    def test_run_of_command_returns_its_status(self) -> None:
        for status in (0, 1):
            self.assertEqual(self.run_command(status), (status, ""))

    def test_run_with_401_blames_the_credentials(self) -> None:
        blame = (
            ": the client ID or the secret is wrong (client ID from here, secret from "
            "there)"
        )
        for code, words in ((403, ""), (401, blame)):
            self.assertEqual(
                self.run_command(GlobusError(f"answered {code}", code)),
                (1, f"problem: Globus Auth answered {code}{words}\n"),
            )

    def test_run_after_signal_is_interrupted(self) -> None:
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
        with self.assertRaises(KeyboardInterrupt):
            globus.run(AuthArguments(), support.CREDENTIALS, command)

    def test_run_after_failure_of_reactor_exits(self) -> None:
        with self.assertRaises(SystemExit) as caught:
            self.run_command(0, ended=1)
        self.assertEqual(caught.exception.code, 1)
