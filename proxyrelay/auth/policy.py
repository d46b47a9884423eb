"""Rules of authentication: bearer tokens, introspection answers, the policy. Pure.

`bearer_token` reads the token of a handshake; `authorize` admits its user.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from proxyrelay.config import AuthArguments
from proxyrelay.errors import Forbidden, Unauthorized
from proxyrelay.switchboard.user import User

MAX_TOKEN_CHARACTERS = 8192
"""Longest bearer token."""

B64TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750, section 2.1: ``b64token``."""

SCOPES = "https://auth.globus.org/scopes"
"""Prefix of Globus scopes: ``<SCOPES>/<client id>/<suffix>``."""

RELAY_SCOPE = "relay_all"
"""Suffix of the scope for clients of a relay."""


def bearer(authorization: str) -> str | None:
    """Text after ``Bearer`` in an ``Authorization`` header; None for another scheme."""
    scheme, _, token = authorization.strip(" \t").partition(" ")
    return token.strip(" \t") if scheme.lower() == "bearer" else None


def bearer_token(headers: Mapping[str, str]) -> str:
    """Bearer token of a handshake (RFC 6750, section 2.1).

    The names of the header fields are in lower case.

    Raises:
        Unauthorized: The token is missing or malformed.
    """
    value = headers.get("authorization")
    if value is None:
        raise Unauthorized("The request has no Authorization header.")
    token = bearer(value)
    if token is None:
        raise Unauthorized("The Authorization header holds no bearer token.")
    if len(token) > MAX_TOKEN_CHARACTERS or not B64TOKEN.fullmatch(token):
        raise Unauthorized("The bearer token is malformed.")
    return token


class Introspection(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Introspection answer (RFC 7662, section 2.2).

    Attributes:
        sub: Identity of the user.
        username: Name of the user, such as ``jo@example.org``.
        aud: Audience: the applications that may accept the token.
        scope: Scopes, separated by spaces.
        exp: Expiry in seconds since 1970, or None.
    """

    active: bool
    sub: str | None = None
    username: str | None = None
    aud: tuple[str, ...] | str | None = None
    scope: str | None = None
    exp: float | None = None

    @property
    def audience(self) -> tuple[str, ...]:
        """Audience as a tuple."""
        if isinstance(self.aud, str):
            return (self.aud,)
        return self.aud or ()

    @property
    def scopes(self) -> frozenset[str]:
        """Scopes as a set."""
        return frozenset((self.scope or "").split())

    @property
    def domain(self) -> str:
        """Part of the username after the last ``@``, in lower case; may be empty."""
        _, at, domain = (self.username or "").rpartition("@")
        return domain.lower() if at else ""


@dataclass(frozen=True)
class Policy:
    """Rules of admission.

    Attributes:
        audience: Application in the audience of each token.
        required_scopes: Scopes of each token.
        allowed_users: Users by ``sub``. If this or ``allowed_domains`` is not empty,
            only the listed users are admitted.
        allowed_domains: Users by the domain of the username, in lower case.
    """

    audience: str
    required_scopes: frozenset[str] = frozenset()
    allowed_users: frozenset[str] = frozenset()
    denied_users: frozenset[str] = frozenset()
    allowed_domains: frozenset[str] = frozenset()
    denied_domains: frozenset[str] = frozenset()

    @classmethod
    def from_settings(cls, arguments: AuthArguments, client_id: str) -> Policy:
        """Policy of the settings and the relay's client ID."""
        scopes = arguments.required_scopes
        if scopes is None:
            own = f"{SCOPES}/{client_id}/{RELAY_SCOPE}"
            scopes = (own,) if arguments.audience == client_id else ()
        return cls(
            audience=arguments.audience,
            required_scopes=frozenset(scopes),
            allowed_users=frozenset(arguments.allowed_users),
            denied_users=frozenset(arguments.denied_users),
            allowed_domains=frozenset(map(str.lower, arguments.allowed_domains)),
            denied_domains=frozenset(map(str.lower, arguments.denied_domains)),
        )


def authorize(answer: Introspection, policy: Policy, now: float) -> User:
    """Check a token against the policy, at a wall time in seconds since 1970.

    Raises:
        Forbidden: The policy rejects the token. The text fits in a close reason and
            names no user.
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
