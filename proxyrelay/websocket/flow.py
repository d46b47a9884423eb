"""Flow control of a connection, in both directions.

Towards the client: writes are collected for one batch, kept while a replaced
connection ends, and bounded while the client does not read. From the client: frames
over its rate are read later, never refused.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IPushProducer, IReactorTime
from zope.interface import implementer

from proxyrelay.config import Config
from proxyrelay.errors import PeerBusy, PeerGone, PolicyViolation
from proxyrelay.net.pacing import TurnBudget
from proxyrelay.net.timers import TimeoutQueue
from proxyrelay.net.write_batch import WriteBatch
from proxyrelay.websocket.admission import Limits
from proxyrelay.websocket.connection import Connection
from proxyrelay.websocket.fastpath import LENGTH_16, LENGTH_64, TEXT

FOLLOW_SECONDS = 1.0
"""Longest wait for the end of a replaced connection."""

PAUSE_SECONDS = 0.1
"""Shortest pause in reading from a client over its rate."""

MAX_CONTROL_BEFORE_REGISTRATION = 64
"""Pings and pongs of a client without a UUID. Stock clients send none."""

MAX_EMPTY_RECORDS_BEFORE_UPGRADE = 1024
"""TLS records without data, such as changes of keys. Clients send few."""

MAX_FRAMES_AFTER_CLOSE = 128
"""Frames on their way while the relay closes a connection."""

DEFERRED_CLIENTS_PER_TURN = 4
"""Deferred clients resumed per reactor turn."""


def header(first: int, payload_length: int) -> bytes:
    """Header of an unmasked frame (RFC 6455, section 5.2).

    Its first byte is given; a payload of so many bytes follows.
    """
    if payload_length < LENGTH_16:
        return bytes((first, payload_length))
    if payload_length < 1 << 16:
        return bytes((first, LENGTH_16)) + payload_length.to_bytes(2, "big")
    return bytes((first, LENGTH_64)) + payload_length.to_bytes(8, "big")


class FlowQueues:
    """Flow control of all connections of a relay."""

    def __init__(
        self,
        clock: IReactorTime,
        config: Config,
        limits: Limits[Any],
        outbox: WriteBatch,
    ) -> None:
        self.clock = clock
        self.limits = limits
        self.outbox = outbox
        self.slow = TimeoutQueue(clock, PAUSE_SECONDS, FlowControl.resume_reading)
        self.followers = TimeoutQueue(clock, FOLLOW_SECONDS, FlowControl.stop_following)
        self.deferred = TurnBudget(clock, DEFERRED_CLIENTS_PER_TURN)
        self.apply(config)

    def apply(self, config: Config) -> None:
        """Apply other settings to all connections."""
        self.max_unread_bytes = config.max_unread_bytes

    def stop(self) -> None:
        """Forget all timers."""
        self.slow.stop()
        self.followers.stop()


@implementer(IPushProducer)
class FlowControl:
    """Flow control of one connection, until `close`.

    It is the push producer of the transport, so that it learns of a full buffer. To
    drop a client means to end its connection without a close handshake.

    Attributes:
        heard: Whether bytes came since the phase of the connection began.
        paused: Whether the client leaves bytes unread.
        is_following: Whether writes wait for the end of a replaced connection.
        unread: Bytes written since ``paused`` or ``is_following`` became true.
        message_debt: Time on the clock, in seconds, and not an amount. From that time
            on, the client's frames are within its rate.
        out_of_turn: Frames before the registration, or after a close frame.
        awaited_pongs: Pongs of this read that the relay has asked for. They are free.
    """

    __slots__ = (
        *("_connection", "_follower", "_held", "_queues", "_rest", "_slow_since"),
        *("_transport", "awaited_pongs", "heard", "is_following", "message_debt"),
        *("out_of_turn", "paused", "unread"),
    )

    def __init__(self, connection: Connection, queues: FlowQueues) -> None:
        self._connection = connection
        self._transport = connection.transport
        self._queues = queues
        self._held: list[bytes] | None = None
        self._follower: FlowControl | None = None
        self._slow_since: float | None = None
        self._rest = b""
        self.awaited_pongs = 0
        self.heard = False
        self.is_following = False
        self.message_debt = 0.0
        self.out_of_turn = 0
        self.paused = False
        self.unread = 0

    def suspend(self) -> tuple[bytes, bytes]:
        """End without a write: the connection goes on in another process.

        Returns:
            Frames that were read and put off, and bytes that were not written.
        """
        deferred, held = self._rest, b"".join(self._held or ())
        self._rest, self._held, self.is_following = b"", None, False
        self._queues.slow.end(self)
        self._queues.followers.end(self)
        return deferred, held

    def revive(self, unsent: bytes, unread: int, deferred: bytes) -> None:
        """Write what is left of another process, and keep its frames for `read_on`.

        A client that leaves it unread has as much to read as before.
        """
        if unsent:
            self._transport.write(unsent)
            if self.paused:
                self.unread = unread
        if deferred:
            self._rest = deferred
            self._transport.pauseProducing()

    def close(self) -> None:
        """End with the connection, and let its follower write."""
        queues, follower = self._queues, self._follower
        queues.slow.end(self)
        queues.followers.end(self)
        self._rest = b""
        self._follower = None
        del self._connection  # no reference cycle stays behind
        if follower is not None:
            follower.stop_following()

    # -- towards the client

    def deliver(self, text: bytes) -> None:
        """Send one text message of another peer, if the client reads.

        Raises:
            PeerGone: As for `answer`; or the transport is lost already.
            PeerBusy: More than ``max_unread_bytes`` would be unread.
        """
        if not self._transport.connected:
            raise PeerGone
        if (self.paused or self.is_following) and self.unread + len(
            text
        ) > self._queues.max_unread_bytes:
            raise PeerBusy
        self._send_text(text)

    def answer(self, text: bytes) -> None:
        """Send one text message of the relay, and count it against the client's rate.

        An error for the sender of a message may exceed ``max_message_bytes``.

        Raises:
            PeerGone: The connection is closing or closed, or is dropped now: the client
                sends on, and does not read.
        """
        queues = self._queues
        self.message_debt = queues.limits.charge_answer(
            self.message_debt, queues.clock.seconds()
        )
        self._send_text(text)

    def _send_text(self, text: bytes) -> None:
        connection = self._connection
        if connection.state == connection.STATE_OPEN:
            self.send(header(TEXT, len(text)) + text)
        if connection.state != connection.STATE_OPEN:
            raise PeerGone

    def send(self, data: bytes) -> None:
        """Write, or drop a client that leaves too much unread.

        `deliver` bounds the messages of others. Twice as much comes only of pongs and
        answers: the client sends on, and does not read.
        """
        queues = self._queues
        if self.paused or self.is_following:
            self.unread += len(data)
            if self.unread > 2 * queues.max_unread_bytes:
                self._connection.drop("left too much unread")
                return
        if self._held is not None:
            self._held.append(data)
            return
        waiting = queues.outbox.waiting
        if waiting is None:
            self._transport.write(data)
        else:
            self._held = [data]
            waiting.append(self)

    def send_held(self) -> None:
        """Write the collected bytes in one piece."""
        if self._held is not None and not self.is_following:
            held, self._held = self._held, None
            if held:
                self._transport.write(held[0] if len(held) == 1 else b"".join(held))

    def pauseProducing(self) -> None:
        """Count unread bytes. A TCP transport repeats this call at every write."""
        if not self.paused:
            self.paused = True
            self.unread = 0

    def resumeProducing(self) -> None:
        """Note that the client has read everything."""
        self.paused = False

    def stopProducing(self) -> None:
        """Do nothing: the connection ends right after."""

    def follow(self, other: FlowControl) -> None:
        """Keep writes until another connection ends, for `FOLLOW_SECONDS` at most."""
        if self.is_following:
            return
        self.is_following = True
        other._follower = self
        if not self.paused:
            self.unread = 0
        if self._held is None:
            self._held = []
        self._queues.followers.begin(self)

    def stop_following(self) -> None:
        """Write the kept bytes."""
        if self.is_following:
            self.is_following = False
            self._queues.followers.end(self)
            self.send_held()

    def begin_close(self) -> None:
        """Write the kept bytes, and leave the close frame uncounted.

        Autobahn would set a connection that is dropped for it from CLOSED to CLOSING.
        """
        self.stop_following()
        self.unread = 0
        self.out_of_turn = 0

    # -- from the client

    @property
    def is_in_debt(self) -> bool:
        """Whether the client has sent more than its rate allows."""
        return self.message_debt > self._queues.clock.seconds()

    def received_early(self) -> None:
        """Count a control frame before the registration."""
        self.out_of_turn += 1
        if self.out_of_turn > MAX_CONTROL_BEFORE_REGISTRATION:
            self._connection.violate(
                PolicyViolation("Too many frames before a registration.")
            )

    def received_empty_record(self) -> None:
        """Count a TLS record without data, like a frame after the upgrade."""
        if self._connection.state != self._connection.STATE_CONNECTING:
            self.received(1)
            return
        self.out_of_turn += 1
        if self.out_of_turn > MAX_EMPTY_RECORDS_BEFORE_UPGRADE:
            self._connection.drop("too many TLS records without data")

    def received(self, count: int) -> None:
        """Count the frames of one read, and pause a client over its rate."""
        connection = self._connection
        count -= self.awaited_pongs
        self.awaited_pongs = 0
        if connection.state != connection.STATE_OPEN:
            self.out_of_turn += count
            if self.out_of_turn > MAX_FRAMES_AFTER_CLOSE:
                connection.drop("sends on after it was closed")
            return
        queues, origin = self._queues, connection.origin
        limits, now = queues.limits, queues.clock.seconds()
        debt = limits.charge_messages(origin, self.message_debt, now, count)
        self.message_debt = debt
        latest = now + limits.burst
        if (
            (debt > latest or origin.message_debt > latest)
            and self._slow_since is None
            and limits.too_fast(origin, debt, now)
        ):
            self._slow_since = now
            self._transport.pauseProducing()
            queues.slow.begin(self)
            connection.slowed_down()

    def defer(self, rest: bytes) -> None:
        """Keep frames for the next turn, and read nothing until then."""
        self._rest = rest
        self._transport.pauseProducing()
        self._queues.deferred.do(self._resume_deferred)

    def _resume_deferred(self) -> None:
        if self._rest:
            self.read_on()

    def resume_reading(self) -> None:
        """Read again, unless the client is still over its rate."""
        queues, origin = self._queues, self._connection.origin
        now = queues.clock.seconds()
        if queues.limits.too_fast(origin, self.message_debt, now, self._slow_since):
            queues.slow.begin(self)
            return
        self._slow_since = None
        self.read_on()

    def read_on(self) -> None:
        """Read again, unless something else speaks against it."""
        connection = self._connection
        if self._slow_since is not None or connection.awaits_claim:
            return
        rest, self._rest = self._rest, b""
        if rest:
            connection.dataReceived(rest)
        over = connection.state == connection.STATE_CLOSED
        halted = self._slow_since is not None or connection.awaits_claim
        if not (over or self._rest or halted):
            self._transport.resumeProducing()
