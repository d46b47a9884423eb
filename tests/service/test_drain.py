"""Waiting for the last client of a relay that another one replaces."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.service.drain import CLOSING_SECONDS, Drain
from proxyrelay.websocket.state import RelayState
from tests.service.case import Connection
from tests.support.capture import Capture

DAY = 86400


class Factory:
    """Stands for the factory of connections."""

    def __init__(self, count: int) -> None:
        self.connections = {Connection() for _ in range(count)}
        self.state = RelayState.DRAINING
        self.drained = 0
        self.gone: Deferred[None] = Deferred()

    def drain(self) -> None:
        self.drained += 1

    def all_gone(self) -> Deferred[None]:
        return self.gone

    @property
    def closed(self) -> int:
        return sum(connection.closed for connection in self.connections)


class DrainTests(SynchronousTestCase):
    """Waiting for the last client."""

    def drain(self, count: int) -> None:
        self.clock = Clock()
        self.ended = 0
        self.captured = Capture(self)
        self.factory = Factory(count)
        factory: Any = self.factory
        self.draining = Drain(factory, self.clock, DAY, self.end)
        self.addCleanup(self.draining.stop)

    def end(self) -> None:
        self.ended += 1

    def test_drain_ends_with_last_client(self) -> None:
        self.drain(2)
        self.assertEqual(self.factory.drained, 1)
        self.clock.advance(DAY - 1)
        self.assertEqual((self.ended, self.factory.closed), (0, 0))
        self.factory.gone.callback(None)
        self.assertEqual((self.ended, self.clock.getDelayedCalls()), (1, []))
        self.assertEqual(
            self.captured.lines(),
            [
                "draining: clients that are connected are served until they leave, for "
                "at most 86400 s; connections: 2",
                "drained: no connection is left",
            ],
        )

    def test_drain_at_deadline_closes_rest_little_by_little(self) -> None:
        self.drain(3 * CLOSING_SECONDS - 1)
        self.clock.advance(DAY)
        self.assertEqual(self.factory.closed, 3)
        self.clock.pump([1] * (CLOSING_SECONDS - 2))
        self.assertEqual(self.factory.closed, 3 * CLOSING_SECONDS - 3)
        self.clock.advance(1)
        self.assertEqual(self.factory.closed, 3 * CLOSING_SECONDS - 1)
        self.assertEqual(self.ended, 0)
        self.factory.gone.callback(None)
        self.assertEqual((self.ended, self.clock.getDelayedCalls()), (1, []))

    def test_drain_stopped_does_nothing_more(self) -> None:
        for passed in (0, DAY):
            self.drain(2)
            self.clock.advance(passed)
            self.factory.state = RelayState.STOPPING
            self.draining.stop()
            self.assertEqual(self.clock.getDelayedCalls(), [])
            self.factory.gone.callback(None)
            self.assertEqual(self.ended, 0)

    def test_drain_failing_to_close_is_logged(self) -> None:
        self.drain(1)
        self.factory.connections = {object()}  # type: ignore[arg-type]
        self.clock.advance(DAY)
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)
