"""TLS on the sockets of clients: OpenSSL at both ends, every byte under control."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import socket
import ssl
import struct
import subprocess
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from shutil import which
from typing import Any
from unittest import SkipTest

from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHandshakeListener, ISSLTransport
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from proxyrelay.net.pacing import TurnBudget
from proxyrelay.net.proxy_header import ProxyHeaderFactory
from proxyrelay.net.tls_context import TlsContexts
from proxyrelay.net.tls_transport import RECORD, SHORT, TlsTransport
from proxyrelay.net.write_batch import WriteBatch
from tests.net.test_proxy_header import V1
from tests.net.test_transport import PATIENCE, Descriptors, Ends
from tests.support.certificates import Authority
from tests.support.clock import EagerClock

reactor: Any = _reactor

MEGABYTE = 1 << 20

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)

ROUNDS = 5
"""More than a handshake takes."""

ALERT = 21
"""What a record that holds an alert begins with (RFC 8446, section 5.1)."""

WRONG_VERSION = "wrong version number"
"""What OpenSSL says of bytes that are no TLS."""

errors: Any = SSL._lib  # type: ignore[attr-defined]
"""OpenSSL's list of errors, as pyOpenSSL sees it."""


@cache
def authority() -> Authority:
    """The same for all tests: to make keys takes time."""
    return Authority()


@cache
def contexts() -> TlsContexts:
    """What the relay's side begins with."""
    return TlsContexts(authority().pair())


@cache
def client_context(version: ssl.TLSVersion | None) -> ssl.SSLContext:
    """What a client begins with, of one version."""
    context = authority().client_context()
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a connection over the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname(), PATIENCE)
        near, _ = listener.accept()
    return near, far


def sent(sender: socket.socket, data: bytes | memoryview) -> int:
    """Send what the socket takes; returns how much that was."""
    try:
        return sender.send(data)
    except BlockingIOError:
        return 0


def fill(sender: socket.socket) -> int:
    """Send until the socket is full; returns how much that was."""
    filled = 0
    while count := sent(sender, b"x"):
        filled += count
    return filled


class Loop(Descriptors):
    """A reactor of real sockets, whose turns the test takes."""

    def turn(self) -> bool:
        """Let everybody read and write once; tells whether anybody could."""
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
        """Take turns until there is nothing to be done."""
        while self.turn():
            pass


@implementer(IHandshakeListener)
class Talker(Ends):
    """Keeps what it hears, and says it again if it shall."""

    transport: Any

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[bytes] = []
        self.echo = False
        self.reason: BaseException | None = None

    def handshakeCompleted(self) -> None:
        self.told.append("shaken")

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
    """A connection whose client does what the test says.

    The client's TLS ends in memory, so that the test has its bytes in its hands.

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
        self.client = client_context(version).wrap_bio(
            self._from_relay, self._to_relay, server_hostname="127.0.0.1"
        )
        self.ended = False
        self.wire = b""

    @property
    def waits(self) -> bool:
        return self.transport in self.loop.writers

    @property
    def reads(self) -> bool:
        return self.transport in self.loop.readers

    # -- the client

    def taken(self) -> bytes:
        """What the client would put into its socket."""
        return self._to_relay.read()

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
        """Give the client what is in its socket."""
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
        for _ in range(ROUNDS):
            with contextlib.suppress(ssl.SSLWantReadError):
                self.client.do_handshake()
                break
            self.put(self.taken(), size)
            self.fetch()
        else:
            raise AssertionError("the handshake does not end")
        self.put(self.taken(), size)
        assert self.hear() == b""

    def say(self, text: bytes, size: int | None = None) -> None:
        """Send a text, in pieces of the socket."""
        self.client.write(text)
        self.put(self.taken(), size)

    def hear(self, length: int = MEGABYTE) -> bytes:
        """All that the client has been sent, or so much of it."""
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
        """Say the last word; tells whether the relay has said it as well."""
        try:
            self.client.unwrap()
        except ssl.SSLWantReadError:
            self.put(self.taken())
            self.fetch()
            try:
                self.client.unwrap()
            except ssl.SSLError:
                return False
        return True

    def reset(self) -> None:
        """End a connection over TCP with a reset."""
        linger = struct.pack("ii", 1, 0)
        self.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.far.close()

    # -- the end

    def reason(self) -> BaseException | None:
        """Why the connection is over, if it is."""
        return self.protocol.reason

    def close(self) -> None:
        """Leave nothing behind."""
        self.far.close()
        self.transport.abortConnection()
        self.loop.advance(0)


class SecureTestCase(SynchronousTestCase):
    """Has connections, and counts OpenSSL's errors."""

    def setUp(self) -> None:
        self.loop = Loop()
        errors.ERR_clear_error()

    def link(self, version: ssl.TLSVersion | None = None, **options: Any) -> Link:
        """A connection that has begun."""
        link = Link(self.loop, version, **options)
        self.addCleanup(link.close)
        return link

    def shaken(self, version: ssl.TLSVersion | None = None, **options: Any) -> Link:
        """A connection that is up."""
        link = self.link(version, **options)
        link.shake()
        return link

    def assert_over(self, link: Link, kind: type[BaseException]) -> None:
        """It is over, for a reason, and the loop knows nothing of it."""
        self.assertIsInstance(link.reason(), kind)
        self.assertEqual((link.reads, link.waits), (False, False))
        self.assertEqual(link.told.count("lost"), 1)
        # Twisted's TLS has connections in this thread, and does not look first.
        self.assertEqual(errors.ERR_peek_error(), 0)


