"""The descriptor store of a supervisor, which the tests play."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.net import descriptor_store
from proxyrelay.net.descriptor_store import RETRY_SECONDS, DescriptorStore
from tests.support.capture import Capture
from tests.support.supervisor import Supervisor

OPEN = Path("/proc/self/fd")

CLOSED = 65_536
"""A descriptor that is not open."""

MANY = 2000
"""More messages than a queue of datagrams has room for."""


class Reactor(Clock):
    """Has the descriptors that wait for room."""

    def __init__(self) -> None:
        super().__init__()
        self.writers: list[Any] = []
        self.addWriter = self.writers.append
        self.removeWriter = self.writers.remove


class StoreTestCase(SynchronousTestCase):
    """Has a store, and the supervisor that keeps it."""

    def setUp(self) -> None:
        self.supervisor = Supervisor()
        self.addCleanup(self.supervisor.close)
        self.reactor = Reactor()
        self.store = DescriptorStore(self.supervisor.address, self.reactor)
        self.addCleanup(self.store.close)
        self.captured = Capture(self)

    def pipe(self) -> tuple[int, int]:
        """Both ends of a pipe, which stay open until the end of the test."""
        ends = os.pipe()
        for end in ends:
            self.addCleanup(shut, end)
        return ends

    def fill(self) -> list[str]:
        """Send until the supervisor's queue is full, and once more; the names."""
        _, writing = self.pipe()
        names: list[str] = []
        while not self.reactor.writers and len(names) < MANY:
            names.append(f"full{len(names)}")
            self.store.keep(names[-1], writing)
        return names

    def drain(self) -> None:
        """Read all, as the reactor sees it."""
        self.supervisor.read()
        for _ in range(MANY):
            if not self.reactor.writers:
                return
            self.store.doWrite()
            self.supervisor.read()
        self.fail("it waits for ever")


def shut(descriptor: int) -> None:
    """Close a descriptor that may be closed."""
    with contextlib.suppress(OSError):
        os.close(descriptor)


def is_same(one: int, other: int) -> bool:
    """Whether two descriptors are of one file."""
    return os.path.samestat(os.fstat(one), os.fstat(other))


