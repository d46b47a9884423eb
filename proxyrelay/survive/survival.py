"""The part of a relay that outlives its process, with `proxyrelay.service` as its user.

Open it before the listening sockets are bound, call `resume` before the first accept,
and `suspend` at an orderly end.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from proxyrelay import __version__
from proxyrelay.config import Config
from proxyrelay.errors import StartError
from proxyrelay.net.descriptor_store import DescriptorStore
from proxyrelay.net.listening import inherited
from proxyrelay.survive import memory as files
from proxyrelay.survive.entries import Info, Snapshot, decode, encode
from proxyrelay.survive.handed import LISTENER, Handed
from proxyrelay.survive.keeper import Keeper
from proxyrelay.survive.memory import Memory, UnreadableError
from proxyrelay.survive.resume import Outcome, Revive, resume
from proxyrelay.switchboard.relay import Relay
from proxyrelay.websocket.factory import RelayFactory

RESTART_STATUS = os.EX_TEMPFAIL
"""Exit status of a process that leaves its connections to the next one. The supervisor
starts that at once (``RestartForceExitStatus=75``)."""

MAX_FAILURES = 3
"""Processes in a row that end while they resume the connections. The next one starts
without them: a defect must not keep a relay from serving."""

RESERVED_DESCRIPTORS = 10
"""Descriptors of the store for the memory file and the listening sockets."""

log = Logger(namespace="proxyrelay")


class Survival:
    """The memory file, the supervisor's store, and what keeps them up to date.

    Args:
        config: The settings.
        handed: What the process before has left.
        store: The supervisor's store.
        capacity: Most connections that are kept.

    Attributes:
        before: The process before; its version is empty if there was none.
        outcome: What became of it.
        is_over: Whether the connections are suspended.
    """

    def __init__(
        self, config: Config, handed: Handed, store: DescriptorStore, capacity: int
    ) -> None:
        self.outcome = Outcome()
        self.is_over = False
        self.before = Info()
        self.capacity = capacity
        self._handed = handed
        self._store = store
        self._listening = (config.host, config.port, config.reuse_port)
        self._memory = self._open()
        self._keeper: Keeper | None = None
        self._names: list[str] = []

    def _open(self) -> Memory:
        """Open the memory file of the process before, or begin a new one."""
        handed, store = self._handed, self._store
        if handed.memories:
            try:
                memory = Memory(handed.memories[0])
            except UnreadableError as error:
                self._unreadable(str(error))
            else:
                del handed.memories[0]
                handed.close_memories()
                self.before = decode(memory.info, Info) or Info()
                return memory
        give_up(handed, store)
        memory = Memory.create()
        store.keep(files.NAME, memory.descriptor)
        return memory

    def _unreadable(self, reason: str) -> None:
        log.error(
            "the state of the process before cannot be read ({reason}): this relay "
            "starts without its {count} connections",
            event="state_unreadable",
            reason=reason,
            count=len(self._handed.connections),
        )

    @property
    def works(self) -> bool:
        """Whether the supervisor is still there."""
        return not self._store.is_lost

    @property
    def kept(self) -> int:
        """Connections that are kept."""
        return 0 if self._keeper is None else len(self._keeper)

    @property
    def staying(self) -> set[object]:
        """The connections that `suspend` leaves to the next process."""
        if self._keeper is None:
            return set()
        return {peer for peer, _ in self._keeper.peers() if peer.can_survive}

    @property
    def unkept(self) -> int:
        """Registered connections over the capacity."""
        return 0 if self._keeper is None else len(self._keeper.unkept)

    # -- listening sockets

    def listeners(self) -> list[socket.socket]:
        """Listening sockets of the process before, unless others are set now.

        Clients that wait to be accepted wait on.
        """
        handed = self._handed
        if handed.listeners and self.before.listening == self._listening:
            numbers, handed.listeners = handed.listeners, []
            with suppress(StartError):  # it closes them
                return inherited(numbers)
        handed.close_listeners()
        return []

    def keep_listeners(self, descriptors: Sequence[int]) -> None:
        """Keep listening sockets, in the place of those before."""
        self.release_listeners()
        self._names = [f"{LISTENER}{number}" for number in range(len(descriptors))]
        for name, descriptor in zip(self._names, descriptors, strict=True):
            self._store.keep(name, descriptor)

    def release_listeners(self) -> None:
        """Let all listening sockets close with this process."""
        for name in {*self._names, *self._handed.listener_names}:
            self._store.remove(name)
        self._names = []
        self._handed.close_listeners()

    # -- the beginning and the end

    def note(self, node: str) -> None:
        """Write down what this relay is."""
        self._memory.info = encode(Info(__version__, self._listening, node))

    def resume(self, factory: RelayFactory, revive: Revive) -> None:
        """Go on with the connections of the process before."""
        keeper = self._keeper = Keeper(
            *(self._memory, self._store, self.capacity, factory.clock.seconds),
            factory.outbox,
        )
        factory.outbox.unwritten = keeper.torn
        factory.pinged = keeper.pinged
        if self._memory.failures >= MAX_FAILURES:
            reason = f"{MAX_FAILURES} processes in a row have ended over it"
            self._unreadable(reason)
            self._end_connections()
        connections, self._handed.connections = self._handed.connections, {}
        self._memory.failures += 1
        self.outcome = resume(keeper, connections, factory.relay, revive)
        self._memory.failures = 0
        if self.before.version:
            outcome = self.outcome
            log.info(
                "connections of the process before ({version}, {_end}): {back} go on, "
                "{lost} were lost; offers: {offers}",
                event="resumed",
                version=self.before.version,
                _end="ended in order" if outcome.was_orderly else "crashed",
                back=outcome.back,
                lost=outcome.lost,
                offers=outcome.offers,
            )

    def end_connections(self) -> None:
        """End the connections of the process before: this one serves TLS."""
        if self._handed.connections:
            log.warn(
                "connections of the process before are closed, as this relay serves "
                "TLS: {count}",
                event="not_resumed",
                count=len(self._handed.connections),
            )
            self._end_connections()

    def _end_connections(self) -> None:
        for name in set(self._handed.connections.values()):
            self._store.remove(name)
        self._handed.close()

    def suspend(self, relay: Relay) -> None:
        """Leave all kept connections to the next process, with every byte of them."""
        keeper, snapshot = self._keeper, Snapshot()
        self.is_over = True
        if keeper is None:
            return
        for offer in relay.undelivered.table.waiting():
            if offer.text is not None:
                snapshot.texts.append((offer.source, offer.target, offer.text))
        count = 0
        for peer, kept in keeper.peers():
            if peer.can_survive:
                carried = snapshot.suspended[kept.inode] = peer.suspend()
                if carried.partial:  # The stream is nothing without it.
                    self._memory.connections.mark(kept.slot, True)
                count += 1
        self._memory.save(encode(snapshot))
        log.info(
            "left to the next process: connections: {count}, offers: {offers}",
            event="suspended",
            count=count,
            offers=len(relay.undelivered.table),
        )

    def sent(self) -> Deferred[None]:
        """Deferred that fires when the supervisor has got all messages."""
        return self._store.sent()

    def close(self) -> None:
        """Close the memory file and the socket of the supervisor."""
        self._memory.close()
        self._store.close()


def give_up(handed: Handed, store: DescriptorStore) -> None:
    """Close all descriptors of the process before, here and with the supervisor."""
    for name in handed.names:
        store.remove(name)
    handed.close()


def open_survival(
    config: Config, handed: Handed, environment: Mapping[str, str], reactor: Any
) -> Survival | None:
    """Find the supervisor's store, and what the process before has left there.

    Returns:
        None if nothing is to be kept, or no supervisor keeps it.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    store = DescriptorStore(address, reactor) if address[:1] in {"/", "@"} else None
    # A store that is full keeps no probe. But it has kept the memory file.
    if (
        store is not None
        and config.survive.enabled
        and (handed.memories or store.probe())
    ):
        size = environment.get("FDSTORE", "")
        capacity = config.survive.capacity
        if size.isdecimal():
            capacity = max(0, min(capacity, int(size) - RESERVED_DESCRIPTORS))
        return Survival(config, handed, store, capacity)
    if config.survive.enabled:
        log.warn(
            "survive.enabled has no effect, as no supervisor keeps descriptors: start "
            "this relay under 'proxyrelay keep', or as a unit of systemd with "
            "FileDescriptorStoreMax",
            event="no_store",
        )
    if store is not None:
        give_up(handed, store)
        store.sent().addCallback(lambda _: store.close())
    handed.close()
    return None
