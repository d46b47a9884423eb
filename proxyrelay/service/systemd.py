"""Notifications to systemd: ready, reloading, status, signs of life, stopping.

The protocol is sd_notify(3) and sd_watchdog_enabled(3); container engines pass it on.
This module is loaded only if the environment asks for notifications.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, MutableMapping
from typing import Any

from twisted.application.service import Service

from proxyrelay.admin.control import Reloadable, Reloaded, ReloadOutcome
from proxyrelay.net.repeat import Repeat

STATUS_SECONDS = 5.0
"""Longest interval between two looks at the status."""

MAX_QUEUED_NOTIFICATIONS = 16
"""Notifications that wait while systemd does not read."""


class NotifySocket:
    """Sends notifications.

    Args:
        address: The path of systemd's socket (AF_UNIX, datagrams), or ``@`` and an
            abstract name.
        watchdog_seconds: Seconds without a sign of life after which systemd restarts
            the process; None for never.
    """

    def __init__(self, address: str, watchdog_seconds: float | None = None) -> None:
        self.watchdog_seconds = watchdog_seconds
        self._address = f"\0{address[1:]}" if address[0] == "@" else address
        self._queue: deque[bytes] = deque(maxlen=MAX_QUEUED_NOTIFICATIONS)

    def send(self, *assignments: str) -> None:
        """Send assignments such as ``READY=1``. It never blocks or raises.

        While systemd's queue is full, notifications wait for the next call.
        """
        self._queue.append("\n".join(assignments).encode())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                while self._queue:
                    sender.sendto(self._queue[0], self._address)
                    self._queue.popleft()
        except BlockingIOError:
            pass
        except OSError:
            # Nobody reads there. A later reader must not get old notifications.
            self._queue.clear()


def notify_socket(
    environment: MutableMapping[str, str], pid: int
) -> NotifySocket | None:
    """Find systemd's socket; None if there is none.

    The variables are removed, so that no child process sends notifications.
    """
    address = environment.pop("NOTIFY_SOCKET", "")
    microseconds = environment.pop("WATCHDOG_USEC", "")
    is_watched = environment.pop("WATCHDOG_PID", str(pid)) == str(pid)
    if not address.startswith(("/", "@")):
        return None
    if not is_watched or not microseconds.isdecimal():
        return NotifySocket(address)
    return NotifySocket(address, int(microseconds) / 1e6 or None)


class Notifier(Service):
    """Keeps systemd informed.

    The signs of life come from the event loop. A stuck loop sends none, and systemd
    restarts the process.

    Args:
        status: Returns the status in a few words, without a line break.
        reactor: Runs the relay on systemd's clock (CLOCK_MONOTONIC).
    """

    def __init__(
        self,
        notify_socket: NotifySocket,
        status: Callable[[], str],
        reload: Reloadable,
        reactor: Any,
    ) -> None:
        self._socket = notify_socket
        self._status = status
        self._reload = reload
        self._reactor = reactor
        self._is_reload_refused = False
        self._last_status = ""
        text = "the supervisor is no longer told anything"
        self._beat = Repeat(self._send, reactor, text)

    def startService(self) -> None:
        """Say that the relay is ready, as soon as the reactor runs."""
        super().startService()
        self._reactor.callWhenRunning(self._ready)

    def _ready(self) -> None:
        if not self.running:
            return
        self._socket.send("READY=1")
        half = (self._socket.watchdog_seconds or STATUS_SECONDS * 2) / 2
        self._beat.every(min(STATUS_SECONDS, half), now=True)

    def _send(self) -> None:
        life = ["WATCHDOG=1"] if self._socket.watchdog_seconds else []
        assignments = [*life, *self._changed_status()]
        if assignments:
            self._socket.send(*assignments)

    def _changed_status(self) -> list[str]:
        status = self._status()
        if self._is_reload_refused:
            # systemctl does not learn of it otherwise.
            status += "; the last reload was refused, see the log"
        if status == self._last_status:
            return []
        self._last_status = status
        return [f"STATUS={status}"]

    def reload(self) -> Reloaded:
        """Reload the settings between two notifications."""
        microseconds = int(self._reactor.seconds() * 1e6)
        self._socket.send("RELOADING=1", f"MONOTONIC_USEC={microseconds}")
        try:
            done = self._reload.reload()
            self._is_reload_refused = done.outcome is ReloadOutcome.REFUSED
        finally:
            self._socket.send("READY=1", *self._changed_status())
        return done

    def stopService(self) -> None:
        """Say that the relay stops. systemd then awaits no more signs of life."""
        super().stopService()
        self._beat.every(0)
        self._socket.send("STOPPING=1", "STATUS=closing the connections")
