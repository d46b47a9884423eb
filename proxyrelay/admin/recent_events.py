"""The latest events, for the live page."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from heapq import merge
from operator import attrgetter

from msgspec import Struct
from msgspec.structs import asdict

from proxyrelay.net.clock import Clock
from proxyrelay.switchboard.events import Event

KEPT_EVENTS = 40
"""Number of kept events of each kind."""

CLIENT_FIELDS = ("uuid", "source", "target")
"""Fields of events that hold the UUID of a client."""


class PageEvent(Struct, frozen=True):
    """One entry of the page; a client's own words are escaped in the text.

    Entries have numbers from 1. The time is in seconds since 1970. ``names`` has what
    the clients in the text call themselves, by UUID, as far as it was known then.
    """

    number: int
    time: float
    kind: str
    text: str
    names: dict[str, str] = {}


class _Kept(Struct):
    """An entry whose text is made when it is first asked for: most never are."""

    number: int
    time: float
    kind: str
    what: Event | str
    names: dict[str, str]


class RecentEvents:
    """Keeps the latest events that have a text for the page.

    Events of one kind do not push out others. ``last`` is the number of the latest
    entry, or 0. ``name_of``, which may be set, gives the name of a registered client;
    empty if it has none.
    """

    def __init__(self, wall: Clock) -> None:
        self._wall = wall
        self._kept: dict[str, deque[_Kept]] = defaultdict(
            lambda: deque(maxlen=KEPT_EVENTS)
        )
        self.last = 0
        self.name_of: Callable[[str], str] = lambda _: ""

    def __call__(self, event: Event) -> None:
        """Keep an event, if the page shows it."""
        if event.page and not event.is_repeat:
            self._keep(event.event, event, self._names(event))

    def note(self, kind: str, text: str) -> None:
        """Keep an entry with a text of printable characters."""
        self._keep(kind, text, {})

    def since(self, number: int) -> list[PageEvent]:
        """The kept entries after one, the oldest first."""
        kinds = merge(*self._kept.values(), key=attrgetter("number"))
        return [_shown(kept) for kept in kinds if kept.number > number]

    def _keep(self, kind: str, what: Event | str, names: dict[str, str]) -> None:
        self.last += 1
        self._kept[kind].append(_Kept(self.last, self._wall(), kind, what, names))

    def _names(self, event: Event) -> dict[str, str]:
        uuids = (getattr(event, field, None) for field in CLIENT_FIELDS)
        found = {uuid: self.name_of(uuid) for uuid in uuids if uuid}
        own = getattr(event, "name", "")
        if own:
            found[event.uuid] = own  # type: ignore[attr-defined]
        return {uuid: name for uuid, name in found.items() if name}


def _shown(kept: _Kept) -> PageEvent:
    event = kept.what
    if isinstance(event, Event):
        fields = {**asdict(event), **event.optional_texts()}
        kept.what = event.page.format_map(fields)
    return PageEvent(kept.number, kept.time, kept.kind, str(kept.what), kept.names)
