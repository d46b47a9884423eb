"""What the relay answers: each row of the table, over TCP and over TLS.

The client is the library that the stock client uses.
"""

from __future__ import annotations

import json
import socket
from typing import Any

import msgspec
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from proxyrelay.auth import Authenticator
from proxyrelay.config import Config
from tests.support.recording import A, B, C, offer, registration
from tests.support.served import (
    PATIENCE,
    HeaderAuthenticator,
    RelayTestCase,
    scenario,
)

UNKNOWN = (
    "Cannot forward peer connection message to peer {} because this peer is not "
    "registered this relay server."
)
DUPLICATE = (
    "Relay received a registration with the same ID. This might mean that the "
    "endpoint is running in multiple locations."
)


class Contract:
    """The behaviour, whatever carries it."""

    config = Config(host="127.0.0.1", port=0, max_message_bytes=200_000)

    def authenticator(self) -> Authenticator:
        return HeaderAuthenticator()

    def closed(self: Any, client: ClientConnection) -> tuple[int, str]:
        """The code and reason that a client is closed with, and nothing else."""
        with self.assertRaises(ConnectionClosed) as caught:
            client.recv(PATIENCE)
        received = caught.exception.rcvd
        assert received is not None
        return received.code, received.reason
