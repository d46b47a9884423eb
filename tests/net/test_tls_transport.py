"""TLS on the sockets of clients, with the client's bytes in the test's hands."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import socket
import ssl
import struct
import weakref
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet import reactor as _reactor
from twisted.internet.defer import inlineCallbacks
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHandshakeListener, ISSLTransport
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from proxyrelay.net.pacing import TurnBudget
from proxyrelay.net.tls_context import TlsContexts
from proxyrelay.net.tls_transport import (
    MAX_HANDSHAKE_RECORDS,
    MAX_RECORD_BYTES,
    MIN_RECORD_CHARGE_BYTES,
    TlsTransport,
)
from proxyrelay.net.write_batch import WriteBatch
from tests.net.test_transport import PATIENCE, Descriptors, Ends
from tests.support.certificates import Authority
from tests.support.clock import EagerClock
from tests.support.keyupdate import KeyUpdater

reactor: Any = _reactor

MEGABYTE = 1 << 20

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)

ALERT = 21
"""Type of a record with an alert (RFC 8446, section 5.1)."""

errors: Any = SSL._lib  # type: ignore[attr-defined]
"""OpenSSL's list of errors, as pyOpenSSL sees it."""


@cache
def authority() -> Authority:
    """One authority for all tests: keys take time."""
    return Authority()


@cache
def contexts() -> TlsContexts:
    """Contexts of the relay."""
    return TlsContexts(authority().pair())


@cache
def client_context(version: ssl.TLSVersion | None) -> ssl.SSLContext:
    """Context of a client, of one version."""
    context = authority().client_context()
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection over the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname(), PATIENCE)
        near, _ = listener.accept()
    return near, far


