"""What Linux says about a running process."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
"""Clock ticks per second, in which /proc/PID/stat counts."""


def nanoseconds(schedstat: str) -> int:
    """Time on a CPU, user and system, from the text of a schedstat file."""
    return int(schedstat.split(maxsplit=1)[0])


def ticks(stat: str) -> int:
    """The same, in clock ticks, from the text of a stat file."""
    # The name, in parentheses, may have spaces of its own.
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def kilobytes(smaps: str, field: str = "Pss") -> int:
    """A line of the text of a smaps_rollup file."""
    for line in smaps.splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0])
    raise ValueError(f"no {field}")


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has had, user and system, all threads.

    To the nanosecond where the kernel keeps schedstat, else to the clock tick. A thread
    that has ended is left out; the relays start none while they are measured.
    """
    spent = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            spent += nanoseconds((task / "schedstat").read_text())
    if spent:
        return spent / 1e9
    return ticks(Path(f"/proc/{pid}/stat").read_text()) / TICK


def memory(pid: int) -> int:
    """Bytes of memory of a process: its proportional set size."""
    return 1024 * kilobytes(Path(f"/proc/{pid}/smaps_rollup").read_text())


def allow_files() -> int:
    """Let this process and its children open as many files as may be.

    Returns:
        How many that is.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def child(pid: int) -> int:
    """Process ID of the only child of a process (proc(5))."""
    (found,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(found)
