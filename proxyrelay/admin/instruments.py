"""Measurement of a relay: its connections, and the lag of its event loop."""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from proxyrelay.net.timing import FAST, Timing
from proxyrelay.observe.counters import RelayCounters
from proxyrelay.websocket.flow import FlowControl
from proxyrelay.websocket.protocol import RelayProtocol

LAG_INTERVAL_SECONDS = 0.25
"""Seconds from one measurement of the lag to the next."""

LAGS_PER_MINUTE = int(60 / LAG_INTERVAL_SECONDS)


def counting(counts: RelayCounters) -> type[RelayProtocol]:
    """Build the class of connections with counted bytes and close handshakes.

    Each message passes here. So the counters are in the closure, and methods are called
    by the name of the class: ``super()`` takes three times as long.
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

        def close_frame_due(self, code: int | None, is_reply: bool) -> None:
            """Count the close handshake."""
            counts.closed(self.remoteCloseCode if is_reply else code, is_reply)
            super().close_frame_due(code, is_reply)

    return Counting


class Lag:
    """Measures by how many seconds a timer is late."""

    def __init__(self, clock: IReactorTime) -> None:
        self.timing = Timing(FAST)
        self._clock = clock
        self._expected = 0.0
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        """Start to measure."""
        self._expected = self._clock.seconds() + LAG_INTERVAL_SECONDS
        self._call = self._clock.callLater(LAG_INTERVAL_SECONDS, self._look)

    def stop(self) -> None:
        """Stop."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _look(self) -> None:
        self.timing.took(self._clock.seconds() - self._expected)
        self.start()
