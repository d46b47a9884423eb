"""Clients of a relay that cost far less than the relay.

One loop over epoll runs them all. What they say is prepared in advance.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from benchmarks import frames

PATIENCE = 30.0
"""Seconds without anything from a relay after which a wait for it fails."""

CHUNK = 256 * 1024
"""Bytes that are read at once."""

_IN_PROGRESS = {0, errno.EINPROGRESS}
_NEEDED_TO_RESET = struct.pack("ii", 1, 0)
_SEND, _RECEIVE = select.EPOLLOUT, select.EPOLLIN

_numbers = itertools.count(int.from_bytes(os.urandom(12), "big"))


class Failed(Exception):
    """A relay does not do what a real client needs."""


@dataclass(frozen=True)
class Target:
    """A relay.

    Attributes:
        url: Its address, ws:// or wss://.
        tls: How it is trusted; None for ws://.
        bearer: A token, if it wants one.
    """

    url: str
    tls: ssl.SSLContext | None = None
    bearer: str | None = None

    @property
    def host(self) -> str:
        """Name or address."""
        return urlsplit(self.url).hostname or ""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return self.host, urlsplit(self.url).port or (443 if self.tls else 80)

    def upgrade(self) -> bytes:
        """A request that opens a WebSocket."""
        parts = urlsplit(self.url)
        return frames.upgrade(
            parts.netloc, parts.path or "/", next(_numbers), self.bearer
        )


def trusting(cafile: str | None = None, *, anything: bool = False) -> ssl.SSLContext:
    """What a client needs for wss://.

    Args:
        cafile: The authority to trust instead of the system's.
        anything: Whether to trust everybody.
    """
    context = ssl.create_default_context(cafile=cafile)
    if anything:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Wire:
    """A TCP connection.

    Raises:
        OSError: It ends, here or in any method.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unsent = b""
        code = self._socket.connect_ex(address)
        if code not in _IN_PROGRESS:
            self._socket.close()
            raise OSError(code, os.strerror(code))

    @property
    def number(self) -> int:
        """The file descriptor."""
        return self._socket.fileno()

    @property
    def waits(self) -> bool:
        """Whether something is still to be sent."""
        return bool(self._unsent)

    def check(self) -> None:
        """Raise if the connection could not be made."""
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))

    def shake(self) -> bool:
        """Go on until bytes can be sent; whether that is so."""
        return True

    def send(self, data: bytes) -> None:
        """Send bytes, if necessary later, when `flush` is called."""
        self._push(data)

    def receive(self) -> bytes:
        """What has come.

        Raises:
            ConnectionResetError: Nothing will come any more.
            BlockingIOError: Nothing has come yet.
        """
        data = self._socket.recv(CHUNK)
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "ended by the relay")
        return data

    def flush(self) -> None:
        """Send what could not be sent before."""
        data, self._unsent = self._unsent, b""
        self._push(data)

    def _push(self, data: bytes) -> None:
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._unsent = data[sent:]

    def close(self, reset: bool = False) -> None:
        """End the connection.

        Args:
            reset: Whether at once, so that the port is free again.
        """
        if reset:
            self._socket.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, _NEEDED_TO_RESET
            )
        self._socket.close()


class SecureWire(Wire):
    """The same with TLS. What is sent at once shares records of up to 16 kB."""

    def __init__(self, address: tuple[str, int], tls: ssl.SSLContext) -> None:
        super().__init__(address)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = tls.wrap_bio(self._in, self._out, server_hostname=address[0])

    def shake(self) -> bool:
        """Go on with the TLS handshake; whether it is done."""
        with contextlib.suppress(BlockingIOError):
            self._in.write(super().receive())
        try:
            self._tls.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            done = False
        if self._out.pending:
            self._push(self._out.read())
        return done

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self._tls.write(data)
        self._push(self._out.read())

    def receive(self) -> bytes:
        """What has come; possibly nothing, if it was TLS's own."""
        if not self._in.pending:
            self._in.write(super().receive())
        pieces = []
        # The last record may be incomplete.
        with contextlib.suppress(ssl.SSLWantReadError):
            while self._in.pending:
                pieces.append(self._tls.read(CHUNK))
        return b"".join(pieces)


