"""``proxyrelay restart`` and ``stop``: end a running relay, and wait for the next."""

from __future__ import annotations

import os
import select
import signal
import time
from argparse import Namespace
from contextlib import suppress
from http.client import HTTPException

from proxyrelay import config
from proxyrelay.admin.report import Status
from proxyrelay.cli import actions, served, status
from proxyrelay.cli.admin_client import AdminClient
from proxyrelay.cli.check import print_problems
from proxyrelay.config import Config
from proxyrelay.errors import NothingSent, Unanswered
from proxyrelay.net import certificates
from proxyrelay.service.checks import inspect

POLL_SECONDS = 0.05
"""Interval between two looks at a process or a relay."""

MEMORY_FILE = "/memfd:proxyrelay"
"""Link to the memory file of a relay that keeps connections, as proc(5) shows it."""


def restart(arguments: Namespace) -> int:
    """Make a running relay start anew, without closing a connection.

    Checks a configuration as 'check' does. If there is no problem, sends SIGTERM to the
    running relay. It leaves its connections to the next process, which its supervisor
    starts. Waits until that one serves, and shows what became of the connections. Sends
    nothing if some connections would be closed, unless --yes is given. Never restarts a
    relay that keeps none: nobody would start it again. The private listener tells the
    process; without one, --pid or --pidfile does. Exits with 1 if there is a problem,
    if no relay serves in time, or if connections were lost.

    Example:
        proxyrelay restart --config relay.toml
    """
    if arguments.config is None and arguments.admin is None:
        raise NothingSent(
            "name the configuration of the relay with --config: it tells the port at "
            "which the next process answers. Nothing was sent"
        )
    found = inspect(config.load(arguments.config), certificates.now(), os.environ)
    if print_problems(found):
        return 1
    relay = actions.listener(arguments)
    before = None if relay is None else relay.status()
    pid = _process(arguments, before)
    _must_be_kept(before, pid)
    loss = _loss(before, pid, found.config)
    if loss and not arguments.yes:
        raise NothingSent(
            f"{loss}; a closed endpoint is deaf until its own process restarts. "
            "Nothing was sent; --yes restarts the relay all the same"
        )
    start = time.monotonic()
    deadline = start + arguments.timeout
    _end(pid, signal.SIGTERM, deadline)
    after = None
    if relay is None:
        _wait_for_port(found.config, pid, deadline)
    else:
        relays = [relay, *_moved(arguments, found.config)]
        after = _wait_for_relay(relays, pid, deadline)
    print(f"restarted: {_outcome(pid, before, after, time.monotonic() - start)}")
    went_on = after is None or (after.survival is not None and not after.survival.lost)
    return 0 if went_on else 1


def stop(arguments: Namespace) -> int:
    """Stop a running relay, and close its connections.

    Sends SIGINT to the running relay. It closes each connection with 1001, and ends
    with exit status 0, also if a supervisor keeps connections. Waits for that. The
    private listener tells the process; without one, --pid or --pidfile does. Exits with
    1 if the relay does not end in time.

    Example:
        proxyrelay stop --config relay.toml
    """
    relay = actions.listener(arguments)
    before = None if relay is None else relay.status()
    pid = _process(arguments, before)
    start = time.monotonic()
    _end(pid, signal.SIGINT, start + arguments.timeout)
    told = "" if before is None else f", connections closed: {before.connections:,}"
    seconds = time.monotonic() - start
    print(f"stopped: process {pid} has ended after {seconds:.1f} s{told}")
    return 0


def _process(arguments: Namespace, before: Status | None) -> int:
    """Process ID of the relay."""
    is_named = arguments.pid is not None or arguments.pidfile is not None
    if before is not None and not is_named:
        return before.pid
    pid = actions.named_process(arguments)
    if before is not None and before.pid != pid:
        raise NothingSent(
            f"the private listener is that of process {before.pid}, not of {pid}: "
            "nothing was sent"
        )
    return pid


