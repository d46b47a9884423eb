"""``proxyrelay globus``: the application is prepared, and tokens are tried."""

from __future__ import annotations

import getpass
import io
import os
from collections.abc import Callable, Coroutine
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TextIO
from unittest import mock

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay import config
from proxyrelay.auth.credentials import ID_VARIABLE, SECRET_VARIABLE, Credentials
from proxyrelay.auth.globus_api import Globus, GlobusError
from proxyrelay.auth.policy import bearer_token
from proxyrelay.cli import globus
from proxyrelay.config import AuthArguments, Secret
from proxyrelay.errors import ConfigError, Unauthorized
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


class Terminal(io.StringIO):
    """Standard input at which somebody sits."""

    def isatty(self) -> bool:
        return True


class GlobusTestCase(SynchronousTestCase):
    """Runs a command against an agent that answers when the test says so."""

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
        """Answer the request that is expected to be under way."""
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
    """The scope that clients request is found or created."""

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
        done = self.start(globus.setup)
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
        done = self.start(globus.setup)
        self.application("other", "ours", "never asked about")
        self.scope("other", f"https://auth.globus.org/scopes/{CLIENT_ID}/other")
        self.scope("ours", WANTED)
        self.assertEqual(self.successResultOf(done), 0)
        self.assertEqual(len(self.agent.requests), 3)
        self.assertEqual(self.lines()[1], f"scope: {WANTED} is there")

    def test_creates_it_beside_others(self) -> None:
        done = self.start(globus.setup)
        self.application("other")
        self.scope("other", f"{WANTED}_too")
        self.assertNoResult(done)
        self.assertEqual(self.agent.last.method, "POST")
        self.agent.last.reply({"errors": [{"code": "FORBIDDEN"}]}, 403)
        failure = self.failureResultOf(done, GlobusError)
        self.assertEqual(str(failure.value), "answered 403 (FORBIDDEN)")

    def test_what_it_prints_is_a_configuration(self) -> None:
        done = self.start(globus.setup)
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
        done = self.start(globus.setup)
        self.clock.advance(globus.PATIENCE)
        self.failureResultOf(done, GlobusError)


class CheckTests(GlobusTestCase):
    """Credentials, and whether a token would be accepted."""

    def check(
        self, token: str | None, answer: object = None, arguments: AuthArguments = OURS
    ) -> int:
        done = self.start(globus.check(arguments, token))
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
            done = self.start(globus.check(OURS, scheme + TOKEN))
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
        done = self.start(globus.check(OURS, TOKEN))
        self.agent.last.reply({"error": "invalid_client"}, 401)
        self.failureResultOf(done, GlobusError)


class CredentialsTests(SynchronousTestCase):
    """They are asked for only where somebody sits."""

    def setUp(self) -> None:
        self.asked: list[str] = []

    def ask(
        self, environment: dict[str, str], terminal: io.StringIO, *answers: str
    ) -> Credentials:
        left = list(answers)

        def answer(prompt: str) -> str:
            self.asked.append(prompt)
            if not left:
                raise EOFError
            return left.pop(0)

        # Python's own, which read from a terminal.
        self.output = io.StringIO()
        with (
            redirect_stdout(self.output),
            mock.patch("builtins.input", answer),
            mock.patch.object(getpass, "getpass", answer),
        ):
            return globus.ask_for_credentials(AuthArguments(), environment, terminal)

    def test_not_if_they_are_found(self) -> None:
        found = self.ask({ID_VARIABLE: CLIENT_ID, SECRET_VARIABLE: "b"}, Terminal())
        self.assertEqual((found, self.asked), (Credentials(CLIENT_ID, Secret("b")), []))

    def test_not_without_a_terminal(self) -> None:
        with self.assertRaises(ConfigError):
            self.ask({}, io.StringIO())
        self.assertEqual(self.asked, [])

    def test_for_what_is_missing(self) -> None:
        self.assertEqual(
            self.ask({}, Terminal(), f" {CLIENT_ID} ", " b "),
            Credentials(CLIENT_ID, Secret("b")),
        )
        self.assertEqual(
            self.ask({ID_VARIABLE: JO}, Terminal(), "d"),
            Credentials(JO, Secret("d")),
        )
        self.assertEqual(
            self.ask({SECRET_VARIABLE: "e"}, Terminal(), JO),
            Credentials(JO, Secret("e")),
        )
        self.assertEqual(
            [prompt.partition(" (")[0].rstrip(": ") for prompt in self.asked],
            ["Client ID", "Client secret", "Client secret", "Client ID"],
        )

    def test_nothing_is_no_answer(self) -> None:
        for answers in (("a",), (), ("", " ", "", "a"), ("a", "", "", "", "b")):
            self.asked.clear()
            with self.assertRaises(ConfigError):
                self.ask({}, Terminal(), *answers)
            self.assertLessEqual(len(self.asked), 1 + globus.ATTEMPTS)

    def test_a_line_ends_where_input_does(self) -> None:
        for answers in ((), (CLIENT_ID,)):
            with self.assertRaises(ConfigError):
                self.ask({}, Terminal(), *answers)
            self.assertEqual(self.output.getvalue(), "\n")

    def test_names_the_options_that_would_do(self) -> None:
        for terminal in (io.StringIO(), Terminal()):
            with self.assertRaises(ConfigError) as caught:
                self.ask({}, terminal)
            for problem, option in zip(
                caught.exception.problems,
                ("--client-id", "--client-secret-file"),
                strict=True,
            ):
                self.assertTrue(problem.message.endswith(f"; or give {option}"))

    def test_again_after_nothing(self) -> None:
        found = self.ask({}, Terminal(), "", " ", CLIENT_ID, "", "b")
        self.assertEqual(found, Credentials(CLIENT_ID, Secret("b")))

    def test_what_was_typed_came_from_the_terminal(self) -> None:
        found = self.ask({SECRET_VARIABLE: "b"}, Terminal(), CLIENT_ID)
        self.assertEqual(
            found.origin, f"client ID from the terminal, secret from {SECRET_VARIABLE}"
        )

    def test_not_for_what_is_wrong(self) -> None:
        with self.assertRaises(ConfigError) as caught:
            self.ask({SECRET_VARIABLE: "b b"}, Terminal(), "a")
        self.assertEqual(len(caught.exception.problems), 2)
        self.assertEqual(self.asked, [])

    def test_not_without_standard_input(self) -> None:
        with self.assertRaises(ConfigError):
            globus.ask_for_credentials(AuthArguments(), {}, None)


