"""``proxyrelay globus``: prepare the relay's Globus application, and try it out."""

from __future__ import annotations

import os
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import react

from proxyrelay import config
from proxyrelay.auth.credentials import Credentials
from proxyrelay.auth.globus_api import Globus
from proxyrelay.auth.globus_error import GlobusError
from proxyrelay.auth.policy import (
    RELAY_SCOPE,
    SCOPES,
    Introspection,
    Policy,
    authorize,
    bearer_token,
)
from proxyrelay.cli import prompts
from proxyrelay.config import AuthArguments
from proxyrelay.errors import ConfigError, Refusal
from proxyrelay.net.clock import use_monotonic_time
from proxyrelay.service.checks import open_to_all

ANSWER_TIMEOUT_SECONDS = 20.0

SCOPE = {
    "name": "Register with the ProxyStore relay",
    "description": "Lets your ProxyStore endpoints register with this relay, and so "
    "find each other.",
    "scope_suffix": RELAY_SCOPE,
    "dependent_scopes": [],
    "advertised": True,
    "allows_refresh_token": True,
}
"""New scope in the form of the Globus Auth API; users see name and description."""

GlobusTask = Callable[[Globus], Coroutine[Any, Any, int]]
"""Sends requests to Globus, and returns the exit status."""


def setup(arguments: Namespace) -> int:
    """Find or create the scope for clients.

    Shows the relay's Globus application, finds or creates its relay_all scope, and
    prints the settings for relay.toml and the scope that clients must request. It can
    be repeated.

    Example:
        proxyrelay globus setup --config relay.toml
    """
    settings, found = _prepare(arguments, must_authenticate=False)
    return run(settings, found, ensure_scope)


def check_token(arguments: Namespace) -> int:
    """Try the credentials, and a token.

    Tries the credentials. With a bearer token on standard input, from a file or a pipe,
    shows its user, and whether this relay would accept it. Exits with 1 if not. With
    </dev/null, tries only the credentials.

    Example:
        proxyrelay globus check --config relay.toml </dev/null
    """
    settings, found = _prepare(arguments, must_authenticate=True)
    token = prompts.stdin_token(sys.stdin)
    return run(settings, found, lambda service: trial(service, settings, token))


def _prepare(
    arguments: Namespace, must_authenticate: bool
) -> tuple[AuthArguments, Credentials]:
    """Settings and credentials of the command line.

    Raises:
        ConfigError: They are wrong, or nobody would have to authenticate.
    """
    loaded = config.load(arguments.config)
    problems = list(loaded.problems)
    if must_authenticate and not problems and arguments.config is not None:
        problems += map(loaded.located, open_to_all(loaded.config.auth))
    if problems:
        raise ConfigError(problems)
    settings = loaded.config.auth.kwargs
    names = loaded.options
    if arguments.client_id is not None:
        settings = msgspec.structs.replace(settings, client_id=arguments.client_id)
        names["auth.kwargs.client_id"] = "--client-id"
    if arguments.client_secret_file is not None:
        file = arguments.client_secret_file.absolute()
        settings = msgspec.structs.replace(
            settings, client_secret=None, client_secret_file=file
        )
        names["auth.kwargs.client_secret_file"] = "--client-secret-file"  # noqa: S105
    try:
        return settings, prompts.find_credentials(
            settings, os.environ, sys.stdin, names
        )
    except ConfigError as error:
        raise ConfigError(map(loaded.located, error.problems)) from None


def run(settings: AuthArguments, credentials: Credentials, command: GlobusTask) -> int:
    """Run one command on a reactor; once in a process, as reactors do not restart.

    Raises:
        KeyboardInterrupt: A signal stops it.
    """
    statuses: list[int] = []

    async def main(reactor: Any) -> None:
        globus = Globus.connect(
            reactor, settings.service_url, credentials, ANSWER_TIMEOUT_SECONDS
        )
        try:
            statuses.append(await command(globus))
        except GlobusError as error:
            print(f"problem: {globus.explained(error)}")
            statuses.append(1)
        except CancelledError:
            pass  # an empty list means an interrupt

    def start(reactor: Any) -> Deferred[None]:
        use_monotonic_time(reactor)
        running = Deferred.fromCoroutine(main(reactor))
        # A signal ends `react` as if the network had failed; cancel the command before.
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


async def ensure_scope(globus: Globus) -> int:
    """Show the application; leave its scope alone, or create it."""
    application = await globus.client(ANSWER_TIMEOUT_SECONDS)
    print(f"application: {application.name!a}, client ID {application.id}")
    wanted = f"{SCOPES}/{application.id}/{RELAY_SCOPE}"
    for scope_id in application.scopes:
        scope = await globus.scope(scope_id, ANSWER_TIMEOUT_SECONDS)
        if scope.scope_string == wanted:
            print(f"scope: {wanted} is there")
            break
    else:
        created = await globus.create_scope(SCOPE, ANSWER_TIMEOUT_SECONDS)
        print(f"scope: {created.scope_string} has been created")
    print(_INSTRUCTIONS.format(client_id=application.id, scope=wanted))
    return 0


_INSTRUCTIONS = """
For relay.toml:

    [auth]
    method = "globus"

    [auth.kwargs]
    client_id = "{client_id}"
    audience = "{client_id}"
    client_secret_file = "client_secret"   # a file with the secret, and nothing else

Clients must request this scope of the resource server {client_id}:

    {scope}
"""

_SCHEME = re.compile(r"\Abearer[ \t]+", re.IGNORECASE)


async def trial(globus: Globus, settings: AuthArguments, token: str | None) -> int:
    """Try the credentials, and a token, perhaps with ``Bearer`` in front."""
    print(await try_credentials(globus))
    if token is None:
        return 0
    try:
        bare = bearer_token({"authorization": f"Bearer {_SCHEME.sub('', token)}"})
    except Refusal as refusal:
        print("token: expected the token alone, in one line")
        print(f"token: refused with {refusal.code}: {refusal.reason}")
        return 1
    answer = await globus.introspect(bare, ANSWER_TIMEOUT_SECONDS)
    return _explain(answer, Policy.from_settings(settings, globus.client_id))


async def try_credentials(globus: Globus) -> str:
    """Line about the application of the credentials.

    Raises:
        GlobusError: The credentials do not work.
    """
    application = await globus.client(ANSWER_TIMEOUT_SECONDS)
    return f"credentials: work, for the application {application.name!a}"


def _explain(answer: Introspection, policy: Policy) -> int:
    now = datetime.now(UTC)
    if answer.active:
        audience = ", ".join(map(ascii, answer.audience)) or "nobody"
        print(f"token: belongs to {answer.username!a}, identity {answer.sub!a}")
        print(f"token: is meant for {audience}")
        print(f"token: has the scopes {' '.join(sorted(answer.scopes)) or '(none)'!a}")
        if answer.exp is not None:
            print(f"token: expires on {_date(answer.exp)}")
    else:
        print("token: Globus does not know it: expired, revoked, or none of Globus's")
    try:
        authorize(answer, policy, now.timestamp())
    except Refusal as refusal:
        print(f"token: refused with {refusal.code}: {refusal.reason}")
        return 1
    print("token: accepted by this relay")
    return 0


def _date(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return f"a day beyond the calendar ({seconds:g})"
