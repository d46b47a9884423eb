"""The sockets of clients."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

from twisted.internet.tcp import Server
from twisted.python.failure import Failure

from proxyrelay.pace import Pace


class Sender(Protocol):
    """Has something to send."""

    def send_held(self) -> None:
        """Send it, in one piece."""


class Outbox:
    """Who has something to send, while what a client has sent is acted upon.

    One read may bring a dozen messages for one receiver.

    Attributes:
        waiting: Who has; None while nothing is held back.
    """

    def __init__(self) -> None:
        self.waiting: list[Sender] | None = None

    def open(self) -> None:
        """Hold back what is sent from now on."""
        self.waiting = []

    def close(self) -> None:
        """Send it."""
        waiting, self.waiting = self.waiting, None
        for sender in waiting or ():
            sender.send_held()


class PromptServer(Server):
    """Writes to the socket at once where nothing waits to be written.

    Twisted keeps everything until the next turn of the reactor, and asks the kernel to
    be told when the socket takes it, and once more not to be told again: three system
    calls and a turn for what is one call here. Writers that have several things to say
    put them together first.

    Twisted's ports take the class of their connections from an attribute. Checked
    against Twisted 26.10.0.

    Ends of connections are spread over turns of the reactor, with other work that comes
    in crowds: when thousands go away at once, others do not wait until all are gone.

    Args:
        pace: Spreads the ends.
        outbox: Holds back what comes of one read until all of it has been acted upon.
        arguments: As for Twisted's class.
    """

    _over = False

    def __init__(self, pace: Pace, outbox: Outbox, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._pace = pace
        self._outbox = outbox

    def doRead(self) -> Any:  # noqa: N802
        """Read, and send on at once what comes of it."""
        self._outbox.open()
        try:
            return super().doRead()
        finally:
            self._outbox.close()

    def connectionLost(self, reason: Failure) -> None:
        """End, when it is this one's turn. Nothing is read or written any more."""
        if not self._over:
            self._over = True
            self.connected = 0
            self._pace.do(partial(super().connectionLost, reason))

    def write(self, data: bytes) -> None:
        """Write, and keep what the socket does not take.

        Errors are found when that is written.
        """
        if self.connected and not (
            self.dataBuffer or self._tempDataBuffer or self._writeDisconnected
        ):
            sent = self.writeSomeData(data)
            if isinstance(sent, int):
                if sent == len(data):
                    return
                data = data[sent:]
        super().write(data)
