"""The composition root: from a command line to a running relay.

Only this module touches the global reactor.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from socket import socket
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import structs
from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.internet.tcp import Port
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.failure import Failure
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from proxyrelay import __version__, config
from proxyrelay.admin.control import Reloadable
from proxyrelay.auth import Authenticator, authenticator
from proxyrelay.config import Config, Offers
from proxyrelay.errors import ConfigError, Problem, ProxyRelayError
from proxyrelay.net import addresses, certificates, epoll, listening, process
from proxyrelay.net.clock import use_monotonic_time
from proxyrelay.net.epoll import EpollMultiplexer
from proxyrelay.net.heap import Heap
from proxyrelay.net.timers import Heartbeat
from proxyrelay.net.tls_transport import TlsTransport
from proxyrelay.net.transport import DirectWriteTransport
from proxyrelay.observe import log as logs
from proxyrelay.observe import privacy
from proxyrelay.observe.audit import audit
from proxyrelay.observe.fan_out import fan_out, fan_out_forwards
from proxyrelay.observe.log_observer import LogObserver
from proxyrelay.service.checks import Inspection, inspect
from proxyrelay.service.drain import Drain, Successor
from proxyrelay.service.reload import Reload
from proxyrelay.switchboard.event import ForwardObserver, Observer
from proxyrelay.switchboard.offers import Offer
from proxyrelay.switchboard.relay import Relay
from proxyrelay.websocket.admission import RESERVE
from proxyrelay.websocket.crossing import Crossing
from proxyrelay.websocket.protocol import RelayFactory, RelayProtocol

if TYPE_CHECKING:
    from proxyrelay.admin.listener import Instrumentation
    from proxyrelay.service.systemd import Supervision

T = TypeVar("T")

log = Logger(namespace="proxyrelay")

SWEEP = 0.5
"""Seconds between two looks at the offers that wait for an answer."""


class RelayService(MultiService):
    """A relay and its listening sockets.

    The sockets are bound at once, so that a taken port is an exception here and
    not a line in the log of a process that serves nothing.

    Args:
        settings: The settings.
        authenticator: Tells whom a connection belongs to.
        pair: Certificate and key; None to serve without TLS.
        reactor: Runs everything.
        clock: Runs the deadlines of connections; None for the reactor's.
        inherited: Listening sockets that the process was started with, in the place
            of those that the settings name.
        further: Observers beside the log.
        on_forward: Observers of forwarded messages beside the log.
        kind: What each connection is: a `RelayProtocol`, or one that tells of more.
        observer: Writes the log; None if twistd does.

    Attributes:
        factory: Builds the connections, and knows those that there are.
        pseudonyms: What users and addresses are shown as.
        drained: Called when it begins to drain. It may be set.

    Raises:
        StartError: The port cannot be listened on.
        ConfigError: OpenSSL refuses the certificate or the key; the audit log cannot be
            written, or the key of the pseudonyms not be read.
    """

    def __init__(
        self,
        settings: Config,
        authenticator: Authenticator,
        pair: certificates.KeyPair | None,
        reactor: Any,
        clock: IReactorTime | None = None,
        inherited: Sequence[socket] = (),
        further: Sequence[Observer] = (),
        on_forward: Sequence[ForwardObserver] = (),
        kind: type[RelayProtocol] = RelayProtocol,
        observer: logs.Log | None = None,
    ) -> None:
        super().__init__()
        self._observer = observer
        clock = clock or reactor
        self.config = settings
        self._reactor = reactor
        self.pseudonyms = privacy.pseudonyms(settings.logging)
        verbose = settings.logging.default_level == "DEBUG"
        self.journal = LogObserver(clock.seconds, verbose, self.pseudonyms)
        self._audit = audit(settings.logging, clock, self.pseudonyms)
        self.drained: Callable[[], None] = lambda: None
        audited = () if self._audit is None else (self._audit,)
        journal = fan_out((self.journal, *audited, *further))
        forwards = (each.forwarded for each in (self.journal, *audited))
        self._waiting = Crossing(clock, _crossing(settings.offers), self._pass_on)
        self.factory = RelayFactory(
            Relay(
                *(journal, clock.seconds, self._waiting, settings.offers),
                fan_out_forwards((*forwards, *on_forward)),
            ),
            authenticator,
            journal,
            clock,
            settings,
            self.pseudonyms,
            kind,
        )
        self._contexts = None if pair is None else certificates.Contexts(pair)
        self._served = self.factory.behind_proxies()
        self._crowd: EpollMultiplexer | None = None
        if epoll.AVAILABLE:
            self._crowd = EpollMultiplexer(reactor, self.factory.outbox)
        self._census = LoopingCall(self._list_clients)
        self._census.clock = clock
        self._sweep = Heartbeat(clock, SWEEP, self._tick, self.factory.has_backlog)
        self.factory.held_up = lambda: self._sweep.overdue
        self._heap = Heap()
        self._clock = clock
        self._draining: Drain | None = None
        self._ports: list[Any] = []
        self._shared = bool(inherited)
        self._sockets = list(inherited) or listening.bind(
            settings.host, settings.port, reuse=settings.reuse_port
        )
        self._port: int = self._sockets[0].getsockname()[1]
        self.factory.relay.delivery.directory = Successor(self._port, clock)

    @property
    def urls(self) -> list[str]:
        """Where the relay listens, such as ``ws://127.0.0.1:8700``."""
        return [
            f"{self.config.scheme}://{addresses.text(port.getHost())}"
            for port in self._ports
        ]

    @property
    def status(self) -> str:
        """What the relay does, in a few words."""
        doing = "serving" if self._draining is None else "draining"
        return f"{doing}, clients: {len(self.factory.relay.registry)}"

    @property
    def pair(self) -> certificates.KeyPair | None:
        """Certificate and key; None without TLS."""
        return None if self._contexts is None else self._contexts.pair

    @property
    def authenticator(self) -> Authenticator:
        """Tells whom a new connection belongs to."""
        return self.factory.authenticator

    def change(
        self,
        settings: Config,
        pair: certificates.KeyPair | None,
        authenticator: Authenticator,
    ) -> None:
        """Serve with other settings from now on, and close nothing; see `Served`."""
        if self._contexts is not None and pair is not None:
            self._contexts.use(pair)
        self.config = settings
        self.journal.verbose = settings.logging.default_level == "DEBUG"
        self.factory.reconfigure(settings)
        offers = settings.offers
        if self._draining is not None:
            offers = structs.replace(offers, hold=0)  # nobody comes back to this one
        self.factory.relay.broker.offers = offers
        self._waiting.change(_crossing(offers))
        before, self.factory.authenticator = self.factory.authenticator, authenticator
        if authenticator is not before:
            # It goes on with what it is asked already.
            before.stop()
            authenticator.start()
        self._take_census()

    def drain(self) -> None:
        """Leave new clients to another relay, and end when the last has left."""
        if self._draining is not None or self.factory.stopping:
            return
        self.factory.gate.accept_backlog()
        places = [port.getHost() for port in self._ports]
        for port in self._ports:
            listening.retire(port, self._shared)
        self._ports = []
        self.drained()
        # Who shares a socket cannot see whether others accept from it.
        if not self._shared and all(
            listening.is_free(at.host, at.port) for at in places
        ):
            log.warn(
                "nobody else listens here: new clients are refused until another relay "
                "starts",
                event="no_successor",
            )
        self._draining = Drain(
            self.factory,
            self._clock,
            self._port,
            self.config.drain_max,
            self._end,
        )

    @property
    def lost_lines(self) -> dict[str, int]:
        """Lines of the log and of the audit log that could not be written."""
        return {
            "log": 0 if self._observer is None else self._observer.lost,
            "audit": 0 if self._audit is None else self._audit.lost,
        }

    def reopen(self) -> None:
        """Open log files anew, since they may have other names now."""
        for each in (self._observer, self._audit):
            if each is not None:
                each.reopen()
        log.info("log files are opened anew", event="reopened")

    def _end(self) -> None:
        with suppress(ReactorNotRunning):  # it may have been stopped meanwhile
            self._reactor.stop()

    def privilegedStartService(self) -> None:
        """Accept connections."""
        super().privilegedStartService()
        for bound in self._sockets:
            port = self._reactor.adoptStreamPort(
                bound.fileno(), bound.family, self._served
            )
            port.transport = self._transport
            if isinstance(port, Port):
                self.factory.gate.guard(port)
            self._ports.append(port)
            bound.close()  # the reactor has its own descriptor of it
        self._sockets = []

    def _transport(self, *arguments: Any) -> DirectWriteTransport:
        """Build the transport of a connection, as Twisted's ports do."""
        *given, _ = arguments
        watch = self._crowd or self._reactor
        common = (self.factory.pace, self.factory.outbox, *given, watch)
        if self._contexts is None:
            return DirectWriteTransport(*common)
        return TlsTransport(self._contexts.begin, self.factory.tls_pace, *common)

    def startService(self) -> None:
        """Accept connections, if that has not begun yet."""
        if self._sockets:
            self.privilegedStartService()
        super().startService()
        if self._audit is not None:
            self._audit.started()
        self._take_census()
        self._sweep.start()
        self._reactor.callWhenRunning(self._announce)
        self._reactor.callWhenRunning(self.factory.authenticator.start)

    def _take_census(self) -> None:
        """List the clients at the interval that the settings have."""
        interval = self.config.logging.current_client_interval
        if self._census.running and self._census.interval != interval:
            self._census.stop()
        if interval and not self._census.running:
            listed = self._census.start(interval, now=False)
            listed.addErrback(_log_failure, "the list of clients has stopped")

    def _list_clients(self) -> None:
        limit = self.config.logging.current_client_limit
        self.journal.clients(self.factory.relay.registry, limit)

    def _tick(self) -> None:
        self.factory.relay.tick()
        if not self.factory.pace.backlogged:
            self._heap.look(len(self.factory.connections), self._clock.seconds())

    def _pass_on(self, offer: Offer) -> None:
        self.factory.relay.broker.pass_on(offer)

    def _announce(self) -> None:
        log.info(
            "proxyrelay {version} serves {_urls} (authentication: {method})",
            event="serving",
            version=__version__,
            urls=self.urls,
            _urls=", ".join(self.urls),
            method=self.config.auth.method or "none",
        )

    def stopService(self) -> Deferred[Any]:
        """Stop accepting, and close every connection with 1001.

        Returns:
            Fires when no connection is left, at the latest after
            ``timeouts.stop``.
        """
        self.factory.authenticator.stop()
        if self._draining is not None:
            self._draining.stop()
        self._sweep.stop()
        if self._census.running:
            self._census.stop()
        for bound in self._sockets:
            bound.close()
        self._sockets = []
        stopping: list[Deferred[Any]] = []
        self.factory.gate.accept_backlog()
        for port in self._ports:
            if isinstance(port, Port):
                # Who waits to be accepted is closed like all others, and not reset.
                listening.retire(port, self._shared)
            else:
                stopping.append(maybeDeferred(port.stopListening))
        self._ports = []
        stopping.append(self.factory.stop(self.config.timeouts.stop))
        stopping.append(super().stopService())
        stopped = DeferredList(stopping, fireOnOneErrback=True, consumeErrors=True)
        stopped.addBoth(self._leave_reactor)
        return stopped.addCallback(self._stopped)

    def _stopped(self, _: object) -> None:
        # Not before: as long as there are clients, there are offers.
        self._waiting.stop()
        if self._audit is not None:
            self._audit.stopped()
            self._audit = None
        log.info("stopped", event="stopped")

    def _leave_reactor(self, result: T) -> T:
        if self._crowd is not None:
            self._crowd.stop()
        return result


