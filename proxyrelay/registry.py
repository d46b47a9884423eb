"""Which peer holds which UUID, and which did a moment ago. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from proxyrelay.identity import User
from proxyrelay.peer import Peer

REMEMBERED = 65_536
"""Clients that have left, of whom is known for a while that they were there."""


class Registry:
    """Maps canonical UUIDs to the peers that hold them.

    It holds exactly the open connections that have registered.
    """

    def __init__(self) -> None:
        self._peers: dict[str, Peer] = {}
        # Who left first comes first.
        self._left: dict[str, tuple[float, User]] = {}

    def get(self, uuid: str) -> Peer | None:
        """The peer that holds a UUID, or None."""
        return self._peers.get(uuid)

    def add(self, uuid: str, peer: Peer) -> None:
        """Give a UUID to a peer, whoever held it before."""
        self._peers[uuid] = peer
        self._left.pop(uuid, None)

    def remove(self, uuid: str, peer: Peer, now: float) -> None:
        """Take a UUID from a peer; nothing happens if another peer holds it.

        Args:
            uuid: The UUID.
            peer: Who leaves.
            now: When, in seconds.
        """
        if self._peers.get(uuid) is peer:
            del self._peers[uuid]
            self._left[uuid] = (now, peer.user)
            if len(self._left) > REMEMBERED:
                del self._left[next(iter(self._left))]

    def left(self, uuid: str, since: float) -> User | None:
        """Whose UUID it was, if it is nobody's now and was somebody's a moment ago.

        Args:
            uuid: The UUID.
            since: Who left at this time, in seconds, or before counts no longer.
        """
        when, user = self._left.get(uuid, (since, None))
        return user if when > since else None

    def forget(self, since: float) -> None:
        """Forget who left at a time, in seconds, or before."""
        for uuid, (when, _) in list(self._left.items()):
            if when > since:
                return
            del self._left[uuid]

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._peers.values())

    def __len__(self) -> int:
        return len(self._peers)
