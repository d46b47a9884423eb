"""What strangers, broken networks and broken clients may do, over real sockets.

Each hole that Autobahn or Twisted leave open by themselves has its test here.
After each scenario the registry is compared with the open sockets.
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
from websockets.exceptions import ConnectionClosed

from proxyrelay.auth import Authenticator
from proxyrelay.config import Config, Offers, Timeouts
from proxyrelay.errors import Forbidden, Unauthorized
from proxyrelay.net.pacing import TurnBudget
from proxyrelay.switchboard.events import Dropped, Probed, Rejected, Returned
from proxyrelay.switchboard.user import ANONYMOUS, User
from proxyrelay.websocket.flow import FOLLOW_SECONDS
from proxyrelay.websocket.handshake import MAX_HEAD_BYTES, MAX_HEADER_LINES
from proxyrelay.websocket.lifecycle import Phase
from proxyrelay.websocket.protocol import RelayProtocol
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


class SocketMixin:
    """Helpers for clients that speak in bytes."""

    def phase(self: Any) -> Phase:
        """Where the only connection stands."""
        (peer,) = self.service.factory.connections
        found: Phase = peer.phase
        return found

    def until_phase(self: Any, phase: Phase) -> None:
        self.until(
            lambda: len(self.service.factory.connections) == 1 and self.phase() is phase
        )

    def until_gone(self: Any) -> None:
        self.until(lambda: not self.service.factory.connections)

    def upgraded(self: Any) -> socket.socket:
        """A raw connection after its opening handshake."""
        connection: socket.socket = self.raw()
        connection.sendall(upgrade())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += connection.recv(1)
        self.assertTrue(answer.startswith(b"HTTP/1.1 101 "), answer)
        return connection

    def ready(self: Any, uuid: str = A) -> socket.socket:
        """A raw connection that has registered, and read the answer."""
        connection: socket.socket = self.upgraded()
        connection.sendall(frame(TEXT, registration(uuid)))
        length = connection.recv(2)[1]
        while length:
            length -= len(connection.recv(length))
        return connection

    def close_code(self: Any, received: bytes) -> int:
        """The code of the close frame that ends what was received."""
        at = received.rindex(b"\x88")
        code: int
        (code,) = struct.unpack("!H", received[at + 2 : at + 4])
        return code


class HandshakeMixin(SocketMixin):
    """The opening handshake."""

    @scenario
    def test_takes_a_request_in_small_pieces(self: Any) -> None:
        connection = self.raw()
        for byte in upgrade():
            connection.sendall(bytes([byte]))
        self.assertTrue(connection.recv(65536).startswith(b"HTTP/1.1 101 "))

    @scenario
    def test_refuses_malformed_requests(self: Any) -> None:
        heads = {
            "a line separator": upgrade("X-A: 1\x1cAuthorization: Bearer x"),
            "a vertical tab": upgrade("X-A: 1\x0bAuthorization: Bearer x"),
            "a form feed": upgrade("X-A: 1\x0cAuthorization: Bearer x"),
            "a delete": upgrade("X-A: \x7f"),
            "a name that is not ASCII": upgrade("X-\xe9: b"),
            "a target that is not ASCII": upgrade().replace(b"GET /", b"GET /\xe9"),
            "a method that is not ASCII": upgrade().replace(b"GET", b"G\xc9T"),
            "a body in chunks": upgrade("Transfer-Encoding: chunked"),
            "a body": upgrade("Content-Length: 5"),
            "a lone line feed": upgrade("X-A: 1\nAuthorization: Bearer x"),
            "a lone carriage return": upgrade("X-A: 1\rAuthorization: Bearer x"),
            "a null": upgrade("X-A: \0"),
            "a folded line": upgrade("X-A: 1", " Authorization: Bearer x"),
            "a space before the colon": upgrade("Authorization : Bearer x"),
            "no colon": upgrade("Authorization"),
            "two Authorization headers": upgrade(
                "Authorization: Bearer x", "authorization: Bearer y"
            ),
            "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            "no request line": b"hello\r\n\r\n",
        }
        for what, head in heads.items():
            connection = self.raw()
            connection.sendall(head)
            answer = self.read_to_end(connection)
            self.assertTrue(
                answer.startswith(b"HTTP/1.1 400 Bad Request\r\n"), (what, answer)
            )

    @scenario
    def test_takes_what_proxies_and_stock_clients_send(self: Any) -> None:
        heads = {
            "a city in Latin-1": upgrade("X-City: Orl\xe9ans"),
            "a city in UTF-8": upgrade("X-City: Orl\xc3\xa9ans"),
            "a next line": upgrade("X-A: 1\x85Authorization: Bearer x"),
            "a paragraph separator": upgrade("X-A: 1\xe2\x80\xa9Connection: close"),
            "every byte from 0x80 on": upgrade(
                "X-A: " + "".join(map(chr, range(0x80, 0x100)))
            ),
            "an odd request with such bytes": upgrade("X-A: \x85", "x-a: \xff"),
            "an origin with such bytes": upgrade("Origin: http://\xe9"),
            "an empty port": upgrade().replace(b"relay.example", b"relay.example:"),
            "a fragment": upgrade().replace(b"GET /", b"GET /relay#part"),
            "a broken authority": upgrade().replace(b"GET /", b"GET //[::1/relay"),
            "a long head": upgrade("X-Cert: " + "a" * 18 * 1024),
            "the longest head": upgrade(
                "X-A: " + "a" * (MAX_HEAD_BYTES - len(upgrade("X-A: ")))
            ),
            "many lines": upgrade(*["X-A: b"] * (MAX_HEADER_LINES - 5)),
        }
        for what, head in heads.items():
            connection = self.raw()
            connection.sendall(head)
            answer = connection.recv(65536)
            self.assertTrue(answer.startswith(b"HTTP/1.1 101 "), (what, answer))

    @scenario
    def test_the_log_names_a_refused_header(self: Any) -> None:
        for head in (
            upgrade("X-A: s3cret\0"),
            upgrade("X-\xe9: s3cret"),
            upgrade("Transfer-Encoding: s3cret"),
            upgrade().replace(b"relay.example", b's3"c"ret:s3"cret'),
            upgrade().replace(b"Upgrade: websocket", b"Upgrade: s3cret'\""),
        ):
            connection = self.raw()
            connection.sendall(head)
            self.read_to_end(connection)
        told = [event.detail for event in self.happened(Rejected)]
        self.assertNotIn("cret", "".join(told))
        for name, detail in zip(
            ("X-A", "X-\xe9", "Transfer-Encoding", "Host", "Upgrade"), told, strict=True
        ):
            self.assertIn(name, detail)

    @scenario
    def test_repeats_nothing_of_a_refused_request(self: Any) -> None:
        connection = self.raw()
        connection.sendall(upgrade().replace(b"GET", b"<script>"))
        self.assertNotIn(b"script", self.read_to_end(connection))

    @scenario
    def test_refuses_a_head_without_end(self: Any) -> None:
        connection = self.raw()
        connection.sendall(upgrade("X-A: " + "a" * MAX_HEAD_BYTES)[:MAX_HEAD_BYTES])
        self.assertTrue(self.read_to_end(connection).startswith(b"HTTP/1.1 431 "))

    @scenario
    def test_refuses_too_many_headers(self: Any) -> None:
        connection = self.raw()
        connection.sendall(upgrade(*["A: b"] * MAX_HEADER_LINES))
        self.assertTrue(self.read_to_end(connection).startswith(b"HTTP/1.1 431 "))

    @scenario
    def test_refuses_what_follows_a_request(self: Any) -> None:
        for more in (upgrade(), frame(TEXT, registration(A))):
            connection = self.raw()
            connection.sendall(upgrade() + more)
            self.assertTrue(self.read_to_end(connection).startswith(b"HTTP/1.1 400 "))

    @scenario
    def test_ends_a_connection_that_sends_no_request(self: Any) -> None:
        connection = self.raw()
        connection.sendall(b"GET /")
        self.until_phase(Phase.OPENING)
        self.advance(TIMEOUTS.opening_handshake)
        self.assertEqual(self.read_to_end(connection), b"")
        self.until_gone()

    @scenario
    def test_a_probe_is_no_loss(self: Any) -> None:
        """A load balancer looks whether a connection is accepted."""
        for count, (words, reset, expected) in enumerate(
            (
                *((b"", False, "probed"), (b"", True, "probed")),
                *((b"G", False, "dropped"), (b"GET /", False, "dropped")),
            ),
            1,
        ):
            connection = self.raw(secure=False)
            connection.sendall(words)
            if not words:
                self.until(lambda: len(self.service.factory.connections) == 1)
            if reset:
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.close()
            self.until(lambda count=count: len(self.happened(*ENDS)) == count)
            self.until_gone()
            self.assertEqual(self.happened(*ENDS)[-1].event, expected)

    @scenario
    def test_a_silent_connection_that_is_late_is_no_probe(self: Any) -> None:
        connection = self.raw(secure=False)
        self.until(lambda: len(self.service.factory.connections) == 1)
        self.advance(max(TIMEOUTS.opening_handshake, TIMEOUTS.tls_handshake))
        self.assertEqual(self.read_to_end(connection), b"")
        self.until_gone()
        self.assertEqual([event.event for event in self.happened(*ENDS)], ["dropped"])

    @scenario
    def test_closes_a_client_that_does_not_register(self: Any) -> None:
        connection = self.upgraded()
        self.advance(TIMEOUTS.registration)
        connection.sendall(frame(CLOSE, b"\x03\xe8"))
        self.assertEqual(self.close_code(self.read_to_end(connection)), 1013)

    @scenario
    def test_strange_offers_are_no_reason_to_fail(self: Any) -> None:
        extension = "Sec-WebSocket-Extensions: permessage-deflate"
        for offers in (
            (f'{extension}; server_max_window_bits="x"; y, ;;, x; z=1',),
            (extension, extension),
            ("Sec-WebSocket-Protocol: a, a, ,", "sec-websocket-protocol: a"),
            ("Origin: foo",),
            ("Origin:",),
            ("ORIGIN: about:blank", "Sec-WebSocket-Origin: https://x:99999"),
        ):
            connection = self.raw()
            connection.sendall(upgrade(*offers))
            answer = connection.recv(65536)
            self.assertTrue(answer.startswith(b"HTTP/1.1 101 "), (offers, answer))
            self.assertNotIn(b"Sec-WebSocket-Protocol", answer)

    @scenario
    def test_the_log_quotes_nothing_of_a_request(self: Any) -> None:
        for head in (
            upgrade().replace(b"GET", b"S3CRET"),
            upgrade().replace(b"GET /", b"PUT /?s3cret=1#s3cret"),
            upgrade().replace(b"Upgrade: websocket", b"Upgrade: s3cret"),
            upgrade().replace(b"dGhl", b"s3cret!"),
        ):
            connection = self.raw()
            connection.sendall(head)
            self.read_to_end(connection)
        told = self.happened(Rejected)
        self.assertEqual(len(told), 4)
        self.assertNotIn("s3cret", repr(told).lower())


class TcpHandshakeTests(HandshakeMixin, RelayTestCase):
    """Over plain TCP."""


class TlsHandshakeTests(HandshakeMixin, RelayTestCase):
    """Over TLS."""

    secure = True

    @scenario
    def test_ends_a_connection_without_tls_handshake(self) -> None:
        connection = self.raw(secure=False)
        self.until_phase(Phase.TLS_HANDSHAKE)
        self.advance(TIMEOUTS.tls_handshake)
        self.assertEqual(self.read_to_end(connection), b"")
        self.until_gone()

    @scenario
    def test_sends_without_delay_from_accept_on(self) -> None:
        self.raw(secure=False)
        self.until_phase(Phase.TLS_HANDSHAKE)
        (peer,) = self.connections()
        self.assertTrue(self.in_reactor(peer.transport.getTcpNoDelay))

    @scenario
    def test_a_client_that_leaves_after_tls_is_no_probe(self: Any) -> None:
        connection = self.raw()
        self.until_phase(Phase.OPENING)
        connection.close()
        self.until_gone()
        (event,) = self.happened(*ENDS)
        self.assertEqual(event.reason, "connection lost before a whole request")

    @scenario
    def test_ends_a_peer_that_never_says_goodbye(self) -> None:
        connection = self.raw()
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        # TLS waits for the peer's close_notify, which never comes.
        self.until_phase(Phase.DROPPING)
        self.advance(TIMEOUTS.close_handshake)
        self.until_gone()

    @scenario
    def test_takes_clients_that_offer_protocols_in_tls(self) -> None:
        assert self.authority is not None
        context = self.authority.client_context()
        context.set_alpn_protocols(["h2", "http/1.1"])
        self.registered(A, ssl=context)

    @scenario
    def test_a_client_that_comes_back_need_not_shake_hands_in_full(self) -> None:
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
    def test_a_stop_is_not_held_up_by_a_missing_goodbye(self) -> None:
        connection = self.raw()
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        self.until_phase(Phase.DROPPING)
        stopped = self.in_reactor(lambda: [self.service.stopService()])[0]
        self.in_reactor(self.service.factory.abort_all)
        self.in_reactor(lambda: stopped)

    @scenario
    def test_keeps_nothing_that_comes_after_the_end(self) -> None:
        connection = self.raw()
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        self.until_phase(Phase.DROPPING)
        connection.sendall(b"x" * 100_000)
        (peer,) = self.connections()
        kept = len(self.in_reactor(lambda: peer.data))
        self.assertLess(kept, 100)

    @scenario
    def test_plain_http_on_the_tls_port_harms_nobody(self) -> None:
        connection = self.raw(secure=False)
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        self.assertNotIn(b"HTTP", self.read_to_end(connection))
        self.registered(A)


class PendingMixin(SocketMixin):
    """While the authenticator takes its time."""

    checks: PendingAuthenticator

    def authenticator(self) -> Authenticator:
        self.checks = PendingAuthenticator()
        return self.checks

    def requested(self: Any, count: int = 1) -> socket.socket:
        """A raw connection whose check is pending."""
        connection: socket.socket = self.raw()
        connection.sendall(upgrade())
        self.until(lambda: len(self.checks.pending) == count)
        return connection

    @scenario
    def test_nothing_is_answered_before_the_user_is_known(self: Any) -> None:
        connection = self.requested()
        self.in_reactor(self.checks.pending[0].callback, User("me"))
        self.assertTrue(connection.recv(65536).startswith(b"HTTP/1.1 101 "))
        (peer,) = self.connections()
        self.assertEqual(peer.user, User("me"))

    @scenario
    def test_refuses_data_during_the_check(self: Any) -> None:
        connection = self.requested()
        connection.sendall(upgrade())
        self.assertTrue(self.read_to_end(connection).startswith(b"HTTP/1.1 400 "))
        self.assertEqual(len(self.checks.pending), 1)
        self.assertEqual(self.checks.cancelled, 1)

    @scenario
    def test_a_departure_cancels_the_check(self: Any) -> None:
        connection = self.requested()
        connection.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        connection.close()
        self.until_gone()
        self.assertEqual(self.checks.cancelled, 1)

    @scenario
    def test_a_late_answer_revives_nobody(self: Any) -> None:
        self.checks.pending = pending = []

        def authenticate(headers: object, source: str) -> Deferred[User]:
            answer: Deferred[User] = Deferred()
            pending.append(answer)
            return answer

        self.checks.authenticate = authenticate
        connection = self.requested()
        connection.close()
        self.until_gone()
        # Deferred swallows one answer after a cancellation.
        self.in_reactor(pending[0].callback, ANONYMOUS)
        self.assertEqual(self.connections(), [])

    @scenario
    def test_a_check_that_takes_too_long_is_no_fault_of_the_client(self: Any) -> None:
        connection = self.requested()
        self.advance(TIMEOUTS.authentication)
        self.assertTrue(connection.recv(12).startswith(b"HTTP/1.1 101"))
        connection.sendall(frame(CLOSE, b"\x03\xe8"))
        self.assertEqual(self.close_code(self.read_to_end(connection)), 1013)
        self.assertEqual(self.checks.cancelled, 1)

    @scenario
    def test_a_check_that_goes_on_regardless_ends_the_connection(self: Any) -> None:
        authenticate = self.checks.authenticate

        def stubborn(headers: Mapping[str, str], source: str) -> Deferred[User]:
            # Its clean-up takes another while.
            checking: Deferred[User] = authenticate(headers, source)
            return checking.addErrback(lambda _: Deferred())

        self.checks.authenticate = stubborn
        connection = self.requested()
        self.advance(TIMEOUTS.authentication)
        self.assertEqual(self.read_to_end(connection), b"")
        self.until_gone()

    @scenario
    def test_a_refusal_completes_the_upgrade_first(self: Any) -> None:
        refusals = {4001: Unauthorized("no token"), 4002: Forbidden("not you")}
        for count, (code, refusal) in enumerate(refusals.items(), 1):
            connection = self.requested(count)
            self.in_reactor(self.checks.pending[-1].errback, refusal)
            self.assertTrue(connection.recv(12).startswith(b"HTTP/1.1 101"))
            # What the client sends on is not listened to.
            connection.sendall(frame(TEXT, registration(A)) + frame(CLOSE, b"\x03\xe8"))
            received = self.read_to_end(connection)
            self.assertEqual(self.close_code(received), code)
            self.assertTrue(received.endswith(refusal.reason.encode()))
            self.check()

    @scenario
    def test_a_long_reason_is_cut_between_characters(self: Any) -> None:
        connection = self.requested()
        self.in_reactor(self.checks.pending[0].errback, Forbidden("\u20ac" * 99))
        connection.sendall(frame(CLOSE, b"\x03\xe8"))
        received = self.read_to_end(connection)
        self.assertEqual(self.close_code(received), 4002)
        reason = received[received.rindex(b"ForbiddenError") :].decode()
        self.assertEqual(reason, "ForbiddenError: " + "\u20ac" * 35)

    @scenario
    def test_a_defect_is_logged_and_not_shown(self: Any) -> None:
        connection = self.requested()
        self.in_reactor(self.checks.pending[0].errback, ValueError("a secret"))
        connection.sendall(frame(CLOSE, b"\x03\xe8"))
        received = self.read_to_end(connection)
        self.assertEqual(self.close_code(received), 1013)
        self.assertNotIn(b"secret", received)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    @scenario
    def test_registrations_are_ordered_by_arrival(self: Any) -> None:
        old, new = self.requested(1), self.requested(2)
        # The newer connection's check is done first.
        for check, connection in ((1, new), (0, old)):
            self.in_reactor(self.checks.pending[check].callback, ANONYMOUS)
            connection.sendall(frame(TEXT, registration(A)))
            self.until(lambda: len(self.service.factory.registry) == 1)
        old.sendall(frame(CLOSE, b"\x03\xe8"))
        self.assertEqual(self.close_code(self.read_to_end(old)), 4004)
        old.close()
        self.until(lambda: len(self.service.factory.connections) == 1)
        (peer,) = self.connections()
        self.assertEqual(peer.arrival, 1)
        self.assertIsNotNone(peer.registration)

    @scenario
    def test_a_stopping_relay_does_not_wait_for_the_check(self: Any) -> None:
        connection = self.requested()
        stopped = self.in_reactor(lambda: [self.service.stopService()])[0]
        connection.sendall(frame(CLOSE, b"\x03\xe8"))
        self.assertEqual(self.close_code(self.read_to_end(connection)), 1001)
        connection.close()
        self.in_reactor(lambda: stopped)


class TcpPendingTests(PendingMixin, RelayTestCase):
    """Over plain TCP."""


class TlsPendingTests(PendingMixin, RelayTestCase):
    """Over TLS."""

    secure = True


class OpenMixin(SocketMixin):
    """After the opening handshake."""

    # Without the shield, which would stop most of what is sent here.
    config = Config(
        host="127.0.0.1", port=0, max_unread_bytes=65536, offers=Offers(shield=False)
    )

    def busy(self: Any, peer: RelayProtocol, sender: Client) -> None:
        """Send to a peer that does not read until the relay holds data for it."""
        text = offer(B, A, sdp="x" * 10_000).decode()
        while not self.in_reactor(lambda: peer.flow.paused):
            sender.send(text)

    @scenario
    def test_new_socket_that_waits_for_the_old_one_keeps_little(self: Any) -> None:
        old, waiting = self.ready(A), self.upgraded()
        waiting.sendall(frame(TEXT, registration(A)))
        self.until(lambda: len(self.service.factory.flows.followers) == 1)
        count = 2 * self.config.max_unread_bytes // 125
        waiting.sendall(frame(PING, b"x" * 125) * (count + 1))
        self.until(lambda: len(self.service.factory.connections) == 1)
        self.assertEqual(len(self.service.factory.flows.followers), 0)
        old.close()
        waiting.close()

    @scenario
    def test_returns_what_would_pile_up_and_keeps_the_peer(self: Any) -> None:
        late = self.ready(A)
        (peer,) = self.connections()
        sender = self.registered(B)
        text = offer(B, A, sdp="x" * 10_000)
        while not self.happened(Returned):
            sender.send(text.decode())
            sender.ping()
        echoed = json.loads(sender.recv())
        self.assertEqual(
            echoed["error"],
            f"The requested peer {A} does not read what the relay server sends to it.",
        )
        self.assertLessEqual(peer.flow.unread, self.config.max_unread_bytes)
        # It reads at last, and is reachable as before.
        unread = peer.registration.received * (len(text) + 4)
        while unread:
            unread -= len(late.recv(min(unread, 65536)))
        self.until(lambda: not peer.flow.paused)
        sender.send(offer(B, A).decode())
        self.assertTrue(late.recv(65536).endswith(offer(B, A)))

    @scenario
    def test_ends_a_peer_that_does_not_read_for_too_long(self: Any) -> None:
        deaf = self.ready(A)
        (peer,) = self.connections()
        sender = self.registered(B)
        self.busy(peer, sender)
        self.advance(TIMEOUTS.ping_interval)
        # It still sends, pongs included, but not the one that was asked for.
        deaf.sendall(frame(PING) + frame(PONG) + frame(TEXT, registration(A)))
        source = self.connections()[1]
        self.until(lambda: source.phase is Phase.READY)
        self.advance(TIMEOUTS.ping_timeout)
        self.until(lambda: peer.state == RelayProtocol.STATE_CLOSED)
        sender.send(offer(B, A).decode())
        self.assertTrue(json.loads(sender.recv())["error"].startswith("Cannot forward"))

    @scenario
    def test_a_pong_that_came_while_the_process_stood_still_counts(self: Any) -> None:
        client = self.ready(A)
        (peer,) = self.connections()
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

    @scenario
    def test_a_peer_that_vanishes_with_an_offer_is_unknown(self: Any) -> None:
        self.ready(A)
        (peer,) = self.connections()
        sender = self.registered(B)
        source = self.connections()[1]

        def vanish() -> None:
            peer.abort()
            source.onMessage(offer(B, A), False)

        self.in_reactor(vanish)
        self.assertTrue(json.loads(sender.recv())["error"].startswith("Cannot forward"))

    @scenario
    def test_ends_a_peer_that_lets_pongs_pile_up(self: Any) -> None:
        deaf = self.ready(A)
        pings = frame(PING, b"x" * 125) * 1000
        with self.assertRaises(OSError):
            for _ in range(1000):
                deaf.sendall(pings)
        self.until_gone()

    @scenario
    def test_the_last_word_does_not_revive_a_dropped_connection(self: Any) -> None:
        for last in (frame(TEXT, b"hello"), frame(CLOSE, b"\x03\xe8")):
            deaf = self.ready(A)
            (peer,) = self.connections()
            sender = self.registered(B)
            self.busy(peer, sender)

            def fill(peer: RelayProtocol = peer) -> None:
                peer.flow.unread = 2 * self.config.max_unread_bytes

            self.in_reactor(fill)
            deaf.sendall(last)
            self.until(lambda peer=peer: peer.registration is None)
            self.in_reactor(peer.abort)
            sender.close()
            self.until_gone()

    @scenario
    def test_bounds_the_fragments_of_a_message(self: Any) -> None:
        connection = self.ready(A)
        connection.sendall(
            frame(TEXT, b"", fin=False)
            + frame(CONTINUATION, b"", fin=False) * MAX_FRAMES_PER_MESSAGE
            + frame(CLOSE, b"\x03\xf0")
        )
        self.assertEqual(self.close_code(self.read_to_end(connection)), 1008)

    @scenario
    def test_takes_as_many_fragments_as_are_allowed(self: Any) -> None:
        connection = self.ready(A)
        text = offer(A, A)
        connection.sendall(
            frame(TEXT, text, fin=False)
            + frame(CONTINUATION, b"", fin=False) * (MAX_FRAMES_PER_MESSAGE - 2)
            + frame(CONTINUATION, b"")
        )
        self.assertEqual(connection.recv(4), struct.pack("!BBH", 0x81, 126, len(text)))

    @scenario
    def test_keeps_nothing_of_a_message_that_is_announced_too_long(self: Any) -> None:
        connection = self.ready(A)
        connection.sendall(header(TEXT, 1 << 40))
        connection.sendall(b"x" * 1_000_000)
        self.until_phase(Phase.CLOSING)
        self.assertEqual(self.close_code(connection.recv(65536)), 1009)
        (peer,) = self.connections()
        self.assertEqual(
            self.in_reactor(lambda: (peer.data, peer.frame_data)), (b"", [])
        )
        self.advance(TIMEOUTS.close_handshake)
        self.until_gone()

    @scenario
    def test_keeps_nothing_of_a_control_frame_that_is_too_long(self: Any) -> None:
        for opcode in (PING, PONG, CLOSE):
            connection = self.ready(A)
            connection.sendall(header(opcode, 1 << 40) + b"x" * 1_000_000)
            self.until_phase(Phase.CLOSING)
            (peer,) = self.connections()
            found = self.in_reactor(attrgetter("data", "control_frame_data"), peer)
            self.assertEqual(found, (b"", []))
            self.assertEqual(self.close_code(connection.recv(65536)), 1002)
            connection.close()
            self.until_gone()

    @scenario
    def test_keeps_a_message_that_comes_in_crumbs_in_one_piece(self: Any) -> None:
        connection = self.ready(A)
        (peer,) = self.connections()
        text = offer(A, A)
        connection.sendall(header(TEXT, len(text)))
        for crumb in text[:100]:
            connection.sendall(bytes([crumb]))
            self.until(lambda: peer.current_frame is not None)
        self.until(lambda: peer.frame_data and len(peer.frame_data[0]) == 100)
        self.assertEqual(len(peer.frame_data), 1)
        connection.sendall(text[100:])
        received = b""
        while len(received) < len(text):
            received += connection.recv(65536)
        self.assertTrue(received.endswith(text))

    @scenario
    def test_closes_on_violations_of_the_protocol(self: Any) -> None:
        violations = {
            "unmasked": b"\x81\x01x",
            "reserved bit": b"\xc1\x80" + bytes(4),
            "reserved opcode": frame(3),
            "fragmented ping": frame(PING, fin=False),
            "long ping": header(PING, 126) + bytes(126),
            "continuation of nothing": frame(CONTINUATION, b"x"),
        }
        for what, violation in violations.items():
            connection = self.ready(A)
            connection.sendall(violation)
            self.assertEqual(
                (what, self.close_code(connection.recv(65536))), (what, 1002)
            )
            self.check()
            connection.close()
            self.until_gone()

    @scenario
    def test_pings_and_ends_a_peer_that_does_not_answer(self: Any) -> None:
        connection = self.ready(A)
        self.until_phase(Phase.READY)
        self.advance(TIMEOUTS.ping_interval)
        self.assertEqual(connection.recv(6)[:2], b"\x89\x04")
        self.advance(TIMEOUTS.ping_timeout)
        self.assertEqual(self.read_to_end(connection), b"")
        self.until_gone()

    @scenario
    def test_does_not_ping_a_peer_that_has_just_spoken(self: Any) -> None:
        connection = self.ready(A)
        self.until_phase(Phase.READY)
        for _ in range(3):
            connection.sendall(frame(PING, b"hey"))
            self.assertEqual(connection.recv(5), b"\x8a\x03hey")
            self.advance(TIMEOUTS.ping_interval)
        self.advance(TIMEOUTS.ping_interval)
        self.assertEqual(connection.recv(6)[:2], b"\x89\x04")

    @scenario
    def test_a_pong_to_the_ping_keeps_a_peer(self: Any) -> None:
        connection = self.ready(A)
        for _ in range(3):
            self.until_phase(Phase.READY)
            self.advance(TIMEOUTS.ping_interval)
            ping = connection.recv(6)
            self.assertEqual(ping[:2], b"\x89\x04")
            connection.sendall(frame(PONG, ping[2:]))
        self.until_phase(Phase.READY)

    @scenario
    def test_ends_a_peer_that_does_not_answer_a_close_frame(self: Any) -> None:
        connection = self.ready(A)
        connection.sendall(frame(TEXT, b"hello"))
        self.until_phase(Phase.CLOSING)
        self.advance(TIMEOUTS.close_handshake)
        self.assertEqual(self.close_code(self.read_to_end(connection)), 4000)
        self.until_gone()

    @scenario
    def test_does_not_listen_to_a_client_that_is_being_closed(self: Any) -> None:
        connection = self.ready(A)
        connection.sendall(frame(TEXT, b"hello") + frame(TEXT, registration(A)))
        self.until_phase(Phase.CLOSING)
        self.assertEqual(len(self.service.factory.registry), 0)

    @scenario
    def test_a_reset_connection_is_forgotten(self: Any) -> None:
        connection = self.ready(A)
        connection.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        connection.close()
        self.until_gone()

    @scenario
    def test_a_half_closed_connection_is_forgotten(self: Any) -> None:
        connection = self.ready(A)
        connection.shutdown(socket.SHUT_WR)
        self.until_gone()

    @scenario
    def test_a_new_socket_takes_over_from_a_dead_one(self: Any) -> None:
        self.ready(A)
        client = self.connect()
        client.send(registration(A).decode())
        # The dead one does not answer the close frame.
        self.until(lambda: len(self.service.factory.flows.followers) == 1)
        self.check()
        self.assertEqual(len(self.service.factory.registry), 1)
        self.advance(FOLLOW_SECONDS)
        self.assertIn('"success": true', client.recv())
        client.ping()
        self.advance(TIMEOUTS.close_handshake)
        self.until(lambda: len(self.service.factory.connections) == 1)

    @scenario
    def test_new_socket_hears_of_its_success_after_the_old_one_ended(self: Any) -> None:
        old, client = self.ready(A), self.connect()
        client.send(registration(A).decode())
        self.until(lambda: len(self.service.factory.flows.followers) == 1)
        _, new = sorted(self.connections(), key=lambda peer: peer.arrival)
        # An offer of a third client comes behind the acknowledgement.
        other = self.registered(B)
        other.send(offer(B, A).decode())
        self.until(lambda: new.registration.received == 1)
        old.sendall(frame(CLOSE, b"\x0f\xa4"))
        self.assertEqual(self.close_code(self.read_to_end(old)), 4004)
        old.close()
        self.assertIn('"success": true', client.recv())
        self.assertEqual(client.recv(), offer(B, A).decode())
        self.assertEqual(len(self.service.factory.flows.followers), 0)

    @scenario
    def test_new_socket_that_waits_for_the_old_one_may_be_replaced(self: Any) -> None:
        old, second, third = self.ready(A), self.upgraded(), self.upgraded()
        for connection, count in ((second, 1), (third, 1)):
            connection.sendall(frame(TEXT, registration(A)))
            self.until(lambda n=count: len(self.service.factory.flows.followers) == n)
        second.sendall(frame(CLOSE, b"\x0f\xa4"))
        received = self.read_to_end(second)
        second.close()
        self.assertIn(b'"success": true', received)
        self.assertEqual(self.close_code(received), 4004)
        self.until(lambda: len(self.service.factory.flows.followers) == 0)
        self.assertIn(b'"success": true', third.recv(65536))
        for connection in (old, third):
            connection.close()
        self.until(lambda: not self.service.factory.connections)

    @scenario
    def test_forgets_the_request_and_its_token(self: Any) -> None:
        self.url += "/s3cret?s3cret=1"
        self.registered(A, additional_headers={"Authorization": "Bearer s3cret"})
        (peer,) = self.connections()
        self.assertNotIn("s3cret", repr(vars(peer)))

    @scenario
    def test_waits_in_stopping_for_no_longer_than_it_may(self: Any) -> None:
        silent, deaf = self.raw(), self.ready(A)
        self.until(lambda: len(self.service.factory.connections) == 2)
        stopped = self.in_reactor(lambda: [self.service.stopService()])[0]
        self.advance(TIMEOUTS.close_handshake)
        self.until(lambda: len(self.service.factory.connections) == 1)
        self.advance(TIMEOUTS.stop - TIMEOUTS.close_handshake)
        self.in_reactor(lambda: stopped)
        self.assertEqual(self.connections(), [])
        self.assertEqual(self.read_to_end(silent), b"")
        deaf.close()

    @scenario
    def test_a_defect_in_the_rules_costs_no_connection(self: Any) -> None:
        client = self.registered(A)
        broker = self.service.factory.relay.broker
        forward = broker.forward

        def broken(*arguments: object) -> None:
            broker.forward = forward
            raise ZeroDivisionError

        broker.forward = broken
        client.send(offer(A, A).decode())
        client.send(offer(A, A).decode())
        self.assertEqual(client.recv(), offer(A, A).decode())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class TcpOpenTests(OpenMixin, RelayTestCase):
    """Over plain TCP."""


class TlsOpenTests(OpenMixin, RelayTestCase):
    """Over TLS."""

    secure = True


class EndingMixin(SocketMixin):
    """Connections whose request, or whose end, waits for its turn."""

    def hold(self: Any) -> TurnBudget:
        """Have paced work wait from now on."""
        pace: TurnBudget = self.service.factory.pace
        self.in_reactor(setattr, pace, "_left", 0)
        self.addCleanup(pace._next_turn)
        return pace

    @scenario
    def test_an_offer_waits_for_the_next_one(self: Any) -> None:
        old, sender = self.ready(A), self.registered(B)
        factory = self.service.factory
        pace = self.hold()
        old.close()
        self.until(lambda: pace.backlogged)
        self.assertEqual(len(self.connections()), 2)
        sender.send(offer(B, A).decode())
        sender.ping()
        self.assertEqual(factory.relay.broker.table.held, 1)
        self.in_reactor(pace._next_turn)
        self.until(lambda: len(factory.connections) == 1)
        new = self.registered(A)
        self.assertEqual(json.loads(new.recv())["source_uuid"], B)

    @scenario
    def test_their_requests_are_not_too_late(self: Any) -> None:
        whole, half = self.raw(), self.raw()
        self.until(lambda: len(self.service.factory.connections) == 2)
        pace = self.hold()
        whole.sendall(upgrade())
        half.sendall(upgrade()[:-2])
        self.until(lambda: pace.backlogged)
        self.until(lambda: all(peer.data for peer in self.service.factory.connections))
        self.advance(TIMEOUTS.opening_handshake)
        self.in_reactor(pace._next_turn)
        self.assertTrue(whole.recv(12).startswith(b"HTTP/1.1 101"))
        self.assertEqual(self.read_to_end(half), b"")


class TcpEndingTests(EndingMixin, RelayTestCase):
    """Over plain TCP."""


class TlsEndingTests(EndingMixin, RelayTestCase):
    """Over TLS."""

    secure = True


class OriginTests(SocketMixin, RelayTestCase):
    """Pages of other sites, where the operator wants none."""

    config = Config(
        host="127.0.0.1", port=0, allowed_origins=("https://*.good.example",)
    )

    @scenario
    def test_lets_in_clients_and_pages_that_are_allowed(self) -> None:
        self.registered(A)
        self.registered(B, origin="https://www.good.example")

    @scenario
    def test_refuses_other_pages(self) -> None:
        for origin in (
            "https://evil.example",
            "http://www.good.example",
            "https://www.good.example:8443",
            "https://good.example",
            "https://evil.example/.good.example",
            "null",
        ):
            connection = self.raw()
            connection.sendall(upgrade(f"Origin: {origin}"))
            answer = self.read_to_end(connection)
            self.assertTrue(answer.startswith(b"HTTP/1.1 403 "), (origin, answer))


class ClosedClientTests(SocketMixin, RelayTestCase):
    """The stock client's library sees what it should."""

    @scenario
    def test_sees_the_code_of_a_refusal(self) -> None:
        client = self.connect()
        client.send("hello")
        with self.assertRaises(ConnectionClosed):
            client.recv()
        self.assertEqual(client.connection.close_code, 4000)
