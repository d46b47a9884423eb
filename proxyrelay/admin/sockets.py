"""The sockets that the private listener listens on."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from proxyrelay import listen
from proxyrelay.errors import StartError

MODE = 0o660
"""Who may use a socket in the file system: the relay's user and group."""

BACKLOG = 64

SETTING = "admin.listen"


def bind(
    place: tuple[str, int] | Path, shared: bool, accepting: bool = True
) -> list[socket.socket]:
    """Open the sockets.

    Args:
        place: Host and port, or the path of a socket in the file system.
        shared: Whether another relay may listen there, which this one takes over from.
        accepting: Whether callers may connect; else it is only tried whether the host
            and port can be had.

    Raises:
        StartError: That cannot be.
    """
    if isinstance(place, Path):
        return [_at(place, shared)]
    try:
        return listen.bind(*place, reuse=shared, accepting=accepting)
    except StartError as error:
        raise StartError(str(error), SETTING) from None


def _at(path: Path, shared: bool) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _clear(path, shared)
        before = os.umask(0o777 & ~MODE)
        try:
            bound.bind(str(path))
        finally:
            os.umask(before)
        bound.listen(BACKLOG)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise StartError(f"cannot listen on {path}: {reason}", SETTING) from None
    return bound


def _clear(path: Path, shared: bool) -> None:
    """Remove what another process has left behind.

    Raises:
        OSError: Something else is there, or somebody still listens.
    """
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise OSError("something is there that is no socket")
    if not shared and _is_alive(path):
        raise OSError("another process listens there")
    path.unlink()


def _is_alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trying:
        trying.setblocking(False)
        try:
            trying.connect(str(path))
        except ConnectionRefusedError:
            return False
        except BlockingIOError:
            return True  # others wait already
    return True


def identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from one that takes its place; None without one."""
    with suppress(OSError):
        found = path.lstat()
        return found.st_dev, found.st_ino
    return None
