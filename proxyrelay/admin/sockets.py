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

SOCKET_MODE = 0o660
"""Mode of a socket in the file system: the relay's user and group."""

FILE_BACKLOG = 64
"""Callers that may wait for accept at a socket in the file system."""

Place = tuple[str, int] | Path
"""Host and port, or the path of a socket in the file system."""


def listen(place: Place, shared: bool) -> list[socket.socket]:
    """Open the sockets; a shared place may be taken over from another relay.

    Raises:
        StartError: The place cannot be listened on.
    """
    if not isinstance(place, Path):
        return _bind(place, shared, accepting=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _check_path(place, shared)
        _take_path(bound, place)
    except OSError as error:
        bound.close()
        raise _start_error(str(place), error) from None
    return [bound]


def probe(place: Place, shared: bool) -> None:
    """Check that the sockets could be opened; nothing stays.

    systemd makes folders below ``/run`` only when it starts the relay.

    Raises:
        StartError: The place cannot be listened on.
    """
    if not isinstance(place, Path):
        for bound in _bind(place, shared, accepting=False):
            bound.close()
        return
    try:
        _check_path(place, shared=True)
        if not place.parent.is_dir() and Path("/run") not in place.parents:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    except OSError as error:
        raise _start_error(str(place), error) from None


def adopt(descriptors: Iterable[int], place: Place) -> list[socket.socket]:
    """Adopt sockets of the parent process.

    They must listen at the place of the settings: the need for a token depends on it.

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
        raise _start_error(f"descriptor {number} of LISTEN_FDS", error) from None
    return taken


def identity(place: Place) -> tuple[int, int] | None:
    """Device and inode of a socket's file; None without a file."""
    if isinstance(place, Path):
        with suppress(OSError):
            found = place.lstat()
            return found.st_dev, found.st_ino
    return None


def _bind(place: tuple[str, int], shared: bool, accepting: bool) -> list[socket.socket]:
    try:
        return listening.bind(*place, reuse=shared, accepting=accepting)
    except StartError as error:
        raise StartError(str(error), "admin.listen") from None


def _start_error(place: str, error: OSError) -> StartError:
    reason = (error.strerror or str(error)).lower()
    return StartError(f"cannot listen on {place}: {reason}", "admin.listen")


def _check_adopted(taken: socket.socket, place: Place) -> None:
    if taken.type != socket.SOCK_STREAM or not taken.getsockopt(
        socket.SOL_SOCKET, socket.SO_ACCEPTCONN
    ):
        raise OSError("no listening socket")
    name = taken.getsockname()
    if isinstance(place, Path) or taken.family == socket.AF_UNIX:
        is_there = taken.family == socket.AF_UNIX and name == str(place)
    else:
        found = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)
        is_there = name[:2] in [address[:2] for *_, address in found]
    if not is_there:
        raise OSError("it listens elsewhere")


def _check_path(path: Path, shared: bool) -> None:
    """Check that no other file is there, and no other process listens."""
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


def _take_path(bound: socket.socket, path: Path) -> None:
    """Listen under another name, and then take the place by a rename.

    So callers always find a relay, the old one or this one.
    """
    passing = path.with_name(f".{os.getpid()}")
    passing.unlink(missing_ok=True)
    before = os.umask(0o777 & ~SOCKET_MODE)
    try:
        bound.bind(str(passing))
    finally:
        os.umask(before)
    try:
        bound.listen(FILE_BACKLOG)
        bound.setblocking(False)
        passing.rename(path)
    except OSError:
        passing.unlink(missing_ok=True)
        raise