class KeepingTests(StoreTestCase):
    """What is kept, and removed."""

    def test_descriptor_kept_and_removed_comes_and_goes(self) -> None:
        _, writing = self.pipe()
        self.store.keep("a", writing)
        self.supervisor.read()
        ((name, kept),) = self.supervisor.pairs
        self.assertEqual(name, "a")
        self.assertTrue(is_same(kept, writing))
        self.store.remove("a")
        self.supervisor.read()
        self.assertEqual(self.supervisor.pairs, [])

    def test_full_queue_keeps_order_and_loses_nothing(self) -> None:
        names = self.fill()
        _, writing = self.pipe()
        self.store.remove(names[0])
        self.store.keep("last", writing)
        self.assertEqual(len(self.reactor.writers), 1)
        self.drain()
        self.assertEqual([n for n, _ in self.supervisor.pairs], [*names[1:], "last"])
        self.assertEqual(self.reactor.writers, [])

    def test_removal_of_what_waits_sends_neither(self) -> None:
        self.fill()
        _, writing = self.pipe()
        self.store.keep("a", writing)
        self.store.remove("a")
        self.drain()
        self.assertNotIn("a", [line for text in self.supervisor.texts for line in text])

    def test_number_used_again_while_it_waits_is_not_confused(self) -> None:
        self.fill()
        _, writing = self.pipe()
        was = os.fstat(writing)
        self.store.keep("a", writing)
        os.close(writing)
        other = os.open(os.devnull, os.O_RDONLY)
        self.addCleanup(shut, other)
        self.assertEqual(other, writing)
        self.drain()
        (kept,) = [number for name, number in self.supervisor.pairs if name == "a"]
        self.assertTrue(os.path.samestat(os.fstat(kept), was))

    def test_what_waits_is_closed_when_it_is_removed_or_all_is_over(self) -> None:
        self.fill()
        for end in (lambda: self.store.remove("a"), self.store.close):
            reading, writing = os.pipe()
            os.set_blocking(reading, False)
            self.store.keep("a", writing)
            os.close(writing)
            self.assertRaises(BlockingIOError, os.read, reading, 1)
            end()
            self.assertEqual(os.read(reading, 1), b"")
            os.close(reading)

    def test_loop_while_nobody_reads_stays_bounded(self) -> None:
        self.fill()
        _, writing = self.pipe()
        before = len(list(OPEN.iterdir()))
        for _ in range(MANY):
            self.store.keep("a", writing)
            self.store.remove("a")
            self.store.keep("b", writing)
        self.assertLessEqual(len(self.store._queue), 3)
        self.assertLessEqual(len(list(OPEN.iterdir())), before + 1)

    def test_closed_descriptor_is_skipped(self) -> None:
        self.store.keep("a", CLOSED)
        names = self.fill()
        self.store.keep("b", CLOSED)
        self.drain()
        self.assertEqual([name for name, _ in self.supervisor.pairs], names)
        self.assertFalse(self.store.is_lost)
        self.assertEqual(
            self.captured.lines(),
            ["'b' is not kept for the next process: bad file descriptor"],
        )

    def test_sent_fires_once_nothing_waits(self) -> None:
        self.successResultOf(self.store.sent())
        self.fill()
        sent, given_up = self.store.sent(), self.store.sent()
        self.assertNoResult(sent)
        given_up.cancel()
        self.failureResultOf(given_up)
        self.drain()
        self.successResultOf(sent)

    def test_too_many_descriptors_on_their_way_are_tried_again_by_one_timer(
        self,
    ) -> None:
        _, writing = self.pipe()
        refused = socket.send_fds
        script = [OSError(errno.ETOOMANYREFS, "too many")] * 2

        def send(*arguments: Any) -> int:
            if script:
                raise script.pop()
            return refused(*arguments)

        self.patch(socket, "send_fds", send)
        for name in ("a", "b", "c"):
            self.store.keep(name, writing)
        self.assertEqual(len(self.reactor.getDelayedCalls()), 1)
        self.reactor.pump([RETRY_SECONDS] * 2)
        self.supervisor.read()
        self.assertEqual([name for name, _ in self.supervisor.pairs], ["a", "b", "c"])
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class LossTests(StoreTestCase):
    """The supervisor goes, or was never there."""

    def test_supervisor_gone_is_told_once_and_nothing_waits(self) -> None:
        self.fill()
        sent = self.store.sent()
        self.supervisor.close()
        self.store.doWrite()
        self.assertTrue(self.store.is_lost)
        self.successResultOf(sent)
        self.successResultOf(self.store.sent())
        _, writing = self.pipe()
        self.store.keep("a", writing)
        self.store.remove("a")
        self.assertEqual(self.reactor.writers, [])
        self.assertEqual(
            self.captured.lines(),
            [
                "the supervisor that keeps descriptors has gone (connection refused): "
                "no connection survives the end of this process"
            ],
        )

    def test_supervisor_not_there_is_lost_from_the_start(self) -> None:
        for address in ("/nowhere/at/all", "@nobody", "/" + 200 * "a"):
            with contextlib.closing(DescriptorStore(address, self.reactor)) as store:
                self.assertTrue(store.is_lost)
                self.assertFalse(store.probe())


class ProbeTests(StoreTestCase):
    """Whether the supervisor keeps anything."""

    def probe(self, messages: int = 3) -> bool:
        """Ask while the supervisor reads."""
        reading = threading.Thread(target=self.supervisor.read_until, args=(messages,))
        reading.start()
        try:
            return self.store.probe()
        finally:
            reading.join()

    def test_store_turned_on_is_found_and_left_empty(self) -> None:
        self.assertTrue(self.probe())
        self.assertEqual(self.supervisor.pairs, [])

    def test_store_turned_off_is_found(self) -> None:
        self.supervisor.capacity = 0
        self.assertFalse(self.probe())

    def test_silent_supervisor_is_not_waited_for_for_ever(self) -> None:
        self.patch(descriptor_store, "PROBE_SECONDS", 0.01)
        self.assertFalse(self.store.probe())

    def test_full_queue_is_waited_for(self) -> None:
        names = self.fill()
        self.supervisor.read()
        self.store.doWrite()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            other.connect(self.supervisor.place)
            with contextlib.suppress(BlockingIOError):
                for _ in range(MANY):
                    other.send(b"STATUS=busy")
        self.assertTrue(self.probe(4))
        self.assertEqual([name for name, _ in self.supervisor.pairs], names)

    def test_full_queue_of_a_silent_supervisor_is_not_waited_for_for_ever(self) -> None:
        self.fill()
        self.patch(descriptor_store, "PROBE_SECONDS", 0.01)
        self.assertFalse(self.store.probe())
