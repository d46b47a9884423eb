"""A connection with counters.

Each message passes here. So the counters are in the closure, and methods are called by
the name of the class: ``super()`` takes three times as long.
"""

from __future__ import annotations

from proxyrelay.observe.counters import RelayCounters
from proxyrelay.websocket.flow import FlowControl
from proxyrelay.websocket.protocol import RelayProtocol


def counting(counts: RelayCounters) -> type[RelayProtocol]:
    """Build the class of connections with counted bytes and close handshakes.

    Args:
        counts: The counters.
    """

    class CountingFlow(FlowControl):
        """Flow control with a counter."""

        __slots__ = ()

        def send(self, data: bytes) -> None:
            """Count bytes to the client."""
            counts.sent_bytes += len(data)
            FlowControl.send(self, data)

    class Counting(RelayProtocol):
        """A client's connection with counters."""

        flow_class = CountingFlow
        _began = 0.0

        def connectionMade(self) -> None:
            """Count the connection."""
            counts.accepted += 1
            self._began = self.factory.clock.seconds()
            super().connectionMade()

        def dataReceived(self, data: bytes) -> None:
            """Count bytes from the client."""
            counts.received_bytes += len(data)
            RelayProtocol.dataReceived(self, data)

        def onOpen(self) -> None:
            """Measure the opening handshake."""
            now = self.factory.clock.seconds()
            counts.handshakes.took(now - self._began)
            del self._began  # saves memory for thousands of connections
            super().onOpen()

        def sendCloseFrame(
            self,
            code: int | None = None,
            reasonUtf8: bytes | None = None,
            isReply: bool = False,
        ) -> None:
            """Count the close handshake."""
            counts.closed(self.remoteCloseCode if isReply else code, isReply)
            super().sendCloseFrame(code, reasonUtf8, isReply)

    return Counting
