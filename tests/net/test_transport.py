"""The sockets of clients: writes go out at once, and in order."""

from __future__ import annotations

import contextlib
import errno
import socket
from functools import partial
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.internet.tcp import Server
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from proxyrelay.net.pacing import TurnBudget
from proxyrelay.net.transport import DirectWriteTransport
from proxyrelay.net.write_batch import WriteBatch
from tests.support.clock import EagerClock

reactor: Any = _reactor

PATIENCE = 20.0
"""Seconds after which a socket that blocks gives up: a failure, not a pace."""

FULL = OSError(errno.EWOULDBLOCK, "full")

RESET = OSError(errno.ECONNRESET, "reset")


class ScriptedSocket:
    """A socket that takes scripted lengths, and then everything."""

    def __init__(self) -> None:
        self.script: list[int | OSError] = []
        self.sends: list[bytes] = []

    @property
    def sent(self) -> bytes:
        return b"".join(self.sends)

    def send(self, data: memoryview) -> int:
        takes = self.script.pop(0) if self.script else len(data)
        if isinstance(takes, OSError):
            raise takes
        self.sends.append(bytes(data[:takes]))
        return len(self.sends[-1])

    def setblocking(self, flag: int) -> None:
        """It never blocks."""

    def setsockopt(self, *option: object) -> None:
        """It has none."""

    def fileno(self) -> int:
        return 4

    def shutdown(self, how: int) -> None:
        """Nobody reads it."""

    def close(self) -> None:
        """Nobody reads it."""


class Descriptors(Clock):
    """A scripted reactor."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[object] = set()
        self.writers: set[object] = set()

    def addReader(self, reader: object) -> None:  # noqa: N802
        self.readers.add(reader)

    def addWriter(self, writer: object) -> None:  # noqa: N802
        self.writers.add(writer)

    def removeReader(self, reader: object) -> None:  # noqa: N802
        self.readers.discard(reader)

    def removeWriter(self, writer: object) -> None:  # noqa: N802
        self.writers.discard(writer)


@implementer(IPushProducer)
class Ends(Protocol):
    """Notes the end of the connection, and is its producer."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.lost: Deferred[BaseException] = Deferred()
        self.resumed: Deferred[None] = Deferred()
        self.paused: Deferred[None] = Deferred()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.told.append("lost")
        assert reason.value is not None
        self.lost.callback(reason.value)

    def pauseProducing(self) -> None:
        self.told.append("paused")

    def resumeProducing(self) -> None:
        self.told.append("resumed")
        self.resumed.callback(None)

    def stopProducing(self) -> None:
        self.told.append("stopped")


class Connected:
    """A connection with a scripted socket and reactor; Twisted's own without a pace."""

    def __init__(self, pace: TurnBudget | None) -> None:
        self.outbox = WriteBatch()
        self.socket: Any = ScriptedSocket()
        self.reactor: Any = Descriptors()
        self.protocol = Ends()
        nobody: Any = None
        address = ("127.0.0.1", 4711)
        arguments: Any
        arguments = (self.socket, self.protocol, address, nobody, 1, self.reactor)
        self.transport = (
            DirectWriteTransport(pace, self.outbox, *arguments)
            if pace
            else Server(*arguments)
        )
        self.protocol.makeConnection(self.transport)

    @property
    def waits(self) -> bool:
        return self.transport in self.reactor.writers

    def turn(self) -> None:
        """Let the socket be written to, as a reactor does."""
        if self.waits and (why := self.transport.doWrite()):
            self.reactor.removeReader(self.transport)
            self.reactor.removeWriter(self.transport)
            self.transport.connectionLost(Failure(why))

    def flush(self) -> None:
        while self.waits:
            self.turn()


