"""The private listener as a service."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from socket import AF_UNIX, socket
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.internet.task import LoopingCall
from twisted.internet.unix import Port
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.server import Request, Site

from proxyrelay import config
from proxyrelay.admin import history, sockets
from proxyrelay.admin.access import Access
from proxyrelay.admin.control import Reloadable, Reloaded, ReloadOutcome, ReportedReload
from proxyrelay.admin.counted import counting
from proxyrelay.admin.events import Events
from proxyrelay.admin.history import History
from proxyrelay.admin.lag import Lag
from proxyrelay.admin.resources import Root
from proxyrelay.admin.view import Served, View
from proxyrelay.config import Secret
from proxyrelay.errors import StartError
from proxyrelay.net import addresses, listening
from proxyrelay.net.clock import Clock
from proxyrelay.observe.counters import RelayCounters

CONNECTIONS = 64
"""How many there may be at once. A further one takes the place of another."""

FIRST = 5
"""Seconds from a connection to a whole request."""

REQUEST = 30
"""Seconds from an answer to the next whole request."""

ANSWER = 60
"""Seconds in which the answer must be read."""

GOODBYE = 1
"""Seconds in which what is written when the relay ends must be read."""

BODY_CEILING = 16 * 1024
"""Bytes of the longest body of a request."""


class Instrumentation:
    """What is told of everything that happens to a relay.

    Args:
        reactor: Runs everything, and tells the time as it does to the relay.
        wall: Gives the time in seconds since 1970, which is shown.

    Attributes:
        counts: How often everything happened.
        events: The last things that happened.
        kind: What connections must be for that.
        wall: Gives the time in seconds since 1970.
    """

    def __init__(self, reactor: Any, wall: Clock = time.time) -> None:
        self._reactor = reactor
        self.wall = wall
        self.counts = RelayCounters(reactor.seconds)
        self.events = Events(wall)
        self.kind = counting(self.counts)

    @property
    def observers(self) -> tuple[RelayCounters, Events]:
        """The counters, and the latest events."""
        return self.counts, self.events

    def listener(
        self,
        relay: Served,
        reload: ReportedReload,
        token: Secret | None,
        shared: bool,
        inherited: Sequence[int] = (),
        asked: Reloadable | None = None,
    ) -> AdminService:
        """Build what shows it; for the arguments see `AdminService`."""
        return AdminService(
            *(relay.config.admin, token, relay, reload, self, self._reactor),
            *(shared, inherited, asked),
        )


class AdminService(Service):
    """Lets those who look after a relay see it, and act on it.

    It is bound at once, as the relay is. It ends after the relay has closed all of its
    clients, so that it can be seen how that goes.

    Args:
        settings: Where it listens.
        token: What callers have to bring; None for nothing.
        relay: Is looked at.
        reload: Reads the settings anew.
        watch: Has been told of all that happens to the relay.
        reactor: Runs everything.
        shared: Whether relays take over from each other: then the new one listens at
            the same place, the old one gives it up when it drains, and callers have to
            say which one is to do so.
        inherited: Descriptors of listening sockets that the process was started with,
            in the place of own ones. They must be where the settings say.
        asked: Reads the settings when a caller wishes it; None for `reload` itself.

    Raises:
        StartError: It cannot listen there.
    """

    _log = Logger()

    def __init__(
        self,
        settings: config.Admin,
        token: Secret | None,
        relay: Served,
        reload: ReportedReload,
        watch: Instrumentation,
        reactor: Any,
        shared: bool = False,
        inherited: Sequence[int] = (),
        asked: Reloadable | None = None,
    ) -> None:
        place = settings.place
        if place is None:
            raise ValueError("there is no place to listen")
        self._place = place
        try:
            self._sockets = (
                sockets.adopt(inherited, place)
                if inherited
                else sockets.bind(place, shared)
            )
        except StartError as error:
            text = f"{error.setting}: {error}"
            raise StartError(text, error.setting) from None
        self._inherits = bool(inherited)
        self._file: object = None
        if isinstance(place, Path) and not inherited:
            self._file = sockets.identity(place)
        self._relay = relay
        self._reactor = reactor
        self._shared = shared
        self._wall = watch.wall
        self._ports: list[Any] = []
        self._lag = Lag(reactor)
        self._access = Access(place, settings.allowed_hosts, token)
        self._events = watch.events
        self._view = View(relay, watch.counts, self._lag.timing, reactor, watch.wall)
        self._history = History(watch.counts, self._lag.timing, reactor.seconds())
        self._sampling = LoopingCall(self._take_sample)
        self._sampling.clock = reactor
        root = Root(
            *(self._access, self._view, watch.events, self._history),
            reload if asked is None else asked,
            shared or bool(inherited),
        )
        self.site = PrivateSite(root, reactor)
        reload.reloaded = self._reloaded
        reload.renewed = partial(watch.events.note, "certificate")
        relay.drained = self._drained

    @property
    def urls(self) -> list[str]:
        """Where it listens, such as ``http://127.0.0.1:8701`` or ``unix:/a/b``."""
        if isinstance(self._place, Path):
            return [f"unix:{self._place}"] if self._ports else []
        return [f"http://{addresses.text(port.getHost())}" for port in self._ports]

    def privilegedStartService(self) -> None:
        """Accept connections."""
        super().privilegedStartService()
        self._ports = list(map(self._adopted, self._sockets))
        self._sockets = []

    def _adopted(self, bound: socket) -> Any:
        if bound.family == AF_UNIX:
            # The reactor's own way to adopt one lets everybody in.
            port = FilePort(bound, self.site, self._reactor)
            port.startListening()
            return port
        port = self._reactor.adoptStreamPort(bound.fileno(), bound.family, self.site)
        bound.close()  # the reactor has its own descriptor of it
        return port

    def startService(self) -> None:
        """Accept connections, if that has not begun yet, and begin to measure."""
        if self._sockets:
            self.privilegedStartService()
        super().startService()
        self._lag.start()
        sampling = self._sampling.start(history.INTERVAL, now=False)
        sampling.addErrback(self._sampling_failed)
        self._reactor.callWhenRunning(self._announce)

    def _announce(self) -> None:
        self._log.info(
            "the private listener is {_urls}",
            event="admin_serving",
            urls=self.urls,
            _urls=", ".join(self.urls),
        )

    def _take_sample(self) -> None:
        self._keep_place()
        clients = len(self._relay.factory.relay.registry)
        self._history.take(self._reactor.seconds(), self._wall(), clients)

    def _keep_place(self) -> None:
        """Take the path back if the relay that has taken it over is gone."""
        place = self._place
        if not isinstance(place, Path) or self._file is None or not self._ports:
            return
        if sockets.identity(place) == self._file:
            return
        try:
            taken = sockets.bind(place, shared=False)
        except StartError:
            return  # it is still there
        self._retire()
        self._file = sockets.identity(place)
        self._ports = list(map(self._adopted, taken))

    def _sampling_failed(self, failure: Failure) -> None:
        self._log.failure("the history is no longer taken down", failure)

    def _reloaded(self, done: Reloaded) -> None:
        self._view.reloads[done.outcome] += 1
        self._access.change(self._relay.config.admin.allowed_hosts, done.token)
        refused = done.outcome is ReloadOutcome.REFUSED
        self._events.note("reload", f"{'refused: ' * refused}{done.detail}")

    def _drained(self) -> None:
        count = len(self._relay.factory.connections)
        self._events.note("drain", f"connections that are served on: {count}")
        if self._shared:
            self._close()

    def _close(self) -> None:
        """Accept nobody any more."""
        for bound in self._sockets:
            bound.close()
        self._retire()
        self._sockets = []
        place = self._place
        # Another relay may have taken the path over.
        if isinstance(place, Path) and sockets.identity(place) == self._file:
            place.unlink(missing_ok=True)

    def _retire(self) -> None:
        for port in self._ports:
            listening.retire(port, self._inherits)
        self._ports = []

    def stopService(self) -> Deferred[Any]:
        """End when the relay has no connections any more.

        Returns:
            Fires when there is none here, either.
        """
        super().stopService()
        gone: Deferred[Any] = self._relay.factory.all_gone()
        return gone.addCallback(self._end)

    def _end(self, _: object) -> Deferred[None]:
        self._lag.stop()
        if self._sampling.running:
            self._sampling.stop()
        self._close()
        return self.site.stop()


