"""The wire grammar: what clients and the relay say to each other. Pure.

All messages are JSON objects in text frames::

    client -> relay          relay_registration  name, uuid
    relay  -> client         relay_response      success, message, error
    client -> relay -> peer  peer_connection     source_uuid, source_name, peer_uuid,
                                                 description_type, description, error

``message_type`` names the message and is written last. ProxyStore 0.4 and 0.5
say ``server_registration`` and ``server_response`` for the first two. UUIDs are
read as leniently as `uuid.UUID` reads them and written canonically.

Only the grammar lives here: types, decoding, encoding. No rules, no I/O.
"""

from __future__ import annotations

import json
from typing import Literal
from uuid import UUID

import msgspec

from proxyrelay.config import CANONICAL_UUID
from proxyrelay.errors import UnknownMessage

MESSAGE_CEILING = 1024 * 1024
"""Bytes of the longest message that stock clients accept: the default
``max_size`` of the websockets library."""

_is_canonical = CANONICAL_UUID.fullmatch


def canonical_uuid(text: str) -> str:
    """Spell a UUID in lower case with dashes. `uuid.UUID` reads the text.

    Raises:
        ValueError: The text is no UUID.
    """
    return text if _is_canonical(text) else str(UUID(text))


class RegistrationRequest(
    msgspec.Struct,
    tag_field="message_type",
    tag="relay_registration",
    forbid_unknown_fields=True,
    gc=False,
):
    """A client asks to be reachable under its UUID.

    Attributes:
        name: The client's name for itself; not trusted.
        uuid: The UUID, canonical after decoding.
    """

    name: str
    uuid: str

    def __post_init__(self) -> None:
        self.uuid = canonical_uuid(self.uuid)


class LegacyRegistrationRequest(RegistrationRequest, tag="server_registration"):
    """The same from ProxyStore 0.4 or 0.5, which wants a ``server_response``."""


class PeerConnection(
    msgspec.Struct,
    tag_field="message_type",
    tag="peer_connection",
    forbid_unknown_fields=True,
    gc=False,
):
    """An offer or an answer on its way from one client to another.

    Attributes:
        source_uuid: The sender, canonical after decoding.
        source_name: The sender's name for itself; not trusted.
        peer_uuid: The receiver, canonical after decoding.
        description_type: ``offer`` or ``answer``.
        description: The session description, opaque to the relay.
        error: Reason of a message that comes back to its sender; else None.
    """

    source_uuid: str
    source_name: str
    peer_uuid: str
    description_type: Literal["offer", "answer"]
    description: str
    error: str | None = None

    def __post_init__(self) -> None:
        if not (_is_canonical(self.source_uuid) and _is_canonical(self.peer_uuid)):
            self.source_uuid = canonical_uuid(self.source_uuid)
            self.peer_uuid = canonical_uuid(self.peer_uuid)


class Description(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """Content of the ``description``, which is JSON in a text.

    Attributes:
        sdp: The session description (RFC 8866), opaque to the relay.
        type: ``offer`` or ``answer``.
    """

    sdp: str
    type: str


ClientMessage = RegistrationRequest | LegacyRegistrationRequest | PeerConnection
"""A message that a client may send."""

_decoder: msgspec.json.Decoder[ClientMessage] = msgspec.json.Decoder(ClientMessage)

_description_decoder: msgspec.json.Decoder[Description] = msgspec.json.Decoder(
    Description
)


def sdp_of(message: PeerConnection) -> str | None:
    """The session description, or None if the description has the wrong shape.

    Stock clients end on any other shape, in every release: on text that is no JSON
    object, on a missing, mistyped or further field, and on a type that differs from
    ``description_type``.
    """
    try:
        description = _description_decoder.decode(message.description)
    except msgspec.MsgspecError:
        return None
    is_of_type = description.type == message.description_type
    return description.sdp if is_of_type else None


def decode(payload: bytes, *, binary: bool = False) -> ClientMessage:
    """Read one message, which no client may send in a binary frame.

    A payload that passes is valid UTF-8 throughout, so it can be forwarded in a
    text frame without another check.

    Raises:
        UnknownMessage: No client may send this.
    """
    if binary:
        raise UnknownMessage("a binary frame")
    try:
        return _decoder.decode(payload)
    except msgspec.ValidationError:
        raise UnknownMessage("no message that a client may send") from None
    except msgspec.MsgspecError:
        raise UnknownMessage("malformed JSON") from None
    except UnicodeDecodeError:
        raise UnknownMessage("invalid UTF-8") from None
    except RecursionError:
        raise UnknownMessage("JSON nested too deeply") from None


def _accepted(message_type: str) -> bytes:
    fields = {"success": True, "message": None, "error": False}
    return json.dumps({**fields, "message_type": message_type}).encode()


ACCEPTED = _accepted("relay_response")
"""The answer to an accepted registration. Clients end on any other shape."""

LEGACY_ACCEPTED = _accepted("server_response")
"""The same for ProxyStore 0.4 and 0.5."""


def echo(message: PeerConnection, error: str) -> bytes:
    """Encode a message that goes back to its sender with an error.

    The description is left out if the text would be too long for a stock client, which
    does not read the description beside an error. Clients match the start of the error.
    """
    fields = msgspec.structs.asdict(message) | {"error": error}
    fields["message_type"] = "peer_connection"
    text = msgspec.json.encode(fields)
    for long_one in ("description", "source_name"):
        if len(text) > MESSAGE_CEILING:
            fields[long_one] = ""
            text = msgspec.json.encode(fields)
    return text
