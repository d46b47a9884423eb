"""Notifications to systemd."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.admin.control import Reloaded, ReloadOutcome
from proxyrelay.service.systemd import (
    MAX_QUEUED_NOTIFICATIONS,
    STATUS_SECONDS,
    Notifier,
    NotifySocket,
    notify_socket,
)
from tests.support.capture import Capture

PID = 4711


class SupervisorTestCase(SynchronousTestCase):
    """The socket of a supervisor, with an abstract name."""

    def setUp(self) -> None:
        self.name = f"proxyrelay.test.{id(self)}"
        self.notify_socket = NotifySocket(f"@{self.name}")

    def listen(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.socket.close)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        """All that has come since the last time."""
        heard = []
        with contextlib.suppress(BlockingIOError):
            while True:
                heard.append(self.socket.recv(4096).decode())
        return heard


class EnvironmentTests(SynchronousTestCase):
    """The socket in the environment."""

    def test_notify_socket_reads_and_removes_variables(self) -> None:
        pid = str(PID)
        for address, microseconds, watched_pid, watchdog_seconds in (
            *((None, "1", pid, ()), ("", "1", pid, ())),
            *(("relative", "1", pid, ()), ("vsock:2:1234", "1", pid, ())),
            *(("/a", period, pid, None) for period in ("", "0", "-1", "1.5", "soon")),
            *(("@a", "1500000", None, 1.5), ("/a", "1500000", pid, 1.5)),
            ("/a", "9", "1", None),  # another process is watched
        ):
            given = {
                "HOME": "/",
                "NOTIFY_SOCKET": address,
                "WATCHDOG_USEC": microseconds,
                "WATCHDOG_PID": watched_pid,
            }
            environment = {name: value for name, value in given.items() if value}
            found = notify_socket(environment, PID)
            # A child process must not send notifications.
            self.assertEqual(environment, {"HOME": "/"})
            seconds = () if found is None else found.watchdog_seconds
            self.assertEqual(seconds, watchdog_seconds, given)


class SendTests(SupervisorTestCase):
    """Notifications on their way."""

    def fill(self) -> int:
        """Fill the supervisor's queue; return its length."""
        self.listen(f"\0{self.name}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            count = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    sender.sendto(b"X=1", f"\0{self.name}")
                    count += 1
        return count

    def test_send_to_path_is_heard(self) -> None:
        # Relative, since a path of a socket may have 107 bytes only.
        path = Path(self.mktemp()).name
        self.listen(path)
        self.addCleanup(Path(path).unlink)
        NotifySocket(path).send("READY=1", "STATUS=serving")
        self.assertEqual(self.heard(), ["READY=1\nSTATUS=serving"])

    def test_send_to_nobody_is_forgotten(self) -> None:
        self.notify_socket.send("READY=1")
        self.listen(f"\0{self.name}")
        self.notify_socket.send("STATUS=serving")
        self.assertEqual(self.heard(), ["STATUS=serving"])

    def test_send_to_full_queue_waits_without_blocking(self) -> None:
        count = self.fill()
        for text in ("READY=1", "STATUS=serving"):
            self.notify_socket.send(text)
        self.assertEqual(self.heard(), ["X=1"] * count)
        self.notify_socket.send("WATCHDOG=1")
        self.assertEqual(self.heard(), ["READY=1", "STATUS=serving", "WATCHDOG=1"])

    def test_send_to_full_queue_keeps_latest_only(self) -> None:
        self.fill()
        for number in range(2 * MAX_QUEUED_NOTIFICATIONS):
            self.notify_socket.send(f"STATUS={number}")
        self.heard()
        heard: list[str] = []
        while "STATUS=last" not in heard:
            self.notify_socket.send("STATUS=last")
            heard += self.heard()
        kept = len(heard) - heard.count("STATUS=last")
        self.assertEqual(kept, MAX_QUEUED_NOTIFICATIONS - 1)


class NotifierTests(SupervisorTestCase):
    """The time of each notification."""

    def build(self, watchdog_seconds: float | None = None) -> None:
        """Build and start the service."""
        self.listen(f"\0{self.name}")
        self.notify_socket.watchdog_seconds = watchdog_seconds
        self.reactor = MemoryReactorClock()
        self.reactor.advance(1234.5)
        self.status = "serving, clients: 0"
        self.outcome: ReloadOutcome | None = ReloadOutcome.CHANGED
        self.service = Notifier(
            self.notify_socket, lambda: self.status, self, self.reactor
        )
        self.service.startService()
        self.assertEqual(self.heard(), [])

    def reload(self) -> Reloaded:
        self.assertEqual(self.heard(), ["RELOADING=1\nMONOTONIC_USEC=1234500000"])
        if self.outcome is None:
            raise ValueError("no outcome")
        return Reloaded(self.outcome, "")

    def run_reactor(self) -> list[str]:
        for call, arguments, keywords in self.reactor.whenRunningHooks:
            call(*arguments, **keywords)
        return self.heard()

    def serve(self, watchdog_seconds: float | None = None) -> list[str]:
        """Start and run; return the notifications."""
        self.build(watchdog_seconds)
        return self.run_reactor()

    def test_notifier_says_ready_when_reactor_runs(self) -> None:
        self.assertEqual(self.serve(), ["READY=1", "STATUS=serving, clients: 0"])

    def test_notifier_stopped_before_run_is_never_ready(self) -> None:
        self.build()
        self.service.stopService()
        (last,) = self.run_reactor()
        self.assertIn("STOPPING=1", last)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_notifier_status_changed_is_sent_at_next_look(self) -> None:
        self.serve()
        self.reactor.advance(STATUS_SECONDS)
        self.assertEqual(self.heard(), [])
        for clients in (1, 2, 3):
            self.status = f"serving, clients: {clients}"
            self.reactor.advance(STATUS_SECONDS / 4)
        self.assertEqual(self.heard(), [])
        self.reactor.advance(STATUS_SECONDS)
        self.assertEqual(self.heard(), ["STATUS=serving, clients: 3"])

    def test_notifier_watched_sends_life_in_half_the_time(self) -> None:
        for watchdog_seconds, interval in ((3, 1.5), (60, STATUS_SECONDS)):
            first = self.serve(watchdog_seconds)
            self.assertIn("WATCHDOG=1\nSTATUS=serving, clients: 0", first)
            for _ in range(3):
                self.reactor.advance(interval)
                self.assertEqual(self.heard(), ["WATCHDOG=1"])
            self.socket.close()

    def test_notifier_reload_refused_is_in_status(self) -> None:
        self.serve()
        refused = "; the last reload was refused, see the log"
        for outcome, status in (
            (ReloadOutcome.CHANGED, ""),
            (ReloadOutcome.REFUSED, f"\nSTATUS={self.status}{refused}"),
            (ReloadOutcome.CHANGED, f"\nSTATUS={self.status}"),
        ):
            self.outcome = outcome
            self.assertIs(self.service.reload().outcome, outcome)
            self.assertEqual(self.heard(), [f"READY=1{status}"])

    def test_notifier_reload_failing_is_ready_again(self) -> None:
        self.serve()
        self.outcome = None
        with self.assertRaises(ValueError):
            self.service.reload()
        self.assertEqual(self.heard(), ["READY=1"])

    def test_notifier_stopped_says_so(self) -> None:
        self.serve(1)
        self.service.stopService()
        self.assertEqual(self.heard(), ["STOPPING=1\nSTATUS=closing the connections"])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_notifier_failing_status_is_logged(self) -> None:
        captured = Capture(self)
        self.serve()
        self.service._status = [].pop
        self.reactor.advance(STATUS_SECONDS)
        self.assertEqual(
            captured.lines(), ["the supervisor is no longer told anything"]
        )
        self.assertEqual(len(self.flushLoggedErrors(IndexError)), 1)
