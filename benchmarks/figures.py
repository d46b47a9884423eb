"""Rows of the comparison, their goals, the table and the JSON. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Row:
    """One thing that is measured of each relay; less is better.

    Attributes:
        key: Its name in the JSON.
        title: Its name in the table.
        unit: What the table shows it in.
        scale: So many of these units are one second, byte, core or piece.
        ratio: The goal: at most so many times what the reference needs.
        limit: The goal: at most so much, in units.
    """

    key: str
    title: str
    unit: str
    scale: float
    ratio: float | None = None
    limit: float | None = None


ROWS = (
    Row("forward", "forward, ws, 32 in flight", "us CPU", 1e6, 0.125),
    Row("forward_single", "forward, ws, one in flight", "us CPU", 1e6, 0.25),
    Row("forward_alone", "forward, ws, one in all", "us CPU", 1e6),
    Row("forward_tls", "forward, wss, 32 in flight", "us CPU", 1e6, 0.16),
    Row("forward_loop", "forward, ws, closed loop", "us CPU", 1e6, 0.14),
    Row("forward_loop_tls", "forward, wss, closed loop", "us CPU", 1e6, 0.22),
    Row("forward_observed", "forward, [admin] on : off", "us CPU", 1e6, 1.05),
    Row("connect", "connect and register, ws", "us CPU", 1e6, 0.45),
    Row("connect_tls", "connect and register, wss", "us CPU", 1e6, 0.40),
    Row("connect_ceiling", "connect, wss : switchboard", "us CPU", 1e6, 1.05),
    Row("memory", "idle client, ws", "kB", 1e-3, 0.10),
    Row("memory_tls", "idle client, wss", "kB", 1e-3, 0.09),
    Row("latency_median", "forward, median", "ms", 1e3, 0.3),
    Row("latency_p99", "forward, 99 %", "ms", 1e3, 0.3),
    Row("connect_tls_p99", "wss connect, 99 %", "ms", 1e3, 1.0),
    Row("idle", "idle clients that ping", "% of a core", 100, 0.3, 1.0),
    Row("storm_refused", "storm, refused", "clients", 1, limit=0),
    Row("storm_stall", "storm, longest stall", "ms", 1e3, limit=250),
    Row("storm_seconds", "storm, all are back", "s", 1),
    Row("storm_tls_refused", "storm, wss, refused", "clients", 1, limit=0),
    Row("storm_tls_stall", "storm, wss, longest stall", "ms", 1e3, limit=250),
    Row("storm_tls_seconds", "storm, wss, all are back", "s", 1),
    Row("cluster", "forward, [cluster] on : off", "us CPU", 1e6, 1.03),
    Row("cluster_two", "two relays : one, 32 in flight", "us CPU", 1e6, 2.0),
    Row("cluster_two_single", "two relays : one, one in flight", "us CPU", 1e6, 3.0),
    Row("cluster_engine", "engine : relay, 32 in flight", "us CPU", 1e6, 0.5),
    Row("cluster_connect", "connect, ws, [cluster] on : off", "us CPU", 1e6, 1.15),
    Row("cluster_connect_tls", "connect, wss, on : off", "us CPU", 1e6, 1.05),
    Row("cluster_idle", "pings, [cluster] on : off", "% of a core", 100, 1.02),
    Row("survive", "forward, [survive] on : off", "us CPU", 1e6, 1.02),
    Row("survive_connect", "connect, ws, [survive] on : off", "us CPU", 1e6, 1.15),
    Row("survive_idle", "pings, [survive] on : off", "% of a core", 100, 1.05),
    Row("cluster_assert", "assert 100,000 clients", "s", 1, limit=10),
    Row("cluster_stall", "longest call meanwhile", "ms", 1e3, limit=100),
)


@dataclass
class Result:
    """What was measured for a row, round by round.

    Attributes:
        row: The row.
        ours: Of this relay, in seconds, bytes, cores or pieces.
        theirs: Of the reference, in the same rounds; empty if it was left out.
        ceiling: Of the switchboard that does nothing else; empty if it was left out.
    """

    row: Row
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    ceiling: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Ours to theirs, of each round in which both were measured."""
        pairs = zip(self.ours, self.theirs, strict=False)
        return [ours / theirs for ours, theirs in pairs if theirs]

    @property
    def reached(self) -> bool | None:
        """Whether the goals are reached; None if that cannot be said."""
        row, verdicts = self.row, []
        if row.ratio is not None and self.ratios:
            verdicts.append(median(self.ratios) <= row.ratio)
        if row.limit is not None and self.ours:
            verdicts.append(median(self.ours) * row.scale <= row.limit)
        return all(verdicts) if verdicts else None


def table(results: Sequence[Result]) -> str:
    """All results, a line for each row: medians, and the range of the ratio."""
    ceiling = any(result.ceiling for result in results)
    head = ["", "unit", "ours", "theirs", "ratio", "from", "to", "goal", ""]
    lines = [head + (["ceiling"] if ceiling else [])]
    for result in results:
        row, ratios = result.row, result.ratios
        cells = [row.title, row.unit]
        cells += [_median(result.ours, row.scale), _median(result.theirs, row.scale)]
        for value in (median(ratios), min(ratios), max(ratios)) if ratios else ():
            cells.append(f"{value:.3f}")
        cells += [""] * (7 - len(cells))
        cells += [
            goal(row),
            {True: "reached", False: "MISSED", None: ""}[result.reached],
        ]
        lines.append(cells + ([_median(result.ceiling, row.scale)] if ceiling else []))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number > 1 else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def goal(row: Row) -> str:
    """The goals of a row, in words: ``0.3, 1 % of a core``."""
    goals = [] if row.ratio is None else [f"{row.ratio:g}"]
    goals += [] if row.limit is None else [f"{row.limit:g} {row.unit}"]
    return ", ".join(goals)


def _median(values: Sequence[float], scale: float) -> str:
    return shown(median(values) * scale) if values else ""


def shown(value: float) -> str:
    """A number with three digits, or all that it has before the point."""
    if value >= 100:  # noqa: PLR2004
        return f"{value:.0f}"
    return f"{value:.3g}"


def document(results: Sequence[Result], about: dict[str, Any]) -> dict[str, Any]:
    """All results, as they are written to JSON.

    Args:
        results: What was measured.
        about: How and where.
    """
    return {**about, "rows": [_entry(result) for result in results]}


def _entry(result: Result) -> dict[str, Any]:
    row, ratios = result.row, result.ratios
    return {
        "key": row.key,
        "title": row.title,
        "unit": row.unit,
        "ours": [value * row.scale for value in result.ours],
        "theirs": [value * row.scale for value in result.theirs],
        "ceiling": [value * row.scale for value in result.ceiling],
        "ratio": median(ratios) if ratios else None,
        "ratio_min": min(ratios, default=None),
        "ratio_max": max(ratios, default=None),
        "goal_ratio": row.ratio,
        "goal_limit": row.limit,
        "reached": result.reached,
    }


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is no smaller than a share of all values.

    Args:
        values: At least one.
        share: Of 1; 0.99 gives the 99th percentile.
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
