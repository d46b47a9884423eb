"""``proxyrelay globus``: prepare the relay's Globus application, and try it out."""

from __future__ import annotations

import getpass
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timezone
from typing import Any, TextIO

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from proxyrelay.auth import credentials, policy
from proxyrelay.auth.credentials import Credentials
from proxyrelay.auth.globus import Globus, GlobusError, NewScope, http_client
from proxyrelay.config import AuthArguments
from proxyrelay.errors import ConfigError, Refusal
from proxyrelay.identity import RELAY_SCOPE, SCOPES, Introspection, bearer_token, judge

PATIENCE = 20.0
"""Seconds for an answer: a person waits, but not for ever."""

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
    """
    statuses: list[int] = []

    async def main(reactor: Any) -> None:
        http = http_client(reactor, arguments.service_url, PATIENCE)
        globus = Globus(http, found, arguments.service_url, reactor)
        try:
            statuses.append(await command(globus))
        except GlobusError as error:
            print(f"problem: Globus Auth {error}")
            statuses.append(1)

    try:
        react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
    except SystemExit as ended:
        if ended.code:
            raise
    return statuses[0]


def ask_for_credentials(
    arguments: AuthArguments, environment: Mapping[str, str], terminal: TextIO
) -> Credentials:
    """Find the credentials, or ask for what is missing if somebody sits there.

    Raises:
        ConfigError: Something is missing.
    """
    try:
        return credentials.find(arguments, environment)
    except ConfigError as error:
        missing = {problem.key for problem in error.problems}
        if not terminal.isatty():
            raise
        given = dict(environment)
        try:
            if "auth.kwargs.client_id" in missing:
                given[credentials.ID_VARIABLE] = input("Client ID: ").strip()
            if "auth.kwargs.client_secret" in missing:
                secret = getpass.getpass("Client secret (is not shown): ").strip()
                given[credentials.SECRET_VARIABLE] = secret
        except EOFError:
            raise error from None
        return credentials.find(arguments, given)


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


def check(arguments: AuthArguments, token: str | None) -> Callable[[Globus], Any]:
    """Build the command that tries the credentials, and a token if there is one.

    Args:
        arguments: Which tokens the relay takes.
        token: A bearer token, or None.
    """

    async def command(globus: Globus) -> int:
        print(await credentials_work(globus))
        if token is None:
            return 0
        try:
            known = bearer_token({"authorization": f"Bearer {token}"})
        except Refusal as refusal:
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
    try:
        judge(answer, policy(arguments, client_id), now.timestamp())
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


def token_from(stream: TextIO) -> str | None:
    """The token on standard input, unless somebody types there."""
    if stream.isatty():
        return None
    return stream.read(16384).strip() or None
