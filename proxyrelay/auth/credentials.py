"""What the relay's Globus application identifies itself with, and where it is found."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from proxyrelay.config import (
    PROXYSTORE_RELAY,
    AuthArguments,
    Secret,
    application_id,
)
from proxyrelay.errors import ConfigError, Problem

ID_VARIABLE = "PROXYSTORE_GLOBUS_CLIENT_ID"
SECRET_VARIABLE = "PROXYSTORE_GLOBUS_CLIENT_SECRET"  # noqa: S105 - a name
"""Environment variables that ProxyStore's own relay reads."""

CREDENTIAL = "globus_client_secret"
"""Name of the secret among the credentials that systemd hands over
(``LoadCredential=globus_client_secret:/etc/proxyrelay/secret``)."""


_WORD = re.compile("[!-~]+")
"""What secrets are made of (RFC 6749, appendix A.2), less the space."""

SECRET_CEILING = 1000
"""Bytes of the longest file that is taken for a secret; Globus's have 44."""


class Missing(Problem):
    """A credential is nowhere."""


@dataclass(frozen=True)
class Credentials:
    """What the relay's application identifies itself with.

    Attributes:
        client_id: Its client ID.
        secret: One of its secrets.
        id_origin: Where the client ID was found, for messages.
        secret_origin: Where the secret was found.
    """

    client_id: str
    secret: Secret
    id_origin: str = field(default="", compare=False)
    secret_origin: str = field(default="", compare=False)

    @property
    def origin(self) -> str:
        """Where both were found, in a few words."""
        return f"client ID from {self.id_origin}, secret from {self.secret_origin}"


def find(
    arguments: AuthArguments,
    environment: Mapping[str, str],
    names: Mapping[str, str] | None = None,
) -> Credentials:
    """Look for the credentials: in the settings, the environment, and at systemd.

    White space around them is not part of them, and the case of the ID does not matter.

    Args:
        arguments: The settings, which win.
        environment: The environment of the process.
        names: What to call settings that did not come from the file, by their dotted
            name.

    Raises:
        ConfigError: Something is missing, cannot be read, cannot be right, or stands
            twice.
    """
    problems: list[Problem] = []
    client_id = secret = ("", "")
    try:
        client_id = _client_id(arguments, environment, names or {})
    except ConfigError as error:
        problems += error.problems
    try:
        secret = _secret(arguments, environment, names or {})
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return Credentials(client_id[0], Secret(secret[0]), client_id[1], secret[1])


def _client_id(
    arguments: AuthArguments, environment: Mapping[str, str], names: Mapping[str, str]
) -> tuple[str, str]:
    key = "auth.kwargs.client_id"
    origin = names.get(key, key)
    client_id = (arguments.client_id or "").strip()
    if not client_id:
        origin = ID_VARIABLE
        client_id = environment.get(ID_VARIABLE, "").strip()
    if not client_id:
        raise ConfigError(
            [
                Missing(
                    key,
                    "is missing: the client ID of the relay's Globus application, here "
                    f"or in {ID_VARIABLE}",
                )
            ]
        )
    try:
        return application_id(client_id), origin
    except ValueError:
        raise _problem(
            "client_id",
            f'expected an ID such as "{PROXYSTORE_RELAY}" (it is from {origin})',
        ) from None


def _secret(
    arguments: AuthArguments, environment: Mapping[str, str], names: Mapping[str, str]
) -> tuple[str, str]:
    setting, secret, origin = _found_secret(arguments, environment, names)
    secret = secret.strip()
    if not secret:
        raise _problem(setting, f"is empty (it is from {origin})")
    if not _WORD.fullmatch(secret):
        raise _problem(
            setting,
            f"has spaces or other characters that no secret has (it is from {origin})",
        )
    return secret, origin


def _found_secret(
    arguments: AuthArguments, environment: Mapping[str, str], names: Mapping[str, str]
) -> tuple[str, str, str]:
    """The setting that a secret belongs to, the secret as it stands, and its origin."""
    file = arguments.client_secret_file
    if arguments.client_secret is not None:
        if file is not None:
            raise _problem(
                "client_secret_file",
                "set only one of client_secret and client_secret_file",
            )
        key = "auth.kwargs.client_secret"
        return "client_secret", arguments.client_secret.reveal(), names.get(key, key)
    if file is not None:
        return "client_secret_file", _read("client_secret_file", file), str(file)
    if environment.get(SECRET_VARIABLE, "").strip():
        return "client_secret", environment[SECRET_VARIABLE], SECRET_VARIABLE
    folder = environment.get("CREDENTIALS_DIRECTORY")
    if folder and os.path.exists(Path(folder) / CREDENTIAL):
        path = Path(folder) / CREDENTIAL
        origin = f"systemd's credential {path}"
        return "client_secret", _read("client_secret", path), origin
    raise ConfigError(
        [
            Missing(
                "auth.kwargs.client_secret",
                "is missing: a secret of the relay's Globus application, here, in "
                f"client_secret_file, in {SECRET_VARIABLE}, or as systemd's credential "
                f"{CREDENTIAL}",
            )
        ]
    )


def _read(setting: str, path: Path) -> str:
    try:
        # To read a pipe would wait for ever.
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise _problem(setting, f"{path} is not a regular file")
        with path.open("rb") as file:
            data = file.read(SECRET_CEILING + 1)
        if len(data) > SECRET_CEILING:
            raise _problem(
                setting,
                f"expected a secret: {path} has over {SECRET_CEILING} bytes",
            )
        return data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise _problem(setting, f"{path} cannot be read: {reason}") from None


def _problem(setting: str, message: str) -> ConfigError:
    return ConfigError([Problem(f"auth.kwargs.{setting}", message)])