class FilePort(Port):
    """Listens on a socket in the file system, and leaves the file to who has made it.

    Twisted's removes whatever is there when it ends, which may be another relay's, and
    changes who may use it. Checked against Twisted 26.10.0.

    Args:
        bound: The socket, which is listened on.
        site: Builds the connections.
        reactor: Watches it.
    """

    def __init__(self, bound: socket, site: Site, reactor: Any) -> None:
        super().__init__(bound.getsockname(), site, reactor=reactor)
        self._bound, self._site = bound, site

    def startListening(self) -> None:  # noqa: N802
        """Begin."""
        self._site.doStart()
        self.socket = self._bound
        self.fileno = self.socket.fileno  # type: ignore[method-assign]
        self.connected = True
        self.numberAccepts = CONNECTIONS
        self.startReading()

    def connectionLost(self, reason: Failure) -> None:
        """End."""
        super(Port, self).connectionLost(reason)


class PrivateRequest(Request):
    """A request whose body is short."""

    content: Any
    channel: Any

    def gotLength(self, length: int | None) -> None:  # noqa: ARG002
        """Make room for the body: not in a file."""
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """Take a piece of it."""
        if self.content.tell() + len(data) > BODY_CEILING:
            self.channel.transport.abortConnection()
        else:
            self.content.write(data)


