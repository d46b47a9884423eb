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


class ServerTests(SynchronousTestCase):
    """Attributes and methods of `twisted.internet.tcp.Server`."""

    def names(self, function: Any) -> set[str]:
        return set(function.__code__.co_names)

    def test_writing_ends_where_it_did(self) -> None:
        self.assertIs(Server.doWrite, FileDescriptor.doWrite)
        self.assertIs(Server._postLoseConnection, FileDescriptor._postLoseConnection)
        known = {"_postLoseConnection", "writeSomeData", "_tempDataBuffer"}
        known |= {"dataBuffer", "offset", "stopWriting", "disconnecting", "producer"}
        self.assertLessEqual(known, self.names(FileDescriptor.doWrite))

    def test_a_transport_that_is_half_closed_writes_nothing(self) -> None:
        for function in (FileDescriptor.write, FileDescriptor.writeSequence):
            self.assertIn("_writeDisconnected", self.names(function))
            self.assertIn("connected", self.names(function))

    def test_what_is_written_at_once_has_no_other_way(self) -> None:
        # The attributes in which Twisted keeps what is to be written.
        fresh = vars(Connected(None).transport)
        kept = {name for name in fresh if "ata" in name}
        self.assertEqual(kept, {"_tempDataBuffer", "_tempDataLen"})
        self.assertEqual((Server.dataBuffer, Server.offset), (b"", 0))
        self.assertFalse(Server.TLS)
        self.assertIs(Server._aborting, False)
        self.assertIs(Server._writeDisconnected, False)

    def test_ends_close_the_socket(self) -> None:
        names = self.names(Connection.connectionLost)
        self.assertLessEqual({"_closeSocket", "socket", "fileno", "protocol"}, names)
        self.assertIn("shutdown", self.names(Connection._closeSocket))
        closing = list(inspect.signature(Connection._closeSocket).parameters)
        self.assertEqual(closing, ["self", "orderly"])
        # To be called again does no harm, and reads and writes are over.
        self.assertLessEqual(
            {"stopReading", "stopWriting", "stopProducing"},
            self.names(FileDescriptor.connectionLost),
        )

    def test_a_lost_transport_has_no_descriptor(self) -> None:
        transport = Connected(None).transport
        transport.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(transport.fileno(), -1)
        self.assertFalse(hasattr(transport, "socket"))

    def test_aborts_replace_what_is_called(self) -> None:
        transport = Connected(None).transport
        transport.abortConnection()
        self.assertTrue(transport._aborting)
        self.assertIsNone(transport.doRead())
        self.assertIsNone(transport.doWrite())

    def test_transports_are_built_as_they_were(self) -> None:
        given = list(inspect.signature(Server.__init__).parameters)
        self.assertEqual(
            given,
            ["self", "sock", "protocol", "client", "server", "sessionno", "reactor"],
        )
        self.assertIn("transport", self.names(Port.doRead))