def small_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection with a small buffer."""
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return near, far


def sent(sender: socket.socket, data: bytes | memoryview) -> int:
    """Send what the socket takes; returns the number of bytes."""
    try:
        return sender.send(data)
    except BlockingIOError:
        return 0


def fill(sender: socket.socket) -> int:
    """Send until the socket is full; returns the number of bytes."""
    filled = 0
    while count := sent(sender, b"x"):
        filled += count
    return filled


class Loop(Descriptors):
    """A reactor of real sockets. The test takes its turns."""

    def turn(self) -> bool:
        """Let all transports read and write once; tells whether any could."""
        readers: list[Any] = [*self.readers]
        writers: list[Any] = [*self.writers]
        read, write, _ = select.select(readers, writers, [], 0)
        for ready, name in ((read, "doRead"), (write, "doWrite")):
            for transport in ready:
                if transport in (self.readers | self.writers):
                    over = getattr(transport, name)()
                    if over is not None:
                        self.discard(transport, over)
        return bool(read or write)

    def discard(self, transport: Any, over: Any) -> None:
        self.removeReader(transport)
        self.removeWriter(transport)
        transport.connectionLost(Failure(over))

    def run(self) -> None:
        while self.turn():
            pass


@implementer(IHandshakeListener)
class Talker(Ends):
    """Keeps the received data, and echoes it on request."""

    transport: Any

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Any] = []
        self.echo = False
        self.reason: BaseException | None = None

    def handshakeCompleted(self) -> None:
        self.told.append("shaken")

    def record_without_data(self) -> None:
        """As `RelayProtocol` has it."""

    def dataReceived(self, data: bytes) -> None:
        self.heard.append(data)
        if self.echo:
            self.transport.write(data)

    def resumeProducing(self) -> None:
        self.told.append("resumed")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.reason = reason.value

    @property
    def text(self) -> bytes:
        return b"".join(self.heard)


class Link:
    """A connection. Its client's TLS ends in memory.

    Args:
        loop: Runs the relay's side.
        version: Of TLS; None for the newest.
        pair: Makes the two sockets.
    """

    def __init__(
        self,
        loop: Loop,
        version: ssl.TLSVersion | None = None,
        pair: Callable[[], tuple[socket.socket, socket.socket]] = socket.socketpair,
    ) -> None:
        near, self.far = pair()
        self.far.setblocking(False)
        self.loop = loop
        self.protocol = Talker()
        self.told = self.protocol.told
        arguments: Any = (near, self.protocol, ("127.0.0.1", 4711), None, 1, loop)
        pace = TurnBudget(EagerClock(), 1)
        self.transport = TlsTransport(
            contexts().begin, pace, pace, WriteBatch(), *arguments
        )
        self.protocol.makeConnection(self.transport)
        self._from_relay, self._to_relay = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.begin_client(client_context(version))
        self.ended = False
        self.wire = b""

    def begin_client(self, context: ssl.SSLContext) -> None:
        self.client = context.wrap_bio(
            self._from_relay, self._to_relay, server_hostname="127.0.0.1"
        )

    @property
    def waits(self) -> bool:
        return self.transport in self.loop.writers

    @property
    def reads(self) -> bool:
        return self.transport in self.loop.readers

    # -- the client

    def taken(self) -> bytes:
        """Bytes that the client would put into its socket."""
        return self._to_relay.read()

    def step(self) -> bytes:
        """The client's next part of the handshake."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.client.do_handshake()
        return self.taken()

    def put(self, data: bytes, size: int | None = None) -> None:
        """Put bytes into the client's socket, in pieces that are read one by one."""
        self.loop.run()
        for start in range(0, len(data), size or len(data) or 1):
            left = memoryview(data)[start : start + (size or len(data))]
            while left:
                left = left[sent(self.far, left) :]
                self.loop.turn()
            self.loop.run()

    def fetch(self) -> None:
        """Give the client the bytes in its socket."""
        while not self.ended:
            try:
                data = self.far.recv(65536)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            if not data:
                self.ended = True
                self._from_relay.write_eof()
            else:
                self.wire += data
                self._from_relay.write(data)

    def shake(self, size: int | None = None) -> None:
        """Shake hands, and take the tickets."""
        while "shaken" not in self.told:
            assert not self.ended
            self.put(self.step(), size)
            self.fetch()
        self.client.do_handshake()
        assert self.hear() == b""

    def say(self, text: bytes, size: int | None = None) -> None:
        """Send a text, in pieces of the socket."""
        self.client.write(text)
        self.put(self.taken(), size)

    def hear(self, length: int = MEGABYTE) -> bytes:
        """Read all that the client was sent, or a number of bytes."""
        heard = bytearray()
        while len(heard) < length:
            self.loop.run()
            self.fetch()
            try:
                piece = self.client.read(length - len(heard))
            except ssl.SSLWantReadError:
                self.loop.run()
                if not select.select([self.far], [], [], 0)[0] or self.ended:
                    break
                continue
            if not piece:
                break
            heard += piece
        return bytes(heard)

    def part(self) -> bool:
        """Send close_notify; tells whether the relay has sent its own."""
        try:
            self.client.unwrap()
        except ssl.SSLWantReadError:
            self.put(self.taken())
            self.fetch()
            try:
                self.client.unwrap()
            except ssl.SSLError:
                return False
        self.put(self.taken())
        return True

    def reset(self) -> None:
        """End a connection over TCP with a reset."""
        linger = struct.pack("ii", 1, 0)
        self.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.far.close()

    # -- the relay

    def lose(self) -> None:
        """Let the relay close the connection."""
        self.transport.loseConnection()
        self.loop.run()

    def write_out(self) -> Any:
        """Let the relay write, as the reactor does; returns the reason for an end."""
        over = self.transport.doWrite()
        if over is not None:
            self.loop.discard(self.transport, over)
        return over

    def close(self) -> None:
        """Leave nothing behind."""
        self.far.close()
        self.transport.abortConnection()
        self.loop.advance(0)


