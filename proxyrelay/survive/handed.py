"""What the supervisor has kept of the process before."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from proxyrelay.net.descriptor_store import PROBE_NAME
from proxyrelay.survive import memory

LISTENER = "kept-listener"
"""Beginning of the names of the relay's own listening sockets."""


@dataclass
class Handed:
    """The descriptors that a process gets at its start.

    Attributes:
        activated: Listening sockets of socket activation, with their names.
        listeners: Listening sockets of the relay before.
        listener_names: Their names.
        memories: Memory files of the relay before: one, if all went well.
        connections: Everything else, with its names: connections of clients, and what
            is left of `DescriptorStore.probe`.
    """

    activated: dict[int, str] = field(default_factory=dict)
    listeners: list[int] = field(default_factory=list)
    listener_names: list[str] = field(default_factory=list)
    memories: list[int] = field(default_factory=list)
    connections: dict[int, str] = field(default_factory=dict)

    @classmethod
    def sort(cls, given: Mapping[int, str]) -> Handed:
        """Tell descriptors apart by what they are. A store gives each a name."""
        handed = cls()
        for number, name in given.items():
            if name == memory.NAME:
                handed.memories.append(number)
            elif name.startswith(LISTENER):
                handed.listeners.append(number)
                handed.listener_names.append(name)
            elif name == PROBE_NAME or (name and _is_connection(number)):
                handed.connections[number] = name
            else:
                handed.activated[number] = name
                continue
            with suppress(OSError):
                os.set_inheritable(number, False)
        return handed

    @property
    def names(self) -> set[str]:
        """Names of all that the relay before has stored."""
        found = {*self.connections.values(), *self.listener_names}
        return found | ({memory.NAME} if self.memories else set())

    def close(self) -> None:
        """Close all but the sockets of socket activation.

        Connections end at once, although the supervisor may hold them for a while.
        """
        for number in self.connections:
            with suppress(OSError), socket.socket(fileno=number) as connection:
                connection.shutdown(socket.SHUT_RDWR)
        self.connections = {}
        self.close_listeners()
        self.close_memories()

    def close_listeners(self) -> None:
        """Close the listening sockets of the relay before."""
        _close(self.listeners)

    def close_memories(self) -> None:
        """Close its memory files."""
        _close(self.memories)


def _close(numbers: list[int]) -> None:
    while numbers:
        with suppress(OSError):
            os.close(numbers.pop())


def _is_connection(number: int) -> bool:
    """Whether a descriptor is a TCP socket that does not listen."""
    try:
        found = socket.socket(fileno=number)
    except OSError:
        return False
    try:
        return (
            found.family in {socket.AF_INET, socket.AF_INET6}
            and found.type == socket.SOCK_STREAM
            and not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        )
    finally:
        found.detach()
