"""The memory file: what outlives the process beside the descriptors. Pure.

It is a file without a name (memfd_create(2)), mapped into memory. The supervisor keeps
its descriptor. A write is a copy in memory, and survives ``kill -9`` at once.

Layout: a header, slots for registrations, slots for offers, and at the end the snapshot
of an orderly end, if there is one. A slot becomes valid by one byte, which is written
last. So a crash leaves the entry before, the new one, or none.
"""

from __future__ import annotations

import mmap
import os
from struct import Struct
from typing import NamedTuple

from proxyrelay.errors import ProxyRelayError
from proxyrelay.switchboard.offers import Offer

FORMAT = 1
"""Number of this layout. Within one number, entries may get further fields with
defaults, which other versions ignore. Everything else needs a new number, and a
reader for the one before."""

MAX_CONNECTIONS = 30_000
"""Registrations with a slot. The names of so many descriptors fit into one variable of
the environment, which may have 128 KiB."""

MAX_OFFERS = 65_536
"""Offers with a slot: as many as the table of offers has."""

CONNECTION_BYTES = 512
HEADER_BYTES = 4096
"""Sizes of a slot, and of the header."""

_OFFER = Struct("<36s36sdd63pBB")
"""An offer: UUIDs of sender and receiver, seconds since when, seconds that it waited,
name of the sender; whether it waits, and whether it is valid."""

_WAITS_AT, _VALID_AT = _OFFER.size - 2, _OFFER.size - 1

NAME = "kept-memory"
"""Name of the descriptor."""

_MAGIC = b"PRXRELAY"
_HEADER = Struct("<8sIQ")
"""Magic bytes, format, and length of the snapshot in bytes (0: none)."""

_WORD = Struct("<I")
_USED_AT, _FAILURES_AT, _INFO_AT = 24, 32, 64
"""Places of the numbers of used slots, of failures, and of the relay's own notes."""

_HEAD = Struct("<BBH17p")
"""Head of a slot: whether it is valid, whether it is marked, its length in bytes, and a
note of 16 bytes at most. The entry follows."""

_NOTE = Struct("<17p")
_NOTE_AT = _HEAD.size - _NOTE.size

_VALID = 1

_CONNECTIONS = MAX_CONNECTIONS + 1
"""A changed entry is written before the one that it replaces is cleared."""


class UnreadableError(ProxyRelayError):
    """The memory file has another format, or is none."""


class Slot(NamedTuple):
    """A valid slot.

    Attributes:
        number: Its number.
        is_marked: See `Memory`.
        entry: What was written.
        note: See `Memory`.
    """

    number: int
    is_marked: bool
    entry: bytes
    note: bytes


class Slots:
    """Slots of one size in a mapped file.

    Args:
        mapped: The file.
        start: Where the first slot is.
        size: Bytes of a slot, with its head.
        count: Number of slots.
        used_at: Where the file has the number of slots that were ever used. Nothing
            looks at the others: that would fill the memory with zeros.
    """

    def __init__(
        self, mapped: mmap.mmap, start: int, size: int, count: int, used_at: int
    ) -> None:
        self.longest = size - _HEAD.size
        self._mapped = mapped
        self._start = start
        self._size = size
        self._count = count
        self._used_at = used_at
        self._free: list[int] = []
        (used,) = _WORD.unpack_from(mapped, used_at)
        self._used = min(used, count)

    def put(self, entry: bytes, is_marked: bool = False) -> int:
        """Write an entry; returns its slot, or -1 without room for it."""
        if len(entry) > self.longest:
            return -1
        if self._free:
            slot = self._free.pop()
        elif self._used < self._count:
            slot = self._used
            self._used += 1
            _WORD.pack_into(self._mapped, self._used_at, self._used)
        else:
            return -1
        start, mapped = self._at(slot), self._mapped
        body = start + _HEAD.size
        mapped[body : body + len(entry)] = entry
        _HEAD.pack_into(mapped, start, 0, is_marked, len(entry), b"")
        mapped[start] = _VALID
        return slot

    def clear(self, slot: int) -> None:
        """Make a slot free, and leave nothing in it: a client has gone."""
        start, end = self._at(slot), self._at(slot + 1)
        self._mapped[start] = 0
        self._mapped[start:end] = bytes(self._size)
        self._free.append(slot)

    def mark(self, slot: int, is_marked: bool) -> None:
        """Set or remove the mark of an entry."""
        self._mapped[self._at(slot) + 1] = is_marked

    def note(self, slot: int, text: bytes) -> None:
        """Write a text beside an entry, cut to 16 bytes."""
        _NOTE.pack_into(self._mapped, self._at(slot) + _NOTE_AT, text)

    def _at(self, slot: int) -> int:
        return self._start + slot * self._size

    def entries(self) -> list[Slot]:
        """All valid slots. It also finds the free ones."""
        found: list[Slot] = []
        self._free = []
        for slot in range(self._used):
            start = self._at(slot)
            valid, mark, length, note = _HEAD.unpack_from(self._mapped, start)
            if valid == _VALID:
                body = start + _HEAD.size
                entry = self._mapped[body : body + min(length, self.longest)]
                found.append(Slot(slot, bool(mark), entry, note))
            else:
                self._free.append(slot)
        return found


class SavedOffer(NamedTuple):
    """An outstanding offer in the file; times in seconds of the machine's clock."""

    place: int
    source: str
    target: str
    since: float
    waited: float
    name: str
    waits: bool


