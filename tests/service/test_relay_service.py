"""A relay as a service: its sockets, settings and clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from msgspec import json, structs
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import LogLevel, eventAsText
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from proxyrelay import __version__
from proxyrelay.auth.anonymous import AnonymousAuthenticator
from proxyrelay.config import Config, Logging, Timeouts
from proxyrelay.config.cluster import Cluster
from proxyrelay.errors import ConfigError, StartError
from proxyrelay.net import certificates as tls
from proxyrelay.net import listening
from proxyrelay.net.process import CROWD_CONNECTIONS, Heap
from proxyrelay.service.relay_service import TICK_SECONDS, RelayService
from proxyrelay.switchboard.messages import PeerConnection
from proxyrelay.switchboard.peer import Peer
from proxyrelay.websocket.state import Phase
from tests.service.case import LOOPBACK, ServiceTestCase, free_port, relay_service
from tests.support.capture import Capture
from tests.support.certificates import Authority
from tests.support.recording import A, RecordingPeer, offer

reactor: Any = _reactor

SECURE = structs.replace(LOOPBACK, certfile=Path("in memory"))


def logging(**options: Any) -> Config:
    """Settings with options of ``[logging]``."""
    return structs.replace(LOOPBACK, logging=Logging(**options))


class SocketTests(ServiceTestCase):
    """A relay and its sockets, on a reactor without a network."""

    def test_relay_built_holds_port_until_stop(self) -> None:
        port = free_port()
        relay, memory = relay_service(Config(host="127.0.0.1", port=port))
        with self.assertRaises(StartError):
            listening.bind("127.0.0.1", port)
        with self.assertRaises(StartError):
            relay_service(Config(host="127.0.0.1", port=port))
        self.assertEqual((memory.adoptedPorts, relay.urls), ([], []))
        self.successResultOf(relay.stopService())
        for bound in listening.bind("127.0.0.1", port):
            bound.close()

    def test_relay_started_listens_and_logs_its_place(self) -> None:
        captured = Capture(self)
        relay = self.serve()
        self.assertEqual(len(self.memory.adoptedPorts), 1)
        self.assertIs(self.memory.adoptedPorts[0][2].wrappedFactory, relay.factory)
        self.assertEqual(relay.urls, ["ws://0.0.0.0:1234"])
        for call, args, options in self.memory.whenRunningHooks:
            call(*args, **options)
        served = f"proxyrelay {__version__} serves ws://0.0.0.0:1234"
        self.assertEqual(captured.lines(), [f"{served} (authentication: none)"])

    def test_relay_with_certificate_serves_tls(self) -> None:
        relay = self.serve(SECURE, Authority().pair())
        self.assertIs(self.memory.adoptedPorts[0][2].wrappedFactory, relay.factory)
        self.assertEqual(relay.urls, ["wss://0.0.0.0:1234"])

    def test_ports_failing_to_close_are_logged(self) -> None:
        captured = Capture(self)
        for end in ("drain", "stopService"):
            relay, _ = relay_service()
            relay.startService()
            (port,) = relay.ports._ports
            port.stopListening = lambda: fail(OSError("stuck"))
            getattr(relay, end)()
            if end == "drain":
                self.successResultOf(relay.stopService())
            self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
            self.assertIn("a port is not closed", captured.lines())
            captured.events.clear()


class StateTests(ServiceTestCase):
    """From start to stop."""

    def test_relay_drained_and_stopped_tells_each_state(self) -> None:
        relay, memory = relay_service()
        self.assertEqual(relay.status, "starting, clients: 0")
        relay.startService()
        self.assertEqual(relay.status, "serving, clients: 0")
        relay.drain()
        self.assertEqual(relay.status, "draining, clients: 0")
        self.assertTrue(memory.hasStopped)  # nobody has to be waited for
        self.assertEqual(relay.factory.relay.broker.settings.hold, 0)
        relay.apply(LOOPBACK)
        self.assertEqual(relay.factory.relay.broker.settings.hold, 0)
        self.successResultOf(relay.stopService())
        relay.drain()
        self.assertEqual(relay.status, "stopping, clients: 0")

    def test_stop_with_connections_ends_after_last(self) -> None:
        relay = self.serve()
        connection: Any = self.connected()
        stopped = relay.stopService()
        self.assertEqual((connection.closed, connection.aborted), (1, 0))
        self.assertNoResult(stopped)
        relay.factory.connection_lost(connection)
        self.successResultOf(stopped)
        self.assertEqual(self.memory.getDelayedCalls(), [])

    def test_stop_after_timeout_aborts_connections(self) -> None:
        relay = self.serve()
        connection: Any = self.connected()
        stopped = relay.stopService()
        self.memory.advance(9.9)
        self.assertEqual(connection.aborted, 0)
        self.memory.advance(0.2)
        self.assertEqual(connection.aborted, 1)
        relay.factory.connection_lost(connection)
        self.successResultOf(stopped)


class ApplyTests(ServiceTestCase):
    """Other settings, while a relay serves."""

    def changed(
        self, after: Config, before: Config = LOOPBACK, pair: tls.KeyPair | None = None
    ) -> RelayService:
        relay = self.serve(before, pair)
        self.before: Any = relay.factory.protocol
        relay.apply(after)
        self.assertIs(relay.config, after)
        return relay

    def test_apply_same_settings_keeps_protocol(self) -> None:
        self.assertIs(self.changed(LOOPBACK).factory.protocol, self.before)

    def test_apply_max_message_bytes_is_for_new_connections(self) -> None:
        relay = self.changed(structs.replace(LOOPBACK, max_message_bytes=9))
        after: Any = relay.factory.protocol
        self.assertEqual(after.maxMessagePayloadSize, 9)
        self.assertEqual(self.before.maxMessagePayloadSize, 1024 * 1024)

    def test_apply_timeouts_changes_deadlines(self) -> None:
        timeouts = Timeouts(ping_interval=3)
        relay = self.changed(structs.replace(LOOPBACK, timeouts=timeouts))
        deadlines: Any = relay.factory.lifecycle.queues[Phase.READY]
        self.assertEqual(deadlines._seconds, 3)

    def test_apply_origins_lets_them_in(self) -> None:
        origins = ("https://relay.example",)
        relay = self.changed(structs.replace(LOOPBACK, allowed_origins=origins))
        allowed = relay.factory.origin_allowed
        self.assertTrue(allowed("https://relay.example"))
        self.assertFalse(allowed("https://elsewhere.example"))

    def test_apply_debug_level_composes_its_lines(self) -> None:
        message = json.decode(offer(), type=PeerConnection)
        captured = Capture(self)
        for level in ("DEBUG", "INFO"):
            built = self.serve(logging(default_level=level))
            changed = self.changed(logging(default_level=level))
            for relay in (built, changed):
                captured.events.clear()
                relay.log_observer.forwarded(
                    RecordingPeer(), RecordingPeer(), message, None
                )
                lines = captured.lines(LogLevel.debug)
                self.assertEqual(len(lines), int(level == "DEBUG"))

    def test_use_certificate_serves_it_unless_refused(self) -> None:
        relay = self.changed(SECURE, SECURE, Authority().pair())
        other = Authority().pair()
        relay.use_certificate(other)
        wrong = tls.KeyPair(Authority().pair().chain, Authority().pair().key)
        with self.assertRaises(ConfigError):
            relay.use_certificate(wrong)
        self.assertEqual((relay.config, relay.pair), (SECURE, other))

    def test_use_authenticator_stops_the_one_before(self) -> None:
        relay = self.changed(LOOPBACK)
        before, after = RecordingAuthenticator(), RecordingAuthenticator()
        for each in (before, before, after):
            relay.use_authenticator(each)
        self.assertIs(relay.authenticator, after)
        self.assertEqual((before.calls, after.calls), (["start", "stop"], ["start"]))

    def test_apply_census_interval_changes_it(self) -> None:
        for interval, count in ((10, 6), (0, 0), (60, 1)):
            captured = Capture(self)
            self.changed(logging(current_client_interval=interval))
            self.memory.pump([10] * 6)
            self.assertEqual(captured.lines(), ["connected clients: 0"] * count)

    def test_apply_with_a_bad_key_file_keeps_the_keys(self) -> None:
        """A reload is checked before; the file may go bad after that."""
        key = Path(self.mktemp()).absolute()
        key.write_text("0a" * 32)
        key.chmod(0o600)
        cluster = Cluster(engine="unix:/nowhere.sock", key_file=key)
        relay = self.serve(structs.replace(LOOPBACK, cluster=cluster))
        assert relay.member is not None
        keys = relay.member.keys
        key.write_text("0a")
        captured = Capture(self)
        offers = structs.replace(relay.config.offers, hold=1)
        relay.apply(structs.replace(relay.config, offers=offers))
        (line,) = captured.lines(LogLevel.error)
        self.assertIn(str(key), line)
        self.assertEqual(relay.member.keys, keys)
        self.assertEqual(relay.factory.relay.broker.settings.hold, 1)


class RecordingAuthenticator(AnonymousAuthenticator):
    """Keeps the calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> None:
        self.calls.append("stop")


