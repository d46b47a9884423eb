"""The private listener's side of a relay: commands, and their outcomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from proxyrelay.auth import Authenticator
from proxyrelay.config import Config, Secret
from proxyrelay.net.certificates import KeyPair
from proxyrelay.observe.pseudonyms import Clear
from proxyrelay.websocket.factory import RelayFactory


class RelayControl(Protocol):
    """A relay, as the private listener sees it.

    Attributes:
        factory: The connections, and the rules.
        config: The settings.
        pseudonyms: Replaces users by what is shown.
        drained: Called when the relay begins to drain. It may be set.
    """

    factory: RelayFactory
    config: Config
    pseudonyms: Clear
    drained: Callable[[], None]

    @property
    def urls(self) -> list[str]:
        """Places that it listens on."""

    @property
    def lost_lines(self) -> dict[str, int]:
        """Lines of the log and of the audit log that could not be written."""

    @property
    def pair(self) -> KeyPair | None:
        """Certificate and key; None without TLS."""

    @property
    def authenticator(self) -> Authenticator:
        """Identifies the user of a new connection."""

    def drain(self) -> None:
        """Leave new clients to another relay, and end after the last client."""


class ReloadOutcome(Enum):
    """Outcome of a reload."""

    CHANGED = "changed"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


@dataclass(frozen=True)
class Reloaded:
    """Result of a reload.

    Attributes:
        outcome: The outcome.
        detail: The changes, or the problems, in a sentence each.
        token: Token of the private listener from now on.
    """

    outcome: ReloadOutcome
    detail: str
    token: Secret | None = None


class Reloadable(Protocol):
    """Reads the settings anew."""

    def reload(self) -> Reloaded:
        """Apply the settings, or log why not."""


class ReportedReload(Reloadable, Protocol):
    """The same, with a report.

    Attributes:
        reloaded: Called with the result of each reload. It may be set.
        renewed: Called with a text for each renewed certificate. It may be set.
    """

    reloaded: Callable[[Reloaded], None]
    renewed: Callable[[str], None]