class OfferSlots:
    """Slots for outstanding offers: as `Slots`, in half of the time.

    Args:
        mapped: The file.
        start: Where the first slot is.
        used_at: As for `Slots`.
    """

    def __init__(self, mapped: mmap.mmap, start: int, used_at: int) -> None:
        self._mapped = mapped
        self._start = start
        self._used_at = used_at
        self._free: list[int] = []
        (used,) = _WORD.unpack_from(mapped, used_at)
        self._used: int = min(used, MAX_OFFERS)

    def put(self, offer: Offer) -> int:
        """Write an offer, with its name cut to 62 bytes; returns its place, or -1."""
        place = self._free.pop() if self._free else self._grow()
        if place >= 0:
            # The fields are written in their order, so the valid byte comes last.
            _OFFER.pack_into(
                self._mapped,
                place,
                offer.source.encode(),
                offer.target.encode(),
                offer.since,
                offer.waited,
                offer.name.encode("utf-8", "replace"),
                offer.waits,
                _VALID,
            )
        return place

    def _grow(self) -> int:
        if self._used == MAX_OFFERS:
            return -1
        self._used += 1
        _WORD.pack_into(self._mapped, self._used_at, self._used)
        return self._start + (self._used - 1) * _OFFER.size

    def clear(self, place: int) -> None:
        """Make a slot free."""
        self._mapped[place + _VALID_AT] = 0
        self._free.append(place)

    def passed_on(self, place: int) -> None:
        """Note that an offer waits no longer."""
        self._mapped[place + _WAITS_AT] = 0

    def entries(self) -> list[SavedOffer]:
        """All valid offers. It also finds the free slots."""
        found: list[SavedOffer] = []
        self._free = []
        for number in range(self._used):
            place = self._start + number * _OFFER.size
            source, target, since, waited, name, waits, valid = _OFFER.unpack_from(
                self._mapped, place
            )
            if valid != _VALID:
                self._free.append(place)
                continue
            saved = SavedOffer(
                place,
                source.decode(errors="replace"),
                target.decode(errors="replace"),
                since,
                waited,
                name.decode(errors="ignore"),
                bool(waits),
            )
            found.append(saved)
        return found


class Memory:
    """The memory file.

    Args:
        descriptor: The file; it is closed by `close`.

    Attributes:
        connections: Registrations; marked while the client got a part of a frame. The
            note is the payload of the client's last ping.
        offers: Outstanding offers.

    Raises:
        UnreadableError: It is no such file, or has another format.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        size = _size()
        if os.fstat(descriptor).st_size < size:
            raise UnreadableError("it is too short")
        self._mapped = mmap.mmap(descriptor, size)
        magic, number, _ = _HEADER.unpack_from(self._mapped)
        if magic != _MAGIC or number != FORMAT:
            self._mapped.close()
            told = f"its format is {number}, not {FORMAT}"
            raise UnreadableError(told if magic == _MAGIC else "it is no such file")
        start = HEADER_BYTES
        self.connections = Slots(
            *(self._mapped, start, CONNECTION_BYTES, _CONNECTIONS), _USED_AT
        )
        start += CONNECTION_BYTES * _CONNECTIONS
        self.offers = OfferSlots(self._mapped, start, _USED_AT + _WORD.size)

    @classmethod
    def create(cls) -> Memory:
        """Make an empty file.

        Raises:
            OSError: The system has none left, or no such files.
        """
        descriptor = os.memfd_create("proxyrelay", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, _size())
        os.pwrite(descriptor, _HEADER.pack(_MAGIC, FORMAT, 0), 0)
        return cls(descriptor)

    # -- the header

    @property
    def info(self) -> bytes:
        """What the relay has noted of itself."""
        (length,) = _WORD.unpack_from(self._mapped, _INFO_AT)
        start = _INFO_AT + _WORD.size
        return self._mapped[start : min(start + length, HEADER_BYTES)]

    @info.setter
    def info(self, text: bytes) -> None:
        start = _INFO_AT + _WORD.size
        self._mapped[start : start + len(text)] = text
        _WORD.pack_into(self._mapped, _INFO_AT, len(text))

    @property
    def failures(self) -> int:
        """Processes in a row that began to resume the connections and did not end."""
        (number,) = _WORD.unpack_from(self._mapped, _FAILURES_AT)
        return int(number)

    @failures.setter
    def failures(self, number: int) -> None:
        _WORD.pack_into(self._mapped, _FAILURES_AT, number)

    # -- the snapshot

    def save(self, snapshot: bytes) -> None:
        """Write the snapshot. It is valid once all of it is written.

        Raises:
            OSError: The system has no memory left for it.
        """
        written = 0
        while written < len(snapshot):
            written += os.pwrite(self.descriptor, snapshot[written:], _size() + written)
        _HEADER.pack_into(self._mapped, 0, _MAGIC, FORMAT, len(snapshot))

    def take_snapshot(self) -> bytes | None:
        """Read the snapshot and remove it: nothing in it may happen twice."""
        _, _, length = _HEADER.unpack_from(self._mapped)
        if not length:
            return None
        there = os.fstat(self.descriptor).st_size - _size()
        snapshot = os.pread(self.descriptor, min(length, there), _size())
        _HEADER.pack_into(self._mapped, 0, _MAGIC, FORMAT, 0)
        os.ftruncate(self.descriptor, _size())
        return snapshot if len(snapshot) == length else None

    def close(self) -> None:
        """Unmap and close the file. What the supervisor keeps of it stays."""
        self._mapped.close()
        os.close(self.descriptor)


def _size() -> int:
    return HEADER_BYTES + CONNECTION_BYTES * _CONNECTIONS + _OFFER.size * MAX_OFFERS
