"""Rules that the types of the model cannot say. Pure.

`convert` reads one value, and `problems` and `warnings` compare several. Rules about
files and the environment are in `proxyrelay.service.checks`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from logging import getLevelName
from pathlib import Path
from typing import Any

import msgspec

from proxyrelay.config.cluster import place
from proxyrelay.config.cluster import problems as cluster_problems
from proxyrelay.config.cluster import warnings as cluster_warnings
from proxyrelay.config.model import (
    ALL_INTERFACES,
    AUTHENTICATION_MARGIN_SECONDS,
    PROXYSTORE_RELAY,
    AuthArguments,
    Config,
    Level,
    Secret,
    admin_place,
)
from proxyrelay.config.places import LABEL
from proxyrelay.net.proxies import Proxies

Finding = tuple[tuple[str, ...], str]
"""Path of a setting, and its problem."""

MIN_CENSUS_SECONDS = 0.1
"""Shortest interval between two lists of clients that leaves time to serve them."""

MAX_HOST_NAME_CHARACTERS = 253
"""Longest name of a host (RFC 1035, section 2.3.4)."""

CANONICAL_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""A UUID in lower case with dashes, as Globus prints it."""

MAX_SHOWN_CHARACTERS = 30
"""Longest wrong value that is shown."""

_DOMAIN = re.compile(r"[^@*\s]+")

_SCOPE = re.compile(r"(?=[^:]+:)[!#-;=?-\[\]-~]+")
"""A URL or a URN in the letters of RFC 6749, section 3.3, and no place-holder."""

# Twisted's agent takes no IPv6 address.
_HTTPS_URL = re.compile(
    rf"https://(?P<host>(?:{LABEL}\.)*{LABEL})(?::(?P<port>[0-9]{{1,5}}))?"
    r"(?:/[A-Za-z0-9._~%!$&'()*+,;=:@/-]*)?"
)

_LEVEL_HINT = "DEBUG, INFO, WARNING, ERROR or CRITICAL"

_NAME_HINT = "a name of up to 64 letters, digits, dots, dashes and underscores"

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
    ("cluster", "engine"): (
        '"unix:/path", "tcp:host:port" or "tls:host:port", such as '
        '"unix:/run/redis/relay.sock"'
    ),
    ("cluster", "sentinels"): (
        'a list of "tls:host:port", such as ["tls:a.example.org:26379"], or of '
        '"tcp:host:port"'
    ),
    ("cluster", "master"): _NAME_HINT,
    ("cluster", "node"): _NAME_HINT,
    ("cluster", "prefix"): _NAME_HINT,
    ("cluster", "username"): "a name of an ACL user, in ASCII without spaces",
    ("cluster", "without_engine"): '"serve" or "refuse"',
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


# -- one value


def convert(path: tuple[str, ...], hint: Any, raw: Any, folder: Path) -> Any:
    """Convert a value from TOML or the command line to the type of its setting.

    Relative paths start from ``folder``.

    Raises:
        ValueError: The value is wrong. The text names the expected one.
    """
    if hint is Level and isinstance(raw, str):
        raw = getLevelName(raw.upper())  # a number, unless nobody knows it
    if hint is Level and type(raw) is int:
        raw = getLevelName(raw)
    try:
        value = msgspec.convert(
            raw, hint, dec_hook=lambda kind, text: _decode(kind, text, folder)
        )
        return _READ_AS[path](value) if path in _READ_AS else value
    except ValueError as error:  # msgspec's errors are such, too
        text = _HINTS.get(path)
        raise ValueError(f"expected {text}" if text else _plain(error)) from None


def quoted(hint: Any, raw: Any) -> str:
    """Advice about a text that stands where its content would be right."""
    if not isinstance(raw, str) or len(raw) > MAX_SHOWN_CHARACTERS:
        return ""
    try:
        value = msgspec.convert(raw, hint, strict=False)
    except (ValueError, TypeError):
        return ""
    if not isinstance(value, (bool, int, float)):
        return ""
    return f'; "{raw}" is a text: remove the quotes'


def application_id(text: str) -> str:
    """Return the client ID of an application as Globus prints it.

    Raises:
        ValueError: It is no UUID.
    """
    lower = text.lower()
    if not CANONICAL_UUID.fullmatch(lower):
        raise ValueError("no ID")
    return lower


def _https_url(url: str) -> str:
    found = _HTTPS_URL.fullmatch(url)
    if found is None or len(found["host"]) > MAX_HOST_NAME_CHARACTERS:
        raise ValueError("no address")
    if not 0 < int(found["port"] or "443") < 1 << 16:
        raise ValueError("no port")
    return url


def _listen(listen: str | None) -> str | None:
    if listen is not None:
        admin_place(listen)
    return listen


def _engine(text: str | None) -> str | None:
    if text is not None:
        place(text)
    return text


