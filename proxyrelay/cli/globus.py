"""``proxyrelay globus``: prepare the relay's Globus application, and try it out."""

from __future__ import annotations

import dataclasses
import getpass
import os
import re
import select
import stat
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timezone
from typing import Any, TextIO

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import react

from proxyrelay.auth import credentials, policy
from proxyrelay.auth.credentials import Credentials, Missing
from proxyrelay.auth.globus_api import Globus, GlobusError, NewScope
from proxyrelay.auth.policy import (
    RELAY_SCOPE,
    SCOPES,
    Introspection,
    authorize,
    bearer_token,
)
from proxyrelay.config import AuthArguments, Secret
from proxyrelay.errors import ConfigError, Problem, Refusal
from proxyrelay.net.clock import use_monotonic_time

PATIENCE = 20.0
"""Seconds for an answer: a person waits, but not for ever."""

ATTEMPTS = 3
"""How often somebody is asked for the same thing."""

TOKEN_PATIENCE = 10.0
"""Seconds for the end of standard input: some programs leave a pipe open for ever."""

TOKEN_CEILING = 64 * 1024
"""Bytes of standard input that are read; the longest tokens have a few thousand."""

SCOPE = NewScope(
    name="Register with the ProxyStore relay",
    description=(
        "Lets your ProxyStore endpoints register with this relay, and so find each "
        "other."
    ),
    scope_suffix=RELAY_SCOPE,
)


def run(
    arguments: AuthArguments,
    found: Credentials,
    command: Callable[[Globus], Awaitable[int]],
) -> int:
    """Run one command against Globus; once in a process, as reactors do not restart.

    Args:
        arguments: Where Globus is.
        found: What the relay's application identifies itself with.
        command: Is given Globus, and returns the exit status.

    Raises:
        KeyboardInterrupt: A signal has stopped it.
    """
    statuses: list[int] = []

    async def main(reactor: Any) -> None:
        globus = Globus.connect(reactor, arguments.service_url, found, PATIENCE)
        try:
            statuses.append(await command(globus))
        except GlobusError as error:
            print(f"problem: {globus.explained(error)}")
            statuses.append(1)
        except CancelledError:
            pass  # no status tells of it

    def start(reactor: Any) -> Deferred[None]:
        use_monotonic_time(reactor)
        running = Deferred.fromCoroutine(main(reactor))
        # Twisted turns a signal into an ordinary end, which would look like trouble
        # with the network.
        reactor.addSystemEventTrigger("before", "shutdown", running.cancel)
        return running

    try:
        react(start)
    except SystemExit as ended:
        if ended.code:
            raise
    if not statuses:
        raise KeyboardInterrupt
    return statuses[0]


def ask_for_credentials(
    arguments: AuthArguments,
    environment: Mapping[str, str],
    terminal: TextIO | None,
    names: Mapping[str, str] | None = None,
) -> Credentials:
    """Find the credentials, or ask for what is missing if somebody sits there.

    Args:
        arguments: The settings.
        environment: The environment of the process.
        terminal: Standard input, if there is one.
        names: As for `credentials.find`.

    Raises:
        ConfigError: Something is missing or wrong.
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
                client_id = _typed(input, "Client ID: ")
                arguments = msgspec.structs.replace(arguments, client_id=client_id)
            if "auth.kwargs.client_secret" in missing:
                secret = _typed(getpass.getpass, "Client secret (is not shown): ")
                arguments = msgspec.structs.replace(
                    arguments, client_secret=Secret(secret)
                )
        except EOFError:
            raise _with_options(error) from None
        typed = dict.fromkeys(missing, "the terminal")
        return credentials.find(arguments, environment, {**(names or {}), **typed})


_OPTIONS = {
    "auth.kwargs.client_id": "--client-id",
    "auth.kwargs.client_secret": "--client-secret-file",
}


def _with_options(error: ConfigError) -> ConfigError:
    """The same, with the options that stand in for what is missing."""
    return ConfigError(
        dataclasses.replace(
            problem, message=f"{problem.message}; or give {_OPTIONS[problem.key]}"
        )
        for problem in error.problems
    )


def _typed(ask: Callable[[str], str], prompt: str) -> str:
    """What somebody types, and is asked for again while it is nothing.

    Raises:
        EOFError: It stays nothing.
    """
    for _ in range(ATTEMPTS):
        try:
            text = ask(prompt).strip()
        except EOFError:
            print()  # the cursor stands behind the prompt
            raise
        if text:
            return text
    raise EOFError


async def setup(globus: Globus) -> int:
    """Show the application, and find or create the scope that clients request.

    It can be repeated: a scope that is there is left as it is.
    """
    application = await globus.client(PATIENCE)
    print(f"application: {application.name!a}, client ID {application.id}")
    wanted = f"{SCOPES}/{application.id}/{RELAY_SCOPE}"
    for scope_id in application.scopes:
        if (await globus.scope(scope_id, PATIENCE)).scope_string == wanted:
            print(f"scope: {wanted} is there")
            break
    else:
        created = await globus.create_scope(SCOPE, PATIENCE)
        print(f"scope: {created.scope_string} has been created")
    print(_TABLE.format(client_id=application.id))
    print(_CLIENT.format(client_id=application.id, scope=wanted))
    return 0


_TABLE = """
For relay.toml:

    [auth]
    method = "globus"

    [auth.kwargs]
    client_id = "{client_id}"
    audience = "{client_id}"
    client_secret_file = "client_secret"   # a file with the secret, and nothing else