class WritingTests(SynchronousTestCase):
    """Writes to a scripted socket."""

    def setUp(self) -> None:
        self.connected = Connected(TurnBudget(EagerClock(), 1))
        self.socket = self.connected.socket
        self.transport = self.connected.transport
        self.told = self.connected.protocol.told

    def test_write_goes_out_at_once(self) -> None:
        for data in (b"one", b"two", b""):
            self.transport.write(data)
        self.assertEqual(self.socket.sent, b"onetwo")
        self.assertFalse(self.connected.waits)
        self.assertRaises(TypeError, self.transport.write, "one")

    def test_write_keeps_the_rest_in_its_order(self) -> None:
        for full in (2, errno.EWOULDBLOCK, errno.ENOBUFS):
            taken = b"on" if full == 2 else b""
            self.socket.script = [2] if taken else [OSError(full, "full")]
            self.socket.sends.clear()
            self.transport.write(b"one")
            self.assertEqual((self.socket.sent, self.connected.waits), (taken, True))
            # The socket would take it, but it is not its turn.
            self.transport.write(b"two")
            self.assertEqual(self.socket.sent, taken)
            self.connected.turn()
            self.assertEqual(self.socket.sent, b"onetwo")
            self.assertFalse(self.connected.waits)

    def test_error_in_a_write_ends_the_connection_later(self) -> None:
        self.socket.script = [RESET, RESET]
        self.transport.write(b"one")
        self.transport.write(b"two")
        self.assertEqual((self.told, self.connected.waits), ([], True))
        self.connected.turn()
        self.assertEqual((self.told, self.socket.sent), (["lost"], b""))
        reason = self.successResultOf(self.connected.protocol.lost)
        self.assertIsInstance(reason, ConnectionLost)

    def test_write_after_a_close_is_sent_as_by_twisted(self) -> None:
        for takes in (1, 3):
            ends = []
            for pace in (TurnBudget(EagerClock(), 1), None):
                connected = Connected(pace)
                connected.socket.script = [takes]
                connected.transport.write(b"one")
                connected.transport.loseConnection()
                connected.transport.write(b"two")
                connected.flush()
                ends.append((connected.socket.sent, connected.protocol.told))
            self.assertEqual(ends[0], ends[1])

    def test_write_after_an_end_sends_nothing(self) -> None:
        self.transport.loseWriteConnection()
        self.connected.turn()
        self.transport.write(b"one")
        self.transport.abortConnection()
        self.transport.write(b"one")
        self.assertEqual(self.told, [])
        self.connected.reactor.advance(0)
        self.assertEqual(self.told, ["lost"])
        reason = self.successResultOf(self.connected.protocol.lost)
        self.assertIsInstance(reason, ConnectionAborted)
        self.transport.write(b"one")
        self.assertEqual((self.socket.sent, self.connected.waits), (b"", False))

    def test_write_of_much_pauses_the_producer(self) -> None:
        self.transport.registerProducer(self.connected.protocol, True)
        text = b"x" * self.transport.bufferSize
        self.transport.write(text)
        self.assertEqual(self.told, [])
        self.socket.script = [1, FULL]
        self.transport.write(text + b"yz")
        # One byte more than may be kept.
        self.assertEqual(self.told, ["paused"])
        self.connected.turn()
        self.assertEqual(self.told, ["paused"])
        self.connected.turn()
        self.assertEqual(self.told, ["paused", "resumed"])
        self.assertEqual(self.socket.sent, text + text + b"yz")

    @given(
        st.lists(
            st.one_of(
                st.binary(max_size=10),
                st.sampled_from([b"x" * 70_000, b"y" * 140_000]),
                st.none(),
            ),
            max_size=12,
        ),
        st.lists(st.one_of(st.just(FULL), st.integers(0, 8)), max_size=12),
    )
    def test_writes_of_any_length_keep_their_order(
        self, writes: list[bytes | None], script: list[int | OSError]
    ) -> None:
        connected = Connected(TurnBudget(EagerClock(), 1))
        connected.socket.script = script
        written = b""
        for data in writes:
            if data is None:
                connected.turn()
            else:
                written += data
                connected.transport.write(data)
            self.assertTrue(written.startswith(connected.socket.sent))
            whole = connected.socket.sent == written
            self.assertTrue(whole or connected.waits)
        connected.flush()
        self.assertEqual(connected.socket.sent, written)