def _sentinels(texts: tuple[str, ...]) -> tuple[str, ...]:
    kinds = {place(text).kind for text in texts}
    if "unix" in kinds or len(kinds) > 1:
        raise ValueError("no address, or two kinds of them")
    return texts


def _networks(networks: tuple[str, ...]) -> tuple[str, ...]:
    Proxies(networks)
    return networks


_READ_AS: Mapping[tuple[str, ...], Callable[[Any], Any]] = {
    ("admin", "listen"): _listen,
    ("auth", "kwargs", "audience"): application_id,
    ("auth", "kwargs", "service_url"): _https_url,
    ("cluster", "engine"): _engine,
    ("cluster", "sentinels"): _sentinels,
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


# -- several values


def problems(config: Config) -> Iterator[Finding]:
    """Yield why settings cannot be served together."""
    if 0 < config.logging.current_client_interval < MIN_CENSUS_SECONDS:
        yield (
            ("logging", "current_client_interval"),
            f"expected 0 or a number >= {MIN_CENSUS_SECONDS}",
        )
    yield from _useless_entries(config.auth.kwargs)
    # The authenticator learns from each failure of Globus Auth. A question that is
    # given up from outside says nothing.
    least_seconds = round(config.auth.kwargs.timeout + AUTHENTICATION_MARGIN_SECONDS, 9)
    if config.auth.method and config.timeouts.authentication < least_seconds:
        yield (
            ("timeouts", "authentication"),
            f"expected at least {AUTHENTICATION_MARGIN_SECONDS} s more than "
            f"auth.kwargs.timeout, which is {AuthArguments().timeout:g} unless it is "
            "set",
        )
    if config.limits.proxy_protocol and not config.limits.trusted_proxies:
        yield ("limits", "proxy_protocol"), "needs trusted_proxies beside it"
    admin = config.admin
    if _overlap(admin.place, (config.host, config.port)):
        yield (
            ("admin", "listen"),
            f"is where clients come to (port {config.port}): take another port",
        )
    if admin.place is not None and admin.place == config.logging.audit_log:
        yield ("admin", "listen"), "is the audit log"
    if not admin.is_private and admin.token_file is None:
        yield (
            ("admin", "listen"),
            "needs a token_file beside it: other machines reach this address",
        )
    yield from cluster_problems(config.cluster, config.offers.shield)


def warnings(config: Config) -> Iterator[Finding]:
    """Yield settings that can be served, but should be changed."""
    arguments = config.auth.kwargs
    for kind in ("users", "domains"):
        allowed = map(str.lower, getattr(arguments, f"allowed_{kind}"))
        denied = map(str.lower, getattr(arguments, f"denied_{kind}"))
        if set(allowed) & set(denied):
            yield (
                ("auth", "kwargs", f"allowed_{kind}"),
                f"has no effect for those that are in denied_{kind}, too",
            )
    if any(network.endswith("/0") for network in config.limits.trusted_proxies):
        yield (
            ("limits", "trusted_proxies"),
            "believes whoever connects: any client may say that it is another",
        )
    if config.logging.privacy_key_file is not None and not config.logging.privacy:
        yield ("logging", "privacy_key_file"), "has no effect without privacy = true"
    if config.survive.enabled and config.certfile is not None:
        yield (
            ("survive", "enabled"),
            "keeps no connection over TLS of the relay itself: a proxy in front of it "
            "should end TLS",
        )
    yield from cluster_warnings(config.cluster)


def _useless_entries(arguments: AuthArguments) -> Iterator[Finding]:
    """Yield lists with an entry that matches nobody: a deny list would be void."""
    identities = (
        'IDs of identities, such as "a3bb189e-8bf9-3888-9912-ace4e6543002", '
        "in lower case"
    )
    domains = 'domains, such as "example.org", without @ and wildcards'
    scopes = (
        "whole scope strings, such as "
        f'"https://auth.globus.org/scopes/{PROXYSTORE_RELAY}/relay_all"'
    )
    for name, pattern, expected in (
        ("allowed_users", CANONICAL_UUID, identities),
        ("denied_users", CANONICAL_UUID, identities),
        ("allowed_domains", _DOMAIN, domains),
        ("denied_domains", _DOMAIN, domains),
        ("required_scopes", _SCOPE, scopes),
    ):
        if not all(map(pattern.fullmatch, getattr(arguments, name) or ())):
            yield ("auth", "kwargs", name), f"expected {expected}"


def _overlap(one: object, other: tuple[str | None, int]) -> bool:
    """Tell whether two places to listen are one, or one is within the other."""
    if not isinstance(one, tuple) or not one[1] == other[1] != 0:
        return False
    hosts = {one[0], other[0]}
    return len(hosts) == 1 or not hosts.isdisjoint({None, *ALL_INTERFACES})
