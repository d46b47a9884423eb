"""How long offers wait for those that may cross them."""

from __future__ import annotations

import json
from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.config import Offers
from proxyrelay.switchboard.offers import Offer
from proxyrelay.switchboard.peer import Peer
from proxyrelay.switchboard.relay import Relay
from proxyrelay.websocket.crossing import (
    GATHERING_BY_STUN_SECONDS,
    GATHERING_SECONDS,
    MAX_HOLDERS,
    RETRY_SECONDS,
    Crossing,
)
from tests.support.recording import (
    A,
    B,
    C,
    RecordingObserver,
    RecordingPeer,
    answer,
    offer,
    registration,
)

SDP = "a=candidate:1 1 udp 1 192.0.2.1 9 typ srflx raddr 0.0.0.0 rport 0"

BY_STUN = offer(A, B, description=json.dumps({"sdp": SDP, "type": "offer"}))
"""An offer of a client that a STUN server has answered."""


class Client(RecordingPeer):
    """A stock client at a distance, as far as crossing offers go.

    It computes for a while before it makes an offer, and reads nothing meanwhile. Then
    it gathers addresses, and sends the offer. It ends when an offer comes in between,
    until an error has made it let go of its own offer.
    """

    def __init__(self, clock: Clock, trip: float, computing: float, gathering: float):
        super().__init__()
        self.clock = clock
        self.trip = trip
        self.computing = computing
        self.gathering = gathering
        self.relay: Relay
        self.busy_until = 0.0
        self.offers_itself = False
        self.connected: float | None = None
        self.ended = False

    def when_read(self, act: Callable[[], None]) -> None:
        """Act when something has come here, and is read."""

        def come() -> None:
            self.clock.callLater(max(0.0, self.busy_until - self.clock.seconds()), act)

        self.clock.callLater(self.trip, come)

    def say(self, text: bytes) -> None:
        self.clock.callLater(self.trip, self.relay.receive, self, text)

    def ping(self, answered: Callable[[], None]) -> bool:
        def read() -> None:
            self.clock.callLater(self.trip, answered)

        self.when_read(read)
        return True

    def answer(self, text: bytes) -> None:
        self.when_read(lambda: self.read(text))

    def read(self, text: bytes) -> None:
        message = json.loads(text)
        if message.get("description_type") != "offer":
            return
        if message["error"] is not None:
            self.offers_itself = False
        elif self.offers_itself:
            self.ended = True
        else:
            self.connected = self.clock.seconds()
            self.say(answer(B, A))

    def decide(self) -> None:
        """Connect to the other client, unless that has happened."""
        if self.connected is None:
            self.offers_itself = True
            self.busy_until = self.clock.seconds() + self.computing
            wait = self.computing + self.gathering
            self.clock.callLater(wait, self.say, offer(B, A))


class InterleavingTests(SynchronousTestCase):
    """Two clients of which the second decides to connect at any moment."""

    def play(
        self,
        after: float | None,
        text: bytes,
        trip: float,
        computing: float,
        gathering: float,
    ) -> Client:
        """Let A make an offer to B.

        Args:
            after: Seconds from the arrival of the offer until B decides to connect.
            text: The offer.
            trip: Seconds that anything takes from B to the relay, and back.
            computing: Seconds that B computes.
            gathering: Seconds that B gathers addresses.
        """
        clock = Clock()
        clock.advance(1000.0)

        def pass_on(held: Offer) -> None:
            relay.broker.pass_on(held)

        waiting = Crossing(clock, 0.25, pass_on)
        relay = Relay(RecordingObserver(), clock.seconds, waiting, Offers())
        one, other = RecordingPeer(), Client(clock, trip, computing, gathering)
        other.relay = relay
        for peer, uuid in ((one, A), (other, B)):
            relay.receive(peer, registration(uuid))
        clock.advance(1.0)
        start = clock.seconds() + 0.2
        if after is not None:
            clock.callLater(0.2 + after, other.decide)
        clock.callLater(0.2, relay.receive, one, text)
        while calls := clock.getDelayedCalls():
            clock.advance(max(0.0, calls[0].getTime() - clock.seconds()))
        self.assertEqual(len(waiting._deadlines), 0)
        if other.connected is not None:
            other.connected -= start
        return other

    def endings(
        self, text: bytes, trip: float, computing: float, gathering: float
    ) -> list[float]:
        """The moments, in whole milliseconds, at which a decision ends B."""
        first = -1000 * (computing + gathering + trip)  # Its own offer comes later.
        found = []
        for after in (number / 1000 for number in range(int(first) + 2, 350)):
            other = self.play(after, text, trip, computing, gathering)
            if other.ended:
                found.append(after)
            else:
                self.assertIsNotNone(other.connected, after)
        return found

    def test_crossing_near_client_survives_any_decision(self) -> None:
        for computing, gathering in ((0.006, 0.003), (0.01, 0.009), (0.04, 0.009)):
            found = self.endings(offer(A, B), 0.0002, computing, gathering)
            # There is no knowing what it does between its last pong and the offer.
            self.assertLessEqual(len(found), 1, found)

    def test_crossing_near_client_with_stun_survives_any_decision(self) -> None:
        found = self.endings(BY_STUN, 0.0002, 0.006, 0.09)
        self.assertLessEqual(len(found), 1, found)

    def test_crossing_distant_client_survives_a_decision_at_once(self) -> None:
        for trip in (0.01, 0.04, 0.06):
            found = self.endings(offer(A, B), trip, 0.006, 0.003)
            # What is on the way in either direction cannot be seen.
            self.assertLessEqual(len(found), 1000 * (2 * trip + 0.009) + 1, found)
            self.assertGreater(min(found), trip)

    def test_crossing_idle_client_gets_the_offer_soon(self) -> None:
        for text, trip, least in (
            (offer(A, B), 0.0002, GATHERING_SECONDS),
            (offer(A, B), 0.02, 0.06),
            (BY_STUN, 0.0002, GATHERING_BY_STUN_SECONDS),
        ):
            connected = self.play(None, text, trip, 0.006, 0.003).connected
            assert connected is not None
            self.assertGreaterEqual(connected, least)
            self.assertLess(connected, least + 2 * trip + 0.025)


