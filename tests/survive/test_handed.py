"""What a supervisor hands over, told apart."""

from __future__ import annotations

import os
import socket

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.net.descriptor_store import PROBE_NAME
from proxyrelay.survive import memory
from proxyrelay.survive.handed import LISTENER, Handed


class HandedTests(SynchronousTestCase):
    """Kinds of descriptors."""

    def setUp(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.listener.close)
        self.client = socket.create_connection(self.listener.getsockname())
        self.addCleanup(self.client.close)
        self.client.settimeout(5)

    def connection(self) -> int:
        accepted, _ = self.listener.accept()
        return accepted.detach()

    def number(self, opened: socket.socket) -> int:
        number = opened.detach()
        self.addCleanup(os.close, number)
        return number

    def test_each_kind_is_told_by_what_it_is(self) -> None:
        udp = self.number(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        local = self.number(socket.socket(socket.AF_UNIX))
        activated = self.number(socket.create_server(("127.0.0.1", 0)))
        own = socket.create_server(("127.0.0.1", 0)).detach()
        file = os.memfd_create("x")
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        connection = self.connection()
        given = {
            udp: "0",
            local: "1",
            activated: "2",
            own: f"{LISTENER}0",
            file: memory.NAME,
            writing: PROBE_NAME,
            connection: "web.socket",
            9999: "closed",
        }
        handed = Handed.sort(given)
        self.addCleanup(handed.close)
        self.assertEqual(
            handed.activated, {udp: "0", local: "1", activated: "2", 9999: "closed"}
        )
        self.assertEqual((handed.listeners, handed.memories), ([own], [file]))
        self.assertEqual(
            handed.connections, {writing: PROBE_NAME, connection: "web.socket"}
        )
        self.assertEqual(
            handed.names,
            {f"{LISTENER}0", memory.NAME, PROBE_NAME, "web.socket"},
        )
        for number in (own, file, connection):
            self.assertFalse(os.get_inheritable(number))

    def test_socket_without_a_name_is_from_no_store(self) -> None:
        connection = self.connection()
        self.addCleanup(os.close, connection)
        self.assertEqual(Handed.sort({connection: ""}).activated, {connection: ""})

    def test_sort_leaks_no_descriptor(self) -> None:
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        self.addCleanup(os.close, writing)
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        Handed.sort({reading: "0", writing: "1"})
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)  # noqa: PTH208

    def test_close_ends_connections_that_another_process_holds(self) -> None:
        connection = self.connection()
        held = os.dup(connection)
        self.addCleanup(os.close, held)
        Handed.sort({connection: "0"}).close()
        self.assertEqual(self.client.recv(1), b"")
        self.assertRaises(OSError, os.fstat, connection)
