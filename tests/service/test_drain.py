"""A relay that another one replaces."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.config import Offers
from proxyrelay.service import drain as handover
from proxyrelay.service.drain import GLANCE, SOCKETS, SPREAD, Drain, Successor, beacon
from proxyrelay.switchboard.directory import LEFT_BEHIND, PARTED, UNKNOWN, Alone
from tests.service.test_app import Capture

DAY = 86400

PORT = 100_000 + os.getpid()
"""What no relay has, nor another process that runs these tests."""


class Connection:
    """Stands for an open connection."""

    closed = False

    def close_going_away(self) -> None:
        self.closed = True


class Relay:
    """Stands for the rules."""

    def __init__(self) -> None:
        self.delivery: Any = SimpleNamespace(directory=Alone())
        self.broker = SimpleNamespace(offers=Offers())


class Factory:
    """Stands for what has the connections."""

    def __init__(self, count: int) -> None:
        self.connections = {Connection() for _ in range(count)}
        self.relay = Relay()
        self.stopping = False
        self.drained = 0
        self.gone: Deferred[None] = Deferred()

    def drain(self) -> None:
        self.drained += 1

    def all_gone(self) -> Deferred[None]:
        return self.gone

    @property
    def closed(self) -> int:
        return sum(connection.closed for connection in self.connections)


class SuccessorTests(SynchronousTestCase):
    """What a relay says of peers that it does not have."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.successor = Successor(PORT, self.clock)

    def drain(self, port: int = PORT) -> socket.socket:
        lit = beacon(port)
        self.addCleanup(lit.close)
        return lit

    def test_is_that_they_are_nowhere_if_it_is_alone(self) -> None:
        self.drain(PORT + 1)
        self.drain(10 * PORT)
        self.assertEqual(self.successor.missing, UNKNOWN)
        self.assertIsNone(self.successor.find("a"))

    def test_is_where_they_may_be_while_others_drain(self) -> None:
        if not SOCKETS.exists():
            self.skipTest("this system does not list its sockets")
        lit = self.drain()
        self.assertEqual(self.successor.missing, LEFT_BEHIND)
        lit.close()
        self.clock.advance(GLANCE / 2)
        self.assertEqual(self.successor.missing, LEFT_BEHIND)
        self.clock.advance(GLANCE / 2)
        self.assertEqual(self.successor.missing, UNKNOWN)

    def test_takes_no_list_for_an_empty_one(self) -> None:
        self.patch(handover, "SOCKETS", Path(self.mktemp()))
        self.drain()
        self.assertEqual(self.successor.missing, UNKNOWN)

    def test_two_beacons_of_a_process_do_no_harm(self) -> None:
        self.drain()
        self.drain()


class DrainTests(SynchronousTestCase):
    """Waiting for the last client."""

    def drain(self, count: int) -> None:
        self.clock = Clock()
        self.ended = 0
        self.captured = Capture(self)
        self.factory = Factory(count)
        factory: Any = self.factory
        self.draining = Drain(factory, self.clock, PORT, DAY, self.end)
        self.addCleanup(self.draining.stop)

    def end(self) -> None:
        self.ended += 1

    def test_lets_nobody_else_in(self) -> None:
        self.drain(2)
        self.assertEqual(self.factory.drained, 1)
        self.assertEqual(
            self.captured.lines(),
            [
                "draining: clients that are connected are served until they leave, for "
                "at most 86400 s; connections: 2"
            ],
        )

    def test_does_not_say_that_somebody_is_nowhere(self) -> None:
        self.assertEqual(Alone().missing, UNKNOWN)
        self.drain(2)
        directory = self.factory.relay.delivery.directory
        self.assertEqual(directory.missing, PARTED)
        self.assertIsNone(directory.find("a"))

    def test_ends_with_the_last(self) -> None:
        self.drain(2)
        self.clock.advance(DAY - 1)
        self.assertEqual((self.ended, self.factory.closed), (0, 0))
        self.factory.gone.callback(None)
        self.assertEqual((self.ended, self.clock.getDelayedCalls()), (1, []))
        self.assertEqual(self.captured.lines()[1:], ["drained: no connection is left"])

    def test_closes_who_is_left_little_by_little(self) -> None:
        self.drain(3 * SPREAD - 1)
        self.clock.advance(DAY)
        self.assertEqual(self.factory.closed, 3)
        self.clock.pump([1] * (SPREAD - 2))
        self.assertEqual(self.factory.closed, 3 * SPREAD - 3)
        self.clock.advance(1)
        self.assertEqual(self.factory.closed, 3 * SPREAD - 1)
        self.assertEqual(self.ended, 0)
        self.factory.gone.callback(None)
        self.assertEqual((self.ended, self.clock.getDelayedCalls()), (1, []))

    def test_can_be_stopped(self) -> None:
        for passed in (0, DAY):
            self.drain(2)
            self.clock.advance(passed)
            self.factory.stopping = True
            self.draining.stop()
            self.assertEqual(self.clock.getDelayedCalls(), [])
            self.factory.gone.callback(None)
            self.assertEqual(self.ended, 0)

    def test_says_so_if_it_fails(self) -> None:
        self.drain(1)
        self.factory.connections = {object()}  # type: ignore[arg-type]
        self.clock.advance(DAY)
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)
