"""States of a relay, and phases of a connection. Pure.

`RelayFactory.state` holds the state of a relay. `proxyrelay.websocket.lifecycle` has
the table of phases.
"""

from __future__ import annotations

from enum import Enum, IntEnum, auto


class RelayState(IntEnum):
    """State of a relay. It only ever grows."""

    STARTING = 0
    SERVING = 1
    DRAINING = 2
    """Another relay takes over: new clients are asked to come back (1013)."""
    STOPPING = 3
    """All clients are closed (1001)."""


class Phase(Enum):
    """Phase of a connection. `lifecycle.PHASES` has a row for each but the last."""

    TLS_HANDSHAKE = auto()
    OPENING = auto()
    AUTHENTICATING = auto()
    REGISTERING = auto()
    READY = auto()
    AWAITING_PONG = auto()
    CLOSING = auto()
    DROPPING = auto()
    GONE = auto()
