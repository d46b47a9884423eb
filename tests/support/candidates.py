"""Session descriptions with candidates."""

from __future__ import annotations


def candidate(address: str, kind: str = "host") -> str:
    """A candidate as a line of a session description."""
    return f"a=candidate:1 1 udp 2130706431 {address} 4711 typ {kind}"


def description(*lines: str) -> str:
    """A session description for ICE, with further lines."""
    return "\r\n".join(
        ["v=0", "m=application 9 UDP/DTLS/SCTP x", "a=ice-ufrag:x", *lines, ""]
    )
