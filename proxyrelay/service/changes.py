"""Differences between two sets of settings, and those that need a restart. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct, structs

from proxyrelay.config import Config, settings

FIXED = (
    ("host",),
    ("port",),
    ("reuse_port",),
    ("auth", "method"),
    ("logging", "log_dir"),
    ("logging", "audit_log"),
    ("logging", "privacy"),
    ("logging", "privacy_key_file"),
    ("admin", "listen"),
)
"""Settings that need a restart. The method of authentication is among them, since the
connected clients would keep their users: one that comes back would find its UUID in the
hands of another user, and its process would end."""


def applicable(before: Config, after: Config) -> tuple[Config, list[tuple[str, ...]]]:
    """Split new settings into those for now and those that need a restart.

    Returns:
        The settings for now, and the names of the others.
    """
    fixed = list(FIXED)
    if (before.certfile is None) != (after.certfile is None):
        fixed += [("certfile",), ("keyfile",)]
    # The rest of these tables belongs to the method and to the place.
    if before.auth.method != after.auth.method:
        auth = structs.replace(before.auth, method=after.auth.method)
        after = structs.replace(after, auth=auth)
    if before.admin.listen != after.admin.listen:
        admin = structs.replace(before.admin, listen=after.admin.listen)
        after = structs.replace(after, admin=admin)
    waiting = [path for path in differences(before, after) if path in fixed]
    for path in waiting:
        after = _with(after, path, _value(before, path))
    return after, waiting


def differences(one: Config, other: Config) -> Iterator[tuple[str, ...]]:
    """Yield the names of the settings that differ."""
    for path in settings():
        value = _value(one, path)
        if not isinstance(value, Struct) and value != _value(other, path):
            yield path


def _value(table: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        table = getattr(table, name)
    return table


def _with(table: Any, path: tuple[str, ...], value: Any) -> Any:
    name, *inner = path
    if inner:
        value = _with(getattr(table, name), tuple(inner), value)
    return structs.replace(table, **{name: value})
