"""The composition root: from a command line to a running relay.

Only wiring lives here. Only `makeService` touches the global reactor.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import TYPE_CHECKING, Any

from twisted.application.service import MultiService, Service
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized

from proxyrelay import config
from proxyrelay.auth import authenticator
from proxyrelay.errors import ConfigError, Problem, ProxyRelayError
from proxyrelay.net import certificates, listening, process
from proxyrelay.net.clock import use_monotonic_time
from proxyrelay.observe import log as logs
from proxyrelay.service.checks import Inspection, inspect
from proxyrelay.service.options import Options
from proxyrelay.service.relay_service import RelayService
from proxyrelay.service.reload import Reload, log_problems
from proxyrelay.service.signals import Signals, ignore_early_signals
from proxyrelay.survive.handed import Handed
from proxyrelay.survive.survival import RESTART_STATUS, Survival, open_survival
from proxyrelay.websocket.admission import RESERVED_DESCRIPTORS
from proxyrelay.websocket.protocol import RelayProtocol

if TYPE_CHECKING:
    from proxyrelay.admin.listener import Instrumentation
    from proxyrelay.service.systemd import Notifier

log = Logger(namespace="proxyrelay")


class Application(MultiService):
    """The service that twistd runs: a relay, with its own log and signals.

    Args:
        observer: Writes the log; None leaves that to twistd.
    """

    def __init__(self, observer: logs.Log | None) -> None:
        super().__init__()
        self._observer = observer

    def privilegedStartService(self) -> None:
        """Start the log: a daemon has forked by now."""
        if self._observer is not None:
            self._observer.start()
            # Twistd logs to the end.
            atexit.register(self._observer.close)
        super().privilegedStartService()

    def startService(self) -> None:
        """Start, and keep all that is there by now out of the garbage collector.

        Each look at all of it would hold up every client for 60 ms.
        """
        super().startService()
        process.freeze_garbage()

    def setServiceParent(self, parent: Any) -> None:
        """Join twistd's application, and give it the log."""
        if self._observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._observer)
        super().setServiceParent(parent)


def makeService(options: Options) -> Application:
    """Build the service that ``twistd proxyrelay`` runs.

    Raises:
        SystemExit: It cannot be run; the text says why, a line for each reason.
    """
    from twisted.internet import reactor  # noqa: PLC0415 - installed by twistd

    use_monotonic_time(reactor)
    twistd: Any = options.parent or {}
    ignore_early_signals(bool(twistd.get("logfile")))
    try:
        return build(options, reactor)
    except ProxyRelayError as error:
        lines = (f"proxyrelay: {line}" for line in str(error).splitlines())
        raise SystemExit("\n".join(lines)) from None


def build(options: Options, reactor: Any) -> Application:
    """Build a relay and all that belongs to it.

    Raises:
        ProxyRelayError: The settings cannot be served, or the relay not start.
    """
    found = _inspected(options)
    open_files = process.raise_limit()
    if found.problems:
        raise ConfigError(found.problems)
    observer = _observer(options, found.config.logging)
    handed = Handed.sort(listening.handed_over())
    given = handed.activated
    inherited = listening.inherited(n for n in given if given[n] != listening.ADMIN)
    survival = open_survival(found.config, handed, os.environ, reactor)
    watch = _instrumentation(found.config.admin, reactor)
    relay = RelayService(
        found.config,
        authenticator(found.config.auth, found.credentials, reactor),
        found.pair,
        reactor,
        inherited=inherited,
        survival=survival,
        further=() if watch is None else watch.observers,
        on_forward=() if watch is None else (watch.counts.forwarded,),
        kind=RelayProtocol if watch is None else watch.kind,
        observer=observer,
    )
    reload = Reload(
        relay,
        found.credentials,
        lambda: _inspected(options),
        reactor,
        found.token,
    )
    if observer is not None:
        reload.parts.append(lambda config: observer.change(config.logging))
    notifier = _notifier(relay, reload, reactor)
    asked = notifier or reload
    # Signals first: a supervisor may stop the relay as soon as it serves.
    services: list[Service] = [Signals(relay, asked, reactor), relay, reload]
    if watch is not None:
        shared = found.config.reuse_port or bool(inherited)
        own = [number for number in given if given[number] == listening.ADMIN]
        services.append(watch.listener(relay, reload, found.token, shared, own, asked))
    if notifier is not None:
        services.append(notifier)
    if survival is not None:
        atexit.register(_leave_to_next, survival)
    application = Application(observer)
    for service in services:
        service.setServiceParent(application)
    _report(found, open_files)
    return application


def _leave_to_next(survival: Survival) -> None:
    """Tell the supervisor by the exit status to start the next process at once.

    Handlers of `atexit` run in reverse order: this one is registered before the log's.
    """
    if survival.is_over:
        sys.stdout.flush()
        os._exit(RESTART_STATUS)


def _inspected(options: Options) -> Inspection:
    return inspect(options.load(), certificates.now(), os.environ)


def _notifier(relay: RelayService, reload: Reload, reactor: Any) -> Notifier | None:
    """Build the notifier of systemd, if systemd started this process."""
    if "NOTIFY_SOCKET" not in os.environ:
        return None
    from proxyrelay.service import systemd  # noqa: PLC0415 - needed only here

    found = systemd.notify_socket(os.environ, os.getpid())
    if found is None:
        return None
    return systemd.Notifier(found, lambda: relay.status, reload, reactor)


def _instrumentation(settings: config.Admin, reactor: Any) -> Instrumentation | None:
    """Build the observers of the private listener, if there is one.

    The module is loaded only then, with all that it needs.
    """
    if settings.listen is None:
        return None
    from proxyrelay.admin.listener import Instrumentation  # noqa: PLC0415

    return Instrumentation(reactor)


def _observer(options: Options, settings: config.Logging) -> logs.Log | None:
    """Build the log; None where twistd's own options take it.

    Raises:
        ConfigError: The log cannot be written, or two places are asked for.
    """
    twistd: Any = options.parent or {"nodaemon": True}
    foreground = twistd.get("nodaemon")  # a daemon has no standard output
    to_stdout = foreground and twistd.get("logfile") == "-"
    if twistd.get("syslog") or (twistd.get("logfile") and not to_stdout):
        wrong = "excludes twistd's --logfile and --syslog"
        for name in ("log_dir", "format"):
            if getattr(settings, name) != getattr(config.Logging(), name):
                raise ConfigError([Problem(f"logging.{name}", wrong)])
        return None
    observer = logs.open_log(settings, sys.stdout if foreground else None)
    if observer is None and settings.format != config.Logging().format:
        wrong = "needs log_dir beside it, as there is no standard output"
        raise ConfigError([Problem("logging.format", wrong)])
    return observer


def _report(found: Inspection, open_files: int) -> None:
    """Log faults and warnings, also that of a low limit of open files."""
    connections = found.config.limits.connections or 0
    short = process.shortage(open_files, connections, RESERVED_DESCRIPTORS)
    if short is not None:
        found.warnings.append(Problem("limits.connections", short))
    log_problems(log, found.faults, found.warnings)
