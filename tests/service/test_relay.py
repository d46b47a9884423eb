"""A relay as a service: its sockets, settings and clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import msgspec
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, eventAsText
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from proxyrelay import __version__
from proxyrelay.auth.anonymous import AnonymousAuthenticator
from proxyrelay.config import Config, Level, Logging, Timeouts
from proxyrelay.errors import ConfigError, StartError
from proxyrelay.net import certificates as tls
from proxyrelay.net import listening
from proxyrelay.net.process import CROWD_CONNECTIONS as CROWD
from proxyrelay.net.process import Heap
from proxyrelay.service.relay import SWEEP_SECONDS, RelayService
from proxyrelay.switchboard.messages import PeerConnection
from proxyrelay.switchboard.peer import Peer
from proxyrelay.websocket.lifecycle import Phase
from tests.service.case import LOOPBACK, Connection, free_port, relay_service
from tests.support.capture import Capture
from tests.support.certificates import Authority
from tests.support.recording import A, RecordingPeer, offer

reactor: Any = _reactor


class RelayServiceTests(SynchronousTestCase):
    """A relay and its sockets, on a reactor without a network."""

    def test_binds_at_construction(self) -> None:
        port = free_port()
        settings = Config(host="127.0.0.1", port=port)
        relay, memory = relay_service(settings)
        with self.assertRaises(StartError):
            listening.bind("127.0.0.1", port)
        self.assertEqual(memory.adoptedPorts, [])
        self.assertEqual(relay.urls, [])
        self.successResultOf(relay.stopService())

    def test_a_taken_port_is_an_error_at_construction(self) -> None:
        (taken,) = listening.bind("127.0.0.1", 0)
        self.addCleanup(taken.close)
        with self.assertRaises(StartError):
            relay_service(Config(host="127.0.0.1", port=taken.getsockname()[1]))

    def test_stopping_before_starting_frees_the_port(self) -> None:
        port = free_port()
        relay, _ = relay_service(Config(host="127.0.0.1", port=port))
        self.successResultOf(relay.stopService())
        for bound in listening.bind("127.0.0.1", port):
            bound.close()

    def test_serves_once_whether_privileged_or_not(self) -> None:
        for privileged in (False, True):
            relay, memory = relay_service()
            if privileged:
                relay.privilegedStartService()
            relay.startService()
            self.assertEqual(len(memory.adoptedPorts), 1)
            self.assertIs(memory.adoptedPorts[0][2].wrappedFactory, relay.factory)
            self.assertEqual(relay.urls, ["ws://0.0.0.0:1234"])
            self.successResultOf(relay.stopService())

    def test_says_what_it_serves(self) -> None:
        captured = Capture(self)
        relay, memory = relay_service()
        relay.privilegedStartService()
        relay.startService()
        for call, args, options in memory.whenRunningHooks:
            call(*args, **options)
        self.assertEqual(
            captured.lines(),
            [
                f"proxyrelay {__version__} serves ws://0.0.0.0:1234 "
                "(authentication: none)"
            ],
        )
        self.successResultOf(relay.stopService())

    def test_serves_tls_with_a_certificate(self) -> None:
        settings = msgspec.structs.replace(LOOPBACK, certfile=Path("in memory"))
        relay, memory = relay_service(settings, Authority().pair())
        relay.startService()
        self.assertIs(memory.adoptedPorts[0][2].wrappedFactory, relay.factory)
        self.assertEqual(relay.urls, ["wss://0.0.0.0:1234"])
        self.successResultOf(relay.stopService())

    def test_composes_lines_for_debugging_only_at_that_level(self) -> None:
        message = msgspec.json.decode(offer(), type=PeerConnection)
        for level, count in (("DEBUG", 1), ("INFO", 0)):
            settings = msgspec.structs.replace(
                LOOPBACK, logging=Logging(default_level=cast(Level, level))
            )
            relay, _ = relay_service(settings)
            captured = Capture(self)
            relay.journal.forwarded(RecordingPeer(), RecordingPeer(), message, None)
            self.assertEqual(len(captured.lines(LogLevel.debug)), count)
            self.successResultOf(relay.stopService())

    def test_stops_when_the_last_connection_is_gone(self) -> None:
        relay, memory = relay_service()
        relay.startService()
        connection: Any = Connection()
        relay.factory.connections.add(connection)
        stopped = relay.stopService()
        self.assertEqual((connection.shuts, connection.aborted), (1, 0))
        self.assertNoResult(stopped)
        relay.factory.connection_lost(connection)
        self.successResultOf(stopped)
        self.assertEqual(memory.getDelayedCalls(), [])

    def test_goes_from_state_to_state(self) -> None:
        relay, memory = relay_service()
        self.assertEqual(relay.status, "starting, clients: 0")
        relay.startService()
        self.assertEqual(relay.status, "serving, clients: 0")
        relay.drain()
        self.assertEqual(relay.status, "draining, clients: 0")
        self.assertTrue(memory.hasStopped)  # nobody has to be waited for
        self.assertEqual(relay.factory.relay.broker.offers.hold, 0)
        relay.apply(LOOPBACK)
        self.assertEqual(relay.factory.relay.broker.offers.hold, 0)
        self.successResultOf(relay.stopService())
        relay.drain()
        self.assertEqual(relay.status, "stopping, clients: 0")

    def test_aborts_what_does_not_go(self) -> None:
        relay, memory = relay_service()
        relay.startService()
        connection: Any = Connection()
        relay.factory.connections.add(connection)
        stopped = relay.stopService()
        memory.advance(9.9)
        self.assertEqual(connection.aborted, 0)
        memory.advance(0.2)
        self.assertEqual(connection.aborted, 1)
        relay.factory.connection_lost(connection)
        self.successResultOf(stopped)


class ChangeTests(SynchronousTestCase):
    """Other settings, while a relay serves."""

    def changed(
        self, after: Config, before: Config = LOOPBACK, pair: tls.KeyPair | None = None
    ) -> RelayService:
        relay, self.memory = relay_service(before, pair)
        relay.startService()
        self.addCleanup(lambda: self.successResultOf(relay.stopService()))
        self.before = relay.factory.protocol
        relay.apply(after)
        self.assertEqual((relay.config, relay.factory.config), (after, after))
        return relay

    def test_the_same_change_nothing(self) -> None:
        relay = self.changed(LOOPBACK)
        self.assertIs(relay.factory.protocol, self.before)

    def test_new_connections_have_another_longest_message(self) -> None:
        relay = self.changed(msgspec.structs.replace(LOOPBACK, max_message_bytes=9))
        before: Any = self.before
        after: Any = relay.factory.protocol
        self.assertEqual(after.maxMessagePayloadSize, 9)
        self.assertEqual(before.maxMessagePayloadSize, 1024 * 1024)

    def test_deadlines_have_other_lengths(self) -> None:
        timeouts = Timeouts(ping_interval=3)
        relay = self.changed(msgspec.structs.replace(LOOPBACK, timeouts=timeouts))
        deadlines: Any = relay.factory.lifecycle.queues[Phase.READY]
        self.assertEqual(deadlines._seconds, 3)

    def test_other_origins_are_let_in(self) -> None:
        origins = ("https://relay.example",)
        relay = self.changed(msgspec.structs.replace(LOOPBACK, allowed_origins=origins))
        allowed = relay.factory.origin_allowed
        self.assertTrue(allowed("https://relay.example"))
        self.assertFalse(allowed("https://elsewhere.example"))

    def test_lines_for_debugging_are_composed_at_that_level(self) -> None:
        logging = Logging(default_level="DEBUG")
        relay = self.changed(msgspec.structs.replace(LOOPBACK, logging=logging))
        self.assertTrue(relay.journal.verbose)

    def test_another_certificate_is_served(self) -> None:
        secure = msgspec.structs.replace(LOOPBACK, certfile=Path("in memory"))
        relay = self.changed(secure, secure, Authority().pair())
        other = Authority().pair()
        relay.use_certificate(other)
        self.assertIs(relay.pair, other)

    def test_a_certificate_that_openssl_refuses_changes_nothing(self) -> None:
        secure = msgspec.structs.replace(LOOPBACK, certfile=Path("in memory"))
        relay = self.changed(secure, secure, Authority().pair())
        wrong = tls.KeyPair(Authority().pair().chain, Authority().pair().key)
        before = relay.pair
        with self.assertRaises(ConfigError):
            relay.use_certificate(wrong)
        self.assertEqual((relay.config, relay.pair), (secure, before))

    def test_another_authenticator_is_asked(self) -> None:
        relay = self.changed(LOOPBACK)
        before, after = Asked(), Asked()
        for asked in (before, before, after):
            relay.use_authenticator(asked)
        self.assertIs(relay.authenticator, after)
        self.assertEqual((before.calls, after.calls), (["start", "stop"], ["start"]))

    def test_the_census_has_another_interval(self) -> None:
        for interval, count in ((10, 6), (0, 0), (60, 1)):
            captured = Capture(self)
            logging = Logging(current_client_interval=interval)
            self.changed(msgspec.structs.replace(LOOPBACK, logging=logging))
            self.memory.pump([10] * 6)
            self.assertEqual(captured.lines(), ["connected clients: 0"] * count)


class Asked(AnonymousAuthenticator):
    """Keeps the calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> None:
        self.calls.append("stop")


