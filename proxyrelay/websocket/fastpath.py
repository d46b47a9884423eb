"""The hot path: whole small frames, taken before Autobahn's state machine sees them.

Almost all that clients send is one text message or ping, in one frame, in one read.
For these the lane does in a short loop what Autobahn does in a hundred calls.
Everything else goes to Autobahn unchanged, frame by frame, so that Autobahn never has
to move more than one: its own loop copies the rest of what was read twice for each
frame, which costs the square of a burst of tiny ones.

A reader of the rest can skip this room: `RelayProtocol` behaves in every way as it
would without it, and ``tests/test_fastlane.py`` holds the two beside each other.
Checked against Autobahn 26.10.2.
"""

from __future__ import annotations

from typing import Any

from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.websocket.xormasker import create_xor_masker  # type: ignore[attr-defined]

try:
    from _nvx_xormasker import ffi, lib
except ImportError:  # Autobahn goes without it where there was no compiler
    ffi = lib = None

TEXT = 0x81
PING = 0x89
PONG = 0x8A
"""First bytes of whole frames (RFC 6455, section 5.2): FIN and the opcode."""

MASKED = 0x80
"""The bit of a frame's second byte that says so; the others are its length, or one of
these:"""

LENGTH_16 = 126
LENGTH_64 = 127

AT_ONCE = 16
"""Frames of one read that are acted upon at once; an offer takes up to 0.1 ms. A stock
client sends one after the other, and 64 clients that send as much as they can keep
others waiting for 0.1 s."""

NOTHING = (0, 0)
"""No frame begins and ends there."""

_SHORT = 32
"""Bytes up to which calling C costs more than it saves."""


def unmask(payload: bytes, mask: bytes) -> bytes:
    """Take the mask off a payload (RFC 6455, section 5.3).

    By Autobahn's own routine, less the five objects that it makes around it.

    Args:
        payload: The masked bytes.
        mask: The four bytes of the key.
    """
    length = len(payload)
    if length <= _SHORT:
        keys = (mask * (_SHORT // 4))[:length]
        plain = int.from_bytes(payload, "big") ^ int.from_bytes(keys, "big")
        return plain.to_bytes(length, "big")
    if lib is None:
        return bytes(create_xor_masker(mask, length).process(payload))
    text = bytearray(payload)
    masker = lib.nvx_xormask_new(mask)
    lib.nvx_xormask_process(masker, ffi.from_buffer(text), length)
    lib.nvx_xormask_free(masker)
    return bytes(text)


def header(first: int, payload_length: int) -> bytes:
    """The header of an unmasked frame.

    Args:
        first: Its first byte: FIN and the opcode.
        payload_length: Bytes that follow.
    """
    if payload_length < LENGTH_16:
        return bytes((first, payload_length))
    if payload_length < 1 << 16:
        return bytes((first, LENGTH_16)) + payload_length.to_bytes(2, "big")
    return bytes((first, LENGTH_64)) + payload_length.to_bytes(8, "big")


def frame_end(data: bytes, start: int) -> int:
    """Where a frame ends, as far as can be told.

    Args:
        data: What was read.
        start: Where in it the frame begins.

    Returns:
        The index behind it, which may be behind the data; the end of the data if the
        header is not whole.
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
    """Where the payload of a small, whole, masked frame begins and ends.

    Args:
        data: What was read.
        start: Where in it the frame begins.
        end: The length of the data.

    Returns:
        Two indices; two zeros if it is no such frame, or breaks the protocol.
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


class FrameFastPath(WebSocketServerProtocol):
    """Takes what was read apart, and whole small frames out of it."""

    # What Autobahn keeps of a connection, which its types do not tell.
    data: bytes
    state: int
    current_frame: Any
    current_frame_masker: Any
    inside_message: bool
    maxMessagePayloadSize: int  # noqa: N815

    def dataReceived(self, data: bytes) -> None:
        """Take bytes from the client, unless the connection is over.

        Autobahn would keep them then.
        """
        state = self.state
        if state == self.STATE_OPEN or state == self.STATE_CLOSING:  # noqa: PLR1714
            self.frames_received(self._take(data))
        elif state != self.STATE_CLOSED:
            self._dataReceived(data)

    def frames_received(self, count: int) -> None:
        """Hear how many frames, or pieces of frames, one read has brought."""

    def defer_frames(self, rest: bytes) -> None:
        """Have more frames than are acted upon at once come again, in a while."""
        raise NotImplementedError

    def _take(self, data: bytes) -> int:
        if self.data:
            # The first bytes of a header, which Autobahn has not looked at yet.
            data = self.data + data
            self.data = b""
        position, end = 0, len(data)
        count = 0
        while position < end:
            if count >= AT_ONCE:
                self.defer_frames(data[position:])
                break
            frame = self.current_frame
            if frame is not None:
                stop = position + frame.length - self.current_frame_masker.pointer()
            else:
                if not self.inside_message:
                    room = AT_ONCE - count
                    position, whole = self._take_whole(data, position, end, room)
                    count += whole
                    if position == end or whole == room:
                        continue
                stop = frame_end(data, position)
            if self.state == self.STATE_CLOSED:
                break
            count += 1
            if position == 0 and stop >= end:
                self._dataReceived(data)
                break
            self._dataReceived(data[position:stop])
            position = stop
        return count

    def _take_whole(
        self, data: bytes, position: int, end: int, room: int
    ) -> tuple[int, int]:
        """Act on whole frames, one after the other.

        Args:
            data: What was read.
            position: Where in it a frame begins.
            end: Its length.
            room: How many may be acted upon.

        Returns:
            Where the first frame begins that is not acted upon, or ``end``; and how
            many were.
        """
        count = 0
        while count < room and self.state == self.STATE_OPEN:
            body, stop = small_frame(data, position, end)
            if not stop or stop - body > self.maxMessagePayloadSize:
                break
            first = data[position]
            payload = unmask(data[body:stop], data[body - 4 : body])
            if first == TEXT:
                if not (payload.isascii() or _is_utf8(payload)):
                    break
                self.onMessage(payload, False)
            elif first == PING:
                self.onPing(payload)
            elif first == PONG:
                self.onPong(payload)
            else:
                break
            position = stop
            count += 1
        return position, count


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