class TlsTestCase(SynchronousTestCase):
    """Has connections, and counts OpenSSL's errors."""

    def setUp(self) -> None:
        self.loop = Loop()
        errors.ERR_clear_error()

    def link(self, version: ssl.TLSVersion | None = None, **options: Any) -> Link:
        """A connection at its beginning."""
        link = Link(self.loop, version, **options)
        self.addCleanup(link.close)
        return link

    def shaken(self, version: ssl.TLSVersion | None = None, **options: Any) -> Link:
        """A connection after its handshake."""
        link = self.link(version, **options)
        link.shake()
        return link

    def same(self, found: bytes, wanted: bytes) -> None:
        """Compare long texts; a failure does not show them."""
        self.assertTrue(found == wanted, f"{len(found)} bytes of {len(wanted)}")

    def assert_over(
        self, link: Link, kind: type[BaseException], reason: str = ""
    ) -> None:
        """The connection is over, for a reason, and the loop does not know it."""
        self.assertIsInstance(link.protocol.reason, kind)
        self.assertIn(reason, str(link.protocol.reason))
        self.assertEqual((link.reads, link.waits), (False, False))
        self.assertEqual(link.told.count("lost"), 1)
        # Twisted's TLS has connections in this thread, and does not look first.
        self.assertEqual(errors.ERR_peek_error(), 0)


def cut_up(message: bytes) -> bytes:
    """Records of one byte, with a record's content."""
    return b"".join(b"\x16\x03\x01\0\1" + bytes([byte]) for byte in message)


class HandshakeTests(TlsTestCase):
    """From the first byte to the first text."""

    def test_handshake_in_any_pieces_is_done(self) -> None:
        for version in VERSIONS:
            for size in (None, 1):
                link = self.link(version)
                link.shake(size)
                self.assertEqual((link.told, link.protocol.heard), (["shaken"], []))
                link.say(b"one", size)
                self.assertEqual((link.told, link.protocol.text), (["shaken"], b"one"))
                self.assertTrue(ISSLTransport.providedBy(link.transport))

    def test_hello_in_few_records_is_answered(self) -> None:
        link = self.link()
        hello = link.step()[5:]
        rest = len(hello) - MAX_HANDSHAKE_RECORDS + 1
        last = b"\x16\x03\x01" + rest.to_bytes(2, "big") + hello[-rest:]
        link.put(cut_up(hello[:-rest]) + last)
        link.fetch()
        self.assertNotEqual((link.wire, link.told), (b"", ["lost"]))
        link.shake()

    def test_handshake_in_many_records_or_bytes_is_refused(self) -> None:
        start = b"\x01\0\xff\xff"
        records = cut_up(start + bytes(MAX_HANDSHAKE_RECORDS))
        long = b"\x16\x03\x01\x40\0" + start + bytes(0x3FFC)
        for steps, data in ((0, records), (1, records), (0, long * 3)):
            link = self.link(pair=tcp_pair)
            for _ in range(steps):
                link.put(link.step())
                link.fetch()
            link.far.setblocking(True)
            link.far.send(data)
            self.loop.run()
            self.assert_over(link, SSL.Error, "too many bytes or records")

    def test_handshake_over_the_budget_waits(self) -> None:
        link = self.link()
        full = TurnBudget(Clock(), 1)
        full.try_acquire()
        link.transport._handshakes = full
        sent(link.far, memoryview(link.step()))
        self.loop.turn()
        link.fetch()
        self.assertEqual((link.wire, full.backlogged), (b"", True))

    def test_handshake_spends_the_budget_once_it_is_answered(self) -> None:
        link = self.link()
        link.transport._handshakes = budget = TurnBudget(Clock(), 1)
        hello = link.step()
        link.put(hello[:-1], size=50)
        self.assertFalse(budget.full)
        link.put(hello[-1:])
        self.assertTrue(budget.full)

    def test_answer_to_a_full_socket_waits(self) -> None:
        for version in VERSIONS:
            link = self.link(version)
            near = link.transport.socket
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            filled = fill(near)
            link.put(link.step())
            self.assertTrue(link.waits)
            while filled:
                filled -= len(link.far.recv(min(filled, 100)))
                self.loop.run()
            link.fetch()
            link.shake()
            self.assertFalse(link.waits)
            link.say(b"one")
            self.assertEqual(link.protocol.text, b"one")

    def test_garbage_ends_the_connection(self) -> None:
        # OpenSSL answers bytes that look like TLS.
        for garbage, alert in (
            (b"GET / HTTP/1.1\r\n\r\n", b""),
            (bytes(100), b""),
            (b"\x16\x03\1\0\4junk", bytes([ALERT])),
        ):
            link = self.link()
            link.put(garbage)
            self.assert_over(link, SSL.Error)
            reason: Any = link.protocol.reason
            self.assertTrue(reason.args[0])
            link.fetch()
            self.assertEqual((link.ended, link.told), (True, ["lost"]))
            self.assertEqual(link.wire[:1], alert)

    def test_client_without_trust_is_named_in_the_reason(self) -> None:
        link = self.link()
        link.begin_client(ssl.create_default_context())
        self.assertRaises(ssl.SSLCertVerificationError, link.shake)
        link.put(link.taken())
        self.assert_over(link, SSL.Error, "unknown ca")

    def test_end_within_a_hello_is_a_lost_connection(self) -> None:
        for length in (0, 1, 100):
            link = self.link()
            link.put(link.step()[:length])
            self.assertEqual(link.transport.silent, not length)
            link.far.close()
            self.loop.run()
            self.assert_over(link, ConnectionLost)

    def test_close_within_a_hello_ends_at_once(self) -> None:
        link = self.link()
        link.put(b"\x16\x03")
        link.lose()
        self.assert_over(link, ConnectionDone)
        link = self.link()
        link.transport.abortConnection()
        self.loop.advance(0)
        self.assert_over(link, ConnectionAborted)


