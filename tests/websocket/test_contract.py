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
from proxyrelay.switchboard.delivery import CROSSED, LEFT, SILENT
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

    @scenario
    def test_accepts_a_registration(self: Any) -> None:
        client = self.connect()
        client.send(registration(A).decode())
        self.assertEqual(client.recv(), ACCEPTED)

    @scenario
    def test_accepts_a_registration_again(self: Any) -> None:
        client = self.registered(A)
        client.send(registration(A, name="renamed").decode())
        self.assertEqual(client.recv(), ACCEPTED)
        self.check()

    @scenario
    def test_reads_uuids_as_leniently_as_python(self: Any) -> None:
        client = self.connect()
        client.send(registration("{" + A.replace("-", "").upper() + "}").decode())
        self.assertEqual(client.recv(), ACCEPTED)
        other = self.registered(B)
        text = offer(B, f"urn:uuid:{A}").decode()
        other.send(text)
        self.assertEqual(client.recv(), text)

    @scenario
    def test_takes_any_path_origin_and_subprotocol(self: Any) -> None:
        client = self.registered(
            A,
            origin="https://elsewhere.example",
            subprotocols=["chat"],
        )
        self.assertIsNone(client.connection.subprotocol)
        self.url += "/any/path?and=query"
        self.registered(B, origin="null")

    @scenario
    def test_declines_compression(self: Any) -> None:
        client = self.registered(A, compression="deflate")
        assert client.connection.response is not None
        self.assertNotIn("Sec-WebSocket-Extensions", client.connection.response.headers)

    @scenario
    def test_replaces_an_older_socket_of_the_same_user(self: Any) -> None:
        old = self.registered(A)
        new = self.registered(A)
        self.assertEqual(self.closed(old), (4004, DUPLICATE))
        self.check()
        other = self.registered(B)
        other.send(offer(B, A).decode())
        self.assertEqual(new.recv(), offer(B, A).decode())

    @scenario
    def test_an_older_socket_cannot_replace_a_newer_one(self: Any) -> None:
        old = self.connect()
        new = self.registered(A)
        old.send(registration(A).decode())
        self.assertEqual(self.closed(old), (4004, DUPLICATE))
        self.assert_served(new)

    @scenario
    def test_refuses_the_uuid_of_another_user(self: Any) -> None:
        mine = self.registered(A, additional_headers={"X-User": "me"})
        theirs = self.connect(additional_headers={"X-User": "them"})
        theirs.send(registration(A).decode())
        self.assertEqual(
            self.closed(theirs),
            (
                4002,
                f"ForbiddenError: The client UUID {A} is already registered to "
                "another user.",
            ),
        )
        self.assert_served(mine)

    @scenario
    def test_a_second_uuid_releases_the_first(self: Any) -> None:
        client = self.registered(A)
        client.send(registration(B).decode())
        self.assertEqual(client.recv(), ACCEPTED)
        self.check()
        client.send(offer(B, A).decode())
        self.assertEqual(json.loads(client.recv())["error"], UNKNOWN_PEER.format(A))

    @scenario
    def test_forwards_a_message_as_it_came(self: Any) -> None:
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
    def test_returns_an_offer_to_an_unknown_peer(self: Any) -> None:
        client = self.registered(A)
        client.send(offer(A, "{" + B.upper() + "}").decode())
        self.assertEqual(
            list(json.loads(client.recv()).items()),
            list(json.loads(offer(A, B, error=UNKNOWN_PEER.format(B))).items()),
        )

    @scenario
    def test_returns_an_offer_to_a_peer_that_left(self: Any) -> None:
        client, other = self.registered(A), self.registered(B)
        other.close()
        self.check()
        client.send(offer(A, B).decode())
        self.assertEqual(json.loads(client.recv())["error"], UNKNOWN_PEER.format(B))

    @scenario
    def test_returns_an_offer_to_a_peer_of_another_user(self: Any) -> None:
        client = self.registered(A, additional_headers={"X-User": "me"})
        self.registered(B, additional_headers={"X-User": "them"})
        client.send(offer(A, B).decode())
        self.assertEqual(
            json.loads(client.recv()),
            json.loads(
                offer(error=f"The requested peer {B} is owned by a different user.")
            ),
        )

    @scenario
    def test_returns_an_offer_in_the_name_of_another_source(self: Any) -> None:
        client, other = self.registered(A), self.registered(B)
        client.send(offer(C, B).decode())
        echoed = json.loads(client.recv())
        self.assertIn(C, echoed["error"])
        self.assertEqual(echoed | {"error": None}, json.loads(offer(C, B)))
        # The next thing that the peer hears is something else.
        client.send(offer(A, B).decode())
        self.assertEqual(other.recv(), offer(A, B).decode())

    @scenario
    def test_refuses_a_message_before_registration(self: Any) -> None:
        client = self.connect()
        client.send(offer(A, B).decode())
        self.assertEqual(
            self.closed(client),
            (
                4002,
                "ForbiddenError: Client has not registered and authenticated with "
                "the relay server.",
            ),
        )

    @scenario
    def test_refuses_a_binary_message(self: Any) -> None:
        client = self.connect()
        client.send(registration(A))
        self.assertEqual(self.closed(client), (4000, "Unknown message type."))

    @scenario
    def test_refuses_invalid_utf_8(self: Any) -> None:
        client = self.registered(A)
        client.send(
            registration(A, name="\u00e9").replace(b"\\u00e9", b"\xff"), text=True
        )
        self.assertEqual(self.closed(client)[0], 1007)

    @scenario
    def test_refuses_encoded_surrogates(self: Any) -> None:
        client = self.registered(A)
        broken = registration(A, name="\u00e9").replace(b"\\u00e9", b"\xed\xa0\x80")
        client.send(broken, text=True)
        self.assertEqual(self.closed(client)[0], 1007)

    @scenario
    def test_refuses_what_cannot_be_read_and_harms_nobody(self: Any) -> None:
        witness, other = self.registered(B), self.registered(C)
        for what, text in UNREADABLE.items():
            client = self.registered(A)
            client.send(text)
            self.assertEqual(
                (what, *self.closed(client)), (what, 4000, "Unknown message type.")
            )
            self.check()
            witness.send(offer(B, C).decode())
            self.assertEqual(other.recv(), offer(B, C).decode())
            other.send(answer(C, B).decode())
            self.assertEqual(witness.recv(), answer(C, B).decode())

    @scenario
    def test_refuses_a_message_over_the_setting(self: Any) -> None:
        client = self.registered(A)
        client.send(offer(A, A, sdp="x" * 200_000).decode())
        self.assertEqual(self.closed(client), (4003, "Message length exceeds limit."))

    @scenario
    def test_refuses_fragments_over_the_setting(self: Any) -> None:
        client = self.registered(A)
        client.send(iter(["x" * 100_000, "x" * 100_000, "x"]))
        self.assertEqual(self.closed(client), (4003, "Message length exceeds limit."))

    @scenario
    def test_takes_a_message_of_just_the_setting(self: Any) -> None:
        client, other = self.registered(A), self.registered(B)
        room = 200_000 - len(offer(A, B, sdp=""))
        text = offer(A, B, sdp="x" * room).decode()
        client.send(text)
        self.assertEqual(other.recv(), text)

    @scenario
    def test_returns_what_grows_over_the_setting(self: Any) -> None:
        client = self.registered(A)
        room = 200_000 - len(offer(A, B, sdp=""))
        client.send(offer(A, B, sdp="x" * room).decode())
        self.assertEqual(json.loads(client.recv())["error"], UNKNOWN_PEER.format(B))

    @scenario
    def test_fails_a_message_over_the_ceiling(self: Any) -> None:
        client = self.registered(A)
        client.send("x" * (1024 * 1024 + 1))
        self.assertEqual(self.closed(client)[0], 1009)

    @scenario
    def test_answers_plain_http_with_426(self: Any) -> None:
        connection = self.raw()
        connection.sendall(b"GET / HTTP/1.1\r\nHost: relay.example\r\n\r\n")
        answer = self.read_to_end(connection)
        self.assertTrue(answer.startswith(b"HTTP/1.1 426 Upgrade Required\r\n"))
        self.assertIn(b"\r\nUpgrade: websocket\r\n", answer)

    @scenario
    def test_names_neither_library_nor_version(self: Any) -> None:
        connection = self.raw()
        connection.sendall(upgrade())
        self.assertNotIn(b"Autobahn", connection.recv(65536))

    @scenario
    def test_answers_pings(self: Any) -> None:
        client = self.registered(A)
        client.ping()

    @scenario
    def test_answers_a_close_frame_and_forgets_the_client(self: Any) -> None:
        client = self.registered(A)
        client.close(1000, "done")
        self.assertEqual(client.connection.close_code, 1000)
        self.assertEqual(len(self.service.factory.registry), 0)

    @scenario
    def test_closes_with_1001_when_it_stops(self: Any) -> None:
        client, unregistered = self.registered(A), self.connect()
        stopped = self.in_reactor(lambda: [self.service.stopService()])[0]
        for each in (client, unregistered):
            self.assertEqual(self.closed(each)[0], 1001)
        self.in_reactor(lambda: stopped)
        self.assertEqual(self.connections(), [])

    @scenario
    def test_speaks_the_dialect_of_old_clients(self: Any) -> None:
        client = self.connect()
        client.send(registration(A, legacy=True).decode())
        self.assertEqual(client.recv(), ACCEPTED.replace("relay_", "server_"))
        # What cannot be read is skipped.
        client.send("hello")
        client.send(b"\x00")
        self.assert_served(client)


