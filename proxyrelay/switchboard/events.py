"""The table of events: one class a row. Pure.

Log, audit log, counters and live page read names, texts and fields here. A new event
needs a class here, the call that reports it, and its words in ``docs/_ext/events.py``.
`proxyrelay.observe.log` has the levels and formats of the log, and its observer.
`proxyrelay.observe.sinks` writes the lines.

A format is a constant. What a client chose stands in it with ``!a``, so that it can
neither forge a line nor control a terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import ClassVar

import msgspec

from proxyrelay.switchboard.messages import PeerConnection
from proxyrelay.switchboard.offers import DropReason, Offer
from proxyrelay.switchboard.peer import LeaveReason, Peer, Sender

FIGHT_TAKEOVERS = 3
"""Takeovers of a UUID in a row, from which on it counts as a fight."""


class Event(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Something that happened.

    The fields of a subclass are what is known of the event. A field ``user`` holds the
    user's own ID: both logs show its pseudonym, and no text of the page names it. A
    field ``address`` is already what may be shown.

    Attributes:
        event: Name in the logs and on the page.
        level: Level in the log, by the name of a logger's method.
        format: Text in the log; empty for an event without a line.
        fields: Fields in the log.
        optional: Texts for fields that may be empty. The format names the text of the
            field ``a`` as ``{_a}``; it is empty if the field is.
        burst: Log lines about one client at once, before there is one a second; None
            for no limit. Such lines have the field ``untold``.
        limited_by: Field that tells the clients of `burst` apart; empty if the limit
            is one for all.
        audited: Fields in the audit log; empty for an event without a line.
        page: Text on the page; empty for an event without one.
        label: Field that tells apart what is counted; empty to count all as one.
        is_repeat: Whether log and page leave it out, as an earlier event said as much.
        is_audited: Whether the audit log takes it, if it has a line for such events.
    """

    event: ClassVar[str] = ""
    level: ClassVar[str] = "info"
    format: ClassVar[str] = ""
    fields: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[Mapping[str, str]] = {}
    burst: ClassVar[int | None] = None
    limited_by: ClassVar[str] = ""
    audited: ClassVar[tuple[str, ...]] = ()
    page: ClassVar[str] = ""
    label: ClassVar[str] = ""

    is_repeat: bool = False
    is_audited: bool = True

    def optional_texts(self) -> dict[str, str]:
        """The texts of `optional`, each by its name in the format."""
        return {
            f"_{name}": text.format(value) if (value := getattr(self, name)) else ""
            for name, text in self.optional.items()
        }


Observer = Callable[[Event], None]
"""Hears of each event. It writes nothing back into the rules."""

ForwardObserver = Callable[[Sender, Peer, PeerConnection, Offer | None], None]
"""Hears of each message that reached its receiver: sender, receiver, message, offer.

The offer is the message itself, or the one that an answer answers; None without the
shield. This is a plain call, since a message must not cost a struct."""


class BounceReason(Enum):
    """Why a message goes back to its sender."""

    UNKNOWN = "unknown"
    FOREIGN = "foreign"
    BUSY = "busy"
    LEFT = "left"
    CROSSED = "crossed"
    SILENT = "silent"
    DEAF = "deaf"
    FULL = "full"
    SOURCE = "source"
    SELF = "self"


# -- clients


class ClientEvent(Event, frozen=True):
    """What happened to a client with a UUID."""

    fields: ClassVar[tuple[str, ...]] = ("uuid", "name", "user", "address")

    uuid: str
    name: str
    user: str
    address: str


class Registered(ClientEvent, frozen=True):
    """A client holds a UUID from now on, or has registered it once more."""

    event = "registered"
    format = "registered {uuid} name={name!a} user={user!a} from {address}"
    audited = ClientEvent.fields
    page = "{uuid} from {address}"


class Replaced(Event, frozen=True):
    """A newer connection of the same user took over a UUID."""

    event = "replaced"
    level = "warn"
    format = (
        "replaced {uuid}: registered again from {address}, so {old_address} is closed"
    )
    fields = ("uuid", "address", "old_address")
    page = "{uuid} has registered again from {address}; it was held from {old_address}"

    uuid: str
    address: str
    old_address: str


