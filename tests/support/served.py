"""A relay on the reactor of the tests, with clients that block in a thread.

The relay runs in the main thread, as it does in production; a scenario runs in
another one and talks to it through real sockets. Deadlines run on a `Clock`, so
that nothing waits for one.
"""

from __future__ import annotations

import asyncio
import functools
import json
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

import msgspec
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import blockingCallFromThread, deferToThread
from twisted.trial.unittest import TestCase
from websockets.asyncio.client import ClientConnection, connect

from proxyrelay.auth import Authenticator
from proxyrelay.auth.anonymous import AnonymousAuthenticator
from proxyrelay.config import Config, Offers
from proxyrelay.service.relay_service import RelayService
from proxyrelay.switchboard.delivery import SELF
from proxyrelay.switchboard.events import Event
from proxyrelay.switchboard.user import User
from proxyrelay.websocket.protocol import RelayProtocol
from tests.support.certificates import Authority
from tests.support.clock import EagerClock
from tests.support.recording import A, RecordingObserver, offer, registration

reactor: Any = _reactor

PATIENCE = 20.0
"""Seconds after which a client that blocks gives up: a failure, not a pace."""

P = ParamSpec("P")
Self = TypeVar("Self", bound="RelayTestCase")


class StillAuthenticator:
    """Has nothing to start or stop."""

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass


class PendingAuthenticator(StillAuthenticator):
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.pending: list[Deferred[User]] = []
        self.cancelled = 0

    def authenticate(self, headers: Mapping[str, str], source: str) -> Deferred[User]:
        def cancel(_: object) -> None:
            self.cancelled += 1

        pending: Deferred[User] = Deferred(cancel)
        self.pending.append(pending)
        return pending


class HeaderAuthenticator(StillAuthenticator):
    """Takes the user from a header, for tests with several users."""

    def authenticate(self, headers: Mapping[str, str], source: str) -> Deferred[User]:
        return succeed(User(headers.get("x-user", "nobody")))


