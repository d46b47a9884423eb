"""The ``proxyrelay`` command: its parser, and the call of the subcommand."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from inspect import cleandoc
from pathlib import Path
from typing import Any, TextIO

from proxyrelay import __version__, config
from proxyrelay.cli import (
    actions,
    check,
    completion,
    globus,
    keep,
    probe,
    restart,
    status,
    terminal,
    turn,
)
from proxyrelay.errors import (
    ConfigError,
    NotDone,
    NothingSent,
    ProxyRelayError,
    Unanswered,
)

KEEP_HINT = "put the options of the relay behind --: proxyrelay keep -- ..."

MIN_INTERVAL_SECONDS, MAX_INTERVAL_SECONDS = 0.1, 3600.0
"""Bounds of ``status --interval`` and of ``--timeout``."""

EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_BROKEN_PIPE = 128 + signal.SIGPIPE
"""Exit statuses after Ctrl-C and after a broken pipe, as in a shell."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default that of the process; return the exit status."""
    if sys.stdout is None:  # closed: what is printed is lost, and the outcome is not
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - until the end
    parser = _parser()
    try:
        parsed = parser.parse_args(arguments, argparse.Namespace(parser=parser))
    except SystemExit as ended:
        given = sys.argv[1:] if arguments is None else arguments
        if ended.code and list(given[:1]) == ["probe"]:
            return probe.wrong_usage()  # monitoring systems know 2 as CRITICAL
        if ended.code and list(given[:1]) == ["keep"]:
            print(KEEP_HINT, file=sys.stderr)
        raise
    try:
        exit_status: int = parsed.command(parsed)
        sys.stdout.flush()
    except (ConfigError, NotDone, NothingSent) as error:
        return _fail(error, sys.stdout)
    except Unanswered as error:
        return _fail(error, sys.stderr)  # Programs may read standard output.
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Python flushes standard output again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    return exit_status


def _fail(error: ProxyRelayError, stream: TextIO) -> int:
    terminal.show((f"problem: {line}" for line in str(error).splitlines()), stream)
    return 1


def interval(text: str) -> float:
    """Parse seconds between two looks; ValueError out of bounds."""
    seconds = float(text)
    if not MIN_INTERVAL_SECONDS <= seconds <= MAX_INTERVAL_SECONDS:
        raise ValueError("no such interval")
    return seconds


_CONFIG = "-c --config"

OPTIONS: dict[str, dict[str, Any]] = {
    _CONFIG: {"type": Path, "help": "configuration file (TOML)"},
    "--host": {"help": "override host"},
    "--port": {"help": "override port"},
    "--log-dir": {"help": "override logging.log_dir"},
    "--log-level": {"help": "override logging.default_level"},
    "--admin-listen": {"help": "override admin.listen"},
    "--node": {"help": "override cluster.node"},
    "--survive": {
        "action": "store_const",
        "const": True,
        "help": "override survive.enabled",
    },
    "--offline": {
        "action": "store_true",
        "help": "try neither the credentials nor the engine",
    },
    "--pid": {"type": actions.process_id, "help": "process ID of the relay"},
    "--pidfile": {
        "type": Path,
        "help": "file with the process ID (default without a private listener: "
        f"{actions.PIDFILE})",
    },
    "keep --pidfile": {"help": "file for the process ID of the relay"},
    "keep options": {
        "nargs": "*",
        "metavar": "OPTION",
        "help": "option of 'twistd proxyrelay', behind '--'",
    },
    "--yes": {
        "action": "store_true",
        "help": "restart, even if that closes connections",
    },
    "--timeout": {
        "type": interval,
        "default": 30.0,
        "metavar": "SECONDS",
        "help": "longest wait (default: %(default)s)",
    },
    "--watch": {"action": "store_true", "help": "repeat it until Ctrl-C"},
    "--interval": {
        "type": interval,
        "default": 2.0,
        "metavar": "SECONDS",
        "help": "time between two repetitions (default: %(default)s)",
    },
    "--admin": {"metavar": "ADDRESS", "help": "override admin.listen"},
    "--token-file": {"type": Path, "help": "override admin.token_file"},
    "--pairs": {
        "action": "store_true",
        "help": "list the pairs of clients that do not connect",
    },
    "--all": {"action": "store_true", "help": "ask all relays of its cluster"},
    "--json": {"action": "store_true", "help": "print the answer as JSON"},
    "uuid": {"metavar": "UUID", "help": "UUID of the client"},
    "probe url": {"metavar": "URL", "help": "address of the relay: ws:// or wss://"},
    "probe --token-file": {"type": Path, "help": "file with a token for the relay"},
    "--ca-file": {"type": Path, "help": "PEM file of authorities to trust alone"},
    "--count": {
        "type": probe.count,
        "default": 1,
        "metavar": "NUMBER",
        "help": f"number of offers with answers, {probe.MAX_COUNT} at most "
        "(default: %(default)s)",
    },
    "--days": {
        "type": probe.days,
        "default": 14,
        "metavar": "NUMBER",
        "help": "days before the end of a certificate at which warnings begin "
        "(default: %(default)s)",
    },
    "probe --timeout": {
        "type": interval,
        "default": 10.0,
        "metavar": "SECONDS",
        "help": "longest time of all steps together (default: %(default)s)",
    },
    "probe --json": {"action": "store_true", "help": "print JSON only"},
    "--textfile": {
        "type": Path,
        "metavar": "PATH",
        "help": "write a file for Prometheus's node exporter (*.prom)",
    },
    "shell": {"choices": completion.SHELLS, "help": "the shell"},
    "--client-id": {"help": "client ID of the application"},
    "--client-secret-file": {"type": Path, "help": "file with its secret"},
    "--secret-file": {
        "type": Path,
        "required": True,
        "help": "file with static-auth-secret of the TURN server",
    },
    "--user": {"type": turn.user, "help": "name for the quota of the TURN server"},
    "--lifetime": {
        "type": turn.lifetime,
        "default": "30d",
        "help": "time until the credentials expire, such as 30d, 12h or 3600 seconds "
        "(default: %(default)s)",
    },
    "turn url": {
        "type": turn.ice_urls,
        "metavar": "URL",
        "help": "TURN server, such as turn:turn.example.org:3478",
    },
}
"""Options and arguments of the commands, by their spellings. Those of one command alone
have its name in front."""

