"""What the relay's Globus application identifies itself with, and where it is found."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from proxyrelay.config import AuthArguments, Secret
from proxyrelay.errors import ConfigError, Problem

ID_VARIABLE = "PROXYSTORE_GLOBUS_CLIENT_ID"
SECRET_VARIABLE = "PROXYSTORE_GLOBUS_CLIENT_SECRET"  # noqa: S105 - a name
"""Environment variables that ProxyStore's own relay reads."""

CREDENTIAL = "globus_client_secret"
"""Name of the secret among the credentials that systemd hands over
(``LoadCredential=globus_client_secret:/etc/proxyrelay/secret``)."""


@dataclass(frozen=True)
class Credentials:
    """What the relay's application identifies itself with.

    Attributes:
        client_id: Its client ID.
        secret: One of its secrets.
    """

    client_id: str
    secret: Secret


def find(arguments: AuthArguments, environment: Mapping[str, str]) -> Credentials:
    """Look for the credentials: in the settings, the environment, and at systemd.

    Args:
        arguments: The settings, which win.
        environment: The environment of the process.

    Raises:
        ConfigError: Something is missing, cannot be read, or stands twice.
    """
    problems: list[Problem] = []
    client_id = arguments.client_id or environment.get(ID_VARIABLE)
    if not client_id:
        problems.append(
            Problem(
                "auth.kwargs.client_id",
                f"is missing: the client ID of the relay's Globus application, here or "
                f"in {ID_VARIABLE}",
            )
        )
    secret = None
    try:
        secret = _secret(arguments, environment)
    except ConfigError as error:
        problems += error.problems
    if problems or client_id is None or secret is None:
        raise ConfigError(problems)
    return Credentials(client_id, secret)


def _secret(arguments: AuthArguments, environment: Mapping[str, str]) -> Secret:
    file = arguments.client_secret_file
    if arguments.client_secret is not None:
        if file is not None:
            raise _problem("client_secret_file", "excludes client_secret beside it")
        return arguments.client_secret
    if file is not None:
        return _read("client_secret_file", file)
    if environment.get(SECRET_VARIABLE):
        return Secret(environment[SECRET_VARIABLE])
    folder = environment.get("CREDENTIALS_DIRECTORY")
    if folder and os.path.exists(Path(folder) / CREDENTIAL):
        return _read("client_secret", Path(folder) / CREDENTIAL)
    raise _problem(
        "client_secret",
        "is missing: a secret of the relay's Globus application, here, in "
        f"client_secret_file, in {SECRET_VARIABLE}, or as systemd's credential "
        f"{CREDENTIAL}",
    )


def _read(setting: str, path: Path) -> Secret:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise _problem(setting, f"{path} cannot be read: {reason}") from None
    if not text:
        raise _problem(setting, f"{path} is empty")
    return Secret(text)


def _problem(setting: str, message: str) -> ConfigError:
    return ConfigError([Problem(f"auth.kwargs.{setting}", message)])
