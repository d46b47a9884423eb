"""The life of a connection: one table of phases, each with a timeout.

Autobahn's own timers stay off: they run on the global reactor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from OpenSSL import SSL
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from proxyrelay.config import Timeouts
from proxyrelay.errors import TryAgainLater
from proxyrelay.net.timers import TimeoutQueue
from proxyrelay.websocket.connection import Connection
from proxyrelay.websocket.state import Phase

SLACK_SHARE = 0.01
"""Share of a timeout by which it may end late."""

UNREAD_SECONDS = 1.0
"""Extension of a timeout while the relay has a backlog of unread bytes."""


class Row(NamedTuple):
    """A phase.

    Attributes:
        setting: Name of its timeout in ``[timeouts]``.
        expire: Acts at the end of the timeout.
        stage: Text for the log on the end of a client without a UUID; empty for other
            phases.
        extend: Whether the timeout begins once more.
        awaits_input: Whether the awaited bytes may lie in the socket, unread.
        is_handshake: Whether the connection may end early, over a limit.
    """

    setting: str
    expire: Callable[[Connection], None]
    stage: str = ""
    extend: Callable[[Connection], bool] = lambda _: False
    awaits_input: bool = False
    is_handshake: bool = False


NO_PONG = "no answer to a ping"


def _drop_for(reason: str) -> Callable[[Connection], None]:
    return lambda connection: connection.drop(reason)


def _cancel(connection: Connection) -> None:
    connection.cancel_authentication()
    if connection.phase is Phase.AUTHENTICATING:
        # The authenticator ignores the cancellation.
        connection.drop("authentication took too long")


def _refuse(connection: Connection) -> None:
    connection.refuse(TryAgainLater("No registration arrived in time."))


def _was_heard(connection: Connection) -> bool:
    # Stock clients ping on their own. Such a client needs no ping from the relay.
    return connection.flow.heard and not connection.flow.paused


def _pong_may_be_unread(connection: Connection) -> bool:
    # The relay reads slowly from this client; the pong may be behind other frames.
    return connection.flow.heard and connection.flow.is_in_debt


def _abort(connection: Connection) -> None:
    # A TLS peer may never send close_notify; a TCP peer may never read the rest.
    connection.transport.abortConnection()


PHASES = {
    Phase.TLS_HANDSHAKE: Row(
        "tls_handshake",
        _drop_for("TLS handshake took too long"),
        stage=" during the TLS handshake",
        awaits_input=True,
        is_handshake=True,
    ),
    Phase.OPENING: Row(
        "opening_handshake",
        _drop_for("opening handshake took too long"),
        stage=" before a whole request",
        extend=lambda connection: connection.request_is_whole,
        awaits_input=True,
        is_handshake=True,
    ),
    Phase.AUTHENTICATING: Row(
        "authentication", _cancel, stage=" during authentication"
    ),
    Phase.REGISTERING: Row("registration", _refuse, stage=" before a registration"),
    Phase.READY: Row(
        "ping_interval",
        lambda connection: connection.check_alive(),
        extend=_was_heard,
    ),
    Phase.AWAITING_PONG: Row(
        "ping_timeout",
        _drop_for(NO_PONG),
        extend=_pong_may_be_unread,
        awaits_input=True,
    ),
    Phase.CLOSING: Row("close_handshake", _drop_for("no answer to a close frame")),
    Phase.DROPPING: Row("close_handshake", _abort),
}
"""Phases in their order, with all that depends on the phase."""


def lost_reason(phase: Phase, reason: Failure) -> str:
    """Text for the log on a lost connection, with OpenSSL's reason if there is one."""
    text = f"connection lost{PHASES[phase].stage}"
    if isinstance(reason.value, SSL.Error):
        said = [str(parts[-1]) for parts in reason.value.args[0]]
        text += f" (TLS: {', '.join(said)})"
    return text


class Lifecycle:
    """Timeouts of all connections of a relay.

    Args:
        clock: Time in seconds, and timers.
        timeouts: The settings.
        is_backlogged: Whether the relay itself is late.
        has_unread: Whether the awaited bytes of a phase may be unread.

    Attributes:
        queues: Running timeouts, by phase.
        unread: Timeouts that were extended by `UNREAD_SECONDS`.
    """

    def __init__(
        self,
        clock: IReactorTime,
        timeouts: Timeouts,
        is_backlogged: Callable[[], bool],
        has_unread: Callable[[Phase], bool],
    ) -> None:
        self._has_unread = has_unread
        self.queues: dict[Phase, TimeoutQueue[Connection]] = {
            phase: TimeoutQueue(
                clock, seconds, self.expire, seconds * SLACK_SHARE, is_backlogged
            )
            for phase, seconds in _seconds(timeouts).items()
        }
        self.unread: TimeoutQueue[Connection] = TimeoutQueue(
            clock, UNREAD_SECONDS, self.expire
        )

    def apply(self, timeouts: Timeouts) -> None:
        """Stretch or shrink running timeouts to other settings."""
        for phase, seconds in _seconds(timeouts).items():
            self.queues[phase].change(seconds, seconds * SLACK_SHARE)

    def stop(self) -> None:
        """Forget all timeouts."""
        for queue in (*self.queues.values(), self.unread):
            queue.stop()

    def enter(self, connection: Connection, phase: Phase) -> None:
        """Begin a phase and its timeout."""
        if connection.phase is not Phase.GONE:
            self.queues[connection.phase].end(connection)
            self.unread.end(connection)
        connection.phase = phase
        connection.flow.heard = False
        if phase is not Phase.GONE:
            self.queues[phase].begin(connection)

    def expire(self, connection: Connection) -> None:
        """End the timeout of a connection's phase."""
        phase = connection.phase
        row = PHASES[phase]
        if row.awaits_input and self._has_unread(phase):
            self.unread.begin(connection)
        elif row.extend(connection):
            self.enter(connection, phase)
        else:
            row.expire(connection)

    def expire_early(self, connection: Connection) -> None:
        """End the timeout of a connection's phase early, over a limit."""
        if PHASES[connection.phase].is_handshake:
            connection.drop("too many without a registration")
        else:
            self.expire(connection)


def _seconds(timeouts: Timeouts) -> dict[Phase, float]:
    return {phase: getattr(timeouts, row.setting) for phase, row in PHASES.items()}
