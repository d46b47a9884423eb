"""Attributes of connections, and what is left of a request."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
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
    RecordingObserver,
    RecordingWaiting,
    registration,
)
from tests.support.served import PendingAuthenticator, upgrade

LEFT = {
    *("_is_admitted", "address", "arrival", "flow", "origin", "phase", "state"),
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
        journal = RecordingObserver()
        return RelayFactory(
            Relay(journal, clock.seconds, RecordingWaiting()),
            authenticator or AnonymousAuthenticator(),
            journal,
            clock,
            Config(**settings),
            kind=RelayProtocol,
        )

    def open(self, factory: RelayFactory, request: bytes = REQUEST) -> RelayProtocol:
        """A connection that has sent its request."""
        protocol: RelayProtocol = factory.buildProtocol(StringTransport().getPeer())
        protocol.makeConnection(ClosedTransport())
        protocol.dataReceived(request)
        return protocol


class OwnAttributeTests(ServedMixin, SynchronousTestCase):
    """Attributes that differ between connections."""

    def test_validators_of_two_connections_differ(self) -> None:
        factory = self.serve()
        both = [self.open(factory) for _ in range(2)]
        self.assertIsNot(both[0].utf8validator, both[1].utf8validator)
        self.assertIs(both[0].utf8validator, both[0].utf8validator)
        for one, uuid in zip(both, (A, B), strict=True):
            one.dataReceived(frame(TEXT, registration(uuid)))
        euro = "\u20ac".encode()
        for opcode, piece in (
            (TEXT, euro[:1]),
            (CONTINUATION, euro[1:2]),
            (CONTINUATION, euro[2:]),
        ):
            for one in both:
                one.dataReceived(frame(opcode, piece, fin=False))
                self.assertEqual(one.state, RelayProtocol.STATE_OPEN)

    def test_connection_keeps_attributes_unlike_the_class(self) -> None:
        protocol = self.open(self.serve())
        self.assertEqual(vars(protocol).keys(), LEFT)
        self.assertEqual(protocol.data, b"")

    def test_connection_keeps_its_user(self) -> None:
        pending = PendingAuthenticator()
        protocol = self.open(self.serve(pending))
        pending.pending[0].callback(User("jo"))
        self.assertEqual(protocol.user, User("jo"))


class ForgottenTests(ServedMixin, SynchronousTestCase):
    """Requests and connections after their end."""

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

    def test_request_is_forgotten_after_the_upgrade(self) -> None:
        for request in (REQUEST, ODD):
            protocol = self.open(self.serve(), request)
            self.assertEqual(protocol.state, RelayProtocol.STATE_OPEN)
            self.assert_forgotten(protocol)
            protocol.dataReceived(frame(TEXT, registration(A)))
            self.assert_forgotten(protocol)

    def test_plain_request_is_forgotten_during_authentication(self) -> None:
        pending = PendingAuthenticator()
        self.assert_forgotten(self.open(self.serve(pending)))
        # The search finds a request that is still there.
        protocol = self.open(self.serve(pending), ODD)
        self.assertRaises(self.failureException, self.assert_forgotten, protocol)
        pending.pending[1].callback(ANONYMOUS)
        self.assert_forgotten(protocol)

    def test_request_is_forgotten_after_stop(self) -> None:
        factory = self.serve(PendingAuthenticator())
        protocol = self.open(factory)
        factory.stop(5)
        self.assertEqual(protocol.state, RelayProtocol.STATE_CLOSING)
        self.assert_forgotten(protocol)

    def test_request_is_forgotten_after_failed_authentication(self) -> None:
        for error in (ValueError(SECRET), KeyError()):
            pending = PendingAuthenticator()
            protocol = self.open(self.serve(pending))
            pending.pending[0].errback(error)
            self.assertEqual(protocol.state, RelayProtocol.STATE_CLOSING)
            self.assertEqual(len(self.flushLoggedErrors(type(error))), 1)
            self.assert_forgotten(protocol)

    def test_connection_is_freed_at_its_end_without_the_collector(self) -> None:
        def goodbye(protocol: RelayProtocol) -> None:
            protocol.dataReceived(frame(CLOSE, b"\x03\xe8"))

        ends: dict[str, tuple[Callable[[RelayProtocol], object], ...]] = {
            "it vanishes": (),
            "the client closes": (goodbye,),
            "the relay closes": (lambda protocol: protocol.close(1000, ""), goodbye),
            "the relay drops": (RelayProtocol.abort,),
            "it breaks the protocol": (
                lambda protocol: protocol.dataReceived(frame(3)),
            ),
        }
        if gc.isenabled():
            self.addCleanup(gc.enable)
        gc.disable()
        self.assertEqual([how for how in ends if self.freed(*ends[how])], [*ends])

    def freed(self, *ends: Callable[[RelayProtocol], object]) -> bool:
        protocol = self.open(self.serve())
        protocol.dataReceived(frame(TEXT, registration(A)) + frame(PING, b"x"))
        # A text in pieces makes the validator, and an answer is on its way out.
        protocol.dataReceived(frame(TEXT, b"x", fin=False))
        for end in ends:
            end(protocol)
        protocol.connectionLost(Failure(ConnectionDone()))
        # As Twisted's transports do by themselves.
        protocol.transport.producer = None
        gone = weakref.ref(protocol)
        del protocol
        return gone() is None
