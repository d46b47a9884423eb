"""The way through an HTTP proxy, in memory."""

from __future__ import annotations

from base64 import b64encode

from OpenSSL.SSL import Error, SysCallError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.client.endpoint import MAX_HEAD_BYTES, TunnelEndpoint, tls_words
from proxyrelay.client.url import Place
from proxyrelay.errors import NotConnected
from tests.support.relay_end import MemoryEndpoint


class WordsTests(SynchronousTestCase):
    def test_tls_errors_have_words_and_a_likely_cause(self) -> None:
        for error, words in (
            (Error([("SSL routines", "", "certificate verify failed")]), "trust_root"),
            (Error([("SSL routines", "", "wrong version number")]), "want ws://"),
            (Error([("SSL routines", "", "no cipher match")]), "TLS: no cipher match"),
            (Error(), "closed the connection"),
            (SysCallError(-1, "Unexpected EOF"), "closed the connection"),
        ):
            self.assertIn(words, tls_words(error))
            self.assertNotIn("[", tls_words(error))


class Recorder(Protocol):
    """Keeps what it receives."""

    def __init__(self) -> None:
        self.received = b""
        self.ends = 0

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ends += 1


class TunnelTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.proxy = MemoryEndpoint()
        self.inner = Recorder()

    def connect(self, credentials: str | None = None) -> Deferred[IProtocol]:
        endpoint = TunnelEndpoint(self.proxy, Place("relay.example", 8700), credentials)
        return endpoint.connect(Factory.forProtocol(lambda: self.inner))

    def test_bytes_go_through_once_the_proxy_has_connected(self) -> None:
        connecting = self.connect("me:secret")
        token = b64encode(b"me:secret")
        self.assertEqual(
            self.proxy.last.transport.value(),
            b"CONNECT relay.example:8700 HTTP/1.1\r\nHost: relay.example:8700\r\n"
            b"Proxy-Authorization: Basic " + token + b"\r\n\r\n",
        )
        self.proxy.last.say(b"HTTP/1.1 200 OK\r\n")
        self.assertNoResult(connecting)
        self.proxy.last.say(b"\r\nabc")
        self.assertIs(self.successResultOf(connecting), self.inner)
        self.proxy.last.say(b"def")
        self.assertEqual(self.inner.received, b"abcdef")
        self.proxy.last.transport.loseConnection()
        self.assertEqual(self.inner.ends, 1)

    def test_other_answers_fail(self) -> None:
        for answer, words in (
            (b"HTTP/1.1 407 Login\r\n\r\n", "407 Login"),
            (b"SSH\r\n\r\n", "does not speak HTTP"),
            ((MAX_HEAD_BYTES + 1) * b"x", "no end"),
        ):
            connecting = self.connect()
            self.proxy.last.say(answer)
            error = self.failureResultOf(connecting, NotConnected).value
            self.assertIn(words, str(error))
            self.assertTrue(self.proxy.last.transport.aborted)
        self.assertEqual(self.inner.ends, 0)

    def test_early_end_fails(self) -> None:
        connecting = self.connect()
        self.proxy.last.transport.loseConnection()
        self.failureResultOf(connecting, NotConnected)

    def test_cancelled_attempt_closes_the_connection(self) -> None:
        connecting = self.connect()
        connecting.cancel()
        self.failureResultOf(connecting, CancelledError)
        self.assertTrue(self.proxy.last.transport.aborted)
