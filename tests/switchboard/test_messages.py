"""The wire grammar."""

from __future__ import annotations

import contextlib
import json
import uuid
from typing import Literal

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.errors import UnknownMessage
from proxyrelay.switchboard.messages import (
    ACCEPTED,
    LEGACY_ACCEPTED,
    MESSAGE_CEILING,
    LegacyRegistrationRequest,
    PeerConnection,
    RegistrationRequest,
    canonical_uuid,
    decode,
    echo,
    sdp_of,
)
from tests.support.recording import A, B, offer, registration, wrong_descriptions

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


class CanonicalUuidTests(SynchronousTestCase):
    """Spelling UUIDs."""

    @given(st.uuids(), st.sampled_from(["{%s}", "urn:uuid:%s", "%s"]), st.booleans())
    def test_canonical_uuid_spells_as_python_does(
        self, value: uuid.UUID, form: str, dashes: bool
    ) -> None:
        text = form % (str(value) if dashes else value.hex.upper())
        self.assertEqual(canonical_uuid(text), str(value))

    @given(st.text())
    def test_canonical_uuid_refuses_what_python_refuses(self, text: str) -> None:
        try:
            expected = str(uuid.UUID(text))
        except ValueError:
            self.assertRaises(ValueError, canonical_uuid, text)
        else:
            self.assertEqual(canonical_uuid(text), expected)


class DecodeTests(SynchronousTestCase):
    """Reading what clients send."""

    def test_decode_reads_each_message(self) -> None:
        fields = json.loads(offer(A, B))
        del fields["error"]
        described = '{"sdp": "v=0", "type": "offer"}'
        for payload, expected in (
            (registration(A.upper(), "n"), RegistrationRequest("n", A)),
            (registration(A, legacy=True), LegacyRegistrationRequest("a", A)),
            (
                json.dumps(fields).encode(),
                PeerConnection(A, "a", B, "offer", described),
            ),
        ):
            message = decode(payload)
            self.assertEqual((type(message), message), (type(expected), expected))

    def test_decode_error_says_nothing_of_the_content(self) -> None:
        secret = b'"s3cret'
        payloads = b'{"s3cret": 1}', secret, b'{"name": "s3cret\xff"}', b"[" * 9999
        for payload in payloads:
            error = self.assertRaises(UnknownMessage, decode, payload)
            self.assertNotIn("s3cret", error.detail + str(error))
            self.assertIsNone(error.__cause__)

    def test_decode_refuses_binary_frames(self) -> None:
        self.assertRaises(UnknownMessage, decode, registration(), binary=True)

    @given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "replace")))
    def test_decode_refuses_anything_else(self, payload: bytes) -> None:
        with contextlib.suppress(UnknownMessage):
            decode(payload)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
            lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
        ),
        st.sampled_from(["relay_registration", "peer_connection", "relay_response"]),
    )
    def test_decode_refuses_any_other_json(self, value: object, kind: str) -> None:
        fields = {"name": value, "uuid": value, "message_type": kind}
        try:
            message = decode(json.dumps(fields).encode())
        except UnknownMessage:
            return
        self.assertIsInstance(message, RegistrationRequest)
        self.assertIsInstance(value, str)

    @given(TEXT, TEXT)
    def test_decode_accepted_bytes_are_utf_8(self, name: str, description: str) -> None:
        """A payload that is forwarded as it came is fit for a text frame."""
        fields = json.loads(offer(source_name=name, description=description))
        payload = json.dumps(fields, ensure_ascii=False).encode()
        message = decode(payload)
        assert isinstance(message, PeerConnection)
        self.assertEqual(
            (message.source_name, message.description), (name, description)
        )
        payload.decode("utf-8")


KINDS = st.sampled_from(["offer", "answer"])

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | KINDS,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["sdp", "type", "a"]) | TEXT, inner)
    ),
    max_leaves=8,
)


