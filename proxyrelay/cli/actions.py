"""``proxyrelay reload`` and ``drain``: commands to a running relay."""

from __future__ import annotations

import os
import re
import signal
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proxyrelay import config
from proxyrelay.cli import status
from proxyrelay.cli.admin_client import AdminClient
from proxyrelay.cli.check import print_problems
from proxyrelay.errors import ConfigError, NotDone, NothingSent, Unanswered
from proxyrelay.net import certificates
from proxyrelay.service.checks import inspect

PID_HINT = (
    "name the process with --pid ('systemctl status' or 'pgrep -af twistd' has its ID)"
)

CONFIG_HINT = "name the configuration with --config, if it has [admin]; or "
"""In front of the other hint, where no configuration is named."""

NO_WAY = (
    "this relay has no private listener ([admin]), and there is no twistd.pid here: "
    f"{PID_HINT}"
)
"""Where the configuration names no listener, and the process none of its files."""

PIDFILE = Path("twistd.pid")
"""The file of twistd, without options."""

MAX_PROCESS_ID = 2**31 - 1
"""Largest pid_t."""

PROC = Path("/proc")
"""Linux's table of processes (proc(5)); absent elsewhere."""


def reload(arguments: Namespace) -> int:
    """Make a running relay reload its configuration.

    Asks the private listener of the running relay ([admin] in its configuration), and
    shows what has changed, what waits for a restart, or why nothing has changed. All
    clients stay connected. With --pid or --pidfile, or without a private listener,
    checks the configuration as 'check' does, and sends SIGHUP. The relay's log has the
    outcome then. The relay reads the file that it was started with, which should be the
    same. Exits with 1 if there is a problem.

    Example:
        proxyrelay reload --config relay.toml
    """
    relay = _listener(arguments)
    if relay is not None:
        with _hinted():
            print(f"reloaded: {status.plain(relay.reload())}")
        return 0
    found = inspect(config.load(arguments.config), certificates.now(), os.environ)
    return 1 if print_problems(found) else _send(arguments, signal.SIGHUP)


def drain(arguments: Namespace) -> int:
    """Make a running relay leave new clients to another one.

    Asks the private listener of the running relay ([admin] in its configuration), and
    shows how many clients are left. With --pid or --pidfile, or without a private
    listener, sends SIGUSR2. The relay's log has the outcome then. The relay accepts no
    new clients, and ends when its last client has left. Start its successor before:
    without one, the log has a warning, but the relay drains all the same. If both share
    a private listener, it refuses: name the old process.

    Example:
        proxyrelay drain --config relay.toml
    """
    relay = _listener(arguments)
    if relay is None:
        return _send(arguments, signal.SIGUSR2)
    try:
        with _hinted():
            print(status.plain(relay.drain()))
    except NotDone as error:
        # Its successor must not drain in its place.
        raise NotDone(f"{error}; name the process with --pid") from None
    return 0


def listener(arguments: Namespace) -> AdminClient | None:
    """Client of the private listener; None if the relay has none."""
    if arguments.admin is None:
        loaded = config.load(arguments.config)
        if loaded.problems:
            raise ConfigError(loaded.problems)
        if loaded.config.admin.listen is None:
            return None
    return status.client(arguments)


@contextmanager
def _hinted() -> Iterator[None]:
    """Add the second way to the error of a relay that does not answer."""
    try:
        yield
    except Unanswered as error:
        raise Unanswered(f"{error}; {PID_HINT}") from None


def _listener(arguments: Namespace) -> AdminClient | None:
    """Client of the private listener, unless a process is named."""
    is_named = arguments.pid is not None or arguments.pidfile is not None
    return None if is_named else listener(arguments)


def process_id(text: str) -> int:
    """Parse the ID of one process; kill(2) takes 0 and less for groups.

    Raises:
        ValueError: The text is no such ID.
    """
    number = int(text)
    if not 0 < number <= MAX_PROCESS_ID:
        raise ValueError("no process has such an ID")
    return number


process_id.__name__ = "process ID"  # argparse shows it in an error


def named_process(arguments: Namespace) -> int:
    """Process ID of the relay on the command line.

    Raises:
        NothingSent: The file has none.
    """
    if arguments.pid is not None:
        pid: int = arguments.pid
        return pid
    file = arguments.pidfile or PIDFILE
    try:
        return process_id(file.read_text(encoding="ascii"))
    except OSError as error:
        is_bare = arguments.config is None and arguments.pidfile is None
        hint = CONFIG_HINT * is_bare + PID_HINT
        if isinstance(error, FileNotFoundError) and arguments.pidfile is None:
            bare = f"there is no {file} here: {hint}"
            raise NothingSent(bare if is_bare else NO_WAY) from None
        raise NothingSent(f"{file}: {error.strerror}; {hint}") from None
    except ValueError:
        raise NothingSent(f"{file}: holds no process ID") from None


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a relay.

    Raises:
        NothingSent: The process is none, or has ended.
    """
    if is_over(pid):
        raise NothingSent(has_ended(pid))
    if not _handles(pid, number):
        raise NothingSent(
            f"process {pid} is no relay that takes {number.name}, and may end by it: "
            "nothing was sent"
        )
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        raise NothingSent(has_ended(pid)) from None
    except OSError as error:
        raise NothingSent(f"process {pid}: {error.strerror}") from None


def has_ended(pid: int) -> str:
    """Why nothing was sent to a process."""
    return f"process {pid} has ended: nothing was sent"


def is_over(pid: int) -> bool:
    """Whether a process has ended, and its parent has not noticed yet."""
    try:
        told = (PROC / str(pid) / "status").read_text(errors="replace")
    except OSError:
        return False
    return re.search(r"^State:\s*[ZX]", told, re.MULTILINE) is not None


def _send(arguments: Namespace, number: signal.Signals) -> int:
    pid = named_process(arguments)
    send(pid, number)
    print(f"sent {number.name} to process {pid}; the log of the relay has the outcome")
    return 0


def _handles(pid: int, number: signal.Signals) -> bool:
    """Whether a process is a relay with a handler for a signal; True if unknown.

    The ID in a file may belong to another process by now.
    """
    process = PROC / str(pid)
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
        told = (process / "status").read_text(errors="replace")
    except OSError:
        return True
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", told, re.MULTILINE)
    if caught is None:
        return True
    return b"proxyrelay" in words and bool(int(caught[1], 16) >> (number - 1) & 1)