"""

_CLIENT = """Clients must request this scope of the resource server {client_id}:

    {scope}
"""


_SCHEME = re.compile(r"\Abearer[ \t]+", re.IGNORECASE)


def check(arguments: AuthArguments, token: str | None) -> Callable[[Globus], Any]:
    """Build the command that tries the credentials, and a token if there is one.

    Args:
        arguments: Which tokens the relay takes.
        token: A bearer token, perhaps with ``Bearer`` in front as in a header; or None.
    """

    async def command(globus: Globus) -> int:
        print(await credentials_work(globus))
        if token is None:
            return 0
        alone = _SCHEME.sub("", token)
        try:
            known = bearer_token({"authorization": f"Bearer {alone}"})
        except Refusal as refusal:
            print("token: expected the token alone, in one line")
            print(f"token: refused with {refusal.code}: {refusal.reason}")
            return 1
        answer = await globus.introspect(known, PATIENCE)
        return _explain(answer, arguments, globus.client_id)

    return command


async def credentials_work(globus: Globus) -> str:
    """Say whose credentials they are.

    Raises:
        GlobusError: They do not work.
    """
    application = await globus.client(PATIENCE)
    return f"credentials: work, for the application {application.name!a}"


def _explain(answer: Introspection, arguments: AuthArguments, client_id: str) -> int:
    now = datetime.now(timezone.utc)
    if answer.active:
        print(f"token: belongs to {answer.username!a}, identity {answer.sub!a}")
        print(
            f"token: is meant for {', '.join(map(ascii, answer.audience)) or 'nobody'}"
        )
        print(f"token: has the scopes {' '.join(sorted(answer.scopes)) or '(none)'!a}")
        if answer.exp is not None:
            print(f"token: expires on {_date(answer.exp)}")
    else:
        print("token: Globus does not know it: expired, revoked, or none of Globus's")
    try:
        authorize(answer, policy(arguments, client_id), now.timestamp())
    except Refusal as refusal:
        print(f"token: refused with {refusal.code}: {refusal.reason}")
        return 1
    print("token: accepted by this relay")
    return 0


def _date(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).isoformat()
    except (OverflowError, ValueError, OSError):
        return f"a day beyond the calendar ({seconds:g})"


def token_from(
    stream: TextIO | None,
    patience: float = TOKEN_PATIENCE,
    now: Callable[[], float] = time.monotonic,
) -> str | None:
    """The token on standard input: in a file or a pipe.

    Args:
        stream: Standard input; None if the process has none.
        patience: Seconds until its end must be there.
        now: Tells the time, in seconds.

    Returns:
        The token, or None if none is meant to be there: at a terminal and on
        ``/dev/null``.

    Raises:
        ConfigError: It is empty, too long, or does not end.
    """
    if stream is None or stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):
        return None
    data = b""
    end = now() + patience
    while len(data) <= TOKEN_CEILING:
        ready, _, _ = select.select([stream], [], [], max(0.0, end - now()))
        if not ready:
            raise _no_token(f"does not end within {patience:g} s")
        try:
            piece = os.read(stream.fileno(), TOKEN_CEILING)
        except OSError as error:
            raise _no_token(f"cannot be read: {error.strerror}") from None
        if not piece:
            break
        data += piece
    else:
        raise _no_token(f"has over {TOKEN_CEILING} bytes")
    token = data.decode("utf-8-sig", "replace").strip()
    if not token:
        raise _no_token("is empty")
    return token


def _no_token(what: str) -> ConfigError:
    hint = "expected a token; to try only the credentials, add </dev/null"
    return ConfigError([Problem("standard input", f"{what}: {hint}")])