class CensusTests(SynchronousTestCase):
    """The list of clients, from time to time."""

    def started(self, **options: Any) -> tuple[RelayService, MemoryReactorClock]:
        settings = msgspec.structs.replace(LOOPBACK, logging=Logging(**options))
        relay, memory = relay_service(settings)
        relay.startService()
        self.addCleanup(lambda: self.successResultOf(relay.stopService()))
        self.captured = Capture(self)
        return relay, memory

    def test_is_logged_at_its_interval(self) -> None:
        _, memory = self.started(current_client_interval=30)
        self.assertEqual(self.captured.lines(), [])
        memory.advance(29)
        self.assertEqual(self.captured.lines(), [])
        memory.advance(1)
        self.assertEqual(self.captured.lines(LogLevel.info), ["connected clients: 0"])
        memory.pump([30, 30])
        self.assertEqual(self.captured.lines(), ["connected clients: 0"] * 3)

    def test_is_off_at_an_interval_of_0(self) -> None:
        _, memory = self.started(current_client_interval=0)
        memory.advance(86400)
        self.assertEqual(self.captured.lines(), [])

    def test_ends_when_the_relay_stops(self) -> None:
        relay, memory = self.started(current_client_interval=30)
        self.successResultOf(relay.stopService())
        memory.advance(30)
        self.assertEqual(self.captured.lines(), ["stopped"])
        self.assertEqual(memory.getDelayedCalls(), [])

    def test_keeps_to_its_limit(self) -> None:
        relay, memory = self.started(current_client_interval=30, current_client_limit=0)
        relay.factory.relay.registry.add(A, cast(Peer, RecordingPeer()))
        memory.advance(30)
        self.assertEqual(self.captured.lines(), ["connected clients: 1"])

    def test_says_so_if_it_fails(self) -> None:
        relay, memory = self.started(current_client_interval=30)
        relay.factory.relay.registry.add(A, cast(Peer, object()))
        memory.advance(30)
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)
        (failed,) = [e for e in self.captured.events if "log_failure" in e]
        self.assertIn("the list of clients has stopped", eventAsText(failed))


