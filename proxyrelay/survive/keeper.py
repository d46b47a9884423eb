"""Keeps the connections of a relay for the next process.

Each has an entry in the memory file, and its socket is in the supervisor's store. The
entry is written before its descriptor is stored, and cleared before the descriptor
is removed. So a crash in between leaves an entry without a descriptor, or the other way
round. `proxyrelay.survive.resume` drops both.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple, cast

from msgspec import structs
from twisted.logger import Logger

from proxyrelay.net.descriptor_store import DescriptorStore
from proxyrelay.net.rate import RateLimitedLog
from proxyrelay.net.write_batch import WriteBatch
from proxyrelay.survive.entries import Connection, encode, name_of
from proxyrelay.survive.memory import MAX_CONNECTIONS, Memory
from proxyrelay.switchboard.offers import Offer
from proxyrelay.switchboard.peer import Peer
from proxyrelay.websocket.protocol import RelayProtocol

NEARLY_FULL_SHARE = 0.9
"""Share of the capacity above which the log warns."""

LOG_INTERVAL_SECONDS = 600.0
"""Seconds between two warnings about the capacity, at least."""


class Kept(NamedTuple):
    """A kept connection.

    Attributes:
        slot: Its entry.
        key: Number of its descriptor with the supervisor.
        inode: Inode of its socket.
    """

    slot: int
    key: int
    inode: int


class Keeper:
    """The `proxyrelay.switchboard.checkpoint.Checkpoint` of a relay without TLS.

    Args:
        memory: The memory file.
        store: The supervisor's store.
        capacity: Most connections that are kept.
        clock: Time in seconds.
        outbox: Gathers what a sweep over the sockets sends.

    Attributes:
        unkept: Registered connections over the capacity.
    """

    _log = Logger()

    def __init__(
        self,
        memory: Memory,
        store: DescriptorStore,
        capacity: int,
        clock: Callable[[], float],
        outbox: WriteBatch,
    ) -> None:
        self.memory = memory
        self.store = store
        self.capacity = min(capacity, MAX_CONNECTIONS)
        self.unkept: dict[Peer, None] = {}
        self._kept: dict[Peer, Kept] = {}
        self._keys: list[int] = []
        self._unsent: dict[Peer, int] = {}
        self._next_key = 0
        self._serial = 0
        self._clock = clock
        self._outbox = outbox
        self._limit = RateLimitedLog(LOG_INTERVAL_SECONDS)

    def __len__(self) -> int:
        return len(self._kept)

    def peers(self) -> list[tuple[RelayProtocol, Kept]]:
        """All kept connections."""
        return [(cast(RelayProtocol, peer), kept) for peer, kept in self._kept.items()]

    # -- registrations

    def registered(self, peer: Peer) -> None:
        """Keep a connection, or change its entry."""
        kept = self._kept.get(peer)
        if kept is not None:
            slot = self._write(peer, kept.key, kept.inode)
            if slot < 0:
                self.left(peer)
                self.unkept[peer] = None
            else:
                self.memory.connections.clear(kept.slot)
                self._kept[peer] = kept._replace(slot=slot)
            return
        if len(self._kept) >= self.capacity:
            self.unkept[peer] = None
        else:
            self._keep(peer)
        if len(self._kept) >= self.capacity * NEARLY_FULL_SHARE:
            self._warn()

    def _keep(self, peer: Peer) -> None:
        self.unkept.pop(peer, None)
        descriptor = cast(RelayProtocol, peer).transport.fileno()
        if descriptor < 0:
            return  # the connection has ended already
        key = self._keys.pop() if self._keys else self._next_key
        inode = os.fstat(descriptor).st_ino
        if key == self._next_key:
            self._next_key += 1
        slot = self._write(peer, key, inode)
        if slot < 0:
            self._keys.append(key)
            self.unkept[peer] = None
            return
        self._kept[peer] = Kept(slot, key, inode)
        if self._outbox.waiting is None:
            self.store.keep(name_of(key), descriptor)
            return
        # A message wakes the supervisor up. Those of one sweep are sent together, and
        # before the acceptances.
        if not self._unsent:
            self._outbox.waiting.append(self)
        self._unsent[peer] = key

    def send_held(self) -> None:
        """Store the connections that have registered in this sweep."""
        unsent, self._unsent = self._unsent, {}
        for peer, key in unsent.items():
            descriptor = cast(RelayProtocol, peer).transport.fileno()
            self.store.keep(name_of(key), descriptor)

    def _write(self, peer: Peer, key: int, inode: int) -> int:
        self._serial += 1
        connection = cast(RelayProtocol, peer)
        record = connection.record()
        entry = Connection(key, inode, self._serial, record)
        data, slots = encode(entry), self.memory.connections
        if len(data) > slots.longest:
            # The name is only shown.
            entry.record = structs.replace(record, name="")
            data = encode(entry)
        return slots.put(data, connection.transport.has_unwritten)

    def left(self, peer: Peer) -> None:
        """Keep a connection no longer, and perhaps another one in its place."""
        self.unkept.pop(peer, None)
        kept = self._kept.pop(peer, None)
        if kept is None:
            return
        self.memory.connections.clear(kept.slot)
        if self._unsent.pop(peer, None) is None:
            self.store.remove(name_of(kept.key))
        self._keys.append(kept.key)
        if self.unkept and len(self._kept) < self.capacity:
            self._keep(next(iter(self.unkept)))

    def adopt(self, peer: Peer, kept: Kept) -> None:
        """Go on keeping a connection of the process before."""
        self._kept[peer] = kept
        is_torn = cast(RelayProtocol, peer).transport.has_unwritten
        self.memory.connections.mark(kept.slot, is_torn)

    def continue_after(self, serial: int) -> None:
        """Use no number of a kept descriptor, and higher ones for entries."""
        keys = {kept.key for kept in self._kept.values()}
        self._next_key = max(keys, default=-1) + 1
        self._keys = [key for key in range(self._next_key) if key not in keys]
        self._serial = serial

    def tidy(self, names: set[str]) -> None:
        """Remove descriptors from the store, and store those anew that are in use."""
        for name in names:
            self.store.remove(name)
        for peer, kept in self._kept.items():
            if name_of(kept.key) in names:
                descriptor = cast(RelayProtocol, peer).transport.fileno()
                self.store.keep(name_of(kept.key), descriptor)

    def pinged(self, peer: Peer, payload: bytes) -> None:
        """Note a ping: after a crash, the next process answers it.

        Stock clients send the next one only after the pong, and close without it.
        """
        kept = self._kept.get(peer)
        if kept is not None:
            self.memory.connections.note(kept.slot, payload)

    def torn(self, peer: Peer, is_torn: bool) -> None:
        """Note whether the client has got a part of a frame: it cannot go on there."""
        kept = self._kept.get(peer)
        if kept is not None:
            self.memory.connections.mark(kept.slot, is_torn)

    def _warn(self) -> None:
        if self._limit.admit(self._clock()) is not None:
            self._log.warn(
                "the store of connections is nearly full: {kept} of {capacity} are "
                "kept, {unkept} are not and end with this process; raise "
                "survive.capacity, and FileDescriptorStoreMax of the unit",
                event="store_full",
                kept=len(self._kept),
                capacity=self.capacity,
                unkept=len(self.unkept),
            )

    # -- offers

    def opened(self, offer: Offer) -> None:
        """Write an offer down."""
        if offer.slot < 0:  # else the process before has written it
            offer.slot = self.memory.offers.put(offer)

    def passed_on(self, offer: Offer) -> None:
        """Note that an offer waits no longer."""
        self.memory.offers.passed_on(offer.slot)

    def closed(self, offer: Offer) -> None:
        """Forget an offer."""
        self.memory.offers.clear(offer.slot)
        offer.slot = -1
