"""``proxyrelay check``: the relay that a configuration would serve."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from pathlib import Path

import tomlkit
from msgspec import Struct

from proxyrelay import config
from proxyrelay.admin import sockets
from proxyrelay.auth.globus_api import Globus
from proxyrelay.auth.globus_error import GlobusError
from proxyrelay.auth.policy import Policy
from proxyrelay.cli import globus
from proxyrelay.config import Config, Secret
from proxyrelay.errors import Problem, StartError
from proxyrelay.net import certificates, listening
from proxyrelay.service.checks import Inspection, inspect


def check(arguments: Namespace) -> int:
    """Check a configuration.

    Loads a configuration, opens its certificate and key, and tries its port, its
    credentials and its engine. Shows the relay that would serve. Exits with 1 if there
    is any problem.
    """
    loaded = config.load(
        arguments.config,
        {
            option: getattr(arguments, option.removeprefix("--").replace("-", "_"))
            for option in config.OVERRIDES
        },
    )
    found = inspect(loaded, certificates.now(), os.environ)
    found.problems += _bind_problems(found.config, loaded)
    tried = _try_credentials(found, loaded, arguments.offline)
    tried += _try_engine(found, loaded, arguments.offline)
    if print_problems(found):
        return 1
    print(*_summary(found), *tried, "no problems", sep="\n")
    return 0


def print_problems(found: Inspection) -> bool:
    """Print problems and warnings, and return whether there is a problem."""
    problems = [*found.problems, *found.faults]
    for problem in problems:
        print(f"problem: {problem}")
    for warning in found.warnings:
        print(f"warning: {warning}")
    return bool(problems)


def _bind_problems(settings: Config, loaded: config.Loaded) -> Iterator[Problem]:
    """Try to listen in each place."""
    reuse, place = settings.reuse_port, settings.admin.place
    try:
        if loaded.sound("", "host", "port"):
            for bound in listening.bind(
                settings.host, settings.port, reuse=reuse, accepting=False
            ):
                bound.close()
        if loaded.sound("", "admin.listen") and place is not None:
            sockets.probe(place, reuse)
    except StartError as error:
        yield loaded.located(Problem(error.setting, str(error)))


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
    plain = str(value) if isinstance(value, Path) else value
    return tomlkit.item(plain).as_string()
