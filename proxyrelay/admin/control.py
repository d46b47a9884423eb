"""The private listener's side of a relay: commands, and their outcomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from proxyrelay.config import Config, Secret
from proxyrelay.net.certificates import KeyPair
from proxyrelay.observe.privacy import Pseudonyms
from proxyrelay.survive.survival import Survival
from proxyrelay.websocket.factory import RelayFactory

if TYPE_CHECKING:
    from proxyrelay.cluster.member import Member


class RelayControl(Protocol):
    """A relay, as the private listener sees it.

    It calls ``drained``, which may be set, when it begins to drain. ``member`` is its
    part in a cluster; None if it is alone. ``survival`` keeps its connections for the
    next process; None if nothing does.
    """

    factory: RelayFactory
    config: Config
    pseudonyms: Pseudonyms
    drained: Callable[[], None]
    member: Member | None
    survival: Survival | None

    @property
    def urls(self) -> list[str]:
        """Places that it listens on."""

    @property
    def lost_lines(self) -> dict[str, int]:
        """Lines of the log and of the audit log that could not be written."""

    @property
    def pair(self) -> KeyPair | None:
        """Certificate and key; None without TLS."""

    def drain(self) -> None:
        """Leave new clients to another relay, and end after the last client."""


class ReloadOutcome(Enum):
    """Outcome of a reload."""

    CHANGED = "changed"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


@dataclass(frozen=True)
class Reloaded:
    """Result of a reload: its changes or problems, and the token from now on."""

    outcome: ReloadOutcome
    detail: str
    token: Secret | None = None


class Reloadable(Protocol):
    """Reads the settings anew."""

    def reload(self) -> Reloaded:
        """Apply the settings, or log why not."""


class ReportedReload(Reloadable, Protocol):
    """Calls ``reloaded`` with each result, and ``renewed`` for each new certificate."""

    reloaded: Callable[[Reloaded], None]
    renewed: Callable[[str], None]
