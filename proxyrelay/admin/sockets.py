"""Listening sockets of the private listener."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from proxyrelay.errors import StartError
from proxyrelay.net import listening

MODE = 0o660
"""Mode of a socket in the file system: the relay's user and group."""

BACKLOG = 64

SETTING = "admin.listen"


def bind(
    place: tuple[str, int] | Path, shared: bool, accepting: bool = True
) -> list[socket.socket]:
    """Open the sockets.

    Args:
        place: Host and port, or the path of a socket in the file system.
        shared: Whether this relay may take over the place from another one.
        accepting: Whether callers may connect; else the place is only tried, and no
            socket is made in the file system.

    Raises:
        StartError: The place cannot be listened on.
    """
    if isinstance(place, Path):
        if not accepting:
            _try(place)
            return []
        return [_at(place, shared)]
    try:
        return listening.bind(*place, reuse=shared, accepting=accepting)
    except StartError as error:
        raise StartError(str(error), SETTING) from None


def adopt(
    descriptors: Iterable[int], place: tuple[str, int] | Path
) -> list[socket.socket]:
    """Adopt sockets of the parent process.

    They must listen at the place of the settings: the need for a token depends on it.

    Args:
        descriptors: Their descriptors.
        place: As for `bind`.

    Raises:
        StartError: A socket listens elsewhere, or does not listen.
    """
    taken: list[socket.socket] = []
    try:
        for number in descriptors:
            taken.append(socket.socket(fileno=number))
            _check_adopted(taken[-1], place)
            taken[-1].setblocking(False)
            taken[-1].set_inheritable(False)
    except OSError as error:
        for each in taken:
            each.close()
        reason = (error.strerror or str(error)).lower()
        raise StartError(
            f"cannot listen on descriptor {number} of LISTEN_FDS: {reason}", SETTING
        ) from None
    return taken


def _check_adopted(taken: socket.socket, place: tuple[str, int] | Path) -> None:
    if taken.type != socket.SOCK_STREAM or not taken.getsockopt(
        socket.SOL_SOCKET, socket.SO_ACCEPTCONN
    ):
        raise OSError("no listening socket")
    name = taken.getsockname()
    if taken.family == socket.AF_UNIX:
        is_there = isinstance(place, Path) and name == str(place)
    elif isinstance(place, Path):
        is_there = False
    else:
        found = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)
        is_there = name[:2] in [address[:2] for *_, address in found]
    if not is_there:
        raise OSError("it listens elsewhere")


def _try(path: Path) -> None:
    """Tell whether a socket can be made at a path.

    systemd makes folders below ``/run`` only when it starts the relay.
    """
    try:
        _check(path, shared=True)
        if not path.parent.is_dir() and Path("/run") not in path.parents:
            raise OSError(errno.ENOENT, "there is no such folder")
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise StartError(f"cannot listen on {path}: {reason}", SETTING) from None


def _at(path: Path, shared: bool) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _check(path, shared)
        _listen(bound, path)
    except OSError as error:
        bound.close()
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise StartError(f"cannot listen on {path}: {reason}", SETTING) from None
    return bound


def _listen(bound: socket.socket, path: Path) -> None:
    """Listen under another name, and then take the place by a rename.

    So callers always find a relay, the old one or this one.
    """
    passing = path.with_name(f".{os.getpid()}")
    passing.unlink(missing_ok=True)
    before = os.umask(0o777 & ~MODE)
    try:
        bound.bind(str(passing))
    finally:
        os.umask(before)
    try:
        bound.listen(BACKLOG)
        bound.setblocking(False)
        passing.rename(path)
    except OSError:
        passing.unlink(missing_ok=True)
        raise


def _check(path: Path, shared: bool) -> None:
    """Check that the place may be taken.

    Raises:
        OSError: Another file is there, or another process listens.
    """
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise OSError("something is there that is no socket")
    if not shared and _is_alive(path):
        raise OSError("another process listens there")


def _is_alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trying:
        trying.setblocking(False)
        try:
            trying.connect(str(path))
        except ConnectionRefusedError:
            return False
        except BlockingIOError:
            return True  # Its queue is full.
    return True


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file; None without a file."""
    with suppress(OSError):
        found = path.lstat()
        return found.st_dev, found.st_ino
    return None
