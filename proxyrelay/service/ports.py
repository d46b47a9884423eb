"""The ports that clients connect to."""

from __future__ import annotations

from collections.abc import Iterable
from socket import socket
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.tcp import Port
from twisted.logger import Logger
from twisted.python.failure import Failure

from proxyrelay.net import epoll, listening
from proxyrelay.net.epoll import EpollMultiplexer
from proxyrelay.net.tls_context import TlsContexts
from proxyrelay.net.tls_transport import TlsTransport
from proxyrelay.net.transport import DirectWriteTransport
from proxyrelay.websocket.continuity import Record, Suspended
from proxyrelay.websocket.factory import RelayFactory


class ClientPorts:
    """Listens for clients, and builds the transports of their connections.

    Args:
        sockets: Bound and listening. The reactor adopts them in `listen`.
        shared: Whether another process accepts from the very same sockets.
        contexts: None to serve without TLS.

    Attributes:
        sockets: Those that the reactor has not adopted yet.
        multiplexer: Watches the connections; None for the reactor.
    """

    _log = Logger()

    def __init__(
        self,
        factory: RelayFactory,
        sockets: Iterable[socket],
        shared: bool,
        contexts: TlsContexts | None,
        reactor: Any,
    ) -> None:
        self._factory = factory
        self._served = factory.behind_proxies
        self._shared = shared
        self._contexts = contexts
        self._reactor = reactor
        self._ports: list[Any] = []
        self.sockets = list(sockets)
        self.multiplexer: EpollMultiplexer | None = None
        if epoll.AVAILABLE:
            self.multiplexer = EpollMultiplexer(reactor, factory.outbox)

    @property
    def addresses(self) -> list[Any]:
        """Twisted's addresses of the ports, empty unless they listen."""
        return [port.getHost() for port in self._ports]

    def listen(self) -> None:
        """Accept connections."""
        for bound in self.sockets:
            port = self._reactor.adoptStreamPort(
                bound.fileno(), bound.family, self._served
            )
            port.transport = self._transport
            if isinstance(port, Port):
                self._factory.gate.guard(port)
            self._ports.append(port)
            bound.close()  # the reactor has its own descriptor of it
        self.sockets = []

    @property
    def descriptors(self) -> list[int]:
        """Descriptors of the sockets that the reactor has adopted."""
        return [port.fileno() for port in self._ports]

    def close(self, is_restart: bool = False) -> Deferred[Any]:
        """Stop accepting. Connections that wait to be accepted are not reset.

        Args:
            is_restart: Whether the next process accepts them.

        Returns:
            Fires when the ports are closed. A failure of it is logged.
        """
        for bound in self.sockets:
            bound.close()
        self._factory.gate.accept_backlog()
        shared = self._shared or is_restart
        closing = [
            maybeDeferred(self._close, port, shared).addErrback(self._failed)
            for port in self._ports
        ]
        self.sockets, self._ports = [], []
        return DeferredList(closing)

    def _close(self, port: Any, shared: bool) -> Any:
        if not isinstance(port, Port):
            return port.stopListening()
        return listening.retire(port, shared)

    def _failed(self, failure: Failure) -> None:
        self._log.failure("a port is not closed", failure)

    def stop(self) -> None:
        """Watch no connection any more: none is left."""
        if self.multiplexer is not None:
            self.multiplexer.stop()

    def revive(
        self,
        connected: socket,
        record: Record,
        suspended: Suspended | None = None,
        is_torn: bool = False,
    ) -> Any:
        """Go on with a connection of another process; see `RelayFactory.revive`."""

        def build(protocol: Any) -> DirectWriteTransport:
            try:
                client = connected.getpeername()
            except OSError:
                client = ("", 0)  # The connection is over: the first read tells.
            watch: Any = self.multiplexer or self._reactor
            port: Any = None
            return DirectWriteTransport(
                *(self._factory.pace, self._factory.outbox),
                *(connected, protocol, client, port, record.arrival, watch),
            )

        return self._factory.revive(record, suspended, build, is_torn)

    def _transport(self, *arguments: Any) -> DirectWriteTransport:
        """Build the transport of a connection, as Twisted's ports do."""
        *given, _ = arguments
        watch = self.multiplexer or self._reactor
        common = (self._factory.pace, self._factory.outbox, *given, watch)
        if self._contexts is None:
            return DirectWriteTransport(*common)
        return TlsTransport(self._contexts.begin, self._factory.tls_pace, *common)