class HeapTests(SynchronousTestCase):
    """The memory of clients that have left."""

    def test_goes_back_when_the_relay_has_time(self) -> None:
        relay, memory = relay_service(LOOPBACK)
        connections: set[Any] = cast(Any, relay.factory.connections)
        left: list[int] = []
        relay._heap = Heap(lambda: left.append(len(connections)))
        relay.startService()
        self.addCleanup(lambda: self.successResultOf(relay.stopService()))
        connections.update(range(CROWD))
        memory.advance(SWEEP_SECONDS)
        connections.clear()
        relay.factory.pace._waiting.append(lambda: None)
        memory.advance(SWEEP_SECONDS)
        self.assertEqual(left, [])
        relay.factory.pace._next_turn()
        memory.advance(SWEEP_SECONDS)
        self.assertEqual(left, [0])


class Reader(Protocol):
    """Sends a request and keeps all that comes back."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.received = b""
        self.done: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self.request)

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.done.callback(self.received)


class ServingTests(TestCase):
    """A relay on the reactor."""

    timeout = 30

    async def test_serves_and_frees_the_port(self) -> None:
        relay = RelayService(LOOPBACK, AnonymousAuthenticator(), None, reactor)
        relay.startService()
        (url,) = relay.urls
        port = int(url.removeprefix("ws://127.0.0.1:"))
        reader = Reader(b"GET / HTTP/1.1\r\nHost: relay.example\r\n\r\n")
        await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), reader)
        self.assertTrue((await reader.done).startswith(b"HTTP/1.1 426 "))
        await relay.stopService()
        for bound in listening.bind("127.0.0.1", port):
            bound.close()

    async def test_serves_every_address_of_a_host(self) -> None:
        settings = Config(host=None, port=0)
        relay = RelayService(settings, AnonymousAuthenticator(), None, reactor)
        relay.startService()
        try:
            ports = {url.rpartition(":")[2] for url in relay.urls}
            self.assertEqual(len(ports), 1)
            self.assertIn(f"ws://0.0.0.0:{ports.pop()}", relay.urls)
        finally:
            await relay.stopService()
