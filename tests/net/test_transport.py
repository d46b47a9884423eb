"""The sockets of clients: writes go out at once, and in order."""

from __future__ import annotations

import errno
import socket
import struct
from functools import partial
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.tcp import Server
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from proxyrelay.net.pacing import TurnBudget
from proxyrelay.net.transport import (
    DirectWriteTransport,
)
from proxyrelay.net.write_batch import WriteBatch
from tests.support.clock import EagerClock

reactor: Any = _reactor

PATIENCE = 20.0
"""Seconds after which a socket that blocks gives up: a failure, not a pace."""

FULL = OSError(errno.EWOULDBLOCK, "full")

RESET = OSError(errno.ECONNRESET, "reset")


class ScriptedSocket:
    """A socket that takes as much as it is told to, and then everything."""

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
    """A reactor that does what the test says."""

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
    """Remembers how the connection ended, and is its producer."""

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
    """A connection whose socket and reactor do what the test says.

    Args:
        pace: Spreads the ends of connections; None for one of Twisted's own.
    """

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
        """Whether the reactor shall say when the socket can be written to."""
        return self.transport in self.reactor.writers

    def turn(self) -> None:
        """The socket can be written to; errors end the connection as in a reactor."""
        if self.waits and (why := self.transport.doWrite()):
            self.reactor.removeReader(self.transport)
            self.reactor.removeWriter(self.transport)
            self.transport.connectionLost(Failure(why))

    def flush(self) -> None:
        """Let everything be written."""
        while self.waits:
            self.turn()


