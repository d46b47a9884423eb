"""The link as the bus of a node: callbacks, and the messages of one turn together."""

from __future__ import annotations

from functools import partial
from itertools import chain, repeat
from typing import Any

from proxyrelay.cluster.bus import Done, NotSent
from proxyrelay.cluster.link import Link
from proxyrelay.cluster.resp import Word

MAX_FORWARDS = 64
"""Messages that are passed on with one call. They keep the engine for under 1 ms."""


class LinkBus:
    """The link, as the rules of a node see it."""

    def __init__(self, link: Link, clock: Any) -> None:
        self._link = link
        self._clock = clock
        self._forwards: list[tuple[Done, tuple[Word, ...]]] = []

    @property
    def ready(self) -> bool:
        """Whether the engine can be reached."""
        return self._link.ready

    def call(self, done: Done, script: str, *arguments: Word) -> None:
        """Run a script."""
        if not self._link.ready:
            self._clock.callLater(0, self._link.finish, done, NotSent())
        elif script == "forward":
            self._forward(done, arguments)
        else:
            self._flush()
            self._link.run(done, script, *arguments)

    def publish(self, done: Done, node: str, message: bytes) -> None:
        """Send a message to a node."""
        if self._link.ready:
            self._flush()
            self._link.tell(done, node, message)
        else:
            self._clock.callLater(0, self._link.finish, done, NotSent())

    def _forward(self, done: Done, arguments: tuple[Word, ...]) -> None:
        """Pass on a message, with the others of this turn of the reactor."""
        self._forwards.append((done, arguments))
        if len(self._forwards) == 1:
            self._clock.callLater(0, self._flush)
        elif len(self._forwards) == MAX_FORWARDS:
            self._flush()

    def _flush(self) -> None:
        """Send the messages that are passed on together, before any other call."""
        forwards, self._forwards = self._forwards, []
        if not self._link.ready:
            for done, _ in forwards:
                self._link.finish(done, NotSent())
        elif len(forwards) == 1:
            ((done, arguments),) = forwards
            self._link.run(done, "forward", *arguments)
        elif forwards:
            words = chain.from_iterable(words for _, words in forwards)
            dones = [done for done, _ in forwards]
            self._link.run(partial(self._all_done, dones), "forwards", *words)

    def _all_done(self, dones: list[Done], reply: Any) -> None:
        failed = isinstance(reply, Exception)
        for done, each in zip(dones, repeat(reply) if failed else reply, strict=False):
            self._link.finish(done, each)

    def engine_time(self, boottime: float | None = None) -> int:
        """A time of this machine, or now, in microseconds of the engine's clock."""
        return self._link.engine_clock.time(boottime)
