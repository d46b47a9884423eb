"""The contents of the memory file: the relay, its registrations, the snapshot.

Further fields need a default: an older relay may have written the entry.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from proxyrelay.websocket.continuity import Record, Suspended

BASE = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""Digits of the names of descriptors."""

KEYS = len(BASE) ** 3
"""Numbers of descriptors whose names have three characters at most."""


class Info(Struct):
    """The relay that has written the file.

    Attributes:
        version: Its version.
        listening: Its listening sockets: ``host``, ``port`` and ``reuse_port`` as set.
        node: Its name in a cluster, with its incarnation.
    """

    version: str = ""
    listening: tuple[str | None, int, bool] = (None, 0, False)
    node: str = ""


class Connection(Struct, array_like=True):
    """A registered connection.

    Attributes:
        key: Number of its descriptor with the supervisor.
        inode: Inode of its socket, which no other socket has.
        serial: Grows with each entry: of two for one socket, the later one is right.
        record: The connection beyond its descriptor.
    """

    key: Annotated[int, Meta(ge=0, lt=KEYS)]
    inode: int
    serial: int
    record: Record


class Snapshot(Struct):
    """What an orderly end leaves beside the entries.

    Attributes:
        suspended: What registered connections carry, by the inode of their sockets.
        texts: Texts of offers that wait: source, target, text.
    """

    suspended: dict[int, Suspended] = {}
    texts: list[tuple[str, str, bytes]] = []


encode = msgspec.msgpack.Encoder().encode
"""Encodes any of these."""

T = TypeVar("T")


def decode(data: bytes, kind: type[T]) -> T | None:
    """Decode an entry; None if it cannot be read."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def name_of(key: int) -> str:
    """Name of a descriptor: as short as can be, see `memory.MAX_CONNECTIONS`."""
    digits = BASE[key % len(BASE)]
    while key := key // len(BASE):
        digits = BASE[key % len(BASE)] + digits
    return digits