class CensusTests(ServiceTestCase):
    """The list of clients, from time to time."""

    def setUp(self) -> None:
        self.serve(logging(current_client_interval=30, current_client_limit=0))
        self.captured = Capture(self)

    def test_census_at_interval_logs_until_stop(self) -> None:
        self.memory.advance(29)
        self.assertEqual(self.captured.lines(), [])
        self.memory.advance(1)
        self.assertEqual(self.captured.lines(LogLevel.info), ["connected clients: 0"])
        self.memory.pump([30, 30])
        self.assertEqual(self.captured.lines(), ["connected clients: 0"] * 3)
        self.successResultOf(self.relay.stopService())
        self.memory.advance(30)
        self.assertEqual(self.captured.lines()[3:], ["stopped"])
        self.assertEqual(self.memory.getDelayedCalls(), [])

    def test_census_over_limit_logs_number_only(self) -> None:
        self.relay.factory.registry.add(A, cast(Peer, RecordingPeer()))
        self.memory.advance(30)
        self.assertEqual(self.captured.lines(), ["connected clients: 1"])

    def test_census_failing_logs_its_end(self) -> None:
        self.relay.apply(logging(current_client_interval=30))
        self.relay.factory.registry.add(A, cast(Peer, object()))
        self.memory.advance(30)
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)
        (failed,) = [e for e in self.captured.events if "log_failure" in e]
        self.assertIn("the list of clients has stopped", eventAsText(failed))


