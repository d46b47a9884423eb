"""Cache of introspection answers, by the SHA-256 of the token. Pure.

The age of an answer is monotonic time; the ``exp`` of a token is wall time.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import sha256
from typing import NamedTuple

from proxyrelay.auth.policy import Introspection

INACTIVE_TTL_SECONDS = 10.0
"""Life of an inactive answer. The token may become valid; a request for each attempt
would let strangers make the relay send requests."""

MAX_INACTIVE_ENTRIES = 1000
"""Inactive answers have their own table: anybody can make up tokens."""


def fingerprint(token: str) -> bytes:
    """Key of a token in the cache."""
    return sha256(token.encode()).digest()


class _Entry(NamedTuple):
    answer: Introspection
    fresh_until: float
    stale_until: float


class TokenCache:
    """A cache of the most recently used answers.

    In its methods, ``now`` is monotonic time in seconds, and ``wall`` is wall time in
    seconds since 1970. A ``key`` is a `fingerprint`.

    Args:
        size: Entries for active tokens.
        ttl: Seconds of freshness of an active answer.
        stale_if_error: Seconds of use beyond that while the provider fails.
    """

    def __init__(self, size: int, ttl: float, stale_if_error: float) -> None:
        self._size = size
        self._ttl = ttl
        self._stale_if_error = stale_if_error
        self._active: OrderedDict[bytes, _Entry] = OrderedDict()
        self._inactive: OrderedDict[bytes, _Entry] = OrderedDict()

    def fresh(self, key: bytes, now: float, wall: float) -> Introspection | None:
        """A fresh answer, or None."""
        for entries in (self._active, self._inactive):
            entry = entries.get(key)
            if entry and now < entry.fresh_until and _is_unexpired(entry, wall):
                entries.move_to_end(key)
                return entry.answer
        return None

    def stale(self, key: bytes, now: float, wall: float) -> Introspection | None:
        """An active answer for the time of a failure, or None."""
        entry = self._active.get(key)
        if entry and now < entry.stale_until and _is_unexpired(entry, wall):
            return entry.answer
        return None

    def was_active(self, key: bytes, wall: float) -> bool:
        """Whether the last answer, however old, was active, and has not expired."""
        entry = self._active.get(key)
        return entry is not None and _is_unexpired(entry, wall)

    def put(self, key: bytes, answer: Introspection, now: float) -> None:
        """Keep an answer."""
        self._active.pop(key, None)
        self._inactive.pop(key, None)
        if answer.active:
            entries, size, ttl = self._active, self._size, self._ttl
        else:
            entries, size = self._inactive, MAX_INACTIVE_ENTRIES
            ttl = min(self._ttl, INACTIVE_TTL_SECONDS)
        entries[key] = _Entry(answer, now + ttl, now + ttl + self._stale_if_error)
        if len(entries) > size:
            entries.popitem(last=False)


def _is_unexpired(entry: _Entry, wall: float) -> bool:
    return entry.answer.exp is None or wall < entry.answer.exp
