"""A draining relay waits for its last client, up to a deadline.

It accepts no new clients: `RelayFactory` in ``websocket/`` asks them to come back while
its state is `RelayState.DRAINING`. It serves the others until they leave by themselves:
an endpoint that the relay closes is deaf until its process restarts.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from proxyrelay.net.repeat import Repeat
from proxyrelay.websocket.factory import RelayFactory
from proxyrelay.websocket.protocol import RelayProtocol
from proxyrelay.websocket.state import RelayState

CLOSING_SECONDS = 60
"""Duration over which the last clients are closed: all come back to the new relay."""


class Drain:
    """Turns new clients away, and ends a relay when its last client has left.

    Args:
        longest: Seconds until the remaining clients are closed.
        ended: Called when no client is left.
    """

    _log = Logger()

    def __init__(
        self,
        factory: RelayFactory,
        clock: IReactorTime,
        longest: float,
        ended: Callable[[], None],
    ) -> None:
        self._factory = factory
        self._closing = Repeat(self._close_some, clock, "closing connections failed")
        self._remaining: list[RelayProtocol] = []
        self._share = 0
        self._ended = ended
        self._deadline: IDelayedCall = clock.callLater(longest, self._close)
        factory.drain()
        self._log.info(
            "draining: clients that are connected are served until they leave, for at "
            "most {seconds:.0f} s; connections: {count}",
            event="draining",
            seconds=longest,
            count=len(factory.connections),
        )
        factory.all_gone().addCallback(self._end).addErrback(
            lambda failure: self._log.failure("the drain cannot end", failure)
        )

    def stop(self) -> None:
        """Stop waiting."""
        if self._deadline.active():
            self._deadline.cancel()
        self._closing.every(0)

    def _close(self) -> None:
        self._remaining = list(self._factory.connections)
        self._share = ceil(len(self._remaining) / CLOSING_SECONDS)
        self._log.warn(
            "draining has taken too long, connections to close: {count}",
            event="drain_overdue",
            count=len(self._remaining),
        )
        self._closing.every(1, now=True)

    def _close_some(self) -> None:
        for connection in self._remaining[: self._share]:
            connection.close_going_away()
        del self._remaining[: self._share]

    def _end(self, _: None) -> None:
        self.stop()
        if self._factory.state is not RelayState.STOPPING:
            self._log.info("drained: no connection is left", event="drained")
            self._ended()
