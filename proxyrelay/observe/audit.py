"""Who was here, and who was connected to whom: one JSON object a line.

It is for those who have to know afterwards. Unlike the log it has the outcome of every
offer, at any level, and no word about the relay's own state.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from proxyrelay import __version__
from proxyrelay.config import Logging
from proxyrelay.errors import ConfigError, Problem, Refusal, UnknownMessage
from proxyrelay.net.clock import Clock
from proxyrelay.observe.null import NullObserver
from proxyrelay.observe.pseudonyms import Clear
from proxyrelay.observe.records import record
from proxyrelay.observe.writer import File, Writer
from proxyrelay.switchboard.events import BounceReason
from proxyrelay.switchboard.messages import PeerConnection
from proxyrelay.switchboard.offers import OUTSTANDING, DropReason, Offer
from proxyrelay.switchboard.peer import LeaveReason, Peer, Registration

SETTING = "logging.audit_log"


@dataclass(slots=True)
class _Offer:
    """An offer whose outcome is not known yet.

    Attributes:
        since: When it came, in seconds of the clock.
        address: Where its receiver is; None if that is away.
    """

    since: float
    address: str | None = None


@dataclass(slots=True)
class _Client:
    """A client that holds a UUID.

    Attributes:
        name: The name that was written last.
        offers: What it has asked for, by the UUID of the peer.
    """

    name: str
    offers: dict[str, _Offer] = field(default_factory=dict)


class Lines(Protocol):
    """What the audit log is written to: a `Writer`."""

    @property
    def lost(self) -> int:
        """Lines that could not be written."""

    def start(self) -> None:
        """Begin to write."""

    def put(self, line: str) -> None:
        """Have a line written."""

    def reopen(self) -> None:
        """Have the file opened anew."""

    def close(self) -> None:
        """Write what is left."""


class AuditOwner:
    """Says in the audit log what it lacks, and in the log why.

    Args:
        wall: Gives the time in seconds since 1970.
    """

    _log = Logger()

    def __init__(self, wall: Clock = time.time) -> None:
        self._wall = wall

    def _line(self, event: str, **fields: object) -> str:
        return record(self._wall(), {"event": event, **fields})

    def gap(self, count: int) -> str:
        """The line that stands for missing ones."""
        return self._line("gap", count=count)

    def fails(self, writer: Writer, trouble: str) -> None:  # noqa: ARG002
        """Tell the log that lines are lost."""
        self._log.error(
            "the audit log cannot be written: {trouble}; the relay serves on, and "
            "lines are lost until it can",
            event="audit_fails",
            trouble=trouble,
        )

    def resumes(self, writer: Writer, count: int) -> None:  # noqa: ARG002
        """Tell the log that no more lines are lost."""
        self._log.warn(
            "the audit log is written again; lines that it lacks: {count}",
            event="audit_resumed",
            count=count,
        )


class AuditObserver(NullObserver):
    """Writes the journal to the audit log.

    Some things have no line. A replaced client leaves, and the new one registers; that
    one is deaf is a guess; and what is skipped or slowed, or has not even registered,
    concerns nobody else.

    Args:
        lines: Write what happens.
        clock: Gives the time in seconds.
        pseudonyms: What users are shown as.
        ceiling: How many offers without an outcome are remembered. The ledger has no
            more, unless the shield is off.
        wall: Gives the time in seconds since 1970, which lines tell.
    """

    def __init__(
        self,
        lines: Lines,
        clock: IReactorTime,
        pseudonyms: Clear,
        ceiling: int = OUTSTANDING,
        wall: Clock = time.time,
    ) -> None:
        self._lines = lines
        self._clock = clock
        self._wall = wall
        self._pseudonyms = pseudonyms
        self._clients: dict[str, _Client] = {}
        self._ceiling = ceiling
        self._count = 0

    def started(self) -> None:
        """The relay serves. Whoever is said to be here from before is not."""
        self._lines.start()
        self._write("started", version=__version__)

    def stopped(self) -> None:
        """Nobody is here any more: write the last line, and let go of the file."""
        self._write("stopped")
        self._lines.close()

    @property
    def lost(self) -> int:
        """Lines that could not be written."""
        return self._lines.lost

    def reopen(self) -> None:
        """Open the file anew, which may have another name now."""
        self._lines.reopen()

    def _write(self, event: str, **fields: object) -> None:
        self._lines.put(record(self._wall(), {"event": event, **fields}))

    # -- who is here

    def registered(self, peer: Peer, registration: Registration) -> None:
        """A line, unless the client says again what it has said before."""
        client = self._clients.get(registration.uuid)
        if client is None:
            self._clients[registration.uuid] = _Client(registration.name)
        elif client.name == registration.name:
            return
        else:
            client.name = registration.name
        self._write(
            "registered",
            uuid=registration.uuid,
            name=registration.name,
            user=self._pseudonyms.user(peer.user.sub),
            address=peer.address,
        )

    def left(
        self,
        peer: Peer,
        registration: Registration,
        why: str,
        cause: LeaveReason,  # noqa: ARG002
    ) -> None:
        """A line, after those for what the client has asked for in vain."""
        client = self._clients.pop(registration.uuid, None)
        user = self._pseudonyms.user(peer.user.sub)
        for target, offer in ({} if client is None else client.offers).items():
            self._count -= 1
            self._write(
                "offer",
                outcome="left",
                reason="its sender left before it was answered",
                source=registration.uuid,
                target=target,
                user=user,
                address=peer.address,
                target_address=offer.address,
                seconds=self._since(offer),
            )
        self._write(
            "left",
            uuid=registration.uuid,
            name=registration.name,
            user=user,
            address=peer.address,
            seconds=self._clock.seconds() - registration.since,
            sent=registration.sent,
            received=registration.received,
            shielded=registration.dropped,
            reason=why,
        )

    def refused(self, peer: Peer, refusal: Refusal) -> None:
        """A line, with the user as far as that is known."""
        registration = peer.registration
        self._write(
            "refused",
            uuid=None if registration is None else registration.uuid,
            user=self._pseudonyms.user(refusal.sub or peer.user.sub),
            address=peer.address,
            code=refusal.code,
            reason=refusal.reason,
            detail=refusal.detail if isinstance(refusal, UnknownMessage) else "",
        )

    def rejected(self, address: str, status: HTTPStatus, detail: str) -> None:
        """A line."""
        self._write("rejected", address=address, status=status.value, detail=detail)

    def failed(self, address: str, code: int, detail: str) -> None:
        """A line."""
        self._write("failed", address=address, code=code, detail=detail)

    def operator(self, action: str, address: str, uuid: str | None) -> None:
        """A line."""
        self._write("operator", action=action, address=address, uuid=uuid)

    # -- who is connected to whom

    def forwarded(
        self, source: Peer, target: Peer, message: PeerConnection, offer: Offer | None
    ) -> None:
        """A line for an answer. That an offer is on its way is only noted."""
        if message.description_type == "offer":
            self._ask(source, message, target.address, offer)
            return
        # The answer comes from whom the offer went to.
        asked = self._end(message.peer_uuid, message.source_uuid)
        self._write(
            "offer",
            outcome="answered",
            reason=None,
            source=message.peer_uuid,
            target=message.source_uuid,
            user=self._pseudonyms.user(source.user.sub),
            address=target.address,
            target_address=source.address,
            seconds=self._since(asked),
        )

    def held(self, source: Peer, message: PeerConnection) -> None:
        """A line, and another one when it is known what became of the offer."""
        self._ask(source, message, None)
        self._tell(source, message, "held")

    def returned(
        self,
        source: Peer,
        message: PeerConnection,
        error: str,
        why: BounceReason,  # noqa: ARG002
    ) -> None:
        """A line."""
        offer = None
        if _uuid(source, message) == message.source_uuid:  # not what it only claims
            pair = message.source_uuid, message.peer_uuid
            is_offer = message.description_type == "offer"
            offer = self._end(*(pair if is_offer else reversed(pair)))
        self._tell(source, message, "returned", error, offer)

    def shielded(self, source: Peer, message: PeerConnection, why: DropReason) -> None:
        """A line for the first of each client; when it leaves, the number of all."""
        registration = source.registration
        if registration is not None and registration.dropped == 1:
            self._tell(source, message, "dropped", why.value)

    def _ask(
        self,
        source: Peer,
        message: PeerConnection,
        address: str | None,
        offer: Offer | None = None,
    ) -> None:
        """Note that an offer waits for an answer."""
        client = self._clients.get(message.source_uuid)
        asked = None if client is None else client.offers.get(message.peer_uuid)
        if asked is not None:
            asked.address = address
            return
        # It may have waited before it was passed on.
        since = self._clock.seconds() if offer is None else offer.since
        asked = _Offer(since, address)
        if client is not None and self._count < self._ceiling:
            self._count += 1
            client.offers[message.peer_uuid] = asked
        else:
            self._tell(source, message, "forwarded", None, asked)

    def _end(self, source: str, target: str) -> _Offer | None:
        """Forget an offer whose outcome is known."""
        client = self._clients.get(source)
        offer = None if client is None else client.offers.pop(target, None)
        if offer is not None:
            self._count -= 1
        return offer

    def _since(self, offer: _Offer | None) -> float | None:
        return None if offer is None else self._clock.seconds() - offer.since

    def _tell(
        self,
        source: Peer,
        message: PeerConnection,
        outcome: str,
        reason: str | None = None,
        offer: _Offer | None = None,
    ) -> None:
        """Write what became of a message of a client."""
        self._write(
            message.description_type,
            outcome=outcome,
            reason=reason,
            source=_uuid(source, message),
            target=message.peer_uuid,
            user=self._pseudonyms.user(source.user.sub),
            address=source.address,
            target_address=None if offer is None else offer.address,
            seconds=self._since(offer),
        )


def _uuid(source: Peer, message: PeerConnection) -> str:
    """Who sent a message, whatever that says."""
    registration = source.registration
    return message.source_uuid if registration is None else registration.uuid


def audit(
    settings: Logging, clock: IReactorTime, pseudonyms: Clear
) -> AuditObserver | None:
    """Open the audit log that the settings ask for, or None.

    Args:
        settings: Name it.
        clock: As for `AuditObserver`.
        pseudonyms: As for `AuditObserver`.

    Raises:
        ConfigError: It cannot be written.
    """
    path = settings.audit_log
    if path is None:
        return None
    try:
        file = File(path)
    except OSError as error:
        problem = f"{path} cannot be written: {error.strerror}"
        raise ConfigError([Problem(SETTING, problem)]) from None
    return AuditObserver(Writer(file, AuditOwner()), clock, pseudonyms)
