"""Inspection of the files and the environment that settings name.

``twistd proxyrelay``, ``proxyrelay check`` and a reload all use it. So a file that
passes the check also starts. Types and ranges are in `proxyrelay.config.model`, further
rules for values in `proxyrelay.config.rules`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from proxyrelay.auth import credentials
from proxyrelay.auth.credentials import Credentials
from proxyrelay.auth.policy import B64TOKEN
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
from proxyrelay.config.cluster import Cluster
from proxyrelay.errors import ConfigError, Problem
from proxyrelay.net import certificates
from proxyrelay.net.files import read_small
from proxyrelay.net.tls_context import server_context
from proxyrelay.observe import audit, privacy
from proxyrelay.observe.log import FILE_NAME
from proxyrelay.switchboard.messages import MESSAGE_CEILING

MIN_TOKEN_CHARACTERS = 16
"""Shortest token of the private listener."""

MAX_TOKEN_CHARACTERS = 4096

CLUSTER_LACKS = (
    "[cluster] needs the packages of proxyrelay[cluster]: "
    "pip install 'proxyrelay[cluster]'"
)


@dataclass
class Inspection:
    """Settings, contents of the files that they name, and problems.

    Attributes:
        config: The settings; defaults stand in for wrong values.
        problems: Why they cannot be served.
        faults: Why clients will refuse the certificate.
        warnings: Advice for the operator.
        credentials: Those of the relay's application, if authentication needs them.
        pair: Certificate and key, if TLS is on.
        token: Token of the private listener, if it needs one.
        cluster_keys: Public names of the keys of the cluster.
    """

    config: Config
    problems: list[Problem] = field(default_factory=list)
    faults: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    credentials: Credentials | None = None
    pair: certificates.KeyPair | None = None
    token: Secret | None = None
    cluster_keys: list[str] = field(default_factory=list)


def inspect(
    loaded: Loaded, now: datetime, environment: Mapping[str, str]
) -> Inspection:
    """Inspect the settings and all files that they name, at a time with its zone."""
    config = loaded.config
    found = Inspection(config)
    # Otherwise a missing setting may be a misspelt one.
    if not any(f"{problem.key}.".startswith("auth.") for problem in loaded.problems):
        _inspect_auth(found, loaded, environment)
    if config.certfile is not None and loaded.sound("certfile", "keyfile"):
        with _collected(found.problems):
            pair = found.pair = certificates.load(config.certfile, config.keyfile)
            server_context(pair)
            found.faults += pair.problems(now)
            found.warnings += pair.warnings(now)
    if config.admin.listen and loaded.sound("admin.listen", "admin.token_file"):
        with _collected(found.problems):
            if config.admin.token_file is not None:
                found.token = read_token(config.admin.token_file)
            found.warnings += _admin_advice(config.admin)
    if config.cluster.is_set and loaded.sound("cluster.engine", "cluster.sentinels"):
        with _collected(found.problems):
            found.cluster_keys = read_cluster_files(config.cluster)
            found.warnings += _cluster_advice(config.cluster)
    found.problems += _log_problems(config.logging)
    key = config.logging.privacy_key_file
    if config.logging.privacy and key is not None:
        found.warnings += _readable_by_all(privacy.SETTING, key)
    if (config.max_message_bytes or 0) > MESSAGE_CEILING:
        advice = f"has no effect: no message may exceed {MESSAGE_CEILING} bytes"
        found.warnings.append(Problem("max_message_bytes", advice))

    found.problems = [*loaded.problems, *map(loaded.located, found.problems)]
    found.faults = [*map(loaded.located, found.faults)]
    found.warnings = [*loaded.warnings, *map(loaded.located, found.warnings)]
    trusted = environment.get("SSL_CERT_FILE") if found.credentials else None
    if trusted and not (os.path.isfile(trusted) and os.access(trusted, os.R_OK)):
        advice = (
            f"{trusted} cannot be read: the certificates that Globus is trusted by "
            "should be there"
        )
        found.warnings.append(Problem("SSL_CERT_FILE", advice))
    exposure = config.exposure()
    if exposure is not None and not found.problems:
        found.warnings.append(Problem("", exposure))
    return found


@contextmanager
def _collected(problems: list[Problem]) -> Iterator[None]:
    """Add the problems of an error to a list."""
    try:
        yield
    except ConfigError as error:
        problems += error.problems


def _inspect_auth(
    found: Inspection, loaded: Loaded, environment: Mapping[str, str]
) -> None:
    auth = found.config.auth
    if auth.method is not None:
        with _collected(found.problems):
            found.credentials = credentials.find(auth.kwargs, environment)
            found.warnings += _globus_advice(loaded, found.credentials)
    elif auth.kwargs != AuthArguments():
        found.problems += open_to_all(auth)


def _admin_advice(admin: Admin) -> Iterator[Problem]:
    if admin.token_file is not None:
        yield from _readable_by_all("admin.token_file", admin.token_file)
    if not admin.is_private:
        advice = "the token travels in clear text: let only a proxy that ends TLS in"
        yield Problem("admin.listen", advice)
    elif isinstance(admin.place, tuple) and admin.token_file is None:
        advice = (
            "whoever has an account on this machine can look at the relay and drain "
            'it: set token_file, or listen on "unix:/..."'
        )
        yield Problem("admin.listen", advice)


def read_token(file: Path) -> Secret:
    """Read the token of the private listener.

    Raises:
        ConfigError: The file cannot be read, or holds no token.
    """
    try:
        text = read_small(file, MAX_TOKEN_CHARACTERS + 2).strip()
    except OSError as error:
        wrong = f"{file} cannot be read: {error.strerror}"
        raise ConfigError([Problem("admin.token_file", wrong)]) from None
    token = text.decode("ascii", "replace")
    has_length = MIN_TOKEN_CHARACTERS <= len(text) <= MAX_TOKEN_CHARACTERS
    if not has_length or not B64TOKEN.fullmatch(token):
        wrong = (
            f"{file} must hold one token of {MIN_TOKEN_CHARACTERS} or more letters, "
            "digits and -._~+/, such as 'openssl rand -hex 32' prints"
        )
        raise ConfigError([Problem("admin.token_file", wrong)])
    return Secret(token)


def read_cluster_files(cluster: Cluster) -> list[str]:
    """Read the files of ``[cluster]``.

    Returns:
        Public names of the keys of the cluster.

    Raises:
        ConfigError: The packages of the extra are not there, or a file is wrong.
    """
    try:
        import hiredis  # noqa: F401, PLC0415 - an extra
    except ImportError:
        raise ConfigError([Problem("cluster", CLUSTER_LACKS)]) from None
    from proxyrelay.cluster import files  # noqa: PLC0415 - loaded only if set

    return files.read(cluster).fingerprints


def _cluster_advice(cluster: Cluster) -> Iterator[Problem]:
    if cluster.client_keyfile is not None:
        yield from _readable_by_all("cluster.client_keyfile", cluster.client_keyfile)


def _globus_advice(loaded: Loaded, used: Credentials) -> Iterator[Problem]:
    arguments = loaded.config.auth.kwargs
    key = "auth.kwargs.audience"
    is_unset = loaded.located(Problem(key, "")).line is None
    if is_unset and used.client_id != PROXYSTORE_RELAY:
        yield Problem(
            key,
            "is not set: only tokens for ProxyStore's own relay application, "
            f"{PROXYSTORE_RELAY}, are taken; for your own, set it to the client ID",
        )
    if arguments.client_secret_file is not None:
        key = "auth.kwargs.client_secret_file"
        yield from _readable_by_all(key, arguments.client_secret_file)
    elif arguments.client_secret is not None and loaded.file is not None:
        yield from _readable_by_all("auth.kwargs.client_secret", Path(loaded.file))


def _readable_by_all(key: str, path: Path) -> Iterator[Problem]:
    """Yield a warning if the mode of a file lets everybody read it."""
    with suppress(OSError):
        if path.stat().st_mode & stat.S_IROTH:
            advice = f"everybody on this machine can read {path}: chmod o-r it"
            yield Problem(key, advice)


def open_to_all(auth: Auth) -> list[Problem]:
    """Explain why a relay does not authenticate its clients; empty if it does."""
    if auth.method is not None:
        return []
    if auth.kwargs == AuthArguments():
        return [Problem("auth", 'lacks method = "globus": everybody would be let in')]
    wrong = 'has no effect without method = "globus" in [auth]: everybody would be let '
    return [Problem("auth.kwargs", f"{wrong}in")]


def _log_problems(logging: Logging) -> Iterator[Problem]:
    """Yield why the logs cannot be written."""
    file = None if logging.log_dir is None else logging.log_dir / FILE_NAME
    audited, key_file = logging.audit_log, logging.privacy_key_file
    wrong = {
        "logging.log_dir": file and _unwritable(file),
        audit.SETTING: audited and _unwritable(audited),
        privacy.SETTING: logging.privacy and key_file and privacy.problem(key_file),
    }
    if file and audited and os.path.realpath(audited) == os.path.realpath(file):
        wrong[audit.SETTING] = f"{audited} is the log itself"
    return (Problem(key, str(text)) for key, text in wrong.items() if text)


def _unwritable(file: Path) -> str | None:
    """Explain why a log cannot be written to a file; None if it can."""
    folder = file.parent
    # Not pathlib: it raises if a folder on the way may not be entered.
    try:
        file.stat()
    except OSError as error:
        target = Path(os.path.realpath(file))
        if error.errno in {errno.ENAMETOOLONG, errno.ELOOP}:
            return f"{file} cannot be written: {error.strerror}"
        if os.path.lexists(file) and not os.path.isdir(target.parent):
            return f"{file} is a link into a folder that is not there"
    if _is_descriptor(file):
        return f"{file} is an open file of a process: it could not be put aside"
    if os.path.exists(file) and not (os.path.isfile(file) and os.access(file, os.W_OK)):
        return f"{file} is no regular file that can be written"
    nearest = next(filter(os.path.exists, (folder, *folder.parents)))
    if not os.path.isdir(nearest) or not os.access(nearest, os.W_OK | os.X_OK):
        return f"{folder} is no folder that can be written or made"
    return None


def _is_descriptor(file: Path) -> bool:
    """Tell whether a path names an open file, such as ``/dev/stdout``."""
    paths = [file]
    with suppress(OSError):  # it is no link
        paths.append(file.parent / file.readlink())
    return any(os.path.realpath(path.parent).startswith("/proc/") for path in paths)
