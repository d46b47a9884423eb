"""The link of a node to the engine: one connection for commands, one for the inbox.

A call is sent only while the link is ready: both connections are up, the scripts are
loaded, the inbox is subscribed, the lease is taken, the other nodes fit. A call without
a reply in time drops both connections, since later replies could not be told apart. The
engine may still carry it out, if it has got it by then. No later call waits for it.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Coroutine
from functools import partial
from typing import Any, cast

from twisted.application.internet import backoffPolicy
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    FirstError,
    fail,
    gatherResults,
)
from twisted.internet.defer import TimeoutError as Late
from twisted.internet.error import ConnectError, ConnectingCancelledError
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from proxyrelay.cluster.bus import Done, NoReply, NotSent
from proxyrelay.cluster.engine_clock import EngineClock
from proxyrelay.cluster.link_settings import LinkObserver, LinkSettings
from proxyrelay.cluster.resp import (
    Call,
    Commands,
    Inbox,
    QuietFactory,
    ReplyError,
    Word,
)
from proxyrelay.cluster.scripts import script_hash, scripts
from proxyrelay.net.clock import Clock, boottime
from proxyrelay.net.timers import Heartbeat, TimeoutQueue

PROBE_SECONDS = 2.0
"""Interval of the messages of a node to its own inbox."""

SILENCE_SECONDS = 6.0
"""Time without a message in the inbox after which the link counts as dead."""

CONNECT_SECONDS = 10.0
"""Longest time from the first attempt to a link that is ready."""

STEADY_SECONDS = 10.0
"""Life of a link after which the next attempt follows soon."""

REFUSED_SECONDS = 10.0
"""Wait before the next attempt after the engine has refused the user."""

GRACE_SECONDS = 0.05
"""Further wait for a reply. After a pause of the process, timers run before the sockets
are read, where the reply may lie."""

WRONG_ENGINE = ("READONLY", "LOADING", "MASTERDOWN")
"""Errors of an engine that is not, or not yet, a master."""

UNREACHABLE = (ConnectError, ConnectingCancelledError, Late, OSError)
"""Errors of an engine that does not answer. An endpoint has its own error for a
connection that is given up. Name servers fail with an `OSError`."""

PROBE = b"probe\n"


class Refused(NotSent):
    """The engine does not let this relay do that."""


def _first(failure: Failure) -> Failure:
    failure.trap(FirstError)
    return cast(FirstError, failure.value).subFailure


def _jitter() -> float:
    return random.uniform(0, 0.2)  # noqa: S311 - no secret


class Link:
    """The link of a node to the engine.

    Args:
        clock: Time in seconds, and timers.
        endpoint: The engine.
        settings: What the link needs to know.
        observer: Hears of the link.
        needs_master: Whether the engine's role is to be asked.
        boottime: Seconds of a clock that runs on while the process or machine sleeps.

    Attributes:
        ready: Whether calls may be made.
        connects: Number of times that the link became ready.
        engine_clock: Dates connections and messages.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: IStreamClientEndpoint,
        settings: LinkSettings,
        observer: LinkObserver,
        needs_master: bool = False,
        boottime: Clock = boottime,
    ) -> None:
        self.ready = False
        self.connects = 0
        self._clock = clock
        self._endpoint = endpoint
        self._settings = settings
        self._observer = observer
        self._needs_master = needs_master
        self.engine_clock = EngineClock(boottime)
        self._boottime = boottime
        texts = self._scripts = scripts()
        self._hashes = {name: script_hash(text) for name, text in texts.items()}
        self._connections: list[Commands] = []
        self._session: Deferred[str] | None = None
        self._loop: Deferred[None] | None = None
        self._is_stopped = False
        self._is_loading = False
        self._why = ""
        self._refusal = ""
        self._epoch: bytes | None = None
        self._renewed = -settings.lease
        self._heard = 0.0
        self._overdue: TimeoutQueue[Call] = TimeoutQueue(
            clock, GRACE_SECONDS, lambda _: self.drop("no reply in time")
        )
        self._deadlines: TimeoutQueue[Call] = TimeoutQueue(
            clock, settings.call_timeout, self._overdue.begin
        )
        self._heartbeats = (
            Heartbeat(clock, settings.lease / 3, self._renew),
            Heartbeat(clock, PROBE_SECONDS, self._probe),
        )

    def start(self) -> None:
        """Connect, and again after each loss."""
        self._is_stopped = False
        self._loop = Deferred.fromCoroutine(self._run())
        self._loop.addErrback(lambda failure: failure.trap(CancelledError)).addErrback(
            lambda failure: self._log.failure("the link ended", failure)
        )
        for heartbeat in self._heartbeats:
            heartbeat.start()

    def stop(self) -> None:
        """Disconnect."""
        self._is_stopped = True
        for heartbeat in self._heartbeats:
            heartbeat.stop()
        if self._loop is not None:
            self._loop.cancel()
        self.drop("the relay stops")
        self._deadlines.stop()
        self._overdue.stop()

    # -- calls

    def call(self, script: str, *arguments: bytes | str | int) -> Deferred[Any]:
        """Run a script.

        Returns:
            Fires with the reply. Fails with `NotSent` or `NoReply`.
        """
        if not self.ready:
            return fail(NotSent("the link to the engine is down"))
        return self._call(script, arguments)

    def publish(self, node: str, message: bytes) -> Deferred[int]:
        """Send a message to the inbox of a node.

        Returns:
            Fires with the number of receivers. Fails with `NotSent` or `NoReply`.
        """
        if not self.ready:
            return fail(NotSent("the link to the engine is down"))
        return self._execute("PUBLISH", self._inbox_of(node), message)

    def run(self, done: Done, script: str, *arguments: Word) -> None:
        """Run a script, while the link is ready.

        Args:
            done: Called once with the reply, or with a `NotSent` or a `NoReply`.
            script: Its name.
            *arguments: What it gets, after the prefix.
        """
        prefix = self._settings.prefix
        self._send(done, ("EVALSHA", self._hashes[script], 0, prefix, *arguments))

    def tell(self, done: Done, node: str, message: bytes) -> None:
        """Send a message to the inbox of a node, while the link is ready."""
        self._send(done, ("PUBLISH", self._inbox_of(node), message))

    def change(self, call_timeout: float) -> None:
        """Wait longer or shorter for replies."""
        self._deadlines.change(call_timeout, 0.0)

    @property
    def lease_age(self) -> float:
        """Seconds since the lease was renewed."""
        return self._boottime() - self._renewed

    def drop(self, reason: str) -> None:
        """Close both connections, and connect again."""
        connections, self._connections = self._connections, []
        was_ready, self.ready = self.ready, False
        for connection in connections:
            connection.abort()
        if was_ready:
            if not self._is_stopped:
                self._log.warn(
                    "the link to the engine is down: {reason}",
                    event="cluster_lost",
                    reason=reason,
                )
            self._observer.link_down(reason)
        session, self._session = self._session, None
        if session is not None:
            self._why = reason
            session.callback(reason)

    def _lost(self, connection: Commands, reason: str) -> None:
        # One that was dropped may end during the next session.
        if connection in self._connections:
            self.drop(reason)

    def _inbox_of(self, node: str) -> str:
        return f"{self._settings.prefix}:in:{node}"

    def _call(
        self, script: str, arguments: tuple[bytes | str | int, ...]
    ) -> Deferred[Any]:
        prefix = self._settings.prefix
        return self._execute("EVALSHA", self._hashes[script], 0, prefix, *arguments)

    def _execute(self, *command: Word) -> Deferred[Any]:
        result: Deferred[Any] = Deferred()

        def done(reply: Any) -> None:
            if isinstance(reply, Exception):
                result.errback(reply)
            else:
                result.callback(reply)

        self._send(done, command)
        return result

    def _send(self, done: Done, command: tuple[Word, ...]) -> None:
        call = Call(partial(self._replied, done), self._clock.seconds())
        self._connections[0].send(call, command)
        self._deadlines.begin(call)

    def _replied(self, done: Done, call: Call, reply: Any) -> None:
        self._end_deadline(call)
        if isinstance(reply, Exception):
            reply = self._judged(reply)
        else:
            self._observer.replied(self._clock.seconds() - call.since)
        self.finish(done, reply)

    def finish(self, done: Done, reply: Any) -> None:
        """Hand on a reply."""
        try:
            done(reply)
        except Exception:
            self._log.failure("a reply of the engine could not be used")

    def _end_deadline(self, call: Call) -> None:
        self._deadlines.end(call)
        self._overdue.end(call)

    def _judged(self, error: Exception) -> Exception:
        """What an error of the engine means for a call."""
        if not isinstance(error, ReplyError):
            return error
        reason = str(error)
        if reason.startswith("NOSCRIPT"):
            if self.ready and not self._is_loading:
                self._is_loading = True
                self._quietly(self._load_scripts())
            return NotSent(reason)
        if reason.startswith(WRONG_ENGINE):
            self.drop(f"it is no master: {reason}")
            return NotSent(reason)
        return self._refused(reason)

    def _refused(self, reason: str) -> Refused:
        """Log a refusal, unless the last one was the same."""
        # An unknown command is quoted with its arguments, such as the password.
        reason = reason.partition(", with args")[0]
        if reason != self._refusal:
            self._refusal = reason
            self._log.error(
                "the engine refuses this relay: {reason}",
                event="cluster_refused",
                reason=reason,
            )
        return Refused(reason)

    # -- the life of the link

    async def _run(self) -> None:
        wait = backoffPolicy(0.2, 2.0, 1.5, jitter=_jitter)
        failures = flaps = 0
        while not self._is_stopped:
            seconds = wait(flaps)
            session: Deferred[str] = Deferred()
            self._session, self._why = session, ""
            try:
                opening = Deferred.fromCoroutine(self._open(session))
                await opening.addTimeout(CONNECT_SECONDS, self._clock)
                failures, began = 0, self._boottime()
                await session
                lasted = self._boottime() - began
                flaps = 0 if lasted > STEADY_SECONDS else flaps + 1
                seconds = wait(flaps)
            except CancelledError:
                raise
            except Exception as error:
                if not failures and not self._is_stopped:
                    self._report(error)
                failures += 1
                is_refused = isinstance(error, Refused)
                seconds = REFUSED_SECONDS if is_refused else wait(failures)
            finally:
                self.drop("the engine was not ready in time")
            if not self._is_stopped:
                await deferLater(self._clock, seconds)

    def _report(self, error: Exception) -> None:
        """Log why there is no link."""
        if not isinstance(error, (*UNREACHABLE, NotSent, NoReply)):
            self._log.failure("the link to the engine failed", Failure(error))
        elif not isinstance(error, Refused):
            place = self._settings.place
            self._log.warn(
                "the engine{_at} cannot be reached: {reason}",
                event="cluster_unreachable",
                reason=self._why or str(error),
                _at=f" at {place}" if place else "",
            )

    async def _open(self, session: Deferred[str]) -> None:
        self.engine_clock.forget()
        await self._connect(Commands(self._lost), session)
        await self._load_scripts()
        inbox = await self._connect(Inbox(self._lost, self._received), session)
        is_lost = await self._take_lease()
        if not self._observer.admits(await self._call("nodes", ())):
            await self._call("leave", (self._settings.node,))
            raise Refused("this relay stays alone")
        # From here on, no message is lost: the first one may follow at once.
        await self._ask(inbox, "SUBSCRIBE", self._inbox_of(self._settings.node))
        self._heard = self._boottime()
        self.ready = True
        self.connects += 1
        self._refusal = ""
        self._log.info("the link to the engine is ready", event="cluster_ready")
        self._observer.link_ready(is_lost)

    async def _connect(self, connection: Commands, session: Deferred[str]) -> Commands:
        await self._endpoint.connect(QuietFactory.forProtocol(lambda: connection))
        self._connections.append(connection)
        if session.called:  # the other connection was lost meanwhile
            raise NotSent(self._why)
        settings = self._settings
        if password := settings.password():
            user = filter(None, (settings.username,))
            await self._ask(connection, "AUTH", *user, password)
        if settings.database:
            await self._ask(connection, "SELECT", settings.database)
        if self._needs_master:
            role = await self._ask(connection, "ROLE")
            if role[0] != b"master":
                raise NotSent("the engine is no master")
        return connection

    async def _ask(self, connection: Commands, *command: Word) -> Any:
        asked: Deferred[Any] = Deferred()

        def done(_: Call, reply: Any) -> None:
            if isinstance(reply, Exception):
                asked.errback(reply)
            else:
                asked.callback(reply)

        call = Call(done)
        connection.send(call, command)
        self._deadlines.begin(call)
        try:
            return await asked
        except ReplyError as error:
            reason = str(error)
            if reason.startswith(WRONG_ENGINE):
                raise NotSent(f"it is no master: {reason}") from None
            raise self._refused(reason) from None
        finally:
            self._end_deadline(call)

    async def _load_scripts(self) -> None:
        loads = [
            self._execute("SCRIPT", "LOAD", text) for text in self._scripts.values()
        ]
        try:
            await gatherResults(loads, consumeErrors=True).addErrback(_first)
        finally:
            self._is_loading = False

    async def _take_lease(self) -> bool:
        settings, began = self._settings, self._boottime()
        life = round(settings.lease * 1000)
        held, seconds, microseconds, epoch = await self._call(
            "lease", (settings.node, life, settings.info(), secrets.token_hex(8))
        )
        ended = self._boottime()
        now = int(seconds) + int(microseconds) / 1e6
        self.engine_clock.read(began, ended, now)
        self._renewed = began
        known, self._epoch = self._epoch, epoch
        return not held or epoch != known

    def _renew(self) -> None:
        if self.ready and not self._has_slept():
            self._quietly(self._renew_lease())

    async def _renew_lease(self) -> None:
        if await self._take_lease():
            self._observer.registrations_lost()

    def _probe(self) -> None:
        if not self.ready:
            return
        if self._boottime() - self._heard > SILENCE_SECONDS:
            self.drop("the inbox is silent")
        else:
            self._quietly(self.publish(self._settings.node, PROBE))

    def _has_slept(self) -> bool:
        """Whether the lease has run out; then the link begins anew."""
        if self.lease_age <= self._settings.lease:
            return False
        self.drop("the lease has run out")
        return True

    def _received(self, message: bytes) -> None:
        # What lay in the socket while the process stood still is too old.
        if not self.ready or self._has_slept():
            return
        self._heard = self._boottime()
        if message == PROBE:
            return
        try:
            self._observer.inbox_received(message)
        except Exception:
            self._log.failure("a message of another node failed")

    def _quietly(
        self, work: Deferred[Any] | Coroutine[Deferred[Any], Any, None]
    ) -> None:
        # The end of the link is reported where it is noticed.
        deferred = Deferred.fromCoroutine(work) if isinstance(work, Coroutine) else work
        deferred.addErrback(lambda failure: failure.trap(NotSent, NoReply))
        deferred.addErrback(lambda failure: self._log.failure("a call failed", failure))
