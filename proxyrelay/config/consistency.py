"""Settings that do not go together, found after each one has been read."""

from __future__ import annotations

import re
from collections.abc import Iterator

from proxyrelay.config.model import (
    AUTHENTICATION_MARGIN_SECONDS,
    PROXYSTORE_RELAY,
    AuthArguments,
    Config,
)
from proxyrelay.config.values import IDENTITY

CENSUS_MIN_SECONDS = 0.1
"""Shortest interval between two lists of clients that leaves time to serve them."""

Finding = tuple[tuple[str, ...], str]
"""Names of a setting, and its problem."""

_DOMAIN = re.compile(r"[^@*\s]+")

_SCOPE = re.compile(r"(?=[^:]+:)[!#-;=?-\[\]-~]+")
"""A URL or a URN in the letters of RFC 6749, section 3.3, and no place-holder."""

_ALL_INTERFACES = frozenset({None, "0.0.0.0", "::"})  # noqa: S104 - not bound here
"""Hosts that stand for all interfaces, IPv4 and IPv6 alike."""


def problems(config: Config) -> Iterator[Finding]:
    """Yield why settings cannot be served together."""
    if 0 < config.logging.current_client_interval < CENSUS_MIN_SECONDS:
        yield (
            ("logging", "current_client_interval"),
            f"expected 0 or a number >= {CENSUS_MIN_SECONDS}",
        )
    yield from _useless_entries(config.auth.kwargs)
    # The authenticator learns from each failure of Globus Auth. A question that is
    # given up from outside says nothing.
    least = round(config.auth.kwargs.timeout + AUTHENTICATION_MARGIN_SECONDS, 9)
    if config.auth.method is not None and config.timeouts.authentication < least:
        yield (
            ("timeouts", "authentication"),
            f"expected at least {AUTHENTICATION_MARGIN_SECONDS} s more than "
            f"auth.kwargs.timeout, which is {AuthArguments().timeout:g} unless it is "
            "set",
        )
    if config.limits.proxy_protocol and not config.limits.trusted_proxies:
        yield ("limits", "proxy_protocol"), "needs trusted_proxies beside it"
    admin = config.admin
    if isinstance(admin.place, tuple) and _overlap(
        admin.place, (config.host, config.port)
    ):
        yield (
            ("admin", "listen"),
            f"is where clients come to (port {config.port}): take another port",
        )
    if not admin.is_private and admin.token_file is None:
        yield (
            ("admin", "listen"),
            "needs a token_file beside it: other machines reach this address",
        )


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
        yield (
            ("logging", "privacy_key_file"),
            "has no effect without privacy = true",
        )


def _useless_entries(arguments: AuthArguments) -> Iterator[Finding]:
    """Yield lists with an entry that matches nobody: a deny list would be void."""
    identities = (
        'expected IDs of identities, such as "a3bb189e-8bf9-3888-9912-ace4e6543002", '
        "in lower case"
    )
    domains = 'expected domains, such as "example.org", without @ and wildcards'
    scopes = (
        "expected whole scope strings, such as "
        f'"https://auth.globus.org/scopes/{PROXYSTORE_RELAY}/relay_all"'
    )
    for name, pattern, text in (
        ("allowed_users", IDENTITY, identities),
        ("denied_users", IDENTITY, identities),
        ("allowed_domains", _DOMAIN, domains),
        ("denied_domains", _DOMAIN, domains),
        ("required_scopes", _SCOPE, scopes),
    ):
        if not all(map(pattern.fullmatch, getattr(arguments, name) or ())):
            yield ("auth", "kwargs", name), text


def _overlap(one: tuple[str | None, int], other: tuple[str | None, int]) -> bool:
    """Tell whether two places to listen are one, or one is within the other."""
    hosts = {one[0], other[0]}
    same_host = len(hosts) == 1 or bool(hosts & _ALL_INTERFACES)
    return same_host and one[1] == other[1] != 0
