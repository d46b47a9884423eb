"""How many sockets the process may have open."""

from __future__ import annotations

import resource
from contextlib import suppress


def raise_limit() -> int:
    """Let the process have as many descriptors as it may.

    Returns:
        How many that are.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems say that there is no limit, and know one all the same.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft


def shortage(limit: int, connections: int, others: int) -> str | None:
    """Say that so many connections do not fit into a limit, or None.

    Args:
        limit: Descriptors that the process may have.
        connections: How many clients may have together.
        others: How many it needs beside those.
    """
    if limit == resource.RLIM_INFINITY or connections + others <= limit:
        return None
    return (
        f"needs {connections + others} open files, and this process may have {limit}: "
        "further clients will wait; raise its limit (LimitNOFILE in the unit of "
        "systemd, or ulimit -Hn)"
    )
