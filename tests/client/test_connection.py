"""One connection of the client: handshake, registration, messages, bounds, its end."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.client.connection import (
    CONNECT_TIMEOUT_SECONDS,
    MAX_FRAMES_PER_MESSAGE,
    PING_INTERVAL_SECONDS,
    PONG_TIMEOUT_SECONDS,
    RelayConnection,
    connect,
)
from proxyrelay.client.endpoint import MAX_HEAD_BYTES
from proxyrelay.client.url import RelayUrl
from proxyrelay.errors import (
    Closed,
    NotConnected,
    NotRegistered,
    NotUpgraded,
    Rejected,
    RelayClientError,
)
from proxyrelay.switchboard.messages import (
    ACCEPTED,
    MESSAGE_CEILING,
    PeerConnection,
    RegistrationRequest,
)
from tests.support.frames import BINARY, CLOSE, CONTINUATION, PING, TEXT
from tests.support.recording import A, B, offer
from tests.support.relay_end import MemoryEndpoint, RelayEnd, server_frame

URL = "ws://relay.example:8700/path?a=b"


class ConnectionTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.endpoint = MemoryEndpoint()
        self.received: list[PeerConnection] = []

    def connect(self, url: str = URL, **options: Any) -> Deferred[RelayConnection]:
        return connect(
            *(self.clock, RelayUrl.parse(url), self.endpoint),
            *(RegistrationRequest("a", A), self.received.append),
            **options,
        )

    def registered(self) -> tuple[RelayConnection, RelayEnd]:
        connecting = self.connect()
        self.endpoint.last.accept()
        return self.successResultOf(connecting), self.endpoint.last

    def end(self, connection: RelayConnection) -> RelayClientError:
        found = self.successResultOf(connection.ended)
        self.assertFalse(connection.is_registered)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return found


class HandshakeTests(ConnectionTestCase):
    def test_request_has_host_path_and_authorization(self) -> None:
        self.connect(authorization=lambda: "Bearer abc")
        lines = self.endpoint.last.request.decode().split("\r\n")
        self.assertEqual(lines[0], "GET /path?a=b HTTP/1.1")
        self.assertIn("Host: relay.example:8700", lines)
        self.assertIn("Authorization: Bearer abc", lines)

    def test_request_without_authorization_has_no_header(self) -> None:
        self.connect(authorization=lambda: None)
        self.assertNotIn(b"Authorization", self.endpoint.last.request)

    def test_ipv6_host_has_brackets(self) -> None:
        self.connect("ws://[::1]:8700")
        self.assertIn(b"Host: [::1]:8700\r\n", self.endpoint.last.request)

    def test_authorization_with_a_line_break_is_not_sent(self) -> None:
        connecting = self.connect(authorization=lambda: "Bearer a\r\nX: secret")
        error = self.failureResultOf(connecting, ValueError).value
        self.assertNotIn("secret", str(error))
        self.assertEqual(self.endpoint.attempts, 0)

    def test_connection_waits_for_a_late_authorization(self) -> None:
        token: Deferred[str] = Deferred()
        self.connect(authorization=lambda: token)
        self.assertEqual(self.endpoint.attempts, 0)
        token.callback("Bearer late")
        self.assertIn(b"Bearer late", self.endpoint.last.request)

        async def fetched() -> str:
            return "Bearer fetched"

        self.connect(authorization=fetched)
        self.assertIn(b"Bearer fetched", self.endpoint.last.request)

    def test_registration_follows_the_upgrade(self) -> None:
        connecting = self.connect()
        end = self.endpoint.last
        end.upgrade("X-City: Z\xfcrich")
        (text,) = end.texts()
        self.assertEqual(
            list(json.loads(text).items()),
            [("name", "a"), ("uuid", A), ("message_type", "relay_registration")],
        )
        self.assertNoResult(connecting)
        end.send(ACCEPTED)
        self.assertTrue(self.successResultOf(connecting).is_registered)

    def test_answer_in_pieces_is_read(self) -> None:
        connecting = self.connect()
        end = self.endpoint.last
        whole = RelayEnd.say
        pieces: list[bytes] = []
        self.patch(RelayEnd, "say", lambda _, data: pieces.append(data))
        end.accept()
        for byte in b"".join(pieces):
            whole(end, bytes([byte]))
        self.successResultOf(connecting)

    def test_other_answers_fail_with_their_status(self) -> None:
        for answer, status, words in (
            (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", 502, "502 Bad Gateway in the place"),
            (b"HTTP/1.0 403 No\r\nA: b\r\n\r\n", 403, "No"),
            (b"HTTP/1.1 200\r\n\r\n", 200, "HTTP 200 in the place of 101: no relay"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", 400, "want wss://"),
            (b"HTTP/2 101\r\n\r\n", None, "malformed"),
            (b"HTTP/1.1 101 x\r\n\r\n", None, "Upgrade"),
            (b"SSH-2.0-OpenSSH", None, "HTTP"),
            (b"\x15\x03\x01\x00\x02\x02\x46", None, "use wss://"),
            (b"HTTP/1.1 101 " + MAX_HEAD_BYTES * b"x", None, "does not end"),
        ):
            connecting = self.connect()
            self.endpoint.last.say(answer)
            error = self.failureResultOf(connecting, NotUpgraded).value
            self.assertEqual(error.status, status, answer[:20])
            self.assertIn(words, str(error))
            self.assertTrue(self.endpoint.last.transport.aborted)
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_refused_connection_fails(self) -> None:
        self.endpoint.refuses = True
        error = self.failureResultOf(self.connect(), NotConnected).value
        self.assertIn("refused", str(error))
        self.assertIsNotNone(error.__cause__)

    def test_early_end_fails(self) -> None:
        connecting = self.connect()
        self.endpoint.last.transport.loseConnection()
        error = self.failureResultOf(connecting, NotConnected).value
        self.assertIn("want wss://", str(error))

    def test_time_without_registration_fails(self) -> None:
        for step in (
            lambda: setattr(self.endpoint, "hangs", True),
            lambda: setattr(self.endpoint, "hangs", False),
        ):
            step()
            connecting = self.connect()
            self.clock.advance(CONNECT_TIMEOUT_SECONDS)
            self.failureResultOf(connecting, NotConnected)
            self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertTrue(self.endpoint.last.transport.aborted)
        connecting = self.connect()
        self.endpoint.last.upgrade()
        self.clock.advance(CONNECT_TIMEOUT_SECONDS)
        self.failureResultOf(connecting, NotConnected)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_peer_that_is_no_relay_fails(self) -> None:
        for payload, opcode in ((b"hello", TEXT), (ACCEPTED, BINARY)):
            connecting = self.connect()
            self.endpoint.last.upgrade()
            self.endpoint.last.send(payload, opcode)
            error = self.failureResultOf(connecting, NotUpgraded).value
            self.assertIn("no relay", str(error))

    def test_registration_without_success_is_rejected(self) -> None:
        connecting = self.connect()
        self.endpoint.last.upgrade()
        self.endpoint.last.send(ACCEPTED.replace(b"true", b"false"))
        self.failureResultOf(connecting, Rejected)


class MessageTests(ConnectionTestCase):
    def test_message_is_delivered_decoded(self) -> None:
        _, end = self.registered()
        end.send(offer(B, A))
        (message,) = self.received
        self.assertEqual((message.source_uuid, message.peer_uuid), (B, A))
        self.assertEqual(message.description_type, "offer")

    def test_message_before_the_registration_is_dropped(self) -> None:
        self.connect()
        self.endpoint.last.upgrade()
        self.endpoint.last.send(offer(B, A))
        self.assertEqual(self.received, [])

    def test_unknown_message_later_is_dropped(self) -> None:
        connection, end = self.registered()
        for payload, opcode in ((b"{}", TEXT), (b"\xff", BINARY), (ACCEPTED, TEXT)):
            end.send(payload, opcode)
        end.send(offer(B, A))
        self.assertTrue(connection.is_registered)
        self.assertEqual(len(self.received), 1)

    def test_failing_callback_is_logged_and_harms_nothing(self) -> None:
        connection, end = self.registered()

        def fails(_: object) -> None:
            raise KeyError

        connection._received = fails
        end.send(offer(B, A))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertTrue(connection.is_registered)

    def test_sent_message_has_the_grammar(self) -> None:
        connection, end = self.registered()
        connection.send(PeerConnection(A, "a", B, "offer", "x"))
        found = json.loads(end.texts()[-1])
        self.assertEqual(list(found)[-1], "message_type")
        self.assertEqual((found["peer_uuid"], found["error"]), (B, None))

    def test_sending_too_much_or_without_registration_fails(self) -> None:
        connection, end = self.registered()
        long = PeerConnection(A, "a", B, "offer", MESSAGE_CEILING * "x")
        self.assertRaises(ValueError, connection.send, long)
        end.transport.loseConnection()
        message = PeerConnection(A, "a", B, "offer", "x")
        self.assertRaises(NotRegistered, connection.send, message)


class EndTests(ConnectionTestCase):
    def test_close_code_ends_with_code_and_reason(self) -> None:
        for code, kind in (
            *((1001, Closed), (1008, Closed), (1012, Closed), (1013, Closed)),
            *((1014, Closed), (4000, Closed), (4003, Closed)),
            *((4001, Rejected), (4002, Rejected), (4004, Rejected)),
        ):
            connection, end = self.registered()
            end.close(code, "why")
            found = self.end(connection)
            assert isinstance(found, Closed)
            self.assertIs(type(found), kind)
            self.assertEqual((found.code, found.reason), (code, "why"))
            self.assertEqual(end.frames()[-1][0], CLOSE)

    def test_close_before_the_registration_fails_with_the_code(self) -> None:
        connecting = self.connect()
        self.endpoint.last.upgrade()
        self.endpoint.last.close(4001, "UnauthorizedError: no")
        error = self.failureResultOf(connecting, Rejected).value
        self.assertEqual(str(error), "4001 UnauthorizedError: no")

    def test_close_frame_without_code_and_lost_connection_have_no_code(self) -> None:
        connection, end = self.registered()
        end.send(b"", CLOSE)
        found = self.end(connection)
        assert isinstance(found, Closed)
        self.assertIsNone(found.code)
        connection, end = self.registered()
        end.transport.loseConnection()
        found = self.end(connection)
        assert isinstance(found, Closed)
        self.assertIsNone(found.code)

    def test_close_sends_1000_and_ends(self) -> None:
        connection, end = self.registered()
        connection.close()
        self.assertEqual(end.frames()[-1], (CLOSE, b"\x03\xe8"))
        end.close(1000)
        self.end(connection)
        connection.close()

    def test_silent_relay_is_dropped_after_a_close(self) -> None:
        connection, end = self.registered()
        connection.close()
        self.clock.advance(10)
        self.assertTrue(end.transport.aborted)
        self.end(connection)

    def test_pings_are_answered_and_sent(self) -> None:
        connection, end = self.registered()
        end.send(b"x", PING)
        self.assertEqual(end.frames()[-1], (10, b"x"))
        for _ in range(3):
            self.clock.advance(PING_INTERVAL_SECONDS)
            end.pong()
        self.assertEqual([opcode for opcode, _ in end.frames()].count(PING), 3)
        self.assertTrue(connection.is_registered)

    def test_relay_that_reads_nothing_is_not_read(self) -> None:
        connection, end = self.registered()
        producer = end.transport.producer
        assert producer is not None
        producer.pauseProducing()
        self.assertEqual(end.transport.producerState, "paused")
        producer.resumeProducing()
        self.assertEqual(end.transport.producerState, "producing")
        connection.close()
        self.assertIsNone(end.transport.producer)

    def test_missing_pong_ends_the_connection(self) -> None:
        connection, end = self.registered()
        self.clock.advance(PING_INTERVAL_SECONDS)
        self.clock.advance(PONG_TIMEOUT_SECONDS - 1)
        self.assertTrue(connection.is_registered)
        self.clock.advance(1)
        self.assertIn("no pong", str(self.end(connection)))
        self.assertTrue(end.transport.aborted)

    def test_flood_of_a_relay_is_bounded(self) -> None:
        frames = MAX_FRAMES_PER_MESSAGE * server_frame(CONTINUATION, fin=False)
        half = server_frame(TEXT, MESSAGE_CEILING * b"x", fin=False)
        for data in (
            server_frame(TEXT, (MESSAGE_CEILING + 1) * b"x")[:100],
            half + server_frame(CONTINUATION, b"x"),
            server_frame(TEXT, b"x", fin=False) + frames,
            b"\xff\xff\xff",
        ):
            connection, end = self.registered()
            end.say(data)
            self.assertIn("broke the protocol", str(self.end(connection)))
            self.assertTrue(end.transport.aborted)

    def test_many_frames_of_many_messages_are_no_flood(self) -> None:
        connection, end = self.registered()
        for _ in range(MAX_FRAMES_PER_MESSAGE + 1):
            end.send(offer(B, A))
        self.assertTrue(connection.is_registered)
