"""``proxyrelay check``: the relay that a configuration would serve."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import tomlkit
from msgspec import Struct

from proxyrelay import config
from proxyrelay.admin import sockets
from proxyrelay.admin.report import Status
from proxyrelay.auth.globus_api import Globus
from proxyrelay.auth.globus_error import GlobusError
from proxyrelay.auth.policy import Policy
from proxyrelay.cli import globus, served, status, terminal
from proxyrelay.config import Config, Secret
from proxyrelay.errors import Problem, StartError, Taken
from proxyrelay.net import certificates, listening
from proxyrelay.service.checks import Inspection, inspect

RUNTIME_FOLDER = (
    "a unit of systemd with RuntimeDirectory makes it at the start; without one, make "
    "it yourself"
)

DRAINS = "is draining: wait for its end, or set another port"
"""What a relay does that serves nothing any longer."""


def check(arguments: Namespace) -> int:
    """Check a configuration.

    Loads a configuration, opens its certificate and key, and tries its ports, its
    credentials and its engine. Shows the relay that would serve. A relay that serves
    there already is no problem. Exits with 1 if there is any problem.

    Example:
        proxyrelay check --config relay.toml
    """
    loaded = config.load(
        arguments.config,
        {
            option: getattr(arguments, option.removeprefix("--").replace("-", "_"))
            for option in config.OVERRIDES
        },
    )
    found = inspect(loaded, certificates.now(), os.environ)
    serving = _try_places(found, loaded)
    tried = _try_credentials(found, loaded, arguments.offline)
    tried += _try_engine(found, loaded, arguments.offline)
    if _print_problems(found):
        exit_status = 1
    else:
        terminal.show(["no problems", *serving, *_summary(found), *tried])
        exit_status = 0
    _print_warnings(found)
    return exit_status


def print_problems(found: Inspection) -> bool:
    """Print problems and warnings, and return whether there is a problem."""
    is_wrong = _print_problems(found)
    _print_warnings(found)
    return is_wrong


def _print_problems(found: Inspection) -> bool:
    problems = [*found.problems, *found.faults]
    terminal.show(f"problem: {problem}" for problem in problems)
    return bool(problems)


def _print_warnings(found: Inspection) -> None:
    terminal.show(f"warning: {warning}" for warning in found.warnings)


def _try_places(found: Inspection, loaded: config.Loaded) -> list[str]:
    """Try to listen in both places; return lines, or add problems and a warning."""
    settings = found.config
    place = settings.admin.place
    errors: list[StartError] = []
    clients: set[Any] = set()
    try:
        if loaded.sound("", "host", "port"):
            clients = _try_port(settings)
    except StartError as error:
        errors.append(error)
    if loaded.sound("", "admin.listen") and place is not None:
        try:
            if clients & sockets.probe(place, settings.reuse_port):
                text = "is where clients come to: take another port"
                errors.append(StartError(text, "admin.listen"))
        except StartError as error:
            errors.append(error)
        if sockets.is_made_at_start(place):
            missing = f"{Path(str(place)).parent} is not there: {RUNTIME_FOLDER}"
            found.warnings.append(loaded.located(Problem("admin.listen", missing)))
    lines: list[str] = []
    if settings.reuse_port or any(isinstance(error, Taken) for error in errors):
        serving = served.find(settings, found.token)
        errors = list(_unexplained(errors, serving))
        if serving.port:
            lines.append(_here(serving, settings))
    found.problems += (
        loaded.located(Problem(error.setting, str(error))) for error in errors
    )
    return lines


def _try_port(settings: Config) -> set[Any]:
    return listening.addresses(
        listening.bind(
            settings.host, settings.port, reuse=settings.reuse_port, accepting=False
        )
    )


def _unexplained(
    errors: Iterable[StartError], serving: served.Serving
) -> Iterator[StartError]:
    """Errors that are no work of the relay that serves already."""
    for error in errors:
        is_taken, is_admin = isinstance(error, Taken), error.setting == "admin.listen"
        if is_taken and is_admin and serving.is_other and serving.status is not None:
            yield StartError(f"{error}; {_owner(serving.status)}", error.setting)
        elif not (is_taken and serving.port and (serving.admin or not is_admin)):
            yield error


def _owner(relay: Status) -> str:
    """Say whose private listener it is."""
    urls = ", ".join(relay.listening)
    does = f"serves {urls}" if urls else DRAINS
    return f"it is process {relay.pid}, a relay that {does}"


def _here(serving: served.Serving, settings: Config) -> str:
    """Say that a relay serves at the port."""
    if settings.scheme not in serving.schemes:
        other = " and ".join(sorted(serving.schemes))
        return (
            f"a relay already serves here, but with {other} in the place of "
            f"{settings.scheme}: restart it, or set another port"
        )
    return f"this relay already serves here{_which(serving.status)}"


def _which(relay: Status | None) -> str:
    """Say which relay serves."""
    if relay is None:
        return ""
    return f": process {relay.pid}, {status.state(relay)}, clients: {relay.clients}"


def _try_credentials(
    found: Inspection, loaded: config.Loaded, offline: bool
) -> list[str]:
    """Try the credentials at Globus; return lines, or add a problem."""
    if found.credentials is None:
        return []
    if offline:
        return ["credentials: not tried (--offline)"]
    lines: list[str] = []

    async def command(service: Globus) -> int:
        try:
            lines.append(await globus.try_credentials(service))
        except GlobusError as error:
            problem = loaded.located(Problem("auth", service.explained(error)))
            if error.is_about_address:
                url = loaded.located(replace(problem, key="auth.kwargs.service_url"))
                problem = problem if url.line is None else url
            found.problems.append(problem)
        return 0

    globus.run(found.config.auth.kwargs, found.credentials, command)
    return lines


def _try_engine(found: Inspection, loaded: config.Loaded, offline: bool) -> list[str]:
    """Try the engine of the cluster; return lines, or add problems and warnings."""
    cluster = found.config.cluster
    if not cluster.is_set or any("cluster" in each.key for each in found.problems):
        return []
    if offline:
        return ["engine: not tried (--offline)"]
    from proxyrelay.cluster.trial import try_engine  # noqa: PLC0415 - an extra

    report = try_engine(cluster)
    found.problems += map(loaded.located, report.problems)
    found.warnings += map(loaded.located, report.warnings)
    return report.lines


def _summary(found: Inspection) -> Iterator[str]:
    settings: Config = found.config
    host = settings.host or "all interfaces"
    yield f"would serve {settings.scheme} on {host}, port {settings.port or '(any)'}"
    yield f"authentication: {settings.auth.method or 'none'}"
    if found.credentials is not None:
        policy = Policy.from_settings(settings.auth.kwargs, found.credentials.client_id)
        scopes = " ".join(sorted(policy.required_scopes)) or "(none)"
        yield f"tokens: must be meant for {policy.audience}"
        yield f"tokens: must have the scopes {scopes}"
    if found.pair is not None:
        leaf = found.pair.chain[0]
        end = leaf.not_valid_after_utc
        left = end - certificates.now()
        rest = f"{left.days} days" if left.days else f"{left.seconds // 3600} hours"
        yield f"certificate: for {', '.join(found.pair.names()) or 'no host'}"
        yield f"certificate: valid until {end.date().isoformat()} ({rest} left)"
        yield f"certificate: {len(found.pair.chain)} in the chain, and the key matches"
    logging = settings.logging
    folder = "" if logging.log_dir is None else f" and {logging.log_dir}"
    yield f"log: {logging.default_level} and above, to standard output{folder}"
    if logging.privacy:
        kept = "" if logging.privacy_key_file else ", others after each start"
        yield f"users and addresses: shown as pseudonyms{kept}"
    defaults = Config()
    for path in config.settings():
        value = reduce(getattr, path, settings)
        default = reduce(getattr, path, defaults)
        if value != default and not isinstance(value, Struct):
            yield f"set: {'.'.join(path)} = {_toml(value)}"


def _toml(value: object) -> str:
    """A setting in TOML; a secret is hidden."""
    if isinstance(value, Secret):
        return str(value)
    plain = _short(value) if isinstance(value, Path) else value
    return tomlkit.item(plain).as_string()


def _short(path: Path) -> str:
    """A path without ``..``, where that is the same file."""
    short = os.path.normpath(path)
    return short if os.path.realpath(short) == os.path.realpath(path) else str(path)
