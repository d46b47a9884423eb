"""The audit log: presence of clients, and the outcome of each offer, as JSON lines.

Unlike the log it has every outcome at any level, and no word about the relay's state.
"""

from __future__ import annotations

import time
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from proxyrelay import __version__
from proxyrelay.config import Logging
from proxyrelay.errors import ConfigError, Problem
from proxyrelay.net.clock import Clock
from proxyrelay.observe.pseudonyms import Clear
from proxyrelay.observe.records import record
from proxyrelay.observe.writer import File, Writer
from proxyrelay.switchboard.event import Event
from proxyrelay.switchboard.events import Answered, Forwarded
from proxyrelay.switchboard.messages import PeerConnection
from proxyrelay.switchboard.offers import Offer
from proxyrelay.switchboard.peer import Peer, Sender

SETTING = "logging.audit_log"


class Lines(Protocol):
    """Takes the lines of the audit log: a `Writer`."""

    @property
    def lost(self) -> int:
        """Lines that could not be written."""

    def start(self) -> None:
        """Start to write."""

    def put(self, line: str) -> None:
        """Queue a line."""

    def reopen(self) -> None:
        """Open the file anew."""

    def close(self) -> None:
        """Write the queued lines, and close."""


class AuditOwner:
    """Reports lost lines, in the audit log and in the log.

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
        """Report to the log that lines are lost."""
        self._log.error(
            "the audit log cannot be written: {trouble}; the relay serves on, and "
            "lines are lost until it can",
            event="audit_fails",
            trouble=trouble,
        )

    def resumes(self, writer: Writer, count: int) -> None:  # noqa: ARG002
        """Report to the log that lines are written again."""
        self._log.warn(
            "the audit log is written again; lines that it lacks: {count}",
            event="audit_resumed",
            count=count,
        )


class AuditObserver:
    """Writes events to the audit log.

    Args:
        lines: Takes the lines.
        clock: Gives the time in seconds, as it does to the rules.
        pseudonyms: Replaces users by what is shown.
        wall: Gives the time in seconds since 1970.
    """

    def __init__(
        self,
        lines: Lines,
        clock: IReactorTime,
        pseudonyms: Clear,
        wall: Clock = time.time,
    ) -> None:
        self._lines = lines
        self._clock = clock
        self._wall = wall
        self._pseudonyms = pseudonyms

    def started(self) -> None:
        """Start to write. Clients of an earlier relay are gone."""
        self._lines.start()
        self._write("started", version=__version__)

    def stopped(self) -> None:
        """Write the last line, and close the file."""
        self._write("stopped")
        self._lines.close()

    @property
    def lost(self) -> int:
        """Lines that could not be written."""
        return self._lines.lost

    def reopen(self) -> None:
        """Open the file anew, since it may have another name now."""
        self._lines.reopen()

    def _write(self, event: str, **fields: object) -> None:
        self._lines.put(record(self._wall(), {"event": event, **fields}))

    def __call__(self, event: Event) -> None:
        """Write the line of an event, if it has one."""
        if event.is_audited:
            fields = self._pseudonyms.shown(event, event.audited)
            self._write(event.audit_event, **fields)

    def forwarded(
        self, source: Sender, target: Peer, message: PeerConnection, offer: Offer | None
    ) -> None:
        """Write the line of an answer; of an offer only if none follows it."""
        if message.description_type == "answer":
            self(
                Answered(
                    kind="offer",
                    source=message.peer_uuid,
                    target=message.source_uuid,
                    user=source.user.sub,
                    address=target.address,
                    target_address=source.address,
                    seconds=None
                    if offer is None
                    else self._clock.seconds() - offer.since,
                )
            )
        elif offer is None:
            self(
                Forwarded(
                    kind="offer",
                    source=message.source_uuid,
                    target=message.peer_uuid,
                    user=source.user.sub,
                    address=source.address,
                    target_address=target.address,
                )
            )


def audit(
    settings: Logging, clock: IReactorTime, pseudonyms: Clear
) -> AuditObserver | None:
    """Open the audit log of the settings; None if they name none.

    Args:
        settings: The settings.
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
