"""The master, as the sentinels name it: an endpoint for `proxyrelay.cluster.link.Link`.

txredisapi's own Sentinel compares text with bytes, has no TLS to the master, and does
not notice that a subscriber still listens to a stopped master.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.logger import Logger
from zope.interface import implementer

from proxyrelay.cluster.resp import Commands, QuietFactory, ReplyError
from proxyrelay.net.timers import Heartbeat

ASK_SECONDS = 1.0
"""Longest wait for one sentinel."""

LOOK_SECONDS = 5.0
"""Interval of the questions while a master is connected."""

Address = tuple[str, int]


def _ignore(*_: object) -> None:
    """Nobody listens yet."""


@implementer(IStreamClientEndpoint)
class SentinelEndpoint:
    """Connects to the present master.

    Args:
        clock: Time in seconds, and timers.
        sentinels: Where the sentinels are.
        master: What they call the service.
        endpoint: Makes an endpoint of an address.
        credentials: Arguments of AUTH for a sentinel; none by default.

    Attributes:
        moved: Called with a reason when they name another master than before.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        sentinels: Sequence[IStreamClientEndpoint],
        master: str,
        endpoint: Callable[[str, int], IStreamClientEndpoint],
        credentials: Callable[[], tuple[str, ...]] = tuple,
    ) -> None:
        self._clock = clock
        self._sentinels = list(sentinels)
        self._master = master
        self._endpoint = endpoint
        self.moved: Callable[[str], None] = _ignore
        self._credentials = credentials
        self._address: Address | None = None
        self._heartbeat = Heartbeat(clock, LOOK_SECONDS, self._look)

    def start(self) -> None:
        """Look regularly whether the master has moved."""
        self._heartbeat.start()

    def stop(self) -> None:
        """End that."""
        self._heartbeat.stop()

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Ask for the master, and connect to it.

        Returns:
            Fails with `ConnectError` if no sentinel names one.
        """
        return Deferred.fromCoroutine(self._connect(protocol_factory))

    async def _connect(self, protocol_factory: IProtocolFactory) -> IProtocol:
        address = self._address = await self._ask()
        if address is None:
            raise ConnectError(string=f"no sentinel knows a master {self._master!r}")
        return await self._endpoint(*address).connect(protocol_factory)

    def _look(self) -> None:
        if self._address is not None:
            asking = Deferred.fromCoroutine(self._compare())
            asking.addErrback(lambda f: self._log.failure("a sentinel failed", f))

    async def _compare(self) -> None:
        before, now = self._address, await self._ask()
        if now is not None and before == self._address and now != before:
            self._address = now
            self.moved(f"the sentinels name another master, {now[0]}:{now[1]}")

    async def _ask(self) -> Address | None:
        # Each relay begins with another one.
        for sentinel in random.sample(self._sentinels, len(self._sentinels)):
            asked = Deferred.fromCoroutine(self._ask_one(sentinel))
            try:
                found = await asked.addTimeout(ASK_SECONDS, self._clock)
            except CancelledError:
                raise
            except Exception as error:
                self._log.debug(
                    "a sentinel does not answer: {reason}",
                    event="sentinel_silent",
                    reason=str(error),
                )
                continue
            if found is not None:
                return found
        return None

    async def _ask_one(self, sentinel: IStreamClientEndpoint) -> Address | None:
        connection = Commands(_ignore)
        await sentinel.connect(QuietFactory.forProtocol(lambda: connection))
        try:
            if credentials := self._credentials():
                # Many sentinels have no password beside an engine that has one.
                with suppress(ReplyError):
                    await connection.execute("AUTH", *credentials)
            found: Any = await connection.execute(
                "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._master
            )
        finally:
            connection.abort()
        return None if found is None else (found[0].decode(), int(found[1]))
