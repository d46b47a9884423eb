"""What the relay tells who has started it: that it serves, and that it lives.

The protocol is systemd's (sd_notify(3), sd_watchdog_enabled(3)); container engines pass
it on. This is loaded only where somebody listens.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable, MutableMapping
from typing import Any

from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from proxyrelay.admin.control import Reloadable, Reloaded, ReloadOutcome

ADDRESS = "NOTIFY_SOCKET"
"""Environment variable that names the supervisor's socket."""

PERIOD, WATCHED = "WATCHDOG_USEC", "WATCHDOG_PID"
"""Environment variables: after how many microseconds without a sign of life the
supervisor starts a process anew, and which process."""

LOOK = 5.0
"""Seconds from one look at the status to the next, at most."""

KEPT = 16
"""Notifications that wait while the supervisor does not read."""


class Supervisor:
    """Whoever is told.

    Args:
        address: The path of its socket (AF_UNIX, datagrams), or ``@`` and an abstract
            name.
        period: Seconds without a sign of life after which it takes the process for
            dead; None if it does not watch.

    Attributes:
        period: The same.
    """

    def __init__(self, address: str, period: float | None = None) -> None:
        self.period = period
        self._address = f"\0{address[1:]}" if address[0] == "@" else address
        self._waiting: deque[bytes] = deque(maxlen=KEPT)

    def tell(self, *assignments: str) -> None:
        """Send a notification, without ever waiting or raising.

        What finds the supervisor's queue full is sent before the next one.

        Args:
            *assignments: Such as ``READY=1``.
        """
        self._waiting.append("\n".join(assignments).encode())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                while self._waiting:
                    sender.sendto(self._waiting[0], self._address)
                    self._waiting.popleft()
        except BlockingIOError:
            pass
        except OSError:
            # It is gone, or not there yet. It would not know of these things later.
            self._waiting.clear()


def supervisor(environment: MutableMapping[str, str], pid: int) -> Supervisor | None:
    """Who wants to be told, as the environment of the process has it.

    Args:
        environment: What is meant for this process alone is taken out of it.
        pid: The ID of the process.

    Returns:
        None if nobody does.
    """
    address = environment.pop(ADDRESS, "")
    period = environment.pop(PERIOD, "")
    watched = environment.pop(WATCHED, str(pid))
    if not address.startswith(("/", "@")):
        return None
    if watched != str(pid) or not period.isdecimal() or int(period) == 0:
        return Supervisor(address)
    return Supervisor(address, int(period) / 1e6)


class Supervision(Service):
    """Keeps a supervisor informed.

    The signs of life come from the event loop: one that is stuck sends none, and the
    process is started anew.

    Args:
        supervisor: Is told.
        status: What the relay does, in a few words, without a line break.
        reload: Reads the settings.
        reactor: Runs the relay.
        monotonic: Nanoseconds of the clock that the supervisor goes by
            (CLOCK_MONOTONIC).
    """

    _log = Logger()

    def __init__(
        self,
        supervisor: Supervisor,
        status: Callable[[], str],
        reload: Reloadable,
        reactor: Any,
        monotonic: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._supervisor = supervisor
        self._status = status
        self._reload = reload
        self._reactor = reactor
        self._monotonic = monotonic
        self._refused = False
        self._told = ""
        self._beat = LoopingCall(self._tell)
        self._beat.clock = reactor

    def startService(self) -> None:
        """Say that the relay serves, as soon as the reactor runs."""
        super().startService()
        self._reactor.callWhenRunning(self._ready)

    def _ready(self) -> None:
        if not self.running:
            return
        self._supervisor.tell("READY=1")
        period = self._supervisor.period
        interval = LOOK if period is None else min(LOOK, period / 2)
        self._beat.start(interval).addErrback(self._failed)

    def _tell(self) -> None:
        signs = [] if self._supervisor.period is None else ["WATCHDOG=1"]
        news = [*signs, *self._changes()]
        if news:
            self._supervisor.tell(*news)

    def _changes(self) -> list[str]:
        """The status, if it is another one than before."""
        status = self._status()
        if self._refused:
            # systemctl does not learn of it otherwise.
            status += "; the last reload was refused, see the log"
        if status == self._told:
            return []
        self._told = status
        return [f"STATUS={status}"]

    def _failed(self, failure: Failure) -> None:
        self._log.failure("the supervisor is no longer told anything", failure)

    def reload(self) -> Reloaded:
        """Read the settings anew, and say when that begins and ends.

        Returns:
            What has come of it.
        """
        self._supervisor.tell(
            "RELOADING=1", f"MONOTONIC_USEC={self._monotonic() // 1000}"
        )
        try:
            done = self._reload.reload()
            self._refused = done.outcome is ReloadOutcome.REFUSED
        finally:
            self._supervisor.tell("READY=1", *self._changes())
        return done

    def stopService(self) -> None:
        """Say that the relay stops. Nobody waits for signs of life from then on."""
        super().stopService()
        if self._beat.running:
            self._beat.stop()
        self._supervisor.tell("STOPPING=1", "STATUS=closing the connections")
