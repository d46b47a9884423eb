"""A connection that counts what goes over it."""

from __future__ import annotations

from proxyrelay.observe.counts import Counts
from proxyrelay.websocket import RelayProtocol


class Counted(RelayProtocol):
    """A client's connection whose bytes and close handshakes are counted.

    Attributes:
        counts: Where; see `counting`.
    """

    counts: Counts

    _began = 0.0

    def connectionMade(self) -> None:
        """Begin."""
        self.counts.connections += 1
        self._began = self.factory.clock.seconds()
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        """Take bytes from the client."""
        self.counts.received_bytes += len(data)
        super().dataReceived(data)

    def sendData(
        self, data: bytes, sync: bool = False, chopsize: int | None = None
    ) -> None:
        """Write."""
        self.counts.sent_bytes += len(data)
        super().sendData(data, sync, chopsize)

    def onOpen(self) -> None:
        """The upgrade is complete."""
        now = self.factory.clock.seconds()
        self.counts.handshakes.took(now - self._began)
        del self._began  # thousands stay for long
        super().onOpen()

    def sendCloseFrame(
        self,
        code: int | None = None,
        reasonUtf8: bytes | None = None,
        isReply: bool = False,
    ) -> None:
        """Send a close frame."""
        self.counts.closed(self.remoteCloseCode if isReply else code, isReply)
        super().sendCloseFrame(code, reasonUtf8, isReply)


def counting(counts: Counts) -> type[Counted]:
    """Connections that are counted.

    Args:
        counts: Where.
    """
    return type("Counting", (Counted,), {"counts": counts})
