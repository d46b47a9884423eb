"""Strangers, broken networks and broken clients, over real sockets.

Each hole that Autobahn or Twisted leave open has its test here. After each scenario the
registry is compared with the open sockets.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import struct
import threading
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from twisted.internet.defer import Deferred

from proxyrelay.auth import Authenticator
from proxyrelay.config import Config, Offers, Timeouts
from proxyrelay.errors import Forbidden, Unauthorized
from proxyrelay.net.pacing import TurnBudget
from proxyrelay.switchboard.events import Dropped, Event, Probed, Rejected, Returned
from proxyrelay.switchboard.user import ANONYMOUS, User
from proxyrelay.websocket.flow import FOLLOW_SECONDS
from proxyrelay.websocket.handshake import MAX_HEAD_BYTES, MAX_HEADER_LINES
from proxyrelay.websocket.protocol import RelayProtocol
from proxyrelay.websocket.state import Phase
from proxyrelay.websocket.upstream import MAX_FRAMES_PER_MESSAGE
from tests.support.frames import CLOSE, CONTINUATION, PING, PONG, TEXT, frame, header
from tests.support.recording import A, B, offer, registration
from tests.support.served import (
    PATIENCE,
    Client,
    PendingAuthenticator,
    RelayTestCase,
    reactor,
    scenario,
    upgrade,
)

TIMEOUTS = Timeouts()

ENDS = (Dropped, Probed)
"""Events of connections that end without a registration."""

RESET = struct.pack("ii", 1, 0)
"""Value of SO_LINGER: closing the socket resets the connection."""

GOODBYE = frame(CLOSE, b"\x03\xe8")


class SocketTestCase(RelayTestCase):
    """Clients that speak in bytes."""

    def until_count(self, count: int) -> None:
        self.until(lambda: len(self.service.factory.connections) == count)

    def until_gone(self) -> None:
        self.until_count(0)

    def until_happened(self, count: int, *kinds: type[Event]) -> None:
        self.until(lambda: len(self.happened(*kinds)) == count)

    def until_phase(self, phase: Phase) -> None:
        """Wait for the phase of the only connection."""
        connections = self.service.factory.connections
        self.until(lambda: [peer.phase for peer in connections] == [phase])

    def until_following(self, count: int) -> None:
        """Wait for a number of connections that wait for the end of a replaced one."""
        self.until(lambda: len(self.service.factory.flows.followers) == count)

    def peer(self) -> RelayProtocol:
        """The only connection."""
        (peer,) = self.connections()
        return peer

    def answer_to(self, head: bytes) -> bytes:
        """All that the relay answers to a request."""
        connection = self.raw()
        connection.sendall(head)
        return self.read_to_end(connection)

    def upgraded(self) -> socket.socket:
        """A raw connection after its opening handshake."""
        connection = self.raw()
        connection.sendall(upgrade())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += connection.recv(1)
        self.assertTrue(answer.startswith(b"HTTP/1.1 101 "), answer)
        return connection

    def ready(self, uuid: str = A) -> socket.socket:
        """A raw connection that has registered, and read the answer."""
        connection = self.upgraded()
        connection.sendall(frame(TEXT, registration(uuid)))
        self.receive(connection, connection.recv(2)[1])
        return connection

    def receive(self, connection: socket.socket, length: int) -> bytes:
        """So many bytes of the relay's."""
        received = b""
        while piece := connection.recv(length - len(received)):
            received += piece
        return received

    def close_code(self, received: bytes) -> int:
        """Code of the close frame that ends what was received."""
        at = received.rindex(b"\x88") + 2
        return int.from_bytes(received[at : at + 2], "big")

    def reset(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        connection.close()


class HandshakeTests(SocketTestCase):
    """The opening handshake."""

    @scenario
    def test_request_in_small_pieces_is_taken(self) -> None:
        connection = self.raw()
        for byte in upgrade():
            connection.sendall(bytes([byte]))
        self.assertTrue(connection.recv(65536).startswith(b"HTTP/1.1 101 "))

    @scenario
    def test_request_malformed_is_refused(self) -> None:
        for status, head in (
            (400, upgrade("X-A: 1\x1cAuthorization: Bearer x")),
            (400, upgrade("X-A: 1\nAuthorization: Bearer x")),
            (400, upgrade("X-A: 1", " Authorization: Bearer x")),
            (400, upgrade("Authorization: Bearer x", "authorization: Bearer y")),
            (400, upgrade().replace(b"GET /", b"GET /\xe9")),
            (405, upgrade().replace(b"GET", b"<script>")),
            (400, upgrade("Transfer-Encoding: chunked")),
            (400, upgrade() + upgrade()),
            (400, upgrade() + frame(TEXT, registration(A))),
            (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
            (400, b"hello\r\n\r\n"),
            (431, upgrade("X-A: " + "a" * MAX_HEAD_BYTES)[:MAX_HEAD_BYTES]),
            (431, upgrade(*["A: b"] * MAX_HEADER_LINES)),
        ):
            answer = self.answer_to(head)
            expected = f"HTTP/1.1 {status} ".encode()
            self.assertTrue(answer.startswith(expected), (head, answer))
            self.assertNotIn(b"script", answer)

    @scenario
    def test_log_of_refused_request_names_header_and_no_value(self) -> None:
        for name, head in (
            ("X-A", upgrade("X-A: s3cret\0")),
            ("X-\xe9", upgrade("X-\xe9: s3cret")),
            ("Transfer-Encoding", upgrade("Transfer-Encoding: s3cret")),
            ("Host", upgrade().replace(b"relay.example", b's3"c"ret:s3"cret')),
            ("Upgrade", upgrade().replace(b"e: websocket", b"e: s3cret'\"")),
            ("Upgrade", upgrade().replace(b"e: websocket", b"e: s3cret")),
            ("", upgrade().replace(b"GET", b"S3CRET")),
            ("", upgrade().replace(b"GET /", b"PUT /?s3cret=1#s3cret")),
            ("", upgrade().replace(b"dGhl", b"s3cret!")),
        ):
            self.answer_to(head)
            detail = self.happened(Rejected)[-1].detail
            self.assertIn(name, detail)
            self.assertNotIn("cret", detail.lower())

    @scenario
    def test_connection_without_a_byte_is_a_probe(self) -> None:
        expected = []
        for words, is_reset, event in (
            *((b"", False, "probed"), (b"", True, "probed")),
            *((b"G", False, "dropped"), (b"GET /", False, "dropped")),
        ):
            connection = self.raw(secure=False)
            connection.sendall(words)
            if not words:
                self.until_count(1)
            if is_reset:
                self.reset(connection)
            connection.close()
            expected.append(event)
            self.until_happened(len(expected), *ENDS)
            self.until_gone()
            found = [event.event for event in self.happened(*ENDS)]
            self.assertEqual(found, expected)

    @scenario
    def test_connection_without_request_is_dropped(self) -> None:
        for words, is_secure, phase in (
            (b"", False, Phase.TLS_HANDSHAKE if self.secure else Phase.OPENING),
            (b"", True, Phase.OPENING),
            (b"GET /", True, Phase.OPENING),
        ):
            connection = self.raw(secure=is_secure)
            connection.sendall(words)
            self.until_phase(phase)
            self.assertTrue(self.in_reactor(self.peer().transport.getTcpNoDelay))
            self.advance(max(TIMEOUTS.opening_handshake, TIMEOUTS.tls_handshake))
            self.assertEqual(self.read_to_end(connection), b"")
            self.until_gone()
        self.assertEqual(len(self.happened(Dropped)), 3)
        self.assertEqual(self.happened(Probed), [])

    @scenario
    def test_client_without_registration_is_closed(self) -> None:
        connection = self.upgraded()
        self.advance(TIMEOUTS.registration)
        connection.sendall(GOODBYE)
        self.assertEqual(self.close_code(self.read_to_end(connection)), 1013)


class TlsHandshakeTests(HandshakeTests):
    """Over TLS."""

    secure = True

    def rejected(self) -> socket.socket:
        """A connection that the relay ends. It sends no close_notify."""
        connection = self.raw()
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        self.until_phase(Phase.DROPPING)
        return connection

    @scenario
    def test_connection_lost_after_tls_handshake_is_no_probe(self) -> None:
        connection = self.raw()
        self.until_phase(Phase.OPENING)
        connection.close()
        self.until_gone()
        (event,) = self.happened(*ENDS)
        self.assertEqual(event.reason, "connection lost before a whole request")

    @scenario
    def test_peer_without_close_notify_is_aborted(self) -> None:
        connection = self.rejected()
        connection.sendall(b"x" * 100_000)
        peer = self.peer()
        self.assertLess(len(self.in_reactor(lambda: peer.data)), 100)
        self.advance(TIMEOUTS.close_handshake)
        self.until_gone()

    @scenario
    def test_stop_does_not_wait_for_close_notify(self) -> None:
        self.rejected()
        stopped = self.in_reactor(lambda: [self.service.stopService()])[0]
        self.in_reactor(self.service.factory.abort_all)
        self.in_reactor(lambda: stopped)

    @scenario
    def test_client_that_comes_back_resumes_its_session(self) -> None:
        assert self.authority is not None
        context = self.authority.client_context()
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context.maximum_version = version
            session = None
            for resumed in (False, True):
                connection = socket.create_connection(("127.0.0.1", self.port))
                connection.settimeout(PATIENCE)
                secured = context.wrap_socket(
                    connection, server_hostname="localhost", session=session
                )
                with secured:
                    secured.sendall(b"GET / HTTP/1.1\r\n\r\n")
                    self.assertTrue(secured.recv(65536))
                    self.assertEqual(secured.session_reused, resumed)
                    session = secured.session

    @scenario
    def test_plain_http_on_tls_port_gets_no_answer(self) -> None:
        connection = self.raw(secure=False)
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        self.assertNotIn(b"HTTP", self.read_to_end(connection))
        self.registered(A)


class AuthenticationTests(SocketTestCase):
    """While the authenticator takes its time."""

    checks: PendingAuthenticator

    def authenticator(self) -> Authenticator:
        self.checks = PendingAuthenticator()
        return self.checks

    def requested(self, count: int = 1) -> socket.socket:
        """A raw connection with a pending authentication."""
        connection = self.raw()
        connection.sendall(upgrade())
        self.until(lambda: len(self.checks.pending) == count)
        return connection

    def decide(self, result: User | Exception) -> None:
        pending = self.checks.pending[-1]
        is_error = isinstance(result, Exception)
        self.in_reactor(pending.errback if is_error else pending.callback, result)

    @scenario
    def test_request_is_answered_after_authentication(self) -> None:
        connection = self.requested()
        self.decide(User("me"))
        self.assertTrue(connection.recv(65536).startswith(b"HTTP/1.1 101 "))
        self.assertEqual(self.peer().user, User("me"))

    @scenario
    def test_data_during_authentication_is_refused(self) -> None:
        connection = self.requested()
        connection.sendall(upgrade())
        self.assertTrue(self.read_to_end(connection).startswith(b"HTTP/1.1 400 "))
        self.assertEqual(len(self.checks.pending), 1)
        self.assertEqual(self.checks.cancelled, 1)

    @scenario
    def test_connection_lost_during_authentication_cancels_it(self) -> None:
        self.reset(self.requested())
        self.until_gone()
        self.assertEqual(self.checks.cancelled, 1)

    @scenario
    def test_result_after_the_end_revives_no_connection(self) -> None:
        pending: list[Deferred[User]] = []
        self.checks.pending = pending

        def authenticate(headers: object, source: str) -> Deferred[User]:
            pending.append(Deferred())
            return pending[-1]

        self.checks.authenticate = authenticate  # type: ignore[method-assign]
        connection = self.requested()
        connection.close()
        self.until_gone()
        # Deferred swallows one result after a cancellation.
        self.decide(ANONYMOUS)
        self.assertEqual(self.connections(), [])

    @scenario
    def test_authentication_that_is_late_is_cancelled(self) -> None:
        connection = self.requested()
        self.advance(TIMEOUTS.authentication)
        self.assertTrue(connection.recv(12).startswith(b"HTTP/1.1 101"))
        connection.sendall(GOODBYE)
        self.assertEqual(self.close_code(self.read_to_end(connection)), 1013)
        self.assertEqual(self.checks.cancelled, 1)

    @scenario
    def test_authentication_that_ignores_cancellation_ends_connection(self) -> None:
        authenticate = self.checks.authenticate

        def stubborn(headers: Mapping[str, str], source: str) -> Deferred[User]:
            checking: Deferred[User] = authenticate(headers, source)
            return checking.addErrback(lambda _: Deferred())

        self.checks.authenticate = stubborn  # type: ignore[method-assign]
        connection = self.requested()
        self.advance(TIMEOUTS.authentication)
        self.assertEqual(self.read_to_end(connection), b"")
        self.until_gone()

    @scenario
    def test_refusal_is_a_close_frame_after_the_upgrade(self) -> None:
        for count, (result, code, reason) in enumerate(
            (
                (Unauthorized("no token"), 4001, "UnauthorizedError: no token"),
                (Forbidden("not you"), 4002, "ForbiddenError: not you"),
                # Cut between characters.
                (Forbidden("\u20ac" * 99), 4002, "ForbiddenError: " + "\u20ac" * 35),
                (ValueError("secret"), 1013, "Authentication is out of order."),
            ),
            1,
        ):
            connection = self.requested(count)
            self.decide(result)
            self.assertTrue(connection.recv(12).startswith(b"HTTP/1.1 101"))
            # The relay ignores a registration in between.
            connection.sendall(frame(TEXT, registration(A)) + GOODBYE)
            received = self.read_to_end(connection)
            self.assertEqual(self.close_code(received), code)
            self.assertTrue(received.endswith(reason.encode()), received)
            self.check()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    @scenario
    def test_registrations_are_ordered_by_arrival(self) -> None:
        old, new = self.requested(1), self.requested(2)
        # The newer connection is authenticated first.
        for connection in (new, old):
            self.decide(ANONYMOUS)
            self.checks.pending.pop()
            connection.sendall(frame(TEXT, registration(A)))
            self.until(lambda: len(self.service.factory.registry) == 1)
        old.sendall(GOODBYE)
        self.assertEqual(self.close_code(self.read_to_end(old)), 4004)
        old.close()
        self.until_count(1)
        self.assertEqual(self.peer().arrival, 1)
        self.assertIsNotNone(self.peer().registration)

    @scenario
    def test_stop_does_not_wait_for_authentication(self) -> None:
        connection = self.requested()
        stopped = self.in_reactor(lambda: [self.service.stopService()])[0]
        connection.sendall(GOODBYE)
        self.assertEqual(self.close_code(self.read_to_end(connection)), 1001)
        connection.close()
        self.in_reactor(lambda: stopped)


class TlsAuthenticationTests(AuthenticationTests):
    """Over TLS."""

    secure = True


class OpenTests(SocketTestCase):
    """After the opening handshake."""

    # Without the shield, which would stop most of what is sent here.
    config = Config(
        host="127.0.0.1", port=0, max_unread_bytes=65536, offers=Offers(shield=False)
    )

    # -- clients that do not read

    def fill(self, peer: RelayProtocol, sender: Client) -> None:
        """Send to a peer that does not read until the relay holds data for it."""
        text = offer(B, A, sdp="x" * 10_000).decode()
        while not self.in_reactor(lambda: peer.flow.paused):
            sender.send(text)

    def assert_unknown(self, sender: Client) -> None:
        """Expect the error for an offer to a peer that is gone."""
        self.assertTrue(json.loads(sender.recv())["error"].startswith("Cannot forward"))

    @scenario
    def test_offer_to_peer_that_does_not_read_is_returned(self) -> None:
        late = self.ready()
        peer: Any = self.peer()
        sender = self.registered(B)
        text = offer(B, A, sdp="x" * 10_000)
        while not self.happened(Returned):
            sender.send(text.decode())
            sender.ping()
        self.assertEqual(
            json.loads(sender.recv())["error"],
            f"The requested peer {A} does not read what the relay server sends to it.",
        )
        self.assertLessEqual(peer.flow.unread, self.config.max_unread_bytes)
        # It reads at last, and is reachable as before.
        self.receive(late, peer.registration.received * (len(text) + 4))
        self.until(lambda: not peer.flow.paused)
        sender.send(offer(B, A).decode())
        self.assertTrue(late.recv(65536).endswith(offer(B, A)))

    @scenario
    def test_peer_that_does_not_read_for_too_long_is_dropped(self) -> None:
        deaf = self.ready()
        peer = self.peer()
        sender = self.registered(B)
        self.fill(peer, sender)
        self.advance(TIMEOUTS.ping_interval)
        # It still sends, pongs included, but not the one that was asked for.
        deaf.sendall(frame(PING) + frame(PONG) + frame(TEXT, registration(A)))
        source = self.connections()[1]
        self.until(lambda: source.phase is Phase.READY)
        self.advance(TIMEOUTS.ping_timeout)
        self.until(lambda: peer.state == RelayProtocol.STATE_CLOSED)
        sender.send(offer(B, A).decode())
        self.assert_unknown(sender)

    @scenario
    def test_peer_that_lets_pongs_pile_up_is_dropped(self) -> None:
        deaf = self.ready()
        pings = frame(PING, b"x" * 125) * 1000
        with self.assertRaises(OSError):
            for _ in range(1000):
                deaf.sendall(pings)
        self.until_gone()

    @scenario
    def test_last_message_of_dropped_peer_does_not_revive_it(self) -> None:
        for last in (frame(TEXT, b"hello"), GOODBYE):
            deaf = self.ready()
            peer = self.peer()
            sender = self.registered(B)
            self.fill(peer, sender)
            unread = 2 * self.config.max_unread_bytes
            self.in_reactor(setattr, peer.flow, "unread", unread)
            deaf.sendall(last)
            self.until(lambda peer=peer: peer.registration is None)  # type: ignore[misc]
            self.in_reactor(peer.abort)
            sender.close()
            self.until_gone()

    @scenario
    def test_peer_that_vanishes_with_an_offer_is_unknown(self) -> None:
        self.ready()
        peer = self.peer()
        sender = self.registered(B)
        source = self.connections()[1]

        def vanish() -> None:
            peer.abort()
            source.onMessage(offer(B, A), False)

        self.in_reactor(vanish)
        self.assert_unknown(sender)

    # -- messages and frames

    @scenario
    def test_message_in_many_frames_is_bounded(self) -> None:
        connection = self.ready()
        text = offer(A, A)
        first, empty = frame(TEXT, text, fin=False), frame(CONTINUATION, fin=False)
        rest = empty * (MAX_FRAMES_PER_MESSAGE - 2) + frame(CONTINUATION, b"")
        connection.sendall((first + rest) * 2)
        sized = struct.pack("!BBH", 0x81, 126, len(text))
        self.assertEqual(connection.recv(4), sized)
        connection.sendall(
            frame(TEXT, b"", fin=False)
            + empty * MAX_FRAMES_PER_MESSAGE
            + frame(CLOSE, b"\x03\xf0")
        )
        self.assertEqual(self.close_code(self.read_to_end(connection)), 1008)

    @scenario
    def test_payload_of_frame_too_long_is_not_kept(self) -> None:
        for opcode, kept, code in (
            (TEXT, "frame_data", 1009),
            (PING, "control_frame_data", 1002),
            (PONG, "control_frame_data", 1002),
            (CLOSE, "control_frame_data", 1002),
        ):
            connection = self.ready()
            connection.sendall(header(opcode, 1 << 40) + b"x" * 1_000_000)
            self.until_phase(Phase.CLOSING)
            found = self.in_reactor(attrgetter("data", kept), self.peer())
            self.assertEqual(found, (b"", []))
            self.assertEqual(self.close_code(connection.recv(65536)), code)
            if opcode == TEXT:
                self.advance(TIMEOUTS.close_handshake)
            connection.close()
            self.until_gone()

    @scenario
    def test_message_in_crumbs_is_kept_in_one_piece(self) -> None:
        connection = self.ready()
        peer = self.peer()
        text = offer(A, A)
        connection.sendall(header(TEXT, len(text)))
        for crumb in text[:100]:
            connection.sendall(bytes([crumb]))
            self.until(lambda: peer.current_frame is not None)
        self.until(lambda: peer.frame_data and len(peer.frame_data[0]) == 100)
        self.assertEqual(len(peer.frame_data), 1)
        connection.sendall(text[100:])
        self.assertTrue(self.receive(connection, 4 + len(text)).endswith(text))

    @scenario
    def test_violation_of_protocol_closes_connection(self) -> None:
        for what, violation in {
            "unmasked": b"\x81\x01x",
            "reserved bit": b"\xc1\x80" + bytes(4),
            "reserved opcode": frame(3),
            "fragmented ping": frame(PING, fin=False),
            "long ping": header(PING, 126) + bytes(126),
            "continuation of nothing": frame(CONTINUATION, b"x"),
        }.items():
            connection = self.ready()
            connection.sendall(violation)
            code = self.close_code(connection.recv(65536))
            self.assertEqual((what, code), (what, 1002))
            self.check()
            connection.close()
            self.until_gone()

    @scenario
    def test_defect_in_rules_costs_no_connection(self) -> None:
        client = self.registered(A)
        broker: Any = self.service.factory.relay.broker
        forward = broker.forward

        def broken(*arguments: object) -> None:
            broker.forward = forward
            raise ZeroDivisionError

        broker.forward = broken
        client.send(offer(A, A).decode())
        client.send(offer(A, A).decode())
        self.assertEqual(client.recv(), offer(A, A).decode())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    # -- pings

    @scenario
    def test_peer_that_pings_gets_no_ping(self) -> None:
        connection = self.ready()
        self.until_phase(Phase.READY)
        for _ in range(3):
            connection.sendall(frame(PING, b"hey"))
            self.assertEqual(connection.recv(5), b"\x8a\x03hey")
            self.advance(TIMEOUTS.ping_interval)
        self.advance(TIMEOUTS.ping_interval)
        self.assertEqual(connection.recv(6)[:2], b"\x89\x04")

    @scenario
    def test_peer_stays_until_a_pong_is_late(self) -> None:
        connection = self.ready()
        for _ in range(3):
            self.until_phase(Phase.READY)
            self.advance(TIMEOUTS.ping_interval)
            ping = connection.recv(6)
            self.assertEqual(ping[:2], b"\x89\x04")
            connection.sendall(frame(PONG, ping[2:]))
        self.until_phase(Phase.READY)
        self.advance(TIMEOUTS.ping_interval)
        self.advance(TIMEOUTS.ping_timeout)
        self.assertEqual(self.read_to_end(connection)[:2], b"\x89\x04")
        self.until_gone()

    @scenario
    def test_pong_while_process_stood_still_counts(self) -> None:
        client = self.ready()
        peer = self.peer()
        while peer.phase is not Phase.AWAITING_PONG:
            self.advance(TIMEOUTS.ping_interval)
        ping = client.recv(6)[2:]
        socket_of_peer = getattr(peer.transport, "transport", peer.transport)
        stands = threading.Event()

        def stand_still() -> None:
            stands.set()
            select.select([socket_of_peer], [], [], PATIENCE)
            self.clock.turn(3 * TIMEOUTS.ping_timeout)

        reactor.callFromThread(stand_still)
        self.assertTrue(stands.wait(PATIENCE))
        client.sendall(frame(PONG, ping))
        self.until(lambda: peer.phase is not Phase.AWAITING_PONG)
        self.in_reactor(self.clock.turn)
        self.assertIs(peer.phase, Phase.READY)

    # -- the end

    @scenario
    def test_peer_without_close_frame_is_dropped(self) -> None:
        connection = self.ready()
        # The relay ignores a registration after the refusal.
        connection.sendall(frame(TEXT, b"hello") + frame(TEXT, registration(A)))
        self.until_phase(Phase.CLOSING)
        self.assertEqual(len(self.service.factory.registry), 0)
        self.advance(TIMEOUTS.close_handshake)
        self.assertEqual(self.close_code(self.read_to_end(connection)), 4000)
        self.until_gone()

    @scenario
    def test_connection_reset_or_half_closed_is_forgotten(self) -> None:
        self.reset(self.ready())
        self.until_gone()
        self.ready().shutdown(socket.SHUT_WR)
        self.until_gone()

    @scenario
    def test_stop_waits_for_its_timeout_at_most(self) -> None:
        silent, deaf = self.raw(), self.ready()
        self.until_count(2)
        stopped = self.in_reactor(lambda: [self.service.stopService()])[0]
        self.advance(TIMEOUTS.close_handshake)
        self.until_count(1)
        self.advance(TIMEOUTS.stop - TIMEOUTS.close_handshake)
        self.in_reactor(lambda: stopped)
        self.assertEqual(self.connections(), [])
        self.assertEqual(self.read_to_end(silent), b"")
        deaf.close()

    # -- a new socket for the same UUID

    @scenario
    def test_new_socket_takes_over_from_a_dead_one(self) -> None:
        self.ready()
        client = self.connect()
        client.send(registration(A).decode())
        # The dead one does not answer the close frame.
        self.until_following(1)
        self.check()
        self.assertEqual(len(self.service.factory.registry), 1)
        self.advance(FOLLOW_SECONDS)
        self.assertIn('"success": true', client.recv())
        client.ping()
        self.advance(TIMEOUTS.close_handshake)
        self.until_count(1)

    @scenario
    def test_new_socket_is_answered_after_the_end_of_the_old_one(self) -> None:
        old, client = self.ready(), self.connect()
        client.send(registration(A).decode())
        self.until_following(1)
        new: Any = self.connections()[1]
        # An offer of a third client comes behind the acknowledgement.
        other = self.registered(B)
        other.send(offer(B, A).decode())
        self.until(lambda: new.registration.received == 1)
        old.sendall(frame(CLOSE, b"\x0f\xa4"))
        self.assertEqual(self.close_code(self.read_to_end(old)), 4004)
        old.close()
        self.assertIn('"success": true', client.recv())
        self.assertEqual(client.recv(), offer(B, A).decode())
        self.until_following(0)

    @scenario
    def test_new_socket_that_waits_may_be_replaced(self) -> None:
        old, second, third = self.ready(), self.upgraded(), self.upgraded()
        for connection in (second, third):
            connection.sendall(frame(TEXT, registration(A)))
            self.until_following(1)
        replaced = self.connections()[1]
        self.until(lambda: replaced.registration is None)
        second.sendall(frame(CLOSE, b"\x0f\xa4"))
        received = self.read_to_end(second)
        second.close()
        self.assertIn(b'"success": true', received)
        self.assertEqual(self.close_code(received), 4004)
        self.until_following(0)
        self.assertIn(b'"success": true', third.recv(65536))
        for connection in (old, third):
            connection.close()
        self.until_gone()

    @scenario
    def test_new_socket_that_waits_keeps_little(self) -> None:
        old, waiting = self.ready(), self.upgraded()
        waiting.sendall(frame(TEXT, registration(A)))
        self.until_following(1)
        count = 2 * self.config.max_unread_bytes // 125
        waiting.sendall(frame(PING, b"x" * 125) * (count + 1))
        self.until_count(1)
        self.until_following(0)
        old.close()
        waiting.close()


class TlsOpenTests(OpenTests):
    """Over TLS."""

    secure = True


class BacklogTests(SocketTestCase):
    """Connections whose request, or whose end, waits for its turn."""

    def hold(self) -> TurnBudget:
        """Have paced work wait from now on."""
        pace: TurnBudget = self.service.factory.pace
        self.in_reactor(setattr, pace, "_left", 0)
        self.addCleanup(pace._next_turn)
        return pace

    @scenario
    def test_offer_to_peer_whose_end_waits_is_held(self) -> None:
        old, sender = self.ready(), self.registered(B)
        factory = self.service.factory
        pace = self.hold()
        old.close()
        self.until(lambda: pace.backlogged)
        self.assertEqual(len(self.connections()), 2)
        sender.send(offer(B, A).decode())
        sender.ping()
        self.assertEqual(factory.relay.broker.table.held, 1)
        self.in_reactor(pace._next_turn)
        self.until_count(1)
        new = self.registered(A)
        self.assertEqual(json.loads(new.recv())["source_uuid"], B)

    @scenario
    def test_request_that_waits_is_not_late(self) -> None:
        whole, half = self.raw(), self.raw()
        self.until_count(2)
        pace = self.hold()
        whole.sendall(upgrade())
        half.sendall(upgrade()[:-2])
        self.until(lambda: pace.backlogged)
        self.until(lambda: all(peer.data for peer in self.service.factory.connections))
        self.advance(TIMEOUTS.opening_handshake)
        self.in_reactor(pace._next_turn)
        self.assertTrue(whole.recv(12).startswith(b"HTTP/1.1 101"))
        self.assertEqual(self.read_to_end(half), b"")


class TlsBacklogTests(BacklogTests):
    """Over TLS."""

    secure = True


class OriginTests(SocketTestCase):
    """Pages of other sites, where the operator wants none."""

    config = Config(
        host="127.0.0.1", port=0, allowed_origins=("https://*.good.example",)
    )

    @scenario
    def test_page_of_other_origin_is_refused(self) -> None:
        self.registered(A)
        self.registered(B, origin="https://www.good.example")
        for origin in ("https://evil.example", "https://good.example", "null"):
            answer = self.answer_to(upgrade(f"Origin: {origin}"))
            self.assertTrue(answer.startswith(b"HTTP/1.1 403 "), (origin, answer))
