"""Which peer holds which UUID, and which did a moment ago. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from proxyrelay.switchboard.peer import Peer, share_of
from proxyrelay.switchboard.shares import Shares
from proxyrelay.switchboard.user import User

REMEMBERED = 65_536
"""Clients that have left, of whom is known for a while that they were there."""


class Registry:
    """Maps canonical UUIDs to the peers that hold them.

    It holds exactly the open connections that have registered.
    """

    def __init__(self) -> None:
        self._peers: dict[str, Peer] = {}
        # Who left first comes first; with the holder of the share that it takes.
        self._left: dict[str, tuple[float, User, str]] = {}
        self._shares: Shares[str] = Shares()

    def get(self, uuid: str) -> Peer | None:
        """The peer that holds a UUID, or None."""
        return self._peers.get(uuid)

    def add(self, uuid: str, peer: Peer) -> None:
        """Give a UUID to a peer, whoever held it before."""
        self._peers[uuid] = peer
        if uuid in self._left:
            self._forget(uuid)

    def remove(self, uuid: str, peer: Peer, now: float | None) -> None:
        """Take a UUID from a peer; nothing happens if another peer holds it.

        Args:
            uuid: The UUID.
            peer: Who leaves.
            now: When, in seconds; None if the peer is not to be remembered.
        """
        if self._peers.get(uuid) is not peer:
            return
        del self._peers[uuid]
        if now is None:
            return
        if len(self._left) >= REMEMBERED:
            self._forget(self._shares.oldest())
        share = share_of(peer)
        self._left[uuid] = (now, peer.user, share)
        self._shares.add(share, uuid)

    def _forget(self, uuid: str) -> None:
        _, _, share = self._left.pop(uuid)
        self._shares.remove(share, uuid)

    def left(self, uuid: str, since: float) -> User | None:
        """Whose UUID it was, if it is nobody's now and was somebody's a moment ago.

        Args:
            uuid: The UUID.
            since: Who left at this time, in seconds, or before counts no longer.
        """
        found = self._left.get(uuid)
        return None if found is None or found[0] <= since else found[1]

    def forget(self, since: float) -> None:
        """Forget who left at a time, in seconds, or before."""
        for uuid, (when, _, _) in list(self._left.items()):
            if when > since:
                return
            self._forget(uuid)

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._peers.values())

    def __len__(self) -> int:
        return len(self._peers)