class HeapTests(ServiceTestCase):
    """The memory of clients that have left."""

    def test_heap_after_crowd_is_trimmed_without_backlog(self) -> None:
        relay = self.serve()
        connections: set[Any] = cast(Any, relay.factory.connections)
        left: list[int] = []
        relay._heap = Heap(lambda: left.append(len(connections)))
        connections.update(range(CROWD_CONNECTIONS))
        self.memory.advance(TICK_SECONDS)
        connections.clear()
        relay.factory.pace._waiting.append(lambda: None)
        self.memory.advance(TICK_SECONDS)
        self.assertEqual(left, [])
        relay.factory.pace._next_turn()
        self.memory.advance(TICK_SECONDS)
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


class ReactorTests(TestCase):
    """A relay on the reactor."""

    timeout = 30

    async def test_relay_on_reactor_serves_every_address_and_frees_port(self) -> None:
        settings = Config(host=None, port=0)
        relay = RelayService(settings, AnonymousAuthenticator(), None, reactor)
        relay.startService()
        ports = {url.rpartition(":")[2] for url in relay.urls}
        self.assertEqual(len(ports), 1)
        port = int(ports.pop())
        self.assertIn(f"ws://0.0.0.0:{port}", relay.urls)
        reader = Reader(b"GET / HTTP/1.1\r\nHost: relay.example\r\n\r\n")
        await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), reader)
        self.assertTrue((await reader.done).startswith(b"HTTP/1.1 426 "))
        await relay.stopService()
        for bound in listening.bind("127.0.0.1", port):
            bound.close()
