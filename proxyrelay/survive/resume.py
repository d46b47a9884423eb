"""A relay goes on with the connections of the process before."""

from __future__ import annotations

import os
from dataclasses import dataclass
from socket import socket
from typing import Protocol

from twisted.logger import Logger

from proxyrelay.survive.entries import (
    Connection,
    OpenOffer,
    Snapshot,
    decode,
    name_of,
)
from proxyrelay.survive.keeper import Keeper, Kept
from proxyrelay.switchboard.events import BounceReason
from proxyrelay.switchboard.offers import Offer
from proxyrelay.switchboard.peer import share_of
from proxyrelay.switchboard.relay import Relay
from proxyrelay.switchboard.user import ANONYMOUS
from proxyrelay.websocket.continuity import Record, Suspended
from proxyrelay.websocket.protocol import RelayProtocol

log = Logger(namespace="proxyrelay")


class Revive(Protocol):
    """Builds a connection on a socket."""

    def __call__(
        self,
        connected: socket,
        record: Record,
        suspended: Suspended | None,
        is_torn: bool,
    ) -> RelayProtocol:
        """Register it."""


@dataclass
class Outcome:
    """What became of the process before.

    Attributes:
        back: Connections that go on.
        lost: Connections that could not: they ended meanwhile, or while the process
            died.
        offers: Outstanding offers that go on.
        was_orderly: Whether the process before had ended in order.
    """

    back: int = 0
    lost: int = 0
    offers: int = 0
    was_orderly: bool = False


def resume(
    keeper: Keeper, connections: dict[int, str], relay: Relay, revive: Revive
) -> Outcome:
    """Go on with the connections and offers in the memory file.

    Descriptors without an entry are closed, as are entries without a descriptor. The
    received bytes of an orderly end are acted upon at last, when all peers are there.

    Args:
        keeper: Keeps all of them from now on.
        connections: Descriptors of the process before, with their names.
        relay: The rules.
        revive: Builds a connection.
    """
    memory, outcome = keeper.memory, Outcome()
    text = memory.take_snapshot()
    snapshot = None if text is None else decode(text, Snapshot)
    outcome.was_orderly = snapshot is not None
    suspended = {} if snapshot is None else snapshot.suspended
    entries = _entries(keeper)
    keeper.continue_after(
        {entry.key for _, _, entry in entries.values()},
        max((entry.serial for _, _, entry in entries.values()), default=0),
    )
    stray: set[str] = set()
    revived: list[RelayProtocol] = []
    for number, name in connections.items():
        found = entries.pop(os.fstat(number).st_ino, None)
        if found is None:
            os.close(number)
            stray.add(name)
            continue
        slot, is_torn, entry = found
        carried = suspended.get(entry.inode)
        peer = revive(
            socket(fileno=number), entry.record, carried, is_torn and carried is None
        )
        keeper.adopt(peer, Kept(slot, entry.key, entry.inode))
        if name != name_of(entry.key):
            stray |= {name, name_of(entry.key)}
        revived.append(peer)
    for slot, _, _ in entries.values():
        memory.connections.clear(slot)
        outcome.lost += 1
    keeper.tidy(stray)
    relay.use_checkpoint(keeper)
    outcome.back = len(revived)
    outcome.offers = _resume_offers(keeper, relay, snapshot)
    for peer in revived:
        peer.proceed()
    return outcome


def _entries(keeper: Keeper) -> dict[int, tuple[int, bool, Connection]]:
    """The last entry of each socket, by inode; all others are cleared."""
    slots = keeper.memory.connections
    found: dict[int, tuple[int, bool, Connection]] = {}
    holders: dict[str, int] = {}
    for slot, is_torn, data in slots.entries():
        entry = decode(data, Connection)
        if entry is None:
            slots.clear(slot)
            continue
        older = found.get(entry.inode)
        if older is not None:
            if older[2].serial > entry.serial:
                slots.clear(slot)
                continue
            slots.clear(older[0])
        found[entry.inode] = slot, is_torn, entry
    for inode, (_, _, entry) in list(found.items()):
        # A UUID has one connection.
        other = holders.setdefault(entry.record.uuid, inode)
        if other != inode:
            loser = min(other, inode, key=lambda each: found[each][2].record.arrival)
            holders[entry.record.uuid] = other if loser == inode else inode
            slots.clear(found.pop(loser)[0])
    return found


def _resume_offers(keeper: Keeper, relay: Relay, snapshot: Snapshot | None) -> int:
    """Put the outstanding offers back into their table.

    Offers whose text was lost with the process go back to their senders, as do those to
    peers that are gone.
    """
    texts = {} if snapshot is None else {(s, t): text for s, t, text in snapshot.texts}
    slots = keeper.memory.offers
    entries = slots.entries()
    for slot, _, _ in entries:
        slots.clear(slot)  # those that go on get a new one
    table, count = relay.undelivered.table, 0
    for _, waits, data in entries:
        entry = decode(data, OpenOffer)
        sender = None if entry is None else relay.registry.get(entry.source)
        if entry is None or sender is None:
            continue
        offer = Offer(
            *(entry.source, entry.target, entry.name, entry.since),
            user=sender.user.sub,
            place=sender.source,
            holder=share_of(sender),
            capped=sender.limited or sender.user.sub != ANONYMOUS.sub,
            waited=entry.waited,
        )
        text = texts.get((offer.source, offer.target))
        target = relay.registry.get(offer.target)
        if waits and text is not None:
            relay.broker.resume_waiting(offer, text)
        else:
            offer.target_address = None if target is None else target.address
            table.add(offer)
        if waits and text is None:
            relay.undelivered.bounce(offer, BounceReason.UNKNOWN)
        elif not waits and target is None:
            relay.undelivered.bounce(offer, BounceReason.LEFT)
        count += 1
    return count
