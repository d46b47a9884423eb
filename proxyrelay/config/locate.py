"""Lines of settings in a TOML text. Pure.

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

    The text must be valid TOML.
    """
    mark = "here"
    while mark in text:
        mark += "-"
    document = tomlkit.parse(text)
    item: Any = document
    for name in path:
        if not isinstance(item, MutableMapping) or name not in item:
            return None
        table, item = item, item[name]
    if isinstance(item, AoT):
        item[0].comment(mark)
    elif not isinstance(item, MutableMapping):
        table[path[-1]] = mark
    elif hasattr(item, "comment"):
        item.comment(mark)
    before, found, _ = tomlkit.dumps(document).partition(mark)
    if found:
        return before.count("\n") + 1
    # A table without a header begins with its first setting.
    names = item if isinstance(item, MutableMapping) else ()
    lines = (line_of(text, (*path, name)) for name in names)
    return next(filter(None, lines), None)


def line_of_repetition(text: str) -> int | None:
    """Return the first line that repeats a key: tomlkit does not always tell."""
    lines = text.splitlines(keepends=True)
    for number in range(1, len(lines) + 1):
        try:
            tomlkit.parse("".join(lines[:number]))
        except KeyAlreadyPresent:
            return number
        except TOMLKitError:
            continue
    return None
