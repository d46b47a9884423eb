"""A connection, as the parts of its protocol see it. Pure: only types.

`flow` and `lifecycle` act on a connection through these types. So no part imports the
protocol.
"""

from __future__ import annotations

from typing import Any, Protocol

from proxyrelay.errors import Refusal
from proxyrelay.websocket.admission import Origin
from proxyrelay.websocket.state import Phase


class Flow(Protocol):
    """The flow control of a connection, as the phases see it.

    Attributes:
        heard: Whether bytes came since the phase of the connection began.
        paused: Whether the client leaves bytes unread.
    """

    heard: bool
    paused: bool

    @property
    def is_in_debt(self) -> bool:
        """Whether the client has sent more than its rate allows."""


class Connection(Protocol):
    """A `proxyrelay.websocket.protocol.RelayProtocol`, as its parts see it.

    Attributes:
        phase: Set by `proxyrelay.websocket.lifecycle.Lifecycle.enter` alone.
    """

    STATE_CONNECTING: int
    STATE_OPEN: int
    STATE_CLOSED: int
    state: int
    phase: Phase
    origin: Origin[Any]
    transport: Any
    awaits_claim: bool

    @property
    def flow(self) -> Flow:
        """Its `proxyrelay.websocket.flow.FlowControl`."""

    @property
    def request_is_whole(self) -> bool:
        """Whether the request was read and waits for its turn."""

    def dataReceived(self, data: bytes) -> None:
        """Process a read."""

    def slowed_down(self) -> None:
        """Report a pause in reading from a client over its rate."""

    def violate(self, refusal: Refusal) -> None:
        """Close after a violation."""

    def refuse(self, refusal: Refusal) -> None:
        """Close for what the client did or is."""

    def drop(self, reason: str) -> None:
        """End the connection without a close handshake."""

    def check_alive(self) -> None:
        """Send a ping; the next phase is AWAITING_PONG."""

    def cancel_authentication(self) -> None:
        """Complete the upgrade now, with a refusal."""
