"""A connection to the engine: commands, and their replies in order.

It does what txredisapi's protocols do, in a third of their time: commands are packed in
C, and a reply costs no Deferred.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, cast

import hiredis
from OpenSSL.SSL import Error as TlsError
from service_identity import VerificationError
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from proxyrelay.cluster.bus import NoReply

ReplyError = hiredis.ReplyError
"""An error that the engine replies with."""

Word = bytes | str | int


class QuietFactory(Factory):
    """Logs neither its start nor its end."""

    noisy = False


class Call:
    """A command that waits for its reply.

    Attributes:
        done: Called once with the reply, which may be a `ReplyError`, or with a
            `NoReply`.
        since: When it was sent, in seconds.
    """

    __slots__ = ("done", "since")

    def __init__(self, done: Callable[[Call, Any], None], since: float = 0.0) -> None:
        self.done = done
        self.since = since


class Commands(Protocol):
    """A connection for commands.

    Args:
        lost: Called with this connection and a reason when it ends.
    """

    def __init__(self, lost: Callable[[Commands, str], None]) -> None:
        self._lost = lost
        self._reader = hiredis.Reader()
        self._calls: deque[Call] = deque()

    def send(self, call: Call, command: tuple[Word, ...]) -> None:
        """Send a command."""
        if not self.connected:
            raise NoReply("the connection was lost")
        self._calls.append(call)
        cast(ITCPTransport, self.transport).write(
            hiredis.pack_command(cast(Any, command))
        )

    def execute(self, *command: Word) -> Deferred[Any]:
        """Send a command.

        Returns:
            Fires with the reply. Fails with `ReplyError` or `NoReply`.
        """
        result: Deferred[Any] = Deferred()

        def done(_: Call, reply: Any) -> None:
            if isinstance(reply, Exception):
                result.errback(reply)
            else:
                result.callback(reply)

        self.send(Call(done), command)
        return result

    def abort(self) -> None:
        """End the connection at once."""
        cast(ITCPTransport, self.transport).abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """Hand on the replies."""
        reader = self._reader
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not False:
                self._received(reply)
        except hiredis.ProtocolError:
            self._lost(self, "something else than an engine answers")
            self.abort()

    def _received(self, reply: Any) -> None:
        if not self._calls:  # an engine with too many clients says so unasked
            self._lost(self, str(reply))
            self.abort()
            return
        call = self._calls.popleft()
        call.done(call, reply)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell it, and let no call wait on."""
        self.connected = 0
        self._lost(self, _ending(reason.value))
        while self._calls:
            call = self._calls.popleft()
            call.done(call, NoReply("the connection was lost"))


def _ending(error: Any) -> str:
    if isinstance(error, VerificationError):
        return "the engine's certificate is for another host"
    if isinstance(error, TlsError) and error.args and error.args[0]:
        reasons = ", ".join(str(reason) for _, _, reason in error.args[0])
        return f"TLS with the engine failed: {reasons}"
    return "the engine closed a connection"


class Inbox(Commands):
    """A connection for the messages of a channel.

    Args:
        lost: Called with this connection and a reason when it ends.
        received: Called with each message.
    """

    def __init__(
        self,
        lost: Callable[[Commands, str], None],
        received: Callable[[bytes], None],
    ) -> None:
        super().__init__(lost)
        self._hand_on = received

    def _received(self, reply: Any) -> None:
        if isinstance(reply, list) and reply[0] == b"message":
            self._hand_on(reply[2])
        else:
            super()._received(reply)
