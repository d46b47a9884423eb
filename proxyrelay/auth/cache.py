"""What the identity provider said of tokens, for a while. Pure.

The age of an answer is measured on a monotonic clock, the end of a token on the wall's.

Tokens themselves are not kept: only their SHA-256 is.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256

from proxyrelay.auth.policy import Introspection

INACTIVE_TTL = 10.0
"""Seconds for which a token stays refused without another question: the provider may
come to know it, and asking for each attempt would let strangers make us ask."""

INACTIVE_SIZE = 1000
"""How many of these are kept: apart, since anybody can make up any number of them."""


def fingerprint(token: str) -> bytes:
    """What stands for a token in the cache."""
    return sha256(token.encode()).digest()


@dataclass(frozen=True, slots=True)
class _Entry:
    answer: Introspection
    fresh_until: float
    stale_until: float

    def lasts(self, wall: float) -> bool:
        """Whether the token has not ended yet."""
        return self.answer.exp is None or wall < self.answer.exp


class TokenCache:
    """Remembers answers, the most recently used ones.

    Args:
        size: How many active ones.
        ttl: Seconds for which an active answer is as good as a new one.
        stale_if_error: Seconds for which it may be used beyond that, while the
            provider cannot be asked.
    """

    def __init__(self, size: int, ttl: float, stale_if_error: float) -> None:
        self._size = size
        self._ttl = ttl
        self._stale_if_error = stale_if_error
        self._active: OrderedDict[bytes, _Entry] = OrderedDict()
        self._inactive: OrderedDict[bytes, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._active) + len(self._inactive)

    def fresh(self, key: bytes, now: float, wall: float) -> Introspection | None:
        """An answer that is as good as a new one, or None.

        Args:
            key: The token's fingerprint.
            now: Time in seconds, of the clock by which answers are put.
            wall: Time in seconds since 1970, which the end of a token is in.
        """
        for entries in (self._active, self._inactive):
            entry = entries.get(key)
            if entry is not None and now < entry.fresh_until and entry.lasts(wall):
                entries.move_to_end(key)
                return entry.answer
        return None

    def stale(self, key: bytes, now: float, wall: float) -> Introspection | None:
        """An answer that serves while the provider cannot be asked, or None.

        Args:
            key: The token's fingerprint.
            now: As for `fresh`.
            wall: As for `fresh`.
        """
        entry = self._active.get(key)
        if entry is None or now >= entry.stale_until or not entry.lasts(wall):
            return None
        return entry.answer

    def knows(self, key: bytes, wall: float) -> bool:
        """Whether the newest answer, however old, was that the token is active.

        Args:
            key: The token's fingerprint.
            wall: As for `fresh`.
        """
        entry = self._active.get(key)
        return entry is not None and entry.lasts(wall)

    def put(self, key: bytes, answer: Introspection, now: float) -> None:
        """Remember an answer.

        Args:
            key: The token's fingerprint.
            answer: The answer.
            now: Time in seconds.
        """
        if answer.active:
            fresh = now + self._ttl
            entry = _Entry(answer, fresh, fresh + self._stale_if_error)
            self._inactive.pop(key, None)
            _keep(self._active, key, entry, self._size)
        else:
            until = now + min(self._ttl, INACTIVE_TTL)
            self._active.pop(key, None)
            _keep(self._inactive, key, _Entry(answer, until, until), INACTIVE_SIZE)


def _keep(
    entries: OrderedDict[bytes, _Entry], key: bytes, entry: _Entry, size: int
) -> None:
    entries[key] = entry
    entries.move_to_end(key)
    while len(entries) > size:
        entries.popitem(last=False)
