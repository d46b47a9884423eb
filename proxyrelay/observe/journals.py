"""Several journals in the place of one."""

from __future__ import annotations

from http import HTTPStatus

from twisted.logger import Logger

from proxyrelay.errors import Refusal, UnknownMessage
from proxyrelay.ledger import Drop
from proxyrelay.messages import PeerConnection
from proxyrelay.peer import Peer, Registration
from proxyrelay.websocket import ConnectionJournal


class Journals:
    """Tells each of several journals everything, one after the other.

    What one raises is logged, and disturbs neither the others nor the relay.

    Args:
        journals: Who is told.
    """

    _log = Logger()

    def __init__(self, journals: tuple[ConnectionJournal, ...]) -> None:
        self._journals = journals

    def _tell(self, what: str, *about: object) -> None:
        for journal in self._journals:
            try:
                getattr(journal, what)(*about)
            except Exception:  # noqa: PERF203
                self._log.failure("a journal failed")

    def registered(self, peer: Peer, registration: Registration) -> None:
        """Pass it on."""
        self._tell("registered", peer, registration)

    def replaced(self, old: Peer, new: Peer, uuid: str, rounds: int) -> None:
        """Pass it on."""
        self._tell("replaced", old, new, uuid, rounds)

    def left(self, peer: Peer, registration: Registration, why: str) -> None:
        """Pass it on."""
        self._tell("left", peer, registration, why)

    def refused(self, peer: Peer, refusal: Refusal) -> None:
        """Pass it on."""
        self._tell("refused", peer, refusal)

    def forwarded(self, source: Peer, target: Peer, message: PeerConnection) -> None:
        """Pass it on."""
        self._tell("forwarded", source, target, message)

    def returned(self, source: Peer, message: PeerConnection, error: str) -> None:
        """Pass it on."""
        self._tell("returned", source, message, error)

    def held(self, source: Peer, message: PeerConnection) -> None:
        """Pass it on."""
        self._tell("held", source, message)

    def shielded(self, source: Peer, message: PeerConnection, why: Drop) -> None:
        """Pass it on."""
        self._tell("shielded", source, message, why)

    def deaf(self, peer: Peer, registration: Registration) -> None:
        """Pass it on."""
        self._tell("deaf", peer, registration)

    def skipped(self, peer: Peer, refusal: UnknownMessage) -> None:
        """Pass it on."""
        self._tell("skipped", peer, refusal)

    def rejected(self, address: str, status: HTTPStatus, detail: str) -> None:
        """Pass it on."""
        self._tell("rejected", address, status, detail)

    def failed(self, address: str, code: int, detail: str) -> None:
        """Pass it on."""
        self._tell("failed", address, code, detail)

    def dropped(self, address: str, why: str) -> None:
        """Pass it on."""
        self._tell("dropped", address, why)

    def slowed(self, address: str) -> None:
        """Pass it on."""
        self._tell("slowed", address)
