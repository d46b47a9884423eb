"""Names of hosts and paths of sockets, as settings spell them. Pure."""

from __future__ import annotations

from pathlib import Path

SOCKET_PATH_MAX_BYTES = 107
"""Longest path of a socket (unix(7))."""

# Twisted's agent raises on labels that IDNA does not know.
LABEL = r"(?!..--)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
"""Pattern of one part of a host's name."""


def socket_path(text: str) -> Path:
    """Read ``unix:`` and an absolute path.

    Raises:
        ValueError: It is not that, or too long.
    """
    path = Path(text.removeprefix("unix:"))
    if "\0" in text or not text.startswith("unix:/"):
        raise ValueError("no path of a socket")
    if len(bytes(path)) > SOCKET_PATH_MAX_BYTES:
        raise ValueError("too long a path of a socket")
    return path
