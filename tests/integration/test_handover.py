"""A relay takes over from another one, and no client is lost."""

from __future__ import annotations

import signal
import socket
from typing import Any
from uuid import uuid4

from proxystore.connectors.endpoint import EndpointConnector, EndpointKey
from proxystore.p2p.relay.client import RelayClient
from proxystore.store import Store

from proxyrelay.net import listening
from tests.integration.test_real_clients import EndpointTestCase, need_addresses
from tests.integration.test_twistd import TwistdTestCase
from tests.support.frames import TEXT, frame
from tests.support.processes import PATIENCE, SCRIPTS, RelayProcess
from tests.support.recording import A, B, C, answer, offer, registration
from tests.support.served import upgrade

CROWD = 50
"""Clients that come while one relay takes over from the other."""


class HandOverMixin:
    """What holds however the second relay comes by the address."""

    def first(self: Any, text: str = "") -> RelayProcess:
        raise NotImplementedError

    def second(self: Any, text: str = "") -> RelayProcess:
        raise NotImplementedError

    def drain(self: Any, relay: RelayProcess) -> None:
        status, lines = self.command("drain", "--pid", str(relay.pid))
        self.assertEqual(status, 0, lines)
        relay.wait_for("draining: clients that are connected are served until they ")

    def test_draining_relay_serves_its_clients_until_the_last(
        self: Any,
    ) -> None:
        old = self.first("[offers]\nhold = 0\n")
        one, other = self.registered(old.url), self.registered(old.url, uuid=B)
        new = self.second("[offers]\nhold = 0\n")
        self.drain(old)
        third = self.registered(old.url, uuid=C)
        new.wait_for(f"registered {C} ")

        for source, target, text in ((one, other, offer()), (other, one, answer())):
            source.send(text.decode())
            self.assertEqual(target.recv(), text.decode())
        one.send(offer(A, C).decode())
        self.assertIn("which is being replaced", one.recv())
        third.send(offer(C, B).decode())
        self.assertIn("not registered this relay server", third.recv())

        one.close()
        old.wait_for(f"left {A} ")
        self.registered(old.url)
        new.wait_for(f"registered {A} ")
        self.assertNotIn("drained", old.said)
        other.close()
        self.assertEqual(old.wait(), 0)
        old.wait_for("drained: no connection is left")
        self.assertEqual(old.errors, [])
        self.assertNotIn("Traceback", old.said + new.said)
        third.ping()

    def test_client_that_waits_to_be_accepted_is_not_reset(self: Any) -> None:
        old = self.first()
        old.send(signal.SIGSTOP)
        crowd = [self.waiting(old.port) for _ in range(CROWD)]
        old.send(signal.SIGUSR2)
        self.second()
        old.send(signal.SIGCONT)
        for client in crowd:
            self.assert_welcome(client)
            client.close()
        self.assertEqual(old.wait(), 0)

    def waiting(self: Any, port: int) -> socket.socket:
        """A client that has sent its request, and perhaps nobody has accepted."""
        client = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.addCleanup(client.close)
        client.sendall(upgrade())
        return client

    def assert_welcome(self: Any, client: socket.socket) -> None:
        """A client is served, or asked to come back."""
        received = b""
        while b"\r\n\r\n" not in received:
            received += self.read(client)
        head, _, frames = received.partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 101 "), head)
        client.sendall(frame(TEXT, registration(uuid4())))
        while len(frames) < 4:
            frames += self.read(client)
        self.assertIn(frames[2:4], (b'{"', (1013).to_bytes(2, "big")))

    def read(self: Any, client: socket.socket) -> bytes:
        """What comes next; something does."""
        received = client.recv(65536)
        self.assertNotEqual(received, b"")
        return received


