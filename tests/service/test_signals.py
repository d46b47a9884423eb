"""Signals of the process."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from twisted.internet.error import ReactorNotRunning
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.service.signals import Signals, ignore_early_signals
from tests.service.case import Connection, relay_service
from tests.support.capture import Capture


class Calls:
    """Stands for the reload."""

    def reload(self) -> None:
        """Read nothing."""


class SignalReactor:
    """Keeps the calls about signals and stopping."""

    def __init__(self) -> None:
        self.started: list[Callable[[], None]] = []
        self.calls: list[tuple[Any, ...]] = []
        self.stops = 0
        self.running = True

    def callWhenRunning(self, call: Callable[[], None]) -> None:  # noqa: N802
        self.started.append(call)

    def callFromThread(self, call: Any, *args: Any) -> None:  # noqa: N802
        self.calls.append((call, *args))

    def stop(self) -> None:
        self.stops += 1
        if not self.running:
            raise ReactorNotRunning
        self.running = False


class SignalsTests(SynchronousTestCase):
    """Signals to the process."""

    def setUp(self) -> None:
        self.relay, self.memory = relay_service()
        self.relay.startService()
        self.addCleanup(self.relay.stopService)
        self.reactor = SignalReactor()
        self.reloads = Calls()
        self.signals = Signals(self.relay, cast(Any, self.reloads), self.reactor)
        self.captured = Capture(self)

    def connected(self) -> Connection:
        connection: Any = Connection()
        self.relay.factory.connections.add(connection)
        self.addCleanup(self.relay.factory.connections.clear)
        return cast(Connection, connection)

    def test_the_first_stops_the_reactor(self) -> None:
        connection = self.connected()
        self.signals.stop("SIGTERM")
        self.assertEqual(self.reactor.stops, 1)
        self.assertEqual(connection.aborted, 0)
        self.assertEqual(
            self.captured.lines(), ["stopping on SIGTERM, connections to close: 1"]
        )

    def test_the_second_aborts_the_connections(self) -> None:
        connection = self.connected()
        self.signals.stop("SIGINT")
        self.relay.stopService()  # as the reactor does when it stops
        self.signals.stop("SIGINT")
        self.assertEqual(connection.aborted, 1)
        self.assertEqual(self.reactor.stops, 1)

    def test_survives_a_reactor_that_has_stopped(self) -> None:
        self.reactor.running = False
        self.signals.stop("SIGTERM")
        self.assertEqual(self.captured.lines()[1:], ["the reactor has stopped already"])

    def handlers(self) -> dict[signal.Signals, Any]:
        """Return the handlers of all signals; they are restored after the test."""
        ends = (signal.SIGINT, signal.SIGTERM)
        numbers = (*ends, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
        handlers = {number: signal.getsignal(number) for number in numbers}
        for number, handler in handlers.items():
            self.addCleanup(signal.signal, number, handler)
        return handlers

    def test_reads_the_settings_at_a_hangup_and_hands_over_at_another(self) -> None:
        before = self.handlers()
        self.signals.startService()
        for start in self.reactor.started:
            start()
        for number, call in (
            (signal.SIGHUP, self.reloads.reload),
            (signal.SIGUSR1, self.signals._reopen),
            (signal.SIGUSR2, self.relay.drain),
        ):
            caught = signal.getsignal(number)
            assert callable(caught)
            self.assertNotEqual(caught, before[number])
            called: list[int] = []
            self.assertEqual(self.signals._calls[number], call)
            self.signals._calls[number] = partial(called.append, 1)
            for _ in range(2):
                caught(number, None)
                caught(number, None)  # one of them will do
                run, *arguments = self.reactor.calls.pop()
                self.assertEqual(self.reactor.calls, [])
                run(*arguments)
            self.assertEqual(len(called), 2)
        self.assertEqual(self.reactor.stops, 0)

    def test_opens_log_files_anew_at_a_signal(self) -> None:
        self.handlers()
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        self.signals._install()
        self.signals._reopen()
        self.assertEqual(self.captured.lines(), ["log files are opened anew"])

    def test_leaves_the_file_of_twistd_to_its_own_handler(self) -> None:
        self.handlers()
        called: list[int] = []
        signal.signal(signal.SIGUSR1, lambda number, _: called.append(number))
        self.signals._install()
        self.signals._reopen()
        self.assertEqual(called, [signal.SIGUSR1])
        self.assertEqual(self.captured.lines(), ["log files are opened anew"])

    def test_takes_the_signals_when_the_reactor_runs(self) -> None:
        before = self.handlers()
        self.signals.startService()
        self.assertEqual(before, {n: signal.getsignal(n) for n in before})
        for start in self.reactor.started:
            start()
        del before[signal.SIGHUP], before[signal.SIGUSR1], before[signal.SIGUSR2]
        for number, handler in before.items():
            caught = signal.getsignal(number)
            assert callable(caught)
            self.assertNotEqual(caught, handler)
            # A handler may interrupt anything, so it only leaves word.
            caught(number, None)
            self.assertEqual(self.reactor.stops, 0)
            self.assertEqual(self.reactor.calls.pop(), (self.signals.stop, number.name))

    def test_early_ones_do_not_end_a_relay_that_starts(self) -> None:
        numbers = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
        for is_rotating in (False, True):
            self.handlers()
            for number in numbers:
                signal.signal(number, signal.SIG_DFL)
            ignore_early_signals(is_rotating)
            ignored = [signal.getsignal(n) is signal.SIG_IGN for n in numbers]
            self.assertEqual(ignored, [True, not is_rotating, True])
