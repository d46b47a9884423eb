"""Signals of the process: stop, reload, reopen log files, drain."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from twisted.application.service import Service
from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

from proxyrelay.admin.control import Reloadable
from proxyrelay.service.relay_service import RelayService
from proxyrelay.websocket.state import RelayState

log = Logger(namespace="proxyrelay")


def ignore_early_signals(is_rotating: bool) -> None:
    """Keep SIGHUP, SIGUSR1 and SIGUSR2 from ending a relay that starts.

    Args:
        is_rotating: Whether twistd installs a handler of SIGUSR1, for its --logfile.
            It does so only where there is none.
    """
    numbers = {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
    if is_rotating:
        numbers.discard(signal.SIGUSR1)
    for number in numbers:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.SIG_IGN)


class Signals(Service):
    """Acts on signals.

    SIGINT stops the relay in order, with exit status 0, and so does SIGTERM. If
    connections are kept, SIGTERM leaves them to the next process, with exit status 75.
    A second signal aborts the connections that are left. SIGHUP reloads the settings.
    SIGUSR1 reopens the log files. SIGUSR2 drains the relay.

    Twisted's own handlers stop the reactor, too, but twistd then ends by the signal,
    and a supervisor takes that for a crash.
    """

    def __init__(self, relay: RelayService, reload: Reloadable, reactor: Any) -> None:
        self._relay = relay
        self._calls: dict[signal.Signals, Callable[[], object]] = {
            signal.SIGHUP: reload.reload,
            signal.SIGUSR1: self._reopen,
            signal.SIGUSR2: relay.drain,
        }
        self._twistd_rotates: Any = None
        self._pending: set[int] = set()
        self._reactor = reactor

    def startService(self) -> None:
        """Install the handlers as soon as the reactor has installed its own."""
        super().startService()
        self._reactor.callWhenRunning(self._install)

    def _install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop_caught)
        self._twistd_rotates = signal.getsignal(signal.SIGUSR1)
        for number in self._calls:
            signal.signal(number, self._caught)

    def _caught(self, number: int, _frame: FrameType | None) -> None:
        # A storm of one signal is one call.
        if number not in self._pending:
            self._pending.add(number)
            self._reactor.callFromThread(self._call, number)

    def _call(self, number: int) -> None:
        self._pending.discard(number)
        self._calls[signal.Signals(number)]()

    def _reopen(self) -> None:
        if callable(self._twistd_rotates):  # under its --logfile
            self._twistd_rotates(signal.SIGUSR1, None)
        self._relay.reopen()

    def _stop_caught(self, number: int, _frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._stop, signal.Signals(number))

    def _stop(self, number: signal.Signals) -> None:
        factory = self._relay.factory
        if factory.state is RelayState.STOPPING:
            factory.abort_all()
            return
        relay = self._relay
        relay.is_restarting = number == signal.SIGTERM and relay.can_restart
        kept = relay.survival.kept if relay.survival and relay.is_restarting else 0
        log.info(
            "stopping on {signal}, connections to close: {count}",
            event="stopping",
            signal=number.name,
            count=len(factory.connections) - kept,
        )
        with suppress(ReactorNotRunning):  # it may have been stopped meanwhile
            self._reactor.stop()
