"""A relay that another one replaces, from then to its end.

It accepts nobody any more, and serves who is there until they leave by themselves:
an endpoint that the relay closes is deaf until its process restarts.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from math import ceil
from pathlib import Path

from msgspec import structs
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from proxyrelay.switchboard.directory import LEFT_BEHIND, PARTED, UNKNOWN, Alone
from proxyrelay.switchboard.peer import Peer
from proxyrelay.websocket.protocol import RelayFactory, RelayProtocol

SPREAD = 60
"""Seconds over which those are closed who are still there in the end: they all come
back to the relay that has taken over."""


BEACON = "proxyrelay.draining.{port}."
"""How the names of the sockets begin by which relays that drain are known."""

GLANCE = 1.0
"""Seconds from one look for them to the next, at least."""

SOCKETS = Path("/proc/self/net/unix")
"""Where Linux lists such sockets; elsewhere there are none."""


def beacon(port: int) -> socket.socket:
    """Let other relays at a port know that this one drains, until it is closed.

    It has an abstract name (unix(7)): no file, which might outlive the process.
    """
    lit = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    # Where there are no such names, the relay drains without.
    with suppress(OSError):
        lit.bind(f"\0{BEACON.format(port=port)}{os.getpid()}")
    return lit


class Successor:
    """What a relay knows of those that it may have taken over from.

    It is a `proxyrelay.switchboard.directory.Directory`.

    Args:
        port: Where it listens, and where they did.
        clock: Tells the time.
    """

    def __init__(self, port: int, clock: IReactorTime) -> None:
        self._mark = f"@{BEACON.format(port=port)}"
        self._clock = clock
        self._looked: float | None = None
        self._seen = False

    @property
    def missing(self) -> str:
        """Not that a peer is nowhere, as long as it may be connected to another one."""
        now = self._clock.seconds()
        if self._looked is None or now >= self._looked + GLANCE:
            self._looked, self._seen = now, self._look()
        return LEFT_BEHIND if self._seen else UNKNOWN

    def _look(self) -> bool:
        try:
            return self._mark in SOCKETS.read_text(errors="replace")
        except OSError:
            return False

    def find(self, uuid: str) -> Peer | None:  # noqa: ARG002
        """Find nobody: they pass nothing on."""
        return None


class Drain:
    """Waits for the last client, and at some time no longer.

    Args:
        factory: Has the clients, and no listening socket.
        clock: Runs the deadline.
        port: Where it listened.
        longest: Seconds from which on clients are closed.
        ended: Called when none is left.
    """

    _log = Logger()

    def __init__(
        self,
        factory: RelayFactory,
        clock: IReactorTime,
        port: int,
        longest: float,
        ended: Callable[[], None],
    ) -> None:
        self._factory = factory
        self._closing = LoopingCall(self._close_some)
        self._closing.clock = clock
        self._left: list[RelayProtocol] = []
        self._share = 0
        self._ended = ended
        self._deadline: IDelayedCall | None = clock.callLater(longest, self._close)
        self._beacon = beacon(port)
        factory.drain()
        # A client that is not here may be there by now.
        relay = factory.relay
        relay.delivery.directory = Alone(PARTED)
        # Nor does anybody come back to this one.
        relay.broker.offers = structs.replace(relay.broker.offers, hold=0)
        self._log.info(
            "draining: clients that are connected are served until they leave, for at "
            "most {seconds:.0f} s; connections: {count}",
            event="draining",
            seconds=longest,
            count=len(factory.connections),
        )
        factory.all_gone().addCallback(self._end)

    def stop(self) -> None:
        """No longer wait for anything."""
        self._beacon.close()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._closing.running:
            self._closing.stop()

    def _close(self) -> None:
        self._deadline = None
        self._left = list(self._factory.connections)
        self._share = ceil(len(self._left) / SPREAD)
        self._log.warn(
            "draining has taken too long, connections to close: {count}",
            event="drain_overdue",
            count=len(self._left),
        )
        self._closing.start(1).addErrback(self._failed)

    def _close_some(self) -> None:
        for connection in self._left[: self._share]:
            connection.close_going_away()
        del self._left[: self._share]

    def _failed(self, failure: Failure) -> None:
        self._log.failure("closing connections failed", failure)

    def _end(self, _: None) -> None:
        self.stop()
        if not self._factory.stopping:
            self._log.info("drained: no connection is left", event="drained")
            self._ended()
