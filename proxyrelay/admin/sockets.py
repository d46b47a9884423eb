"""Listening sockets of the private listener."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from proxyrelay.config.places import SOCKET_PATH_MAX_BYTES
from proxyrelay.errors import StartError, Taken
from proxyrelay.net import listening

SOCKET_MODE = 0o660
"""Mode of a socket in the file system: the relay's user and group."""

FILE_BACKLOG = 64
"""Callers that may wait for accept at a socket in the file system."""

Place = tuple[str, int] | Path
"""Host and port, or the path of a socket in the file system."""


class _Listened(OSError):
    """Another process listens at a path."""


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


def probe(place: Place, shared: bool) -> set[Any]:
    """Check that the sockets could be opened; nothing stays.

    A folder that is made at the start may be missing.

    Returns:
        Their addresses, as of `socket.getsockname`; none for a path.

    Raises:
        StartError: The place cannot be listened on.
    """
    if not isinstance(place, Path):
        return listening.addresses(_bind(place, shared, accepting=False))
    try:
        _check_path(place, shared)
        _check_folder(place)
    except OSError as error:
        raise _start_error(str(place), error) from None
    return set()


def is_made_at_start(place: Place) -> bool:
    """Whether only systemd may make the folder, when it starts the relay."""
    return (
        isinstance(place, Path)
        and Path("/run") in place.parents
        and not os.path.lexists(place.parent)
    )


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
        raise type(error)(str(error), "admin.listen") from None


def _start_error(place: str, error: OSError) -> StartError:
    reason = (error.strerror or str(error)).lower()
    kind = Taken if isinstance(error, _Listened) else StartError
    return kind(f"cannot listen on {place}: {reason}", "admin.listen")


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
        raise _Listened("another process listens there")


def _check_folder(path: Path) -> None:
    """Check that `_take_path` could do its work."""
    folder = path.parent
    if is_made_at_start(path):
        return
    if not os.path.isdir(folder):
        is_there = os.path.lexists(folder)
        code = errno.ENOTDIR if is_there else errno.ENOENT
        raise OSError(code, f"{folder}: {os.strerror(code)}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, f"{folder} cannot be written")
    if len(bytes(_passing(path))) > SOCKET_PATH_MAX_BYTES:
        raise OSError("AF_UNIX path too long")
    if os.path.lexists(path) and folder.stat().st_mode & stat.S_ISVTX:
        owners = {0, folder.stat().st_uid, path.lstat().st_uid}
        if os.geteuid() not in owners:
            raise OSError(errno.EPERM, f"{path} belongs to another user")


def _passing(path: Path) -> Path:
    return path.with_name(f".{os.getpid()}")


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
    passing = _passing(path)
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