class ReusePortTests(HandOverMixin, TwistdTestCase):
    """Each relay has a socket of its own."""

    def first(self, text: str = "") -> RelayProcess:
        path = self.write_config(f"reuse_port = true\n{text}")
        relay = self.relay("--config", path)
        self.port = relay.port
        return relay

    def second(self, text: str = "") -> RelayProcess:
        path = self.write_config(f"reuse_port = true\n{text}")
        return self.relay("--config", path, port=self.port)

    def test_client_that_stays_for_too_long_comes_back_to_the_other(self) -> None:
        old = self.first("drain_max = 0.1\n")
        uuid = uuid4()

        async def scenario() -> None:
            async with RelayClient(old.url, client_uuid=uuid) as client:
                first = client.websocket
                new = self.second()
                old.send(signal.SIGUSR2)
                await first.wait_closed()
                self.assertEqual(first.close_code, 1001)
                await client.connect()
                new.wait_for(f"registered {uuid} ")

        self.play(scenario())
        old.wait_for("draining has taken too long, connections to close: 1")
        self.assertEqual(old.wait(), 0)

    def test_draining_relay_can_be_stopped(self) -> None:
        old = self.first()
        client = self.registered(old.url)
        self.drain(old)
        self.assertEqual(old.stop(), 0)
        self.assert_closed(client, 1001)

    def test_relay_beside_one_without_reuse_port_does_not_listen(self) -> None:
        self.first()
        failed = self.start(
            SCRIPTS / "twistd",
            *("-n", "--pidfile=", "proxyrelay", "--host=127.0.0.1"),
            f"--port={self.port}",
        )
        self.assertEqual(failed.wait(), 1)
        self.assertIn("address already in use", failed.errors[0])


class InheritedTests(HandOverMixin, TwistdTestCase):
    """Both have one socket, which a third process holds."""

    def setUp(self) -> None:
        super().setUp()
        (self.listener,) = listening.bind("127.0.0.1", 0)
        self.addCleanup(self.listener.close)

    def first(self, text: str = "") -> RelayProcess:
        path = self.write_config(text)
        return self.relay("--config", path, listener=self.listener)

    def second(self, text: str = "") -> RelayProcess:
        relay = self.first(text)
        self.assertEqual(relay.port, self.listener.getsockname()[1])
        return relay

    def test_client_of_a_stopped_relay_is_served_by_the_other(self) -> None:
        old = self.first()
        old.send(signal.SIGSTOP)
        new = self.second()
        self.registered(old.url)
        new.wait_for(f"registered {A} ")
        old.send(signal.SIGCONT)

    def test_descriptor_that_does_not_listen_is_refused(self) -> None:
        with socket.socket() as plain, self.assertRaises(AssertionError) as caught:
            self.relay(listener=plain)
        self.assertIn("descriptor 3 of LISTEN_FDS: no listening", str(caught.exception))


class EndpointTests(EndpointTestCase):
    def test_endpoints_read_of_each_other_during_reload_and_handover(self) -> None:
        need_addresses()
        path = self.write_config("reuse_port = true\n")
        options = ("--config", path, "--log-level", "DEBUG")
        old = self.relay(*options)
        one, home_of_one, process_of_one = self.endpoint("one", old)
        two, home_of_two, process_of_two = self.endpoint("two", old)
        self.write_config("reuse_port = true\nmax_message_bytes = 100000\n")
        old.send(signal.SIGHUP)
        old.wait_for("reloaded, changed: max_message_bytes$")
        self.relay(*options, port=old.port)
        old.send(signal.SIGUSR2)
        old.wait_for("draining: ")
        with (
            EndpointConnector([one], str(home_of_one)) as near,
            EndpointConnector([two], str(home_of_two)) as far,
        ):
            self.assertEqual((near.endpoint_uuid, far.endpoint_uuid), (one, two))
            value = {"numbers": list(range(10_000))}
            key = Store("near", near).put(value)
            assert isinstance(key, EndpointKey)
            self.assertEqual(key.endpoint_id, str(one))
            reader = Store("far", far)
            self.assertTrue(reader.exists(key))
            self.assertEqual(reader.get(key), value)
        old.wait_for(f"forwarded offer of {two} .* to {one} ")
        old.wait_for(f"forwarded answer of {one} .* to {two} ")
        for process, uuid in ((process_of_one, one), (process_of_two, two)):
            self.assertEqual(process.stop(), 0, process.said)
            self.assertNotIn("Traceback", process.said)
            old.wait_for(f"left {uuid} ")
        self.assertEqual(old.wait(), 0)
        self.assertNotIn("Traceback", old.said)
