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
from tests.support.globus import CLIENT_ID, JO, TOKEN


class Terminal(io.StringIO):
    """Standard input or output on a terminal."""

    def isatty(self) -> bool:
        return True


class FindCredentialsTests(SynchronousTestCase):
    """Prompts for credentials, only on a terminal."""

    def setUp(self) -> None:
        self.asked: list[str] = []
        self.output = io.StringIO()

    def find(
        self, environment: dict[str, str], stdin: TextIO | None, *answers: str
    ) -> Credentials:
        left = list(answers)

        def answer(prompt: str) -> str:
            self.asked.append(prompt.partition(" (")[0].rstrip(": "))
            if not left:
                raise EOFError
            return left.pop(0)

        # Python's own read from a terminal.
        with (
            redirect_stdout(self.output),
            mock.patch("builtins.input", answer),
            mock.patch.object(getpass, "getpass", answer),
        ):
            return prompts.find_credentials(AuthArguments(), environment, stdin, {})

    def test_credentials_that_are_found_need_no_prompt(self) -> None:
        found = self.find({ID_VARIABLE: CLIENT_ID, SECRET_VARIABLE: "b"}, Terminal())
        self.assertEqual((found, self.asked), (Credentials(CLIENT_ID, Secret("b")), []))

    def test_credentials_that_miss_are_asked_for(self) -> None:
        for environment, answers, expected, asked in (
            ({}, (f" {CLIENT_ID} ", " b "), (CLIENT_ID, "b"), ["ID", "secret"]),
            ({}, ("", " ", JO, "", "c"), (JO, "c"), [*["ID"] * 3, *["secret"] * 2]),
            ({ID_VARIABLE: JO}, ("d",), (JO, "d"), ["secret"]),
            ({SECRET_VARIABLE: "e"}, (JO,), (JO, "e"), ["ID"]),
        ):
            self.asked.clear()
            found = self.find(environment, Terminal(), *answers)
            self.assertEqual(found, Credentials(expected[0], Secret(expected[1])))
            self.assertEqual(self.asked, [f"Client {word}" for word in asked])
        self.assertEqual(
            found.origin, f"client ID from the terminal, secret from {SECRET_VARIABLE}"
        )

    def test_credentials_without_answer_are_a_problem(self) -> None:
        for answers in (("a",), (), ("", " ", "", "a"), ("a", "", "", "", "b")):
            self.asked.clear()
            with self.assertRaises(ConfigError):
                self.find({}, Terminal(), *answers)
            self.assertLessEqual(len(self.asked), 1 + prompts.MAX_PROMPTS)

    def test_prompt_at_end_of_input_ends_its_line(self) -> None:
        for answers in ((), (CLIENT_ID,)):
            self.output = io.StringIO()
            with self.assertRaises(ConfigError):
                self.find({}, Terminal(), *answers)
            self.assertEqual(self.output.getvalue(), "\n")

    def test_credentials_that_miss_name_the_options(self) -> None:
        for stdin in (None, io.StringIO(), Terminal()):
            with self.assertRaises(ConfigError) as caught:
                self.find({}, stdin)
            for problem, option in zip(
                caught.exception.problems,
                ("--client-id", "--client-secret-file"),
                strict=True,
            ):
                self.assertTrue(problem.message.endswith(f"; or give {option}"))
        self.assertEqual(self.asked, ["Client ID"])

    def test_credentials_that_are_wrong_are_not_asked_for(self) -> None:
        with self.assertRaises(ConfigError) as caught:
            self.find({SECRET_VARIABLE: "b b"}, Terminal(), "a")
        self.assertEqual(len(caught.exception.problems), 2)
        self.assertEqual(self.asked, [])


class StdinTokenTests(SynchronousTestCase):
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

    def file(self, text: str) -> TextIO:
        path = self.mktemp()
        Path(path).write_text(text)
        return self.opened(path)

    def opened(self, file: int | str) -> TextIO:
        stream = open(file, encoding="utf-8")  # noqa: PTH123, SIM115
        self.addCleanup(stream.close)
        return stream

    def refused(self, stream: TextIO, **options: Any) -> str:
        with self.assertRaises(ConfigError) as caught:
            prompts.stdin_token(stream, **options)
        (problem,) = caught.exception.problems
        self.assertEqual(problem.key, "standard input")
        self.assertIn("</dev/null", problem.message)
        return str(problem.message)

    def test_token_from_pipe_or_file_is_stripped(self) -> None:
        text = f"  {TOKEN}\n".encode()
        for stream in (
            self.pipe(text),
            self.pipe(text[:9], text[9:]),
            self.file(f"{TOKEN}\r\n"),
            self.pipe(b"\xef\xbb\xbf" + text),
        ):
            self.assertEqual(prompts.stdin_token(stream), TOKEN)

    def test_token_from_terminal_is_none(self) -> None:
        primary, terminal = os.openpty()
        self.addCleanup(os.close, primary)
        for stream in (None, self.opened(os.devnull), self.opened(terminal)):
            self.assertIsNone(prompts.stdin_token(stream, timeout=0))

    def test_token_that_is_empty_is_a_problem(self) -> None:
        for stream in (self.pipe(), self.pipe(b"\n"), self.file(" \n")):
            self.assertIn("is empty", self.refused(stream))

    def test_token_without_end_is_a_problem(self) -> None:
        for pieces in ((), (TOKEN.encode(),)):
            stream = self.pipe(*pieces, end=False)
            self.assertIn("does not end within 0 s", self.refused(stream, timeout=0))

    def test_token_that_drips_is_a_problem(self) -> None:
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

    def test_token_that_is_too_long_is_a_problem(self) -> None:
        stream = self.file("a" * (prompts.MAX_STDIN_BYTES + 1))
        self.assertIn("has over 65536 bytes", self.refused(stream))

    def test_token_of_other_bytes_is_malformed(self) -> None:
        token = prompts.stdin_token(self.pipe(b"\xff"))
        with self.assertRaises(Unauthorized):
            bearer_token({"authorization": f"Bearer {token}"})