class Client:
    """One client of a relay: it opens, upgrades, registers, and then moves frames.

    Args:
        hub: Tells it when something can be done.
        target: The relay.
        uuid: Whom to register as.

    Attributes:
        ready: Whether it is registered.
        window: Bits of the client's window, if the relay takes compressed messages.
        began: When the connection was begun, in seconds.
        on_ready: Called when it is registered.
        on_texts: Called with the texts that came.
        on_lost: Called with the cause when the relay ends the connection.
        pongs: Answers to pings.
    """

    def __init__(self, hub: Hub, target: Target, uuid: str) -> None:
        self.uuid = uuid
        self.ready = False
        self.window: int | None = None
        self.on_ready: Callable[[Client], None] = _nothing
        self.on_texts: Callable[[list[bytes]], None] = _nothing
        self.on_lost: Callable[[Client, str], None] = _lost
        self.pongs = 0
        self._hub = hub
        self._target = target
        self._step = self._connect
        self._rest = b""
        self._inflate = frames.inflater()
        self.began = time.perf_counter()
        if target.tls is None:
            self._wire = Wire(target.address)
        else:
            self._wire = SecureWire(target.address, target.tls)
        self._number = self._wire.number
        hub.add(self._number, self.handle)

    def handle(self, events: int) -> None:
        """Do what can be done now."""
        try:
            if events & _SEND:
                self._flush()
            self._step()
        except (BlockingIOError, InterruptedError):
            pass
        except (OSError, ValueError) as error:
            self._lose(str(error))

    def send(self, frame: bytes) -> None:
        """Send a prepared frame, or more than one."""
        try:
            self._wire.send(frame)
        except OSError as error:
            self._lose(str(error))
            return
        if self._wire.waits:
            self._hub.watch(self._number, _RECEIVE | _SEND)

    def close(self, reset: bool = False) -> None:
        """End the connection without a word.

        Args:
            reset: Whether by a TCP reset.
        """
        if self._step != self._over:
            self._step = self._over
            self._hub.remove(self._number)
            self._wire.close(reset)

    def _flush(self) -> None:
        if self._wire.waits:
            self._wire.flush()
            if not self._wire.waits:
                self._hub.watch(self._number, _RECEIVE)

    def _lose(self, why: str) -> None:
        self.ready = False
        self.close()
        self.on_lost(self, why)

    # -- one step after the other

    def _connect(self) -> None:
        self._wire.check()
        self._hub.watch(self._number, _RECEIVE)
        self._step = self._shake
        self._shake()

    def _shake(self) -> None:
        if self._wire.shake():
            self._step = self._upgraded
            self.send(self._target.upgrade())

    def _upgraded(self) -> None:
        self._rest += self._wire.receive()
        head, end, rest = self._rest.partition(b"\r\n\r\n")
        if not end:
            return
        if not head.startswith(b"HTTP/1.1 101 "):
            raise ValueError(head.partition(b"\r\n")[0].decode("latin-1"))
        self.window = frames.window(head)
        self._rest = rest
        self._step = self._registered
        self.send(frames.text(frames.registration(self.uuid), self.window))

    def _registered(self) -> None:
        texts = self._texts()
        if texts and not self.ready:
            if b'"success": true' not in texts[0]:
                raise ValueError("not registered: " + texts[0].decode())
            self.ready = True
            self._step = self._read
            self.on_ready(self)

    def _read(self) -> None:
        texts = self._texts()
        if texts:
            self.on_texts(texts)

    def _over(self) -> None:
        pass

    def _texts(self) -> list[bytes]:
        """Take frames; gives the texts among them."""
        data = self._wire.receive()
        if self._rest:
            data = self._rest + data
        found, end = frames.parse(data)
        self._rest = data[end:]
        texts = []
        for first, payload, after in found:
            opcode = first & 0x0F
            if opcode == frames.TEXT:
                text = data[payload:after]
                texts.append(self._inflate(text) if first & frames.COMPRESSED else text)
            elif opcode == frames.PING:
                self.send(frames.masked(frames.PONG, data[payload:after]))
            elif opcode == frames.PONG:
                self.pongs += 1
            else:
                reason = data[payload + 2 : after].decode(errors="replace")
                raise ValueError(f"closed by the relay: {reason}")
        return texts


def _nothing(_: object) -> None:
    pass


def _lost(client: Client, why: str) -> None:
    raise Failed(f"client {client.uuid}: {why}")


class Hub:
    """Calls whoever can go on."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}

    def add(self, number: int, handler: Callable[[int], None]) -> None:
        """Watch a file descriptor that is being connected."""
        self._handlers[number] = handler
        self._epoll.register(number, _SEND)

    def watch(self, number: int, events: int) -> None:
        """Watch it for something else."""
        self._epoll.modify(number, events)

    def remove(self, number: int) -> None:
        """Watch it no longer."""
        del self._handlers[number]
        self._epoll.unregister(number)

    def turn(self, timeout: float) -> bool:
        """Wait at most so many seconds; whether anything happened."""
        happened = self._epoll.poll(max(timeout, 0))
        handlers = self._handlers
        for number, events in happened:
            handler = handlers.get(number)
            if handler is not None:
                handler(events)
        return bool(happened)

    def until(self, done: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Go on until something is so.

        Args:
            done: Tells.
            patience: Seconds that nothing may happen.

        Raises:
            Failed: Nothing happened for too long.
        """
        while not done():
            if not self.turn(patience):
                raise Failed(f"nothing from the relay for {patience:g} s")
