"""Credentials of the relay's own Globus application, and the places to look for them.

Bearer tokens of clients are in `proxyrelay.auth.policy`.
"""

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
from proxyrelay.net.files import NotRegular, read_small

ID_VARIABLE = "PROXYSTORE_GLOBUS_CLIENT_ID"
SECRET_VARIABLE = "PROXYSTORE_GLOBUS_CLIENT_SECRET"  # noqa: S105 - a name
"""Environment variables of ProxyStore's own relay."""

CREDENTIAL = "globus_client_secret"
"""Name of systemd's credential
(``LoadCredential=globus_client_secret:/etc/proxyrelay/secret``)."""

MAX_SECRET_BYTES = 1000
"""Longest file with a secret; Globus's secrets have 44 bytes."""

_SECRET = re.compile("[!-~]+")
"""Characters of a secret (RFC 6749, appendix A.2), without the space."""

_KEY = "auth.kwargs."


class Missing(Problem):
    """A credential without a value in any place."""


@dataclass(frozen=True)
class Credentials:
    """Credentials of the relay's application; ``origin`` names their places."""

    client_id: str
    secret: Secret
    origin: str = field(default="", compare=False)


def find(
    arguments: AuthArguments,
    environment: Mapping[str, str],
    names: Mapping[str, str] | None = None,
) -> Credentials:
    """Look for the credentials in the settings, the environment, and systemd's.

    White space around them is removed; the client ID becomes lower case.

    Args:
        arguments: Settings; they win.
        environment: Environment of the process.
        names: Names in messages of settings from elsewhere than the file, by the
            setting's dotted name.

    Raises:
        ConfigError: A credential is missing, unreadable, malformed, or set twice.
    """
    problems: list[Problem] = []
    found: list[tuple[str, str]] = []
    for look_up in (_client_id, _secret):
        try:
            found.append(look_up(arguments, environment, names or {}))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    (client_id, id_origin), (secret, secret_origin) = found
    origin = f"client ID from {id_origin}, secret from {secret_origin}"
    return Credentials(client_id, Secret(secret), origin)


def _client_id(
    arguments: AuthArguments, environment: Mapping[str, str], names: Mapping[str, str]
) -> tuple[str, str]:
    """Client ID and its origin."""
    key = f"{_KEY}client_id"
    origin = names.get(key, key)
    client_id = (arguments.client_id or "").strip()
    if not client_id:
        origin = ID_VARIABLE
        client_id = environment.get(ID_VARIABLE, "").strip()
    if not client_id:
        text = "is missing: the client ID of the relay's Globus application, here or in"
        raise ConfigError([Missing(key, f"{text} {ID_VARIABLE}")])
    try:
        return application_id(client_id), origin
    except ValueError:
        expected = f'expected an ID such as "{PROXYSTORE_RELAY}"'
        raise _wrong("client_id", f"{expected} (it is from {origin})") from None


def _secret(
    arguments: AuthArguments, environment: Mapping[str, str], names: Mapping[str, str]
) -> tuple[str, str]:
    """Secret and its origin."""
    setting, key = "client_secret", f"{_KEY}client_secret"
    file = arguments.client_secret_file
    folder = environment.get("CREDENTIALS_DIRECTORY") or ""
    credential = Path(folder, CREDENTIAL)
    if arguments.client_secret is not None and file is not None:
        text = "set only one of client_secret and client_secret_file"
        raise _wrong("client_secret_file", text)
    if arguments.client_secret is not None:
        secret, origin = arguments.client_secret.reveal(), names.get(key, key)
    elif file is not None:
        setting, origin = "client_secret_file", str(file)
        secret = _read(setting, file)
    elif environment.get(SECRET_VARIABLE, "").strip():
        secret, origin = environment[SECRET_VARIABLE], SECRET_VARIABLE
    elif folder and os.path.exists(credential):
        origin = f"systemd's credential {credential}"
        secret = _read(setting, credential)
    else:
        text = (
            "is missing: a secret of the relay's Globus application, here, in "
            f"client_secret_file, in {SECRET_VARIABLE}, or as systemd's credential "
            f"{CREDENTIAL}"
        )
        raise ConfigError([Missing(key, text)])
    secret = secret.strip()
    if not secret:
        raise _wrong(setting, f"is empty (it is from {origin})")
    if not _SECRET.fullmatch(secret):
        text = "has spaces or other characters that no secret has"
        raise _wrong(setting, f"{text} (it is from {origin})")
    return secret, origin


def _read(setting: str, path: Path) -> str:
    try:
        data = read_small(path, MAX_SECRET_BYTES + 1)
        if len(data) > MAX_SECRET_BYTES:
            text = f"expected a secret: {path} has over {MAX_SECRET_BYTES} bytes"
            raise _wrong(setting, text)
        return data.decode("utf-8-sig")
    except NotRegular:
        raise _wrong(setting, f"{path} is not a regular file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise _wrong(setting, f"{path} cannot be read: {reason}") from None


def _wrong(setting: str, message: str) -> ConfigError:
    return ConfigError([Problem(_KEY + setting, message)])
