"""What callers of the private listener have a relay do, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from proxyrelay.config import Secret


class ReloadOutcome(Enum):
    """What comes of reading the settings anew, in one word."""

    CHANGED = "changed"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


@dataclass(frozen=True)
class Reloaded:
    """What has come of reading the settings anew.

    Attributes:
        outcome: That in one word.
        detail: What has changed, or what is wrong, in a sentence for each.
        token: What callers of the private listener have to say from now on.
    """

    outcome: ReloadOutcome
    detail: str
    token: Secret | None = None


class Reloadable(Protocol):
    """Reads the settings anew."""

    def reload(self) -> Reloaded:
        """Apply them, or log why not."""


class ReportedReload(Reloadable, Protocol):
    """The same, which tells of it.

    Attributes:
        reloaded: Told of what has come of each reload. It may be set.
        renewed: Told of each certificate that is served from now on. It may be set.
    """

    reloaded: Callable[[Reloaded], None]
    renewed: Callable[[str], None]