def _must_be_kept(before: Status | None, pid: int) -> None:
    """Refuse if SIGTERM is a plain stop for the relay.

    Raises:
        NothingSent: It is, or the process has ended.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        raise NothingSent(actions.has_ended(pid)) from None
    except OSError:  # the signal itself tells more
        pass
    if before is not None and before.draining:
        raise NothingSent(
            "the relay drains, so it would only stop: nothing was sent. 'proxyrelay "
            "stop' stops it"
        )
    if before is None:
        keeps = _keeps_connections(pid)
    else:
        keeps = before.survival is not None and before.survival.works
    if keeps is False:
        clients = "all" if before is None else f"all {before.clients:,}"
        raise NothingSent(
            f"the relay keeps no connections: {clients} would be closed, and nobody "
            "would start it again. Nothing was sent. To restart it all the same, use "
            "its supervisor, such as systemctl restart. To keep connections from then "
            "on, set survive.enabled, and start it by the unit of systemd or by "
            "'proxyrelay keep'"
        )


def _loss(before: Status | None, pid: int, settings: Config) -> str:
    """Which connections a restart would close all the same; empty if none."""
    with_tls = settings.certfile is not None
    if before is None:
        if with_tls:
            return "connections over TLS of the relay itself would be closed"
        if _keeps_connections(pid) is None:
            return "nothing shows whether the relay keeps its connections"
        return ""
    # A process that serves TLS goes on with no connection.
    lost = before.clients if with_tls else _unkept(before)
    if not lost:
        return ""
    is_tls = with_tls or before.tls
    why = "TLS of the relay itself" if is_tls else "survive.capacity"
    return f"{lost:,} of {before.clients:,} clients would be closed ({why})"


def _unkept(before: Status) -> int:
    """Clients that end with the process."""
    kept = 0 if before.survival is None else before.survival.kept
    return max(0, before.clients - kept)


def _moved(arguments: Namespace, settings: Config) -> list[AdminClient]:
    """Private listener of the file, if --admin names that of the running process."""
    if arguments.admin is None or settings.admin.listen in {None, arguments.admin}:
        return []
    try:
        return [status.client(Namespace(**{**vars(arguments), "admin": None}))]
    except Unanswered:  # a port that only the log tells
        return []


def _keeps_connections(pid: int) -> bool | None:
    """Whether a process has the memory file of a relay; None if unknown."""
    try:
        descriptors = list((actions.PROC / str(pid) / "fd").iterdir())
    except OSError:
        return None
    for descriptor in descriptors:
        with suppress(OSError):  # closed meanwhile
            if str(descriptor.readlink()).startswith(MEMORY_FILE):
                return True
    return False


def _end(pid: int, number: signal.Signals, deadline: float) -> None:
    """Send a signal, and wait for the end of the process.

    Raises:
        NothingSent: It was not sent.
        Unanswered: The process does not end in time.
    """
    watched = None
    with suppress(AttributeError, OSError):  # not everywhere
        watched = os.pidfd_open(pid)
    try:
        actions.send(pid, number)
        print(f"sent {number.name} to process {pid}", flush=True)
        while not _has_ended(pid, watched, deadline - time.monotonic()):
            if time.monotonic() >= deadline:
                raise Unanswered(f"process {pid} does not end in time")
    finally:
        if watched is not None:
            os.close(watched)


def _has_ended(pid: int, watched: int | None, seconds: float) -> bool:
    """Whether a process has ended; waits for that for a time, or shorter."""
    if watched is not None:
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        return bool(poll.poll(max(0, 1000 * seconds)))
    time.sleep(POLL_SECONDS)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def _wait_for_relay(relays: list[AdminClient], pid: int, deadline: float) -> Status:
    """Wait until another process is ready, at any of these private listeners.

    Raises:
        Unanswered: None is in time.
    """
    while True:
        causes = []
        for relay in relays:
            try:
                found = relay.status()
            except Unanswered as error:
                causes.append(str(error))
                continue
            if found.pid == pid:
                causes.append("no other process answers")
            elif found.ready:
                return found
            else:
                causes.append(f"process {found.pid} is {status.state(found)}")
        if time.monotonic() >= deadline:
            raise Unanswered(_none_serves(pid, "; ".join(causes)))
        time.sleep(POLL_SECONDS)


def _wait_for_port(settings: Config, pid: int, deadline: float) -> None:
    """Wait until a relay answers at the port for clients.

    Raises:
        Unanswered: None does in time.
    """
    with_tls = settings.certfile is not None
    while True:
        left = max(POLL_SECONDS, deadline - time.monotonic())
        try:
            if served.is_served(settings, left, with_tls):
                return
            why = f"what answers at port {settings.port} is no relay"
        except (OSError, HTTPException) as error:
            reason = getattr(error, "strerror", None) or "no answer"
            why = f"port {settings.port}: {reason.lower()}"
        if time.monotonic() >= deadline:
            raise Unanswered(_none_serves(pid, why))
        time.sleep(POLL_SECONDS)


def _none_serves(pid: int, why: str) -> str:
    return (
        f"process {pid} has ended, and no relay serves in time: {why}. Its supervisor "
        "and its log may know more"
    )


def _outcome(
    pid: int, before: Status | None, after: Status | None, seconds: float
) -> str:
    if after is None:
        return f"process {pid} -> the next one in {seconds:.1f} s"
    told = f"process {pid} -> {after.pid} in {seconds:.1f} s"
    if after.survival is None:
        return f"{told}; it keeps no connections: all were closed"
    unkept = 0 if before is None else _unkept(before)
    closed = f", not kept and closed: {unkept:,}" if unkept else ""
    return (
        f"{told}, connections that go on: {after.survival.resumed:,}, "
        f"lost: {after.survival.lost:,}{closed}"
    )
