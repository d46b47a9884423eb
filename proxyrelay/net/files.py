"""Small files: the configuration, and those that it names. Pure."""

from __future__ import annotations

from pathlib import Path


class NotRegular(OSError):
    """The file is a pipe, a device or a socket. A read of it could block for ever."""


def read_small(path: Path, size: int = -1) -> bytes:
    """Read a regular file, up to a number of bytes; -1 for all.

    Raises:
        NotRegular: It is neither a regular file nor a folder.
        OSError: It cannot be read. A folder never can.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise NotRegular(0, "it is no regular file")
    with path.open("rb") as file:
        return file.read(size)