class CrossingTests(SynchronousTestCase):
    """What keeps offers waiting, and lets them go."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.passed: list[Offer] = []
        self.crossing = Crossing(self.clock, 0.25, self.passed.append)
        self.peer = RecordingPeer()

    def offer(self, source: str = A) -> Offer:
        return Offer(source, B, "a", self.clock.seconds(), b"{}")

    def pong(self, seconds: float) -> None:
        """Answer the next ping after some seconds."""
        self.clock.advance(0.001)
        self.clock.advance(seconds)
        assert self.peer.pong is not None
        pong, self.peer.pong = self.peer.pong, None
        pong()

    def begin(self, offer: Offer, peer: Peer | None = None) -> Offer:
        self.crossing.begin(offer, peer or self.peer)
        return offer

    def test_crossing_pongs_in_time_pass_the_offer_on(self) -> None:
        waiting = self.begin(self.offer())
        for _ in range(6):
            self.assertEqual(self.passed, [])
            self.pong(0.001)
        self.assertEqual((self.passed, len(self.crossing._deadlines)), ([waiting], 0))
        self.clock.advance(0.25)
        self.assertEqual((self.passed, self.clock.getDelayedCalls()), ([waiting], []))

    def test_crossing_late_pong_begins_the_wait_anew(self) -> None:
        waiting = self.begin(self.offer())
        for _ in range(4):
            self.pong(0.001)
        self.pong(0.01)
        for _ in range(5):
            self.assertEqual(self.passed, [])
            self.pong(0.001)
        self.assertEqual(self.passed, [waiting])

    def test_crossing_without_pong_passes_the_offer_on_in_the_end(self) -> None:
        waiting = self.begin(self.offer())
        self.clock.advance(0.249)
        self.assertEqual((self.passed, self.peer.pings), ([], 1))
        self.clock.advance(0.001)
        self.assertEqual(self.passed, [waiting])
        # Its pong after all.
        self.pong(0.0)
        self.assertEqual((self.passed, self.clock.getDelayedCalls()), ([waiting], []))

    def test_crossing_offers_to_one_client_share_its_pings(self) -> None:
        first, second = self.begin(self.offer()), self.begin(self.offer(C))
        self.assertEqual(self.peer.pings, 1)
        for _ in range(6):
            self.pong(0.001)
        self.assertEqual(self.passed, [first, second])

    def test_crossing_offer_that_yields_waits_for_no_pong(self) -> None:
        waiting = self.begin(self.offer())
        self.pong(0.001)
        self.crossing.yield_time(waiting)
        self.clock.advance(0.24)
        self.assertEqual((self.passed, self.peer.pings), ([], 1))
        self.clock.advance(0.01)
        self.assertEqual(self.passed, [waiting])

    def test_crossing_offer_begun_anew_waits_for_its_new_receiver(self) -> None:
        waiting, new = self.begin(self.offer()), RecordingPeer()
        self.begin(waiting, new)
        for _ in range(6):
            self.clock.advance(0.001)
        self.assertEqual((self.passed, self.peer.pings, new.pings), ([], 1, 1))
        self.peer = new
        while not self.passed:
            self.pong(0.001)
        self.assertEqual(self.passed, [waiting])

    def test_crossing_with_a_client_that_reads_nothing_asks_again(self) -> None:
        self.peer.busy = True
        waiting = self.begin(self.offer())
        self.clock.advance(RETRY_SECONDS)
        self.assertEqual((self.passed, self.peer.pings), ([], 0))
        self.peer.busy = False
        self.clock.advance(RETRY_SECONDS)
        for _ in range(6):
            self.pong(0.001)
        self.assertEqual(self.passed, [waiting])

    def test_crossing_for_one_holder_bounds_the_pings(self) -> None:
        peers = [RecordingPeer() for _ in range(700)]
        for number, peer in enumerate(peers):
            self.begin(self.offer(str(number)), peer)
        self.assertLessEqual(sum(peer.pings for peer in peers), 501)
        self.clock.pump([RETRY_SECONDS] * 5)
        allowed = 1000 * (0.5 + 5 * RETRY_SECONDS)
        self.assertLessEqual(sum(peer.pings for peer in peers), allowed + 1)
        other = self.offer("other")
        other.holder = "another one"
        self.begin(other)
        self.assertEqual(self.peer.pings, 1)
        self.clock.pump([0.025] * 10)
        self.assertEqual(len(self.passed), 701)

    def test_crossing_forgets_holders_that_owe_nothing(self) -> None:
        for number in range(2 * MAX_HOLDERS):
            offer = self.offer(str(number))
            offer.holder = str(number)
            self.begin(offer, RecordingPeer())
            self.crossing.stop()
            self.clock.advance(0.01)
        self.assertLessEqual(len(self.crossing._ping_debts), MAX_HOLDERS + 1)

    def test_crossing_of_an_offer_that_is_dealt_with_pings_nobody(self) -> None:
        waiting = self.begin(self.offer())
        waiting.text = None
        self.pong(0.001)
        self.clock.advance(RETRY_SECONDS)
        self.assertEqual((len(self.crossing._deadlines), self.peer.pings), (0, 1))
