"""The log's lines about clients, one for each event.

Their texts, names and fields stand in `proxyrelay.switchboard.events`. Those texts are
constants, since twisted.logger would read attributes of fields on behalf of a text from
outside. ``docs/reference/log.rst`` describes them all.
"""

from __future__ import annotations

from twisted.logger import Logger, LogLevel

from proxyrelay.net.clock import Clock
from proxyrelay.net.rate import RateLimitedLog
from proxyrelay.observe.privacy import Pseudonyms
from proxyrelay.switchboard.delivery import forwarded
from proxyrelay.switchboard.events import Event, Left
from proxyrelay.switchboard.messages import PeerConnection
from proxyrelay.switchboard.offers import Offer
from proxyrelay.switchboard.peer import LeaveReason, Peer, Sender
from proxyrelay.switchboard.registry import Registry

LIMIT_SECONDS = 1.0
"""Seconds from one line to the next, for events with a limit."""


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
        clock: Clock,
        verbose: bool = False,
        pseudonyms: Pseudonyms = Pseudonyms(),  # noqa: B008 - has no state
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
            for each in self._limits.values():
                each.forget(event.address)
        if not event.format or event.is_repeat:
            return
        if event.level == "debug" and not self.verbose:
            return
        texts: dict[str, object] = {**event.optional_texts()}
        if event.burst is not None:
            limit = self._limits.get(event.event)
            if limit is None:
                limit = RateLimitedLog(LIMIT_SECONDS, event.burst)
                self._limits[event.event] = limit
            key = getattr(event, event.limited_by) if event.limited_by else None
            suppressed = limit.admit(self._clock(), key)
            if suppressed is None:
                return
            texts["untold"] = suppressed
            texts["_untold"] = f" (and {suppressed} more before)" * (suppressed > 0)
        fields = {**self._pseudonyms.shown(event, event.fields), **texts}
        level = LogLevel.levelWithName(event.level)
        self.log.emit(level, event.format, event=event.event, **fields)

    def forwarded(
        self,
        source: Sender,
        target: Peer,
        message: PeerConnection,
        offer: Offer | None,  # noqa: ARG002
    ) -> None:
        """Write the line of a forwarded message."""
        if self.verbose:
            self(forwarded(source, target, message))

    def clients(self, registry: Registry, limit: int) -> None:
        """List the connected clients; over a limit, give only their number."""
        count = len(registry)
        self.log.info("connected clients: {count}", event="clients", count=count)
        if count > limit:
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
