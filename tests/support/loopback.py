"""Small servers on the loopback interface that answer as a test wants."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import socket
import ssl
import threading
from collections.abc import Callable

from tests.support.relay_end import MAGIC, server_frame

PATIENCE = 20.0
"""Seconds after which a server gives up: a failure, not a pace."""

Handler = Callable[[socket.socket], None]


class Loopback:
    """A server in threads. Each connection is handed to a handler, and closed then."""

    def __init__(self, handler: Handler, context: ssl.SSLContext | None = None) -> None:
        self._handler = handler
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE)
        with sock, contextlib.suppress(OSError):
            if self._context is None:
                self._handler(sock)
                return
            with self._context.wrap_socket(sock, server_side=True) as secured:
                self._handler(secured)

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(PATIENCE)
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)


def read_head(sock: socket.socket) -> bytes:
    """Read a request up to its empty line."""
    head = b""
    while b"\r\n\r\n" not in head:
        data = sock.recv(4096)
        if not data:
            raise ConnectionResetError
        head += data
    return head


def says(answer: bytes) -> Handler:
    """Answers each request with some bytes."""

    def handler(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(answer)

    return handler


def hangs(sock: socket.socket) -> None:
    """Answers nothing until the peer leaves."""
    while sock.recv(4096):
        pass


def upgrades(sock: socket.socket) -> None:
    """Completes the opening handshake."""
    found = re.search(rb"(?i)Sec-WebSocket-Key: (\S+)", read_head(sock))
    assert found is not None
    digest = hashlib.sha1(found[1] + MAGIC, usedforsecurity=False).digest()
    sock.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Accept: "
        + base64.b64encode(digest)
        + b"\r\n\r\n"
    )


def replies(*payloads: bytes, opcode: int = 1) -> Handler:
    """Upgrades, sends a text after each frame that it reads, and then hangs."""

    def handler(sock: socket.socket) -> None:
        upgrades(sock)
        for payload in payloads:
            if not sock.recv(4096):
                return
            sock.sendall(server_frame(opcode, payload))
        hangs(sock)

    return handler


def tunnels(sock: socket.socket) -> None:
    """Is an HTTP proxy that takes each CONNECT, and forwards in small pieces."""
    found = re.match(rb"CONNECT (\S+):(\d+) ", read_head(sock))
    assert found is not None
    place = (found[1].decode(), int(found[2]))
    with socket.create_connection(place, PATIENCE) as further:
        sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        back = threading.Thread(target=_copy, args=(further, sock), daemon=True)
        back.start()
        _copy(sock, further)
        back.join(PATIENCE)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(100):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
