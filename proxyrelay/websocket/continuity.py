"""What a connection is beyond its socket, for another process. Pure.

Both structs are meant for MessagePack. A newer relay reads what an older one wrote: a
new field has a default, and a name never changes its meaning. Unknown fields are
ignored. Times are those of the machine's clocks, in seconds.
"""

from __future__ import annotations

import msgspec

from proxyrelay.switchboard.user import ANONYMOUS


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """A registered connection, as it is at its registration.

    Attributes:
        uuid: The UUID, canonical.
        name: The client's name for itself.
        legacy: Whether the client speaks the dialect of ProxyStore 0.4 and 0.5.
        sub: The user.
        address: The client's address, as it may be shown.
        source: The address or network, as limits count it.
        limited: Whether the limits of one address apply.
        arrival: Number of the connection, in the order of acceptance.
        registered_at: Time of the acceptance, on the relay's monotonic clock.
        accepted_at: Time of the connection, on the boot clock; 0 without a cluster.
        takeovers: Takeovers of the UUID in a row.
        is_reconnect: Whether another connection held the UUID shortly before.
    """

    uuid: str
    name: str = ""
    legacy: bool = False
    sub: str = ANONYMOUS.sub
    address: str = ""
    source: str = ""
    limited: bool = True
    arrival: int = 0
    registered_at: float = 0.0
    accepted_at: float = 0.0
    takeovers: int = 0
    is_reconnect: bool = False


class Suspended(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a connection carries at an orderly end of its process.

    The counters are those of `proxyrelay.switchboard.peer.Registration`.

    Attributes:
        partial: Bytes that bring a new parser to the state of the old one. They hold no
            whole message and no whole control frame.
        deferred: Frames that were read behind these, and not acted upon.
        unsent: Bytes that the socket has not taken yet.
        unread: Bytes written since the client leaves bytes unread.
        message_debt: Time from which the client's frames are within its rate.
        registration_debt: The same for its registrations.
        slowed: Whether the client was ever over its rate.
    """

    partial: bytes = b""
    deferred: bytes = b""
    unsent: bytes = b""
    unread: int = 0
    message_debt: float = 0.0
    registration_debt: float = 0.0
    slowed: bool = False
    sent: int = 0
    received: int = 0
    dropped: int = 0
    unanswered: int = 0
    unheard: frozenset[str] = frozenset()
    deaf: bool = False
    last_offer: float | None = None
    candidates: int = 0


NOTHING = Suspended()
"""All that is known after a crash."""
