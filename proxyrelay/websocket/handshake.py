"""What a request must look like before Autobahn parses it. Pure.

Autobahn 26.10 reads a request head of any length, splits it at every character
that Unicode calls a line break, and takes folded or misspelt header lines for
headers. So a head passes here first, against RFC 9112, sections 2 to 5, and Autobahn
checks a plain copy of it.

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

HEAD_CEILING = 32 * 1024
"""Bytes of the longest request head. Proxies add to it."""

HEADERS_CEILING = 128
"""Header lines of the longest request head."""

_END = b"\r\n\r\n"

_TLS_RECORD = b"\x16\x03"

NAME_SHOWN = 40
"""Bytes of the name of a refused header that are logged."""

_ILLEGAL = re.compile(rb"[^\t\r\n -~\x80-\xff]")

_REQUEST_LINE = rb"[!-~]+ [!-~]+ HTTP/[0-9]\.[0-9]"

# RFC 9110, section 5.5: a value may hold obs-text, the bytes from 0x80 on.
_FIELD_LINE = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*"

_HEAD = re.compile(rb"%b\r\n(?:%b\r\n)*\r\n" % (_REQUEST_LINE, _FIELD_LINE))

_WELL_FORMED = (re.compile(_REQUEST_LINE), re.compile(_FIELD_LINE))

_AUTHORIZATION = re.compile(rb"\r\nauthorization:", re.IGNORECASE)

_ORIGIN = re.compile(rb"\r\n(?:sec-websocket-)?origin:([^\r]*)", re.IGNORECASE)

_BODY = re.compile(
    rb"\r\n(transfer-encoding|content-length(?!:[\t ]*0[\t ]*\r)):", re.IGNORECASE
)

_CHECKED = frozenset(
    {
        b"connection",
        b"host",
        b"sec-websocket-key",
        b"sec-websocket-version",
        b"upgrade",
    }
)
"""Names of the headers that Autobahn checks."""

_EMPTY_PORT = re.compile(rb":[\t ]*\Z")

_UNQUOTABLE = re.compile(rb"[^\t\r\n !#-~]")

_GET = re.compile(r"GET [!-~]+ HTTP/1\.1")

_HOST = re.compile(r"(?:[0-9A-Za-z.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")

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
    illegal = _ILLEGAL.search(data, seen, HEAD_CEILING)
    if illegal:
        before, _, start = data[: illegal.start()].rpartition(b"\r\n")
        line = start + data[illegal.start() : HEAD_CEILING].partition(b"\r\n")[0]
        place = _place(line, is_first=not before)
        raise BadRequest(HTTPStatus.BAD_REQUEST, f"{place}: byte 0x{illegal[0][0]:02x}")
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
        raise BadRequest(HTTPStatus.BAD_REQUEST, _malformed(data[: end - len(_END)]))
    body = _BODY.search(data, 0, end)
    if body:
        name = body[1].decode("ascii")
        raise BadRequest(HTTPStatus.BAD_REQUEST, f"header {name}: no body is taken")
    if len(_AUTHORIZATION.findall(data, 0, end)) > 1:
        raise BadRequest(HTTPStatus.BAD_REQUEST, "more than one Authorization header")
    # RFC 6455, section 4.1: a client waits for the answer before it sends more.
    if len(data) > end:
        raise BadRequest(HTTPStatus.BAD_REQUEST, "data behind the request head")
    return True


def _place(line: bytes, is_first: bool) -> str:
    """Name a line for the log. Its value may be a secret, and is left out."""
    if is_first:
        return "the request line"
    # What follows a space may be the rest of a secret.
    before, colon, _ = line.partition(b":")
    name = before.split(maxsplit=1)[0] if before.strip() else b""
    if not colon or not line.startswith(name or b":"):
        return "a header line without a name"
    dots = "..." if len(name) > NAME_SHOWN else ""
    return f"header {name[:NAME_SHOWN].decode('latin-1')}{dots}"


def _malformed(head: bytes) -> str:
    """Say for the log which line of a malformed head is wrong."""
    for number, line in enumerate(head.split(b"\r\n")):
        if not _WELL_FORMED[number > 0].fullmatch(line):
            return f"{_place(line, number == 0)}: malformed"
    return "a malformed head"


def origins(head: bytes) -> list[str]:
    """Where a browser says that a request comes from: one value, or none.

    Args:
        head: A whole request head.
    """
    return [value.strip().decode("latin-1") for value in _ORIGIN.findall(head)]


def header_fields(head: bytes) -> dict[str, str]:
    """Read the header fields. Only CR LF ends a line.

    Args:
        head: A whole, well-formed request head.

    Returns:
        The values by the names in lower case. Values of one name are joined with
        commas. A byte from 0x80 on is the character of that number.
    """
    fields: dict[str, str] = {}
    for line in head[: -len(_END)].decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def autobahn_head(head: bytes) -> bytes:
    """Make the copy of a request head that Autobahn checks.

    Autobahn splits a head at every line break of Unicode, and fails for much that stock
    clients and proxies send: a fragment, an empty port, a strange origin or extension.
    The copy holds a plain target, the headers that Autobahn checks, and ASCII only. It
    has no double quotes, so that a quoted part of an error can be told from the rest.

    Args:
        head: A whole, well-formed request head.
    """
    first, *lines = head[: -len(_END)].split(b"\r\n")
    method, _, version = first.split(b" ")
    copied = [b"%b / %b" % (method, version)]
    for line in lines:
        name = line.partition(b":")[0].lower()
        if name == b"host":
            # RFC 9110, section 4.2: the port may be empty.
            line = b"host:" + _EMPTY_PORT.sub(b"", line[len(b"host:") :])  # noqa: PLW2901
        if name in _CHECKED:
            copied.append(line)
    return _UNQUOTABLE.sub(b"?", b"\r\n".join(copied)) + _END


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
    line, *lines = head[: -len(_END)].decode("latin-1").split("\r\n")
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
