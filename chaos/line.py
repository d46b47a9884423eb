"""A connection to the relay of which nothing is hidden, to be used well or badly."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import ssl
import struct
from collections import deque
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from benchmarks import frames
from benchmarks.client import CHUNK, trusting

HOST = "127.0.0.1"
"""Where the relay listens."""

HEAD_CEILING = 64 * 1024
"""Bytes of the longest answer to a request."""

NORMAL = 1000
"""How a client closes that has done what it came for."""

NO_CODE = 1005
"""The code of a close frame that has none (RFC 6455, section 7.1.5)."""

LATE: tuple[type[Exception], ...] = (TimeoutError, asyncio.TimeoutError)
"""What `asyncio.wait_for` raises: Python 3.10 has two."""

_RESET = struct.pack("ii", 1, 0)

_numbers = itertools.count(int.from_bytes(os.urandom(12), "big"))


class Closed(Exception):
    """The relay has refused the request, or has sent a close frame.

    Attributes:
        code: The HTTP status, or the close code.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code


@dataclass(frozen=True)
class Place:
    """A relay.

    Attributes:
        port: Where it listens, for TLS.
        root: File of the authority that has issued its certificate.
    """

    port: int
    root: Path

    def trust(self) -> ssl.SSLContext:
        """What a client needs."""
        return trusting(str(self.root))

    def upgrade(self, bearer: str | None) -> bytes:
        """A new request that opens a WebSocket, as the websockets library writes it."""
        return frames.upgrade(f"{HOST}:{self.port}", "/", next(_numbers), bearer)