PROCESS_OPTIONS = ("--pid", "--pidfile")
"""Options that exclude each other. They come last."""


_LISTENER = (_CONFIG, "--admin", "--token-file")

_CREDENTIALS = (_CONFIG, "--client-id", "--client-secret-file")

Command = Callable[[argparse.Namespace], int]
"""Runs a command, and returns the exit status. Its docstring is its help, and ends with
an example."""

COMMANDS: dict[str, tuple[Command, tuple[str, ...]]] = {
    "check": (
        check.check,
        (_CONFIG, *config.OVERRIDES, "--offline"),
    ),
    "reload": (actions.reload, (*_LISTENER, *PROCESS_OPTIONS)),
    "restart": (
        restart.restart,
        (*_LISTENER, "--yes", "--timeout", *PROCESS_OPTIONS),
    ),
    "stop": (restart.stop, (*_LISTENER, "--timeout", *PROCESS_OPTIONS)),
    "drain": (actions.drain, (*_LISTENER, *PROCESS_OPTIONS)),
    "keep": (keep.keep, ("--pidfile", "options")),
    "live": (status.live, (_CONFIG, "--admin")),
    "status": (
        status.status,
        ("--all", "--watch", "--interval", *_LISTENER, "--json"),
    ),
    "clients": (status.clients, ("--all", "--pairs", *_LISTENER, "--json")),
    "disconnect": (status.disconnect, ("uuid", *_LISTENER)),
    "completion": (completion.completion, ("shell",)),
    "turn": (turn.turn, ("--secret-file", "--user", "--lifetime", "url")),
    "probe": (
        probe.probe,
        (
            *("url", "--token-file", "--ca-file", "--count", "--days", "--timeout"),
            *("--json", "--textfile"),
        ),
    ),
}

GLOBUS_COMMANDS: dict[str, tuple[Command, tuple[str, ...]]] = {
    "setup": (globus.setup, _CREDENTIALS),
    "check": (globus.check_token, _CREDENTIALS),
}


class _Help(argparse.HelpFormatter):
    """Breaks no line of an example: it is there to be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("example:"):
            return text
        return super()._fill_text(text, width, indent)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="proxyrelay",
        description="Looks after a ProxyStore relay. To serve one, run "
        "'twistd -n proxyrelay', or 'proxyrelay keep'.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add(commands, COMMANDS)
    described = commands.add_parser(
        "globus",
        help="prepare Globus Auth, and try it out",
        description="Credentials come from the options, the configuration, or the "
        "environment (PROXYSTORE_GLOBUS_CLIENT_ID, PROXYSTORE_GLOBUS_CLIENT_SECRET): "
        "the first of these wins. A terminal is asked for missing ones.",
    )
    commands = described.add_subparsers(
        title="actions", required=True, metavar="ACTION"
    )
    _add(commands, GLOBUS_COMMANDS)
    return parser


def _add(
    parsers: argparse._SubParsersAction[argparse.ArgumentParser],
    commands: dict[str, tuple[Command, tuple[str, ...]]],
) -> None:
    for name, (command, options) in commands.items():
        text, _, example = cleandoc(command.__doc__ or "").partition("\n\nExample:\n")
        summary, _, description = text.partition(".\n\n")
        parser = parsers.add_parser(
            name,
            formatter_class=_Help,
            help=summary[:1].lower() + summary[1:],
            description=" ".join(description.split()),
            epilog=f"example:\n  {example.strip()}" if example else None,
        )
        parser.set_defaults(command=command)
        group: argparse._ActionsContainer = parser
        for spellings in options:
            if spellings == PROCESS_OPTIONS[0]:
                group = parser.add_mutually_exclusive_group()
            option = OPTIONS.get(f"{name} {spellings}") or OPTIONS[spellings]
            group.add_argument(*spellings.split(), **option)


if __name__ == "__main__":
    sys.exit(main())
