"""The ``proxyrelay`` command: what an operator does beside serving."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from socket import socket

import msgspec
import tomlkit
from msgspec import Struct

from proxyrelay import __version__, config
from proxyrelay.admin import sockets
from proxyrelay.admin.report import Status
from proxyrelay.auth import policy
from proxyrelay.auth.credentials import Credentials
from proxyrelay.auth.globus_api import Globus, GlobusError
from proxyrelay.cli import globus
from proxyrelay.cli import status as console
from proxyrelay.cli.status import Console
from proxyrelay.config import AuthArguments, Config, Secret
from proxyrelay.errors import ConfigError, Problem, StartError, Unanswered
from proxyrelay.net import certificates
from proxyrelay.net import listening as listen
from proxyrelay.service.checks import Inspection, inspect, open_to_all, read_token

SHORTEST, LONGEST = 0.1, 3600.0
"""Seconds from one look at a relay to the next."""

INTERRUPTED = 128 + signal.SIGINT
"""The exit status of a command that was interrupted."""


HOME, ERASE, ERASE_BELOW = "\x1b[H", "\x1b[K\n", "\x1b[J"
"""Have a terminal go to its upper left corner, erase the rest of a line and go to the
next, and erase what is below."""

UNREAD = 128 + signal.SIGPIPE
"""The exit status of a command whose output nobody reads to the end."""

WHICH = (
    "name the process with --pid; 'systemctl status' or 'proxyrelay status' has its ID"
)
"""What to do without a file that holds it."""

PROCESSES = Path("/proc")
"""Where Linux tells of its processes (proc(5)); elsewhere there is nothing."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The command line without the program's name; None for that of
            the process.

    Returns:
        The exit status; 130 after a Ctrl-C and 141 after a broken pipe, as shells have
        it.
    """
    parsed = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = parsed.command
    try:
        status = command(parsed)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Nobody reads any more, also not what Python would write at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    return status


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
    check.add_argument(
        "--offline", action="store_true", help="do not ask Globus about the credentials"
    )
    check.set_defaults(command=_check)

    renewed = commands.add_parser(
        "reload",
        help="have a running relay read its configuration anew",
        description="Looks at a configuration as 'check' does, and if there is no "
        "problem, has the running relay read its own, by a SIGHUP: the one that it was "
        "started with, which should be the same. No client is closed. The relay's log "
        "says what has changed. Exits with 1 if there is a problem.",
    )
    renewed.add_argument(
        "-c", "--config", type=Path, help="file to look at: the one of the relay"
    )
    renewed.set_defaults(command=_reload)
    drained = commands.add_parser(
        "drain",
        help="have a running relay leave new clients to another one",
        description="Has a running relay accept nobody any more, by a SIGUSR2. It ends "
        "when its last client has left. Start the one that takes over before: the log "
        "warns if nobody else listens, but it drains all the same.",
    )
    drained.set_defaults(command=_drain)
    for signalled in (renewed, drained):
        which = signalled.add_mutually_exclusive_group()
        which.add_argument("--pid", type=_pid, help="process ID of the relay")
        which.add_argument(
            "--pidfile",
            type=Path,
            default="twistd.pid",
            help="file with it (default: %(default)s)",
        )

    living = commands.add_parser(
        "live",
        help="tell whether a running relay is alive",
        description="For health checks: asks the private listener of a running relay "
        "for /livez, without a token. Of a configuration it reads only admin.listen, "
        "whatever else is wrong with it. Exits with 1 if the relay does not answer.",
    )
    living.set_defaults(command=_live)
    shown = commands.add_parser(
        "status",
        help="show how a running relay is",
        description="Asks the private listener of a running relay ([admin] in its "
        "configuration) how it is. Exits with 1 if it does not answer.",
    )
    shown.add_argument(
        "--watch", action="store_true", help="show it again and again, until Ctrl-C"
    )
    shown.add_argument(
        "--interval",
        type=_interval,
        default=2.0,
        metavar="SECONDS",
        help="how often (default: %(default)s)",
    )
    shown.set_defaults(command=_status)
    listed = commands.add_parser(
        "clients",
        help="list the clients of a running relay",
        description="Asks the private listener of a running relay for its clients. "
        "Exits with 1 if it does not answer.",
    )
    listed.set_defaults(command=_clients)
    for asking in (living, shown, listed):
        asking.add_argument(
            "-c", "--config", type=Path, help="configuration file of the relay"
        )
        asking.add_argument("--admin", metavar="ADDRESS", help="override admin.listen")
    for asking in (shown, listed):
        asking.add_argument("--token-file", type=Path, help="override admin.token_file")
        asking.add_argument(
            "--json", action="store_true", help="print the answer as JSON"
        )

    described = commands.add_parser(
        "globus",
        help="prepare Globus Auth, and try it out",
        description="Credentials come from the options, the configuration, or the "
        "environment (PROXYSTORE_GLOBUS_CLIENT_ID, PROXYSTORE_GLOBUS_CLIENT_SECRET): "
        "the first of these wins. What is nowhere is asked for.",
    )
    actions = described.add_subparsers(title="actions", required=True, metavar="ACTION")
    setup = actions.add_parser(
        "setup",
        help="find or create the scope that clients request",
        description="Shows the relay's Globus application, finds or creates its "
        "relay_all scope, and prints what belongs into relay.toml and what clients "
        "must request. It can be repeated.",
    )
    setup.set_defaults(command=_globus_setup)
    tried = actions.add_parser(
        "check",
        help="try the credentials, and a token",
        description="Tries the credentials. Given a bearer token on standard input, "
        "in a file or a pipe, says whose it is, and whether this relay would accept "
        "it. Exits with 1 if not. With </dev/null, tries only the credentials.",
    )
    tried.set_defaults(command=_globus_check)
    for action in (setup, tried):
        action.add_argument("-c", "--config", type=Path, help="configuration file")
        action.add_argument("--client-id", help="client ID of the application")
        action.add_argument(
            "--client-secret-file", type=Path, help="file that holds its secret"
        )
    return parser


def _globus_setup(arguments: argparse.Namespace) -> int:
    return _globus(arguments, lambda _: globus.setup)


def _globus_check(arguments: argparse.Namespace) -> int:
    return _globus(
        arguments,
        lambda settings: globus.check(settings, globus.token_from(sys.stdin)),
        serving=True,
    )


def _globus(
    arguments: argparse.Namespace,
    command: Callable[[AuthArguments], Callable[[Globus], Awaitable[int]]],
    serving: bool = False,
) -> int:
    """Run a command with the settings and credentials that there are.

    Args:
        arguments: The command line.
        command: Builds what to run.
        serving: Whether it tells what a relay with the file would do.
    """
    try:
        settings, found = _prepared(arguments, serving)
        return globus.run(settings, found, command(settings))
    except ConfigError as error:
        for problem in error.problems:
            print(f"problem: {problem}")
        return 1


def _prepared(
    arguments: argparse.Namespace, serving: bool
) -> tuple[AuthArguments, Credentials]:
    loaded = config.load(arguments.config)
    problems = list(loaded.problems)
    if serving and not problems and arguments.config is not None:
        problems += map(loaded.located, open_to_all(loaded.config.auth))
    if problems:
        raise ConfigError(problems)
    settings = loaded.config.auth.kwargs
    options = loaded.options
    if arguments.client_id is not None:
        settings = msgspec.structs.replace(settings, client_id=arguments.client_id)
        options["auth.kwargs.client_id"] = "--client-id"
    if arguments.client_secret_file is not None:
        file = arguments.client_secret_file.absolute()
        settings = msgspec.structs.replace(
            settings, client_secret=None, client_secret_file=file
        )
        options |= {"auth.kwargs.client_secret_file": "--client-secret-file"}
    try:
        found = globus.ask_for_credentials(settings, os.environ, sys.stdin, options)
    except ConfigError as error:
        raise ConfigError(map(loaded.located, error.problems)) from None
    return settings, found


def _pid(text: str) -> int:
    """The ID of one process: kill(2) takes 0 and less for groups.

    Raises:
        ValueError: It is none.
    """
    number = int(text)
    if number <= 0:
        raise ValueError("no process has such an ID")
    return number


_pid.__name__ = "process ID"  # as argparse calls it in an error


def _interval(text: str) -> float:
    """Seconds from one look to the next.

    Raises:
        ValueError: They are none.
    """
    seconds = float(text)
    if not SHORTEST <= seconds <= LONGEST:
        raise ValueError("no such interval")
    return seconds


_interval.__name__ = "interval"


def _live(arguments: argparse.Namespace) -> int:
    listening, file = arguments.admin, arguments.config
    try:
        if listening is None and file is not None:
            listening = config.admin_listen(file)
        Console(_place(listening, file), None).ask("/livez")
    except OSError as error:
        return _unanswered(Unanswered(f"{file}: cannot be read: {error.strerror}"))
    except Unanswered as error:
        return _unanswered(error)
    print("alive")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    try:
        asked = _console(arguments)
        if arguments.watch:
            _watch(asked, arguments.interval, arguments.json)
        elif arguments.json:
            print(console.plain_json(asked.ask("/status")))
        else:
            print(*console.status_lines(asked.status()), sep="\n")
    except (ConfigError, Unanswered) as error:
        return _unanswered(error)
    return 0


def _watch(asked: Console, interval: float, as_json: bool) -> None:
    """Show how a relay is again and again, in place where that can be.

    Once it has answered it may be away, as it is while it is started anew.

    Raises:
        Unanswered: It does not say so even once.
    """
    status = asked.status()
    while True:
        if as_json:
            print(console.plain_json(msgspec.json.encode(status), indent=None))
        else:
            _show(console.status_lines(status), console.status_line(status))
        sys.stdout.flush()
        status = _next_status(asked, interval, as_json)


def _next_status(asked: Console, interval: float, as_json: bool) -> Status:
    """How a relay is when it next answers; says if it does not."""
    while True:
        time.sleep(interval)
        try:
            return asked.status()
        except Unanswered as error:
            line = f"no answer: {error}"
            if as_json:
                print(line, file=sys.stderr)
            else:
                _show([line], line)
            sys.stdout.flush()


def _show(lines: Iterable[str], line: str) -> None:
    """Show lines in place, or where that cannot be, one."""
    if sys.stdout.isatty():
        print(HOME, *(each + ERASE for each in lines), ERASE_BELOW, sep="", end="")
    else:
        print(line)


def _clients(arguments: argparse.Namespace) -> int:
    try:
        asked = _console(arguments)
        if arguments.json:
            print(console.plain_json(asked.ask("/clients")))
        else:
            print(*console.client_lines(asked.clients(), time.time()), sep="\n")
    except (ConfigError, Unanswered) as error:
        return _unanswered(error)
    return 0


def _unanswered(error: ConfigError | Unanswered) -> int:
    """Say why, apart from the answers, which programs may read."""
    for line in str(error).splitlines():
        print(f"problem: {line}", file=sys.stderr)
    return 1


def _console(arguments: argparse.Namespace) -> Console:
    """What asks the relay that the command line names.

    Raises:
        ConfigError: The settings cannot be read.
        Unanswered: They name no relay.
    """
    loaded = config.load(arguments.config)
    if loaded.problems:
        raise ConfigError(loaded.problems)
    settings = loaded.config.admin
    place = _place(arguments.admin or settings.listen, arguments.config)
    file = arguments.token_file or settings.token_file
    token: Secret | None = None if file is None else read_token(file)
    return Console(place, token)


def _place(listening: str | None, file: Path | None) -> tuple[str, int] | Path:
    """Where to ask a relay.

    Args:
        listening: What is known of it, in the words of ``admin.listen``.
        file: Where that may stand.

    Raises:
        Unanswered: Nobody can be asked there.
    """
    if listening is None and file is None:
        raise Unanswered("name the relay, by its --config or with --admin")
    if listening is None:
        raise Unanswered(
            f"the private listener of this relay is off: set listen in [admin] of "
            f"{file}"
        )
    try:
        place = config.admin_place(listening)
    except ValueError:
        raise Unanswered(
            "the private listener: expected an address and a port, or unix: and an "
            "absolute path"
        ) from None
    if isinstance(place, tuple) and not place[1]:
        raise Unanswered(
            "the port is 0, so the log of the relay names it: pass that with --admin"
        )
    return place


def _reload(arguments: argparse.Namespace) -> int:
    found = inspect(config.load(arguments.config), certificates.now(), os.environ)
    wrong = [*found.problems, *found.faults]
    for problem in wrong:
        print(f"problem: {problem}")
    for problem in found.warnings:
        print(f"warning: {problem}")
    return 1 if wrong else _signal(arguments, signal.SIGHUP)


def _drain(arguments: argparse.Namespace) -> int:
    return _signal(arguments, signal.SIGUSR2)


def _signal(arguments: argparse.Namespace, number: signal.Signals) -> int:
    """Send a signal to the relay that the command line names."""
    pid, file = arguments.pid, arguments.pidfile
    try:
        if pid is None:
            pid = _pid(file.read_text(encoding="ascii"))
        if not _may_take(pid, number):
            print(
                f"problem: process {pid} is no relay that takes {number.name}, and may "
                "end by it: nothing was sent"
            )
            return 1
        os.kill(pid, number)
    except OSError as error:
        place = f"process {pid}" if pid is not None else file
        hint = "" if pid is not None else f"; {WHICH}"
        print(f"problem: {place}: {error.strerror}{hint}")
        return 1
    except ValueError:
        print(f"problem: {file}: holds no process ID")
        return 1
    print(f"sent {number.name} to process {pid}")
    return 0


def _may_take(pid: int, number: signal.Signals) -> bool:
    """Whether a process is a relay that a signal does not end, as far as can be told.

    A file may hold the ID of a process that has ended, and another one may have it now.
    """
    process = PROCESSES / str(pid)
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
        status = (process / "status").read_text(errors="replace")
    except OSError:
        return True
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
    if caught is None:
        return True
    return b"proxyrelay" in words and bool(int(caught[1], 16) >> (number - 1) & 1)


def _check(arguments: argparse.Namespace) -> int:
    loaded = config.load(
        arguments.config,
        {
            option: getattr(arguments, option.removeprefix("--").replace("-", "_"))
            for option in config.OVERRIDES
        },
    )
    found = inspect(loaded, certificates.now(), os.environ)
    found.problems += _not_bindable(found.config, loaded)

    works = _credentials_work(found, loaded, arguments.offline)

    for problem in (*found.problems, *found.faults):
        print(f"problem: {problem}")
    for problem in found.warnings:
        print(f"warning: {problem}")
    if found.problems or found.faults:
        return 1
    for line in _served(found):
        print(line)
    if works is not None:
        print(works)
    print("no problems")
    return 0


def _not_bindable(settings: Config, loaded: config.Loaded) -> Iterator[Problem]:
    """Try where the relay would listen."""
    reuse, place = settings.reuse_port, settings.admin.place
    try:
        if loaded.sound("", "host", "port"):
            _try(
                listen.bind(settings.host, settings.port, reuse=reuse, accepting=False)
            )
        if loaded.sound("", "admin.listen") and place is not None:
            _try(sockets.bind(place, reuse, accepting=False))
    except StartError as error:
        yield loaded.located(Problem(error.setting, str(error)))


def _try(bound: Iterable[socket]) -> None:
    for one in bound:
        one.close()


def _credentials_work(
    found: Inspection, loaded: config.Loaded, offline: bool
) -> str | None:
    """Ask Globus about the credentials, and say so; or note the problem."""
    if found.credentials is None:
        return None
    if offline:
        return "credentials: not tried (--offline)"
    said: list[str] = []

    async def command(service: Globus) -> int:
        try:
            said.append(await globus.credentials_work(service))
        except GlobusError as error:
            problem = Problem("auth", service.explained(error))
            if error.about_the_address:
                problem = _at_address(problem, loaded)
            found.problems.append(loaded.located(problem))
        return 0

    globus.run(found.config.auth.kwargs, found.credentials, command)
    return said[0] if said else None


def _at_address(problem: Problem, loaded: config.Loaded) -> Problem:
    """A problem with the address of Globus, where that is set."""
    at = replace(problem, key="auth.kwargs.service_url")
    return problem if loaded.located(at).line is None else at


def _served(found: Inspection) -> list[str]:
    settings: Config = found.config
    host = settings.host or "all interfaces"
    lines = [
        f"would serve {settings.scheme} on {host}, port {settings.port or '(any)'}",
        f"authentication: {settings.auth.method or 'none'}",
    ]
    if found.credentials is not None:
        taken = policy(settings.auth.kwargs, found.credentials.client_id)
        lines += [
            f"tokens: must be meant for {taken.audience}",
            f"tokens: must have the scopes "
            f"{' '.join(sorted(taken.required_scopes)) or '(none)'}",
        ]
    if found.pair is not None:
        leaf = found.pair.chain[0]
        end = leaf.not_valid_after_utc
        left = (end - certificates.now()).days
        lines += [
            f"certificate: for {', '.join(found.pair.names()) or 'no host'}",
            f"certificate: valid until {end.date().isoformat()} ({left} days left)",
            f"certificate: {len(found.pair.chain)} in the chain, and the key matches",
        ]
    logged = "standard output"
    if settings.logging.log_dir is not None:
        logged += f" and {settings.logging.log_dir}"
    lines.append(f"log: {settings.logging.default_level} and above, to {logged}")
    if settings.logging.privacy:
        kept = "" if settings.logging.privacy_key_file else ", others after each start"
        lines.append(f"users and addresses: shown as pseudonyms{kept}")
    usual = Config()
    for path in config.settings():
        value, default = _value(settings, path), _value(usual, path)
        if value != default and not isinstance(value, Struct):
            lines.append(f"set: {'.'.join(path)} = {_toml(value)}")
    return lines


def _toml(value: object) -> str:
    """A setting as it stands in a file, but for a secret."""
    if isinstance(value, Secret):
        return str(value)
    plain = str(value) if isinstance(value, Path) else value
    return tomlkit.item(plain).as_string()


def _value(settings: Config, path: tuple[str, ...]) -> object:
    value: object = settings
    for name in path:
        value = getattr(value, name)
    return value


if __name__ == "__main__":
    sys.exit(main())
