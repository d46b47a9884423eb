"""Lines of settings in a TOML text.

tomlkit keeps no positions, but writes a text as it was. So a mark takes the place of
the setting, and is found in the written text.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import tomlkit
from tomlkit.exceptions import KeyAlreadyPresent, TOMLKitError
from tomlkit.items import AoT


def line_of(text: str, path: tuple[str, ...]) -> int | None:
    """Return the line of a setting or table, counted from 1; None if it is not there.

    Args:
        text: A valid TOML document.
        path: Names of the setting.
    """
    document = tomlkit.parse(text)
    mark = _absent_from(text)
    item: Any = document
    for name in path:
        if not isinstance(item, MutableMapping) or name not in item:
            return None
        table, item = item, item[name]
    if isinstance(item, MutableMapping):
        return _line_of_table(text, path, document, item)
    if isinstance(item, AoT):
        item[0].comment(mark)
    else:
        table[path[-1]] = mark
    return _line_of_mark(mark, document)


def line_of_repetition(text: str) -> int | None:
    """Return the first line that repeats a key: tomlkit does not always tell."""
    lines = text.splitlines(keepends=True)
    for number in range(1, len(lines) + 1):
        try:
            tomlkit.parse("".join(lines[:number]))
        except KeyAlreadyPresent:  # noqa: PERF203
            return number
        except TOMLKitError:
            continue
    return None


def _line_of_table(
    text: str, path: tuple[str, ...], document: tomlkit.TOMLDocument, table: Any
) -> int | None:
    """Return the line of a table's header, or else of its first setting."""
    if hasattr(table, "comment"):
        mark = _absent_from(text)
        table.comment(mark)
        line = _line_of_mark(mark, document)
        if line is not None:
            return line
    lines = (line_of(text, (*path, name)) for name in table)
    return next((line for line in lines if line is not None), None)


def _absent_from(text: str) -> str:
    mark = "here"
    while mark in text:
        mark += "-"
    return mark


def _line_of_mark(mark: str, document: tomlkit.TOMLDocument) -> int | None:
    before, found, _ = tomlkit.dumps(document).partition(mark)
    return before.count("\n") + 1 if found else None
