"""Credentials and a token from standard input."""

from __future__ import annotations

import getpass
import io
import os
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TextIO
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth.credentials import ID_VARIABLE, SECRET_VARIABLE, Credentials
from proxyrelay.auth.policy import bearer_token
from proxyrelay.cli import prompts
from proxyrelay.config import AuthArguments, Secret
from proxyrelay.errors import ConfigError, Unauthorized
from tests.support.globus import (
    CLIENT_ID,
    JO,
    TOKEN,
)


class Terminal(io.StringIO):
    """Standard input with a person."""

    def isatty(self) -> bool:
        return True


class CredentialsTests(SynchronousTestCase):
    """Prompts for credentials, only on a terminal."""

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

        # Python's own read from a terminal.
        self.output = io.StringIO()
        with (
            redirect_stdout(self.output),
            mock.patch("builtins.input", answer),
            mock.patch.object(getpass, "getpass", answer),
        ):
            return prompts.find_credentials(AuthArguments(), environment, terminal)

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
            self.assertLessEqual(len(self.asked), 1 + prompts.MAX_PROMPTS)

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
            prompts.find_credentials(AuthArguments(), {}, None)


class TokenTests(SynchronousTestCase):
    """A token on standard input."""

    def pipe(self, *pieces: bytes, end: bool = True) -> TextIO:
        """Standard input from a pipe."""
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
            prompts.read_token(stream, **options)
        (problem,) = caught.exception.problems
        self.assertEqual(problem.key, "standard input")
        self.assertIn("</dev/null", problem.message)
        return str(problem.message)

    def test_from_a_pipe(self) -> None:
        text = f"  {TOKEN}\n".encode()
        self.assertEqual(prompts.read_token(self.pipe(text)), TOKEN)
        self.assertEqual(prompts.read_token(self.pipe(text[:9], text[9:])), TOKEN)

    def test_from_a_file(self) -> None:
        path = self.mktemp()
        Path(path).write_text(f"{TOKEN}\r\n")
        self.assertEqual(prompts.read_token(self.opened(path)), TOKEN)

    def test_none_is_meant_to_come(self) -> None:
        primary, terminal = os.openpty()
        self.addCleanup(os.close, primary)
        for stream in (None, self.opened(os.devnull), self.opened(terminal)):
            self.assertIsNone(prompts.read_token(stream, timeout=0))

    def test_an_empty_one_is_a_problem(self) -> None:
        path = self.mktemp()
        Path(path).write_text(" \n")
        for stream in (self.pipe(), self.pipe(b"\n"), self.opened(path)):
            self.assertIn("is empty", self.refused(stream))

    def test_a_pipe_that_stays_open_is_a_problem(self) -> None:
        for pieces in ((), (TOKEN.encode(),)):
            stream = self.pipe(*pieces, end=False)
            self.assertIn("does not end within 0 s", self.refused(stream, timeout=0))

    def test_a_pipe_that_drips_is_a_problem(self) -> None:
        receiving, sending = os.pipe()
        self.addCleanup(os.close, sending)
        times = iter(range(100))

        def now() -> float:
            seconds = next(times)
            if seconds < prompts.STDIN_TIMEOUT_SECONDS:
                os.write(sending, b"a")
            return seconds

        stream = self.opened(receiving)
        self.assertIn("does not end", self.refused(stream, now=now))

    def test_a_flood_is_a_problem(self) -> None:
        path = self.mktemp()
        Path(path).write_text("a" * (prompts.MAX_STDIN_BYTES + 1))
        self.assertIn("has over 65536 bytes", self.refused(self.opened(path)))

    def test_other_bytes_are_a_malformed_token(self) -> None:
        self.assertEqual(prompts.read_token(self.pipe(b"\xef\xbb\xbfab\r\n")), "ab")
        token = prompts.read_token(self.pipe(b"\xff"))
        assert token is not None
        with self.assertRaises(Unauthorized):
            bearer_token({"authorization": f"Bearer {token}"})
