"""The private listener as a service."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from socket import AF_UNIX, socket
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from proxyrelay.admin import sockets
from proxyrelay.admin.access import Access
from proxyrelay.admin.control import (
    RelayControl,
    Reloadable,
    Reloaded,
    ReloadOutcome,
    ReportedReload,
)
from proxyrelay.admin.history import SAMPLE_INTERVAL_SECONDS, History
from proxyrelay.admin.instruments import Lag, counting
from proxyrelay.admin.recent_events import RecentEvents
from proxyrelay.admin.resources import Root
from proxyrelay.admin.site import FilePort, PrivateSite
from proxyrelay.admin.view import View
from proxyrelay.config import Secret
from proxyrelay.errors import StartError
from proxyrelay.net import addresses, listening
from proxyrelay.net.clock import Clock
from proxyrelay.observe.counters import RelayCounters


class Instrumentation:
    """Observes a relay for the private listener; ``kind`` is its class of connections.

    The reactor is that of the relay. ``wall`` gives the time in seconds since 1970.
    """

    def __init__(self, reactor: Any, wall: Clock = time.time) -> None:
        self.reactor = reactor
        self.wall = wall
        self.counts = RelayCounters(reactor.seconds)
        self.events = RecentEvents(wall)
        self.observers = (self.counts, self.events)
        self.kind = counting(self.counts)

    def listener(
        self,
        relay: RelayControl,
        reload: ReportedReload,
        token: Secret | None,
        shared: bool,
        inherited: Sequence[int] = (),
        reloader: Reloadable | None = None,
    ) -> AdminService:
        """Build the listener; for the arguments see `AdminService`."""
        return AdminService(
            self, relay, reload, token, shared, inherited, reloader or reload
        )


class AdminService(Service):
    """The private listener: shows a relay to its operators, and takes their commands.

    Its sockets are bound at once. It ends after the last client of the relay, so that
    operators can watch a stop.

    Args:
        watch: Observes the relay.
        relay: The relay.
        reload: Reports reloads.
        token: Token of callers; None for none.
        shared: Whether another relay may listen at the same place. The old relay then
            leaves the place when it drains, and callers must name the process to drain.
        inherited: Descriptors of listening sockets from the parent process, in the
            place of own sockets. They must listen at the place of the settings.
        reloader: Reloads the settings for a caller.

    Raises:
        StartError: The place cannot be listened on.
    """

    _log = Logger()

    def __init__(
        self,
        watch: Instrumentation,
        relay: RelayControl,
        reload: ReportedReload,
        token: Secret | None,
        shared: bool,
        inherited: Sequence[int],
        reloader: Reloadable,
    ) -> None:
        settings = relay.config.admin
        place = settings.place
        if place is None:
            raise ValueError("there is no place to listen")
        self._place = place
        try:
            if inherited:
                self._sockets = sockets.adopt(inherited, place)
            else:
                self._sockets = sockets.listen(place, shared)
        except StartError as error:
            text = f"{error.setting}: {error}"
            raise StartError(text, error.setting) from None
        self._inherits = bool(inherited)
        # A file from the parent process is left alone.
        self._file = None if inherited else sockets.identity(place)
        self._relay = relay
        self._reactor = reactor = watch.reactor
        self._shared = shared
        self._wall = watch.wall
        self._ports: list[Any] = []
        self._lag = Lag(reactor)
        self._access = Access(place, settings.allowed_hosts, token)
        self._events = watch.events
        self._view = View(relay, watch.counts, self._lag.timing, reactor, watch.wall)
        watch.events.name_of = self._view.name_of
        self._history = History(watch.counts, self._lag.timing, reactor.seconds())
        self._sampling = LoopingCall(self._take_sample)
        self._sampling.clock = reactor
        root = Root(
            *(self._access, self._view, watch.events, self._history, reloader),
            shared or bool(inherited),
        )
        self.site = PrivateSite(root, reactor)
        reload.reloaded = self._reloaded
        reload.renewed = partial(watch.events.note, "certificate")
        relay.drained = self._drained

    @property
    def urls(self) -> list[str]:
        """Places that it listens on: ``http://127.0.0.1:8701`` or ``unix:/a/b``."""
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
            # The reactor's own way to adopt a socket opens the file to everybody.
            port = FilePort(bound, self.site, self._reactor)
            port.startListening()
            return port
        port = self._reactor.adoptStreamPort(bound.fileno(), bound.family, self.site)
        bound.close()  # the reactor has a descriptor of its own
        return port

    def startService(self) -> None:
        """Accept connections, and start to measure."""
        if self._sockets:
            self.privilegedStartService()
        super().startService()
        self._lag.start()
        sampling = self._sampling.start(SAMPLE_INTERVAL_SECONDS, now=False)
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
        clients = len(self._relay.factory.registry)
        self._history.take(self._reactor.seconds(), self._wall(), clients)

    def _sampling_failed(self, failure: Failure) -> None:
        self._log.failure("the history is no longer taken down", failure)

    def _keep_place(self) -> None:
        """Take the path back if the relay that took it over is gone."""
        if self._file in {None, sockets.identity(self._place)} or not self._ports:
            return
        try:
            taken = sockets.listen(self._place, shared=False)
        except StartError:
            return  # The other relay still listens there.
        self._retire()
        self._file = sockets.identity(self._place)
        self._ports = list(map(self._adopted, taken))

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
        """Stop to accept."""
        for bound in self._sockets:
            bound.close()
        self._sockets = []
        self._retire()
        place = self._place
        # Another relay may have taken the path over.
        if isinstance(place, Path) and sockets.identity(place) == self._file:
            place.unlink(missing_ok=True)

    def _retire(self) -> None:
        for port in self._ports:
            listening.retire(port, self._inherits)
        self._ports = []

    def stopService(self) -> Deferred[Any]:
        """End after the last connection of the relay; fires after the last one here."""
        super().stopService()
        gone: Deferred[Any] = self._relay.factory.all_gone()
        return gone.addCallback(self._end)

    def _end(self, _: object) -> Deferred[None]:
        self._lag.stop()
        if self._sampling.running:
            self._sampling.stop()
        self._close()
        return self.site.stop()
