"""Which peer holds which UUID. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from proxyrelay.peer import Peer


class Registry:
    """Maps canonical UUIDs to the peers that hold them.

    It holds exactly the open connections that have registered.
    """

    def __init__(self) -> None:
        self._peers: dict[str, Peer] = {}

    def get(self, uuid: str) -> Peer | None:
        """The peer that holds a UUID, or None."""
        return self._peers.get(uuid)

    def add(self, uuid: str, peer: Peer) -> None:
        """Give a UUID to a peer, whoever held it before."""
        self._peers[uuid] = peer

    def remove(self, uuid: str, peer: Peer) -> None:
        """Take a UUID from a peer; nothing happens if another peer holds it."""
        if self._peers.get(uuid) is peer:
            del self._peers[uuid]

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._peers.values())

    def __len__(self) -> int:
        return len(self._peers)