class OfferMixin:
    """What becomes of offers, whatever carries them."""

    @scenario
    def test_drops_what_would_end_a_client(self: Any) -> None:
        one, other = self.registered(A), self.registered(B)
        junk = offer(A, B, description="junk")
        for message in (offer(A, B, error="x"), junk, offer(A, B), offer(A, B)):
            one.send(message.decode())
        other.send(offer(B, A).decode())
        other.send(answer(B, A, description="[]").decode())
        other.send(answer(B, A).decode())
        other.send(answer(B, A).decode())
        self.assertEqual(one.recv(), answer(B, A).decode())
        self.assertEqual(other.recv(), offer(A, B).decode())
        # All that either hears next is the next offer.
        other.send(offer(B, A).decode())
        self.assertEqual(one.recv(), offer(B, A).decode())
        one.send(answer(A, B).decode())
        self.assertEqual(other.recv(), answer(A, B).decode())
        self.assertEqual(
            self.observed.drops,
            {
                **dict.fromkeys(
                    (DropReason.ERROR, DropReason.DUPLICATE, DropReason.CROSSING), 1
                ),
                DropReason.UNASKED: 1,
                DropReason.DESCRIPTION: 2,
            },
        )

    @scenario
    def test_returns_an_offer_when_its_peer_is_lost(self: Any) -> None:
        one, other = self.registered(A), self.registered(B)
        one.send(offer(A, B).decode())
        other.recv()
        other.hang_up()
        self.assertEqual(
            json.loads(one.recv()),
            json.loads(offer(A, B, description="", error=LEFT.format(B))),
        )

    @scenario
    def test_returns_an_offer_that_is_not_answered(self: Any) -> None:
        one, other = self.registered(A), self.registered(B)
        one.send(offer(A, B).decode())
        other.recv()
        self.advance(self.config.offers.answer_timeout)
        self.assertEqual(json.loads(one.recv())["error"], SILENT.format(B))
        # An answer that comes too late goes nowhere.
        other.send(answer(B, A).decode())
        other.send(offer(B, A).decode())
        self.assertEqual(one.recv(), offer(B, A).decode())

    @scenario
    def test_holds_an_offer_until_its_peer_is_back(self: Any) -> None:
        one, other = self.registered(A), self.registered(B)
        other.hang_up()
        self.until(lambda: len(self.service.factory.registry) == 1)
        one.send(offer(A, B).decode())
        one.ping()
        other = self.registered(B)
        self.assertEqual(other.recv(), offer(A, B).decode())
        other.send(answer(B, A).decode())
        self.assertEqual(one.recv(), answer(B, A).decode())

    @scenario
    def test_returns_an_offer_when_its_peer_does_not_come_back(self: Any) -> None:
        one = self.registered(A)
        one.send(offer(A, B).decode())
        one.ping()
        self.advance(self.config.offers.hold)
        self.assertEqual(json.loads(one.recv())["error"], UNKNOWN_PEER.format(B))

    @scenario
    def test_returns_what_crosses_an_offer_that_waits(self: Any) -> None:
        self.in_reactor(self.with_crossing, 0.25)
        one, other = self.registered(A), self.registered(B)
        one.send(offer(A, B).decode())
        one.ping()
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
    def test_an_offer_waits_only_until_pongs_show_an_idle_peer(self: Any) -> None:
        self.in_reactor(self.with_crossing, 5)
        one, other = self.registered(A), self.registered(B)
        one.send(offer(A, B).decode())
        one.ping()
        for _ in range(20):
            other.ping()  # The pongs to the relay's pings are there, too.
            self.advance(0.001)
        self.assertEqual(self.in_reactor(lambda: self.relay.broker.table.held), 0)
        self.assertEqual(other.recv(), offer(A, B).decode())

    @scenario
    def test_a_defect_at_a_pong_closes_nothing(self: Any) -> None:
        client = self.registered(B)
        peer = self.in_reactor(lambda: self.relay.registry.get(B))
        self.in_reactor(lambda: peer.ping(lambda: 1 / 0))
        client.ping()
        self.assert_served(client, B)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    @scenario
    def test_the_wait_follows_the_settings(self: Any) -> None:
        one, other = self.registered(A), self.registered(B)
        self.registered(C)
        self.in_reactor(self.with_crossing, 5)
        one.send(offer(A, B).decode())
        one.ping()
        self.in_reactor(self.with_crossing, 1)
        self.advance(1)
        self.assertEqual(other.recv(), offer(A, B).decode())
        self.in_reactor(self.with_crossing, 0)
        other.send(offer(B, C).decode())
        other.ping()
        self.assertEqual(self.in_reactor(lambda: self.relay.broker.table.held), 0)

    @scenario
    def test_what_waits_goes_with_the_relay(self: Any) -> None:
        self.in_reactor(self.with_crossing, 5)
        one = self.registered(A)
        self.registered(B)
        one.send(offer(A, B).decode())
        one.ping()
        self.assertEqual(self.in_reactor(lambda: self.relay.broker.table.held), 1)
        self.in_reactor(self._stop)
        self.assertEqual(self.in_reactor(self.clock.getDelayedCalls), [])

    @property
    def relay(self: Any) -> Relay:
        rules: Relay = self.service.factory.relay
        return rules

    def with_crossing(self: Any, seconds: float) -> None:
        offers = structs.replace(self.service.config.offers, crossing=seconds)
        settings = structs.replace(self.service.config, offers=offers)
        self.service.apply(settings)

    @scenario
    def test_without_shield_passes_everything_on(self: Any) -> None:
        self.in_reactor(self.without_shield)
        one, other = self.registered(A), self.registered(B)
        for message in (
            *(offer(A, B, error="x"), offer(A, B), offer(A, B)),
            *(answer(A, B), answer(A, B)),
        ):
            one.send(message.decode())
            self.assertEqual(other.recv(), message.decode())
        other.send(offer(B, A).decode())
        self.assertEqual(one.recv(), offer(B, A).decode())
        one.send(offer(A, C).decode())
        self.assertEqual(json.loads(one.recv())["error"], UNKNOWN_PEER.format(C))

    def without_shield(self: Any) -> None:
        self.service.factory.relay.broker.settings = Offers(shield=False)


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
