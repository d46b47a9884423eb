"""What a request must look like before Autobahn parses it. Pure.

Autobahn 26.10 reads a request head of any length, splits it at every character
that Unicode calls a line break, and takes folded or misspelt header lines for
headers. So a head passes here first, against RFC 9112, sections 2 to 5.

A request that is just as stock clients send it is read here, too, at a tenth of the
cost. Autobahn is left with all that is odd.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Iterable
from hashlib import sha1
from http import HTTPStatus
from typing import NamedTuple

from proxyrelay.errors import BadRequest

HEAD_CEILING = 16 * 1024
"""Bytes of the longest request head."""

HEADERS_CEILING = 128
"""Header lines of the longest request head."""

_END = b"\r\n\r\n"

_TLS_RECORD = b"\x16\x03"

_ILLEGAL = re.compile(rb"[^\t\r\n -~]")

_HEAD = re.compile(
    rb"[!-~]+ [!-~]+ HTTP/[0-9]\.[0-9]\r\n"
    rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~]*\r\n)*\r\n"
)

_AUTHORIZATION = re.compile(rb"\r\nauthorization:", re.IGNORECASE)

_ORIGIN = re.compile(rb"\r\n(?:sec-websocket-)?origin:([^\r]*)", re.IGNORECASE)

_OFFERS = re.compile(
    rb"\r\n(?:(?:sec-websocket-)?origin|sec-websocket-(?:extensions|protocol)):[^\r]*",
    re.IGNORECASE,
)

_GET = re.compile(r"GET /[\w./~-]* HTTP/1\.1", re.ASCII)

_HOST = re.compile(r"(?:[0-9A-Za-z.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")

_KEY = re.compile(r"[0-9A-Za-z+/]{22}==")

_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def head_complete(data: bytes, seen: int = 0) -> bool:
    """Look at all that a client has sent so far.

    Args:
        data: The bytes from the start of the connection.
        seen: How many of them were looked at before, so that a head that comes
            byte by byte is not read anew for each.

    Returns:
        Whether it is one whole, well-formed request head; if not, more may come.

    Raises:
        BadRequest: It is no such head and cannot become one.
    """
    if data.startswith(_TLS_RECORD):
        raise BadRequest(
            HTTPStatus.BAD_REQUEST, "a TLS handshake (wss) on a port without TLS"
        )
    if _ILLEGAL.search(data, seen, HEAD_CEILING):
        raise BadRequest(HTTPStatus.BAD_REQUEST, "bytes that no request head has")
    end = data.find(_END, max(0, seen - len(_END)), HEAD_CEILING)
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


def origins(head: bytes) -> list[str]:
    """Where a browser says that a request comes from: one value, or none.

    Args:
        head: A whole request head.
    """
    return [value.strip().decode("ascii") for value in _ORIGIN.findall(head)]


def without_offers(head: bytes) -> bytes:
    """A request head less what the relay does not take up.

    It declines all extensions and subprotocols, and has its own word on origins. In
    Autobahn's eyes a strange one would be a reason to fail, which ends real clients.

    Args:
        head: A whole request head.
    """
    return _OFFERS.sub(b"", head)


class Upgrade(NamedTuple):
    """A request to speak WebSocket.

    Attributes:
        headers: Its header fields, with names in lower case.
        key: ``Sec-WebSocket-Key``.
    """

    headers: dict[str, str]
    key: str


def plain_upgrade(head: bytes) -> Upgrade | None:
    """Read a request in which there is nothing odd.

    Args:
        head: A whole, well-formed request head.

    Returns:
        What it has; None if Autobahn should look at it, and say what is wrong.
    """
    line, *lines = head[: -len(_END)].decode("ascii").split("\r\n")
    fields = dict(field.split(":", 1) for field in lines)
    headers = {name.lower(): value.strip(" \t") for name, value in fields.items()}
    if (
        len(headers) == len(lines)
        and _GET.fullmatch(line)
        and _HOST.fullmatch(headers.get("host", ""))
        and headers.get("upgrade", "").lower() == "websocket"
        and headers.get("connection", "").lower() == "upgrade"
        and headers.get("sec-websocket-version") == "13"
        and _KEY.fullmatch(headers.get("sec-websocket-key", ""))
    ):
        return Upgrade(headers, headers["sec-websocket-key"])
    return None


def acceptance(server: str, key: str) -> bytes:
    """The answer that begins WebSocket (RFC 6455, section 4.2.2).

    Args:
        server: What the relay calls itself.
        key: ``Sec-WebSocket-Key`` of the request.
    """
    digest = sha1((key + _MAGIC).encode(), usedforsecurity=False).digest()
    return (
        "HTTP/1.1 101 Switching Protocols\r\n"
        f"Server: {server}\r\n"
        "Upgrade: WebSocket\r\n"
        "Connection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {b64encode(digest).decode()}\r\n"
        "\r\n"
    ).encode()


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