class Fight(Replaced, frozen=True):
    """Two clients take over a UUID from each other, again and again.

    Each may be started anew by its supervisor. So the fight has one line, and its
    further rounds have none.
    """

    event = "fight"
    format = (
        "fight over {uuid}: registered again and again, from {address} and from "
        "{old_address}; if two endpoints run with this UUID, stop one of them "
        "(further rounds are not logged)"
    )
    page = (
        "{uuid} registers again and again, from {address}; it was held from "
        "{old_address}"
    )


class Left(ClientEvent, frozen=True):
    """A client no longer holds its UUID."""

    event = "left"
    format = (
        "left {uuid} name={name!a} from {address} after {seconds:.1f} s "
        "(messages: {sent} sent, {received} received): {reason}"
    )
    fields = (*ClientEvent.fields, "seconds", "sent", "received", "reason")
    audited = (
        *ClientEvent.fields,
        *("seconds", "sent", "received", "shielded", "reason"),
    )
    page = "{uuid} from {address} after {seconds:.0f} s: {reason}"
    label = "cause"

    seconds: float
    sent: int
    received: int
    shielded: int
    reason: str
    cause: LeaveReason


class Refused(Event, frozen=True):
    """A client is closed for what it did or is."""

    event = "refused"
    level: ClassVar[str] = "warn"
    format = "refused {address} with {code}: {reason}{_detail}"
    fields = ("address", "code", "reason", "detail")
    optional: ClassVar[Mapping[str, str]] = {"detail": " ({})"}
    audited = ("uuid", "user", "address", "code", "reason", "detail")
    page = "{address} with {code}: {reason}"
    label = "code"

    uuid: str | None
    user: str
    address: str
    code: int
    reason: str
    detail: str = ""


class RefusedForNow(Refused, frozen=True):
    """The same, where the client may try again later."""

    level = "info"


class Deafness(ClientEvent, frozen=True):
    """A client came back, and answers no offers since."""

    event = "deaf"
    level = "warn"
    format = (
        "deaf {uuid} name={name!a} user={user!a} from {address}: it came back "
        "{seconds:.0f} s ago and answers no offers since; restart this endpoint"
    )
    fields = (*ClientEvent.fields, "seconds")
    page = "{uuid} at {address} answers no offers since it came back: restart it"

    seconds: float


class PrivateOnly(ClientEvent, frozen=True):
    """A client's candidates have private addresses only. One line a registration."""

    event = "private_only"
    format = (
        "offers of {uuid} name={name!a} user={user!a} from {address} carry private "
        "addresses only: peers on other networks cannot reach it (is STUN blocked?)"
    )
    page = "{uuid} offers private addresses only (is STUN blocked?)"


class Unconnected(Event, frozen=True):
    """Two clients exchange offers and answers again and again: they do not connect."""

    event = "unconnected"
    level = "warn"
    format = (
        "{source} and {target} of user={user!a} do not connect: {count} offers were "
        "answered in {seconds:.0f} s; cause: {cause} ({reason}); see "
        "docs/guides/no-connection.rst{_untold}"
    )
    fields = ("source", "target", "user", "count", "seconds", "cause", "reason")
    page = "{source} and {target} do not connect: {reason}"
    burst = 10

    source: str
    target: str
    user: str
    count: int
    seconds: float
    cause: str
    reason: str


# -- messages


class MessageEvent(Event, frozen=True, kw_only=True):
    """What became of an offer or an answer.

    Attributes:
        outcome: Word for it in the audit log.
        kind: ``offer`` or ``answer``.
        source: UUID of the sender, whatever the message claims.
        target_address: Where the offer went; None if it went nowhere yet.
        seconds: Age of the offer; None if it was never outstanding.
        reason: Why, in words; None if the outcome says all.
    """

    outcome: ClassVar[str] = ""
    audited = (
        *("outcome", "reason", "source", "target"),
        *("user", "address", "target_address", "seconds"),
    )

    kind: str
    source: str
    target: str
    user: str
    address: str
    target_address: str | None = None
    seconds: float | None = None
    reason: str | None = None


class Forwarded(MessageEvent, frozen=True):
    """A message reached its receiver. Only observers that show it make one."""

    event = "forwarded"
    level = "debug"
    format = "forwarded {kind} of {source} at {address} to {target} at {target_address}"
    fields = ("kind", "source", "address", "target", "target_address")
    outcome = "forwarded"