class PrivateChannel(HTTPChannel):
    """A connection that has a deadline at any time, and one request.

    Twisted answers all requests of a read in one go, and keeps the answers until they
    are read: bytes enough for a few of them would be worth megabytes. So whoever sends
    more before it has its answer, as no browser does, gets that one and is closed.
    Checked against Twisted 26.10.0.
    """

    site: PrivateSite
    transport: Any

    def connectionMade(self) -> None:
        """Begin."""
        self.site.used(self)
        super().connectionMade()
        self.setTimeout(FIRST)

    def resetTimeout(self) -> None:
        """Do not: each byte would bring another while."""

    def timeoutConnection(self) -> None:
        """End. Twisted has a line in the log for each browser that fell asleep."""
        self.transport.abortConnection()

    def allContentReceived(self) -> None:
        """Answer a whole request. Twisted gives its readers for ever."""
        self.site.used(self)
        self.setTimeout(REQUEST)  # is what Twisted comes back to after the answer
        # What came behind it: after a head the first has it, after a body the second.
        if self._buffer or any(self._dataBuffer):
            self.persistent = False
            self.requests[-1].setHeader("Connection", "close")
        super().allContentReceived()
        if self.requests or not self.persistent:
            self.setTimeout(ANSWER)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End."""
        super().connectionLost(reason)
        self.site.lost(self)


class PrivateSite(Site):
    """Answers requests over a few connections, and writes no log of them.

    Args:
        root: Answers.
        reactor: Runs the deadlines.

    Attributes:
        open: All connections, those first that have had no request for longest.
    """

    noisy = False
    protocol: Any = PrivateChannel

    def __init__(self, root: Root, reactor: Any) -> None:
        super().__init__(
            root,
            PrivateRequest,
            timeout=REQUEST,
            reactor=reactor,
            parsePOSTFormSubmission=False,
        )
        self.open: dict[PrivateChannel, None] = {}
        self._ended: Deferred[None] | None = None
        self._deadline: IDelayedCall | None = None

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Begin a connection.

        If there are too many, the one ends that has had no request for longest: those
        who send none keep nobody out.
        """
        if len(self.open) >= CONNECTIONS:
            idle = next(iter(self.open))
            del self.open[idle]
            idle.transport.abortConnection()
        return super().buildProtocol(addr)

    def startFactory(self) -> None:
        """Open no log, and keep no time for it."""

    def log(self, request: object) -> None:
        """Write nothing."""

    def used(self, channel: PrivateChannel) -> None:
        """Remember that a connection has just begun, or has had a whole request."""
        self.open.pop(channel, None)
        self.open[channel] = None

    def lost(self, channel: PrivateChannel) -> None:
        """Forget a connection."""
        self.open.pop(channel, None)
        if self._ended is not None and not self.open:
            ended, self._ended = self._ended, None
            if self._deadline is not None:
                self._deadline.cancel()
            ended.callback(None)

    def stop(self) -> Deferred[None]:
        """End all connections.

        Returns:
            Fires when they have.
        """
        if not self.open:
            return succeed(None)
        ended: Deferred[None] = Deferred()
        self._ended = ended
        self._deadline = self.reactor.callLater(GOODBYE, self._abort)
        for channel in list(self.open):
            channel.loseConnection()
        return ended

    def _abort(self) -> None:
        self._deadline = None
        for channel in list(self.open):
            channel.transport.abortConnection()
