"""The latest events, for the live page."""

from __future__ import annotations

from collections import deque
from heapq import merge
from operator import attrgetter

from msgspec import Struct
from msgspec.structs import asdict

from proxyrelay.net.clock import Clock
from proxyrelay.switchboard.events import Event

KEPT_EVENTS = 100
"""Number of kept events that strangers can cause, and of kept others."""


class PageEvent(Struct, frozen=True):
    """One entry of the page; a client's own words are escaped in the text.

    Entries have numbers from 1. The time is in seconds since 1970.
    """

    number: int
    time: float
    kind: str
    text: str


class RecentEvents:
    """Keeps the latest events that have a text for the page.

    Events that strangers cause do not push out the others. ``last`` is the number of
    the latest entry, or 0.
    """

    def __init__(self, wall: Clock) -> None:
        self._wall = wall
        self._routine: deque[PageEvent] = deque(maxlen=KEPT_EVENTS)
        self._grave: deque[PageEvent] = deque(maxlen=KEPT_EVENTS)
        self.last = 0

    def __call__(self, event: Event) -> None:
        """Keep an event, if the page shows it."""
        if event.page and not event.is_repeat:
            fields = {**asdict(event), **event.optional_texts()}
            text = event.page.format_map(fields)
            self.note(event.event, text, event.is_routine)

    def note(self, kind: str, text: str, is_routine: bool = False) -> None:
        """Keep an entry with a text of printable characters."""
        self.last += 1
        kept = self._routine if is_routine else self._grave
        kept.append(PageEvent(self.last, self._wall(), kind, text))

    def since(self, number: int) -> list[PageEvent]:
        """The kept entries after one, the oldest first."""
        both = merge(self._routine, self._grave, key=attrgetter("number"))
        return [event for event in both if event.number > number]