class WritingTests(SynchronousTestCase):
    """With a socket that does what the test says."""

    def setUp(self) -> None:
        self.connected = Connected(TurnBudget(EagerClock(), 1))
        self.socket = self.connected.socket
        self.transport = self.connected.transport
        self.told = self.connected.protocol.told

    def test_writes_at_once(self) -> None:
        self.transport.write(b"one")
        self.transport.write(b"two")
        self.assertEqual(self.socket.sends, [b"one", b"two"])
        self.assertFalse(self.connected.waits)

    def test_nothing_is_nothing_to_wait_for(self) -> None:
        self.transport.write(b"")
        self.assertEqual((self.socket.sent, self.connected.waits), (b"", False))

    def test_keeps_what_the_socket_does_not_take(self) -> None:
        self.socket.script = [2]
        self.transport.write(b"one")
        self.assertEqual((self.socket.sent, self.connected.waits), (b"on", True))
        # The socket would take it, but it is not its turn.
        self.transport.write(b"two")
        self.assertEqual(self.socket.sent, b"on")
        self.connected.turn()
        self.assertEqual((self.socket.sent, self.connected.waits), (b"onetwo", False))
        self.transport.write(b"three")
        self.assertEqual(self.socket.sends[-1], b"three")

    def test_keeps_all_if_the_socket_is_full(self) -> None:
        for full in (errno.EWOULDBLOCK, errno.ENOBUFS):
            self.socket.script = [OSError(full, "full")] * 2
            self.transport.write(b"one")
            self.assertEqual((self.socket.sent, self.connected.waits), (b"", True))
            self.connected.turn()
            self.assertEqual((self.socket.sent, self.connected.waits), (b"", True))
            self.connected.turn()
            self.assertEqual(self.socket.sent, b"one")
            self.assertFalse(self.connected.waits)
            self.socket.sends.clear()

    def test_an_error_ends_the_connection_and_not_inside_of_write(self) -> None:
        self.socket.script = [RESET, RESET]
        self.transport.write(b"one")
        self.transport.write(b"two")
        self.assertEqual((self.told, self.connected.waits), ([], True))
        self.connected.turn()
        self.assertEqual((self.told, self.socket.sent), (["lost"], b""))
        reason = self.successResultOf(self.connected.protocol.lost)
        self.assertIsInstance(reason, ConnectionLost)

    def test_writes_nothing_once_the_connection_is_over(self) -> None:
        self.transport.connectionLost(Failure(ConnectionDone()))
        self.transport.write(b"one")
        self.assertEqual((self.socket.sends, self.connected.waits), ([], False))

    def test_what_is_written_before_the_end_comes_before_it(self) -> None:
        self.socket.script = [2, FULL]
        self.transport.write(b"one")
        self.transport.loseConnection()
        self.connected.turn()
        self.assertEqual((self.told, self.socket.sent), ([], b"on"))
        self.connected.turn()
        self.assertEqual((self.told, self.socket.sent), (["lost"], b"one"))
        reason = self.successResultOf(self.connected.protocol.lost)
        self.assertIsInstance(reason, ConnectionDone)

    def test_what_is_written_behind_the_end_is_sent_as_by_twisted(self) -> None:
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

    def test_writes_nothing_behind_an_abort(self) -> None:
        self.transport.abortConnection()
        self.transport.write(b"one")
        self.assertEqual((self.told, self.socket.sent), ([], b""))
        self.connected.reactor.advance(0)
        self.assertEqual((self.told, self.socket.sent), (["lost"], b""))
        reason = self.successResultOf(self.connected.protocol.lost)
        self.assertIsInstance(reason, ConnectionAborted)

    def test_writes_nothing_once_its_half_is_closed(self) -> None:
        self.transport.loseWriteConnection()
        self.connected.turn()
        self.transport.write(b"one")
        self.assertEqual((self.socket.sent, self.connected.waits), (b"", False))

    def test_refuses_what_is_not_bytes(self) -> None:
        self.assertRaises(TypeError, self.transport.write, "one")
        self.assertEqual((self.socket.sends, self.connected.waits), ([], False))

    def test_pauses_a_producer_when_much_is_kept(self) -> None:
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

    def test_does_not_pause_a_producer_for_less(self) -> None:
        self.transport.registerProducer(self.connected.protocol, True)
        self.socket.script = [1]
        self.transport.write(b"x" * self.transport.bufferSize + b"y")
        self.connected.flush()
        self.assertEqual(self.told, [])

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
    def test_the_order_is_kept(
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
    """What comes of one read is held back until all of it was acted upon."""

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
        """Have something to send, as connections have."""
        waiting = self.outbox.waiting
        if waiting is None:
            self.sent.append(f"{name} at once")
            return
        sender: Any = SimpleNamespace(send_held=lambda: self.sent.append(name))
        waiting.append(sender)

    def test_is_sent_in_its_order_and_behind_the_read(self) -> None:
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

    def test_is_sent_if_the_read_fails(self) -> None:
        def act(data: bytes) -> None:
            self.hold("a")
            raise ZeroDivisionError

        self.connected.protocol.dataReceived = act  # type: ignore[method-assign]
        self.reads = [b"a"]
        self.assertRaises(ZeroDivisionError, self.connected.transport.doRead)
        self.assertEqual((self.sent, self.outbox.waiting), (["a"], None))

    def test_is_nothing_if_nothing_was_read(self) -> None:
        self.reads = [OSError(errno.EWOULDBLOCK, "empty"), b"", RESET]
        for why in (None, ConnectionDone, ConnectionLost):
            found = self.connected.transport.doRead()
            self.assertIsInstance(found, why or type(None))
            self.assertIsNone(self.outbox.waiting)


class EndingTests(SynchronousTestCase):
    """When several connections end at once, and one may end in each turn."""

    def setUp(self) -> None:
        self.clock = Clock()
        pace = TurnBudget(self.clock, 1)
        self.first, self.second = Connected(pace), Connected(pace)

    def told(self) -> list[list[str]]:
        return [self.first.protocol.told, self.second.protocol.told]

    def end(self, connected: Connected, reason: Exception) -> None:
        connected.transport.connectionLost(Failure(reason))

    def test_they_end_in_turns_and_once(self) -> None:
        self.end(self.first, ConnectionDone())
        self.end(self.second, ConnectionLost())
        self.assertEqual(self.told(), [["lost"], []])
        self.end(self.first, ConnectionLost())
        self.end(self.second, ConnectionDone())
        self.clock.pump([0, 0, 0])
        self.assertEqual(self.told(), [["lost"], ["lost"]])
        reason = self.successResultOf(self.second.protocol.lost)
        self.assertIsInstance(reason, ConnectionLost)

    def test_one_that_waits_for_its_end_writes_nothing(self) -> None:
        self.end(self.first, ConnectionDone())
        self.end(self.second, ConnectionDone())
        self.second.transport.write(b"one")
        self.second.transport.loseConnection()
        self.assertEqual((self.second.socket.sends, self.second.waits), ([], False))

    def test_one_that_waits_for_its_end_may_be_aborted(self) -> None:
        self.end(self.first, ConnectionDone())
        self.end(self.second, ConnectionDone())
        self.second.transport.abortConnection()
        self.second.reactor.advance(0)
        self.assertEqual(self.told(), [["lost"], []])
        self.clock.advance(0)
        self.assertEqual(self.told(), [["lost"], ["lost"]])

    def test_one_that_waits_for_its_end_writes_nothing_of_before(self) -> None:
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

    def read(self, length: int) -> bytes:
        """So many bytes, in the turn of the reactor that this is called in."""
        received = b""
        while len(received) < length:
            piece = self.client.recv(length - len(received))
            if not piece:
                break
            received += piece
        return received

    def test_is_there_before_the_next_turn(self) -> None:
        self.assertIsInstance(self.transport, DirectWriteTransport)
        self.transport.write(b"one")
        self.assertEqual(self.read(3), b"one")
        self.assertNotIn(self.transport, reactor.getWriters())

    def test_a_slow_reader_gets_everything_in_its_order(self) -> Deferred[None]:
        self.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.transport.registerProducer(self.protocol, True)
        written = b"".join(number.to_bytes(4, "big") for number in range(1 << 18))
        for start in range(0, len(written), 300_000):
            self.transport.write(written[start : start + 300_000])
        self.assertEqual(self.protocol.told[0], "paused")
        self.assertIn(self.transport, reactor.getWriters())
        received = bytearray()
        self.client.setblocking(False)

        def read() -> None:
            try:
                received.extend(self.client.recv(1 << 16))
            except BlockingIOError:
                return

        def check(_: object) -> None:
            self.assertEqual(set(self.protocol.told[:-1]), {"paused"})
            self.client.settimeout(PATIENCE)
            received.extend(self.read(len(written) - len(received)))
            if received != written:
                self.fail("it came in another order")
            self.assertNotIn(self.transport, reactor.getWriters())

        reader = Reader(self.client, read)
        reactor.addReader(reader)
        self.addCleanup(reactor.removeReader, reader)
        return self.protocol.resumed.addCallback(check)

    def test_a_reset_is_noticed_later(self) -> Deferred[BaseException]:
        linger = struct.pack("ii", 1, 0)
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.client.close()
        for _ in range(3):
            self.transport.write(b"one")
        self.assertEqual(self.protocol.told, [])
        return self.protocol.lost

    def test_the_last_word_comes_before_the_end(self) -> Deferred[None]:
        self.transport.write(b"bye")
        self.transport.loseConnection()

        def check(reason: BaseException) -> None:
            self.assertIsInstance(reason, ConnectionDone)
            self.assertEqual(self.read(4), b"bye")

        return self.protocol.lost.addCallback(check)


class Reader:
    """Calls something when a socket can be read.

    Args:
        readable: The socket.
        read: What to call.
    """

    def __init__(self, readable: socket.socket, read: Any) -> None:
        self.fileno = readable.fileno
        self.doRead = read

    def connectionLost(self, reason: Failure) -> None:
        """Not to be expected."""

    def logPrefix(self) -> str:  # noqa: N802
        return "reader"
