"""The epoll of the clients, and the naps of the relay."""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.net import epoll
from proxyrelay.net.epoll import (
    AWAKE_SECONDS,
    NAP_SECONDS,
    SWEEP_SECONDS,
    EpollMultiplexer,
)
from proxyrelay.net.pacing import TurnBudget
from proxyrelay.net.timers import LATE_SECONDS
from proxyrelay.net.transport import DirectWriteTransport
from proxyrelay.net.write_batch import WriteBatch
from tests.net.test_tls_transport import tcp_pair
from tests.net.test_transport import Descriptors, Ends
from tests.support.clock import EagerClock
from tests.support.recording import A, B, offer
from tests.support.served import RelayTestCase, scenario


class Acting(Ends):
    """Acts on received data."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[bytes] = []
        self.act: Callable[[bytes], object] = lambda data: None
        self.reason: BaseException | None = None

    def dataReceived(self, data: bytes) -> None:
        self.heard.append(data)
        self.act(data)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        super().connectionLost(reason)
        self.reason = reason.value


class MultiplexerTestCase(SynchronousTestCase):
    """A multiplexer on a scripted reactor."""

    def setUp(self) -> None:
        if not epoll.AVAILABLE:
            self.skipTest("the system has no epoll")
        self.reactor = Descriptors()
        self.reactor.advance(1000)
        self.outbox = WriteBatch()
        self.pace = TurnBudget(EagerClock(), 1000)
        self.multiplexer = EpollMultiplexer(self.reactor, self.outbox)
        self.addCleanup(self.multiplexer.stop)

    def client(
        self, pair: Callable[[], Any] = socket.socketpair
    ) -> tuple[DirectWriteTransport, Acting, socket.socket]:
        """The transport and the protocol of a client, and its socket."""
        near, far = pair()
        protocol = Acting()
        arguments: Any = (near, protocol, ("127.0.0.1", 1), None, 1, self.multiplexer)
        transport = DirectWriteTransport(self.pace, self.outbox, *arguments)
        protocol.makeConnection(transport)
        self.addCleanup(near.close)
        self.addCleanup(far.close)
        return transport, protocol, far

    @property
    def awake(self) -> bool:
        """Whether the reactor watches the multiplexer."""
        return self.multiplexer in self.reactor.readers

    def turn(self) -> None:
        if self.awake and select.select([self.multiplexer], [], [], 0)[0]:
            self.multiplexer.doRead()

    def ping(self, far: socket.socket) -> None:
        far.send(b"ping")
        self.turn()


class ReadingTests(MultiplexerTestCase):
    """Sweeps over readable sockets."""

    def test_sweep_reads_all_ready_clients(self) -> None:
        clients = [self.client() for _ in range(10)]
        for _, _, far in clients[::2]:
            far.send(b"one")
        self.turn()
        heard = [protocol.heard for _, protocol, _ in clients]
        self.assertEqual(heard, [[b"one"], []] * 5)
        self.assertEqual(self.reactor.readers, {self.multiplexer})

    def test_sweep_skips_a_client_gone_meanwhile(self) -> None:
        clients = [self.client() for _ in range(2)]
        for one, other in (clients, clients[::-1]):
            one[1].act = lambda data, other=other: other[0].connectionLost(  # type: ignore[misc]
                Failure(ConnectionDone())
            )
            one[2].send(b"one")
        self.turn()
        self.assertEqual(sorted(len(c[1].heard) for c in clients), [0, 1])
        self.assertEqual(sorted(c[1].told for c in clients), [[], ["lost"]])

    def test_sweep_skips_a_paused_or_aborted_client(self) -> None:
        transport, protocol, far = self.client()
        for _ in range(2):
            transport.pauseProducing()
        far.send(b"x" * (transport.bufferSize + 1))
        self.turn()
        self.assertEqual(protocol.heard, [])
        protocol.act = lambda data: transport.pauseProducing()
        for times in (1, 2):
            for _ in range(2):
                transport.resumeProducing()
            for _ in range(3):
                self.turn()
            self.assertEqual(len(protocol.heard), times)
        far.send(b"one")
        transport.abortConnection()
        transport.resumeProducing()
        self.turn()
        self.reactor.advance(0)
        transport.resumeProducing()
        self.turn()
        self.assertEqual((len(protocol.heard), protocol.told), (2, ["lost"]))

    def test_descriptor_used_again_is_read(self) -> None:
        transport, protocol, far = self.client()
        descriptor = transport.fileno()
        far.close()
        self.turn()
        self.assertEqual(protocol.told, ["lost"])
        near, far = sorted(
            socket.socketpair(), key=lambda end: end.fileno() != descriptor
        )
        if near.fileno() != descriptor:
            os.dup2(near.fileno(), descriptor)
            near.close()
            near = socket.socket(fileno=descriptor)
        _, heard, far = self.client(lambda: (near, far))
        # The one before has nothing to do with it any more.
        self.multiplexer.removeReader(transport)
        far.send(b"one")
        self.turn()
        self.assertEqual(heard.heard, [b"one"])

    def test_failure_in_a_read_or_end_harms_no_other(self) -> None:
        clients = [self.client() for _ in range(4)]

        def fail(_: object) -> None:
            raise ZeroDivisionError

        clients[1][1].act = fail
        clients[2][1].connectionLost = fail  # type: ignore[method-assign, assignment]
        for _, _, far in clients:
            far.send(b"one")
        clients[2][2].close()
        for _ in range(2):
            self.turn()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.assertEqual([c[1].told for c in clients], [[], ["lost"], [], []])
        self.assertIsInstance(clients[1][1].reason, ZeroDivisionError)
        self.assertEqual([c[1].heard for c in clients], [[b"one"]] * 4)

    def test_client_that_hung_up_is_read_to_the_end(self) -> None:
        _, protocol, far = self.client()
        far.send(b"bye")
        far.close()
        for _ in range(2):
            self.turn()
        self.assertEqual((protocol.heard, protocol.told), ([b"bye"], ["lost"]))
        self.assertIsInstance(protocol.reason, ConnectionDone)
        self.assertFalse(select.select([self.multiplexer], [], [], 0)[0])

    def test_reset_is_a_lost_connection(self) -> None:
        _, protocol, far = self.client(tcp_pair)
        linger = struct.pack("ii", 1, 0)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        far.close()
        self.turn()
        self.assertIsInstance(protocol.reason, ConnectionLost)
        for event in (select.EPOLLHUP, select.EPOLLERR):
            transport, protocol, _ = self.client()
            self.multiplexer._read(transport, event)
            self.assertIsInstance(protocol.reason, ConnectionLost)
            self.assertEqual(protocol.heard, [])

    def test_sweep_over_its_time_goes_on_next_turn(self) -> None:
        clients = [self.client() for _ in range(4)]
        for _, protocol, far in clients:
            protocol.act = lambda _: self.reactor.advance(SWEEP_SECONDS * 0.6)
            far.send(b"ping")
        self.turn()
        heard = [bool(protocol.heard) for _, protocol, _ in clients]
        self.assertEqual((heard.count(True), self.outbox.backlogged), (2, True))
        # Those who were heard speak again, but the others have their turn first.
        for heard_of, (_, _, far) in zip(heard, clients, strict=True):
            if heard_of:
                far.send(b"again")
        self.turn()
        self.assertTrue(all(protocol.heard for _, protocol, _ in clients))
        self.assertTrue(self.awake)
        while self.outbox.backlogged:
            self.turn()
        self.turn()
        self.assertFalse(self.outbox.backlogged)

    def test_client_gone_before_its_turn_is_not_read(self) -> None:
        for gone, heard in ((1, [False, True]), (2, [False, False])):
            clients = [self.client() for _ in range(3)]
            for _, protocol, far in clients:
                protocol.act = lambda _: self.reactor.advance(SWEEP_SECONDS * 2)
                far.send(b"ping")
            self.turn()
            left = [c for c in clients if not c[1].heard]
            self.assertEqual(len(left), 2)
            for transport, _, _ in left[:gone]:
                transport.connectionLost(Failure(ConnectionDone()))
            self.turn()
            self.assertEqual([bool(c[1].heard) for c in left], heard)
            self.reactor.advance(NAP_SECONDS)
            self.assertFalse(self.outbox.backlogged)

    def test_sweep_of_a_full_poll_is_followed_by_no_nap(self) -> None:
        clients = [self.client() for _ in range(4)]
        self.turn()
        self.ping(clients[0][2])
        self.reactor.advance(AWAKE_SECONDS)
        self.patch(epoll, "MAX_EVENTS", 3)
        for _, _, far in clients:
            far.send(b"ping")
        self.turn()
        self.assertTrue(self.awake)
        self.turn()
        self.assertFalse(self.awake)
        self.assertTrue(all(c[1].heard for c in clients))
        for _, _, far in clients:
            far.send(b"ping")
        self.reactor.advance(NAP_SECONDS)
        self.assertTrue(self.awake)

    def test_writer_is_watched_by_the_reactor(self) -> None:
        transport, _, _ = self.client()
        transport.startWriting()
        self.assertEqual(self.reactor.writers, {transport})
        transport.stopWriting()
        self.assertEqual(self.reactor.writers, set())


class FlushTests(MultiplexerTestCase):
    """Writes to one receiver leave together at the end of a sweep."""

    def setUp(self) -> None:
        super().setUp()
        self.receiver, _, self.far = self.client()
        self.writes: list[bytes] = []
        self.held: list[bytes] = []
        self.receiver.write = self.writes.append  # type: ignore[method-assign, assignment]

    def send_held(self) -> None:
        self.receiver.write(b"".join(self.held))
        self.held.clear()

    def forward(self, data: bytes) -> None:
        """Write to the receiver, as connections do."""
        waiting = self.outbox.waiting
        assert waiting is not None
        if not self.held:
            waiting.append(self)
        self.held.append(data[-1:])

    def senders(self, count: int) -> list[socket.socket]:
        found = []
        for _ in range(count):
            _, protocol, far = self.client()
            protocol.act = self.forward
            found.append(far)
        self.turn()
        return found

    def test_sweep_many_senders_one_write(self) -> None:
        for number, far in enumerate(self.senders(5)):
            far.send(b"%d" % number)
        self.turn()
        (written,) = self.writes
        self.assertEqual(sorted(written), sorted(b"01234"))
        self.assertIsNone(self.outbox.waiting)

    def test_sweep_much_data_flushes_before_its_end(self) -> None:
        self.patch(epoll, "FLUSH_BYTES", 10)
        for far in self.senders(4):
            far.send(bytes(6))
        self.turn()
        self.assertEqual(self.writes, [bytes(2), bytes(2)])


class NapTests(MultiplexerTestCase):
    """Intervals of reading while only pings come."""

    def setUp(self) -> None:
        super().setUp()
        _, self.protocol, self.far = self.client()
        self.ping(self.far)
        self.protocol.heard.clear()

    def doze(self) -> None:
        """Let the next ping be followed by a nap."""
        self.reactor.advance(AWAKE_SECONDS)
        self.ping(self.far)
        self.assertFalse(self.awake)

    def message(self, data: bytes) -> None:
        self.outbox.saw_messages = True

    def test_nap_begins_after_a_second_of_pings(self) -> None:
        for _ in range(9):
            self.reactor.advance(AWAKE_SECONDS / 10)
            self.ping(self.far)
            self.assertTrue(self.awake)
        self.reactor.advance(AWAKE_SECONDS / 10)
        self.ping(self.far)
        self.assertFalse(self.awake)
        self.assertEqual(len(self.protocol.heard), 10)

    def test_nap_of_pings_is_followed_by_another(self) -> None:
        self.doze()
        self.ping(self.far)
        self.assertEqual(len(self.protocol.heard), 1)
        self.reactor.advance(NAP_SECONDS * 0.9)
        self.assertEqual(len(self.protocol.heard), 1)
        self.reactor.advance(NAP_SECONDS * 0.2)
        self.assertEqual((len(self.protocol.heard), self.awake), (2, False))
        self.reactor.advance(NAP_SECONDS)
        self.assertTrue(self.awake)
        # Without pings, the relay waits for the first message.
        self.reactor.advance(AWAKE_SECONDS * 100)
        self.assertEqual((self.awake, self.reactor.getDelayedCalls()), (True, []))

    def pause(self, _: bytes) -> None:
        """Stop the process within a sweep."""
        self.reactor.rightNow += AWAKE_SECONDS + LATE_SECONDS

    def test_nap_after_a_pause_of_the_process_waits_for_a_sweep(self) -> None:
        self.protocol.act = self.pause
        self.ping(self.far)
        self.assertTrue(self.awake)
        self.protocol.act = lambda _: None
        self.doze()
        self.assertFalse(self.awake)
        self.far.send(b"ping")
        self.protocol.act = self.pause
        self.reactor.advance(NAP_SECONDS)
        self.assertTrue(self.awake)

    def test_nap_waits_while_messages_come(self) -> None:
        self.protocol.act = self.message
        for _ in range(5):
            self.reactor.advance(AWAKE_SECONDS * 2)
            self.ping(self.far)
            self.assertTrue(self.awake)
        self.protocol.act = lambda data: None
        self.reactor.advance(AWAKE_SECONDS * 0.9)
        self.ping(self.far)
        self.assertTrue(self.awake)
        self.doze()

    def test_nap_ends_with_a_message(self) -> None:
        self.doze()
        self.protocol.act = self.message
        self.ping(self.far)
        self.reactor.advance(NAP_SECONDS)
        self.turn()
        self.assertTrue(self.awake)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_nap_ends_with_a_new_or_resumed_client(self) -> None:
        transport, protocol, far = self.client()
        for _ in range(2):
            transport.pauseProducing()
            self.turn()
            self.reactor.advance(AWAKE_SECONDS)
            self.ping(self.far)
            self.doze()
            transport.resumeProducing()
            self.reactor.advance(0)
            self.assertTrue(self.awake)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.ping(far)
        self.assertEqual((protocol.heard, self.awake), ([b"ping"], True))


class EndTests(MultiplexerTestCase):
    """The end of the relay."""

    def test_stop_leaves_nothing(self) -> None:
        EpollMultiplexer(self.reactor, self.outbox).stop()
        descriptor = self.multiplexer.fileno()
        _, _, far = self.client()
        self.ping(far)
        self.reactor.advance(AWAKE_SECONDS)
        self.ping(far)
        self.assertEqual(len(self.reactor.getDelayedCalls()), 1)
        for _ in range(2):
            self.multiplexer.stop()
            self.assertEqual(self.reactor.getDelayedCalls(), [])
            self.assertEqual(self.reactor.readers, set())
            self.assertRaises(OSError, os.fstat, descriptor)

    def test_stop_of_the_reactor_ends_all_connections(self) -> None:
        clients = [self.client() for _ in range(3)]
        self.multiplexer.connectionLost(Failure(ConnectionLost()))
        self.assertEqual([c[1].told for c in clients], [["lost"]] * 3)
        self.assertEqual(self.multiplexer._readers, {})


class ServedTests(RelayTestCase):
    """Naps of a whole relay."""

    if not epoll.AVAILABLE:
        skip = "the system has no epoll"

    @scenario
    def test_nap_of_the_relay_passes_messages_on(self) -> None:
        one, other = self.registered(A), self.registered(B)
        served: Any = self.service.ports.multiplexer

        def naps() -> bool:
            client: Any = one
            client._loop.call_soon_threadsafe(client._loop.create_task, pinged(client))
            # As if no message had come for long.
            served._awake -= AWAKE_SECONDS
            return served._nap is not None

        self.until(naps)
        for _ in range(3):
            one.ping()
            other.ping()
        one.send(offer(A, B).decode())
        self.assertIn('"offer"', other.recv())
        self.assertFalse(self.in_reactor(lambda: served._nap))

    def test_stop_of_a_napping_relay_ends_the_nap(self) -> Deferred[Any]:
        served: Any = self.service.ports.multiplexer
        served._awake = 0
        served._outbox.saw_messages = False
        served.doRead()
        self.assertIsNotNone(served._nap)
        return self.service.stopService().addCallback(
            lambda _: self.assertIsNone(served._nap)
        )


async def pinged(client: Any) -> None:
    """Send a ping, and do not wait for its answer."""
    await client.connection.ping()


class WithoutEpollTests(RelayTestCase):
    """A system without epoll."""

    def setUp(self) -> None:
        self.patch(epoll, "AVAILABLE", False)
        super().setUp()

    @scenario
    def test_relay_without_epoll_is_served_by_the_reactor(self) -> None:
        one, other = self.registered(A), self.registered(B)
        one.ping()
        other.send(offer(B, A).decode())
        self.assertIn('"offer"', one.recv())
        self.assertIsNone(self.service.ports.multiplexer)

    def test_import_without_epoll_succeeds(self) -> None:
        script = (
            "import select\n"
            "for name in [name for name in vars(select) if 'epoll' in name.lower()]:\n"
            "    delattr(select, name)\n"
            "import proxyrelay.service.app, proxyrelay.net.epoll\n"
            "print(proxyrelay.net.epoll.AVAILABLE)"
        )
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        self.assertEqual(done.stdout.strip(), "False")
