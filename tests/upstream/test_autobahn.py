"""Autobahn's protocol; see `proxyrelay.websocket.upstream` and `served_class`."""

from __future__ import annotations

import inspect
from typing import Any

from autobahn.twisted.websocket import WebSocketServerProtocol
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.websocket.factory import OWN_ATTRIBUTES
from proxyrelay.websocket.protocol import RelayProtocol
from proxyrelay.websocket.upstream import UpstreamProtocol
from tests.support.frames import CLOSE, PING, TEXT, frame
from tests.support.recording import A, B, offer, registration
from tests.upstream.test_twisted_tcp import names
from tests.websocket.test_served_class import ServedMixin

OPTIONS = tuple(WebSocketServerProtocol.CONFIG_ATTRS)

UNCHANGING = (type(None), bool, int, float, str, bytes, tuple, frozenset)
"""Types of values that connections may share."""

UNUSED = {
    *("_results", "_transport_details", "_valid_events", "send_queue", "trafficStats"),
}
"""Mutable attributes that connections share, since the relay does not use them."""

COMPLETES = {
    *("factory", "headers", "items", "server", "_wskey", "sendData", "state"),
    *("inside_message", "current_frame", "_onOpen", "data", "consumeData"),
    *("is_open", "websocket_protocols", "websocket_protocol_in_use"),
    *("websocket_extensions", "websocket_extensions_in_use", "http_response_data"),
    *("openHandshakeTimeoutCall", "autoPingInterval", "trackedTimings"),
    *("perMessageCompressionAccept", "_perMessageCompress", "autoPingPendingCall"),
}
"""Attributes with which Autobahn completes an upgrade: done by the relay, or idle."""


class AttributeTests(ServedMixin, SynchronousTestCase):
    """Attributes of the served class."""

    def setUp(self) -> None:
        self.factory = self.serve(max_message_bytes=4711)
        self.served: Any = self.factory.protocol
        plain: Any = WebSocketServerProtocol()
        plain.factory = self.factory
        plain._connectionMade()
        self.factory.countConnections -= 1
        self.plain = {n: v for n, v in vars(plain).items() if n not in OPTIONS}

    def test_class_has_all_attributes_of_autobahn(self) -> None:
        self.assertLessEqual(OWN_ATTRIBUTES, self.plain.keys())
        for name in self.plain.keys() - OWN_ATTRIBUTES:
            self.assertIn(name, vars(self.served))
            if name not in UNUSED:
                found = getattr(self.served, name)
                self.assertEqual((name, found), (name, self.plain[name]))

    def test_class_shares_no_used_mutable_attribute(self) -> None:
        mutable = {n for n, v in self.plain.items() if not isinstance(v, UNCHANGING)}
        self.assertEqual(mutable - OWN_ATTRIBUTES, {*UNUSED, "factory"})
        self.assertEqual(OWN_ATTRIBUTES - mutable, {"data", "state"})

    def test_unused_attributes_stay_unchanged(self) -> None:
        # Autobahn counts bytes in trafficStats; nothing reads it.
        before = {n: repr(vars(self.served)[n]) for n in UNUSED - {"trafficStats"}}
        both = [self.open(self.factory) for _ in range(2)]
        for protocol, uuid in zip(both, (A, B), strict=True):
            protocol.dataReceived(frame(TEXT, registration(uuid)) + frame(PING))
            protocol.dataReceived(frame(TEXT, offer(A, B)[:9], fin=False) + b"\x80")
        both[0].dataReceived(frame(CLOSE, b"\x03\xe8"))
        for protocol in both:
            protocol.connectionLost(Failure(ConnectionDone()))
            self.assertEqual(UNUSED & vars(protocol).keys(), set())
        self.assertEqual(before, {n: repr(vars(self.served)[n]) for n in before})

    def test_class_has_options_of_factory(self) -> None:
        protocol: Any = self.open(self.factory)
        for name in OPTIONS:
            self.assertIn(name, vars(self.served))
            found = getattr(protocol, name)
            self.assertEqual((name, found), (name, getattr(self.factory, name)))
        self.assertEqual(self.served.CONFIG_ATTRS, ())
        self.assertEqual(self.served.maxMessagePayloadSize, 4711)
        self.assertNotIn("maxMessagePayloadSize", vars(RelayProtocol))

    def test_factory_counts_connections(self) -> None:
        self.assertEqual(self.factory.getConnectionCount(), 0)
        protocol = self.open(self.factory)
        self.assertEqual(self.factory.getConnectionCount(), 1)
        protocol.connectionLost()
        self.assertEqual(self.factory.getConnectionCount(), 0)

    def test_missing_deferreds_are_used_by_overridden_methods_alone(self) -> None:
        users = {
            name
            for kind in WebSocketServerProtocol.__mro__
            for name, function in vars(kind).items()
            if names(function) & {"is_closed", "is_open"}
        }
        self.assertIn("dropConnection", users)
        overridden = {*vars(UpstreamProtocol), "_connectionMade", "_connectionLost"}
        self.assertLessEqual(users, overridden)


class HandshakeTests(ServedMixin, SynchronousTestCase):
    """Autobahn's opening handshake."""

    def test_succeed_handshake_uses_known_attributes(self) -> None:
        complete: Any = WebSocketServerProtocol.succeedHandshake
        self.assertEqual(list(inspect.signature(complete).parameters), ["self", "res"])
        self.assertLessEqual(COMPLETES, names(complete))
        source = inspect.getsource(complete).replace("(", " ").replace("[", " ")
        of_self = {
            word.split("self.")[1].split(".")[0].strip(",:)]")
            for word in source.split()
            if word.startswith("self.")
        }
        known = {*COMPLETES, "log", "_sendAutoPing", "failHandshake"}
        self.assertLessEqual(of_self, known)

    def test_idle_options_of_factory_are_off(self) -> None:
        factory = self.serve()
        served: Any = factory.protocol
        self.assertEqual(dict(factory.headers), {})
        self.assertEqual(factory.server, "proxyrelay")
        self.assertEqual(
            factory.versions, WebSocketServerProtocol.SUPPORTED_PROTOCOL_VERSIONS
        )
        for name in ("autoPingInterval", "maxConnections", "serveFlashSocketPolicy"):
            self.assertFalse(getattr(served, name, 0), name)
        self.assertIsNone(served.openHandshakeTimeoutCall)
        self.assertIsNone(served.trackedTimings)
        self.assertFalse(factory.trustXForwardedFor)
        self.assertIsNone(factory.externalPort)

    def test_autobahn_calls_overridden_methods(self) -> None:
        self.assertIn("onOpen", names(WebSocketServerProtocol._onOpen))
        requested = inspect.getsource(WebSocketServerProtocol.processHandshake)
        for name in ("onConnect", "succeedHandshake", "failHandshake", "_wskey"):
            self.assertIn(name, requested)

    def test_autobahn_closes_transport_in_drop_connection_alone(self) -> None:
        callers = {
            name
            for kind in WebSocketServerProtocol.__mro__
            for name, function in vars(kind).items()
            if "_closeConnection" in names(function)
        }
        self.assertEqual(callers, {"dropConnection"})
