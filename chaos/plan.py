"""What is done to the relay from outside, and when. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any, NamedTuple

FAULTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("hangs", {"mode": "hang"}),
    ("answers 503", {"mode": "status", "status": 503}),
    ("refuses connections", {"listen": False}),
    ("answers slowly", {"mode": "slow-body"}),
    ("answers in HTML", {"mode": "wrong-type"}),
    ("breaks off in the middle", {"mode": "broken-json"}),
    ("answers without end", {"mode": "oversized"}),
)
"""How the introspection service fails: in words, and as commands to the stand-in."""

WELL: dict[str, Any] = {"mode": "well", "listen": True}
"""The command after which it is well."""

WELL_AGAIN = "is well"
"""What that is called."""

PERIOD = 12.0
"""Seconds from the beginning of one fault to that of the next: the relay may leave the
service alone for a while before it finds out that it is well."""

LASTS = 3.0
"""Seconds that a fault lasts."""

FIRST = 1.0
"""Seconds until the first fault. The last one ends as early before the end."""

RELOADS = ("good", "bad")
"""What the settings are that the relay is told to read: in turn."""


class Step(NamedTuple):
    """Something that is done.

    Attributes:
        at: When, in seconds from the beginning.
        words: What it is, for people.
        command: For the stand-in for Globus; None if it is not about that.
        reload: Which settings the relay is to read, one of `RELOADS`, or "".
    """

    at: float
    words: str
    command: dict[str, Any] | None = None
    reload: str = ""


def plan(seconds: float) -> list[Step]:
    """All that is done, in order.

    Args:
        seconds: How long it may take.
    """
    return sorted([*_faults(seconds), *_reloads(seconds)], key=lambda step: step.at)


def _faults(seconds: float) -> Iterator[Step]:
    at = FIRST
    for words, command in cycle(FAULTS):
        if at + LASTS > seconds - FIRST:
            return
        yield Step(at, words, command)
        yield Step(at + LASTS, WELL_AGAIN, WELL)
        at += PERIOD


def _reloads(seconds: float) -> Iterator[Step]:
    """Three in all; the bad one while the service fails, where there is time."""
    for share, kind in zip((0.25, 0.5, 0.75), (*RELOADS, RELOADS[0]), strict=True):
        yield Step(share * seconds, f"reload of {kind} settings", reload=kind)
