"""What a TLS connection must begin with before OpenSSL reads it. Pure.

OpenSSL puts a ClientHello of up to 128 kB together from all the records that have
come, in one call. In records of one byte each that takes it half a second, in which
nobody else is served.
"""

from __future__ import annotations

RECORDS = 8
"""Records of the most divided ClientHello. Clients send one or two."""

LONGEST = 32 * 1024
"""Bytes of the longest. Clients send up to two thousand."""

_RECORD_HEADER = 5
_MESSAGE_HEADER = 4
_HANDSHAKE = 22
_CLIENT_HELLO = 1


_CHANGE = b"\x14\x03\x03\x00\x01\x01"
"""The record that clients put before what they say next (RFC 8446, appendix D.4)."""


class StrangeHello(Exception):
    """No client that is to be served begins in such a way."""


def missing(data: bytes) -> int:
    """Look at what a client has sent first (RFC 8446, sections 4 and 5.1).

    Args:
        data: All of it.

    Returns:
        Bytes that must come, at least, until its ClientHello is whole; 0 if it is, or
        if OpenSSL is to say what is wrong with it.

    Raises:
        StrangeHello: It is too long, in too many pieces, or something comes behind it
            before it was answered.
    """
    position = length = 0
    message = b""
    for _ in range(RECORDS):
        body = position + _RECORD_HEADER
        if len(data) < body:
            return body - len(data)
        if data[position] != _HANDSHAKE:
            return 0
        end = body + int.from_bytes(data[body - 2 : body], "big")
        if len(message) < _MESSAGE_HEADER:
            message += data[body : min(end, body + _MESSAGE_HEADER)]
            if message and message[0] != _CLIENT_HELLO:
                return 0
        length += end - body
        if len(data) < end:
            return end - len(data)
        if len(message) >= _MESSAGE_HEADER:
            whole = _MESSAGE_HEADER + int.from_bytes(message[1:_MESSAGE_HEADER], "big")
            if whole > LONGEST:
                raise StrangeHello("a ClientHello that is too long")
            if length >= whole:
                return _alone(data, end)
        position = end
    raise StrangeHello("a ClientHello in too many records")


def _alone(data: bytes, end: int) -> int:
    if len(data) > end:
        raise StrangeHello("something behind a ClientHello")
    return 0


def missing_next(data: bytes) -> int:
    """The same of what comes after the first answer: it may be a ClientHello again.

    A server may ask for another one (RFC 8446, section 4.1.4).

    Args:
        data: All that has come since.

    Returns:
        As `missing`.

    Raises:
        StrangeHello: As with `missing`.
    """
    if len(data) < len(_CHANGE) and _CHANGE.startswith(data):
        return len(_CHANGE) - len(data)
    return missing(data.removeprefix(_CHANGE))
