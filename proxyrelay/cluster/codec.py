"""What reaches the inbox of a node. Pure.

The first line is ASCII, and says what follows::

    kick uuid connection code       from a script: another node has a newer connection
    arrived uuid                    from a script: a client of an offer that waits
    message uuid connection time    from a script, with an envelope for a client
    direct                          from a node, with an envelope for this one

An envelope is a MessagePack array, sealed if there is a key. It carries a serial
number of its node. The engine keeps the order, so a number that is not higher than
the last one means a repetition. Unknown kinds and further fields are ignored.
"""

from __future__ import annotations

import msgspec


class Malformed(Exception):
    """No message of this version."""


class Envelope(msgspec.Struct, array_like=True, gc=False):
    """A message from node to node.

    Attributes:
        serial: Number of the message; each node counts its own.
        node: The sending node, with its incarnation.
    """

    serial: int
    node: str


class Offered(Envelope, tag="offer"):
    """An offer for a client of the receiving node.

    Attributes:
        number: Number of the offer at the sending node.
        source: UUID of the sender.
        target: UUID of the receiver.
        user: Hash of the sender's user.
        name: What the sender calls itself.
        text: The message as it came.
        is_connected: Whether the two have just been connected, as far as the sending
            node knows, and the sender has not registered anew since.
        time: When it was sealed, in microseconds of the engine's clock.
    """

    number: int
    source: str
    target: str
    user: str
    name: str
    text: bytes
    is_connected: bool = False
    time: int = 0


class Answered(Envelope, tag="answer"):
    """The answer to an offer of the receiving node.

    Attributes:
        number: Number of the offer at the receiving node.
        source: UUID of the client that made the offer.
        target: UUID of the client that answers.
        text: The message as it came.
        age: Seconds since that client has registered; None from older versions.
        candidates: Kinds of its candidates, as `proxyrelay.switchboard.candidates` has
            them.
    """

    number: int
    source: str
    target: str
    text: bytes
    age: float | None = None
    candidates: int = 0


class Returned(Envelope, tag="nack"):
    """An offer of the receiving node that its peer does not get, or cannot answer.

    Attributes:
        number: Number of the offer at the receiving node.
        source: UUID of the client that made the offer.
        target: UUID of its peer.
        reason: ``gone``: the receiver is not where the engine says. ``answer``: this
            is an answer, and its receiver does not get it. Else the name of a
            `proxyrelay.switchboard.events.BounceReason`.
        text: The offer, if it may go elsewhere.
    """

    number: int
    source: str
    target: str
    reason: str
    text: bytes = b""


class Question(Envelope, tag="ask"):
    """Whether the receiving node still has a connection."""

    uuid: str
    connection: int


class Confirmation(Envelope, tag="told"):
    """The answer to a `Question`."""

    uuid: str
    connection: int
    is_held: bool


class Query(Envelope, tag="query"):
    """A question of an operator to all nodes.

    Attributes:
        number: Number of the question at the asking node.
        time: When it was asked, in microseconds of the engine's clock.
        what: A word of `proxyrelay.cluster.queries`; to others there is no report.
        uuid: The client to disconnect, or nothing.
    """

    number: int
    time: int
    what: str
    uuid: str = ""


class Row(msgspec.Struct, array_like=True, gc=False):
    """A client of the reporting node.

    Attributes:
        uuid: Its UUID.
        age: Seconds since its registration.
        idle: Seconds since its last offer; None before the first.
        sent: Messages of this client that reached their peer.
        received: Messages of others that reached this client.
        unanswered: Offers in a row that it left unanswered.
        marks: What is unusual about it, in words.
        name: What it calls itself; empty in a message that is not sealed.
        user: Its user, likewise.
        address: Its address, likewise.
        candidates: Kinds of its candidates, as `proxyrelay.switchboard.candidates` has
            them.
    """

    uuid: str
    age: float
    idle: float | None
    sent: int
    received: int
    unanswered: int
    marks: list[str]
    name: str = ""
    user: str = ""
    address: str = ""
    candidates: int = 0


class Report(Envelope, tag="report"):
    """The reply to a `Query`.

    Attributes:
        number: Number of the question at the receiving node.
        version: Of proxyrelay.
        uptime: Seconds since the start.
        clients: Number of registered clients.
        unsynced: Number of those that the engine may not know.
        is_ready: Whether new clients are served.
        is_draining: Whether it waits for its clients to leave.
        is_done: Whether it has disconnected the client.
        rows: The first of the clients, if the question was for them.
    """

    number: int
    version: str
    uptime: float
    clients: int
    unsynced: int
    is_ready: bool
    is_draining: bool
    is_done: bool = False
    rows: list[Row] = []


AnyEnvelope = Offered | Answered | Returned | Question | Confirmation | Query | Report

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyEnvelope] = msgspec.msgpack.Decoder(AnyEnvelope)

encode = _encoder.encode


def decode(envelope: bytes) -> AnyEnvelope:
    """Read an envelope.

    Raises:
        Malformed: It has an unknown kind, or is none.
    """
    try:
        return _decoder.decode(envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise Malformed from None


class Kick(msgspec.Struct, frozen=True):
    """A connection of this node was replaced: close it with a code."""

    uuid: str
    connection: int
    code: int


class Arrived(msgspec.Struct, frozen=True):
    """A client has registered for which an offer of this node waits."""

    uuid: str


class ForClient(msgspec.Struct, frozen=True):
    """An envelope for a client.

    Attributes:
        uuid: The client.
        connection: Its connection, as the engine knows it.
        time: Time of the engine in microseconds, when the message was passed on.
        envelope: Perhaps sealed.
    """

    uuid: str
    connection: int
    time: int
    envelope: bytes


class ForNode(msgspec.Struct, frozen=True):
    """An envelope for this node, perhaps sealed."""

    envelope: bytes


DIRECT = b"direct\n"
"""Start of an envelope for a node."""


def parse(message: bytes) -> Kick | Arrived | ForClient | ForNode:
    """Read what reaches an inbox.

    Raises:
        Malformed: It has an unknown kind, or is nothing of this version.
    """
    line, _, envelope = message.partition(b"\n")
    try:
        kind, *words = line.decode("ascii").split(" ")
        match kind, words:
            case "message", [uuid, connection, time]:
                return ForClient(uuid, int(connection), int(time), envelope)
            case "direct", []:
                return ForNode(envelope)
            case "kick", [uuid, connection, code]:
                return Kick(uuid, int(connection), int(code))
            case "arrived", [uuid]:
                return Arrived(uuid)
    except ValueError:
        pass
    raise Malformed