def _crossing(offers: Offers) -> float:
    """For how long offers wait for those that cross them, in seconds.

    Where it is 0 none begins to wait, and those that do may go on for a moment.
    """
    return offers.crossing or 1.0


def _log_failure(failure: Failure, what: str) -> None:
    log.failure("{what}", failure, what=what)


class Signals(Service):
    """What the process does when it is sent a signal.

    On SIGINT and SIGTERM it ends in order, with exit status 0. On SIGHUP it reads the
    settings anew. On SIGUSR1 it opens its log files anew. On SIGUSR2 it leaves new
    clients to another relay, and ends when its own have left.

    Twisted's own handlers stop the reactor, too, but let twistd end by the
    signal, which a supervisor takes for a crash. It also spares the garbage
    collector what was made before the reactor ran.

    Args:
        relay: Loses its connections at once when a signal to end comes twice.
        reload: Reads the settings.
        reactor: Is stopped.
    """

    def __init__(self, relay: RelayService, reload: Reloadable, reactor: Any) -> None:
        self._relay = relay
        self._calls: dict[signal.Signals, Callable[[], object]] = {
            signal.SIGHUP: reload.reload,
            signal.SIGUSR1: self._reopen,
            signal.SIGUSR2: relay.drain,
        }
        self._twistd_rotates: Any = None
        self._pending: set[int] = set()
        self._reactor = reactor

    def startService(self) -> None:
        """Take the signals over as soon as the reactor has taken them."""
        super().startService()
        self._reactor.callWhenRunning(self._install)

    def _install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._caught)
        self._twistd_rotates = signal.getsignal(signal.SIGUSR1)
        for number in self._calls:
            signal.signal(number, self._called)
        # What is there now stays. To look at all of it again, again and again, would
        # hold every client up for 60 ms at a time.
        gc.collect()
        gc.freeze()

    def _called(self, number: int, _frame: FrameType | None) -> None:
        # A storm of them is one.
        if number not in self._pending:
            self._pending.add(number)
            self._reactor.callFromThread(self._call, number)

    def _call(self, number: int) -> None:
        self._pending.discard(number)
        self._calls[signal.Signals(number)]()

    def _reopen(self) -> None:
        if callable(self._twistd_rotates):  # under its --logfile
            self._twistd_rotates(signal.SIGUSR1, None)
        self._relay.reopen()

    def _caught(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        self._reactor.callFromThread(self.stop, name)

    def stop(self, name: str) -> None:
        """Stop on the first call, and end what is left on the next."""
        if self._relay.factory.stopping:
            self._relay.factory.abort_all()
            return
        log.info(
            "stopping on {signal}, connections to close: {count}",
            event="stopping",
            signal=name,
            count=len(self._relay.factory.connections),
        )
        try:
            self._reactor.stop()
        except ReactorNotRunning:
            log.info("the reactor has stopped already", event="stopping")


class Application(MultiService):
    """The service that twistd runs: a relay, with a log and signals of its own.

    Args:
        observer: Where the log goes; None leaves that to twistd.
    """

    def __init__(self, observer: logs.Log | None) -> None:
        super().__init__()
        self._observer = observer

    def privilegedStartService(self) -> None:
        """Have the log written: a daemon has forked by now, and has this process."""
        if self._observer is not None:
            self._observer.start()
            # Twistd logs to the end.
            atexit.register(self._observer.close)
        super().privilegedStartService()

    def setServiceParent(self, parent: Any) -> None:
        """Join twistd's application, and give it the log."""
        if self._observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._observer)
        super().setServiceParent(parent)


