"""Who a client is, and whether a token says so. Pure: no network, no clock."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from proxyrelay.errors import Forbidden, Unauthorized
from proxyrelay.switchboard.user import User

TOKEN_CEILING = 8192
"""Characters of the longest bearer token that is looked at."""

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750, section 2.1: ``b64token``."""

SCOPES = "https://auth.globus.org/scopes"
"""Where Globus names scopes: ``<SCOPES>/<client id>/<suffix>``."""

RELAY_SCOPE = "relay_all"
"""Suffix of the scope that a relay's clients request."""


def bearer_token(headers: Mapping[str, str]) -> str:
    """The bearer token of a handshake (RFC 6750, section 2.1).

    Args:
        headers: Header fields, names in lower case.

    Raises:
        Unauthorized: There is not exactly one well-formed token.
    """
    value = headers.get("authorization")
    if value is None:
        raise Unauthorized("The request has no Authorization header.")
    scheme, _, token = value.strip(" \t").partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthorized("The Authorization header holds no bearer token.")
    token = token.strip(" \t")
    if len(token) > TOKEN_CEILING or not _TOKEN.fullmatch(token):
        raise Unauthorized("The bearer token is malformed.")
    return token


class Introspection(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the identity provider says of a token (RFC 7662, section 2.2).

    Attributes:
        active: Whether it is one of the provider's, and neither expired nor revoked.
        sub: The user.
        username: What the provider calls the user, such as ``jo@example.org``.
        aud: The applications that the token is meant for.
        scope: What it allows, separated by spaces.
        exp: When it expires, in seconds since 1970, or None.
        client_id: The application that it was issued to, which is not the user.
    """

    active: bool
    sub: str | None = None
    username: str | None = None
    aud: tuple[str, ...] | str | None = None
    scope: str | None = None
    exp: float | None = None
    client_id: str | None = None

    @property
    def audience(self) -> tuple[str, ...]:
        """The applications that the token is meant for, always as a tuple."""
        if isinstance(self.aud, str):
            return (self.aud,)
        return self.aud or ()

    @property
    def scopes(self) -> frozenset[str]:
        """What the token allows."""
        return frozenset((self.scope or "").split())

    @property
    def domain(self) -> str:
        """What follows the last ``@`` of the user's name, in lower case, or nothing."""
        _, at, domain = (self.username or "").rpartition("@")
        return domain.lower() if at else ""


@dataclass(frozen=True)
class Policy:
    """Which tokens a relay takes.

    Attributes:
        audience: The application that a token must be meant for.
        required_scopes: What it must allow.
        allowed_users: If this or ``allowed_domains`` is not empty, only users in one
            of them are let in: here by their ``sub``.
        denied_users: Users that are never let in, by their ``sub``.
        allowed_domains: The same by the domain of their name.
        denied_domains: Users that are never let in, by the domain of their name.
    """

    audience: str
    required_scopes: frozenset[str] = field(default_factory=frozenset)
    allowed_users: frozenset[str] = field(default_factory=frozenset)
    denied_users: frozenset[str] = field(default_factory=frozenset)
    allowed_domains: frozenset[str] = field(default_factory=frozenset)
    denied_domains: frozenset[str] = field(default_factory=frozenset)


def authorize(answer: Introspection, policy: Policy, now: float) -> User:
    """Decide whom a token belongs to, if it is taken.

    Args:
        answer: What the identity provider says of it. If the token is active, it
            names a ``sub``.
        policy: Which tokens are taken.
        now: The time, in seconds since 1970.

    Raises:
        Forbidden: The token is not taken. The text is short enough for a close
            reason, and names no other user.
    """
    sub = answer.sub
    if not answer.active or sub is None:
        raise Forbidden("The token is expired or has been revoked.")
    if answer.exp is not None and answer.exp <= now:
        raise Forbidden("The token has expired.")
    if policy.audience not in answer.audience:
        raise Forbidden(f"The token is not meant for {policy.audience}.")
    missing = sorted(policy.required_scopes - answer.scopes)
    if missing:
        short = missing[0].removeprefix(f"{SCOPES}/")
        raise Forbidden(f"The token lacks the scope {short}.")
    listed = bool(policy.allowed_users or policy.allowed_domains)
    domains = {answer.domain} - {""}
    allowed = sub in policy.allowed_users or bool(domains & policy.allowed_domains)
    denied = sub in policy.denied_users or bool(domains & policy.denied_domains)
    if denied or (listed and not allowed):
        raise Forbidden("This identity may not use this relay.")
    return User(sub)
