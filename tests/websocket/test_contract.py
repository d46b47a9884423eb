"""What the relay answers: each row of the table, over TCP and over TLS.

The client is the library that the stock client uses.
"""

from __future__ import annotations

import json
from typing import Any

from msgspec import structs
from websockets.exceptions import ConnectionClosed

from proxyrelay.auth import Authenticator
from proxyrelay.config import Config, Offers
from proxyrelay.switchboard.delivery import CROSSED, FOREIGN, LEFT, SILENT, SOURCE
from proxyrelay.switchboard.offers import DropReason
from proxyrelay.switchboard.relay import Relay
from tests.support.recording import A, B, C, answer, offer, registration
from tests.support.served import (
    Client,
    HeaderAuthenticator,
    RelayTestCase,
    scenario,
    upgrade,
)

ACCEPTED = (
    '{"success": true, "message": null, "error": false, '
    '"message_type": "relay_response"}'
)
UNKNOWN_PEER = (
    "Cannot forward peer connection message to peer {} because this peer is not "
    "registered this relay server."
)
DUPLICATE = (
    "Relay received a registration with the same ID. This might mean that the "
    "endpoint is running in multiple locations."
)
UNREADABLE = {
    "no JSON": "hello",
    "a list": "[]",
    "a number": "1",
    "a text": '"relay_registration"',
    "not a number": "NaN",
    "many digits": "1" * 10_000,
    "deep lists": "[" * 30_000,
    "deep objects": '{"a":' * 30_000,
    "a deep name": '{"message_type": "relay_registration", "name": ' + "[" * 30_000,
    "no type": f'{{"name": "a", "uuid": "{A}"}}',
    "an unknown type": f'{{"name": "a", "uuid": "{A}", "message_type": "hello"}}',
    "a response": ACCEPTED,
    "an old response": ACCEPTED.replace("relay_", "server_"),
    "a bad UUID": registration("12").decode(),
    "no name": f'{{"uuid": "{A}", "message_type": "relay_registration"}}',
    "a number for a name": registration(A).decode().replace('"a"', "1"),
    "an unknown field": registration(A).decode().replace("{", '{"x": 1, '),
    "digits in a field": registration(A).decode().replace('"a"', "9" * 10_000),
    "a lone surrogate": registration(A, name="\ud800").decode(),
    "a text behind": registration(A).decode() + "{}",
    "an unknown description": offer(description_type="bye").decode(),
}


TOO_LONG = 4003, "Message length exceeds limit."

UNKNOWN = 4000, "Unknown message type."


