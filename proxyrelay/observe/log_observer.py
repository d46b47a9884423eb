"""The log's lines about clients, one for each event.

``docs/reference/log.rst`` has the names and fields of all events. Formats are constants
of the table of events, since twisted.logger would read attributes of fields on behalf
of a text from outside.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger, LogLevel

from proxyrelay.net.rate import RateLimitedLog
from proxyrelay.observe.pseudonyms import Clear
from proxyrelay.switchboard.event import Event
from proxyrelay.switchboard.events import Forwarded, Left
from proxyrelay.switchboard.messages import PeerConnection
from proxyrelay.switchboard.offers import Offer
from proxyrelay.switchboard.peer import LeaveReason, Peer
from proxyrelay.switchboard.registry import Registry

LIMIT_SECONDS = 1.0
"""Seconds from one line to the next, for events with a limit."""

SUPPRESSED_TEXT = " (and {} more before)"

_LEVELS = {level: LogLevel.levelWithName(level) for level in ("debug", "info", "warn")}


class LogObserver:
    """Writes events to the log.

    Args:
        clock: Gives the time in seconds.
        verbose: Whether lines at DEBUG are shown; else they are not even composed. It
            may change.
        pseudonyms: Replaces users by what is shown.
    """

    log = Logger()

    def __init__(
        self,
        clock: Callable[[], float],
        verbose: bool = False,
        pseudonyms: Clear = Clear(),  # noqa: B008 - has no state
    ) -> None:
        self._clock = clock
        self.verbose = verbose
        self._pseudonyms = pseudonyms
        # By the name of the event; keys are addresses with ports.
        self._limits: dict[str, RateLimitedLog] = {}

    def __call__(self, event: Event) -> None:
        """Write the line of an event, if it has one."""
        # A client that takes another UUID keeps its limit.
        if isinstance(event, Left) and event.cause is not LeaveReason.MOVED:
            for limit in self._limits.values():
                limit.forget(event.address)
        if not event.format or event.is_repeat:
            return
        if event.level == "debug" and not self.verbose:
            return
        fields = self._pseudonyms.shown(event, event.fields)
        if event.burst is not None:
            suppressed = self._suppressed(event, event.burst)
            if suppressed is None:
                return
            fields["untold"] = suppressed
            fields["_untold"] = SUPPRESSED_TEXT.format(suppressed) * (suppressed > 0)
        fields.update(event.optional_texts())
        self.log.emit(_LEVELS[event.level], event.format, event=event.event, **fields)

    def _suppressed(self, event: Event, burst: int) -> int | None:
        limit = self._limits.get(event.event)
        if limit is None:
            limit = RateLimitedLog(LIMIT_SECONDS, burst)
            self._limits[event.event] = limit
        key = getattr(event, event.limited_by) if event.limited_by else None
        return limit.admit(self._clock(), key)

    def forwarded(
        self,
        source: Peer,
        target: Peer,
        message: PeerConnection,
        offer: Offer | None,  # noqa: ARG002
    ) -> None:
        """Write the line of a forwarded message."""
        if self.verbose:
            self(
                Forwarded(
                    kind=message.description_type,
                    source=message.source_uuid,
                    target=message.peer_uuid,
                    user=source.user.sub,
                    address=source.address,
                    target_address=target.address,
                )
            )

    def clients(self, registry: Registry, limit: int) -> None:
        """List the connected clients.

        Args:
            registry: The clients.
            limit: Largest number of clients that get a line each.
        """
        self.log.info(
            "connected clients: {count}", event="clients", count=len(registry)
        )
        if len(registry) > limit:
            return
        for peer in registry:
            registration = peer.registration
            if registration is not None:
                self.log.info(
                    "connected {uuid} name={name!a} user={user!a} from {address} "
                    "for {seconds:.0f} s (messages: {sent} sent, {received} received; "
                    "unanswered: {unanswered}){_deaf}",
                    event="client",
                    uuid=registration.uuid,
                    name=registration.name,
                    user=self._pseudonyms.user(peer.user.sub),
                    address=peer.address,
                    seconds=self._clock() - registration.registered_at,
                    sent=registration.sent,
                    received=registration.received,
                    unanswered=registration.unanswered,
                    deaf=registration.deaf,
                    _deaf=": deaf, restart it" if registration.deaf else "",
                )
