"""Memory that a crowd has left behind goes back to the system.

The C library keeps what is freed between things that stay. With glibc a process is as
large as when it had most clients, unless it is told to look for whole free pages.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

CROWD = 200
"""Connections from which on their memory is worth the look, at some 40 kB each."""

QUIET = 60.0
"""Seconds from one look to the next, at least: with 100 MB it takes 50 ms."""


def trim() -> None:
    """Give whole free pages back. Does nothing but with glibc."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


class Heap:
    """Looks for free memory once, when half of a crowd has left.

    Args:
        trim: Gives it back.
    """

    def __init__(self, trim: Callable[[], None] = trim) -> None:
        self._trim = trim
        self._most = 0
        self._last: float | None = None

    def look(self, count: int, now: float) -> None:
        """Give memory back, if much may be free.

        Args:
            count: How many connections there are.
            now: The time in seconds.
        """
        self._most = max(self._most, count)
        if self._most < CROWD or count > self._most // 2:
            return
        if self._last is None or now >= self._last + QUIET:
            self._most, self._last = count, now
            self._trim()
