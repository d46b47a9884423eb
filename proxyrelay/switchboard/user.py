"""The person or service that a connection belongs to. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class User:
    """The person or service that a connection belongs to.

    Two connections belong to one user if and only if their ``sub`` are equal.

    Attributes:
        sub: Identifier that never changes, as the identity provider gives it.
    """

    sub: str


ANONYMOUS = User("anonymous")
"""The user of every connection on a relay without authentication."""
