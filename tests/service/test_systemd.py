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


class Listener:
    """The socket of a supervisor.

    Args:
        case: Closes it in the end.
        address: A path, or an abstract name behind a zero byte.
    """

    def __init__(self, case: SynchronousTestCase, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        case.addCleanup(self.socket.close)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        """All that has come since the last time."""
        heard = []
        with contextlib.suppress(BlockingIOError):
            while True:
                heard.append(self.socket.recv(4096).decode())
        return heard


class FoundTests(SynchronousTestCase):
    """The socket in the environment."""

    def found(self, **environment: str) -> NotifySocket | None:
        self.environment = {"HOME": "/", **environment}
        return notify_socket(self.environment, PID)

    def test_there_may_be_none(self) -> None:
        for environment in ({}, {"WATCHDOG_USEC": "1"}, {"NOTIFY_SOCKET": ""}):
            self.assertIsNone(self.found(**environment))

    def test_it_may_be_where_nothing_can_be_sent(self) -> None:
        for address in ("relative", "vsock:2:1234"):
            self.assertIsNone(self.found(NOTIFY_SOCKET=address))

    def test_it_may_not_watch(self) -> None:
        for period in ("", "0", "-1", "1.5", "soon"):
            found = self.found(NOTIFY_SOCKET="/a", WATCHDOG_USEC=period)
            assert found is not None
            self.assertIsNone(found.watchdog_seconds)

    def test_it_may_watch(self) -> None:
        for more in ({}, {"WATCHDOG_PID": str(PID)}):
            found = self.found(NOTIFY_SOCKET="@a", WATCHDOG_USEC="1500000", **more)
            assert found is not None
            self.assertEqual(found.watchdog_seconds, 1.5)

    def test_it_may_watch_another_process(self) -> None:
        found = self.found(NOTIFY_SOCKET="/a", WATCHDOG_USEC="9", WATCHDOG_PID="1")
        assert found is not None
        self.assertIsNone(found.watchdog_seconds)

    def test_children_are_not_to_tell_it_anything(self) -> None:
        self.found(NOTIFY_SOCKET="/a", WATCHDOG_USEC="9", WATCHDOG_PID="1")
        self.assertEqual(self.environment, {"HOME": "/"})


class TellTests(SynchronousTestCase):
    """Notifications on their way."""

    def test_go_to_a_path(self) -> None:
        # Relative, since a path of a socket may have 107 bytes only.
        path = Path(self.mktemp()).name
        listener = Listener(self, path)
        self.addCleanup(Path(path).unlink)
        NotifySocket(path).send("READY=1", "STATUS=serving")
        self.assertEqual(listener.heard(), ["READY=1\nSTATUS=serving"])

    def test_go_to_an_abstract_name(self) -> None:
        name = f"proxyrelay.test.{id(self)}"
        listener = Listener(self, f"\0{name}")
        NotifySocket(f"@{name}").send("READY=1")
        self.assertEqual(listener.heard(), ["READY=1"])

    def test_are_forgotten_if_nobody_is_there(self) -> None:
        name = f"proxyrelay.test.{id(self)}"
        told = NotifySocket(f"@{name}")
        told.send("READY=1")
        listener = Listener(self, f"\0{name}")
        told.send("STATUS=serving")
        self.assertEqual(listener.heard(), ["STATUS=serving"])

    def full(self) -> tuple[NotifySocket, Listener, int]:
        """A supervisor whose queue is full, and how much there is in it."""
        name = f"proxyrelay.test.{id(self)}"
        listener = Listener(self, f"\0{name}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            count = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    sender.sendto(b"X=1", f"\0{name}")
                    count += 1
        return NotifySocket(f"@{name}"), listener, count

    def test_wait_for_a_full_queue_and_block_nobody(self) -> None:
        told, listener, count = self.full()
        told.send("READY=1")
        told.send("STATUS=serving")
        self.assertEqual(listener.heard(), ["X=1"] * count)
        told.send("WATCHDOG=1")
        self.assertEqual(listener.heard(), ["READY=1", "STATUS=serving", "WATCHDOG=1"])

    def test_do_not_pile_up(self) -> None:
        told, listener, _ = self.full()
        for number in range(2 * MAX_QUEUED_NOTIFICATIONS):
            told.send(f"STATUS={number}")
        listener.heard()
        heard: list[str] = []
        while "STATUS=last" not in heard:
            told.send("STATUS=last")
            heard += listener.heard()
        self.assertEqual(
            len(heard), heard.count("STATUS=last") + MAX_QUEUED_NOTIFICATIONS - 1
        )


class NotifierTests(SynchronousTestCase):
    """The time of each notification."""

    def supervise(self, period: float | None = None) -> None:
        """Build the service, and keep the notifications."""
        name = f"proxyrelay.test.{id(self)}"
        self.listener = Listener(self, f"\0{name}")
        self.reactor = MemoryReactorClock()
        self.status = "serving, clients: 0"
        self.reloads = 0
        self.service = Notifier(
            NotifySocket(f"@{name}", period),
            lambda: self.status,
            self,
            self.reactor,
            lambda: 1_234_567_999,
        )

    def reload(self) -> Reloaded:
        self.reloads += 1
        self.assertEqual(self.listener.heard(), ["RELOADING=1\nMONOTONIC_USEC=1234567"])
        if self.reloads == 3:
            raise ValueError("thrice")
        return Reloaded(
            ReloadOutcome.CHANGED if self.reloads == 1 else ReloadOutcome.REFUSED, ""
        )

    def run_reactor(self) -> None:
        for call, arguments, keywords in self.reactor.whenRunningHooks:
            call(*arguments, **keywords)

    def serve(self, period: float | None = None) -> list[str]:
        """Start and run; return the notifications."""
        self.supervise(period)
        self.service.startService()
        self.assertEqual(self.listener.heard(), [])
        self.run_reactor()
        return self.listener.heard()

    def test_that_the_relay_serves_when_the_reactor_runs(self) -> None:
        self.assertEqual(self.serve(), ["READY=1", "STATUS=serving, clients: 0"])

    def test_nothing_if_it_stops_before(self) -> None:
        self.supervise()
        self.service.startService()
        self.service.stopService()
        self.run_reactor()
        (last,) = self.listener.heard()
        self.assertIn("STOPPING=1", last)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_the_status_when_it_has_changed(self) -> None:
        self.serve()
        self.reactor.advance(STATUS_SECONDS)
        self.assertEqual(self.listener.heard(), [])
        for clients in (1, 2, 3):
            self.status = f"serving, clients: {clients}"
            self.reactor.advance(STATUS_SECONDS / 4)
        self.assertEqual(self.listener.heard(), [])
        self.reactor.advance(STATUS_SECONDS)
        self.assertEqual(self.listener.heard(), ["STATUS=serving, clients: 3"])

    def test_signs_of_life_in_half_the_time_at_least(self) -> None:
        self.assertIn("WATCHDOG=1\nSTATUS=serving, clients: 0", self.serve(3))
        for _ in range(4):
            self.reactor.advance(1.5)
            self.assertEqual(self.listener.heard(), ["WATCHDOG=1"])

    def test_signs_of_life_with_every_look(self) -> None:
        self.serve(60)
        self.reactor.advance(STATUS_SECONDS)
        self.assertEqual(self.listener.heard(), ["WATCHDOG=1"])

    def test_when_settings_are_read(self) -> None:
        self.serve()
        self.assertIs(self.service.reload().outcome, ReloadOutcome.CHANGED)
        self.assertEqual(self.listener.heard(), ["READY=1"])

    def test_that_settings_are_refused(self) -> None:
        self.serve()
        self.service.reload()
        self.listener.heard()
        self.service.reload()
        self.assertEqual(
            self.listener.heard(),
            [
                "READY=1\nSTATUS=serving, clients: 0; the last reload was refused, "
                "see the log"
            ],
        )
        self.reloads = 0
        self.service.reload()
        self.assertEqual(self.listener.heard(), ["READY=1\nSTATUS=serving, clients: 0"])

    def test_when_settings_have_been_read_even_if_that_fails(self) -> None:
        self.serve()
        self.reloads = 2
        with self.assertRaises(ValueError):
            self.service.reload()
        self.assertEqual(self.listener.heard(), ["READY=1"])

    def test_that_the_relay_stops(self) -> None:
        self.serve(1)
        self.service.stopService()
        self.assertEqual(
            self.listener.heard(), ["STOPPING=1\nSTATUS=closing the connections"]
        )
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_a_failure_is_logged(self) -> None:
        captured = Capture(self)
        self.serve()
        self.service._status = self.broken
        self.reactor.advance(STATUS_SECONDS)
        self.assertEqual(
            captured.lines(), ["the supervisor is no longer told anything"]
        )
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def broken(self) -> str:
        raise ValueError("no status")