class ContractMixin:
    """The behaviour, whatever carries it."""

    config = Config(
        host="127.0.0.1",
        port=0,
        max_message_bytes=200_000,
        offers=Offers(hold=0, crossing=0),
    )

    def authenticator(self) -> Authenticator:
        return HeaderAuthenticator()

    def closed(self: Any, client: Client) -> tuple[int, str]:
        """The code and reason that a client is closed with, before any message."""
        with self.assertRaises(ConnectionClosed) as caught:
            client.recv()
        received = caught.exception.rcvd
        assert received is not None
        return received.code, received.reason

    def user(self: Any, name: str) -> dict[str, Any]:
        """Options for a connection of a user."""
        return {"additional_headers": {"X-User": name}}

    # -- registering

    @scenario
    def test_registration_again_or_of_another_uuid_is_accepted(self: Any) -> None:
        client = self.connect()
        for text in (registration(A), registration(A, name="b"), registration(B)):
            client.send(text.decode())
            self.assertEqual(client.recv(), ACCEPTED)
            self.check()
        client.send(offer(B, A).decode())
        self.assertEqual(json.loads(client.recv())["error"], UNKNOWN_PEER.format(A))

    @scenario
    def test_registration_uuid_is_read_as_python_reads_it(self: Any) -> None:
        client = self.connect()
        client.send(registration("{" + A.replace("-", "").upper() + "}").decode())
        self.assertEqual(client.recv(), ACCEPTED)
        other = self.registered(B)
        text = offer(B, f"urn:uuid:{A}").decode()
        other.send(text)
        self.assertEqual(client.recv(), text)

    @scenario
    def test_registration_replaces_an_older_socket_of_the_user(self: Any) -> None:
        old = self.registered(A)
        new = self.registered(A)
        self.assertEqual(self.closed(old), (4004, DUPLICATE))
        self.check()
        self.assert_served(new)

    @scenario
    def test_registration_on_an_older_socket_is_refused(self: Any) -> None:
        old = self.connect()
        new = self.registered(A)
        old.send(registration(A).decode())
        self.assertEqual(self.closed(old), (4004, DUPLICATE))
        self.assert_served(new)

    @scenario
    def test_registration_with_the_uuid_of_another_user_is_refused(self: Any) -> None:
        mine = self.registered(A, **self.user("me"))
        theirs = self.connect(**self.user("them"))
        theirs.send(registration(A).decode())
        reason = f"The client UUID {A} is already registered to another user."
        self.assertEqual(self.closed(theirs), (4002, f"ForbiddenError: {reason}"))
        self.assert_served(mine)

    @scenario
    def test_registration_of_an_old_client_gets_its_dialect(self: Any) -> None:
        client = self.connect()
        client.send(registration(A, legacy=True).decode())
        self.assertEqual(client.recv(), ACCEPTED.replace("relay_", "server_"))
        # What cannot be read is skipped.
        client.send("hello")
        client.send(b"\x00")
        self.assert_served(client)

    # -- messages

    @scenario
    def test_message_is_forwarded_as_it_came(self: Any) -> None:
        one, other = self.registered(A), self.registered(B)
        # The order of keys, white space and escapes are the sender's.
        text = (
            f'{{ "message_type":"peer_connection",  "peer_uuid": "{B}",'
            f'"source_uuid": "{A}", "source_name": "\\u00e9\u00e9", '
            '"description": " {\\"type\\":\\"offer\\", \\"sdp\\":\\"v=0\\\\r\\"}\\n",'
            '"description_type": "offer"}'
        )
        one.send(text)
        self.assertEqual(other.recv(), text)
        other.send(answer(B, A).decode())
        self.assertEqual(one.recv(), answer(B, A).decode())

    @scenario
    def test_message_that_cannot_be_forwarded_comes_back(self: Any) -> None:
        client, gone = self.registered(A), self.registered(C)
        gone.close()
        self.check()
        other = self.registered(B, **self.user("them"))
        unknown, foreign = UNKNOWN_PEER.format(C), FOREIGN.format(B)
        for sent, expected in (
            (offer(A, "{" + C.upper() + "}"), offer(A, C, error=unknown)),
            (offer(A, B), offer(A, B, error=foreign)),
            (offer(C, B), offer(C, B, error=SOURCE.format(B, C, A))),
        ):
            client.send(sent.decode())
            found, wanted = json.loads(client.recv()), json.loads(expected)
            self.assertEqual(list(found.items()), list(wanted.items()))
        # The peer heard nothing of all that.
        self.assert_served(other, B)

    @scenario
    def test_message_that_no_client_may_send_closes_the_socket(self: Any) -> None:
        before = "Client has not registered and authenticated with the relay server."
        for text, expected in (
            (offer(A, B).decode(), (4002, f"ForbiddenError: {before}")),
            (registration(A), UNKNOWN),
        ):
            client = self.connect()
            client.send(text)
            self.assertEqual(self.closed(client), expected)
        for wrong in (b"\xff", b"\xed\xa0\x80"):
            client = self.registered(A)
            broken = registration(A, name="\u00e9").replace(b"\\u00e9", wrong)
            client.send(broken, text=True)
            self.assertEqual(self.closed(client)[0], 1007)

    @scenario
    def test_message_that_cannot_be_read_harms_nobody_else(self: Any) -> None:
        witness, other = self.registered(B), self.registered(C)
        for what, text in UNREADABLE.items():
            client = self.registered(A)
            client.send(text)
            self.assertEqual((what, *self.closed(client)), (what, *UNKNOWN))
            self.check()
            witness.send(offer(B, C).decode())
            self.assertEqual(other.recv(), offer(B, C).decode())
            other.send(answer(C, B).decode())
            self.assertEqual(witness.recv(), answer(C, B).decode())

    @scenario
    def test_message_over_the_setting_or_the_ceiling_closes(self: Any) -> None:
        long = offer(A, A, sdp="x" * 200_000).decode()
        for sent in (long, iter(["x" * 100_000, "x" * 100_000, "x"])):
            client = self.registered(A)
            client.send(sent)
            self.assertEqual(self.closed(client), TOO_LONG)
        client = self.registered(A)
        client.send("x" * (1024 * 1024 + 1))
        self.assertEqual(self.closed(client)[0], 1009)

    @scenario
    def test_message_of_just_the_setting_passes_or_comes_back(self: Any) -> None:
        client, other = self.registered(A), self.registered(B)
        room = 200_000 - len(offer(A, B, sdp=""))
        text = offer(A, B, sdp="x" * room).decode()
        client.send(text)
        self.assertEqual(other.recv(), text)
        # With the error it is longer than the setting.
        client.send(offer(A, C, sdp="x" * room).decode())
        self.assertEqual(json.loads(client.recv())["error"], UNKNOWN_PEER.format(C))

    # -- HTTP and WebSocket

    @scenario
    def test_handshake_takes_any_path_origin_and_subprotocol(self: Any) -> None:
        options = {"origin": "https://elsewhere.example", "subprotocols": ["chat"]}
        client = self.registered(A, **options)
        self.assertIsNone(client.connection.subprotocol)
        self.url += "/any/path?and=query"
        self.registered(B, origin="null")

    @scenario
    def test_handshake_declines_compression(self: Any) -> None:
        client = self.registered(A, compression="deflate")
        assert client.connection.response is not None
        self.assertNotIn("Sec-WebSocket-Extensions", client.connection.response.headers)

    @scenario
    def test_handshake_answers_plain_http_with_426(self: Any) -> None:
        connection = self.raw()
        connection.sendall(b"GET / HTTP/1.1\r\nHost: relay.example\r\n\r\n")
        answer = self.read_to_end(connection)
        self.assertTrue(answer.startswith(b"HTTP/1.1 426 Upgrade Required\r\n"))
        self.assertIn(b"\r\nUpgrade: websocket\r\n", answer)
        self.assertIn(b"\r\nServer: proxyrelay\r\n", answer)

    @scenario
    def test_handshake_names_no_library(self: Any) -> None:
        connection = self.raw()
        connection.sendall(upgrade())
        self.assertNotIn(b"Autobahn", connection.recv(65536))

    @scenario
    def test_close_and_ping_frames_are_answered(self: Any) -> None:
        client = self.registered(A)
        client.ping()
        client.close(1000, "done")
        self.assertEqual(client.connection.close_code, 1000)
        self.assertEqual(len(self.service.factory.relay.registry), 0)

    @scenario
    def test_stop_closes_with_1001(self: Any) -> None:
        client, unregistered = self.registered(A), self.connect()
        stopped = self.in_reactor(lambda: [self.service.stopService()])[0]
        for each in (client, unregistered):
            self.assertEqual(self.closed(each)[0], 1001)
        self.in_reactor(lambda: stopped)
        self.assertEqual(self.connections(), [])


