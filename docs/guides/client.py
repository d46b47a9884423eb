"""Register with a relay, answer each offer, and perhaps send one.

Usage: client.py URL [UUID of a peer]
"""

from __future__ import annotations

import json
import sys
from typing import Any
from uuid import UUID

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import react

from proxyrelay.client import PeerConnection, Rejected, RelayClient


def description(kind: str) -> str:
    """A session description; a real one comes from a WebRTC library."""
    return json.dumps({"sdp": "v=0", "type": kind})


async def main(reactor: Any, url: str, peer: str | None = None) -> None:
    """Run until the relay rejects the client, or until Ctrl-C."""

    def received(message: PeerConnection) -> None:
        source = message.source_uuid
        if message.error is not None:
            print("came back:", message.error, flush=True)
        elif message.description_type == "offer":
            print("offer from", source, flush=True)
            client.answer(UUID(source), description("answer"))
        else:
            print("answer from", source, flush=True)

    def lost(why: Exception, delay: float) -> None:
        print(f"lost: {why}; again in {delay:.1f} s", flush=True)

    try:
        other = None if peer is None else UUID(peer)
        client = RelayClient(reactor, url, received, name="example", lost=lost)
    except ValueError as error:
        sys.exit(f"wrong argument: {error}")
    reactor.addSystemEventTrigger("before", "shutdown", client.stop)
    client.start()
    try:
        await client.registered()
        print("registered as", client.uuid, flush=True)
        if other is not None:
            client.offer(other, description("offer"))
        await client.ended()
    except CancelledError:
        print("stopped")
    except Rejected as why:
        sys.exit(f"rejected: {why}")


if __name__ == "__main__":
    react(lambda *given: Deferred.fromCoroutine(main(*given)), sys.argv[1:])