class Options(UsageOptions):
    """The command line of ``twistd proxyrelay``."""

    synopsis = "[options]"

    longdesc = (
        "Serves a relay through which ProxyStore endpoints find each other. "
        "Without a configuration file it serves ws on port 8700 of all "
        "interfaces. The other options override the file. "
        "'proxyrelay check --config FILE' tells what a file would serve."
    )

    optParameters = [  # noqa: RUF012 - Twisted reads it from the class
        ["config", "c", None, "Configuration file (TOML)."],
        ["host", None, None, "Address or name of the interface to listen on."],
        ["port", None, None, "TCP port to listen on; 0 takes a free one."],
        ["log-dir", None, None, "Folder for rotated log files."],
        [
            "log-level",
            None,
            None,
            "Least severe level to log: DEBUG, INFO, WARNING, ERROR or CRITICAL.",
        ],
    ]

    def opt_version(self) -> None:
        """Display the version and exit."""
        print(f"proxyrelay {__version__}")
        sys.exit(0)

    def parseArgs(self, *arguments: str) -> None:
        """Refuse whatever is no option.

        Raises:
            UsageError: There is something.
        """
        if arguments:
            raise UsageError(f"unexpected argument {arguments[0]!r}")

    def postOptions(self) -> None:
        """Find the file again when twistd has moved to another folder."""
        if self["config"]:
            self["config"] = str(Path(self["config"]).absolute())

    def parseOptions(self, options: Any = None) -> None:
        """Read the command line.

        Raises:
            SystemExit: It is wrong; the text says what is.
        """
        try:
            super().parseOptions(options)
        except UsageError as error:
            raise SystemExit(
                f"proxyrelay: {error}; see 'twistd proxyrelay --help'"
            ) from None

    def load(self) -> config.Loaded:
        """Read the settings that the command line asks for."""
        path = self["config"]
        return config.load(
            None if path is None else Path(path),
            {option: self[option.removeprefix("--")] for option in config.OVERRIDES},
        )


