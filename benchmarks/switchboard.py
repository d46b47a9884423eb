"""A switchboard that registers and forwards and does nothing else.

It shows how fast a relay in this language can be: picows, a WebSocket server in Cython,
on uvloop, with orjson. It checks nothing and is of no other use.

    python -m benchmarks.switchboard PORT [CERTFILE KEYFILE]
"""

from __future__ import annotations

import ssl
import sys

import orjson
import uvloop
from picows import (
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    ws_create_server,
)

ACCEPTED = (
    b'{"success": true, "message": null, "error": false, '
    b'"message_type": "relay_response"}'
)

_connected: dict[str, WSTransport] = {}


class Line(WSListener):
    """A client."""

    uuid = ""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Register, or forward the text as it came."""
        if frame.msg_type is WSMsgType.CLOSE:
            transport.disconnect()
        elif frame.msg_type is WSMsgType.TEXT:
            text = frame.get_payload_as_bytes()
            message = orjson.loads(text)
            if message["message_type"] == "peer_connection":
                _connected[message["peer_uuid"]].send(WSMsgType.TEXT, text)
            else:
                self.uuid = message["uuid"]
                _connected[self.uuid] = transport
                transport.send(WSMsgType.TEXT, ACCEPTED)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Forget the client."""
        if _connected.get(self.uuid) is transport:
            del _connected[self.uuid]


def _line(_: WSUpgradeRequest) -> Line:
    return Line()


async def serve(port: int, files: list[str]) -> None:
    """Serve until the process is ended.

    Args:
        port: On the loopback interface.
        files: Certificate and key, or nothing.
    """
    tls = None
    if files:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(*files)
    server = await ws_create_server(
        _line, "127.0.0.1", port, ssl=tls, backlog=4096, reuse_address=True
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2:]))
