"""Signals of the process."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.error import ReactorNotRunning

from proxyrelay.service.signals import Signals, ignore_early_signals
from tests.service.case import ServiceTestCase
from tests.support.capture import Capture

STOPS = (signal.SIGINT, signal.SIGTERM)

CALLS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


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


class SignalsTests(ServiceTestCase):
    """Signals to the process, whose handlers are restored after each test."""

    def setUp(self) -> None:
        for number in (*STOPS, *CALLS):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        self.serve()
        self.reactor = SignalReactor()
        reload: Any = self
        self.signals = Signals(self.relay, reload, self.reactor)
        self.captured = Capture(self)

    def reload(self) -> None:
        """Stand for the reload."""

    def install(self) -> None:
        self.signals.startService()
        (start,) = self.reactor.started
        start()

    def catch(self, number: signal.Signals) -> None:
        """Have a signal come."""
        handler = signal.getsignal(number)
        assert callable(handler)
        handler(number, None)

    def run_calls(self) -> int:
        """Call what handlers have left for the reactor; return the number of calls."""
        calls, self.reactor.calls = self.reactor.calls, []
        for call, *arguments in calls:
            call(*arguments)
        return len(calls)

    def test_signals_take_over_when_reactor_runs(self) -> None:
        before = {number: signal.getsignal(number) for number in (*STOPS, *CALLS)}
        self.signals.startService()
        self.assertEqual(before, {n: signal.getsignal(n) for n in before})
        self.reactor.started[0]()
        for number, handler in before.items():
            self.assertNotEqual(signal.getsignal(number), handler)

    def test_stop_signal_in_reactor_stops_then_aborts(self) -> None:
        connection = self.connected()
        self.install()
        # A handler may interrupt anything, so it only leaves word.
        self.catch(signal.SIGTERM)
        self.assertEqual(self.reactor.stops, 0)
        self.run_calls()
        self.assertEqual((self.reactor.stops, connection.aborted), (1, 0))
        self.assertEqual(
            self.captured.lines(), ["stopping on SIGTERM, connections to close: 1"]
        )
        self.relay.stopService()  # as the reactor does when it stops
        self.catch(signal.SIGINT)
        self.run_calls()
        self.assertEqual((self.reactor.stops, connection.aborted), (1, 1))

    def test_stop_signal_after_stop_of_reactor_is_harmless(self) -> None:
        self.install()
        self.reactor.running = False
        self.catch(signal.SIGTERM)
        self.run_calls()
        self.assertEqual(self.reactor.stops, 1)

    def test_other_signals_in_a_storm_are_called_once(self) -> None:
        self.install()
        expected = (self.reload, self.signals._reopen, self.relay.drain)
        for number, call in zip(CALLS, expected, strict=True):
            self.assertEqual(self.signals._calls[number], call)
            called: list[int] = []
            self.signals._calls[number] = partial(called.append, 1)
            for _ in range(2):
                self.catch(number)
                self.catch(number)
                self.assertEqual(self.run_calls(), 1)
            self.assertEqual(len(called), 2)
        self.assertEqual(self.reactor.stops, 0)

    def test_sigusr1_opens_logs_anew_and_calls_handler_of_twistd(self) -> None:
        called: list[int] = []
        for handler, calls in (
            (signal.SIG_DFL, []),
            (lambda number, _: called.append(number), [signal.SIGUSR1]),
        ):
            signal.signal(signal.SIGUSR1, handler)
            self.signals._install()
            self.catch(signal.SIGUSR1)
            self.captured.events.clear()
            self.run_calls()
            self.assertEqual(self.captured.lines(), ["log files are opened anew"])
            self.assertEqual(called, calls)

    def test_early_signals_are_ignored_but_for_rotation(self) -> None:
        for is_rotating in (False, True):
            for number in CALLS:
                signal.signal(number, signal.SIG_DFL)
            ignore_early_signals(is_rotating)
            ignored = [signal.getsignal(n) is signal.SIG_IGN for n in CALLS]
            self.assertEqual(ignored, [True, not is_rotating, True])
