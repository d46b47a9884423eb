"""What can be found out about the settings before anything is served.

``twistd proxyrelay`` and ``proxyrelay check`` look through the same eyes, so
that what passes the check also starts.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from proxyrelay.auth import credentials
from proxyrelay.auth.credentials import Credentials
from proxyrelay.config import (
    PROXYSTORE_RELAY,
    Admin,
    Auth,
    AuthArguments,
    Config,
    Loaded,
    Logging,
    Secret,
)
from proxyrelay.errors import ConfigError, Problem
from proxyrelay.net import certificates
from proxyrelay.observe import audit, privacy
from proxyrelay.observe.log import FILE_NAME
from proxyrelay.switchboard.messages import MESSAGE_CEILING

SHORTEST_TOKEN = 16
"""Characters of the shortest token that callers of the private listener may have."""

LONGEST_TOKEN = 4096
"""Of the longest."""


@dataclass
class Inspection:
    """What was found.

    Attributes:
        config: The settings; defaults stand in for what has a problem.
        problems: Why they cannot be served.
        faults: Why clients will refuse what is served.
        warnings: What the operator should know.
        credentials: What the relay's application identifies itself with, if the
            authentication needs it and that has no problem.
        pair: Certificate and key, if TLS is asked for and has no problem.
        token: What callers of the private listener have to bring, if that is asked for
            and has no problem.
    """

    config: Config
    problems: list[Problem] = field(default_factory=list)
    faults: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    credentials: Credentials | None = None
    pair: certificates.KeyPair | None = None
    token: Secret | None = None


def inspect(
    loaded: Loaded, now: datetime, environment: Mapping[str, str]
) -> Inspection:
    """Look at all that the settings name.

    Args:
        loaded: The settings, with the problems that reading them showed.
        now: The time, aware of its zone.
        environment: The environment of the process.
    """
    config = loaded.config
    found = Inspection(config, list(loaded.problems), [], list(loaded.warnings))

    # Otherwise, what is missing may be what was misspelt.
    if not any(f"{problem.key}.".startswith("auth.") for problem in loaded.problems):
        _inspect_auth(found, loaded, environment)

    if config.certfile is not None and loaded.sound("certfile", "keyfile"):
        try:
            found.pair = certificates.load(config.certfile, config.keyfile)
            certificates.context(found.pair)
        except ConfigError as error:
            found.problems += map(loaded.located, error.problems)
        else:
            found.faults += map(loaded.located, found.pair.problems(now))
            found.warnings += map(loaded.located, found.pair.warnings(now))

    _inspect_admin(found, loaded)
    for problem in _about_logs(config.logging):
        found.problems.append(loaded.located(problem))
    key = config.logging.privacy_key_file
    if config.logging.privacy and key is not None and _is_public(key):
        found.warnings.append(loaded.located(_readable(privacy.SETTING, key)))

    if (config.max_message_bytes or 0) > MESSAGE_CEILING:
        found.warnings.append(
            loaded.located(
                Problem(
                    "max_message_bytes",
                    f"has no effect: no message may exceed {MESSAGE_CEILING} bytes",
                )
            )
        )
    exposure = config.exposure()
    if exposure is not None and not found.problems:
        found.warnings.append(Problem("", exposure))
    return found


def _inspect_auth(
    found: Inspection, loaded: Loaded, environment: Mapping[str, str]
) -> None:
    """Look at what clients are authenticated with."""
    try:
        found.credentials = _credentials(found.config.auth, environment)
    except ConfigError as error:
        found.problems += map(loaded.located, error.problems)
    if found.credentials is None:
        return
    told = _of_globus(loaded, found.credentials)
    found.warnings += map(loaded.located, told)
    trusted = environment.get("SSL_CERT_FILE")
    if trusted and not (os.path.isfile(trusted) and os.access(trusted, os.R_OK)):
        found.warnings.append(
            Problem(
                "SSL_CERT_FILE",
                f"{trusted} cannot be read: the certificates that Globus is trusted by "
                "should be there",
            )
        )


def _inspect_admin(found: Inspection, loaded: Loaded) -> None:
    """Look at who may call the private listener."""
    admin: Admin = found.config.admin
    file = admin.token_file
    if admin.listen is None or not loaded.sound("admin.listen", "admin.token_file"):
        return
    if file is not None:
        try:
            found.token = read_token(file)
        except ConfigError as error:
            found.problems += map(loaded.located, error.problems)
            return
        if _is_public(file):
            found.warnings.append(loaded.located(_readable("admin.token_file", file)))
    if isinstance(admin.place, tuple):
        told = ""
        if not admin.is_private:
            told = "the token travels in clear text: let only a proxy that ends TLS in"
        elif file is None:
            told = (
                "whoever has an account on this machine can look at the relay and "
                'drain it: set token_file, or listen on "unix:/..."'
            )
        if told:
            found.warnings.append(loaded.located(Problem("admin.listen", told)))


def read_token(file: Path) -> Secret:
    """Read what callers of the private listener have to bring.

    Raises:
        ConfigError: The file cannot be read, or holds no token.
    """
    try:
        if file.exists() and not file.is_file():
            wrong = f"{file} is no regular file"
            raise ConfigError([Problem("admin.token_file", wrong)])
        with file.open("rb") as opened:
            text = opened.read(LONGEST_TOKEN + 2).strip()
    except OSError as error:
        wrong = f"{file} cannot be read: {error.strerror}"
        raise ConfigError([Problem("admin.token_file", wrong)]) from None
    if not (SHORTEST_TOKEN <= len(text) <= LONGEST_TOKEN) or not _TOKEN.fullmatch(text):
        wrong = (
            f"{file} must hold one token of {SHORTEST_TOKEN} or more letters, digits "
            "and -._~+/, such as 'openssl rand -hex 32' prints"
        )
        raise ConfigError([Problem("admin.token_file", wrong)])
    return Secret(text.decode("ascii"))


_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750, section 2.1: ``b64token``."""


