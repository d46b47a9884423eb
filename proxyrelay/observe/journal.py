"""What happens to clients, one line each.

Format strings are constant, since twisted.logger would read attributes of its
fields on behalf of a text from outside. Whatever a client chose is written with
``!a``, so that it can neither forge a line nor control a terminal. Machines know an
event by its name, and read its fields as they are: ``docs/reference/log.rst`` has both.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from twisted.logger import Logger

from proxyrelay.errors import Refusal, TryAgainLater, UnknownMessage
from proxyrelay.net.rate import Rate
from proxyrelay.observe.pseudonyms import Clear
from proxyrelay.switchboard.events import BounceReason
from proxyrelay.switchboard.messages import PeerConnection
from proxyrelay.switchboard.offers import DropReason, Offer
from proxyrelay.switchboard.peer import REPLACED, LeaveReason, Peer, Registration
from proxyrelay.switchboard.registry import Registry

FIGHT = 3
"""Times in a row that a UUID is taken over until it is taken to be fought over."""


RETURNS = Rate(per_second=1, burst=10)
"""How many lines tell of what goes back to one client."""

GUESSES = Rate(per_second=1, burst=0)
"""How many lines tell of wrong tokens."""


class LogObserver:
    """Writes the journal to the log.

    Args:
        clock: Gives the time in seconds, as the relay's does.
        verbose: Whether lines at DEBUG are shown: they are not even composed
            otherwise. It may change.
        pseudonyms: What users are shown as.
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
        self._told = 0.0
        self._untold = 0

    def registered(self, peer: Peer, registration: Registration) -> None:
        """A peer holds a UUID from now on, or once more."""
        if registration.rounds > FIGHT:
            return
        self.log.info(
            "registered {uuid} name={name!a} user={user!a} from {address}",
            event="registered",
            uuid=registration.uuid,
            name=registration.name,
            user=self._pseudonyms.user(peer.user.sub),
            address=peer.address,
        )

    def replaced(self, old: Peer, new: Peer, uuid: str, rounds: int) -> None:
        """A newer connection of the same user took over a UUID.

        Two processes that close each other again and again, each started anew by its
        supervisor, get one line for the fight and none for its rounds.
        """
        if rounds < FIGHT:
            self.log.warn(
                "replaced {uuid}: registered again from {address}, so {old_address} "
                "is closed",
                event="replaced",
                uuid=uuid,
                address=new.address,
                old_address=old.address,
            )
        elif rounds == FIGHT:
            self.log.warn(
                "fight over {uuid}: registered again and again, from {address} and "
                "from {old_address}; if two endpoints run with this UUID, stop one of "
                "them (further rounds are not logged)",
                event="fight",
                uuid=uuid,
                address=new.address,
                old_address=old.address,
            )

    def left(
        self,
        peer: Peer,
        registration: Registration,
        why: str,
        cause: LeaveReason,  # noqa: ARG002
    ) -> None:
        """A peer no longer holds its UUID."""
        if registration.rounds >= FIGHT and why == REPLACED:
            return
        self.log.info(
            "left {uuid} name={name!a} from {address} after {seconds:.1f} s "
            "(messages: {sent} sent, {received} received): {reason}",
            event="left",
            uuid=registration.uuid,
            name=registration.name,
            user=self._pseudonyms.user(peer.user.sub),
            address=peer.address,
            seconds=self._clock() - registration.since,
            sent=registration.sent,
            received=registration.received,
            reason=why,
        )

    def refused(self, peer: Peer, refusal: Refusal) -> None:
        """A peer is being closed for what it did or is."""
        detail = refusal.detail if isinstance(refusal, UnknownMessage) else ""
        say = self.log.info if isinstance(refusal, TryAgainLater) else self.log.warn
        say(
            "refused {address} with {code}: {reason}{_detail}",
            event="refused",
            address=peer.address,
            code=refusal.code,
            reason=refusal.reason,
            detail=detail,
            _detail=f" ({detail})" if detail else "",
        )

    def forwarded(
        self,
        source: Peer,
        target: Peer,
        message: PeerConnection,
        offer: Offer | None,  # noqa: ARG002
    ) -> None:
        """An offer or answer was handed to its receiver."""
        if self.verbose:
            self.log.debug(
                "forwarded {kind} of {source} at {address} to {target} at "
                "{target_address}",
                event="forwarded",
                kind=message.description_type,
                source=message.source_uuid,
                address=source.address,
                target=message.peer_uuid,
                target_address=target.address,
            )

    def returned(
        self,
        source: Peer,
        message: PeerConnection,
        error: str,
        why: BounceReason,  # noqa: ARG002
    ) -> None:
        """An offer or answer went back to its sender with an error.

        Each client gets about one such line in a second, which tells of those that were
        left out: a client can have as much returned as it likes.
        """
        now = self._clock()
        if RETURNS.over(source.told, now):
            source.untold += 1
            return
        source.told = RETURNS.spend(source.told, now)
        untold, source.untold = source.untold, 0
        self.log.info(
            "returned {kind} for {target} to {address}: {reason}{_more}",
            event="returned",
            kind=message.description_type,
            source=message.source_uuid,
            target=message.peer_uuid,
            address=source.address,
            reason=error,
            untold=untold,
            _more=f" (and {untold} more before)" if untold else "",
        )

    def held(self, source: Peer, message: PeerConnection) -> None:
        """An offer waits for its receiver, which has just left, to come back."""
        if self.verbose:
            self.log.debug(
                "held offer of {source} at {address} for {target}",
                event="held",
                source=message.source_uuid,
                address=source.address,
                target=message.peer_uuid,
            )

    def shielded(self, source: Peer, message: PeerConnection, why: DropReason) -> None:
        """A message was dropped that would have harmed its receiver.

        The first of each client has a line.
        """
        registration = source.registration
        if registration is not None and registration.dropped == 1:
            self.log.warn(
                "shielded {target} from an {kind} of {source} at {address}: {reason} "
                "(further ones of this client are not logged)",
                event="shielded",
                target=message.peer_uuid,
                kind=message.description_type,
                source=message.source_uuid,
                address=source.address,
                reason=why.value,
            )

    def deaf(self, peer: Peer, registration: Registration) -> None:
        """A client that came back seems to read nothing since."""
        self.log.warn(
            "deaf {uuid} name={name!a} user={user!a} from {address}: it came back "
            "{seconds:.0f} s ago and answers no offers since; restart this endpoint",
            event="deaf",
            uuid=registration.uuid,
            name=registration.name,
            user=self._pseudonyms.user(peer.user.sub),
            address=peer.address,
            seconds=self._clock() - registration.since,
        )

    def skipped(self, peer: Peer, refusal: UnknownMessage) -> None:
        """A message of an old client was ignored, as old clients expect."""
        if self.verbose:
            self.log.debug(
                "skipped a message of {address}: {detail}",
                event="skipped",
                address=peer.address,
                detail=refusal.detail,
            )

    def rejected(self, address: str, status: HTTPStatus, detail: str) -> None:
        """A request was answered with an HTTP error."""
        self.log.info(
            "rejected {address} with HTTP {status}: {detail!a}",
            event="rejected",
            address=address,
            status=status.value,
            detail=detail,
        )

    def failed(self, address: str, code: int, detail: str) -> None:
        """A client broke the WebSocket protocol and is closed with a code."""
        self.log.warn(
            "failed {address} with {code}: {detail!a}",
            event="failed",
            address=address,
            code=code,
            detail=detail,
        )

    def dropped(self, address: str, why: str) -> None:
        """A connection that holds no UUID ended without a close handshake."""
        self.log.info(
            "dropped {address}: {reason!a}",
            event="dropped",
            address=address,
            reason=why,
        )

    def probed(self, address: str) -> None:
        """A connection ended that has sent nothing: a load balancer's probe."""
        self.log.debug(
            "probed by {address}: it has sent nothing", event="probed", address=address
        )

    def slowed(self, address: str) -> None:
        """A client sends faster than it may, and is read from more slowly."""
        self.log.warn(
            "slowed {address}: it sends more than [limits] allows",
            event="slowed",
            address=address,
        )

    def operator(self, action: str, address: str, uuid: str | None) -> None:
        """A caller of the private listener has it do something."""
        self.log.info(
            "{action}{_whom} is asked for from {address}",
            event="operator",
            action=action,
            uuid=uuid,
            address=address,
            _whom=f" of {uuid}" if uuid else "",
        )

    def unauthorized(self, address: str) -> None:
        """A caller of the private listener has brought a wrong token.

        There is one line in a second, which tells of those that were left out.
        """
        now = self._clock()
        if GUESSES.over(self._told, now):
            self._untold += 1
            return
        self._told = GUESSES.spend(self._told, now)
        untold, self._untold = self._untold, 0
        self.log.warn(
            "a wrong token for the private listener came from {address}{_more}",
            event="admin_unauthorized",
            address=address,
            untold=untold,
            _more=f" (and {untold} more before)" if untold else "",
        )

    def clients(self, registry: Registry, limit: int) -> None:
        """List who is connected.

        Args:
            registry: Who is.
            limit: Up to how many clients get a line of their own.
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
                    seconds=self._clock() - registration.since,
                    sent=registration.sent,
                    received=registration.received,
                    unanswered=registration.unanswered,
                    deaf=registration.deaf,
                    _deaf=": deaf, restart it" if registration.deaf else "",
                )
