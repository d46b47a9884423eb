"""A relay that ends in order, and the one that goes on, with real clients."""

from __future__ import annotations

import json
import os
import signal
import socket
from typing import Any

from msgspec import structs
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, succeed
from websockets.exceptions import ConnectionClosed

from proxyrelay.config import Config, Offers, Timeouts
from proxyrelay.net.descriptor_store import DescriptorStore
from proxyrelay.service.relay_service import RESTART_SECONDS, RelayService
from proxyrelay.service.signals import Signals
from proxyrelay.survive.handed import LISTENER, Handed
from proxyrelay.survive.memory import NAME
from proxyrelay.survive.survival import Survival
from tests.support.capture import Capture
from tests.support.certificates import Authority
from tests.support.clock import EagerClock
from tests.support.recording import A, B, C, RecordingObserver, answer, offer
from tests.support.served import Client, RelayTestCase, scenario, upgrade
from tests.support.supervisor import Supervisor

reactor: Any = _reactor


class RestartTestCase(RelayTestCase):
    """Serves one relay after another, under one supervisor."""

    config = Config(
        host="127.0.0.1", port=0, offers=Offers(crossing=0), timeouts=Timeouts(stop=5)
    )
    capacity = 100

    def setUp(self) -> None:
        self.captured = Capture(self)
        self.supervisor = Supervisor()
        self.addCleanup(self.supervisor.close)
        self.clock = EagerClock()
        self.observed = RecordingObserver()
        self.authority = None
        self._clients: list[Client | socket.socket] = []
        self._loop = None
        self.begin(self.config)
        self.addCleanup(self._stop)

    def begin(self, config: Config, secure: bool = False, active: Any = ()) -> None:
        """Start a relay, in the reactor's thread."""
        self.supervisor.read()
        given = {os.dup(number): name for name, number in self.supervisor.pairs}
        handed = Handed.sort(given)
        store = DescriptorStore(self.supervisor.address, reactor)
        self.survival = Survival(config, handed, store, self.capacity)
        pair = None
        if secure:
            self.authority = Authority()
            pair = self.authority.pair()
        self.service = RelayService(
            *(config, self.authenticator(), pair, reactor, self.clock),
            inherited=active,
            survival=self.survival,
            further=(self.observed,),
        )
        self.service.startService()
        self.is_over = False
        self.url = self.service.urls[0]
        self.port = int(self.url.rpartition(":")[2])
        self.supervisor.read()

    def end(self, is_restarting: bool = True, reads: bool = True) -> Deferred[None]:
        """Begin to end, in the reactor's thread."""
        self.service.is_restarting = is_restarting and self.service.can_restart
        self.is_over = True
        ended = self.service.stopService()
        if reads:
            self.supervisor.read()
        return ended

    def _stop(self) -> Deferred[Any]:
        return succeed(None) if self.is_over else super()._stop()

    def restart(self, **settings: Any) -> None:
        """Let the next relay go on, with the same settings or others."""
        self.in_reactor(self.end)
        self.in_reactor(self.begin, structs.replace(self.config, **settings))

    def closing(self, client: Client) -> int:
        """The code with which a client is closed."""
        with self.assertRaises(ConnectionClosed) as caught:
            client.recv()
        received = caught.exception.rcvd
        return 0 if received is None else received.code

    def exchange(self, one: Client, other: Client) -> None:
        """An offer and its answer pass between two clients."""
        one.send(offer(A, B).decode())
        self.assertEqual(json.loads(other.recv())["description_type"], "offer")
        other.send(answer(B, A).decode())
        self.assertEqual(json.loads(one.recv())["description_type"], "answer")