def _readable(key: str, path: Path) -> Problem:
    return Problem(key, f"everybody on this machine can read {path}: chmod o-r it")


def _credentials(auth: Auth, environment: Mapping[str, str]) -> Credentials | None:
    if auth.method is not None:
        return credentials.find(auth.kwargs, environment)
    if auth.kwargs != AuthArguments():
        raise ConfigError(open_to_all(auth))
    return None


def _of_globus(loaded: Loaded, used: Credentials) -> Iterator[Problem]:
    """What the operator of a relay with Globus Auth should know."""
    arguments = loaded.config.auth.kwargs
    unset = loaded.located(Problem("auth.kwargs.audience", "")).line is None
    if unset and used.client_id != PROXYSTORE_RELAY:
        yield Problem(
            "auth.kwargs.audience",
            "is not set: only tokens for ProxyStore's own relay application, "
            f"{PROXYSTORE_RELAY}, are taken; for your own, set it to the client ID",
        )
    if arguments.client_secret_file is not None:
        key, path = "auth.kwargs.client_secret_file", arguments.client_secret_file
    elif arguments.client_secret is not None and loaded.file is not None:
        key, path = "auth.kwargs.client_secret", Path(loaded.file)
    else:
        key, path = "", Path()
    if key and _is_public(path):
        yield _readable(key, path)


def _is_public(path: Path) -> bool:
    """Whether the mode of a file lets everybody read it."""
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def open_to_all(auth: Auth) -> list[Problem]:
    """What to tell somebody who thinks that a relay authenticates its clients."""
    if auth.method is not None:
        return []
    if auth.kwargs == AuthArguments():
        return [Problem("auth", 'lacks method = "globus": everybody would be let in')]
    return [
        Problem(
            "auth.kwargs",
            'has no effect without method = "globus" in [auth]: everybody would be '
            "let in",
        )
    ]


def _about_logs(logging: Logging) -> Iterator[Problem]:
    """Why what is logged cannot be written."""
    folder, audited = logging.log_dir, logging.audit_log
    file = None if folder is None else folder / FILE_NAME
    if file is not None:
        wrong = _unwritable(file)
        if wrong is not None:
            yield Problem("logging.log_dir", wrong)
    if audited is not None:
        wrong = _unwritable(audited)
        if file is not None and os.path.realpath(audited) == os.path.realpath(file):
            wrong = f"{audited} is the log itself"
        if wrong is not None:
            yield Problem(audit.SETTING, wrong)
    if logging.privacy and logging.privacy_key_file is not None:
        wrong = privacy.problem(logging.privacy_key_file)
        if wrong is not None:
            yield Problem(privacy.SETTING, wrong)


def _unwritable(file: Path) -> str | None:
    """Why a log cannot be written to a file, or None."""
    folder = file.parent
    # os.path, for pathlib raises where a folder on the way may not be entered.
    if _is_descriptor(file):
        return f"{file} is an open file of a process: it could not be put aside"
    if os.path.exists(file) and not (os.path.isfile(file) and os.access(file, os.W_OK)):
        return f"{file} is no regular file that can be written"
    for place in (folder, *folder.parents):
        if os.path.exists(place):
            if not os.path.isdir(place) or not os.access(place, os.W_OK | os.X_OK):
                return f"{folder} is no folder that can be written or made"
            break
    return None


def _is_descriptor(file: Path) -> bool:
    """Whether a path is that of an open file, such as ``/dev/stdout``."""
    paths = [file]
    with suppress(OSError):  # it is no link
        paths.append(file.parent / file.readlink())
    return any(os.path.realpath(path.parent).startswith("/proc/") for path in paths)
