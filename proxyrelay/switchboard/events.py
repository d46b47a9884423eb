"""The table of events: one class a row. Pure.

The log, the audit log, the counters and the live page read names, texts and fields
from it. A new event needs a class here, the call that reports it, and its words in
``docs/_ext/events.py``.

A format is a constant. What a client chose stands in it with ``!a``, so that it can
neither forge a line nor control a terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import ClassVar

from proxyrelay.switchboard.event import Event, Level
from proxyrelay.switchboard.offers import DropReason
from proxyrelay.switchboard.peer import LeaveReason

FIGHT_TAKEOVERS = 3
"""Takeovers of a UUID in a row, from which on it counts as a fight."""


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


class Registered(Event, frozen=True):
    """A client holds a UUID from now on, or has registered it once more."""

    event = "registered"
    format = "registered {uuid} name={name!a} user={user!a} from {address}"
    fields = ("uuid", "name", "user", "address")
    audited = ("uuid", "name", "user", "address")

    uuid: str
    name: str
    user: str
    address: str
    takeovers: int = 0
    is_new: bool = True
    """Whether the audit log lacks this UUID or name."""

    @property
    def is_repeat(self) -> bool:
        """Whether it is a round of a fight."""
        return self.takeovers > FIGHT_TAKEOVERS

    @property
    def is_audited(self) -> bool:
        """Whether the client says something new."""
        return self.is_new


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
    takeovers: int = 1

    @property
    def is_repeat(self) -> bool:
        """Whether it is a round of a fight."""
        return self.takeovers > FIGHT_TAKEOVERS


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


class Left(Event, frozen=True):
    """A client no longer holds its UUID."""

    event = "left"
    format = (
        "left {uuid} name={name!a} from {address} after {seconds:.1f} s "
        "(messages: {sent} sent, {received} received): {reason}"
    )
    fields = (
        *("uuid", "name", "user", "address"),
        *("seconds", "sent", "received", "reason"),
    )
    audited = (
        *("uuid", "name", "user", "address"),
        *("seconds", "sent", "received", "shielded", "reason"),
    )
    label = "cause"

    uuid: str
    name: str
    user: str
    address: str
    seconds: float
    sent: int
    received: int
    shielded: int
    reason: str
    cause: LeaveReason
    takeovers: int = 0

    @property
    def is_repeat(self) -> bool:
        """Whether it is a round of a fight."""
        return self.cause is LeaveReason.REPLACED and self.takeovers >= FIGHT_TAKEOVERS


class Refused(Event, frozen=True):
    """A client is closed for what it did or is."""

    event = "refused"
    level: ClassVar[Level] = "warn"
    format = "refused {address} with {code}: {reason}{_detail}"
    fields = ("address", "code", "reason", "detail")
    optional: ClassVar[Mapping[str, str]] = {"detail": " ({})"}
    audited = ("uuid", "user", "address", "code", "reason", "detail")
    page = "{address} with {code}: {reason}"
    is_routine = True
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


class Deafness(Event, frozen=True):
    """A client came back, and answers no offers since."""

    event = "deaf"
    level = "warn"
    format = (
        "deaf {uuid} name={name!a} user={user!a} from {address}: it came back "
        "{seconds:.0f} s ago and answers no offers since; restart this endpoint"
    )
    fields = ("uuid", "name", "user", "address", "seconds")
    page = "{uuid} at {address} answers no offers since it came back: restart it"

    uuid: str
    name: str
    user: str
    address: str
    seconds: float


class Skipped(Event, frozen=True):
    """A message of an old client was ignored, as old clients expect."""

    event = "skipped"
    level = "debug"
    format = "skipped a message of {address}: {detail}"
    fields = ("address", "detail")

    address: str
    detail: str


# -- messages


class MessageEvent(Event, frozen=True, kw_only=True):
    """What became of an offer or an answer.

    Attributes:
        outcome: Word for it in the audit log.
        kind: ``offer`` or ``answer``.
        source: UUID of the sender, whatever the message claims.
        target: UUID that the message is for.
        user: User of the sender.
        address: Where the sender is.
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

    @property
    def audit_event(self) -> str:
        """The type of the message."""
        return self.kind


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
    is_routine = True
    label = "why"
    outcome = "dropped"

    why: DropReason
    count: int
    """Messages of the client that were dropped, with this one."""

    @property
    def is_repeat(self) -> bool:
        """Whether another one of the client had a line."""
        return self.count > 1

    @property
    def is_audited(self) -> bool:
        """Whether it is the first of the client, or ends an outstanding offer."""
        return self.count == 1 or self.seconds is not None


# -- connections below the rules


class Rejected(Event, frozen=True):
    """A request was answered with an HTTP error."""

    event = "rejected"
    format = "rejected {address} with HTTP {status}: {detail!a}"
    fields = ("address", "status", "detail")
    audited = ("address", "status", "detail")
    page = "{address} with HTTP {status}: {detail!a}"
    is_routine = True
    label = "status"

    address: str
    status: int
    detail: str


class Failed(Event, frozen=True):
    """A client broke the WebSocket protocol and is closed with a code."""

    event = "failed"
    level = "warn"
    format = "failed {address} with {code}: {detail!a}"
    fields = ("address", "code", "detail")
    audited = ("address", "code", "detail")
    page = "{address} with {code}: {detail!a}"
    is_routine = True
    label = "code"

    address: str
    code: int
    detail: str


class Dropped(Event, frozen=True):
    """A connection that holds no UUID ended without a close handshake."""

    event = "dropped"
    format = "dropped {address}: {reason!a}"
    fields = ("address", "reason")

    address: str
    reason: str


class Probed(Event, frozen=True):
    """A connection ended that had sent nothing: a load balancer's probe."""

    event = "probed"
    level = "debug"
    format = "probed by {address}: it has sent nothing"
    fields = ("address",)

    address: str


class Slowed(Event, frozen=True):
    """A client sends faster than it may, and is read from more slowly."""

    event = "slowed"
    level = "warn"
    format = "slowed {address}: it sends more than [limits] allows"
    fields = ("address",)
    page = "{address} sends more than [limits] allows"
    is_routine = True

    address: str


# -- the private listener


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


class WrongAdminToken(Event, frozen=True):
    """A caller of the private listener has brought a wrong token."""

    event = "admin_unauthorized"
    level = "warn"
    format = "a wrong token for the private listener came from {address}{_untold}"
    fields = ("address",)
    burst = 0

    address: str
