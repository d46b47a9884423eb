"""A relay goes on with the connections of the process before."""

from __future__ import annotations

import os
from dataclasses import dataclass
from socket import socket
from typing import Protocol, cast

from twisted.logger import Logger

from proxyrelay.survive.entries import (
    Connection,
    Snapshot,
    decode,
    name_of,
)
from proxyrelay.survive.keeper import Keeper, Kept
from proxyrelay.survive.memory import SavedOffer, Slot
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
    found = _entries(keeper)
    serial = max((entry.serial for _, entry in found.values()), default=0)
    relay.use_checkpoint(keeper)
    stray: set[str] = set()
    revived: list[RelayProtocol] = []
    for number, name in connections.items():
        inode = os.fstat(number).st_ino
        if inode not in found:
            os.close(number)
            stray.add(name)
            continue
        slot, entry = found.pop(inode)
        carried = suspended.get(inode)
        is_torn = slot.is_marked and carried is None
        peer = _revived(relay, revive, number, entry.record, carried, is_torn)
        if peer is None or peer.registration is None:  # out of step
            memory.connections.clear(slot.number)
            stray.add(name)
            outcome.lost += 1
            continue
        keeper.adopt(peer, Kept(slot.number, entry.key, inode))
        if name != name_of(entry.key):
            stray |= {name, name_of(entry.key)}
        if slot.note and carried is None:
            peer.onPing(slot.note)
        revived.append(peer)
    for slot, _ in found.values():
        memory.connections.clear(slot.number)
        outcome.lost += 1
    keeper.continue_after(serial)
    keeper.tidy(stray)
    outcome.back = len(revived)
    outcome.offers = _resume_offers(keeper, relay, snapshot)
    for peer in revived:
        peer.proceed()
    return outcome


def _revived(
    relay: Relay,
    revive: Revive,
    number: int,
    record: Record,
    carried: Suspended | None,
    is_torn: bool,
) -> RelayProtocol | None:
    """Revive a connection; None after a defect, which must not end all the others."""
    connected = socket(fileno=number)
    try:
        return revive(connected, record, carried, is_torn)
    except Exception:
        log.failure("a connection of the process before cannot go on")
    broken = cast(RelayProtocol | None, relay.registry.get(record.uuid))
    if broken is not None:
        broken.drop("cannot go on")
    connected.close()
    return None


def _entries(keeper: Keeper) -> dict[int, tuple[Slot, Connection]]:
    """The entry of each socket, by inode, one for a UUID; all others are cleared."""
    slots = keeper.memory.connections
    found: dict[int, tuple[Slot, Connection]] = {}
    for slot in slots.entries():
        entry = decode(slot.entry, Connection)
        if entry is None:
            slots.clear(slot.number)
            continue
        older = found.get(entry.inode)
        if older is None:
            found[entry.inode] = slot, entry
        elif older[1].serial < entry.serial:
            found[entry.inode] = slot, entry
            slots.clear(older[0].number)
        else:
            slots.clear(slot.number)
    latest = {
        entry.record.uuid: inode
        for inode, (_, entry) in sorted(
            found.items(), key=lambda item: item[1][1].record.arrival
        )
    }
    for inode in found.keys() - latest.values():
        slots.clear(found.pop(inode)[0].number)
    return found


def _resume_offers(keeper: Keeper, relay: Relay, snapshot: Snapshot | None) -> int:
    """Put the outstanding offers back into their table.

    Offers whose text was lost with the process go back to their senders, as do those to
    peers that are gone.
    """
    texts = {} if snapshot is None else {(s, t): text for s, t, text in snapshot.texts}
    slots, table, count = keeper.memory.offers, relay.undelivered.table, 0
    for saved in slots.entries():
        offer = None
        if table.find(saved.source, saved.target) is None:
            offer = _offer(relay, saved)
        if offer is None:
            slots.clear(saved.place)
            continue
        text = texts.get((saved.source, saved.target))
        _resume_offer(relay, offer, saved.waits, text)
        count += 1
    return count


def _offer(relay: Relay, saved: SavedOffer) -> Offer | None:
    """The offer of an entry; None if its sender is gone."""
    sender = relay.registry.get(saved.source)
    if sender is None:
        return None
    return Offer(
        *(saved.source, saved.target, saved.name, saved.since),
        user=sender.user.sub,
        place=sender.source,
        holder=share_of(sender),
        capped=sender.limited or sender.user.sub != ANONYMOUS.sub,
        waited=saved.waited,
        slot=saved.place,
    )


def _resume_offer(relay: Relay, offer: Offer, waits: bool, text: bytes | None) -> None:
    """Put an offer back into the table, with its slot.

    A slot is cleared before the offer goes back to its sender. A client ends on a
    second error for one offer.
    """
    if waits and text is not None:
        relay.broker.resume_waiting(offer, text)
        return
    target = relay.registry.get(offer.target)
    offer.target_address = None if target is None else target.address
    relay.undelivered.table.add(offer)
    if waits:
        relay.undelivered.bounce(offer, BounceReason.UNKNOWN)
    elif target is None:
        relay.undelivered.bounce(offer, BounceReason.LEFT)
