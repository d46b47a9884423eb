"""Everything that goes wrong, in one tree. Pure.

::

    ProxyRelayError
     |-- ConfigError            the settings cannot be served; lists every Problem
     |-- StartError             the relay cannot start, in one line
     |    `-- Taken             another process listens there
     |-- Unanswered             a running relay does not say what it is asked
     |-- NotDone                a running relay refuses a command; a line a reason
     |-- NothingSent            a process gets no signal
     |-- BadRequest             a handshake is answered with an HTTP error
     |-- ProxyHeaderError       a trusted proxy does not say whom it speaks for
     |-- PeerGone               a text was meant for a peer that has left
     |-- PeerBusy               a text was meant for a peer that does not read
     |-- RelayClientError       a client does not reach its relay, or not any longer
     |    |-- NotRegistered     nothing can be sent now
     |    |-- NotConnected      no connection: name, network, TLS, or time
     |    |-- NotUpgraded       the answer to the handshake is not 101
     |    `-- Closed            the connection has ended; carries code and reason
     |         `-- Rejected     for good, until a person acts
     `-- Refusal                a client is closed; carries code and reason
          |-- UnknownMessage    4000
          |-- Unauthorized      4001
          |-- Forbidden         4002
          |-- MessageTooLong    4003
          |-- Superseded        4004
          |-- Deaf              4004
          |-- Disconnected      4004
          |-- PolicyViolation   1008
          `-- TryAgainLater     1013

Only exceptions, and what they carry, live here. The codes 4000 to 4004 are those of the
ProxyStore relay. 1008 is of RFC 6455, section 7.4.1, and 1013 of IANA's registry of
close codes. Clients give up for good on 4001, 4002 and 4004. They come back after any
other code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import ClassVar


class ProxyRelayError(Exception):
    """Base of all errors of this package."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the settings.

    Attributes:
        key: The setting, dotted (``logging.log_dir``) or as the command line
            spells it (``--port``). Empty if the whole file is meant.
        message: What is wrong and what would be right. Never a secret.
        line: Line of the file, counted from 1, if the setting stands there.
        file: Name of the file, if any.
    """

    key: str
    message: str
    line: int | None = None
    file: str | None = None

    def __str__(self) -> str:
        place = self.file or ""
        if self.line is not None:
            place = f"{place}:{self.line}"
        return ": ".join(part for part in (place, self.key, self.message) if part)


class ConfigError(ProxyRelayError):
    """The settings cannot be served.

    Attributes:
        problems: All that was found, in the order of the settings.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class StartError(ProxyRelayError):
    """The relay cannot start. The text is one line for the operator.

    Attributes:
        setting: The setting that would have to change.
    """

    def __init__(self, message: str, setting: str) -> None:
        super().__init__(message)
        self.setting = setting


class Taken(StartError):
    """Another process listens where the relay would."""


class NotDone(ProxyRelayError):
    """A running relay refuses a command. The text says why, a line for each reason."""


class Unanswered(ProxyRelayError):
    """A running relay does not say what it is asked. The text is for the operator."""


class NothingSent(ProxyRelayError):
    """A process gets no signal. The text says why."""


class BadRequest(ProxyRelayError):
    """A request is answered with an HTTP error.

    Attributes:
        status: The error. The exception's text is for the log only.
    """

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class ProxyHeaderError(ProxyRelayError):
    """A trusted proxy does not say whom it speaks for. The text is for the log."""


class PeerGone(ProxyRelayError):
    """A text was meant for a peer whose connection is closing or closed."""


class PeerBusy(ProxyRelayError):
    """A text was meant for a peer that leaves too much unread already."""


class RelayClientError(ProxyRelayError):
    """A client does not reach its relay, or not any longer.

    The text is printable ASCII: the relay, or what answers there, chooses some words.
    """

    def __init__(self, message: str) -> None:
        super().__init__(ascii(message)[1:-1])


class NotRegistered(RelayClientError):
    """A client without a registered connection can send nothing."""


class NotConnected(RelayClientError):
    """No connection to the relay: its name, the network, TLS, or the time.

    The cause, if there is one, is in ``__cause__``.
    """


class NotUpgraded(RelayClientError):
    """The answer to the opening handshake is not 101 (RFC 6455, section 4.1).

    Attributes:
        status: HTTP status of the answer; None if it is no HTTP, or no valid upgrade.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Closed(RelayClientError):
    """The connection to the relay has ended.

    Attributes:
        code: Close code of the relay; None without a close frame.
        reason: Reason of the relay, not trusted; or what has ended the connection.
    """

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(reason if code is None else f"{code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class Rejected(Closed):
    """The relay has rejected the client for good: 4001, 4002, 4004, or in words.

    A further attempt fails as well, until a person acts.
    """


class Refusal(ProxyRelayError):
    """A client is refused: its socket is closed with a code and a reason.

    Attributes:
        code: WebSocket close code.
        prefix: What stands before the text in the close reason.
        text: Text of all refusals of a class; else each has its own.
        sub: The user who is refused, where the connection does not tell; never sent.
    """

    code: ClassVar[int]
    prefix: ClassVar[str] = ""
    text: ClassVar[str] = ""
    sub: str | None = None

    def __init__(self, text: str = "") -> None:
        super().__init__(text or self.text)

    @property
    def reason(self) -> str:
        """The close reason, before it is cut to 123 bytes."""
        return f"{self.prefix}{self}"


class UnknownMessage(Refusal):
    """A message that is not one of the relay's messages.

    Attributes:
        detail: What was wrong with it, for the log: never sent to the client,
            and never a piece of the message.
    """

    code = 4000
    text = "Unknown message type."

    def __init__(self, detail: str) -> None:
        super().__init__()
        self.detail = detail


class Unauthorized(Refusal):
    """The client did not say who it is. Final for the client."""

    code = 4001
    prefix = "UnauthorizedError: "


class Forbidden(Refusal):
    """The client may not do what it asks for. Final for the client."""

    code = 4002
    prefix = "ForbiddenError: "


class MessageTooLong(Refusal):
    """A message is longer than ``max_message_bytes``."""

    code = 4003
    text = "Message length exceeds limit."


class Superseded(Refusal):
    """A newer connection holds the UUID. Final for the client."""

    code = 4004
    text = (
        "Relay received a registration with the same ID. This might mean that the "
        "endpoint is running in multiple locations."
    )


class Deaf(Refusal):
    """The client came back and reads nothing since. Final for the client."""

    code = 4004
    text = (
        "The endpoint has come back, but reads nothing of what it is sent. It must be "
        "started anew."
    )


class Disconnected(Refusal):
    """The operator wants the endpoint to start anew. Final for the client.

    After any other code a stock endpoint registers again, and reads nothing more.
    """

    code = 4004
    text = (
        "The operator of the relay has disconnected this endpoint. It must be started "
        "anew."
    )


class PolicyViolation(Refusal):
    """The client's frames are valid one by one, but abusive together."""

    code = 1008


class TryAgainLater(Refusal):
    """The relay cannot serve the client now; the client should come back."""

    code = 1013
