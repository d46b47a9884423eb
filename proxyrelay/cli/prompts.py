"""Input of the ``proxyrelay globus`` commands: credentials and a token."""

from __future__ import annotations

import dataclasses
import getpass
import os
import select
import stat
import time
from collections.abc import Callable, Mapping
from typing import TextIO

import msgspec

from proxyrelay.auth import credentials
from proxyrelay.auth.credentials import Credentials, Missing
from proxyrelay.config import AuthArguments, Secret
from proxyrelay.errors import ConfigError, Problem
from proxyrelay.net.clock import Clock

MAX_PROMPTS = 3
"""Prompts for one value."""

STDIN_TIMEOUT_SECONDS = 10.0
"""Time until the end of standard input; some programs never close a pipe."""

MAX_STDIN_BYTES = 64 * 1024
"""Longest standard input; the longest tokens have a few thousand bytes."""

_OPTIONS = {
    "auth.kwargs.client_id": "--client-id",
    "auth.kwargs.client_secret": "--client-secret-file",
}


def find_credentials(
    arguments: AuthArguments,
    environment: Mapping[str, str],
    terminal: TextIO | None,
    names: Mapping[str, str],
) -> Credentials:
    """Find the credentials; prompt for missing ones on a terminal.

    For ``names`` see `credentials.find`.

    Raises:
        ConfigError: A credential is missing or wrong.
    """
    try:
        return credentials.find(arguments, environment, names)
    except ConfigError as error:
        missing = {
            problem.key for problem in error.problems if isinstance(problem, Missing)
        }
        if len(missing) < len(error.problems):
            raise
        if terminal is None or not terminal.isatty():
            raise _with_options(error) from None
        try:
            if "auth.kwargs.client_id" in missing:
                client_id = _prompt(input, "Client ID: ")
                arguments = msgspec.structs.replace(arguments, client_id=client_id)
            if "auth.kwargs.client_secret" in missing:
                secret = _prompt(getpass.getpass, "Client secret (is not shown): ")
                arguments = msgspec.structs.replace(
                    arguments, client_secret=Secret(secret)
                )
        except EOFError:
            raise _with_options(error) from None
        typed = dict.fromkeys(missing, "the terminal")
        return credentials.find(arguments, environment, {**names, **typed})


def _with_options(error: ConfigError) -> ConfigError:
    """The error, with the options for the missing values."""
    return ConfigError(
        dataclasses.replace(
            problem, message=f"{problem.message}; or give {_OPTIONS[problem.key]}"
        )
        for problem in error.problems
    )


def _prompt(ask: Callable[[str], str], prompt: str) -> str:
    """Prompt until a value comes; else raise EOFError."""
    for _ in range(MAX_PROMPTS):
        try:
            text = ask(prompt).strip()
        except EOFError:
            print()  # the cursor stands behind the prompt
            raise
        if text:
            return text
    raise EOFError


def stdin_token(
    stream: TextIO | None,
    timeout: float = STDIN_TIMEOUT_SECONDS,
    now: Clock = time.monotonic,
) -> str | None:
    """Read a token from a file or a pipe; None on a terminal and on ``/dev/null``.

    Args:
        stream: Standard input, if any.
        timeout: Seconds until its end.
        now: Monotonic time in seconds.

    Raises:
        ConfigError: The input is empty, too long, or does not end.
    """
    if stream is None or stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):
        return None
    data = b""
    end = now() + timeout
    while len(data) <= MAX_STDIN_BYTES:
        ready, _, _ = select.select([stream], [], [], max(0.0, end - now()))
        if not ready:
            raise _stdin_error(f"does not end within {timeout:g} s")
        try:
            piece = os.read(stream.fileno(), MAX_STDIN_BYTES)
        except OSError as error:
            raise _stdin_error(f"cannot be read: {error.strerror}") from None
        if not piece:
            break
        data += piece
    else:
        raise _stdin_error(f"has over {MAX_STDIN_BYTES} bytes")
    token = data.decode("utf-8-sig", "replace").strip()
    if not token:
        raise _stdin_error("is empty")
    return token


def _stdin_error(what: str) -> ConfigError:
    hint = "expected a token; to try only the credentials, add </dev/null"
    return ConfigError([Problem("standard input", f"{what}: {hint}")])
