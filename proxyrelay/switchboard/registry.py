"""The peers by their UUIDs, and those of a moment ago. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from proxyrelay.switchboard.peer import Peer, share_of
from proxyrelay.switchboard.shares import Shares
from proxyrelay.switchboard.user import User

MAX_REMEMBERED_DEPARTURES = 65_536
"""Clients that are remembered for a while after they left."""


class Registry:
    """Maps canonical UUIDs to peers: all open connections that have registered.

    Attributes:
        get: Returns the peer that holds a UUID, or None.
    """

    get: Callable[[str], Peer | None]

    def __init__(self) -> None:
        self._peers: dict[str, Peer] = {}
        self.get = self._peers.get
        # The oldest first: time, user, and holder of the share.
        self._left: dict[str, tuple[float, User, str]] = {}
        self._shares: Shares[str] = Shares()

    def add(self, uuid: str, peer: Peer) -> None:
        """Give a UUID to a peer, also if another peer held it."""
        self._peers[uuid] = peer
        if uuid in self._left:
            self._forget(uuid)

    def remove(self, uuid: str, peer: Peer, now: float | None) -> None:
        """Take a UUID from a peer that leaves, unless another peer holds it.

        The departure is remembered at the time in seconds, if that is given.
        """
        if self._peers.get(uuid) is not peer:
            return
        del self._peers[uuid]
        if now is not None:
            if len(self._left) >= MAX_REMEMBERED_DEPARTURES:
                self._forget(self._shares.oldest())
            share = share_of(peer)
            self._left[uuid] = (now, peer.user, share)
            self._shares.add(share, uuid)

    def _forget(self, uuid: str) -> None:
        _, _, share = self._left.pop(uuid)
        self._shares.remove(share, uuid)

    def left(self, uuid: str, since: float) -> User | None:
        """The user that held a UUID after a time in seconds; None if there was none."""
        found = self._left.get(uuid)
        return None if found is None or found[0] <= since else found[1]

    def forget(self, since: float) -> None:
        """Forget all departures up to a time in seconds."""
        for uuid, (when, _, _) in list(self._left.items()):
            if when > since:
                return
            self._forget(uuid)

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._peers.values())

    def __len__(self) -> int:
        return len(self._peers)
