"""What observers can be told, and how they read it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import msgspec

from proxyrelay.switchboard.messages import PeerConnection
from proxyrelay.switchboard.offers import Offer
from proxyrelay.switchboard.peer import Peer, Sender

Level = Literal["debug", "info", "warn"]
"""Levels of the log, by the names of the methods of a logger."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """Something that happened.

    The fields of a subclass are what is known of the event. A field ``user`` is never
    shown as it is: each observer replaces it by its pseudonym. A field ``address`` is
    already what may be shown.

    Attributes:
        event: Name in the logs and on the page.
        level: Level in the log.
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
        is_routine: Whether strangers can cause it as often as they like.
        label: Field that tells apart what is counted; empty to count all as one.
    """

    event: ClassVar[str] = ""
    level: ClassVar[Level] = "info"
    format: ClassVar[str] = ""
    fields: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[Mapping[str, str]] = {}
    burst: ClassVar[int | None] = None
    limited_by: ClassVar[str] = ""
    audited: ClassVar[tuple[str, ...]] = ()
    page: ClassVar[str] = ""
    is_routine: ClassVar[bool] = False
    label: ClassVar[str] = ""

    def optional_texts(self) -> dict[str, str]:
        """The texts of `optional`, each by its name in the format."""
        return {
            f"_{name}": text.format(value) if (value := getattr(self, name)) else ""
            for name, text in self.optional.items()
        }

    @property
    def is_repeat(self) -> bool:
        """Whether the log and the page have told it of this client already."""
        return False

    @property
    def is_audited(self) -> bool:
        """Whether the audit log has a line for it."""
        return bool(self.audited)

    @property
    def audit_event(self) -> str:
        """Name in the audit log."""
        return self.event


Observer = Callable[[Event], None]
"""Hears of each event. It writes nothing back into the rules."""

ForwardObserver = Callable[[Sender, Peer, PeerConnection, Offer | None], None]
"""Hears of each message that reached its receiver: sender, receiver, message, offer.

The offer is the message itself, or the one that an answer answers; None without the
shield. This is a plain call, since a message must not cost a struct."""