class HoldingTests(SynchronousTestCase):
    """Writes that follow from a read wait for its end."""

    def setUp(self) -> None:
        self.connected = Connected(TurnBudget(EagerClock(), 1))
        self.outbox = self.connected.outbox
        self.sent: list[str] = []
        self.connected.socket.recv = self.received
        self.reads: list[bytes | OSError] = []

    def received(self, size: int) -> bytes:
        read = self.reads.pop(0)
        if isinstance(read, OSError):
            raise read
        return read

    def hold(self, name: str) -> None:
        """Hold a write, as connections do."""
        waiting = self.outbox.waiting
        if waiting is None:
            self.sent.append(f"{name} at once")
            return
        broken: Any = SimpleNamespace(send_held=lambda: 1 / 0)
        sender: Any = SimpleNamespace(send_held=lambda: self.sent.append(name))
        waiting.extend((broken, sender))

    def test_held_writes_follow_the_read_in_order(self) -> None:
        def act(data: bytes) -> None:
            for name in data.decode():
                self.hold(name)
            self.assertEqual(self.sent, [])

        self.connected.protocol.dataReceived = act  # type: ignore[method-assign]
        self.reads = [b"abc"]
        self.assertIsNone(self.connected.transport.doRead())
        self.assertEqual(self.sent, ["a", "b", "c"])
        self.hold("d")
        self.assertEqual(self.sent[3:], ["d at once"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 3)

    def test_held_writes_follow_a_failed_read(self) -> None:
        def act(data: bytes) -> None:
            self.hold("a")
            raise ZeroDivisionError

        self.connected.protocol.dataReceived = act  # type: ignore[method-assign]
        self.reads = [b"a"]
        self.assertRaises(ZeroDivisionError, self.connected.transport.doRead)
        self.assertEqual((self.sent, self.outbox.waiting), (["a"], None))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_read_of_nothing_leaves_no_batch_open(self) -> None:
        self.reads = [OSError(errno.EWOULDBLOCK, "empty"), b"", RESET]
        for why in (None, ConnectionDone, ConnectionLost):
            found = self.connected.transport.doRead()
            self.assertIsInstance(found, why or type(None))
            self.assertIsNone(self.outbox.waiting)


class EndingTests(SynchronousTestCase):
    """Several ends at once, and one in each turn."""

    def setUp(self) -> None:
        self.clock = Clock()
        pace = TurnBudget(self.clock, 1)
        self.first, self.second = Connected(pace), Connected(pace)

    def told(self) -> list[list[str]]:
        return [self.first.protocol.told, self.second.protocol.told]

    def end(self, connected: Connected, reason: Exception) -> None:
        connected.transport.connectionLost(Failure(reason))

    def test_ends_come_in_turns_and_once(self) -> None:
        self.end(self.first, ConnectionDone())
        self.end(self.second, ConnectionLost())
        self.assertEqual(self.told(), [["lost"], []])
        self.end(self.first, ConnectionLost())
        self.end(self.second, ConnectionDone())
        self.clock.pump([0, 0, 0])
        self.assertEqual(self.told(), [["lost"], ["lost"]])
        reason = self.successResultOf(self.second.protocol.lost)
        self.assertIsInstance(reason, ConnectionLost)

    def test_end_that_waits_writes_nothing(self) -> None:
        self.end(self.first, ConnectionDone())
        self.end(self.second, ConnectionDone())
        self.second.transport.write(b"one")
        self.second.transport.loseConnection()
        self.second.transport.abortConnection()
        self.second.reactor.advance(0)
        self.assertEqual((self.second.socket.sends, self.second.waits), ([], False))
        self.assertEqual(self.told(), [["lost"], []])
        self.clock.advance(0)
        self.assertEqual(self.told(), [["lost"], ["lost"]])

    def test_end_that_waits_drops_the_rest_of_a_write(self) -> None:
        self.second.socket.script = [1]
        self.second.transport.write(b"one")
        self.end(self.first, ConnectionDone())
        # As the reactor does when the client has closed its half.
        self.second.reactor.removeReader(self.second.transport)
        self.second.transport.readConnectionLost(Failure(ConnectionDone()))
        self.second.turn()
        self.assertEqual((self.second.socket.sent, self.second.waits), (b"o", False))


class SocketTests(TestCase):
    """Over the loopback interface."""

    def setUp(self) -> Deferred[None]:  # type: ignore[override]
        self.outbox = WriteBatch()
        self.protocol = Ends()
        made: Deferred[None] = Deferred()
        self.protocol.connectionMade = (  # type: ignore[method-assign]
            lambda: made.callback(None)
        )
        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = (  # type: ignore[method-assign]
            lambda addr: self.protocol
        )
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        port.transport = partial(
            DirectWriteTransport, TurnBudget(EagerClock(), 1), self.outbox
        )
        self.addCleanup(port.stopListening)
        address = ("127.0.0.1", port.getHost().port)
        self.client = socket.create_connection(address, PATIENCE)
        self.addCleanup(self.hang_up)
        return made

    def hang_up(self) -> Deferred[BaseException]:
        self.client.close()
        self.transport.abortConnection()
        return self.protocol.lost

    @property
    def transport(self) -> Any:
        return self.protocol.transport

    @inlineCallbacks
    def test_slow_reader_gets_everything_in_order(self) -> Any:
        self.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.transport.registerProducer(self.protocol, True)
        self.client.setblocking(False)
        written = b"".join(number.to_bytes(4, "big") for number in range(1 << 18))
        for start in range(0, len(written), 300_000):
            self.transport.write(written[start : start + 300_000])
        self.assertEqual(self.protocol.told[0], "paused")
        self.assertIn(self.transport, reactor.getWriters())
        received = b""
        while len(received) < len(written):
            with contextlib.suppress(BlockingIOError):
                received += self.client.recv(1 << 16)
            yield deferLater(reactor, 0)
        self.assertTrue(received == written)
        self.assertEqual(set(self.protocol.told[:-1]), {"paused"})
        self.assertEqual(self.protocol.told[-1], "resumed")
        self.assertNotIn(self.transport, reactor.getWriters())

    @inlineCallbacks
    def test_close_sends_everything_before_the_end(self) -> Any:
        self.transport.write(b"bye")
        self.assertEqual(self.client.recv(3), b"bye")
        self.transport.write(b"bye")
        self.transport.loseConnection()
        reason = yield self.protocol.lost
        self.assertIsInstance(reason, ConnectionDone)
        self.assertEqual(self.client.recv(4), b"bye")
