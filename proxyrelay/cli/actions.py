"""``proxyrelay reload`` and ``drain``: signals to a running relay."""

from __future__ import annotations

import os
import re
import signal
from argparse import Namespace
from pathlib import Path

from proxyrelay import config
from proxyrelay.cli.check import print_problems
from proxyrelay.errors import NothingSent
from proxyrelay.net import certificates
from proxyrelay.service.checks import inspect

PID_HINT = (
    "name the process with --pid; 'systemctl status' or 'proxyrelay status' has its ID"
)

PIDFILE = Path("twistd.pid")
"""The file of twistd, without options."""

PROC = Path("/proc")
"""Linux's table of processes (proc(5)); absent elsewhere."""


def reload(arguments: Namespace) -> int:
    """Make a running relay reload its configuration.

    Checks a configuration as 'check' does. If there is no problem, sends SIGHUP to the
    running relay: it reloads the file that it was started with, which should be the
    same. All clients stay connected. The relay's log shows the changes. Exits with 1 if
    there is a problem.
    """
    found = inspect(config.load(arguments.config), certificates.now(), os.environ)
    return 1 if print_problems(found) else _send(arguments, signal.SIGHUP)


def drain(arguments: Namespace) -> int:
    """Make a running relay leave new clients to another one.

    Sends SIGUSR2 to a running relay: it accepts no new clients, and ends when its last
    client has left. Start its successor before: without one, the log has a warning, but
    the relay drains all the same.
    """
    return _send(arguments, signal.SIGUSR2)


def process_id(text: str) -> int:
    """Parse the ID of one process; kill(2) takes 0 and less for groups.

    Raises:
        ValueError: The text is no such ID.
    """
    number = int(text)
    if number <= 0:
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
        raise NothingSent(f"{file}: {error.strerror}; {PID_HINT}") from None
    except ValueError:
        raise NothingSent(f"{file}: holds no process ID") from None


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a relay.

    Raises:
        NothingSent: The process is none, or has ended.
    """
    if not _handles(pid, number):
        raise NothingSent(
            f"process {pid} is no relay that takes {number.name}, and may end by it: "
            "nothing was sent"
        )
    try:
        os.kill(pid, number)
    except OSError as error:
        raise NothingSent(f"process {pid}: {error.strerror}") from None


def _send(arguments: Namespace, number: signal.Signals) -> int:
    pid = named_process(arguments)
    send(pid, number)
    print(f"sent {number.name} to process {pid}")
    return 0


def _handles(pid: int, number: signal.Signals) -> bool:
    """Whether a process is a relay with a handler for a signal; True if unknown.

    The ID in a file may belong to another process by now.
    """
    process = PROC / str(pid)
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
        status = (process / "status").read_text(errors="replace")
    except OSError:
        return True
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
    if caught is None:
        return True
    return b"proxyrelay" in words and bool(int(caught[1], 16) >> (number - 1) & 1)