class RestartTests(RestartTestCase):
    """An orderly end that leaves connections to the next relay."""

    @scenario
    def test_registered_clients_and_the_port_go_on(self) -> None:
        one, other, port = self.registered(A), self.registered(B), self.port
        for _ in range(3):
            self.exchange(one, other)
            self.restart()
            self.assertEqual(self.port, port)
        self.exchange(one, other)
        names = ["0", "1", f"{LISTENER}0", NAME]
        self.assertEqual(self.in_reactor(lambda: self.supervisor.names), names)
        self.exchange(self.registered(A), other)

    @scenario
    def test_clients_without_uuid_are_asked_to_come_back(self) -> None:
        kept, early, late, silent = (
            *(self.registered(A), self.connect()),
            *(self.raw(), self.raw()),
        )
        self.until(lambda: len(self.service.factory.connections) == 4)
        ended: list[Deferred[None]] = []
        self.in_reactor(lambda: ended.append(self.end()))
        self.assertEqual(self.closing(early), 1013)
        late.sendall(upgrade())
        self.assertIn(b"\x88", self.read_some(late))
        late.close()
        self.until(lambda: len(self.service.factory.connections) == 1)
        self.assertFalse(ended[0].called)
        self.advance(RESTART_SECONDS)
        self.in_reactor(lambda: ended[0])
        self.assertEqual(self.read_to_end(silent), b"")
        self.in_reactor(self.begin, self.config)
        self.assert_served(kept)

    def read_some(self, client: socket.socket) -> bytes:
        """The answer to an upgrade, and a close frame behind it."""
        data = b""
        while b"\x88" not in data.partition(b"\r\n\r\n")[2]:
            piece = client.recv(65536)
            self.assertNotEqual(piece, b"")
            data += piece
        self.assertIn((1013).to_bytes(2, "big"), data)
        return data

    @scenario
    def test_second_signal_leaves_kept_connections_alone(self) -> None:
        kept, silent = self.registered(A), self.raw()
        self.until(lambda: len(self.service.factory.connections) == 2)
        ended: list[Deferred[None]] = []
        self.in_reactor(lambda: ended.append(self.end()))
        self.in_reactor(self.service.factory.abort_all)
        self.in_reactor(lambda: ended[0])
        self.assertEqual(self.read_to_end(silent), b"")
        self.in_reactor(self.begin, self.config)
        self.assert_served(kept)

    @scenario
    def test_full_stop_closes_all_and_releases_the_port(self) -> None:
        client = self.registered(A)
        self.in_reactor(lambda: self.end(is_restarting=False))
        self.assertEqual(self.closing(client), 1001)
        self.in_reactor(self.supervisor.read)
        self.assertEqual(self.supervisor.names, [NAME])

    @scenario
    def test_lost_supervisor_means_a_full_stop(self) -> None:
        client = self.registered(A)
        self.supervisor.close()
        other = self.registered(B)
        self.assertFalse(self.in_reactor(lambda: self.service.can_restart))
        self.in_reactor(self.end, True, False)
        self.assertEqual((self.closing(client), self.closing(other)), (1001, 1001))

    @scenario
    def test_drained_relay_is_the_last(self) -> None:
        self.registered(A)
        self.service._end = lambda: None  # type: ignore[method-assign]
        self.in_reactor(self.service.drain)
        self.in_reactor(self.supervisor.read)
        self.assertEqual(self.supervisor.names, ["0", NAME])
        self.assertFalse(self.in_reactor(lambda: self.service.can_restart))

    @scenario
    def test_other_port_is_served_by_the_next_relay(self) -> None:
        client, before = self.registered(A), self.port
        self.restart(host="127.0.0.2")
        self.assertEqual(self.service.urls, [f"ws://127.0.0.2:{self.port}"])
        self.assert_served(client)
        self.assertRaises(OSError, socket.create_connection, ("127.0.0.1", before), 5)
        names = ["0", f"{LISTENER}0", NAME]
        self.assertEqual(self.in_reactor(lambda: self.supervisor.names), names)

    @scenario
    def test_listeners_of_activation_take_the_place_of_kept_ones(self) -> None:
        client, before = self.registered(A), self.port
        self.in_reactor(self.end)
        active = socket.create_server(("127.0.0.1", 0))
        active.setblocking(False)
        self.in_reactor(self.begin, self.config, False, [active])
        self.assert_served(client)
        self.assertRaises(OSError, socket.create_connection, ("127.0.0.1", before), 5)
        self.assertEqual(self.in_reactor(lambda: self.supervisor.names), ["0", NAME])

    @scenario
    def test_relay_with_tls_ends_the_connections_of_one_without(self) -> None:
        client = self.registered(A)
        self.in_reactor(self.end)
        settings = structs.replace(self.config, certfile="in memory")
        self.in_reactor(self.begin, settings, True)
        self.assertEqual(self.closing(client), 0)
        names = [f"{LISTENER}0", NAME]
        self.assertEqual(self.in_reactor(lambda: self.supervisor.names), names)
        self.assertIn("as this relay serves TLS: 1", "\n".join(self.captured.lines()))
        secured, port = self.registered(B), self.port
        self.in_reactor(self.end)
        self.assertEqual(self.closing(secured), 1001)
        self.in_reactor(self.begin, settings, True)
        self.assertEqual(self.port, port)

    @scenario
    def test_supervisor_that_does_not_read_is_not_waited_for_for_ever(self) -> None:
        self.registered(A)
        self.in_reactor(self.fill)
        ended: list[Deferred[None]] = []
        self.in_reactor(lambda: ended.append(self.end(reads=False)))
        self.assertFalse(ended[0].called)
        self.advance(self.config.timeouts.stop)
        self.in_reactor(lambda: ended[0])
        lines = self.captured.lines()
        self.assertIn("the supervisor does not read: connections may be lost", lines)

    def fill(self) -> None:
        """Send until the supervisor's queue is full."""
        store = self.survival._store
        for number in range(1000):
            if store._queue:
                return
            store.remove(f"none{number}")


class CapacityTests(RestartTestCase):
    """More clients than are kept."""

    capacity = 1

    @scenario
    def test_clients_over_the_capacity_are_closed(self) -> None:
        kept, unkept = self.registered(A), self.registered(B)
        self.restart()
        self.assertEqual(self.closing(unkept), 1001)
        self.assert_served(kept)


class TwoListenersTests(RestartTestCase):
    """A relay at all interfaces."""

    config = structs.replace(RestartTestCase.config, host=None)

    @scenario
    def test_all_listeners_go_on(self) -> None:
        urls = self.in_reactor(lambda: self.service.urls)
        client = self.registered(C)
        self.restart()
        self.assertEqual(self.in_reactor(lambda: self.service.urls), urls)
        self.assert_served(client, C)


class SignalTests(RestartTestCase):
    """Which signal leaves connections to the next relay."""

    def reload(self) -> None:
        """Stand for the reload."""

    def test_sigterm_alone_leaves_connections_to_the_next_relay(self) -> None:
        stops: list[int] = []

        class Stopped:
            """Stands for the reactor, which goes on."""

            def stop(self) -> None:
                stops.append(1)

        asked: Any = self
        signals = Signals(self.service, asked, Stopped())
        signals._stop(signal.SIGTERM)
        self.assertTrue(self.service.is_restarting)
        signals._stop(signal.SIGINT)
        self.assertFalse(self.service.is_restarting)
        self.supervisor.close()
        self.survival.release_listeners()
        signals._stop(signal.SIGTERM)
        self.assertFalse(self.service.is_restarting)
        self.assertEqual(len(stops), 3)
