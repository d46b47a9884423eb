"""Names of settings: deprecated spellings, and hints for unknown names. Pure."""

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
    """Yield the problems of an unknown name: a misspelt table is one, not many."""
    if isinstance(value, dict) and (table := _near_table(path)):
        yield path, f"unknown table; did you mean [{table}]?"
    elif isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from unknown((*path, name), inner)
    else:
        hint = _near_setting(path)
        yield path, f"unknown setting{hint and f'; did you mean {hint}?'}"


def _near_table(path: tuple[str, ...]) -> str:
    tables = {other[:-1] for other in settings()}
    beside = [other[-1] for other in tables if other and other[:-1] == path[:-1]]
    near = get_close_matches(path[-1].lower(), beside, 1, _TABLE_SIMILARITY)
    return ".".join((*path[:-1], *near)) if near else ""


def _near_setting(path: tuple[str, ...]) -> str:
    """Name the same setting of another table, else the closest name."""
    name = path[-1]
    # Settings of the same table first.
    known = sorted(settings(), key=lambda other: other[:-1] != path[:-1])
    names = [other[-1] for other in known]
    beside = [other[-1] for other in known if other[:-1] == path[:-1]]
    near = (
        [other for other in names if other == name]
        or get_close_matches(name.lower(), beside, 1)
        or get_close_matches(name.lower(), names, 1)
    )
    if not near:
        return ""
    *table, found = known[names.index(near[0])]
    place = f"in [{'.'.join(table)}]" if table else "at the top of the file"
    return f"{found} {place}"
