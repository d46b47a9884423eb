"""The comparison as a picture: what this relay needs, in parts of the reference. Pure.

It is SVG, and the same figures give the same text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from xml.sax.saxutils import escape

from benchmarks.figures import Result

WIDTH, LEFT, RIGHT, TOP, LINE = 760, 210, 60, 40, 26
"""Pixels: of all, of the titles, of the numbers, of the scale, of a row."""

LEAST = 0.02
"""Where the scale begins. It is logarithmic."""

STEPS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

STYLE = """
text { font: 12px sans-serif; fill: #222 }
.scale, .number { font-size: 11px }
.scale { text-anchor: middle }
.title { text-anchor: end }
.step { stroke: #ddd }
.same { stroke: #888; stroke-dasharray: 4 3 }
.reached { fill: #2f7d5b } .missed { fill: #b5533c } .open { fill: #888 }
.range { stroke: #222 } .goal { stroke: #222; stroke-width: 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #ddd } .step { stroke: #444 } .range, .goal { stroke: #eee }
}
"""


def svg(results: Sequence[Result]) -> str:
    """Draw a bar for each row that has a ratio, with its range and its goal."""
    rows = [result for result in results if result.ratios]
    most = max([1.0, *(max(result.ratios) for result in rows)])
    steps = [step for step in STEPS if step <= most]
    bottom = TOP + LINE * len(rows)

    def x(ratio: float) -> float:
        share = math.log(max(ratio, LEAST) / LEAST) / math.log(most / LEAST)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 30}">',
        "<title>proxyrelay, in parts of what proxystore-relay needs</title>",
        f"<style>{STYLE}</style>",
    ]
    for step in steps:
        kind = "same" if step == 1 else "step"
        drawn.append(_line(kind, x(step), TOP - 6, x(step), bottom))
        drawn.append(_text("scale", x(step), TOP - 12, f"{step:g}"))
    for number, result in enumerate(rows):
        drawn += _row(result, TOP + LINE * number, x)
    words = "proxyrelay / proxystore-relay: less is better; the thick line is the goal"
    drawn.append(_text("scale", (LEFT + WIDTH - RIGHT) / 2, bottom + 20, words))
    return "\n".join((*drawn, "</svg>", ""))


def _row(result: Result, top: float, x: Callable[[float], float]) -> list[str]:
    ratio, least, most = (f(result.ratios) for f in (median, min, max))
    middle = top + LINE / 2
    kind = {True: "reached", False: "missed", None: "open"}[result.reached]
    drawn = [
        _text("title", LEFT - 8, middle + 4, result.row.title),
        f'<rect class="{kind}" x="{LEFT}" y="{top + 5:.1f}" '
        f'width="{x(ratio) - LEFT:.1f}" height="{LINE - 10}"/>',
        _line("range", x(least), middle, x(most), middle),
        _text("number", x(most) + 6, middle + 4, f"{ratio:.2g}"),
    ]
    if result.row.ratio is not None:
        goal = x(result.row.ratio)
        drawn.append(_line("goal", goal, top + 2, goal, top + LINE - 2))
    return drawn


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return (
        f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" '
        f'x2="{x2:.1f}" y2="{y2:.1f}"/>'
    )


def _text(kind: str, x: float, y: float, words: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'