class Answered(MessageEvent, frozen=True):
    """An answer reached the sender of the offer. It has no line in the log."""

    outcome = "answered"


class Abandoned(MessageEvent, frozen=True):
    """The sender of an offer left before there was an answer."""

    outcome = "left"


class Held(MessageEvent, frozen=True):
    """An offer waits for its receiver, which has just left, to come back."""

    event = "held"
    level = "debug"
    format = "held offer of {source} at {address} for {target}"
    fields = ("source", "address", "target")
    outcome = "held"


class Returned(MessageEvent, frozen=True, kw_only=True):
    """A message went back to its sender with an error.

    A client can have as much returned as it likes, so the log has a limit.
    """

    event = "returned"
    format = "returned {kind} for {target} to {address}: {reason}{_untold}"
    fields = ("kind", "source", "target", "address", "reason")
    page = "{kind} of {source} to {target}: {why.value}"
    burst = 10
    limited_by = "address"
    label = "why"
    outcome = "returned"

    why: BounceReason


class Shielded(MessageEvent, frozen=True, kw_only=True):
    """A message was dropped that would have ended its receiver."""

    event = "shielded"
    level = "warn"
    format = (
        "shielded {target} from an {kind} of {source} at {address}: {reason} "
        "(further ones of this client are not logged)"
    )
    fields = ("target", "kind", "source", "address", "reason")
    page = "{target} from an {kind} of {source} at {address}: {reason}"
    label = "why"
    outcome = "dropped"

    why: DropReason


# -- connections, also those without a client


class ConnectionEvent(Event, frozen=True):
    """What happened to a connection, or to one of its messages."""

    fields: ClassVar[tuple[str, ...]] = ("address",)

    address: str


class Skipped(ConnectionEvent, frozen=True):
    """A message of an old client was ignored, as old clients expect."""

    event = "skipped"
    level = "debug"
    format = "skipped a message of {address}: {detail}"
    fields = ("address", "detail")

    detail: str


class Rejected(ConnectionEvent, frozen=True):
    """A request was answered with an HTTP error."""

    event = "rejected"
    format = "rejected {address} with HTTP {status}: {detail!a}"
    fields = audited = ("address", "status", "detail")
    page = "{address} with HTTP {status}: {detail!a}"
    label = "status"

    status: int
    detail: str


class Failed(ConnectionEvent, frozen=True):
    """A client broke the WebSocket protocol and is closed with a code."""

    event = "failed"
    level = "warn"
    format = "failed {address} with {code}: {detail!a}"
    fields = audited = ("address", "code", "detail")
    page = "{address} with {code}: {detail!a}"
    label = "code"

    code: int
    detail: str


class Dropped(ConnectionEvent, frozen=True):
    """A connection that holds no UUID ended without a close handshake."""

    event = "dropped"
    format = "dropped {address}: {reason!a}"
    fields = ("address", "reason")

    reason: str


class Probed(ConnectionEvent, frozen=True):
    """A connection ended that had sent nothing: a load balancer's probe."""

    event = "probed"
    level = "debug"
    format = "probed by {address}: it has sent nothing"


class Slowed(ConnectionEvent, frozen=True):
    """A client sends faster than it may, and is read from more slowly."""

    event = "slowed"
    level = "warn"
    format = "slowed {address}: it sends more than [limits] allows"
    page = "{address} sends more than [limits] allows"


class WrongAdminToken(ConnectionEvent, frozen=True):
    """A caller of the private listener has brought a wrong token."""

    event = "admin_unauthorized"
    level = "warn"
    format = "a wrong token for the private listener came from {address}{_untold}"
    burst = 0


class Operator(Event, frozen=True):
    """A caller of the private listener has the relay do something.

    Attributes:
        action: ``drain``, ``reload`` or ``disconnect``.
        address: Where the caller is.
        uuid: The client that the action is about, if any.
    """

    event = "operator"
    format = "{action}{_uuid} is asked for from {address}"
    fields = ("action", "uuid", "address")
    optional: ClassVar[Mapping[str, str]] = {"uuid": " of {}"}
    audited = ("action", "address", "uuid")
    page = "{action}{_uuid} is asked for from {address}"

    action: str
    address: str
    uuid: str | None = None
