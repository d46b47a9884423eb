"""What a request must look like before Autobahn parses it. Pure.

Autobahn 26.10 reads a request head of any length, splits it at every character
that Unicode calls a line break, and takes folded or misspelt header lines for
headers. So a head passes here first, against RFC 9112, sections 2 to 5.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from http import HTTPStatus

HEAD_CEILING = 16 * 1024
"""Bytes of the longest request head."""

HEADERS_CEILING = 128
"""Header lines of the longest request head."""

_END = b"\r\n\r\n"

_ILLEGAL = re.compile(rb"[^\t\r\n -~]")

_HEAD = re.compile(
    rb"[!-~]+ [!-~]+ HTTP/[0-9]\.[0-9]\r\n"
    rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~]*\r\n)*\r\n"
)

_AUTHORIZATION = re.compile(rb"\r\nauthorization:", re.IGNORECASE)


class BadRequest(Exception):
    """A request is answered with an HTTP error.

    Attributes:
        status: The error. The exception's text is for the log only.
    """

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def head_complete(data: bytes) -> bool:
    """Look at all that a client has sent so far.

    Args:
        data: The bytes from the start of the connection.

    Returns:
        Whether it is one whole, well-formed request head; if not, more may come.

    Raises:
        BadRequest: It is no such head and cannot become one.
    """
    if _ILLEGAL.search(data, 0, HEAD_CEILING):
        raise BadRequest(HTTPStatus.BAD_REQUEST, "bytes that no request head has")
    end = data.find(_END, 0, HEAD_CEILING)
    if end < 0:
        if len(data) >= HEAD_CEILING:
            raise BadRequest(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "a head that is too long"
            )
        return False
    end += len(_END)
    if data.count(b"\r\n", 0, end) - 2 > HEADERS_CEILING:
        raise BadRequest(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "too many header lines"
        )
    if not _HEAD.fullmatch(data, 0, end):
        raise BadRequest(HTTPStatus.BAD_REQUEST, "a malformed head")
    if len(_AUTHORIZATION.findall(data, 0, end)) > 1:
        raise BadRequest(HTTPStatus.BAD_REQUEST, "more than one Authorization header")
    # RFC 6455, section 4.1: a client waits for the answer before it sends more.
    if len(data) > end:
        raise BadRequest(HTTPStatus.BAD_REQUEST, "data behind the request head")
    return True


def origin_matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Build what tells whether a browser's ``Origin`` is let in.

    Args:
        patterns: Origins as RFC 6454, section 6.2, writes them
            (``https://www.example.org:8443``), with ``*`` for any text without a
            slash. A lone ``*`` matches everything, ``null`` included.
    """
    spelt = [pattern.lower() for pattern in patterns]
    if "*" in spelt:
        return lambda _: True
    allowed = re.compile("|".join(re.escape(p).replace(r"\*", "[^/]*") for p in spelt))
    return lambda origin: bool(spelt and allowed.fullmatch(origin.lower()))