class DescriptionTests(SynchronousTestCase):
    """The shape of session descriptions, beside that of Python's JSON reader."""

    def agree(self, text: str, kind: Literal["offer", "answer"]) -> bool:
        """Whether a description passes. What passes is what clients can read."""
        sdp = sdp_of(PeerConnection(A, "a", B, kind, text))
        if sdp is not None:
            read = json.loads(text)
            self.assertEqual(read["sdp"], sdp)
            self.assertEqual(sorted(read), ["sdp", "type"])
            self.assertEqual(read["type"], kind)
        return sdp is not None

    @given(TEXT, KINDS, st.booleans(), st.sampled_from([None, 1]))
    def test_sdp_of_takes_any_session_description(
        self, sdp: str, kind: Literal["offer", "answer"], is_ascii: bool, indent: int
    ) -> None:
        fields = {"type": kind, "sdp": sdp}
        for each in (fields, dict(reversed(fields.items()))):
            text = json.dumps(each, ensure_ascii=is_ascii, indent=indent)
            self.assertTrue(self.agree(text, kind))

    @given(JSON, KINDS)
    def test_sdp_of_refuses_other_json(
        self, value: object, kind: Literal["offer", "answer"]
    ) -> None:
        passes = (
            isinstance(value, dict)
            and value.keys() == {"sdp", "type"}
            and isinstance(value["sdp"], str)
            and value["type"] == kind
        )
        self.assertEqual(self.agree(json.dumps(value), kind), passes)

    @given(TEXT, st.integers(0, 40), st.characters(exclude_categories=["Cs"]))
    def test_sdp_of_refuses_nearly_a_description(
        self, sdp: str, place: int, other: str
    ) -> None:
        """A character more, or another one, or none."""
        text = json.dumps({"sdp": sdp, "type": "offer"}, ensure_ascii=False)
        for end in (place, place + 1):
            self.agree(text[:place] + other + text[end:], "offer")
            self.agree(text[-place:] + other + text[:-end], "offer")
        self.agree(text[:place] + text[place + 1 :], "offer")

    def test_sdp_of_refuses_other_text(self) -> None:
        kinds: tuple[Literal["offer", "answer"], ...] = ("offer", "answer")
        for kind in kinds:
            good = json.dumps({"sdp": "v=0", "type": kind})
            self.assertEqual([self.agree(good, one) for one in kinds].count(True), 1)
            for text in wrong_descriptions(kind):
                self.assertFalse(self.agree(text, kind), text[:99])


class EncodeTests(SynchronousTestCase):
    """Writing what the relay says."""

    def test_accepted_has_four_keys_and_the_type_last(self) -> None:
        for text, kind in ((ACCEPTED, "relay"), (LEGACY_ACCEPTED, "server")):
            self.assertEqual(
                text.decode(),
                '{"success": true, "message": null, "error": false, '
                f'"message_type": "{kind}_response"}}',
            )

    @given(TEXT, TEXT, TEXT)
    def test_echo_has_all_fields_in_order(
        self, name: str, description: str, error: str
    ) -> None:
        message = PeerConnection(A, name, B, "answer", description)
        fields = json.loads(echo(message, error))
        self.assertEqual(list(fields)[-1], "message_type")
        expected = msgspec.structs.replace(message, error=error)
        self.assertEqual(decode(echo(message, error)), expected)

    def test_echo_is_never_longer_than_clients_take(self) -> None:
        long = "\u00e9" * (MESSAGE_CEILING // 2)
        for name, description in (("a", long), (long, "v=0"), (long, long)):
            message = PeerConnection(A, name, B, "offer", description)
            text = echo(message, "why")
            self.assertLess(len(text), MESSAGE_CEILING)
            self.assertEqual(json.loads(text)["error"], "why")

    def test_echo_that_fits_keeps_its_description(self) -> None:
        message = PeerConnection(A, "a", B, "offer", "x" * (MESSAGE_CEILING - 1000))
        self.assertEqual(
            json.loads(echo(message, "why"))["description"], message.description
        )
