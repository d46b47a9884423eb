"""What connections have in common, and what is left of one."""

from __future__ import annotations

import gc
import weakref
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth import Authenticator
from proxyrelay.auth.anonymous import AnonymousAuthenticator
from proxyrelay.config import Config
from proxyrelay.switchboard.relay import Relay
from proxyrelay.switchboard.user import ANONYMOUS, User
from proxyrelay.websocket.factory import RelayFactory
from proxyrelay.websocket.protocol import RelayProtocol
from tests.support.clock import EagerClock
from tests.support.frames import CLOSE, CONTINUATION, PING, TEXT, frame
from tests.support.recording import (
    A,
    B,
    RecordingJournal,
    RecordingWaiting,
    registration,
)
from tests.support.served import PendingAuthenticator, upgrade

LEFT = {
    *("_is_admitted", "address", "arrival", "connected", "current_frame", "data"),
    *("flow", "heard", "inside_message", "origin", "phase", "state"),
    "transport",
}
"""Attributes of a connection that is open."""

SECRET = "s3cr3t-of-one"

REQUEST = upgrade(f"Authorization: Bearer {SECRET}", f"X-Long: {SECRET * 50}")

ODD = REQUEST.replace(b"Connection: ", b"Connection: keep-alive, ", 1)
"""A request that Autobahn parses."""


class ClosedTransport(StringTransport):
    """A transport that ends when it is asked to, and not before."""

    def abortConnection(self) -> None:  # noqa: N802
        self.loseConnection()


class ServedMixin:
    """A relay in memory."""

    def serve(
        self, authenticator: Authenticator | None = None, **settings: Any
    ) -> RelayFactory:
        clock = EagerClock()
        self.clock = clock
        journal = RecordingJournal()
        return RelayFactory(
            Relay(journal, clock.seconds, RecordingWaiting()),
            authenticator or AnonymousAuthenticator(),
            journal,
            clock,
            Config(**settings),
        )

    def open(self, factory: RelayFactory, request: bytes = REQUEST) -> RelayProtocol:
        """A connection that has sent its request."""
        protocol = factory.buildProtocol(StringTransport().getPeer())
        protocol.makeConnection(ClosedTransport())
        protocol.dataReceived(request)
        return protocol


class OfEachTests(ServedMixin, SynchronousTestCase):
    """What a connection has of its own."""

    def setUp(self) -> None:
        self.factory = self.serve()
        self.one, self.other = self.open(self.factory), self.open(self.factory)

    def test_is_not_that_of_another(self) -> None:
        self.assertIsNot(self.one.utf8validator, self.other.utf8validator)
        self.assertIs(self.one.utf8validator, self.one.utf8validator)

    def test_texts_in_pieces_are_told_apart(self) -> None:
        euro = "\u20ac".encode()
        for one in (self.one, self.other):
            one.dataReceived(frame(TEXT, registration(A if one is self.one else B)))
        for fin, piece, opcode in (
            (False, euro[:1], TEXT),
            (False, euro[1:2], CONTINUATION),
            (False, euro[2:], CONTINUATION),
        ):
            for one in (self.one, self.other):
                one.dataReceived(frame(opcode, piece, fin))
                self.assertEqual(one.state, RelayProtocol.STATE_OPEN)


