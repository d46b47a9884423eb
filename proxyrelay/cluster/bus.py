"""The engine, as the rules of a node see it. Pure."""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from typing import Any, Protocol

from proxyrelay.switchboard.user import ANONYMOUS

FORMAT = 1
"""Version of keys, scripts and messages. It is part of all keys."""

USER_BYTES = 16
"""Length of the hash by which the engine knows a user."""


class NotSent(Exception):
    """The engine has not carried out the call."""


class NoReply(Exception):
    """Whether the engine has carried out the call is unknown."""


Done = Callable[[Any], None]
"""Called once with the reply, or with a `NotSent` or a `NoReply`; never at once."""


class Bus(Protocol):
    """Calls scripts of the engine, and sends messages to other nodes."""

    @property
    def ready(self) -> bool:
        """Whether the engine can be reached."""

    def call(self, done: Done, script: str, *arguments: bytes | str | int) -> None:
        """Run a script."""

    def publish(self, done: Done, node: str, message: bytes) -> None:
        """Send a message to a node; the reply is the number of receivers."""

    def engine_time(self, boottime: float | None = None) -> int:
        """A time of this machine, or now, in microseconds of the engine's clock."""


def ignore(_: Any) -> None:
    """Take no notice of a reply."""


@lru_cache(maxsize=4096)
def hashed_user(issuer: str, sub: str) -> str:
    """Name of a user for the engine.

    Args:
        issuer: The identity provider, since each one has its own IDs.
        sub: ID of the user.
    """
    if sub == ANONYMOUS.sub:
        return "-"
    digest = sha256(f"{issuer}\0{sub}".encode()).digest()
    return base64.urlsafe_b64encode(digest[:USER_BYTES]).decode().rstrip("=")
