"""The audit log: presence of clients, and the outcome of each offer, as JSON lines.

Unlike the log it has every outcome at any level, and no word about the relay's state.
Names and fields of its lines stand in `proxyrelay.switchboard.events`.
"""

from __future__ import annotations

import time

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from proxyrelay import __version__
from proxyrelay.config import Logging
from proxyrelay.errors import ConfigError, Problem
from proxyrelay.net.clock import Clock
from proxyrelay.observe.privacy import Pseudonyms
from proxyrelay.observe.records import record
from proxyrelay.observe.sinks import File, Sink
from proxyrelay.observe.writer import LineLog, Writer
from proxyrelay.switchboard.delivery import forwarded
from proxyrelay.switchboard.events import Answered, Event, MessageEvent
from proxyrelay.switchboard.messages import PeerConnection
from proxyrelay.switchboard.offers import Offer
from proxyrelay.switchboard.peer import Peer, Sender

SETTING = "logging.audit_log"


class AuditObserver(LineLog):
    """Writes events to the audit log.

    Args:
        sink: Takes the lines.
        clock: Gives the time in seconds, as it does to the rules.
        pseudonyms: Replaces users by what is shown.
        wall: Gives the time in seconds since 1970.
    """

    _log = Logger()

    def __init__(
        self,
        sink: Sink,
        clock: IReactorTime,
        pseudonyms: Pseudonyms,
        wall: Clock = time.time,
    ) -> None:
        super().__init__([sink])
        self._clock = clock
        self._wall = wall
        self._pseudonyms = pseudonyms

    def started(self) -> None:
        """Start to write. Clients of an earlier relay are gone."""
        self.start()
        self.put(self._line("started", version=__version__))

    def stopped(self) -> None:
        """Write the last line, and close the file."""
        self.put(self._line("stopped"))
        self.close()

    def _line(self, event: str, **fields: object) -> str:
        return record(self._wall(), {"event": event, **fields})

    def __call__(self, event: Event) -> None:
        """Write the line of an event, if it has one."""
        if event.audited and event.is_audited:
            name = event.kind if isinstance(event, MessageEvent) else event.event
            fields = self._pseudonyms.shown(event, event.audited)
            self.put(self._line(name, **fields))

    def forwarded(
        self, source: Sender, target: Peer, message: PeerConnection, offer: Offer | None
    ) -> None:
        """Write the outcome of the answered offer; of an offer only if none follows."""
        if message.description_type == "answer":
            age = None if offer is None else self._clock.seconds() - offer.since
            self(
                Answered(
                    kind="offer",
                    source=message.peer_uuid,
                    target=message.source_uuid,
                    user=target.user.sub,
                    address=target.address,
                    target_address=source.address,
                    seconds=age,
                )
            )
        elif offer is None:
            self(forwarded(source, target, message))

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


def open_audit_log(
    settings: Logging, clock: IReactorTime, pseudonyms: Pseudonyms
) -> AuditObserver | None:
    """Open the audit log of the settings; None if they name none.

    Raises:
        ConfigError: It cannot be written.
    """
    path = settings.audit_log
    if path is None:
        return None
    try:
        return AuditObserver(File(path), clock, pseudonyms)
    except OSError as error:
        problem = f"{path} cannot be written: {error.strerror}"
        raise ConfigError([Problem(SETTING, problem)]) from None
