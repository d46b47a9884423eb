"""Fair shares of a bounded table. Pure.

A full table takes room from its largest holder. One holder cannot keep out another
one with fewer items. Each step costs the same, whatever the size of the table.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Shares(Generic[T]):
    """The items of each holder, the oldest first."""

    def __init__(self) -> None:
        self._items: dict[str, dict[T, None]] = {}
        # The holders of each size, and the largest size.
        self._holders: dict[int, dict[str, None]] = {}
        self._largest = 0

    def size(self, holder: str) -> int:
        """How many items a holder has."""
        items = self._items.get(holder)
        return 0 if items is None else len(items)

    def add(self, holder: str, item: T) -> None:
        """Give a new item to a holder."""
        items = self._items.setdefault(holder, {})
        items[item] = None
        self._move(holder, len(items) - 1, len(items))

    def remove(self, holder: str, item: T) -> None:
        """Take an item from its holder."""
        items = self._items[holder]
        del items[item]
        if not items:
            del self._items[holder]
        self._move(holder, len(items) + 1, len(items))

    def oldest(self) -> T:
        """The oldest item of the largest holder; there must be an item."""
        largest = next(iter(self._holders[self._largest]))
        return next(iter(self._items[largest]))

    def displaced(self, holder: str) -> T | None:
        """The item that makes room for one more of a holder.

        Returns:
            The oldest item of the largest holder; None if no holder has more items
            than this one.
        """
        return self.oldest() if self.size(holder) < self._largest else None

    def _move(self, holder: str, old: int, new: int) -> None:
        if new:
            self._holders.setdefault(new, {})[holder] = None
        if old:
            holders = self._holders[old]
            del holders[holder]
            if not holders:
                del self._holders[old]
        # A size changes by one, so the next largest size is at hand.
        if new > self._largest or self._largest not in self._holders:
            self._largest = new
