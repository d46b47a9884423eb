"""The listening sockets: bound, or taken over, before anything else starts.

A Twisted endpoint binds too late: after the process has become a daemon, a terminal no
longer shows the error of a taken port. It also binds one address of a name only, and a
name may mean both IPv4 and IPv6.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from proxyrelay.errors import StartError, Taken

ACCEPT_BACKLOG = 4096
"""Connections that may wait for accept: after a network fault all clients come back at
once. The kernel caps the number at ``net.core.somaxconn``."""

SEND_BUFFER_BYTES = 128 * 1024
"""Size of the kernel's buffer for a slow client (Linux takes twice that). By default it
grows to several MB, in front of the relay's ping."""

FIRST_DESCRIPTOR = 3
"""First descriptor of socket activation (SD_LISTEN_FDS_START)."""

ADMIN = "admin"
"""Name of the activation socket for the admin listener (``FileDescriptorName=admin`` in
the unit of systemd)."""

UNUSABLE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""Errors for an address that this machine lacks. With IPv6 turned off, ``localhost``
may still mean ``::1``."""

_log = Logger()


def handed_over(given: Path = Path("/proc/self/environ")) -> dict[int, str]:
    """Names of the descriptors of socket activation (sd_listen_fds(3)), or "".

    They stand in the environment at the start of the process. Twisted removes them from
    the present one, and ignores descriptors without names.
    """
    try:
        entries = given.read_text(errors="replace").split("\0")
    except OSError:
        return {}
    variables = dict(entry.split("=", 1) for entry in entries if "=" in entry)
    count = variables.get("LISTEN_FDS", "")
    if variables.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal():
        return {}
    numbers = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count))
    names = chain(variables.get("LISTEN_FDNAMES", "").split(":"), repeat(""))
    return dict(zip(numbers, names, strict=False))


def inherited(descriptors: Iterable[int]) -> list[socket.socket]:
    """Take over listening sockets.

    All processes accept from the one queue of a socket. So no client is lost between
    one relay and its successor.

    Raises:
        StartError: A descriptor is no listening TCP socket.
    """
    sockets: list[socket.socket] = []
    for number in descriptors:
        try:
            taken = socket.socket(fileno=number)
            sockets.append(taken)
            if (
                taken.family not in {socket.AF_INET, socket.AF_INET6}
                or taken.type != socket.SOCK_STREAM
                or not taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            ):
                raise OSError("no listening TCP socket")
            _prepare(taken)
        except OSError as error:
            _close(sockets)
            reason = os.strerror(error.errno).lower() if error.errno else str(error)
            raise StartError(
                f"cannot listen on descriptor {number} of LISTEN_FDS: {reason}", ""
            ) from None
    return sockets


def _close(sockets: Iterable[socket.socket]) -> None:
    for each in sockets:
        each.close()


def bind(
    host: str | None, port: int, *, reuse: bool = False, accepting: bool = True
) -> list[socket.socket]:
    """Open a listening socket for each address of a host on this machine.

    Args:
        host: Address or host name; None for all interfaces.
        port: TCP port; 0 for any free one, the same for all sockets.
        reuse: Whether other processes of the same user may listen there as well.
        accepting: Whether clients may connect; otherwise the sockets are only bound.

    Raises:
        StartError: The port is taken or privileged, or this machine lacks the address.
    """
    sockets: list[socket.socket] = []
    skipped: list[tuple[object, OSError]] = []
    try:
        for family, _, _, _, address in dict.fromkeys(_resolved(host, port)):
            place = (address[0], port, *address[2:])
            try:
                sockets.append(_bound(family, place, reuse, accepting))
            except OSError as error:
                if error.errno not in UNUSABLE:
                    raise
                skipped.append((address[0], error))
            else:
                port = sockets[0].getsockname()[1]
        if not sockets:
            raise skipped[0][1]
    except OSError as error:
        _close(sockets)
        setting = "host" if error.errno in UNUSABLE else "port"
        kind = Taken if error.errno == errno.EADDRINUSE else StartError
        raise kind(_explain(host, port, error, reuse), setting) from None
    for unusable, why in skipped if accepting else ():
        # A kernel without IPv6 still resolves names to it.
        if why.errno == errno.EADDRNOTAVAIL:
            _log.info(
                "not listening on {address}, an address of {_host}: {reason}",
                event="address_skipped",
                address=unusable,
                reason=os.strerror(why.errno).lower(),
                _host=host or "all interfaces",
            )
    return sockets


def addresses(sockets: Iterable[socket.socket]) -> set[Any]:
    """Close sockets, and return their addresses."""
    found = set()
    for each in sockets:
        found.add(each.getsockname())
        each.close()
    return found


def is_free(host: str, port: int) -> bool:
    """Whether no process listens at an address, as far as a bind can tell."""
    try:
        _close(bind(host, port, accepting=False))
    except StartError:
        return False
    return True


def retire(port: Any, shared: bool) -> None:
    """Close a port without a reset of the waiting connections.

    Twisted closes a port in the next turn of the reactor. The kernel then resets all
    waiting connections. They are accepted before, unless another process shares the
    socket. Checked against Twisted 26.10.0.
    """
    port.stopReading()
    if not shared:
        port.numberAccepts = ACCEPT_BACKLOG
        port.doRead()
        # A supervisor may have a descriptor of it, too. Only Linux knows this call.
        with suppress(OSError):
            port.socket.shutdown(socket.SHUT_RDWR)
    port.connectionLost(Failure(ConnectionDone()))


def _resolved(host: str | None, port: int) -> list[Any]:
    why = "an empty name"
    try:
        if host != "":
            return socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
    except socket.gaierror as error:
        why = str(error.strerror)
    except UnicodeError:
        why = "no name that there can be"
    raise StartError(
        f"cannot listen on {host}: {why}; host must be an address or a name of this "
        "machine",
        "host",
    )


def _bound(
    family: int, address: tuple[object, ...], reuse: bool, accepting: bool
) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # The IPv4 addresses have a socket of their own.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if reuse:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _prepare(listener)
        listener.bind(address)
        if accepting:
            listener.listen(ACCEPT_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _prepare(listener: socket.socket) -> None:
    listener.set_inheritable(False)
    listener.setblocking(False)
    # Connections inherit these. Nagle's algorithm would hold up TLS handshakes.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


def _explain(host: str | None, port: int, error: OSError, reuse: bool) -> str:
    place = f"port {port}" if host is None else f"{host} port {port}"
    hints = {
        errno.EADDRINUSE: (
            "what listens there was started without reuse_port, or by another user"
            if reuse
            else "another process listens there: set another port"
        ),
        errno.EACCES: (
            "ports below 1024 are privileged; set a higher one, or give the service "
            "CAP_NET_BIND_SERVICE"
        ),
        errno.EADDRNOTAVAIL: "host must be an address of this machine",
    }
    reason = os.strerror(error.errno or 0).lower()
    hint = hints.get(error.errno or 0)
    return f"cannot listen on {place}: {reason}{f' ({hint})' if hint else ''}"
