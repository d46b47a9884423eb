"""A client that stays registered with a relay."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

from twisted.application.internet import backoffPolicy
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from proxyrelay.client.connection import (
    Authorization,
    Received,
    RelayConnection,
    connect,
)
from proxyrelay.client.endpoint import relay_endpoint
from proxyrelay.client.url import ProxyUrl, RelayUrl
from proxyrelay.errors import NotRegistered, Rejected
from proxyrelay.switchboard.messages import PeerConnection, RegistrationRequest

MAX_DELAY_SECONDS = 60.0
"""Longest delay before an attempt to connect."""

STEADY_SECONDS = 30.0
"""Age of a registered connection whose end begins the delays anew."""

_delays = backoffPolicy(0.5, MAX_DELAY_SECONDS, 2.0, jitter=lambda: 0.0)


def retry_delay(attempt: int) -> float:
    """Seconds before an attempt: up to 1, 2, 4 ... 60, and at least half of it.

    The clients of a relay that restarts come back spread over time.
    """
    return _delays(attempt) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


class RelayClient:
    """A client that stays registered with a relay, and goes on listening.

    After a lost connection it connects again, after growing delays. It ends only if it
    is stopped, or if the relay rejects it for good (4001, 4002 or 4004).

    Args:
        reactor: Connects, and runs the timers.
        url: Address of the relay, ``ws://`` or ``wss://``.
        received: Called with each offer and answer. An offer that the relay could not
            forward comes back with ``error`` set.
        uuid: UUID of the client; None for a random one.
        name: Name of the client for people; None for the host name.
        authorization: Called before each connection for the value of the Authorization
            header, such as ``"Bearer ..."``. May return a Deferred or a coroutine.
        trust_root: Authorities of the relay's certificate, as
            ``trustRootFromCertificates`` of `twisted.internet.ssl` makes them; None for
            those of the system.
        proxy: HTTP proxy, ``http://host:port``; None for a direct connection. The
            environment is not read.
        lost: Called with the reason of each lost connection and of each failed attempt,
            and with the seconds before the next attempt.
        endpoint: Connects in the place of ``trust_root``, ``proxy`` and the host and
            port of ``url``.
        retry_policy: Returns the seconds before an attempt, from its number since the
            last steady connection: 1, 2, 3...

    Raises:
        ValueError: An address is not valid.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        url: str,
        received: Received,
        *,
        uuid: UUID | None = None,
        name: str | None = None,
        authorization: Authorization | None = None,
        trust_root: Any = None,
        proxy: str | None = None,
        lost: Callable[[Exception, float], object] | None = None,
        endpoint: IStreamClientEndpoint | None = None,
        retry_policy: Callable[[int], float] = retry_delay,
    ) -> None:
        self.uuid = uuid4() if uuid is None else uuid
        self.name = socket.gethostname() if name is None else name
        self._reactor = reactor
        self._url = RelayUrl.parse(url)
        self._received = received
        self._authorization = authorization
        self._lost = lost
        self._retry_policy = retry_policy
        self._endpoint = endpoint or relay_endpoint(
            *(reactor, self._url, trust_root),
            None if proxy is None else ProxyUrl.parse(proxy),
        )
        self._connection: RelayConnection | None = None
        self._pending: Deferred[Any] | None = None
        self._is_started = self._is_stopping = False
        self._end: Exception | None = None
        self._awaiting_registration: list[Deferred[None]] = []
        self._awaiting_end: list[Deferred[None]] = []

    @property
    def is_registered(self) -> bool:
        """Whether messages can be sent and received now."""
        return self._connection is not None and self._connection.is_registered

    def start(self) -> None:
        """Begin to connect.

        Raises:
            RuntimeError: It was started or stopped before.
        """
        if self._is_started or self._is_stopping:
            raise RuntimeError("a relay client starts once")
        self._is_started = True
        Deferred.fromCoroutine(self._run()).addCallbacks(
            lambda _: self._finish(CancelledError("the client was stopped")),
            lambda failure: self._finish(failure.value),
        )

    def stop(self) -> Deferred[None]:
        """Close the connection, and connect no more. Fires when it is closed."""
        self._is_stopping = True
        done = self.ended().addErrback(lambda _: None)
        if not self._is_started and self._end is None:
            self._finish(CancelledError("the client was stopped"))
        elif self._connection is not None:
            self._connection.close()
        elif self._pending is not None:
            self._pending.cancel()
        return done

    def registered(self) -> Deferred[None]:
        """Wait for a registration, which may be there already.

        Fails with `Rejected` if the relay rejects the client for good, and with
        `CancelledError` if the client is stopped.
        """
        waiting: Deferred[None] = Deferred(self._awaiting_registration_no_more)
        if self.is_registered:
            waiting.callback(None)
        elif self._end is not None:
            waiting.errback(self._end)
        else:
            self._awaiting_registration.append(waiting)
        return waiting

    def ended(self) -> Deferred[None]:
        """Wait for the end of the client.

        Fires after `stop`. Fails with `Rejected` if the relay rejects the client for
        good.
        """
        waiting: Deferred[None] = Deferred(self._awaiting_end_no_more)
        if self._end is None:
            self._awaiting_end.append(waiting)
        else:
            self._tell_end(waiting)
        return waiting

    def offer(self, peer: UUID, description: str) -> None:
        """Send an offer to a peer.

        Args:
            peer: UUID of the peer.
            description: JSON object with ``sdp`` and ``type``, for stock clients.

        Raises:
            NotRegistered: There is no registered connection now.
            ValueError: The message is longer than relays accept.
        """
        self.send(self._message(peer, "offer", description))

    def answer(self, peer: UUID, description: str) -> None:
        """Send the answer to an offer of a peer; otherwise as `offer`."""
        self.send(self._message(peer, "answer", description))

    def send(self, message: PeerConnection) -> None:
        """Send a message as it is.

        Raises:
            NotRegistered: There is no registered connection now.
            ValueError: The message is longer than relays accept.
        """
        if self._connection is None:
            raise NotRegistered("the client is not registered with the relay now")
        self._connection.send(message)

    def _message(self, peer: UUID, kind: Any, description: str) -> PeerConnection:
        return PeerConnection(str(self.uuid), self.name, str(peer), kind, description)

    # -- the life of the client

    async def _run(self) -> None:
        attempt = 0
        while True:
            begin = self._reactor.seconds()
            why = await self._serve()
            if isinstance(why, Rejected):
                raise why
            if self._is_stopping:
                return
            lasted = self._reactor.seconds() - begin
            attempt = 1 if lasted >= STEADY_SECONDS else attempt + 1
            delay = self._retry_policy(attempt)
            self._tell_lost(why, delay)
            if self._is_stopping:
                return
            try:
                await self._until(deferLater(self._reactor, delay))
            except CancelledError:
                return

    async def _serve(self) -> Exception:
        """Connect, and serve until the connection ends; return the reason."""
        registration = RegistrationRequest(self.name, str(self.uuid))
        try:
            self._connection = await self._until(
                connect(
                    *(self._reactor, self._url, self._endpoint, registration),
                    *(self._received, self._authorization),
                )
            )
        except Exception as error:
            return error
        waiting, self._awaiting_registration = self._awaiting_registration, []
        for each in waiting:
            each.callback(None)
        try:
            return await self._connection.ended
        finally:
            self._connection = None

    async def _until(self, pending: Deferred[Any]) -> Any:
        self._pending = pending
        if self._is_stopping:  # by the call that has begun it
            pending.cancel()
        try:
            return await pending
        finally:
            self._pending = None

    def _tell_lost(self, why: Exception, delay: float) -> None:
        if self._lost is None:
            return
        try:
            self._lost(why, delay)
        except Exception:
            self._log.failure("a program failed on the loss of its relay")

    def _finish(self, why: Exception) -> None:
        self._end = why
        registering, self._awaiting_registration = self._awaiting_registration, []
        ending, self._awaiting_end = self._awaiting_end, []
        for each in registering:
            each.errback(why)
        for each in ending:
            self._tell_end(each)
        if not (registering or ending or isinstance(why, CancelledError)):
            self._log.failure("a relay client has ended", Failure(why))

    def _tell_end(self, waiting: Deferred[None]) -> None:
        if isinstance(self._end, CancelledError):
            waiting.callback(None)
        else:
            waiting.errback(self._end)

    def _awaiting_registration_no_more(self, waiting: Deferred[None]) -> None:
        if waiting in self._awaiting_registration:
            self._awaiting_registration.remove(waiting)

    def _awaiting_end_no_more(self, waiting: Deferred[None]) -> None:
        if waiting in self._awaiting_end:
            self._awaiting_end.remove(waiting)
