"""What the identity provider said of tokens, for a while. Pure.

Tokens themselves are not kept: only their SHA-256 is.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from math import inf

from proxyrelay.identity import Introspection

INACTIVE_TTL = 10.0
"""Seconds for which a token stays refused without another question: the provider may
come to know it, and asking for each attempt would let strangers make us ask."""


def fingerprint(token: str) -> bytes:
    """What stands for a token in the cache."""
    return sha256(token.encode()).digest()


@dataclass(frozen=True, slots=True)
class _Entry:
    answer: Introspection
    fresh_until: float
    stale_until: float


class TokenCache:
    """Remembers answers, the most recently used ones.

    Args:
        size: How many.
        ttl: Seconds for which an active answer is as good as a new one.
        stale_if_error: Seconds for which it may be used beyond that, while the
            provider cannot be asked.
    """

    def __init__(self, size: int, ttl: float, stale_if_error: float) -> None:
        self._size = size
        self._ttl = ttl
        self._stale_if_error = stale_if_error
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def fresh(self, key: bytes, now: float) -> Introspection | None:
        """An answer that is as good as a new one, or None."""
        entry = self._entries.get(key)
        if entry is None or now >= entry.fresh_until:
            return None
        self._entries.move_to_end(key)
        return entry.answer

    def stale(self, key: bytes, now: float) -> Introspection | None:
        """An answer that serves while the provider cannot be asked, or None."""
        entry = self._entries.get(key)
        if entry is None or now >= entry.stale_until:
            return None
        return entry.answer

    def put(self, key: bytes, answer: Introspection, now: float) -> None:
        """Remember an answer; never beyond the end of the token."""
        if answer.active:
            end = inf if answer.exp is None else answer.exp
            fresh = min(now + self._ttl, end)
            entry = _Entry(answer, fresh, min(fresh + self._stale_if_error, end))
        else:
            until = now + min(self._ttl, INACTIVE_TTL)
            entry = _Entry(answer, until, until)
        self._entries[key] = entry
        self._entries.move_to_end(key)
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)
