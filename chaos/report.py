"""What was found, in words, and whether it is as it must be. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

GROWTH = 0.2
"""Share by which the relay's memory may be larger than after the warm-up."""

BUSY = 0.6
"""Share of a core beyond which it is the machine that is put to the test."""

PROMPT = 5.0
"""Seconds in which each exchange is complete, while both clients are there."""

STOPS = 15.0
"""Seconds in which the relay must have stopped."""

EXPECTED = (
    r" ERROR +\S+relay\.toml:\d+: prot: unknown setting",
    r" ERROR +nothing is reloaded; problems: 1$",
    r" ERROR +the log to \S+ cannot be written: ",
    r" ERROR +Globus Auth .*: new clients are asked to come back$",
)
"""Lines of the log at ERROR that belong to what is done to the relay."""


@dataclass(frozen=True)
class Vitals:
    """What the relay has of the machine.

    Attributes:
        descriptors: Open files.
        memory: Bytes.
    """

    descriptors: int
    memory: int


@dataclass(frozen=True)
class Check:
    """Something that must be so.

    Attributes:
        words: What.
        passed: Whether it is.
        detail: How it is.
    """

    words: str
    passed: bool
    detail: str = ""

    def __str__(self) -> str:
        verdict = "ok    " if self.passed else "FAILED"
        return f"{verdict}  {self.words}" + (f": {self.detail}" if self.detail else "")


def suspicious(log: Iterable[str]) -> list[str]:
    """Lines of the relay's log that must not be there."""
    return [
        line
        for line in log
        if "Traceback" in line
        or "Unhandled" in line
        or " CRITICAL " in line
        or (" ERROR " in line and not any(re.search(e, line) for e in EXPECTED))
    ]


def kept(before: Vitals, after: Vitals) -> Iterator[Check]:
    """Whether the relay has given back what it had."""
    yield Check(
        "no descriptor is left open",
        after.descriptors == before.descriptors,
        f"{before.descriptors} before, {after.descriptors} after",
    )
    grown = after.memory / before.memory - 1
    yield Check(
        f"memory is back, within {GROWTH:.0%}",
        grown <= GROWTH,
        f"{megabytes(before.memory)} before, {megabytes(after.memory)} after "
        f"({grown:+.1%})",
    )


def megabytes(size: int) -> str:
    """Bytes, for people."""
    return f"{size / 1e6:.1f} MB"


def counted(counts: Counter[str]) -> str:
    """How often what happened, the most frequent first."""
    return ", ".join(f"{what} {many}" for what, many in counts.most_common()) or "none"


def table(kinds: Mapping[str, str], ends: Mapping[str, Counter[str]]) -> Iterator[str]:
    """A line for each kind of trouble.

    Args:
        kinds: Names, each with its group.
        ends: How often each ended, and how.
    """
    first = max(map(len, ["group", *kinds.values()]))
    second = max(map(len, ["trouble", *kinds]))
    yield f"{'group':{first}}  {'trouble':{second}}   times  ended"
    for name, group in kinds.items():
        counts = ends.get(name, Counter())
        yield (
            f"{group:{first}}  {name:{second}}  {counts.total():6}  {counted(counts)}"
        )


def indented(lines: Iterable[str]) -> str:
    """Lines below a headline."""
    return "\n".join(f"  {line}" for line in lines)
