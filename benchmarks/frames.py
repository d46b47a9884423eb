"""What real clients say, prepared in advance, and what a relay says back. Pure.

The request, the frames and the messages are those of ProxyStore 1.1 on the websockets
library: masked, offering permessage-deflate, and compressed where the relay accepts it.
"""

from __future__ import annotations

import json
import random
import re
import zlib
from base64 import b64encode
from collections.abc import Callable
from typing import NamedTuple

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
"""Opcodes (RFC 6455, section 5.2)."""

FINAL, COMPRESSED, MASKED = 0x80, 0x40, 0x80
"""Bits of the first byte, and of the second."""

SMALL, SIZE_16, SIZE_64 = 125, 126, 127
"""How frames spell their length (RFC 6455, section 5.2)."""

KEY = b"\x5a\xc3\x17\xe9"
"""The mask. No zeros: an all-zero one might be a short cut for a server."""

CANDIDATES = 8
"""Addresses in an offer. So many make it 1.9 kB long."""

AGENT = "Python/3.11 websockets/17.4"


class Frame(NamedTuple):
    """A frame that was received.

    Attributes:
        first: Its first byte: opcode and flags.
        payload: Where its payload starts.
        end: Where the next frame starts.
    """

    first: int
    payload: int
    end: int


def masked(opcode: int, payload: bytes, *, compressed: bool = False) -> bytes:
    """A whole frame as a client sends it."""
    length = len(payload)
    if length <= SMALL:
        size = bytes((MASKED | length,))
    elif length < 1 << 16:
        size = bytes((MASKED | SIZE_16,)) + length.to_bytes(2, "big")
    else:
        size = bytes((MASKED | SIZE_64,)) + length.to_bytes(8, "big")
    mask = (KEY * (length // 4 + 1))[:length]
    hidden = int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")
    first = FINAL | opcode | (COMPRESSED if compressed else 0)
    return bytes((first,)) + size + KEY + hidden.to_bytes(length, "big")


def text(payload: bytes, window: int | None) -> bytes:
    """A text frame.

    It is compressed as the first message of a connection: such a frame makes sense at
    any later time, too, and so can be sent again and again.

    Args:
        payload: The text.
        window: Bits of the window for permessage-deflate; None without it.
    """
    if window is None:
        return masked(TEXT, payload)
    # The websockets library asks for this level of memory.
    deflate = zlib.compressobj(wbits=-window, memLevel=5)
    packed = deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return masked(TEXT, packed[:-4], compressed=True)


def inflater() -> Callable[[bytes], bytes]:
    """Gives the texts of compressed frames, which must come in order and complete."""
    stream = zlib.decompressobj(wbits=-15)
    return lambda payload: stream.decompress(payload + b"\x00\x00\xff\xff")


def parse(data: bytes) -> tuple[list[Frame], int]:
    """Find the whole frames that a relay sent.

    Returns:
        The frames, and where the rest starts.
    """
    found = []
    at, size = 0, len(data)
    while size - at >= 2:  # noqa: PLR2004
        first, length = data[at], data[at + 1]
        payload = at + 2
        if length == SIZE_16:
            payload += 2
            length = int.from_bytes(data[at + 2 : payload], "big")
        elif length == SIZE_64:
            payload += 8
            length = int.from_bytes(data[at + 2 : payload], "big")
        end = payload + length
        if end > size:
            break
        found.append(Frame(first, payload, end))
        at = end
    return found, at


def upgrade(host: str, path: str, number: int, bearer: str | None) -> bytes:
    """The request that opens a WebSocket, as the websockets library writes it.

    Args:
        host: Host and port of the relay.
        path: Where it is served.
        number: Makes the key of this one its own.
        bearer: A token, or None.
    """
    key = b64encode(number.to_bytes(16, "big")).decode()
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        *([f"Authorization: Bearer {bearer}"] if bearer else []),
        f"User-Agent: {AGENT}",
    ]
    return "\r\n".join((*lines, "", "")).encode()


def window(head: bytes) -> int | None:
    """What a relay's answer to the request says of compression.

    Returns:
        Bits of the client's window, or None if messages stay as they are.
    """
    if b"permessage-deflate" not in head:
        return None
    bits = re.search(rb"client_max_window_bits=(\d+)", head)
    return int(bits[1]) if bits else 15


def registration(uuid: str) -> bytes:
    """The message that registers."""
    return json.dumps(
        {
            "name": f"node-{uuid[:4]}.cluster.example",
            "uuid": uuid,
            "message_type": "relay_registration",
        }
    ).encode()


def message(source: str, peer: str, kind: str = "offer") -> bytes:
    """The message that offers a connection to a peer, or answers: about 1.9 kB.

    The description is as ProxyStore writes it, JSON within JSON.

    Args:
        source: UUID of the sender.
        peer: UUID of the receiver.
        kind: ``offer`` or ``answer``.
    """
    session = {"sdp": _session(random.Random(source)), "type": kind}  # noqa: S311
    return json.dumps(
        {
            "source_uuid": source,
            "source_name": f"node-{source[:4]}.cluster.example",
            "peer_uuid": peer,
            "description_type": kind,
            "description": json.dumps(session),
            "error": None,
            "message_type": "peer_connection",
        }
    ).encode()


def sender(message: bytes) -> bytes:
    """UUID of the sender of a message: its first field, as ProxyStore writes it."""
    return message[17:53]


def _session(rng: random.Random) -> str:
    """A session description with the fields of aiortc's."""
    lines = [
        "v=0",
        "o=- 4004537755 4004537755 IN IP4 0.0.0.0",
        "s=-",
        "t=0 0",
        "a=group:BUNDLE 0",
        "a=msid-semantic:WMS *",
        "m=application 38254 UDP/DTLS/SCTP webrtc-datachannel",
        "c=IN IP4 192.0.2.2",
        "a=mid:0",
        "a=sctp-port:5000",
        "a=max-message-size:262144",
        *(
            f"a=candidate:{rng.getrandbits(128):032x} 1 udp 2130706431 "
            f"192.0.2.{number} {rng.randint(32768, 60999)} typ host"
            for number in range(CANDIDATES)
        ),
        "a=end-of-candidates",
        f"a=ice-ufrag:{rng.getrandbits(16):04x}",
        f"a=ice-pwd:{rng.getrandbits(88):022x}",
    ]
    for name, size in (("256", 32), ("384", 48), ("512", 64)):
        digits = ":".join(f"{byte:02X}" for byte in rng.randbytes(size))
        lines.append(f"a=fingerprint:sha-{name} {digits}")
    return "\r\n".join((*lines, "a=setup:actpass", ""))