def makeService(options: Options) -> Application:
    """Build what ``twistd proxyrelay`` runs.

    Raises:
        SystemExit: It cannot be run; the text says why, a line for each reason.
    """
    from twisted.internet import reactor  # noqa: PLC0415 - installed by twistd

    def inspected() -> Inspection:
        return inspect(options.load(), certificates.now(), os.environ)

    def inspected_again() -> Inspection:
        path = options["config"]
        if path is not None and os.path.exists(path) and not os.path.isfile(path):
            problem = Problem(
                "", "is no regular file: it cannot be read anew", file=path
            )
            return Inspection(config.Config(), [problem])
        return inspected()

    use_monotonic_time(reactor)
    _ignore_early_signals(options)
    found = inspected()
    limit = process.raise_limit()
    try:
        if found.problems:
            raise ConfigError(found.problems)
        observer = _observer(options, found.config.logging)
        given = listening.handed_over()
        inherited = listening.inherited(n for n in given if given[n] != listening.ADMIN)
        watch = _watch(found.config.admin, reactor)
        relay = RelayService(
            found.config,
            authenticator(found.config.auth, found.credentials, reactor),
            found.pair,
            reactor,
            inherited=inherited,
            further=() if watch is None else watch.observers,
            on_forward=() if watch is None else (watch.counts.forwarded,),
            kind=RelayProtocol if watch is None else watch.kind,
            observer=observer,
        )
        reload = Reload(
            relay, found.credentials, inspected_again, observer, reactor, found.token
        )
        supervision = _supervision(relay, reload, reactor)
        asked = supervision or reload
        private: list[Service] = []
        if watch is not None:
            shared = found.config.reuse_port or bool(inherited)
            own = [number for number in given if given[number] == listening.ADMIN]
            private.append(
                watch.listener(relay, reload, found.token, shared, own, asked)
            )
    except ProxyRelayError as error:
        lines = (f"proxyrelay: {line}" for line in str(error).splitlines())
        raise SystemExit("\n".join(lines)) from None
    application = Application(observer)
    # Signals first: who reads that the relay serves may stop it at once.
    Signals(relay, asked, reactor).setServiceParent(application)
    relay.setServiceParent(application)
    reload.setServiceParent(application)
    for listener in private:
        listener.setServiceParent(application)
    if supervision is not None:
        supervision.setServiceParent(application)
    _report(found)
    short = process.shortage(limit, found.config.limits.connections or 0, RESERVE)
    if short is not None:
        wrong = Problem("limits.connections", short)
        log.warn("{problem}", event="problem", problem=str(wrong))
    return application