class LeftoverTests(ServedMixin, SynchronousTestCase):
    """What is kept of a request, and of a connection."""

    def reachable(self, protocol: RelayProtocol) -> list[object]:
        """All that hangs on a connection, and not on the whole relay."""
        shared = (type, type(gc), type(lambda: None), RelayFactory, EagerClock)
        found: list[object] = []
        seen: set[int] = set()
        waiting: list[object] = [*vars(protocol).values()]
        while waiting:
            thing = waiting.pop()
            if id(thing) in seen or isinstance(thing, shared) or thing is protocol:
                continue
            seen.add(id(thing))
            found.append(thing)
            waiting += gc.get_referents(thing)
        return found

    def assert_forgotten(self, protocol: RelayProtocol) -> None:
        self.assertNotIn(SECRET, repr(vars(protocol)))
        texts = [
            thing.encode() if isinstance(thing, str) else bytes(thing)
            for thing in self.reachable(protocol)
            if isinstance(thing, str | bytes | bytearray)
        ]
        self.assertEqual([text for text in texts if SECRET.encode() in text], [])
        for name in vars(protocol):
            self.assertFalse(name.startswith(("http_", "websocket_")), name)

    def test_the_search_finds_a_request(self) -> None:
        pending = PendingAuthenticator()
        protocol = self.open(self.serve(pending), ODD)
        self.assertRaises(self.failureException, self.assert_forgotten, protocol)
        pending.pending[0].callback(ANONYMOUS)
        self.assert_forgotten(protocol)

    def test_nothing_is_kept_of_a_plain_one_meanwhile(self) -> None:
        self.assert_forgotten(self.open(self.serve(PendingAuthenticator())))

    def test_nothing_is_left_of_the_request(self) -> None:
        for request in (REQUEST, ODD):
            protocol = self.open(self.serve(), request)
            self.assertEqual(protocol.state, RelayProtocol.STATE_OPEN)
            self.assert_forgotten(protocol)
            protocol.dataReceived(frame(TEXT, registration(A)))
            self.assert_forgotten(protocol)

    def test_nothing_is_left_of_it_when_the_relay_stops_meanwhile(self) -> None:
        pending = PendingAuthenticator()
        factory = self.serve(pending)
        protocol = self.open(factory)
        factory.stop(5)
        self.assertEqual(protocol.state, RelayProtocol.STATE_CLOSING)
        self.assert_forgotten(protocol)

    def test_nothing_is_left_of_it_when_the_check_fails(self) -> None:
        for error in (ValueError(SECRET), KeyError()):
            pending = PendingAuthenticator()
            protocol = self.open(self.serve(pending))
            pending.pending[0].errback(error)
            self.assertEqual(protocol.state, RelayProtocol.STATE_CLOSING)
            self.assertEqual(len(self.flushLoggedErrors(type(error))), 1)
            self.assert_forgotten(protocol)

    def test_what_is_left_is_what_differs_from_the_class(self) -> None:
        protocol = self.open(self.serve())
        self.assertEqual(vars(protocol).keys(), LEFT)
        self.assertEqual(protocol.data, b"")

    def test_a_user_stays(self) -> None:
        pending = PendingAuthenticator()
        protocol = self.open(self.serve(pending))
        pending.pending[0].callback(User("jo"))
        self.assertEqual(protocol.user, User("jo"))

    def freed(self, how: str) -> bool:
        """Whether a connection is freed by its end, without the collector."""
        factory = self.serve()
        protocol = self.open(factory)
        protocol.dataReceived(frame(TEXT, registration(A)) + frame(PING, b"x"))
        # A text in pieces makes the validator, and an answer is on its way out.
        protocol.dataReceived(frame(TEXT, b"x", fin=False))
        if how == "the client closes":
            protocol.dataReceived(frame(CLOSE, b"\x03\xe8"))
        elif how == "the relay closes":
            protocol.close(1000, "")
            protocol.dataReceived(frame(CLOSE, b"\x03\xe8"))
        elif how == "the relay drops":
            protocol.abort()
        elif how == "it breaks the protocol":
            protocol.dataReceived(frame(3))
        protocol.connectionLost(Failure(ConnectionDone()))
        # As Twisted's transports do by themselves.
        protocol.transport.producer = None
        gone = weakref.ref(protocol)
        del protocol
        return gone() is None

    def test_a_closed_connection_is_freed_at_once(self) -> None:
        ends = (
            "it vanishes",
            "the client closes",
            "the relay closes",
            "the relay drops",
            "it breaks the protocol",
        )
        collects = gc.isenabled()
        gc.disable()
        try:
            freed = [how for how in ends if self.freed(how)]
        finally:
            if collects:
                gc.enable()
        self.assertEqual(freed, [*ends])
