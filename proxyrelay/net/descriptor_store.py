"""The descriptor store of a supervisor, which outlives the process (sd_notify(3)).

systemd and ``proxyrelay keep`` hold such a store. A socket lives as long as some
process has a descriptor of it. The next process of the service gets the descriptors as
those of socket activation: see `proxyrelay.net.listening.handed_over`.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections import OrderedDict
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IWriteDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

PROBE_SECONDS = 5.0
"""Longest wait for the supervisor at the start: for room for a message, and for an
answer."""

PROBE_NAME = "kept-probe"

FULL = frozenset(
    {errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS, errno.EMFILE}
)
"""Errors of a supervisor that does not read at the moment."""

RETRY_SECONDS = 0.05
"""Seconds until the next try after an error other than a full queue."""


@implementer(IWriteDescriptor)
class DescriptorStore:
    """Keeps descriptors with the supervisor, and removes them there.

    No call but `probe` blocks. Messages wait while the supervisor does not read. What
    waits and is removed meanwhile is not sent at all.

    Args:
        address: The path of the supervisor's socket (AF_UNIX, datagrams), or ``@`` and
            an abstract name.
        reactor: Tells when the supervisor reads again.

    Attributes:
        is_lost: Whether the supervisor has gone, with all that it kept.
    """

    _log = Logger()

    def __init__(self, address: str, reactor: Any) -> None:
        self.is_lost = False
        self._reactor = reactor
        self._numbers = count()
        # Messages by their number, or that of the name that they store, each with an
        # own descriptor: the owner of the other one may close it meanwhile.
        self._queue: OrderedDict[str | int, tuple[bytes, int | None]] = OrderedDict()
        self._waiting: list[Deferred[None]] = []
        self._is_waiting = False
        self._retry: IDelayedCall | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._socket.connect(f"\0{address[1:]}" if address[0] == "@" else address)
        except OSError as error:
            self._lose(error)

    # -- what is kept

    def keep(self, name: str, descriptor: int) -> None:
        """Keep a descriptor under a name. Its owner may close it at once."""
        self._send(name, f"FDSTORE=1\nFDNAME={name}", descriptor)

    def remove(self, name: str) -> None:
        """Remove all descriptors of a name."""
        if not self._drop(name):
            self._send(next(self._numbers), f"FDSTOREREMOVE=1\nFDNAME={name}")

    def sent(self) -> Deferred[None]:
        """Deferred that fires when nothing waits any more. It may be cancelled."""

        def forget(waiting: Deferred[None]) -> None:
            self._waiting.remove(waiting)

        waiting: Deferred[None] = Deferred(forget)
        self._waiting.append(waiting)
        self._flush()
        return waiting

    def _send(self, key: str | int, text: str, descriptor: int | None = None) -> None:
        message = text.encode()
        if not self._queue and self._is_done(message, descriptor):
            return
        try:
            own = None if descriptor is None else os.dup(descriptor)
        except OSError as error:
            self._log.error(
                "{name!a} is not kept for the next process: {reason}",
                event="not_stored",
                name=key,
                reason=os.strerror(error.errno or 0).lower(),
            )
        else:
            self._drop(key)
            self._queue[key] = message, own

    def _is_done(self, message: bytes, descriptor: int | None) -> bool:
        """Send a message; tells whether nothing is left to do for it."""
        if self.is_lost:
            return True
        given = () if descriptor is None else (descriptor,)
        try:
            socket.send_fds(self._socket, [message], given)
        except OSError as error:
            if error.errno in FULL:
                self._wait(error.errno == errno.EAGAIN)
                return False
            if error.errno != errno.EBADF:  # the descriptor is closed already
                self._lose(error)
        return True

    def _flush(self) -> None:
        while self._queue:
            key, (message, descriptor) = next(iter(self._queue.items()))
            if not self._is_done(message, descriptor):
                return
            self._drop(key)
        self._stop_waiting()
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    def _drop(self, key: str | int) -> bool:
        """Drop a message that waits; tells whether there was one."""
        _, descriptor = found = self._queue.pop(key, (b"", None))
        if descriptor is not None:
            os.close(descriptor)
        return bool(found[0])

    def _drop_all(self) -> None:
        for key in list(self._queue):
            self._drop(key)

    def _wait(self, for_room: bool) -> None:
        if for_room and not self._is_waiting:
            self._is_waiting = True
            self._reactor.addWriter(self)
        elif not for_room:
            self._stop_waiting()
            self._retry = self._reactor.callLater(RETRY_SECONDS, self._flush)

    def _stop_waiting(self) -> None:
        if self._is_waiting:
            self._is_waiting = False
            self._reactor.removeWriter(self)
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        self._retry = None

    def _lose(self, error: OSError) -> None:
        self.is_lost = True
        self._drop_all()
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        self._log.warn(
            "the supervisor that keeps descriptors has gone ({reason}): no connection "
            "survives the end of this process",
            event="store_lost",
            reason=reason,
        )

    # -- whether anything is kept

    def probe(self) -> bool:
        """Whether the supervisor keeps descriptors. It is asked, and waited for.

        A store that is turned off takes the message, and closes the descriptor. So the
        write end of a pipe is stored, and its read end shows whether somebody has it.
        """
        self._socket.settimeout(PROBE_SECONDS)
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self.keep(PROBE_NAME, writing)
            taken = self._barrier()
        finally:
            os.close(writing)
        try:
            return taken and not _is_ready(reading, 0)
        finally:
            self.remove(PROBE_NAME)
            self._socket.setblocking(False)
            os.close(reading)

    def _barrier(self) -> bool:
        """Wait until the supervisor has acted upon all messages (BARRIER=1)."""
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            is_sent = self._is_done(b"BARRIER=1", writing)
        finally:
            os.close(writing)
        try:
            return is_sent and not self.is_lost and _is_ready(reading, PROBE_SECONDS)
        finally:
            os.close(reading)

    # -- towards the reactor

    def fileno(self) -> int:
        """Descriptor of the socket to the supervisor."""
        return self._socket.fileno()

    def logPrefix(self) -> str:  # noqa: N802
        """Name in Twisted's log."""
        return "descriptor store"

    def doWrite(self) -> None:  # noqa: N802
        """Send what waits."""
        self._flush()

    def connectionLost(self, reason: Failure) -> None:  # noqa: ARG002
        """Forget what waits, as the reactor stops."""
        self._drop_all()
        self._flush()

    def close(self) -> None:
        """Close the socket. What is kept stays kept."""
        self._drop_all()
        self._flush()
        self._socket.close()


def _is_ready(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