class Line:
    """A TCP connection, and what was built upon it.

    Whatever waits for the relay raises OSError when the connection has ended.

    Args:
        place: The relay.
        trust: The own TLS.
        unconnected: A socket.

    Attributes:
        heard: Seconds of the loop's clock when bytes came last.
    """

    def __init__(
        self, place: Place, trust: ssl.SSLContext, unconnected: socket.socket
    ) -> None:
        self._place = place
        self._socket = unconnected
        self._loop = asyncio.get_running_loop()
        self.heard = self._loop.time()
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = trust.wrap_bio(self._in, self._out, server_hostname=HOST)
        self._sending = asyncio.Lock()
        self._rest = b""
        self._frames: deque[tuple[int, bytes]] = deque()

    @classmethod
    async def open(
        cls, place: Place, trust: ssl.SSLContext, source: str = HOST, window: int = 0
    ) -> Line:
        """Connect.

        Args:
            place: The relay.
            trust: The own TLS.
            source: The own address.
            window: Bytes that the kernel keeps of what is not read; 0 for as usual.
        """
        opening = socket.socket()
        line = cls(place, trust, opening)
        try:
            opening.setblocking(False)
            opening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if window:
                opening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            if source != HOST:
                opening.bind((source, 0))
            await line._loop.sock_connect(opening, (HOST, place.port))
        except BaseException:
            line.end()
            raise
        return line

    # -- below WebSocket

    def hello(self) -> bytes:
        """Begin TLS: gives the first bytes of it, which are still to be sent."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self._out.read()

    async def shake(self, pause: float = 0.0) -> None:
        """Do the TLS handshake.

        Args:
            pause: Seconds after each byte that is sent; 0 for all at once.
        """
        await self.push(self.hello(), pause)
        done = False
        while not done:
            self._in.write(await self._raw())
            try:
                self._tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            await self.push(self._out.read(), pause)

    async def push(self, data: bytes, pause: float = 0.0) -> None:
        """Send bytes as they are, below TLS."""
        if not pause:
            await self._loop.sock_sendall(self._socket, data)
            return
        for byte in data:
            await self._loop.sock_sendall(self._socket, bytes((byte,)))
            await asyncio.sleep(pause)

    async def send(self, data: bytes, pause: float = 0.0) -> None:
        """Send bytes within TLS, in a record."""
        async with self._sending:
            for piece in [bytes((byte,)) for byte in data] if pause else [data]:
                self._tls.write(piece)
                await self.push(self._out.read())
                if pause:
                    await asyncio.sleep(pause)

    async def receive(self) -> bytes:
        """What has come within TLS."""
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                data = self._tls.read(CHUNK)
                if not data:
                    raise ConnectionResetError("TLS is ended")
                return data
            self._in.write(await self._raw())

    async def _raw(self) -> bytes:
        data = await self._loop.sock_recv(self._socket, CHUNK)
        if not data:
            raise ConnectionResetError("ended")
        self.heard = self._loop.time()
        return data

    async def drained(self) -> str:
        """Read on below TLS until the relay ends the connection."""
        with contextlib.suppress(OSError):
            while True:
                await self._raw()
        return "dropped"

    def say_farewell(self) -> bytes:
        """End TLS in one direction: gives the bytes, which are still to be sent."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        return self._out.read()

    def half_close(self) -> None:
        """Send nothing any more, and receive on."""
        self._socket.shutdown(socket.SHUT_WR)

    def end(self, reset: bool = False) -> None:
        """End the connection, at once. Nobody may be waiting for it.

        Args:
            reset: Whether without a word.
        """
        number = self._socket.fileno()
        if number < 0:
            return
        # What was cancelled in this turn of the loop still watches it.
        self._loop.remove_reader(number)
        self._loop.remove_writer(number)
        if reset:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._socket.close()

    # -- WebSocket

    async def opened(self) -> None:
        """Wait for the answer to a request.

        Raises:
            Closed: The relay refuses it.
        """
        while b"\r\n\r\n" not in self._rest and len(self._rest) < HEAD_CEILING:
            self._rest += await self.receive()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        status = int(head.split(maxsplit=2)[1])
        if status != HTTPStatus.SWITCHING_PROTOCOLS:
            raise Closed(status, "HTTP")

    async def frame(self) -> tuple[int, bytes]:
        """The next frame: its opcode and payload."""
        while not self._frames:
            found, end = frames.parse(self._rest)
            for first, start, stop in found:
                self._frames.append((first & 0x0F, self._rest[start:stop]))
            self._rest = self._rest[end:]
            if not found:
                self._rest += await self.receive()
        return self._frames.popleft()

    async def text(self) -> bytes:
        """The next text; pings are answered on the way.

        Raises:
            Closed: The relay closes. It is answered.
        """
        while True:
            opcode, payload = await self.frame()
            if opcode == frames.PING:
                await self.send(frames.masked(frames.PONG, payload))
            elif opcode == frames.CLOSE:
                with contextlib.suppress(OSError):
                    await self.send(frames.masked(frames.CLOSE, payload[:2]))
                code = int.from_bytes(payload[:2], "big") or NO_CODE
                raise Closed(code, payload[2:].decode(errors="replace"))
            elif opcode == frames.TEXT:
                return payload

    async def enter(self, bearer: str | None, uuid: str) -> None:
        """Do all that it takes to be registered.

        Raises:
            Closed: The relay does not want it.
        """
        await self.shake()
        await self.send(self._place.upgrade(bearer))
        await self.opened()
        await self.register(uuid)

    async def register(self, uuid: str) -> None:
        """Register, and wait for the answer.

        Raises:
            Closed: The relay does not want it.
        """
        await self.send(frames.masked(frames.TEXT, frames.registration(uuid)))
        answer = await self.text()
        if b'"success": true' not in answer:
            raise Closed(0, f"not registered: {answer.decode(errors='replace')}")

    async def goodbye(self) -> None:
        """Close, and wait for the relay's answer."""
        await self.send(frames.masked(frames.CLOSE, NORMAL.to_bytes(2, "big")))
        with contextlib.suppress(Closed, OSError):
            while True:
                await self.text()

    async def ended(self) -> None:
        """Read on until the relay ends TLS, and end it, too: the relay waits for it."""
        with contextlib.suppress(OSError):
            while True:
                await self.receive()
        with contextlib.suppress(OSError):
            await self.push(self.say_farewell())
        await self.drained()

    async def outcome(self) -> str:
        """Read on until the relay ends the connection: its close code, or "dropped"."""
        try:
            while True:
                await self.text()
        except Closed as closed:
            await self.ended()
            return str(closed.code)
        except OSError:
            return "dropped"


class PlainLine(Line):
    """The same without TLS."""

    async def shake(self, pause: float = 0.0) -> None:
        """Do nothing."""

    async def send(self, data: bytes, pause: float = 0.0) -> None:
        """Send bytes."""
        async with self._sending:
            await self.push(data, pause)

    async def receive(self) -> bytes:
        """What has come."""
        return await self._raw()