def _ignore_early_signals(options: Options) -> None:
    """Keep signals that ask a relay for something from ending one that starts."""
    numbers = {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
    twistd: Any = options.parent or {}
    if twistd.get("logfile"):
        numbers.discard(signal.SIGUSR1)  # twistd sets it only where nobody has
    for number in numbers:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.SIG_IGN)


def _supervision(
    relay: RelayService, reload: Reload, reactor: Any
) -> Supervision | None:
    """What tells a supervisor how the relay is; None if there is no such supervisor."""
    if "NOTIFY_SOCKET" not in os.environ:
        return None
    from proxyrelay.service import systemd as supervision  # noqa: PLC0415 - only where somebody listens

    found = supervision.supervisor(os.environ, os.getpid())
    if found is None:
        return None
    return supervision.Supervision(found, lambda: relay.status, reload, reactor)


def _watch(settings: config.Admin, reactor: Any) -> Instrumentation | None:
    """What is told of all that happens, if anybody is to see it.

    It is loaded only then, with all that it needs.
    """
    if settings.listen is None:
        return None
    from proxyrelay.admin.listener import Instrumentation  # noqa: PLC0415

    return Instrumentation(reactor)


def _observer(options: Options, settings: config.Logging) -> logs.Log | None:
    """What the log goes through; None where twistd's own options have taken it.

    Raises:
        ConfigError: The log cannot be written, or two places are asked for.
    """
    twistd: Any = options.parent or {}
    # A daemon has no standard output.
    foreground = not options.parent or twistd.get("nodaemon")
    elsewhere = twistd.get("logfile") and not (
        foreground and twistd["logfile"] == "-"  # which is standard output
    )
    if elsewhere or twistd.get("syslog"):
        wrong = "excludes twistd's --logfile and --syslog"
        for name in ("log_dir", "format"):
            if getattr(settings, name) != getattr(config.Logging(), name):
                raise ConfigError([Problem(f"logging.{name}", wrong)])
        return None
    observer = logs.observer(settings, sys.stdout if foreground else None)
    if observer is None and settings.format != config.Logging().format:
        wrong = "needs log_dir beside it, as there is no standard output"
        raise ConfigError([Problem("logging.format", wrong)])
    return observer


def _report(found: Inspection) -> None:
    problem: Problem
    for problem in found.faults:
        log.error("{problem}", event="problem", problem=str(problem))
    for problem in found.warnings:
        log.warn("{problem}", event="problem", problem=str(problem))
