"""Lines and tables for people: with colours on a terminal, as plain text elsewhere.

Without the packages of ``proxyrelay[cli]``, a terminal gets plain text, too. Nothing
here reads markup. All texts that others chose are escaped before.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

TABLE_COLUMNS = 110
"""Least width of a terminal for a table; a narrower one gets lines."""

STYLES = {
    "problem": "bold red",
    "warning": "yellow",
    "degraded": "yellow",
    "silent": "yellow",
    "no problems": "bold green",
    "state: ready": "bold green",
    "state: not ready": "bold red",
    "this relay already serves here": "bold green",
}
"""Styles of lines, by their beginnings; longer ones win."""

KEY_STYLE = "cyan"
"""Style of the words before the first colon of other lines."""


def show(lines: Iterable[str], stream: TextIO | None = None) -> None:
    """Print lines such as ``state: ready``, by default to standard output."""
    stream = stream or sys.stdout
    lines = list(lines)
    console = _console(stream)
    if not lines:
        return
    if console is None:
        print(*lines, sep="\n", file=stream, flush=True)
    else:
        console.print(_pairs(lines))


def show_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> bool:
    """Print a table on a terminal; return whether there is a place for it."""
    console = _console(sys.stdout)
    if console is None or console.width < TABLE_COLUMNS:
        return False
    from rich import box  # noqa: PLC0415 - an extra
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD)
    for head in heads:
        table.add_column(Text(head, KEY_STYLE), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
    return True


def drawn(lines: Sequence[str]) -> Sequence[str]:
    """Lines as `show` would print them."""
    console = _console(sys.stdout)
    if console is None:
        return lines
    with console.capture() as captured:
        console.print(_pairs(lines))
    return captured.get().splitlines()


def _console(stream: TextIO) -> Console | None:
    """What draws on a terminal; None for plain text."""
    if not stream.isatty() or os.environ.get("TERM", "dumb") in {"", "dumb"}:
        return None
    try:
        from rich.console import Console  # noqa: PLC0415 - an extra
    except ImportError:
        return None
    # It knows NO_COLOR.
    return Console(file=stream, markup=False, highlight=False, emoji=False)


def _pairs(lines: Sequence[str]) -> RenderableType:
    """Words before the first colon in one column, the rest in another."""
    from rich.table import Table  # noqa: PLC0415 - an extra
    from rich.text import Text  # noqa: PLC0415

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for line in lines:
        key, _, value = line.partition(": ")
        style = _style(line)
        grid.add_row(Text(key, style or KEY_STYLE), Text(value, style))
    return grid


def _style(line: str) -> str:
    fitting = filter(line.startswith, STYLES)
    return STYLES.get(max(fitting, key=len, default=""), "")
