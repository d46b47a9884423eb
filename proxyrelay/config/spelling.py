"""Names of settings: deprecated spellings, and hints for unknown names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from proxyrelay.config.model import settings

ALIASES: Mapping[tuple[str, ...], str] = {
    ("logging", "default_log_level"): "default_level",
    ("logging", "websockets_log_level"): "websockets_level",
    ("logging", "connected_client_logging_interval"): "current_client_interval",
    ("logging", "connected_client_logging_limit"): "current_client_limit",
}
"""Spellings in ProxyStore's documentation that its relay never read."""

_TABLE_SIMILARITY = 0.8
"""Least similarity of an unknown table to the one in the hint."""


def unknown(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    """Explain an unknown name: each setting of a table, or the misspelt table once.

    Yields:
        The path of a name, and its problem.
    """
    table = _near_table(path)
    if isinstance(value, dict) and table:
        yield path, f"unknown table; did you mean [{'.'.join(table)}]?"
    elif isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from unknown((*path, name), inner)
    else:
        near = _near_setting(path)
        hint = f"; did you mean {_with_table(near)}?" if near else ""
        yield path, f"unknown setting{hint}"


def _near_table(path: tuple[str, ...]) -> tuple[str, ...] | None:
    tables = {other[:-1] for other in settings()}
    beside = [other[-1] for other in tables if other and other[:-1] == path[:-1]]
    near = get_close_matches(path[-1].lower(), beside, 1, _TABLE_SIMILARITY)
    return (*path[:-1], near[0]) if near else None


def _near_setting(path: tuple[str, ...]) -> tuple[str, ...] | None:
    """Find the same name in another table, else the closest name."""
    # Settings of the same table first.
    known = sorted(settings(), key=lambda other: other[:-1] != path[:-1])
    names = [other[-1] for other in known]
    beside = [other[-1] for other in known if other[:-1] == path[:-1]]
    name = path[-1].lower()
    near = (
        [path[-1]]
        if path[-1] in names
        else get_close_matches(name, beside, 1) or get_close_matches(name, names, 1)
    )
    return known[names.index(near[0])] if near else None


def _with_table(path: tuple[str, ...]) -> str:
    table = f" in [{'.'.join(path[:-1])}]" if path[:-1] else " at the top of the file"
    return path[-1] + table