class OfferMixin:
    """What becomes of offers, whatever carries them."""

    @property
    def relay(self: Any) -> Relay:
        rules: Relay = self.service.factory.relay
        return rules

    def held(self: Any) -> int:
        """Number of offers that wait."""
        count: int = self.in_reactor(lambda: self.relay.broker.table.held)
        return count

    def with_crossing(self: Any, seconds: float) -> None:
        def apply() -> None:
            offers = structs.replace(self.service.config.offers, crossing=seconds)
            self.service.apply(structs.replace(self.service.config, offers=offers))

        self.in_reactor(apply)

    def say(self: Any, client: Client, *texts: bytes) -> None:
        """Send messages, and wait until the relay has read them."""
        for text in texts:
            client.send(text.decode())
        client.ping()

    @scenario
    def test_offer_or_answer_that_would_end_a_client_is_dropped(self: Any) -> None:
        one, other = self.registered(A), self.registered(B)
        junk = offer(A, B, description="junk")
        self.say(one, offer(A, B, error="x"), junk, offer(A, B), offer(A, B))
        self.say(other, offer(B, A), answer(B, A, description="[]"))
        self.say(other, answer(B, A), answer(B, A))
        self.assertEqual(one.recv(), answer(B, A).decode())
        self.assertEqual(other.recv(), offer(A, B).decode())
        # All that either hears next is the next offer.
        other.send(offer(B, A).decode())
        self.assertEqual(one.recv(), offer(B, A).decode())
        one.send(answer(A, B).decode())
        self.assertEqual(other.recv(), answer(A, B).decode())
        expected = dict.fromkeys(DropReason, 1) | {DropReason.DESCRIPTION: 2}
        del expected[DropReason.LATE]
        self.assertEqual(self.observed.drops, expected)

    @scenario
    def test_offer_without_shield_is_passed_on_whatever_it_is(self: Any) -> None:
        self.relay.broker.settings = Offers(shield=False)
        one, other = self.registered(A), self.registered(B)
        for message in (
            *(offer(A, B, error="x"), offer(A, B), offer(A, B)),
            *(answer(A, B), answer(A, B)),
        ):
            one.send(message.decode())
            self.assertEqual(other.recv(), message.decode())
        one.send(offer(A, C).decode())
        self.assertEqual(json.loads(one.recv())["error"], UNKNOWN_PEER.format(C))

    @scenario
    def test_offer_comes_back_when_its_peer_is_lost_or_silent(self: Any) -> None:
        one, other = self.registered(A), self.registered(B)
        one.send(offer(A, B).decode())
        other.recv()
        self.advance(self.config.offers.answer_timeout)
        self.assertEqual(json.loads(one.recv())["error"], SILENT.format(B))
        one.send(offer(A, B).decode())
        other.recv()
        other.hang_up()
        expected = offer(A, B, description="", error=LEFT.format(B))
        self.assertEqual(json.loads(one.recv()), json.loads(expected))

    @scenario
    def test_offer_is_held_until_its_peer_is_back(self: Any) -> None:
        one, other = self.registered(A), self.registered(B)
        other.hang_up()
        self.until(lambda: len(self.relay.registry) == 1)
        self.say(one, offer(A, B))
        other = self.registered(B)
        self.assertEqual(other.recv(), offer(A, B).decode())
        other.send(answer(B, A).decode())
        self.assertEqual(one.recv(), answer(B, A).decode())

    @scenario
    def test_offer_that_crosses_a_waiting_one_comes_back(self: Any) -> None:
        self.with_crossing(0.25)
        one, other = self.registered(A), self.registered(B)
        self.say(one, offer(A, B))
        other.send(offer(B, A).decode())
        self.assertEqual(json.loads(other.recv())["error"], CROSSED.format(A))
        # It has time to act on that.
        self.advance(0.2)
        self.assert_served(other, B)
        self.advance(0.05)
        self.assertEqual(other.recv(), offer(A, B).decode())
        other.send(answer(B, A).decode())
        self.assertEqual(one.recv(), answer(B, A).decode())
        # Now that they know each other, nobody waits.
        other.send(offer(B, A).decode())
        self.assertEqual(one.recv(), offer(B, A).decode())

    @scenario
    def test_offer_waits_until_pongs_show_an_idle_peer(self: Any) -> None:
        self.with_crossing(5)
        one, other = self.registered(A), self.registered(B)
        self.say(one, offer(A, B))
        for _ in range(20):
            other.ping()  # The pongs to the relay's pings are there, too.
            self.advance(0.001)
        self.assertEqual(self.held(), 0)
        self.assertEqual(other.recv(), offer(A, B).decode())

    @scenario
    def test_offer_that_waits_follows_the_settings_and_the_stop(self: Any) -> None:
        one, other = self.registered(A), self.registered(B)
        self.registered(C)
        self.with_crossing(5)
        self.say(one, offer(A, B))
        self.with_crossing(1)
        self.advance(1)
        self.assertEqual(other.recv(), offer(A, B).decode())
        self.with_crossing(0)
        self.say(other, offer(B, C))
        self.assertEqual(self.held(), 0)
        self.with_crossing(5)
        self.say(one, offer(A, C))
        self.assertEqual(self.held(), 1)
        self.in_reactor(self._stop)
        self.assertEqual(self.in_reactor(self.clock.getDelayedCalls), [])

    @scenario
    def test_ping_defect_at_its_pong_closes_nothing(self: Any) -> None:
        client = self.registered(B)
        peer = self.in_reactor(lambda: self.relay.registry.get(B))
        self.in_reactor(lambda: peer.ping(lambda: 1 / 0))
        client.ping()
        self.assert_served(client, B)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class TcpOfferTests(OfferMixin, RelayTestCase):
    """Over plain TCP."""


class TlsOfferTests(OfferMixin, RelayTestCase):
    """Over TLS."""

    secure = True


class TcpContractTests(ContractMixin, RelayTestCase):
    """Over plain TCP."""


class TlsContractTests(ContractMixin, RelayTestCase):
    """Over TLS."""

    secure = True
