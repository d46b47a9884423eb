"""JSON lines. Pure.

A line is printable ASCII: all other characters are escaped. So a text cannot break a
line or control a terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from json import JSONEncoder
from math import isfinite

_encode = JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def record(time: float, fields: Mapping[str, object]) -> str:
    """Encode one line, with its end. ``time`` is in seconds since 1970.

    Fractions get three digits. Numbers that JSON lacks become null, and other values
    that JSON lacks become texts.
    """
    plain = {name: _plain(value) for name, value in fields.items()}
    return _encode({"time": moment(time), **plain}) + "\n"


def moment(time: float) -> str:
    """A time in seconds since 1970 as RFC 3339 has it: in UTC, with milliseconds."""
    second, milliseconds = divmod(int(time * 1000), 1000)
    return f"{_second(second)}.{milliseconds:03d}Z"


@lru_cache(maxsize=2)
def _second(time: int) -> str:
    """A second as text; many lines of a burst share it."""
    return datetime.fromtimestamp(time, UTC).replace(tzinfo=None).isoformat()


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
    """A text without lone surrogates, which strict readers refuse."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
