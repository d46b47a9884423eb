"""Fair shares of a bounded table. Pure.

A full table takes room from its largest holder. So a holder cannot keep out one with
fewer items. Each step costs the same in a table of any size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Shares(Generic[T]):
    """The items of each holder, the oldest first."""

    def __init__(self) -> None:
        # The first key of a plain dict gets slow to find as keys leave its front.
        self._items: dict[str, OrderedDict[T, None]] = {}
        # The holders of each size, and the largest size.
        self._holders: dict[int, OrderedDict[str, None]] = {}
        self._largest = 0

    def size(self, holder: str) -> int:
        """Number of items of a holder."""
        items = self._items.get(holder)
        return 0 if items is None else len(items)

    def add(self, holder: str, item: T) -> None:
        """Give a new item to a holder."""
        items = self._items.get(holder)
        if items is None:
            items = self._items[holder] = OrderedDict()
        size = len(items)
        items[item] = None
        if size:
            self._leave(holder, size)
        self._enter(holder, size + 1)

    def remove(self, holder: str, item: T) -> None:
        """Take an item from its holder."""
        items = self._items[holder]
        size = len(items)
        del items[item]
        if size == 1:
            del self._items[holder]
        else:
            self._enter(holder, size - 1)
        self._leave(holder, size)

    def oldest(self) -> T:
        """The oldest item of the largest holder; there must be an item."""
        largest = next(iter(self._holders[self._largest]))
        return next(iter(self._items[largest]))

    def displaced(self, holder: str) -> T | None:
        """The item that makes room for one more of a holder.

        The oldest of the largest holder, or None if no holder has more than this one.
        """
        return self.oldest() if self.size(holder) < self._largest else None

    def _enter(self, holder: str, size: int) -> None:
        holders = self._holders.get(size)
        if holders is None:
            holders = self._holders[size] = OrderedDict()
            self._largest = max(self._largest, size)
        holders[holder] = None

    def _leave(self, holder: str, size: int) -> None:
        holders = self._holders[size]
        if len(holders) > 1:
            del holders[holder]
            return
        del self._holders[size]
        if size == self._largest:
            # Sizes change by one, so this is the next largest one.
            self._largest = size - 1