class HandshakeTests(SecureTestCase):
    """From the first byte to the first text."""

    def test_is_told_once(self) -> None:
        for version in VERSIONS:
            link = self.shaken(version)
            self.assertEqual((link.told, link.protocol.heard), (["shaken"], []))
            self.assertTrue(ISSLTransport.providedBy(link.transport))
            self.assertIsNone(link.transport.getPeerCertificate())

    def test_comes_byte_by_byte(self) -> None:
        for version in VERSIONS:
            link = self.link(version)
            link.shake(size=1)
            link.say(b"one", size=1)
            self.assertEqual((link.told, link.protocol.text), (["shaken"], b"one"))

    def test_comes_whole_before_openssl_is_asked(self) -> None:
        link = self.link(pair=tcp_pair)
        with self.assertRaises(ssl.SSLWantReadError):
            link.client.do_handshake()
        hello = link.taken()
        near, asked = link.transport.socket, list[bytes]()
        self.patch(
            link.transport, "_shake_hands", lambda: asked.append(near.recv(9999))
        )
        for start, end in ((0, 100), (100, len(hello) - 1)):
            link.far.sendall(hello[start:end])
            for _ in range(9):
                link.loop.turn()
            self.assertEqual(asked, [])
        # It is not told again of what it has seen.
        self.assertFalse(link.loop.turn())
        link.far.sendall(hello[-1:])
        while not asked:
            link.loop.turn()
        self.assertEqual(asked, [hello])

    def test_is_refused_in_too_many_pieces(self) -> None:
        link = self.link()
        with self.assertRaises(ssl.SSLWantReadError):
            link.client.do_handshake()
        hello = link.taken()
        header, body = hello[:3], hello[5:]
        link.put(b"".join(header + b"\0\1" + bytes([byte]) for byte in body))
        self.assert_over(link, SSL.Error)
        self.assertIn("too many records", str(link.reason()))

    def test_waits_for_its_turn(self) -> None:
        link = self.link()
        full = TurnBudget(Clock(), 1)
        full.try_acquire()
        link.transport._handshakes = full
        with self.assertRaises(ssl.SSLWantReadError):
            link.client.do_handshake()
        sent(link.far, memoryview(link.taken()))
        link.loop.turn()
        link.fetch()
        self.assertEqual((link.wire, full.backlogged), (b"", True))

    def test_comes_with_the_first_text_in_one_segment(self) -> None:
        for version in VERSIONS:
            link = self.link(version)
            for _ in range(2):
                with self.assertRaises(ssl.SSLWantReadError):
                    link.client.do_handshake()
                if version is VERSIONS[1]:
                    break
                link.put(link.taken())
                link.fetch()
                if link.protocol.told:
                    break
            link.put(link.taken())
            link.fetch()
            link.client.do_handshake()
            link.say(b"one")
            self.assertEqual((link.told, link.protocol.heard), (["shaken"], [b"one"]))

    def test_comes_behind_the_header_of_a_proxy(self) -> None:
        for size in (None, 1):
            link = self.link()
            served, place = link.protocol, link.transport.getPeer()
            factory: Any = Factory()
            factory.buildProtocol = lambda address, served=served: served
            announced = ProxyHeaderFactory(
                factory, lambda host: True, lambda *told: None, self.loop, 10
            )
            announcing: Any = announced.buildProtocol(place)
            link.transport.protocol = announcing
            announcing.makeConnection(link.transport)
            with self.assertRaises(ssl.SSLWantReadError):
                link.client.do_handshake()
            # In one segment with the beginning of the handshake.
            link.put(V1 + link.taken(), size)
            self.assertIs(link.transport.protocol, served)
            link.fetch()
            link.shake()
            link.say(b"one")
            self.assertEqual((link.told, served.text), (["shaken"], b"one"))

    def test_its_answer_waits_if_the_socket_is_full(self) -> None:
        for version in VERSIONS:
            link = self.link(version)
            near = link.transport.socket
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            filled = fill(near)
            with self.assertRaises(ssl.SSLWantReadError):
                link.client.do_handshake()
            link.put(link.taken())
            self.assertTrue(link.waits)
            while filled:
                filled -= len(link.far.recv(min(filled, 100)))
                self.loop.run()
            link.shake()
            self.assertFalse(link.waits)
            link.say(b"one")
            self.assertEqual(link.protocol.text, b"one")

    def test_its_answer_may_have_to_wait_twice(self) -> None:
        link = self.link()
        shake, full = link.transport._tls.do_handshake, [SSL.WantWriteError()] * 2

        def do_handshake() -> None:
            if full:
                raise full.pop()
            shake()

        link.transport._tls.do_handshake = do_handshake  # type: ignore[method-assign]
        with self.assertRaises(ssl.SSLWantReadError):
            link.client.do_handshake()
        link.far.send(link.taken())
        self.assertIsNone(link.transport.doRead())
        self.assertIsNone(link.transport.doWrite())
        self.assertEqual((link.waits, full), (True, []))
        link.shake()
        self.assertEqual((link.told, link.waits), (["shaken"], False))

    def test_garbage_ends_it_for_a_reason(self) -> None:
        alerts = []
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\x16\x03\1\0\4junk"):
            link = self.link()
            link.put(garbage)
            self.assert_over(link, SSL.Error)
            reason: Any = link.reason()
            self.assertTrue(reason.args[0])
            link.fetch()
            self.assertEqual((link.ended, link.told), (True, ["lost"]))
            alerts.append(link.wire[:1])
        # OpenSSL answers what looks like TLS.
        self.assertEqual(alerts, [b"", b"", bytes([ALERT])])

    def test_a_client_that_does_not_trust_is_told_of(self) -> None:
        link = self.link()
        link.client = ssl.create_default_context().wrap_bio(
            link._from_relay, link._to_relay, server_hostname="127.0.0.1"
        )
        self.assertRaises(ssl.SSLCertVerificationError, link.shake)
        link.put(link.taken())
        self.assert_over(link, SSL.Error)
        reason: Any = link.reason()
        self.assertIn("unknown ca", str(reason.args[0]))

    def test_ends_without_a_word(self) -> None:
        for sent in (0, 1, 100):
            link = self.link()
            with self.assertRaises(ssl.SSLWantReadError):
                link.client.do_handshake()
            link.put(link.taken()[:sent])
            link.far.close()
            self.loop.run()
            self.assert_over(link, ConnectionLost)

    def test_is_given_up(self) -> None:
        link = self.link()
        link.put(b"\x16\x03")
        link.transport.loseConnection()
        self.loop.run()
        self.assert_over(link, ConnectionDone)
        link = self.link()
        link.transport.abortConnection()
        self.loop.advance(0)
        self.assert_over(link, ConnectionAborted)


