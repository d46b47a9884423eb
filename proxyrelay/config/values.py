"""The value of one setting: from TOML to the type of the model, or a hint."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from proxyrelay.config.model import PROXYSTORE_RELAY, Level, Secret, admin_place
from proxyrelay.net.proxies import Proxies

IDENTITY = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""A UUID as Globus prints it."""

_LEVEL_SPELLINGS: Mapping[object, str] = {
    "WARN": "WARNING",
    "FATAL": "CRITICAL",
    10: "DEBUG",
    20: "INFO",
    30: "WARNING",
    40: "ERROR",
    50: "CRITICAL",
}

_LEVEL_HINT = "DEBUG, INFO, WARNING, ERROR or CRITICAL"

_HINTS: Mapping[tuple[str, ...], str] = {
    ("admin", "allowed_hosts"): 'a list of names, such as ["relay.example.org"]',
    ("admin", "listen"): (
        'an address and a port, such as "127.0.0.1:8701" or "[::1]:8701", or an '
        'absolute path, such as "unix:/run/proxyrelay/admin.sock"'
    ),
    ("host",): "a text: an address or a name of this machine",
    ("port",): "a whole number from 0 to 65535",
    ("allowed_origins",): 'a list of origins, such as ["https://*.example.org"]',
    ("auth", "kwargs", "audience"): (
        f'a text: the client ID of an application, such as "{PROXYSTORE_RELAY}"'
    ),
    ("auth", "kwargs", "service_url"): (
        "an address that starts with https://, then a name or an IPv4 address, and "
        "perhaps a port and a path, such as https://auth.globus.org"
    ),
    ("auth", "method"): '"globus", or nothing for a relay without authentication',
    ("limits", "trusted_proxies"): (
        'a list of networks, such as ["192.0.2.0/24", "2001:db8::1"], whose bits '
        "behind the prefix are 0"
    ),
    ("logging", "default_level"): _LEVEL_HINT,
    ("logging", "format"): '"text" or "json"',
    ("logging", "websockets_level"): _LEVEL_HINT,
}
"""Expected values, where the words of msgspec are not enough."""

_PLAIN_WORDS: Mapping[str, str] = {
    " | null": "",
    "`int`": "a whole number",
    "`float`": "a number",
    "`str`": "a text",
    "`bool`": "true or false",
    "`array`": "a list",
    "`object`": "a table",
    "`": "",
}

# Twisted's agent takes no IPv6 address, and raises on labels that IDNA does not know.
_LABEL = r"(?!..--)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"

_HTTPS_URL = re.compile(
    rf"https://(?P<host>(?:{_LABEL}\.)*{_LABEL})(?::(?P<port>[0-9]{{1,5}}))?"
    r"(?:/[A-Za-z0-9._~%!$&'()*+,;=:@/-]*)?"
)

_HOST_NAME_MAX_CHARACTERS = 253
"""Longest name of a host (RFC 1035, section 2.3.4)."""


def convert(path: tuple[str, ...], hint: Any, raw: Any, folder: Path) -> Any:
    """Convert the value of a setting.

    Args:
        path: Names of the setting.
        hint: Its type.
        raw: The value as TOML or the command line has it.
        folder: Base of relative paths.

    Raises:
        ValueError: The value is wrong. The text names the expected one.
    """
    if hint is Level:
        spelling = raw.upper() if isinstance(raw, str) else raw
        if not isinstance(spelling, bool) and isinstance(spelling, str | int):
            raw = _LEVEL_SPELLINGS.get(spelling, spelling)
    try:
        value = msgspec.convert(
            raw, hint, dec_hook=lambda kind, text: _decode(kind, text, folder)
        )
        return _READ_AS.get(path, lambda same: same)(value)
    except ValueError as error:  # msgspec's errors are such, too
        text = _HINTS.get(path)
        raise ValueError(f"expected {text}" if text else _plain(error)) from None


def application_id(text: str) -> str:
    """Return the client ID of an application as Globus prints it.

    Raises:
        ValueError: It is no UUID.
    """
    lower = text.lower()
    if not IDENTITY.fullmatch(lower):
        raise ValueError("no ID")
    return lower


def _https_url(url: str) -> str:
    found = _HTTPS_URL.fullmatch(url)
    if found is None or len(found["host"]) > _HOST_NAME_MAX_CHARACTERS:
        raise ValueError("no address")
    if not 0 < int(found["port"] or "443") < 1 << 16:
        raise ValueError("no port")
    return url


def _listen(listen: str | None) -> str | None:
    if listen is not None:
        admin_place(listen)
    return listen


def _networks(networks: tuple[str, ...]) -> tuple[str, ...]:
    Proxies(networks)
    return networks


_READ_AS: Mapping[tuple[str, ...], Callable[[Any], Any]] = {
    ("admin", "listen"): _listen,
    ("auth", "kwargs", "audience"): application_id,
    ("auth", "kwargs", "service_url"): _https_url,
    ("limits", "trusted_proxies"): _networks,
}
"""Further conversion of values of the right type; raises `ValueError`."""


def _decode(kind: type, raw: object, folder: Path) -> object:
    """Build a `Secret` or a `Path`, the types that msgspec does not know."""
    if not isinstance(raw, str):
        raise TypeError("Expected `str`")
    if not raw:
        raise ValueError("expected a text that is not empty")
    if kind is Secret:
        return Secret(raw)
    if "\0" in raw:
        raise ValueError("expected a path without null characters")
    try:
        return folder / Path(raw).expanduser()
    except RuntimeError:
        raise ValueError("expected a path; there is no such home folder") from None


def _plain(error: ValueError) -> str:
    message = str(error)
    for word, plain in _PLAIN_WORDS.items():
        message = message.replace(word, plain)
    return message[:1].lower() + message[1:]
