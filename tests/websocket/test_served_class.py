"""What connections have in common, and what is left of one."""

from __future__ import annotations

import gc
import weakref
from typing import Any

from autobahn.twisted.websocket import WebSocketServerProtocol
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
from proxyrelay.websocket.upstream import (
    OWN_ATTRIBUTES,
    UNUSED_ATTRIBUTES,
    UpstreamProtocol,
    first_state,
)
from tests.support.clock import EagerClock
from tests.support.frames import CLOSE, CONTINUATION, PING, TEXT, frame
from tests.support.recording import (
    A,
    B,
    RecordingJournal,
    RecordingWaiting,
    offer,
    registration,
)
from tests.support.served import PendingAuthenticator, upgrade

UNCHANGING = (type(None), bool, int, float, str, bytes, tuple, frozenset)
"""Types of what may be shared, whoever has it."""

OPTIONS = tuple(WebSocketServerProtocol.CONFIG_ATTRS)

LEFT = {
    *("_is_admitted", "address", "arrival", "flow", "origin", "phase", "state"),
    "transport",
}
"""Attributes of a connection that is open."""

NAMES = "co_names"
"""Where a function's code has the attributes that it uses."""

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
    ) -> RelayFactory[RelayProtocol]:
        clock = EagerClock()
        self.clock = clock
        journal = RecordingJournal()
        return RelayFactory(
            Relay(journal, clock.seconds, RecordingWaiting()),
            authenticator or AnonymousAuthenticator(),
            journal,
            clock,
            Config(**settings),
            kind=RelayProtocol,
        )

    def open(
        self, factory: RelayFactory[RelayProtocol], request: bytes = REQUEST
    ) -> RelayProtocol:
        """A connection that has sent its request."""
        protocol = factory.buildProtocol(StringTransport().getPeer())
        protocol.makeConnection(ClosedTransport())
        protocol.dataReceived(request)
        return protocol


class SharedTests(ServedMixin, SynchronousTestCase):
    """Attributes of the class that is served."""

    def setUp(self) -> None:
        self.factory = self.serve(max_message_bytes=4711)
        self.served: Any = self.factory.protocol

    def plain(self) -> dict[str, object]:
        """What Autobahn gives to a connection, less its options, found anew."""
        plain: Any = WebSocketServerProtocol()
        plain.factory = self.serve()
        plain._connectionMade()
        return {n: v for n, v in vars(plain).items() if n not in OPTIONS}

    def test_are_all_that_autobahn_gives_to_a_connection(self) -> None:
        plain = self.plain()
        self.assertEqual(first_state(self.factory).keys(), plain.keys())
        self.assertLessEqual(OWN_ATTRIBUTES, plain.keys())
        for name in plain.keys() - OWN_ATTRIBUTES:
            self.assertIn(name, vars(self.served))
            if name not in UNUSED_ATTRIBUTES:
                self.assertEqual(
                    (name, getattr(self.served, name)), (name, plain[name])
                )

    def test_do_not_change_or_are_not_used(self) -> None:
        found = {n for n, v in self.plain().items() if not isinstance(v, UNCHANGING)}
        self.assertEqual(found - OWN_ATTRIBUTES, UNUSED_ATTRIBUTES)
        # What each has of its own is made for each; these two cannot be changed.
        self.assertEqual(OWN_ATTRIBUTES - found, {"data", "state"})

    def test_that_are_never_changed_stay_as_they_are(self) -> None:
        # Autobahn counts what comes in trafficStats, which nobody reads.
        kept = UNUSED_ATTRIBUTES - {"trafficStats"}
        before = {name: repr(vars(self.served)[name]) for name in kept}
        first, second = self.open(self.factory), self.open(self.factory)
        for protocol, uuid in ((first, A), (second, B)):
            protocol.dataReceived(frame(TEXT, registration(uuid)) + frame(PING))
            protocol.dataReceived(frame(TEXT, offer(A, B)[:9], fin=False) + b"\x80")
        first.dataReceived(frame(CLOSE, b"\x03\xe8"))
        for protocol in (first, second):
            protocol.connectionLost(Failure(ConnectionDone()))
        after = {name: repr(vars(self.served)[name]) for name in kept}
        self.assertEqual(before, after)
        for name in UNUSED_ATTRIBUTES:
            self.assertNotIn(name, {**vars(first), **vars(second)})

    def test_options_are_those_of_the_factory(self) -> None:
        for name in OPTIONS:
            self.assertIn(name, vars(self.served))
            self.assertEqual(
                (name, getattr(self.served, name)), (name, getattr(self.factory, name))
            )
        self.assertEqual(self.served.CONFIG_ATTRS, ())
        self.assertEqual(self.served.maxMessagePayloadSize, 4711)

    def test_a_function_among_the_options_is_no_method(self) -> None:
        protocol: Any = self.open(self.factory)
        accept = self.factory.perMessageCompressionAccept
        self.assertIs(protocol.perMessageCompressionAccept, accept)
        functions = {n for n in OPTIONS if callable(getattr(self.factory, n))}
        self.assertEqual(functions, {"perMessageCompressionAccept"})

    def test_factories_do_not_share_their_class(self) -> None:
        other: Any = self.serve(max_message_bytes=815).protocol
        self.assertEqual(
            (self.served.maxMessagePayloadSize, other.maxMessagePayloadSize),
            (4711, 815),
        )
        self.assertNotIn("maxMessagePayloadSize", vars(RelayProtocol))

    def test_a_connection_counts_as_one(self) -> None:
        self.assertEqual(self.factory.getConnectionCount(), 0)
        protocol = self.open(self.factory)
        self.assertEqual(self.factory.getConnectionCount(), 1)
        protocol.connectionLost()
        self.assertEqual(self.factory.getConnectionCount(), 0)


class OfEachTests(ServedMixin, SynchronousTestCase):
    """What a connection has of its own."""

    def setUp(self) -> None:
        self.factory = self.serve()
        self.one, self.other = self.open(self.factory), self.open(self.factory)

    def test_is_not_that_of_another(self) -> None:
        for name in ("is_open", "utf8validator"):
            one, other = getattr(self.one, name), getattr(self.other, name)
            self.assertIsNot(one, other, name)
        self.assertIs(self.one.utf8validator, self.one.utf8validator)

    def test_is_all_that_autobahn_needs(self) -> None:
        # `connectionLost` does all that `_connectionLost` would.
        overridden = {*vars(UpstreamProtocol), "_connectionLost"}
        needs = {
            name
            for kind in WebSocketServerProtocol.__mro__
            for name, function in vars(kind).items()
            if "is_closed" in getattr(getattr(function, "__code__", None), NAMES, ())
        }
        self.assertEqual(needs - overridden, set())
        self.assertIn("dropConnection", needs)
        self.assertIn("connectionLost", overridden)

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
