"""Limits and memory of the process: open files, free memory, garbage collection."""

from __future__ import annotations

import ctypes
import gc
import math
import resource
from collections.abc import Callable
from contextlib import suppress

CROWD_CONNECTIONS = 200
"""Connections whose memory is worth a trim, at about 40 kB each."""

TRIM_INTERVAL_SECONDS = 60.0
"""Seconds between two trims, at least. A trim of 100 MB takes 50 ms."""


def raise_limit() -> int:
    """Raise the limit of open files to its hard limit; returns the limit after that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems report no limit, and enforce one.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft


def shortage(limit: int, connections: int, others: int) -> str | None:
    """Warning about a limit of open files too low for all connections, or None."""
    if limit == resource.RLIM_INFINITY or connections + others <= limit:
        return None
    return (
        f"needs {connections + others} open files, and this process may have {limit}: "
        "further clients will wait; raise its limit (LimitNOFILE in the unit of "
        "systemd, or ulimit -Hn)"
    )


def freeze_garbage() -> None:
    """Exempt all present objects from garbage collection."""
    gc.collect()
    gc.freeze()


def trim_memory() -> None:
    """Give whole free pages back to the system. Does nothing without glibc."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


class Heap:
    """Trims memory once half of a crowd of connections has left.

    The C library keeps freed memory. With glibc the process stays as large as at its
    peak, unless it is told to trim.
    """

    def __init__(self, trim: Callable[[], None] = trim_memory) -> None:
        self._trim = trim
        self._peak = 0
        self._trimmed_at = -math.inf

    def look(self, count: int, now: float) -> None:
        """Trim if much memory may be free, with so many connections at a time."""
        self._peak = max(self._peak, count)
        if self._peak < CROWD_CONNECTIONS or count > self._peak // 2:
            return
        if now >= self._trimmed_at + TRIM_INTERVAL_SECONDS:
            self._peak, self._trimmed_at = count, now
            self._trim()
