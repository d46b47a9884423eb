"""Accepting connections only while there is room for them."""

from __future__ import annotations

import errno
import resource
import socket
import sys
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.tcp import Port
from twisted.logger import Logger

from proxyrelay.net.rate import RateLimitedLog

RETRY_SECONDS = 0.1
"""Seconds between two checks for room, while accepting is paused."""

LOG_INTERVAL_SECONDS = 60.0
"""Seconds between two log lines about missing room, at least."""

EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
"""Errors of `accept` that mean a shortage, though a client waits."""


class AcceptGate:
    """Pauses accepting while there is no room.

    Clients wait in the kernel's queue meanwhile, and retry after a timeout. Accepting
    and closing a connection would end the process of a stock client. ``room`` tells
    whether one more connection fits, given the limit of open files.
    """

    _log = Logger()

    def __init__(self, room: Callable[[int], bool], clock: IReactorTime) -> None:
        self._ports: list[Port] = []
        self._room = room
        self._clock = clock
        self._timer: IDelayedCall | None = None
        self._limit = RateLimitedLog(LOG_INTERVAL_SECONDS)

    def guard(self, port: Port) -> None:
        """Have a port accept only while there is room.

        A guarded socket replaces the port's, with the same descriptor. Checked against
        Twisted 26.10.0.
        """
        port.socket = _GuardedSocket(self, port.socket.detach())
        port.fileno = port.socket.fileno  # type: ignore[method-assign]
        self._ports.append(port)

    def room(self) -> bool:
        """Whether one more connection may be accepted now."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return self._room(sys.maxsize if files == resource.RLIM_INFINITY else files)

    def pause(self) -> None:
        """Accept no connection until there is room."""
        self._wait()
        if self._limit.admit(self._clock.seconds()) is not None:
            self._log.warn(
                "full: clients that connect now wait until others leave", event="full"
            )

    def accept_backlog(self) -> None:
        """Accept every waiting connection: closing the socket would reset it."""
        self._room = lambda _: True

    def stop(self) -> None:
        """End the checks for room."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        self._ports = [
            port for port in self._ports if port.connected and not port.disconnecting
        ]
        for port in self._ports:
            port.stopReading()
        if self._ports and self._timer is None:
            self._timer = self._clock.callLater(RETRY_SECONDS, self._retry)

    def _retry(self) -> None:
        self._timer = None
        self._wait()
        if self.room():
            self.stop()
            for port in self._ports:
                port.startReading()


class _GuardedSocket(socket.socket):
    """A listening socket with an empty queue as long as there is no room.

    With no descriptor left, Twisted would free its spare one, accept all waiting
    connections and close them.
    """

    def __init__(self, gate: AcceptGate, descriptor: int) -> None:
        super().__init__(fileno=descriptor)
        self._gate = gate

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        if self._gate.room():
            try:
                return super().accept()
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    raise
        self._gate.pause()
        raise BlockingIOError(errno.EAGAIN, "no room")
