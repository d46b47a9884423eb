"""Frames as a client sends them, valid or not."""

from __future__ import annotations

import struct

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
CONTINUATION = 0


def header(opcode: int, length: int, fin: bool = True) -> bytes:
    """The head of a masked frame, whose mask changes nothing."""
    first = opcode | (0x80 if fin else 0)
    if length < 126:
        sized = struct.pack("!BB", first, 0x80 | length)
    elif length < 65536:
        sized = struct.pack("!BBH", first, 0x80 | 126, length)
    else:
        sized = struct.pack("!BBQ", first, 0x80 | 127, length)
    return sized + bytes(4)


def frame(opcode: int, payload: bytes = b"", fin: bool = True) -> bytes:
    """A masked frame."""
    return header(opcode, len(payload), fin) + payload
