"""The hot path: whole small frames, taken before Autobahn's state machine sees them.

Almost every read brings one text message or one ping, in one frame. `frames` takes
these in a short loop, in place of a hundred calls in Autobahn. Everything else goes to
Autobahn unchanged, one frame at a time. Autobahn's own loop copies the rest of a read
twice for each frame: a burst of tiny frames would cost the square of its length.

The module calls nothing of a connection. ``tests/websocket/test_fastpath.py`` compares
the outcome with that of plain Autobahn. Checked against Autobahn 26.10.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.websocket.xormasker import create_xor_masker  # type: ignore[attr-defined]

try:
    from _nvx_xormasker import ffi, lib
except ImportError:  # Autobahn was built without a compiler
    ffi = lib = None

TEXT = 0x81
PING = 0x89
PONG = 0x8A
"""First bytes of whole frames (RFC 6455, section 5.2): FIN and the opcode."""

PIECE = 0
"""Part of a read for Autobahn: one frame, or as much of it as was read."""

REST = 1
"""Frames beyond `FRAMES_PER_TURN`."""

MASKED = 0x80
"""Mask bit of a frame's second byte. The other bits are a length, or one of these:"""

LENGTH_16 = 126
LENGTH_64 = 127

FRAMES_PER_TURN = 16
"""Frames of one read that are processed at once, at up to 0.1 ms each. A stock client
sends one after the other. A crowd of 64 hostile clients delays others by 0.1 s."""

NOTHING = (0, 0)
"""Result of `small_frame` for any other frame."""

_SHORT_BYTES = 32
"""Longest payload in bytes for which a call of C costs more than it saves."""


def unmask(payload: bytes, mask: bytes) -> bytes:
    """Payload without its mask (RFC 6455, section 5.3).

    Uses Autobahn's own routine, without the five objects around it.
    """
    length = len(payload)
    if length <= _SHORT_BYTES:
        keys = (mask * (_SHORT_BYTES // 4))[:length]
        plain = int.from_bytes(payload, "big") ^ int.from_bytes(keys, "big")
        return plain.to_bytes(length, "big")
    if lib is None:
        return bytes(create_xor_masker(mask, length).process(payload))
    text = bytearray(payload)
    masker = lib.nvx_xormask_new(mask)
    lib.nvx_xormask_process(masker, ffi.from_buffer(text), length)
    lib.nvx_xormask_free(masker)
    return bytes(text)


def frame_end(data: bytes, start: int) -> int:
    """Index behind the frame at an index, as far as its header is known.

    It may lie behind the data. For a partial header it is the end of the data.
    """
    end = len(data)
    if end - start < 2:  # noqa: PLR2004 - the shortest header
        return end
    second = data[start + 1]
    length = second & 0x7F
    body = start + 2
    if length >= LENGTH_16:
        size = 2 if length == LENGTH_16 else 8
        length = int.from_bytes(data[body : body + size], "big")
        body += size
    if second & MASKED:
        body += 4
    return end if body > end else body + length


def small_frame(data: bytes, start: int, end: int) -> tuple[int, int]:
    """Start and end of the payload of a small, whole, masked frame at an index.

    Returns:
        Two indices; `NOTHING` for any other frame, and for a violation.
    """
    if end - start < 6:  # noqa: PLR2004 - the shortest masked frame
        return NOTHING
    length = data[start + 1] - MASKED
    if 0 <= length < LENGTH_16:
        body = start + 6
    elif length == LENGTH_16 and data[start] == TEXT and end - start >= 8:  # noqa: PLR2004
        body = start + 8
        length = data[start + 2] << 8 | data[start + 3]
        if length < LENGTH_16:
            return NOTHING
    else:
        return NOTHING
    stop = body + length
    return (body, stop) if stop <= end else NOTHING


_OPEN = WebSocketServerProtocol.STATE_OPEN
_CLOSED = WebSocketServerProtocol.STATE_CLOSED


def frames(data: bytes, parser: Any) -> Iterator[tuple[int, bytes]]:
    """Split a read into payloads and pieces for Autobahn.

    The caller processes each item before it asks for the next one. The read may begin
    with first bytes of a header from the one before.

    Yields:
        `TEXT`, `PING` or `PONG` with a payload; `PIECE` with bytes for Autobahn; at
        last perhaps `REST` with the bytes beyond `FRAMES_PER_TURN` frames.
    """
    position, end = 0, len(data)
    left = FRAMES_PER_TURN
    while position < end:
        if not left or parser.awaits_claim:
            yield REST, data[position:]
            return
        left -= 1
        frame = parser.current_frame
        if frame is not None:
            stop = position + frame.length - parser.current_frame_masker.pointer()
        else:
            if not parser.inside_message and parser.state == _OPEN:
                body, stop = small_frame(data, position, end)
                if stop and stop - body <= parser.maxMessagePayloadSize:
                    first = data[position]
                    payload = unmask(data[body:stop], data[body - 4 : body])
                    if (
                        payload.isascii() or _is_utf8(payload)
                        if first == TEXT
                        else first in _CONTROL
                    ):
                        position = stop
                        yield first, payload
                        continue
            stop = frame_end(data, position)
        if parser.state == _CLOSED:
            return
        piece = data if position == 0 and stop >= end else data[position:stop]
        position = stop
        yield PIECE, piece


_CONTROL = frozenset({PING, PONG})


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
