"""The ``proxyrelay`` command: its parser, and the call of the subcommand."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from proxyrelay import __version__
from proxyrelay.cli import check, control, globus, status

MIN_INTERVAL_SECONDS, MAX_INTERVAL_SECONDS = 0.1, 3600.0
"""Bounds of ``status --interval``."""

EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_BROKEN_PIPE = 128 + signal.SIGPIPE
"""Exit statuses after Ctrl-C and after a broken pipe, as in a shell."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Command line without the program's name; None for the process's own.

    Returns:
        Exit status; 130 after Ctrl-C and 141 after a broken pipe.
    """
    parsed = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = parsed.command
    try:
        exit_status = command(parsed)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Python flushes standard output again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    return exit_status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="proxyrelay",
        description="Looks after a ProxyStore relay. To serve one, run "
        "'twistd -n proxyrelay'.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_check(commands)
    _add_control(commands)
    _add_status(commands)
    _add_globus(commands)
    return parser


def _add_check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    checked = commands.add_parser(
        "check",
        help="check a configuration",
        description="Loads a configuration, opens its certificate and key, tries its "
        "port, and shows the relay that would serve. Exits with 1 if there is any "
        "problem.",
    )
    checked.add_argument("-c", "--config", type=Path, help="configuration file (TOML)")
    checked.add_argument("--host", help="override host")
    checked.add_argument("--port", help="override port")
    checked.add_argument("--log-dir", help="override logging.log_dir")
    checked.add_argument("--log-level", help="override logging.default_level")
    checked.add_argument(
        "--offline", action="store_true", help="do not ask Globus about the credentials"
    )
    checked.set_defaults(command=check.check)


def _add_control(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    reloaded = commands.add_parser(
        "reload",
        help="make a running relay reload its configuration",
        description="Checks a configuration as 'check' does. If there is no problem, "
        "sends SIGHUP to the running relay: it reloads the file that it was started "
        "with, which should be the same. All clients stay connected. The relay's log "
        "shows the changes. Exits with 1 if there is a problem.",
    )
    reloaded.add_argument(
        "-c", "--config", type=Path, help="configuration file of the relay"
    )
    reloaded.set_defaults(command=control.reload)
    drained = commands.add_parser(
        "drain",
        help="make a running relay leave new clients to another one",
        description="Sends SIGUSR2 to a running relay: it accepts no new clients, and "
        "ends when its last client has left. Start its successor before: without one, "
        "the log has a warning, but the relay drains all the same.",
    )
    drained.set_defaults(command=control.drain)
    for parser in (reloaded, drained):
        process = parser.add_mutually_exclusive_group()
        process.add_argument("--pid", type=_pid, help="process ID of the relay")
        process.add_argument(
            "--pidfile",
            type=Path,
            default="twistd.pid",
            help="file with the process ID (default: %(default)s)",
        )


def _add_status(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    live = commands.add_parser(
        "live",
        help="check that a running relay is alive",
        description="For health checks: asks the private listener of a running relay "
        "for /livez, without a token. Reads only admin.listen of the configuration; "
        "mistakes elsewhere in it do not matter. Exits with 1 if the relay does not "
        "answer.",
    )
    live.set_defaults(command=status.live)
    shown = commands.add_parser(
        "status",
        help="show the state of a running relay",
        description="Asks the private listener of a running relay ([admin] in its "
        "configuration) for its state. Exits with 1 if it does not answer.",
    )
    shown.add_argument("--watch", action="store_true", help="repeat it until Ctrl-C")
    shown.add_argument(
        "--interval",
        type=_interval,
        default=2.0,
        metavar="SECONDS",
        help="time between two repetitions (default: %(default)s)",
    )
    shown.set_defaults(command=status.status)
    listed = commands.add_parser(
        "clients",
        help="list the clients of a running relay",
        description="Asks the private listener of a running relay for its clients. "
        "Exits with 1 if it does not answer.",
    )
    listed.set_defaults(command=status.clients)
    for parser in (live, shown, listed):
        parser.add_argument(
            "-c", "--config", type=Path, help="configuration file of the relay"
        )
        parser.add_argument("--admin", metavar="ADDRESS", help="override admin.listen")
    for parser in (shown, listed):
        parser.add_argument("--token-file", type=Path, help="override admin.token_file")
        parser.add_argument(
            "--json", action="store_true", help="print the answer as JSON"
        )


def _add_globus(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    described = commands.add_parser(
        "globus",
        help="prepare Globus Auth, and try it out",
        description="Credentials come from the options, the configuration, or the "
        "environment (PROXYSTORE_GLOBUS_CLIENT_ID, PROXYSTORE_GLOBUS_CLIENT_SECRET): "
        "the first of these wins. A terminal is asked for missing ones.",
    )
    actions = described.add_subparsers(title="actions", required=True, metavar="ACTION")
    setup = actions.add_parser(
        "setup",
        help="find or create the scope for clients",
        description="Shows the relay's Globus application, finds or creates its "
        "relay_all scope, and prints the settings for relay.toml and the scope that "
        "clients must request. It can be repeated.",
    )
    setup.set_defaults(command=globus.setup)
    tried = actions.add_parser(
        "check",
        help="try the credentials, and a token",
        description="Tries the credentials. With a bearer token on standard input, "
        "from a file or a pipe, shows its user, and whether this relay would accept "
        "it. Exits with 1 if not. With </dev/null, tries only the credentials.",
    )
    tried.set_defaults(command=globus.check)
    for parser in (setup, tried):
        parser.add_argument("-c", "--config", type=Path, help="configuration file")
        parser.add_argument("--client-id", help="client ID of the application")
        parser.add_argument(
            "--client-secret-file", type=Path, help="file with its secret"
        )


def _pid(text: str) -> int:
    return control.process_id(text)


_pid.__name__ = "process ID"  # argparse shows it in an error


def _interval(text: str) -> float:
    seconds = float(text)
    if not MIN_INTERVAL_SECONDS <= seconds <= MAX_INTERVAL_SECONDS:
        raise ValueError("no such interval")
    return seconds


_interval.__name__ = "interval"


if __name__ == "__main__":
    sys.exit(main())
