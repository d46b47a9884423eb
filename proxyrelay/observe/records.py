"""What machines read of the relay: one JSON object a line. Pure.

A line is ASCII, whatever the texts in it are: what is no printable letter of ASCII
stands there by its number, so that a line is always one, and harmless to a terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from functools import lru_cache
from json import JSONEncoder
from math import isfinite

_encode = JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def record(time: float, fields: Mapping[str, object]) -> str:
    """Write an object, with its end of line.

    Args:
        time: When it happened, in seconds since 1970; it becomes the field ``time``.
        fields: The others. Fractions have three digits, numbers that JSON lacks become
            null, lists stay lists, and whatever else JSON lacks becomes a text.
    """
    plain = {name: _plain(value) for name, value in fields.items()}
    return _encode({"time": moment(time), **plain}) + "\n"


def moment(time: float) -> str:
    """A time as RFC 3339 spells it, in UTC, with milliseconds.

    Args:
        time: Seconds since 1970.
    """
    second, milliseconds = divmod(int(time * 1000), 1000)
    return f"{_second(second)}.{milliseconds:03d}Z"


@lru_cache(maxsize=2)
def _second(time: int) -> str:
    """A second as text: a thousand lines have the same one when clients come back."""
    return datetime.fromtimestamp(time, timezone.utc).replace(tzinfo=None).isoformat()


def _plain(value: object) -> object:
    if isinstance(value, str):
        return _sound(value)
    if isinstance(value, float):
        return round(value, 3) if isfinite(value) else None
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return _sound(str(value))


def _sound(text: str) -> str:
    """A text without halves of surrogate pairs, at which strict readers stop."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
