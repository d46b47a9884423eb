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

OTHER_COLUMNS = 76
"""Least width that a table needs beside its whole cells; else there are lines."""

WHOLE_HEADS = frozenset({"UUID", "from"})
"""Heads of columns that are there to be copied: no cell is broken."""

KEY_STYLES = {
    "problem": "bold red",
    "warning": "bold yellow",
    "degraded": "bold yellow",
    "silent": "bold yellow",
    "not all are listed": "bold yellow",
}
"""Styles of the words before the first colon, where they are not `KEY_STYLE`."""

KEY_STYLE = "cyan"

LINE_STYLES = {
    "no problems": "bold green",
    "this relay already serves here": "bold green",
    "a relay already serves here": "bold yellow",
    "state: ready": "bold green",
    "state: not ready": "bold red",
    "no answer": "bold red",
}
"""Styles of whole lines, by their beginnings."""

MAX_KEY_CHARACTERS = 24
"""Longest words before a colon that have a column of their own."""


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


def show_table(
    lines: Sequence[str], heads: Sequence[str], rows: Sequence[Sequence[str]]
) -> bool:
    """Print lines and a table on a terminal; return whether there is room for it."""
    console = _console(sys.stdout)
    if console is None:
        return False
    whole = sum(
        max(map(len, cells), default=0)
        for head, *cells in zip(heads, *rows, strict=True)
        if head in WHOLE_HEADS
    )
    if console.width < whole + OTHER_COLUMNS:
        return False

    from rich import box  # noqa: PLC0415 - an extra
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    columns: list[list[str]] = []
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for head, *cells in zip(heads, *rows, strict=True):
        if any(cells):
            table.add_column(
                Text(head, KEY_STYLE), overflow="fold", no_wrap=head in WHOLE_HEADS
            )
            columns.append(cells)
    for row in zip(*columns, strict=True):
        table.add_row(*map(Text, row))
    console.print(_pairs(lines), table)
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


def _pairs(lines: Iterable[str]) -> RenderableType:
    """Short words before a colon in one column, the rest in another."""
    from rich.console import Group  # noqa: PLC0415 - an extra
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    parts: list[RenderableType] = []
    grid: Table | None = None
    for line in lines:
        key, _, value = line.partition(": ")
        styles = [LINE_STYLES[start] for start in LINE_STYLES if line.startswith(start)]
        style = "".join(styles[:1])
        if not value or len(key) > MAX_KEY_CHARACTERS:
            grid = None
            parts.append(Text(line, style))
            continue
        if grid is None:
            grid = Table.grid(padding=(0, 2))
            grid.add_column(no_wrap=True)
            grid.add_column(overflow="fold")
            parts.append(grid)
        key_style = style or KEY_STYLES.get(key, KEY_STYLE)
        grid.add_row(Text(key, key_style), Text(value, style))
    return Group(*parts)
