"""A draining relay waits for its last client, up to a deadline.

It accepts no new clients. It serves the others until they leave by themselves: an
endpoint that the relay closes is deaf until its process restarts.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from proxyrelay.websocket.factory import RelayFactory
from proxyrelay.websocket.protocol import RelayProtocol
from proxyrelay.websocket.state import RelayState

CLOSING_SECONDS = 60
"""Duration over which the last clients are closed: all come back to the new relay."""


class Drain:
    """Ends a relay when its last client has left.

    Args:
        factory: Has the clients, and no listening socket.
        clock: Runs the deadline.
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
        self._closing = LoopingCall(self._close_some)
        self._closing.clock = clock
        self._remaining: list[RelayProtocol] = []
        self._share = 0
        self._ended = ended
        self._deadline: IDelayedCall | None = clock.callLater(longest, self._close)
        factory.drain()
        self._log.info(
            "draining: clients that are connected are served until they leave, for at "
            "most {seconds:.0f} s; connections: {count}",
            event="draining",
            seconds=longest,
            count=len(factory.connections),
        )
        factory.all_gone().addCallback(self._end).addErrback(self._failed)

    def stop(self) -> None:
        """Stop waiting."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._closing.running:
            self._closing.stop()

    def _close(self) -> None:
        self._deadline = None
        self._remaining = list(self._factory.connections)
        self._share = ceil(len(self._remaining) / CLOSING_SECONDS)
        self._log.warn(
            "draining has taken too long, connections to close: {count}",
            event="drain_overdue",
            count=len(self._remaining),
        )
        self._closing.start(1).addErrback(self._failed)

    def _close_some(self) -> None:
        for connection in self._remaining[: self._share]:
            connection.close_going_away()
        del self._remaining[: self._share]

    def _failed(self, failure: Failure) -> None:
        self._log.failure("closing connections failed", failure)

    def _end(self, _: None) -> None:
        self.stop()
        if self._factory.state is not RelayState.STOPPING:
            self._log.info("drained: no connection is left", event="drained")
            self._ended()
