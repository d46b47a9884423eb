"""A supervisor that keeps descriptors, as systemd does."""

from __future__ import annotations

import os
import socket
from array import array
from contextlib import suppress
from secrets import token_hex

MAX_DESCRIPTORS = 16
"""Descriptors of one message."""

PATIENCE = 20.0
"""Seconds after which a read gives up: a failure, not a pace."""


class Supervisor:
    """Keeps descriptors by their names (sd_notify(3)).

    Attributes:
        address: Its address, as in ``NOTIFY_SOCKET``.
        place: The same, as a socket spells it.
        capacity: Most descriptors that it keeps.
        pairs: The names and descriptors that it keeps.
        texts: The lines of each message.
    """

    def __init__(self, capacity: int = 1000) -> None:
        name = f"proxyrelay-tests-{token_hex(8)}"
        self.address, self.place = f"@{name}", f"\0{name}"
        self.capacity = capacity
        self.pairs: list[tuple[str, int]] = []
        self.texts: list[list[str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.place)

    @property
    def names(self) -> list[str]:
        """The names of all that it keeps, in order."""
        return sorted(name for name, _ in self.pairs)

    def fileno(self) -> int:
        """Descriptor of its socket."""
        return self._socket.fileno()

    def read(self) -> None:
        """Act on all messages that have come."""
        self._socket.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self._read()

    def read_until(self, count: int) -> None:
        """Act on messages until so many are about a store."""
        self._socket.settimeout(PATIENCE)
        while count:
            count -= self._read()

    def _read(self) -> bool:
        space = socket.CMSG_SPACE(MAX_DESCRIPTORS * array("i").itemsize)
        text, parts, _, _ = self._socket.recvmsg(4096, space)
        numbers = array("i")
        for _, _, content in parts:
            numbers.frombytes(content)
        lines = text.decode().split("\n")
        self.texts.append(lines)
        said = dict(line.split("=", 1) for line in lines)
        name = said.get("FDNAME", "stored")
        for number in numbers:
            if "FDSTORE" in said and len(self.pairs) < self.capacity:
                self.pairs.append((name, number))
            else:
                os.close(number)
        if "FDSTOREREMOVE" in said:
            for kept in [pair for pair in self.pairs if pair[0] == name]:
                self.pairs.remove(kept)
                os.close(kept[1])
        return bool(said.keys() & {"FDSTORE", "FDSTOREREMOVE", "BARRIER"})

    def close(self) -> None:
        """End, and close all that is kept."""
        self._socket.close()
        for _, number in self.pairs:
            os.close(number)
        self.pairs = []
