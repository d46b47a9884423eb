"""The ``proxyrelay`` command: what an operator does beside serving."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from proxyrelay import __version__, config, listen, tls
from proxyrelay.config import Config
from proxyrelay.errors import Problem, StartError
from proxyrelay.inspection import Inspection, inspect


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The command line without the program's name; None for that of
            the process.

    Returns:
        The exit status.
    """
    parsed = _parser().parse_args(arguments)
    return _check(parsed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="proxyrelay",
        description="Looks after a ProxyStore relay. To serve one, run "
        "'twistd -n proxyrelay'.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    check = commands.add_parser(
        "check",
        help="tell what a configuration would serve",
        description="Loads a configuration, opens its certificate and key, tries its "
        "port, and says what would be served. Exits with 1 if there is any problem.",
    )
    check.add_argument("-c", "--config", type=Path, help="configuration file (TOML)")
    check.add_argument("--host", help="override host")
    check.add_argument("--port", help="override port")
    check.add_argument("--log-dir", help="override logging.log_dir")
    check.add_argument("--log-level", help="override logging.default_level")
    return parser


def _check(arguments: argparse.Namespace) -> int:
    loaded = config.load(
        arguments.config,
        {
            option: getattr(arguments, option.removeprefix("--").replace("-", "_"))
            for option in config.OVERRIDES
        },
    )
    found = inspect(loaded, tls.now())
    if loaded.sound("", "host", "port"):
        try:
            for bound in listen.bind(found.config.host, found.config.port):
                bound.close()
        except StartError as error:
            found.problems.append(loaded.located(Problem(error.setting, str(error))))

    for problem in (*found.problems, *found.faults):
        print(f"problem: {problem}")
    for problem in found.warnings:
        print(f"warning: {problem}")
    if found.problems or found.faults:
        return 1
    for line in _served(found):
        print(line)
    return 0


def _served(found: Inspection) -> list[str]:
    settings: Config = found.config
    host = settings.host or "all interfaces"
    lines = [
        f"would serve {settings.scheme} on {host}, port {settings.port or '(any)'}",
        f"authentication: {settings.auth.method or 'none'}",
    ]
    if found.pair is not None:
        leaf = found.pair.chain[0]
        end = leaf.not_valid_after_utc
        left = (end - tls.now()).days
        lines += [
            f"certificate: for {', '.join(found.pair.names()) or 'no host'}",
            f"certificate: valid until {end.date().isoformat()} ({left} days left)",
            f"certificate: {len(found.pair.chain)} in the chain, and the key matches",
        ]
    logged = "standard output"
    if settings.logging.log_dir is not None:
        logged += f" and {settings.logging.log_dir}"
    lines.append(f"log: {settings.logging.default_level} and above, to {logged}")
    usual = Config()
    for path in config.settings():
        value, default = _value(settings, path), _value(usual, path)
        if value != default and not isinstance(value, Struct):
            lines.append(f"set: {'.'.join(path)} = {value}")
    return lines


def _value(settings: Config, path: tuple[str, ...]) -> object:
    value: object = settings
    for name in path:
        value = getattr(value, name)
    return value


if __name__ == "__main__":
    sys.exit(main())