class ReadingTests(TlsTestCase):
    """Received data."""

    @settings(max_examples=25, deadline=None)
    @given(
        st.sampled_from(VERSIONS),
        st.lists(st.integers(0, 40_000), max_size=6),
        st.integers(1, 50_000),
    )
    def test_read_in_any_pieces_is_complete(
        self, version: ssl.TLSVersion, lengths: list[int], size: int
    ) -> None:
        link = self.shaken(version)
        texts = [bytes([length % 251]) * length for length in lengths]
        for text in texts:
            link.client.write(text)
        sealed = link.taken()
        link.put(sealed, max(size, len(sealed) // 200))
        self.same(link.protocol.text, b"".join(texts))
        link.close()

    def test_read_of_many_records_is_one(self) -> None:
        link = self.shaken()
        outbox = link.transport._outbox
        link.protocol.dataReceived = (  # type: ignore[method-assign]
            lambda data: link.protocol.heard.append((data, outbox.waiting))
        )
        link.transport.pauseProducing()
        for number in range(50):
            link.say(b"%2d" % number)
        self.assertEqual(link.protocol.heard, [])
        link.transport.resumeProducing()
        self.loop.turn()
        # What is written meanwhile, is gathered.
        self.assertEqual(
            link.protocol.heard, [(b"".join(b"%2d" % n for n in range(50)), [])]
        )
        self.assertIsNone(outbox.waiting)

    def test_read_of_short_records_is_bounded(self) -> None:
        link = self.shaken()
        for _ in range(1000):
            link.client.write(b"x")
        link.far.send(link.taken())
        self.loop.turn()
        most = link.transport.bufferSize // MIN_RECORD_CHARGE_BYTES
        self.assertEqual(link.protocol.text, b"x" * most)
        self.loop.run()
        self.assertEqual(link.protocol.text, b"x" * 1000)

    def test_read_leaves_nothing_in_openssl(self) -> None:
        link = self.shaken()
        room = link.transport.bufferSize
        text = os.urandom(room * 2 + 100)
        link.client.write(text)
        link.far.send(link.taken())
        for _ in range(2):
            self.loop.turn()
            self.assertEqual(link.transport._tls.pending(), 0)
        self.assertEqual([len(heard) for heard in link.protocol.heard], [room, room])
        self.loop.run()
        self.assertEqual(link.transport._tls.pending(), 0)
        self.assertEqual(link.protocol.text, text)


class WritingTests(TlsTestCase):
    """Sent data."""

    def test_write_goes_out_at_once(self) -> None:
        link = self.shaken()
        link.transport.write(b"one")
        self.assertFalse(link.waits)
        link.fetch()
        self.assertEqual(link.client.read(3), b"one")
        link.transport.write(b"")
        self.assertEqual((link.hear(), link.waits), (b"", False))

    def test_write_to_a_deaf_client_waits(self) -> None:
        for version in VERSIONS:
            link = self.shaken(version)
            link.transport.registerProducer(link.protocol, True)
            text = os.urandom(MEGABYTE)
            for start in range(0, len(text), 7001):
                link.transport.write(text[start : start + 7001])
            self.loop.run()
            self.assertTrue(link.waits)
            self.assertEqual(set(link.told[1:]), {"paused"})
            link.say(b"one")
            self.assertEqual(link.protocol.text, b"one")
            self.same(link.hear(MEGABYTE), text)
            self.assertFalse(link.waits)
            self.assertEqual(link.told.index("resumed"), len(link.told) - 1)
            link.transport.write(b"one")
            self.assertEqual(link.hear(3), b"one")

    @settings(max_examples=25, deadline=None)
    @given(
        st.lists(
            st.one_of(
                st.integers(1, 300),
                st.sampled_from(
                    [MAX_RECORD_BYTES + more for more in (-1, 0, 1, 50_000, 180_000)]
                ),
                st.none(),
            ),
            min_size=1,
            max_size=15,
        ),
        st.integers(1, 30_000),
    )
    def test_writes_of_any_length_keep_their_order(
        self, writes: list[int | None], takes: int
    ) -> None:
        link = self.shaken(pair=small_pair)
        written = b""
        for number, length in enumerate(writes):
            if length is None:
                # The client takes a little, perhaps a part of a record.
                with contextlib.suppress(BlockingIOError):
                    link._from_relay.write(link.far.recv(takes))
                    self.loop.turn()
            else:
                text = bytes([number % 251]) * length
                written += text
                link.transport.write(text)
        self.same(link.hear(len(written)), written)
        self.assertFalse(link.waits)
        link.close()


class EndingTests(TlsTestCase):
    """The end of a connection."""

    def test_close_sends_everything_before_its_notify(self) -> None:
        for version in VERSIONS:
            link = self.shaken(version)
            text = os.urandom(MEGABYTE)
            link.transport.write(text)
            link.lose()
            self.same(link.hear(MEGABYTE), text)
            # Python takes the relay's close_notify for the end.
            self.assertEqual(link.hear(1), b"")
            self.assertEqual((link.ended, link.protocol.reason), (False, None))
            self.assertTrue(link.part())
            self.assert_over(link, ConnectionDone)

    def test_close_drops_what_comes_or_is_written_after_it(self) -> None:
        link = self.shaken()
        link.lose()
        link.transport.write(b"one")
        for _ in range(5):
            link.say(b"x" * MEGABYTE)
        self.assertEqual((link.protocol.heard, link.protocol.reason), ([], None))
        self.assertFalse(select.select([link.transport], [], [], 0)[0])
        self.assertEqual((link.hear(), link.waits), (b"", False))
        self.assertTrue(link.part())
        self.assert_over(link, ConnectionDone)
        self.assertEqual(link.protocol.heard, [])

    def test_close_waits_for_the_notify_of_the_client(self) -> None:
        for parts in (False, True):
            link = self.shaken()
            if parts:
                with self.assertRaises(ssl.SSLWantReadError):
                    link.client.unwrap()
            link.lose()
            self.assertEqual((link.reads, link.waits), (True, False))
            if parts:
                link.put(link.taken())
            link.far.close()
            self.loop.run()
            self.assert_over(link, ConnectionDone if parts else ConnectionLost)

    def test_notify_of_a_client_is_answered(self) -> None:
        for version in VERSIONS:
            link = self.shaken(version)
            link.client.write(b"bye")
            self.assertTrue(link.part())
            self.assert_over(link, ConnectionDone)
            self.assertEqual(link.protocol.heard, [b"bye"])
            link.fetch()
            self.assertTrue(link.ended)

    def test_end_without_notify_is_a_lost_connection(self) -> None:
        for version in VERSIONS:
            for pair in (socket.socketpair, tcp_pair):
                link = self.shaken(version, pair=pair)
                link.client.write(b"bye")
                link.far.send(link.taken())
                link.far.shutdown(socket.SHUT_WR)
                select.select([link.transport], [], [], PATIENCE)
                self.loop.run()
                self.assert_over(link, ConnectionLost)
                self.assertEqual(link.protocol.text, b"bye")

    def test_record_cut_or_changed_is_not_read(self) -> None:
        for version in VERSIONS:
            for changed in (False, True):
                link = self.shaken(version)
                link.client.write(b"one")
                sealed = link.taken()
                last = bytes([sealed[-1] ^ 1]) if changed else b""
                link.put(sealed[:-1] + last)
                link.far.close()
                self.loop.run()
                self.assert_over(link, SSL.Error if changed else ConnectionLost)
                self.assertEqual(link.protocol.heard, [])

    def test_reset_by_the_client_ends_the_connection(self) -> None:
        for step, reason in (
            ("read", ConnectionLost),
            ("write", ConnectionLost),
            ("close", ConnectionDone),
        ):
            link = self.shaken(pair=tcp_pair)
            link.reset()
            if step == "write":
                for _ in range(3):
                    link.transport.write(b"one")
                self.assertEqual((link.told, link.waits), (["shaken"], True))
                self.assertEqual(errors.ERR_peek_error(), 0)
            elif step == "close":
                link.transport.loseConnection()
            if step != "read":
                link.write_out()
            self.loop.run()
            self.assert_over(link, reason)

    def test_notify_to_a_full_socket_waits(self) -> None:
        link = self.shaken()
        link.transport.loseConnection()
        filled = fill(link.transport.socket)
        self.assertIsNone(link.write_out())
        self.assertEqual((link.waits, link.reads), (True, False))
        while filled:
            filled -= len(link.far.recv(filled))
        self.loop.run()
        self.assertEqual((link.waits, link.reads), (False, True))
        self.assertTrue(link.part())
        self.assert_over(link, ConnectionDone)

    def test_abort_by_the_reader_sends_no_notify(self) -> None:
        link = self.shaken()
        link.protocol.dataReceived = (  # type: ignore[method-assign]
            lambda data: link.transport.abortConnection()
        )
        link.transport.write(b"one")
        link.say(b"go")
        link.transport.write(b"two")
        self.loop.advance(0)
        self.assert_over(link, ConnectionAborted)
        self.assertEqual(link.hear(3), b"one")
        self.assertRaises(ssl.SSLEOFError, link.client.read, 1)

    def test_end_is_followed_by_no_use_of_the_descriptor(self) -> None:
        link = self.shaken()
        calls: list[str] = []
        link.far.close()
        self.loop.run()
        self.assert_over(link, ConnectionLost)

        class Dead:
            """The descriptor may belong to another connection by now."""

            def __getattr__(self, name: str) -> Any:
                calls.append(name)
                raise AssertionError(name)

        link.transport._tls = Dead()  # type: ignore[assignment]
        link.transport.write(b"one")
        link.transport.writeSequence([b"one", b"two"])
        link.transport.loseConnection()
        link.transport.abortConnection()
        link.transport.pauseProducing()
        link.transport.resumeProducing()
        link.transport.unregisterProducer()
        self.loop.advance(0)
        self.loop.run()
        self.assertEqual((calls, link.told.count("lost")), ([], 1))

    def test_end_frees_everything_without_a_collection(self) -> None:
        contexts()
        if gc.isenabled():
            self.addCleanup(gc.enable)
        gc.disable()
        for how in ("notify", "abort", "reset", "no handshake"):
            link = Link(self.loop, pair=tcp_pair)
            descriptor = link.transport.fileno()
            if how != "no handshake":
                link.shake()
                link.say(b"one")
                link.transport.write(b"two")
            if how == "notify":
                link.part()
            elif how == "abort":
                link.transport.abortConnection()
                self.loop.advance(0)
            elif how == "reset":
                link.reset()
            link.far.close()
            self.loop.run()
            self.assertEqual((how, link.told[-1:]), (how, ["lost"]))
            parts = (link.transport, link.transport._tls, link.protocol)
            left = [weakref.ref(part) for part in parts]
            del link, parts
            self.assertEqual((how, [part() for part in left]), (how, [None] * 3))
            self.assertRaises(OSError, os.fstat, descriptor)


class SharedErrorTests(TlsTestCase):
    """OpenSSL has one list of errors for all connections of a thread."""

    def leave(self) -> None:
        """Leave an error in the list, as others than `TlsTransport` may."""
        link = self.shaken(pair=tcp_pair)
        link.reset()
        with self.assertRaises(SSL.SysCallError):
            link.transport._tls.send(b"one")
        self.assertNotEqual(errors.ERR_peek_error(), 0)

    def test_reason_is_never_of_an_earlier_error(self) -> None:
        # pyOpenSSL looks for reasons in the list, whatever OpenSSL makes of it.
        for version in VERSIONS:
            link = self.shaken(version)
            self.leave()
            link.far.close()
            self.loop.run()
            self.assert_over(link, ConnectionLost)
            link = self.link(version)
            self.leave()
            link.put(bytes(100))
            reason: Any = link.protocol.reason
            self.assertEqual(
                [part[-1] for part in reason.args[0]], ["wrong version number"]
            )

    def test_openssl_is_asked_with_an_empty_list_only(self) -> None:
        link = self.link()
        link.transport._tls = watched = Watched(link.transport._tls)  # type: ignore[assignment]
        self.leave()
        link.shake()
        self.leave()
        link.say(b"one")
        self.leave()
        link.transport.write(b"two")
        self.assertEqual(link.hear(3), b"two")
        link.transport.loseConnection()
        self.leave()
        self.loop.run()
        self.assertTrue(link.part())
        self.assertLessEqual(
            {"do_handshake", "recv", "send", "shutdown"}, watched.asked
        )
        self.assert_over(link, ConnectionDone)


class Watched:
    """OpenSSL's side of a connection. It wants an empty list of errors."""

    def __init__(self, tls: SSL.Connection) -> None:
        self._tls = tls
        self.asked: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        if errors.ERR_peek_error():
            raise AssertionError(f"there are errors before {name}")
        self.asked.add(name)
        return getattr(self._tls, name)


class KeyUpdateTests(TestCase):
    """A client of TLS 1.3 that changes its keys, and asks the relay to do so."""

    @inlineCallbacks
    def test_change_of_keys_does_not_end_the_connection(self) -> Any:
        protocol = Talker()
        protocol.echo = True
        factory: Any = Factory()
        factory.noisy = False
        factory.buildProtocol = lambda addr: protocol
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        pace = TurnBudget(EagerClock(), 1)
        port.transport = partial(
            TlsTransport, contexts().begin, pace, pace, WriteBatch()
        )

        def converse() -> list[bytes]:
            address = ("127.0.0.1", port.getHost().port)
            heard = []
            with socket.create_connection(address, PATIENCE) as connection:
                client = KeyUpdater(connection)
                for both in (False, True, True):
                    client.change_keys(1, both=both)
                    client.send(b"one")
                    heard.append(client.recv())
                client.free()
            return heard

        heard = yield deferToThread(converse)
        self.assertEqual(heard, [b"one"] * 3)
        yield protocol.lost