class Client:
    """An open connection of a loop in another thread, for a thread that blocks."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, connection: ClientConnection
    ) -> None:
        self._loop = loop
        self.connection = connection

    def _wait(self, awaitable: Awaitable[Any]) -> Any:
        async def bounded() -> Any:
            return await asyncio.wait_for(awaitable, PATIENCE)

        return asyncio.run_coroutine_threadsafe(bounded(), self._loop).result()

    def send(self, message: Any, text: bool | None = None) -> None:
        self._wait(self.connection.send(message, text=text))

    def recv(self) -> Any:
        return self._wait(self.connection.recv())

    def ping(self) -> None:
        async def answered() -> None:
            await (await self.connection.ping())

        self._wait(answered())

    def close(self, code: int = 1000, reason: str = "") -> None:
        self._wait(self.connection.close(code, reason))

    def hang_up(self) -> None:
        async def drop() -> None:
            self.connection.transport.abort()
            await self.connection.wait_closed()

        self._wait(drop())


class Loop:
    """An asyncio loop in a thread of its own.

    The library's client for threads reads and writes a TLS connection at the same time,
    which Python's ``ssl`` survives from 3.13 on only.
    """

    def __init__(self) -> None:
        self.asyncio = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.asyncio.run_forever)
        self._thread.start()

    def connect(self, url: str, **options: Any) -> Client:
        async def opened() -> ClientConnection:
            return await connect(url, proxy=None, **options)

        opening = asyncio.run_coroutine_threadsafe(opened(), self.asyncio)
        return Client(self.asyncio, opening.result(PATIENCE))

    def stop(self) -> None:
        self.asyncio.call_soon_threadsafe(self.asyncio.stop)
        self._thread.join(PATIENCE)
        self.asyncio.close()


def scenario(
    method: Callable[Concatenate[Self, P], None],
) -> Callable[Concatenate[Self, P], Deferred[None]]:
    """Run a test in a thread, and check the registry after it."""

    @functools.wraps(method)
    def run(self: Self, /, *args: P.args, **kwargs: P.kwargs) -> Deferred[None]:
        def blocking() -> None:
            try:
                method(self, *args, **kwargs)
                self.check()
            finally:
                self.hang_up()

        return deferToThread(blocking)

    return run


class RelayTestCase(TestCase):
    """Serves a relay on a free port of the loopback interface.

    Offers wait for none that cross them, since time stands still.
    """

    secure = False
    config = Config(host="127.0.0.1", port=0, offers=Offers(crossing=0))

    def authenticator(self) -> Authenticator:
        return AnonymousAuthenticator()

    def setUp(self) -> None:
        self.clock = EagerClock()
        self.observed = RecordingObserver()
        self.authority = Authority() if self.secure else None
        pair = self.authority.pair() if self.authority else None
        settings = self.config
        if pair is not None:
            settings = msgspec.structs.replace(settings, certfile="in memory")
        self.service = RelayService(
            *(settings, self.authenticator(), pair, reactor, self.clock),
            further=(self.observed,),
        )
        self.service.startService()
        self.addCleanup(self._stop)
        self.url = self.service.urls[0]
        self.port = int(self.url.rpartition(":")[2])
        self._clients: list[Client | socket.socket] = []
        self._loop: Loop | None = None

    def happened(self, *kinds: type[Event]) -> list[Any]:
        """The events of some kinds, in order."""
        return [event for event in self.observed.events if isinstance(event, kinds)]

    def _stop(self) -> Deferred[Any]:
        stopped = self.service.stopService()
        self.service.factory.abort_all()
        return stopped

    # -- in the reactor's thread

    def in_reactor(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call something where the relay runs, and wait for it."""
        return blockingCallFromThread(reactor, function, *args)

    def advance(self, seconds: float) -> None:
        self.in_reactor(self.clock.advance, seconds)

    def connections(self) -> list[RelayProtocol]:
        """All connections of the relay, in the order in which they arrived."""
        connections = self.service.factory.connections
        found: list[RelayProtocol] = self.in_reactor(list, connections)
        return sorted(found, key=lambda peer: peer.arrival)

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until something holds in the reactor's thread, turn by turn."""
        done: Deferred[None] = Deferred()
        done.addTimeout(PATIENCE, reactor)

        def look() -> None:
            if done.called:
                return
            if condition():
                done.callback(None)
            else:
                reactor.callLater(0.001, look)

        def start() -> Deferred[None]:
            look()
            return done

        self.in_reactor(start)

    def check(self) -> None:
        """The registry is exactly the open, registered connections."""
        self.in_reactor(self._check)

    def _check(self) -> None:
        registered = {
            peer.registration.uuid: peer
            for peer in self.service.factory.connections
            if peer.registration is not None
        }
        registry = self.service.factory.registry
        self.assertEqual(
            {peer.registration.uuid: peer for peer in registry if peer.registration},
            registered,
        )
        self.assertEqual(len(registry), len(registered))
        for peer in registry:
            assert isinstance(peer, RelayProtocol)
            self.assertEqual(peer.state, RelayProtocol.STATE_OPEN)

    # -- in the scenario's thread

    def connect(self, **options: Any) -> Client:
        if self.authority is not None:
            options.setdefault("ssl", self.authority.client_context())
        if self._loop is None:
            self._loop = Loop()
        client = self._loop.connect(self.url, **options)
        self._clients.append(client)
        return client

    def registered(self, uuid: str, **options: Any) -> Client:
        client = self.connect(**options)
        client.send(registration(uuid).decode())
        self.assertIn('"success": true', client.recv())
        return client

    def assert_served(self, client: Client, uuid: str = A) -> None:
        """What a client offers to itself comes back, and nothing before it."""
        client.send(offer(uuid, uuid).decode())
        self.assertEqual(json.loads(client.recv())["error"], SELF.format(uuid))

    def raw(self, secure: bool | None = None) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        self._clients.append(plain)
        if self.authority is None or secure is False:
            return plain
        secured = self.authority.client_context().wrap_socket(
            plain, server_hostname="127.0.0.1"
        )
        self._clients.append(secured)
        return secured

    def read_to_end(self, connection: socket.socket) -> bytes:
        """All that the relay sends until it ends the connection."""
        received = b""
        try:
            while piece := connection.recv(65536):
                received += piece
        except (ConnectionError, ssl.SSLError):
            pass
        return received

    def hang_up(self) -> None:
        for client in self._clients:
            if isinstance(client, Client):
                client.hang_up()
            else:
                client.close()
        if self._loop is not None:
            self._loop.stop()


def upgrade(*lines: str) -> bytes:
    """The request of an opening handshake, with more header lines at its end."""
    head = [
        "GET / HTTP/1.1",
        "Host: relay.example",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        *lines,
    ]
    return "\r\n".join([*head, "", ""]).encode("latin-1")
