"""Twisted's TCP transports, as `proxyrelay.net.transport` takes them for granted."""

from __future__ import annotations

import inspect
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.error import ConnectionDone
from twisted.internet.tcp import Connection, Port, Server
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.net.test_transport import Connected


def names(function: Any) -> set[str]:
    """Names of attributes and globals that a function uses."""
    return set(getattr(getattr(function, "__code__", None), "co_names", ()))


class ServerTests(SynchronousTestCase):
    """Attributes and methods of `twisted.internet.tcp.Server`."""

    def test_do_write_uses_known_attributes(self) -> None:
        self.assertIs(Server.doWrite, FileDescriptor.doWrite)
        self.assertIs(Server._postLoseConnection, FileDescriptor._postLoseConnection)
        known = {"_postLoseConnection", "writeSomeData", "_tempDataBuffer"}
        known |= {"dataBuffer", "offset", "stopWriting", "disconnecting", "producer"}
        self.assertLessEqual(known, names(FileDescriptor.doWrite))

    def test_write_of_half_closed_transport_does_nothing(self) -> None:
        for function in (FileDescriptor.write, FileDescriptor.writeSequence):
            self.assertIn("_writeDisconnected", names(function))
            self.assertIn("connected", names(function))

    def test_transport_keeps_unwritten_data_in_known_attributes(self) -> None:
        # The attributes in which Twisted keeps what is to be written.
        fresh = vars(Connected(None).transport)
        kept = {name for name in fresh if "ata" in name}
        self.assertEqual(kept, {"_tempDataBuffer", "_tempDataLen"})
        self.assertEqual((Server.dataBuffer, Server.offset), (b"", 0))
        self.assertFalse(Server.TLS)
        self.assertIs(Server._aborting, False)
        self.assertIs(Server._writeDisconnected, False)

    def test_connection_lost_closes_socket(self) -> None:
        used = names(Connection.connectionLost)
        self.assertLessEqual({"_closeSocket", "socket", "fileno", "protocol"}, used)
        self.assertIn("shutdown", names(Connection._closeSocket))
        closing = list(inspect.signature(Connection._closeSocket).parameters)
        self.assertEqual(closing, ["self", "orderly"])
        # To be called again does no harm, and reads and writes are over.
        self.assertLessEqual(
            {"stopReading", "stopWriting", "stopProducing"},
            names(FileDescriptor.connectionLost),
        )

    def test_transport_lost_has_no_descriptor(self) -> None:
        transport = Connected(None).transport
        transport.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(transport.fileno(), -1)
        self.assertFalse(hasattr(transport, "socket"))

    def test_abort_replaces_reads_and_writes(self) -> None:
        transport = Connected(None).transport
        transport.abortConnection()
        self.assertTrue(transport._aborting)
        self.assertIsNone(transport.doRead())
        self.assertIsNone(transport.doWrite())

    def test_transport_is_built_with_known_arguments(self) -> None:
        given = list(inspect.signature(Server.__init__).parameters)
        self.assertEqual(
            given,
            ["self", "sock", "protocol", "client", "server", "sessionno", "reactor"],
        )
        self.assertIn("transport", names(Port.doRead))
