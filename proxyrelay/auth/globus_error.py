"""Errors of requests to Globus; no text holds a secret."""

from __future__ import annotations

import re
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import msgspec
from OpenSSL import SSL

from proxyrelay.errors import ProxyRelayError

MAX_QUOTED_CHARACTERS = 300
"""Longest text of the server in an error."""

MIN_SECRET_CHARACTERS = 8
"""Shortest secret to hide: "a" would hide words."""

_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})

_ABOUT_REQUEST = frozenset(range(400, 500)) - _TRANSIENT - {HTTPStatus.UNAUTHORIZED}


class GlobusError(ProxyRelayError):
    """A failed request to Globus; never the fault of a client.

    Attributes:
        status: HTTP status; None without a response.
        code: Error code in the body, such as ``invalid_client``.
        retry_after: Pause in seconds that the server asks for.
    """

    def __init__(
        self,
        message: str,
        status: int | None = None,
        code: str | None = None,
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after

    @property
    def is_transient(self) -> bool:
        """Whether another attempt soon may succeed."""
        return self.status is None or self.status in _TRANSIENT

    @property
    def is_about_request(self) -> bool:
        """Whether only this request is at fault, neither Globus nor the account."""
        return self.status in _ABOUT_REQUEST

    @property
    def is_about_address(self) -> bool:
        """Whether ``service_url`` may be wrong."""
        return self.status == HTTPStatus.NOT_FOUND


class Unreachable(GlobusError):
    """No connection to Globus, or no trust in its certificate."""

    is_about_address = True


class Late(GlobusError):
    """No complete answer in time."""


class MissingSubject(GlobusError):
    """An active token without a ``sub``; the next answer may be whole."""

    is_about_request = True


def unreachable(error: Exception, secrets: Iterable[str]) -> Unreachable:
    """Error of a request without an answer; its text holds none of the secrets."""
    return Unreachable(f"cannot be reached: {_quoted(_reason(error), secrets)}")


class _ErrorBody(msgspec.Struct):
    """Body of an error: RFC 6749, or a list in Globus's own form."""

    error: str | None = None
    error_description: str | None = None
    errors: list[dict[str, Any]] = msgspec.field(default_factory=list)


def refusal(
    status: int, body: bytes, retry_after: str, secrets: Iterable[str], wall: float
) -> GlobusError:
    """Error of an answer without success; its text holds none of the secrets.

    Args:
        status: HTTP status.
        body: JSON about the error, if it has this form.
        retry_after: Header field ``Retry-After``; may be empty.
        secrets: Texts to hide.
        wall: Wall time in seconds since 1970.
    """
    try:
        described = msgspec.json.decode(body, type=_ErrorBody)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        described = _ErrorBody()
    own = described.errors[0] if described.errors else {}
    code = described.error or own.get("code")
    detail = described.error_description or own.get("detail") or own.get("title")
    text = ": ".join(str(part) for part in (code, detail) if part)
    return GlobusError(
        f"answered {status} ({_quoted(text, secrets)})"
        if text
        else f"answered {status}",
        status,
        _quoted(str(code), secrets) if code else None,
        _pause(retry_after, wall),
    )


def _reason(error: Exception) -> str:
    """Innermost cause below Twisted's wrappers."""
    reasons = getattr(error, "reasons", None)
    if reasons:
        return _reason(reasons[0].value)
    if isinstance(error, SSL.Error) and error.args:
        text = ", ".join(str(parts[-1]) for parts in error.args[0])
        if "certificate verify failed" in text:
            text += " (SSL_CERT_FILE names the trust store, if it is not the system's)"
        return f"TLS: {text}"
    return str(error) or type(error).__name__


def _quoted(text: str, secrets: Iterable[str]) -> str:
    """Text from outside: short, printable, and without secrets."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= MIN_SECRET_CHARACTERS:
            text = text.replace(secret, "(hidden)")
    plain = "".join(
        letter if letter.isprintable() else ascii(letter)[1:-1]
        for letter in text[:MAX_QUOTED_CHARACTERS]
    )
    return plain + "..." * (len(text) > MAX_QUOTED_CHARACTERS)


def _pause(retry_after: str, wall: float) -> float:
    """Seconds of a ``Retry-After``, or until its date (RFC 9110, section 10.2.3)."""
    if re.fullmatch("[0-9]+", retry_after):
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - wall)
    except (ValueError, TypeError, OverflowError):
        return 0.0
