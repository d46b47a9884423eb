"""What is done to the relay from outside, and when. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import accumulate, cycle
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

CLOCK = (-1.5, 60.0, -3600.0, 3600.0, -60.0, 1.5)
"""Seconds by which the wall clock is set forth or back, one after the other. In the end
it is right again."""

OUTPUT = (0.3, 0.43)
"""Shares of the time between which nobody reads the relay's standard output."""

LOGS = ((0.55, "full"), (0.65, "room"), (0.7, "removed"), (0.8, "made"))
"""What happens to the folder of log files, each with its share of the time: the disk is
full, and has room again; the folder is removed, and made again."""

RELOADS = ("good", "bad")
"""What the settings are that the relay is told to read: in turn."""


class Step(NamedTuple):
    """Something that is done.

    Attributes:
        at: When, in seconds from the beginning.
        words: What it is, for people.
        command: For the stand-in for Globus; None if it is not about that.
        reload: Which settings the relay is to read, one of `RELOADS`, or "".
        clock: By how much its wall clock differs from then on, in seconds.
        reads: Whether its standard output is read from then on.
        logs: What happens to its folder of log files, one of `LOGS`, or "".
    """

    at: float
    words: str
    command: dict[str, Any] | None = None
    reload: str = ""
    clock: float | None = None
    reads: bool | None = None
    logs: str = ""


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


def _clock(seconds: float) -> Iterator[Step]:
    for number, (by, total) in enumerate(zip(CLOCK, accumulate(CLOCK), strict=True)):
        share = (number + 0.5) / len(CLOCK)
        yield Step(share * seconds, f"clock set by {by:+g} s", clock=total)


def _output(seconds: float) -> Iterator[Step]:
    for share, reads in zip(OUTPUT, (False, True), strict=True):
        words = "is read again" if reads else "is not read"
        yield Step(share * seconds, f"standard output {words}", reads=reads)


def _logs(seconds: float) -> Iterator[Step]:
    words = {
        "full": "disk of the log files full",
        "room": "room for the log files again",
        "removed": "folder of the log files removed",
        "made": "folder of the log files made again",
    }
    for share, what in LOGS:
        yield Step(share * seconds, words[what], logs=what)


KINDS = {
    "service": _faults,
    "reload": _reloads,
    "clock": _clock,
    "output": _output,
    "logs": _logs,
}
"""What is done from outside, by name."""


def plan(seconds: float, kinds: Collection[str] = tuple(KINDS)) -> list[Step]:
    """All that is done, in order.

    Args:
        seconds: How long it may take.
        kinds: Names out of `KINDS`; others are none of this module.
    """
    steps = [step for kind in KINDS if kind in kinds for step in KINDS[kind](seconds)]
    return sorted(steps, key=lambda step: step.at)
