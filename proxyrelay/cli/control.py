"""``proxyrelay reload`` and ``drain``: signals to a running relay."""

from __future__ import annotations

import os
import re
import signal
from argparse import Namespace
from pathlib import Path

from proxyrelay import config
from proxyrelay.cli.check import print_problems
from proxyrelay.net import certificates
from proxyrelay.service.checks import inspect

PID_HINT = (
    "name the process with --pid; 'systemctl status' or 'proxyrelay status' has its ID"
)

PROC = Path("/proc")
"""Linux's table of processes (proc(5)); absent elsewhere."""


def reload(arguments: Namespace) -> int:
    """Check the configuration; without a problem, send SIGHUP."""
    found = inspect(config.load(arguments.config), certificates.now(), os.environ)
    return 1 if print_problems(found) else _send(arguments, signal.SIGHUP)


def drain(arguments: Namespace) -> int:
    """Send SIGUSR2."""
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


def _send(arguments: Namespace, number: signal.Signals) -> int:
    pid, file = arguments.pid, arguments.pidfile
    try:
        if pid is None:
            pid = process_id(file.read_text(encoding="ascii"))
        if not _handles(pid, number):
            print(
                f"problem: process {pid} is no relay that takes {number.name}, and may "
                "end by it: nothing was sent"
            )
            return 1
        os.kill(pid, number)
    except OSError as error:
        place = f"process {pid}" if pid is not None else file
        hint = "" if pid is not None else f"; {PID_HINT}"
        print(f"problem: {place}: {error.strerror}{hint}")
        return 1
    except ValueError:
        print(f"problem: {file}: holds no process ID")
        return 1
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
