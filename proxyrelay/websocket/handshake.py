"""Checks of a request before Autobahn parses it. Pure.

Autobahn 26.10 reads a request head of any length. It splits the head at every line
break of Unicode, and accepts folded or misspelt header lines. So a head is checked here
first, against RFC 9112, sections 2 to 5, and Autobahn checks a plain copy.

The requests of stock clients are read here as well, at a tenth of the cost. Autobahn
reads all others.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Iterable
from hashlib import sha1
from http import HTTPStatus

from proxyrelay.errors import BadRequest

MAX_HEAD_BYTES = 32 * 1024
"""Longest request head. Proxies add to it."""

MAX_HEADER_LINES = 128
"""Most header lines of a request head."""

SHOWN_NAME_BYTES = 40
"""Bytes of a refused header's name in the log."""

_END = b"\r\n\r\n"
_TLS_RECORD = b"\x16\x03"
_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

_REQUEST_LINE = rb"[!-~]+ [!-~]+ HTTP/[0-9]\.[0-9]"
# RFC 9110, section 5.5: a value may hold obs-text, the bytes from 0x80 on.
_FIELD_LINE = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*"
_HEAD = re.compile(rb"%b\r\n(?:%b\r\n)*\r\n" % (_REQUEST_LINE, _FIELD_LINE))
_ILLEGAL = re.compile(rb"[^\t\r\n -~\x80-\xff]")

_AUTHORIZATION = re.compile(rb"\r\nauthorization:", re.IGNORECASE)
_ORIGIN = re.compile(rb"\r\n(?:sec-websocket-)?origin:([^\r]*)", re.IGNORECASE)
_BODY = re.compile(
    rb"\r\n(transfer-encoding|content-length(?!:[\t ]*0[\t ]*\r)):", re.IGNORECASE
)

_CHECKED = frozenset(
    b"connection host sec-websocket-key sec-websocket-version upgrade".split()
)
"""Headers that Autobahn checks."""

_EMPTY_PORT = re.compile(rb":[\t ]*\Z")
_UNQUOTABLE = re.compile(rb"[^\t\r\n !#-~]")

# A plain request.
_GET = re.compile(rb"GET [!-~]+ HTTP/1\.1\r\n")
_HOST = re.compile(r"(?:[0-9A-Za-z.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_KEY = re.compile(r"[0-9A-Za-z+/]{22}==")


def head_complete(data: bytes, seen: int = 0) -> bool:
    """Whether the data is one whole, well-formed request head. Else, more may come.

    Args:
        data: Bytes from the start of the connection.
        seen: Number of bytes that were checked before.

    Raises:
        BadRequest: The data cannot become such a head.
    """
    if data.startswith(_TLS_RECORD):
        raise _bad("a TLS handshake (wss) on a port without TLS")
    illegal = _ILLEGAL.search(data, seen, MAX_HEAD_BYTES)
    if illegal:
        before, _, start = data[: illegal.start()].rpartition(b"\r\n")
        line = start + data[illegal.start() : MAX_HEAD_BYTES].partition(b"\r\n")[0]
        place = _place(line, is_first=not before)
        raise _bad(f"{place}: byte 0x{illegal[0][0]:02x}")
    end = data.find(_END, max(0, seen - len(_END)), MAX_HEAD_BYTES)
    if end < 0:
        if len(data) >= MAX_HEAD_BYTES:
            raise _bad("a head that is too long", is_large=True)
        return False
    end += len(_END)
    if data.count(b"\r\n", 0, end) - 2 > MAX_HEADER_LINES:
        raise _bad("too many header lines", is_large=True)
    if not _HEAD.fullmatch(data, 0, end):
        raise _bad(_malformed(data[: end - len(_END)]))
    body = _BODY.search(data, 0, end)
    if body:
        raise _bad(f"header {body[1].decode('ascii')}: no body is taken")
    if len(_AUTHORIZATION.findall(data, 0, end)) > 1:
        raise _bad("more than one Authorization header")
    # RFC 6455, section 4.1: a client waits for the answer before it sends more.
    if len(data) > end:
        raise _bad("data behind the request head")
    return True


def _bad(detail: str, is_large: bool = False) -> BadRequest:
    large = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    return BadRequest(large if is_large else HTTPStatus.BAD_REQUEST, detail)


def _place(line: bytes, is_first: bool) -> str:
    """Name of a line for the log. Its value may be a secret, and is left out."""
    if is_first:
        return "the request line"
    # What follows a space may be the rest of a secret.
    before, colon, _ = line.partition(b":")
    name = before.split(maxsplit=1)[0] if before.strip() else b""
    if not colon or not line.startswith(name or b":"):
        return "a header line without a name"
    dots = "..." if len(name) > SHOWN_NAME_BYTES else ""
    return f"header {name[:SHOWN_NAME_BYTES].decode('latin-1')}{dots}"


def _malformed(head: bytes) -> str:
    """First wrong line of a malformed head, for the log."""
    rule = _REQUEST_LINE
    for line in head.split(b"\r\n"):
        if not re.fullmatch(rule, line):
            return f"{_place(line, rule is _REQUEST_LINE)}: malformed"
        rule = _FIELD_LINE
    return "a malformed head"


def origins(head: bytes) -> list[str]:
    """Values of the ``Origin`` headers, which browsers send, of a whole head."""
    return [value.strip().decode("latin-1") for value in _ORIGIN.findall(head)]


def header_fields(head: bytes) -> dict[str, str]:
    """Header fields of a whole, well-formed head, by names in lower case.

    Only CR LF ends a line. Values of one name are joined with commas. A byte from 0x80
    on is the character of that number.
    """
    fields: dict[str, str] = {}
    for line in head[: -len(_END)].decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def autobahn_head(head: bytes) -> bytes:
    """Copy of a whole, well-formed head for Autobahn.

    Autobahn fails for a fragment, an empty port, a strange origin or extension. Stock
    clients and proxies send these. The copy holds a plain target, the checked headers,
    and ASCII without double quotes: these mark parts of the request in Autobahn's
    errors.
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


def plain_upgrade(head: bytes) -> dict[str, str] | None:
    """Header fields of a plain request for an upgrade, as stock clients send it.

    Names are in lower case. The result is None for any other whole, well-formed head:
    Autobahn reads it, and finds its errors.
    """
    headers = header_fields(head)
    is_plain = (
        len(headers) == head.count(b"\r\n") - 2
        and _GET.match(head)
        and _HOST.fullmatch(headers.get("host", ""))
        and headers.get("upgrade", "").lower() == "websocket"
        and headers.get("connection", "").lower() == "upgrade"
        and headers.get("sec-websocket-version") == "13"
        and _KEY.fullmatch(headers.get("sec-websocket-key", ""))
    )
    return headers if is_plain else None


def acceptance(server: str, key: str) -> bytes:
    """Response to a ``Sec-WebSocket-Key`` (RFC 6455, section 4.2.2)."""
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
    """Function that tells whether a browser's ``Origin`` is allowed.

    Patterns are origins (RFC 6454, section 6.2) with ``*`` for any text without a
    slash. A lone ``*`` matches everything, ``null`` included.
    """
    spelt = [pattern.lower() for pattern in patterns]
    if "*" in spelt:
        return lambda _: True
    allowed = re.compile("|".join(re.escape(p).replace(r"\*", "[^/]*") for p in spelt))
    return lambda origin: bool(spelt and allowed.fullmatch(origin.lower()))