class TokenTests(SynchronousTestCase):
    """A token comes on standard input, or is not meant to come."""

    def pipe(self, *pieces: bytes, end: bool = True) -> TextIO:
        """Standard input that is a pipe."""
        receiving, sending = os.pipe()
        for piece in pieces:
            os.write(sending, piece)
        if end:
            os.close(sending)
        else:
            self.addCleanup(os.close, sending)
        return self.opened(receiving)

    def opened(self, file: int | str) -> TextIO:
        stream = open(file, encoding="utf-8")  # noqa: PTH123, SIM115
        self.addCleanup(stream.close)
        return stream

    def refused(self, stream: TextIO, **options: Any) -> str:
        with self.assertRaises(ConfigError) as caught:
            globus.token_from(stream, **options)
        (problem,) = caught.exception.problems
        self.assertEqual(problem.key, "standard input")
        self.assertIn("</dev/null", problem.message)
        return str(problem.message)

    def test_from_a_pipe(self) -> None:
        text = f"  {TOKEN}\n".encode()
        self.assertEqual(globus.token_from(self.pipe(text)), TOKEN)
        self.assertEqual(globus.token_from(self.pipe(text[:9], text[9:])), TOKEN)

    def test_from_a_file(self) -> None:
        path = self.mktemp()
        Path(path).write_text(f"{TOKEN}\r\n")
        self.assertEqual(globus.token_from(self.opened(path)), TOKEN)

    def test_none_is_meant_to_come(self) -> None:
        primary, terminal = os.openpty()
        self.addCleanup(os.close, primary)
        for stream in (None, self.opened(os.devnull), self.opened(terminal)):
            self.assertIsNone(globus.token_from(stream, patience=0))

    def test_an_empty_one_is_a_problem(self) -> None:
        path = self.mktemp()
        Path(path).write_text(" \n")
        for stream in (self.pipe(), self.pipe(b"\n"), self.opened(path)):
            self.assertIn("is empty", self.refused(stream))

    def test_a_pipe_that_stays_open_is_a_problem(self) -> None:
        for pieces in ((), (TOKEN.encode(),)):
            stream = self.pipe(*pieces, end=False)
            self.assertIn("does not end within 0 s", self.refused(stream, patience=0))

    def test_a_pipe_that_drips_is_a_problem(self) -> None:
        receiving, sending = os.pipe()
        self.addCleanup(os.close, sending)
        times = iter(range(100))

        def now() -> float:
            seconds = next(times)
            if seconds < globus.TOKEN_PATIENCE:
                os.write(sending, b"a")
            return seconds

        stream = self.opened(receiving)
        self.assertIn("does not end", self.refused(stream, now=now))

    def test_a_flood_is_a_problem(self) -> None:
        path = self.mktemp()
        Path(path).write_text("a" * (globus.TOKEN_CEILING + 1))
        self.assertIn("has over 65536 bytes", self.refused(self.opened(path)))

    def test_other_bytes_are_a_malformed_token(self) -> None:
        self.assertEqual(globus.token_from(self.pipe(b"\xef\xbb\xbfab\r\n")), "ab")
        token = globus.token_from(self.pipe(b"\xff"))
        assert token is not None
        with self.assertRaises(Unauthorized):
            bearer_token({"authorization": f"Bearer {token}"})


class RunTests(SynchronousTestCase):
    """One command in one process."""

    def run_command(self, ended: object, command: Any) -> tuple[int, str]:
        """Run it on a reactor that ends as `react` would."""

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
            """Twisted's, whose reactor a signal stops."""
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
