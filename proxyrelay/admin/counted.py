"""A connection that counts what goes over it.

It is on the way of each message. So the numbers are at hand in the function around the
class, and a method is called by the name of its class: by ``super()`` it would take
three times as long.
"""

from __future__ import annotations

from proxyrelay.observe.counters import RelayCounters
from proxyrelay.websocket.protocol import RelayProtocol


def counting(counts: RelayCounters) -> type[RelayProtocol]:
    """What connections are that are counted, with their bytes and close handshakes.

    Args:
        counts: Where.
    """

    class Counting(RelayProtocol):
        """A client's connection that is counted."""

        _began = 0.0

        def connectionMade(self) -> None:
            """Begin."""
            counts.accepted += 1
            self._began = self.factory.clock.seconds()
            super().connectionMade()

        def dataReceived(self, data: bytes) -> None:
            """Take bytes from the client."""
            counts.received_bytes += len(data)
            RelayProtocol.dataReceived(self, data)

        def sendData(
            self,
            data: bytes,
            sync: bool = False,  # noqa: ARG002 - Autobahn's signature
            chopsize: int | None = None,  # noqa: ARG002
        ) -> None:
            """Write."""
            counts.sent_bytes += len(data)
            RelayProtocol.sendData(self, data)

        def onOpen(self) -> None:
            """The upgrade is complete."""
            now = self.factory.clock.seconds()
            counts.handshakes.took(now - self._began)
            del self._began  # thousands stay for long
            super().onOpen()

        def sendCloseFrame(
            self,
            code: int | None = None,
            reasonUtf8: bytes | None = None,
            isReply: bool = False,
        ) -> None:
            """Send a close frame."""
            counts.closed(self.remoteCloseCode if isReply else code, isReply)
            super().sendCloseFrame(code, reasonUtf8, isReply)

    return Counting