class ReadingTests(SecureTestCase):
    """What a client says."""

    def test_texts_of_any_length_come_back(self) -> None:
        for version in VERSIONS:
            link = self.shaken(version)
            link.protocol.echo = True
            for length in (1, RECORD - 1, RECORD, RECORD + 1, 65536, 65537, MEGABYTE):
                text = os.urandom(length)
                link.say(text)
                if link.hear(length) != text:
                    self.fail(f"{length} bytes did not come back")

    @settings(max_examples=25, deadline=None)
    @given(
        st.sampled_from(VERSIONS),
        st.lists(st.integers(0, 40_000), max_size=6),
        st.integers(1, 50_000),
    )
    def test_pieces_do_not_matter(
        self, version: ssl.TLSVersion, lengths: list[int], size: int
    ) -> None:
        link = self.shaken(version)
        texts = [bytes([length % 251]) * length for length in lengths]
        for text in texts:
            link.client.write(text)
        sealed = link.taken()
        link.put(sealed, max(size, len(sealed) // 200))
        if link.protocol.text != b"".join(texts):
            self.fail("it came otherwise than it was sent")
        link.close()

    def test_many_records_are_one_read(self) -> None:
        link = self.shaken()
        for number in range(50):
            link.client.write(b"%2d" % number)
        link.far.send(link.taken())
        self.loop.turn()
        self.assertEqual(link.protocol.heard, [b"".join(b"%2d" % n for n in range(50))])

    def test_short_records_hold_nobody_up(self) -> None:
        link = self.shaken()
        for _ in range(1000):
            link.client.write(b"x")
        link.far.send(link.taken())
        self.loop.turn()
        most = link.transport.bufferSize // SHORT
        self.assertEqual(link.protocol.text, b"x" * most)
        self.loop.run()
        self.assertEqual(link.protocol.text, b"x" * 1000)

    def test_nothing_stays_in_openssl(self) -> None:
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

    def test_is_held_up_as_long_as_it_shall(self) -> None:
        link = self.shaken()
        link.transport.pauseProducing()
        link.say(b"one")
        self.assertEqual(link.protocol.heard, [])
        link.transport.resumeProducing()
        self.loop.run()
        self.assertEqual(link.protocol.heard, [b"one"])

    def test_what_comes_of_it_is_sent_behind_it(self) -> None:
        link = self.shaken()
        outbox = link.transport._outbox
        held: list[bool] = []
        receive = link.protocol.dataReceived

        def received(data: bytes) -> None:
            held.append(outbox.waiting is not None)
            receive(data)

        link.protocol.dataReceived = received  # type: ignore[method-assign]
        link.say(b"one")
        self.assertEqual((held, outbox.waiting), ([True], None))


class WritingTests(SecureTestCase):
    """What a client is told."""

    def full(self, link: Link, length: int) -> bytes:
        """Write so much in many texts to a client that does not read."""
        small = os.urandom(length)
        for start in range(0, length, 7001):
            link.transport.write(small[start : start + 7001])
        self.assertTrue(link.waits)
        return small

    def test_goes_out_at_once(self) -> None:
        link = self.shaken()
        link.transport.write(b"one")
        self.assertFalse(link.waits)
        link.fetch()
        self.assertEqual(link.client.read(3), b"one")
        link.transport.write(b"")
        self.assertEqual((link.hear(), link.waits), (b"", False))

    def test_waits_for_a_client_that_does_not_read(self) -> None:
        for version in VERSIONS:
            link = self.shaken(version)
            text = self.full(link, MEGABYTE)
            self.loop.run()
            self.assertTrue(link.waits)
            if link.hear(MEGABYTE) != text:
                self.fail("it came in another order")
            self.assertFalse(link.waits)
            link.transport.write(b"one")
            self.assertEqual(link.hear(3), b"one")

    def test_pauses_a_producer_meanwhile(self) -> None:
        link = self.shaken()
        link.transport.registerProducer(link.protocol, True)
        text = self.full(link, MEGABYTE)
        self.assertEqual(set(link.told[1:]), {"paused"})
        if link.hear(MEGABYTE) != text:
            self.fail("it came in another order")
        self.assertEqual(link.told[-1], "resumed")
        self.assertEqual(link.told.count("resumed"), 1)

    @settings(max_examples=25, deadline=None)
    @given(
        st.lists(
            st.one_of(
                st.integers(1, 300),
                st.sampled_from([RECORD - 1, RECORD, RECORD + 1, 70_000, 200_000]),
                st.none(),
            ),
            min_size=1,
            max_size=15,
        ),
        st.integers(1, 30_000),
    )
    def test_the_order_is_kept(self, writes: list[int | None], takes: int) -> None:
        """Also where OpenSSL has a part of a record left, and more is behind it."""
        link = self.shaken(pair=partial(small_pair, 4096))
        written = b""
        for number, length in enumerate(writes):
            if length is None:
                # The client takes a little, in the middle of whatever it is.
                try:
                    data = link.far.recv(takes)
                except BlockingIOError:
                    continue
                link._from_relay.write(data)
                self.loop.turn()
            else:
                text = bytes([number % 251]) * length
                written += text
                link.transport.write(text)
        if link.hear(len(written)) != written:
            self.fail("it came otherwise than it was written")
        self.assertFalse(link.waits)
        link.close()

    def test_reading_goes_on_meanwhile(self) -> None:
        link = self.shaken()
        text = self.full(link, MEGABYTE)
        link.say(b"one")
        self.assertEqual(link.protocol.text, b"one")
        if link.hear(MEGABYTE) != text:
            self.fail("it came in another order")


def small_pair(size: int) -> tuple[socket.socket, socket.socket]:
    """A pair of sockets that take little at a time."""
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    return near, far


class EndingTests(SecureTestCase):
    """How a connection ends."""

    def test_the_last_word_comes_behind_everything(self) -> None:
        for version in VERSIONS:
            link = self.shaken(version)
            text = os.urandom(MEGABYTE)
            link.transport.write(text)
            link.transport.loseConnection()
            self.loop.run()
            self.assertIsNone(link.reason())
            if link.hear(MEGABYTE) != text:
                self.fail("it was cut off")
            # Python takes the relay's last word for the end.
            self.assertEqual(link.hear(1), b"")
            self.assertFalse(link.ended)
            self.assertIsNone(link.reason())
            self.assertTrue(link.part())
            link.put(link.taken())
            self.assert_over(link, ConnectionDone)

    def test_it_waits_for_that_of_the_client(self) -> None:
        link = self.shaken()
        link.transport.loseConnection()
        self.loop.run()
        self.assertEqual((link.reason(), link.reads, link.waits), (None, True, False))
        link.far.close()
        self.loop.run()
        self.assert_over(link, ConnectionLost)

    def test_what_comes_behind_it_is_thrown_away(self) -> None:
        link = self.shaken()
        link.transport.loseConnection()
        self.loop.run()
        for _ in range(5):
            link.say(b"x" * MEGABYTE)
        self.assertEqual((link.protocol.heard, link.reason()), ([], None))
        self.assertFalse(select.select([link.transport], [], [], 0)[0])
        link.fetch()
        self.assertTrue(link.part())
        link.put(link.taken())
        self.assert_over(link, ConnectionDone)
        self.assertEqual(link.protocol.heard, [])

    def test_what_is_written_behind_it_is_not_sent(self) -> None:
        link = self.shaken()
        link.transport.loseConnection()
        self.loop.run()
        link.transport.write(b"one")
        self.loop.run()
        self.assertEqual((link.reason(), link.waits), (None, False))
        self.assertEqual(link.hear(), b"")
        self.assertTrue(link.part())
        link.put(link.taken())
        self.assert_over(link, ConnectionDone)

    def test_the_last_word_of_a_client_is_answered(self) -> None:
        for version in VERSIONS:
            link = self.shaken(version)
            link.client.write(b"bye")
            self.assertTrue(link.part())
            self.assert_over(link, ConnectionDone)
            self.assertEqual(link.protocol.heard, [b"bye"])
            link.fetch()
            self.assertTrue(link.ended)

    def test_both_may_say_it_at_once(self) -> None:
        link = self.shaken()
        with self.assertRaises(ssl.SSLWantReadError):
            link.client.unwrap()
        link.transport.loseConnection()
        link.put(link.taken())
        self.assert_over(link, ConnectionDone)

    def test_the_end_without_a_last_word_is_no_orderly_one(self) -> None:
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

    def test_a_record_that_is_cut_is_no_text(self) -> None:
        link = self.shaken()
        link.client.write(b"one")
        link.far.send(link.taken()[:-1])
        link.far.close()
        self.loop.run()
        self.assert_over(link, ConnectionLost)
        self.assertEqual(link.protocol.heard, [])

    def test_a_record_that_was_changed_is_no_text(self) -> None:
        for version in VERSIONS:
            link = self.shaken(version)
            link.client.write(b"one")
            sealed = link.taken()
            link.put(sealed[:-1] + bytes([sealed[-1] ^ 1]))
            self.assert_over(link, SSL.Error)
            self.assertEqual(link.protocol.heard, [])

    def test_a_reset_while_it_reads(self) -> None:
        link = self.shaken(pair=tcp_pair)
        link.reset()
        self.loop.run()
        self.assert_over(link, ConnectionLost)

    def test_a_reset_while_it_writes(self) -> None:
        link = self.shaken(pair=tcp_pair)
        link.reset()
        for _ in range(3):
            link.transport.write(b"one")
        self.assertEqual((link.told, link.waits), (["shaken"], True))
        over = link.transport.doWrite()
        self.assertIsInstance(over, ConnectionLost)
        self.loop.discard(link.transport, over)
        self.assert_over(link, ConnectionLost)

    def test_a_reset_while_it_says_the_last_word(self) -> None:
        link = self.shaken(pair=tcp_pair)
        link.reset()
        link.transport.loseConnection()
        over = link.transport.doWrite()
        self.assertIsInstance(over, ConnectionDone)
        self.loop.discard(link.transport, over)
        self.assert_over(link, ConnectionDone)

    def test_the_last_word_waits_if_the_socket_is_full(self) -> None:
        link = self.shaken()
        near = link.transport.socket
        link.transport.loseConnection()
        filled = fill(near)
        self.assertIsNone(link.transport.doWrite())
        self.assertEqual((link.waits, link.reads), (True, False))
        while filled:
            filled -= len(link.far.recv(filled))
        self.loop.run()
        self.assertEqual((link.waits, link.reads, link.reason()), (False, True, None))
        self.assertTrue(link.part())
        link.put(link.taken())
        self.assert_over(link, ConnectionDone)

    def test_an_abort_says_nothing(self) -> None:
        link = self.shaken()
        link.transport.write(b"one")
        link.transport.abortConnection()
        link.transport.write(b"two")
        self.loop.advance(0)
        self.assert_over(link, ConnectionAborted)
        self.assertEqual(link.hear(3), b"one")
        self.assertRaises(ssl.SSLEOFError, link.client.read, 1)

    def test_an_abort_over_tcp_is_a_reset(self) -> None:
        link = self.shaken(pair=tcp_pair)
        link.transport.abortConnection()
        self.loop.advance(0)
        self.assertRaises(ConnectionResetError, link.far.recv, 1)

    def test_nothing_is_read_or_written_behind_it(self) -> None:
        link = self.shaken()
        calls: list[str] = []
        link.far.close()
        self.loop.run()
        self.assert_over(link, ConnectionLost)

        class Dead:
            """OpenSSL would use the descriptor, which may be another one's by now."""

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

    def test_an_abort_by_what_was_read_ends_the_turn(self) -> None:
        link = self.shaken()
        link.protocol.dataReceived = (  # type: ignore[method-assign]
            lambda data: link.transport.abortConnection()
        )
        link.say(b"one")
        link.far.close()
        self.loop.run()
        self.loop.advance(0)
        self.assert_over(link, ConnectionAborted)

    def ended(self, how: str) -> tuple[Any, int]:
        """A connection that has ended, as weak references, and its descriptor."""
        link = Link(self.loop, pair=tcp_pair)
        descriptor = link.transport.fileno()
        if how != "without a handshake":
            link.shake()
            link.say(b"one")
            link.transport.write(b"two")
        if how == "the client parts":
            link.part()
        elif how == "the relay parts":
            link.transport.loseConnection()
            link.hear()
            link.part()
            link.put(link.taken())
        elif how == "an abort":
            link.transport.abortConnection()
            self.loop.advance(0)
        elif how == "a reset":
            link.reset()
        else:
            link.far.close()
        select.select([link.far], [], [], 0) if link.far.fileno() >= 0 else None
        self.loop.run()
        self.assertEqual((how, link.told[-1:]), (how, ["lost"]))
        link.far.close()
        parts = (link.transport, link.transport._tls, link.protocol)
        return tuple(map(weakref.ref, parts)), descriptor

    def test_nothing_is_left_of_it(self) -> None:
        hows = (
            *("the client parts", "the relay parts", "an abort", "a reset"),
            *("an end", "without a handshake"),
        )
        contexts()
        collects = gc.isenabled()
        gc.disable()
        try:
            for how in hows:
                left, descriptor = self.ended(how)
                self.assertEqual((how, [part() for part in left]), (how, [None] * 3))
                self.assertRaises(OSError, os.fstat, descriptor)
        finally:
            if collects:
                gc.enable()


class InnocentTests(SecureTestCase):
    """OpenSSL has one list of errors for all connections of a thread."""

    ENDS = ("read", "write", "handshake", "last word", "garbage", "end", "unread")

    def end(self, how: str) -> None:
        """Let one connection end in a way."""
        link = self.link(pair=tcp_pair)
        if how not in {"handshake", "garbage"}:
            link.shake()
        if how == "garbage":
            link.put(bytes(100))
        elif how == "end":
            link.far.close()
        elif how == "unread":
            # pyOpenSSL leaves in the list what this adds, and here nobody reads it.
            link.reset()
            for _ in range(3):
                link.transport.write(b"one")
            return
        else:
            link.reset()
            if how == "write":
                for _ in range(3):
                    link.transport.write(b"one")
            elif how == "last word":
                link.transport.loseConnection()
                over = link.transport.doWrite()
                self.loop.discard(link.transport, over)
        select.select([link.transport], [], [], 0) if link.reads else None
        self.loop.run()
        self.assertIn("lost", link.told)

    @contextmanager
    def unharmed(self, link: Link) -> Iterator[None]:
        """It goes on as if nothing had happened, whatever it was about to do."""
        yield
        self.assertIsNone(link.transport.doRead())
        link.transport.write(b"two")
        self.assertEqual(link.hear(3), b"two")
        link.say(b"one")
        self.assertEqual(link.protocol.text, b"one")
        self.assertIsNone(link.reason())

    def test_a_connection_that_reads(self) -> None:
        for how in self.ENDS:
            link = self.shaken()
            with self.unharmed(link):
                self.end(how)

    def test_a_connection_that_writes(self) -> None:
        for how in self.ENDS:
            link = self.shaken(pair=partial(small_pair, 4096))
            text = os.urandom(200_000)
            link.transport.write(text)
            self.assertTrue(link.waits)
            self.end(how)
            self.assertIsNone(link.transport.doWrite())
            link.transport.write(text)
            if link.hear(2 * len(text)) != text * 2:
                self.fail(f"it was not written after {how}")

    def test_a_connection_that_shakes_hands(self) -> None:
        for how in self.ENDS:
            for version in VERSIONS:
                link = self.link(version)
                with self.unharmed(link):
                    self.end(how)
                    self.assertIsNone(link.transport.doRead())
                    with self.assertRaises(ssl.SSLWantReadError):
                        link.client.do_handshake()
                    hello = link.taken()
                    link.put(hello[:50])
                    self.end(how)
                    link.put(hello[50:])
                    link.fetch()
                    self.end(how)
                    link.shake()

    def test_a_connection_that_parts(self) -> None:
        for how in self.ENDS:
            link = self.shaken()
            self.end(how)
            link.transport.loseConnection()
            self.loop.run()
            self.end(how)
            self.assertIsNone(link.transport.doRead())
            self.assertIsNone(link.reason())
            self.assertTrue(link.part())
            self.end(how)
            link.put(link.taken())
            self.assert_over(link, ConnectionDone)

    def test_what_others_leave_there(self) -> None:
        link = self.link()
        self.leave()
        link.shake()
        for step in (
            link.transport.doRead,
            lambda: link.transport.write(b"two"),
            link.transport.loseConnection,
        ):
            self.leave()
            self.assertIsNone(step())
        self.leave()
        self.loop.run()
        self.assertEqual(link.hear(3), b"two")
        self.leave()
        self.assertTrue(link.part())
        link.put(link.taken())
        self.assert_over(link, ConnectionDone)

    def leave(self) -> None:
        """Leave an error in the list, as others than `TlsTransport` may."""
        link = self.shaken(pair=tcp_pair)
        link.reset()
        with self.assertRaises(SSL.SysCallError):
            link.transport._tls.send(b"one")
        self.assertNotEqual(errors.ERR_peek_error(), 0)

    def test_others_find_nothing_there(self) -> None:
        for how in self.ENDS:
            self.end(how)
            self.assertEqual((how, errors.ERR_peek_error()), (how, 0))

    def test_the_reason_is_ones_own(self) -> None:
        """Whatever OpenSSL makes of the list, pyOpenSSL looks for reasons there."""
        for version in VERSIONS:
            link = self.shaken(version)
            self.leave()
            link.far.close()
            self.loop.run()
            self.assert_over(link, ConnectionLost)
            link = self.link(version)
            self.leave()
            link.put(bytes(100))
            self.assert_over(link, SSL.Error)
            reason: Any = link.reason()
            self.assertEqual([part[-1] for part in reason.args[0]], [WRONG_VERSION])

    def test_the_list_is_empty_whenever_openssl_is_asked(self) -> None:
        link = self.link()
        link.transport._tls = Watched(link.transport._tls)  # type: ignore[assignment]
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
        self.leave()
        link.put(link.taken())
        self.assertEqual(
            link.transport._tls.asked, {"do_handshake", "recv", "send", "shutdown"}
        )
        self.assert_over(link, ConnectionDone)


class Watched:
    """OpenSSL's part of a connection, which wants the list of errors to be empty.

    Args:
        tls: That.
    """

    def __init__(self, tls: SSL.Connection) -> None:
        self._tls = tls
        self.asked: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        if errors.ERR_peek_error():
            raise AssertionError(f"there are errors when it is asked to {name}")
        self.asked.add(name)
        return getattr(self._tls, name)


class KeyUpdateTests(TestCase):
    """A client of TLS 1.3 that changes its keys, and asks the relay to do so."""

    def setUp(self) -> None:
        program = which("openssl")
        if program is None:
            raise SkipTest("there is no client that changes its keys")
        self.program: str = program
        self.protocol = Talker()
        self.protocol.echo = True
        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = (  # type: ignore[method-assign]
            lambda addr: self.protocol
        )
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        pace = TurnBudget(EagerClock(), 1)
        port.transport = partial(
            TlsTransport, contexts().begin, pace, pace, WriteBatch()
        )
        self.addCleanup(port.stopListening)
        self.port = port.getHost().port

    def converse(self) -> list[bytes]:
        """Let it say a text after each change of keys; returns what it was told."""
        command = [self.program, "s_client", "-tls1_3"]
        command += ["-connect", f"127.0.0.1:{self.port}"]
        pipe = subprocess.PIPE
        with subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT
        ) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            # It must not wait for ever.
            limit = threading.Timer(PATIENCE, client.kill)
            limit.start()
            told = []
            for said, awaited in (
                # With a capital letter it asks for other keys of the relay, too.
                *((b"one", b"one"), (b"K", b"KEYUPDATE"), (b"two", b"two")),
                *((b"k", b"KEYUPDATE"), (b"K", b"KEYUPDATE"), (b"three", b"three")),
            ):
                client.stdin.write(said + b"\n")
                client.stdin.flush()
                while (line := client.stdout.readline()) and awaited != line.strip():
                    pass
                told.append(line.strip())
            limit.cancel()
            client.kill()
        return told

    def test_is_served_on(self) -> Deferred[None]:
        def check(told: list[bytes]) -> None:
            changed = b"KEYUPDATE"
            self.assertEqual(
                told, [b"one", changed, b"two", changed, changed, b"three"]
            )

        conversation = deferToThread(self.converse).addCallback(check)
        return conversation.addCallback(lambda _: self.ended())

    def ended(self) -> Deferred[None]:
        return self.protocol.lost.addCallback(lambda _: None)
