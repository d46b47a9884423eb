"""Real session descriptions, and the STUN and TURN server that they come from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aioice import stun
from aioice.turn import make_integrity_key
from aiortc import (
    RTCConfiguration,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
)

OWN, MAPPED, RELAYED = "127.0.0.7", "203.0.113.5", "203.0.113.9"
"""Addresses of a client: that of its interface, as the STUN server sees it, and at the
TURN server."""

REALM, NONCE = "example.org", b"nonce"

USER, PASSWORD = "user", "password"


class IceServer(asyncio.DatagramProtocol):
    """Answers binding and allocation requests (RFC 8489, RFC 8656); relays nothing."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        asked = stun.parse_message(data)
        is_binding = asked.message_method == stun.Method.BINDING
        is_known = is_binding or "USERNAME" in asked.attributes
        answer = stun.Message(
            asked.message_method,
            stun.Class.RESPONSE if is_known else stun.Class.ERROR,
            asked.transaction_id,
        )
        if not is_known:
            answer.attributes["ERROR-CODE"] = (401, "Unauthorized")
            answer.attributes["NONCE"] = NONCE
            answer.attributes["REALM"] = REALM
        else:
            answer.attributes["XOR-MAPPED-ADDRESS"] = (MAPPED, addr[1])
        if is_known and not is_binding:
            answer.attributes["XOR-RELAYED-ADDRESS"] = (RELAYED, 49152)
            answer.attributes["LIFETIME"] = asked.attributes["LIFETIME"]
            answer.add_message_integrity(make_integrity_key(USER, REALM, PASSWORD))
        self.transport.sendto(bytes(answer), addr)


@asynccontextmanager
async def ice_server() -> AsyncIterator[int]:
    """Run the server on the loopback interface; gives its port."""
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        IceServer, local_addr=("127.0.0.1", 0)
    )
    try:
        yield transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


async def descriptions(*schemes: str) -> tuple[str, str]:
    """The SDP of a stock client's offer and of its answer.

    Both clients ask a server for addresses by the given schemes, ``stun`` or ``turn``.
    """
    async with ice_server() as port:
        servers = [
            RTCIceServer(f"{scheme}:127.0.0.1:{port}", USER, PASSWORD)
            for scheme in schemes
        ]
        one, other = (RTCPeerConnection(RTCConfiguration(servers)) for _ in range(2))
        try:
            one.createDataChannel("p2p")
            await one.setLocalDescription(await one.createOffer())
            offer = one.localDescription.sdp
            await other.setRemoteDescription(RTCSessionDescription(offer, "offer"))
            await other.setLocalDescription(await other.createAnswer())
            return offer, other.localDescription.sdp
        finally:
            await other.close()
            await one.close()
