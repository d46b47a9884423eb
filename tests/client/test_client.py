"""The client that comes back: delays, tokens, final codes, start and stop."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.client import (
    Closed,
    NotConnected,
    NotRegistered,
    NotUpgraded,
    Rejected,
    RelayClient,
)
from proxyrelay.client.client import MAX_DELAY_SECONDS, STEADY_SECONDS, retry_delay
from proxyrelay.switchboard.messages import PeerConnection
from tests.support.recording import A, B, offer
from tests.support.relay_end import MemoryEndpoint


class ClientTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.endpoint = MemoryEndpoint()
        self.received: list[PeerConnection] = []
        self.lost: list[tuple[Exception, float]] = []

    def client(self, **options: Any) -> RelayClient:
        options.setdefault("lost", lambda why, delay: self.lost.append((why, delay)))
        return RelayClient(
            *(self.clock, "ws://relay.example:8700", self.received.append),
            uuid=UUID(A),
            name="a",
            endpoint=self.endpoint,
            retry_policy=float,
            **options,
        )

    def started(self, **options: Any) -> RelayClient:
        client = self.client(**options)
        client.start()
        return client

    def registered(self, **options: Any) -> RelayClient:
        client = self.started(**options)
        self.endpoint.last.accept()
        self.successResultOf(client.registered())
        return client

    def assert_idle(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_client_listens_after_a_reconnect(self) -> None:
        client = self.registered()
        self.endpoint.last.close(1001, "The relay is shutting down.")
        self.assertFalse(client.is_registered)
        waiting = client.registered()
        ((why, delay),) = self.lost
        assert isinstance(why, Closed)
        self.assertEqual((why.code, delay), (1001, 1.0))
        self.clock.advance(delay)
        self.assertNoResult(waiting)
        self.endpoint.last.accept()
        self.successResultOf(waiting)
        self.endpoint.last.send(offer(B, A))
        self.assertEqual(len(self.received), 1)

    def test_authorization_is_asked_at_each_connect(self) -> None:
        tokens = iter(("Bearer 1", "Bearer 2"))
        self.registered(authorization=lambda: next(tokens))
        self.endpoint.last.close(1013)
        self.clock.advance(1)
        self.assertIn(b"Bearer 2\r\n", self.endpoint.last.request)

    def test_failing_authorization_is_tried_again(self) -> None:
        answers: list[Deferred[str]] = [Deferred(), Deferred()]
        asked = iter(answers)
        self.started(authorization=lambda: next(asked))
        answers[0].errback(KeyError("no token"))
        self.assertIsInstance(self.lost[0][0], KeyError)
        self.clock.advance(1)
        answers[1].callback("Bearer fresh")
        self.assertIn(b"Bearer fresh", self.endpoint.last.request)

    def test_delays_grow_until_a_connection_is_steady(self) -> None:
        self.endpoint.refuses = True
        self.started()
        for seconds in (1, 2, 3):
            self.clock.advance(seconds)
        self.assertEqual([delay for _, delay in self.lost], [1, 2, 3, 4])
        self.assertIsInstance(self.lost[0][0], NotConnected)
        self.endpoint.refuses = False
        self.clock.advance(4)
        self.endpoint.last.accept()
        self.endpoint.last.close(1013)
        self.assertEqual(self.lost[-1][1], 5)
        self.clock.advance(5)
        self.endpoint.last.accept()
        self.clock.advance(STEADY_SECONDS)
        self.endpoint.last.close(1013)
        self.assertEqual(self.lost[-1][1], 1)

    def test_http_error_is_tried_again(self) -> None:
        self.started()
        self.endpoint.last.say(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
        self.assertIsInstance(self.lost[0][0], NotUpgraded)
        self.clock.advance(1)
        self.assertEqual(self.endpoint.attempts, 2)

    def test_default_delays_are_spread_and_bounded(self) -> None:
        for attempt, longest in ((1, 1), (2, 2), (3, 4), (7, 60), (10**6, 60)):
            found = [retry_delay(attempt) for _ in range(50)]
            self.assertGreaterEqual(min(found), longest / 2)
            self.assertLessEqual(max(found), min(longest, MAX_DELAY_SECONDS))
            self.assertGreater(len(set(found)), 1)

    def test_final_code_ends_the_client(self) -> None:
        for code in (4001, 4002, 4004):
            client = self.registered()
            ended = client.ended()
            self.endpoint.last.close(code, "why")
            error = self.failureResultOf(ended, Rejected).value
            self.assertEqual(error.code, code)
            self.failureResultOf(client.registered(), Rejected)
            self.failureResultOf(client.ended(), Rejected)
            self.successResultOf(client.stop())
            self.assert_idle()
        self.assertEqual(self.lost, [])

    def test_final_code_fails_the_wait_for_a_registration(self) -> None:
        client = self.started()
        waiting = client.registered()
        self.endpoint.last.upgrade()
        self.endpoint.last.close(4001)
        self.failureResultOf(waiting, Rejected)
        self.assert_idle()

    def test_final_code_of_which_nobody_is_told_is_logged_escaped(self) -> None:
        self.registered()
        self.endpoint.last.close(4004, "a\x1b[2J\nb")
        self.assert_idle()
        (error,) = self.flushLoggedErrors(Rejected)
        self.assertEqual(str(error.value), r"4004 a\x1b[2J\nb")

    def test_stop_closes_and_ends(self) -> None:
        client = self.registered()
        ended = client.ended()
        stopped = client.stop()
        self.assertNoResult(stopped)
        self.endpoint.last.close(1000)
        self.successResultOf(stopped)
        self.successResultOf(ended)
        self.failureResultOf(client.registered(), CancelledError)
        self.assertRaises(RuntimeError, client.start)
        self.assert_idle()

    def test_stop_at_any_other_time_ends(self) -> None:
        client = self.client()
        self.successResultOf(client.stop())
        self.assertRaises(RuntimeError, client.start)

        client = self.started()
        waiting = client.registered()
        self.successResultOf(client.stop())
        self.failureResultOf(waiting, CancelledError)
        self.assertTrue(self.endpoint.last.transport.aborted)

        self.endpoint.refuses = True
        client = self.started()
        self.successResultOf(client.stop())
        self.successResultOf(client.stop())

        self.endpoint.refuses, self.endpoint.hangs = False, True
        client = self.started()
        self.successResultOf(client.stop())
        self.assert_idle()

    def test_stop_inside_a_callback_ends(self) -> None:
        self.endpoint.refuses = True
        clients: list[RelayClient] = []
        stopped: list[Deferred[None]] = []

        def stop(*_: object) -> None:
            stopped.append(clients[0].stop())

        clients.append(self.client(lost=stop))
        clients[0].start()
        self.successResultOf(stopped[0])
        self.assert_idle()

    def test_stop_inside_the_authorization_ends(self) -> None:
        clients: list[RelayClient] = []
        stopped: list[Deferred[None]] = []

        def authorization() -> None:
            stopped.append(clients[0].stop())

        clients.append(self.client(authorization=authorization))
        clients[0].start()
        self.successResultOf(stopped[0])
        self.assertTrue(self.endpoint.last.transport.aborted)
        self.assert_idle()

    def test_failing_callback_for_losses_is_logged(self) -> None:
        self.endpoint.refuses = True

        def fails(*_: object) -> None:
            raise KeyError

        self.started(lost=fails)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.clock.advance(1)
        self.flushLoggedErrors(KeyError)
        self.assertEqual(self.endpoint.attempts, 2)

    def test_cancelled_waits_are_forgotten(self) -> None:
        client = self.started()
        for waiting in (client.registered(), client.ended()):
            waiting.cancel()
            self.failureResultOf(waiting, CancelledError)
        self.endpoint.last.accept()
        self.assertTrue(client.is_registered)

    def test_client_starts_once(self) -> None:
        client = self.started()
        self.assertRaises(RuntimeError, client.start)

    def test_offers_and_answers_are_those_of_the_client(self) -> None:
        client = self.registered()
        client.offer(UUID(B), "x")
        client.answer(UUID(B), "y")
        found = [json.loads(text) for text in self.endpoint.last.texts()[1:]]
        self.assertEqual(
            [each["description_type"] for each in found], ["offer", "answer"]
        )
        for each in found:
            self.assertEqual((each["source_uuid"], each["peer_uuid"]), (A, B))
            self.assertEqual(each["source_name"], "a")

    def test_offer_without_registration_fails(self) -> None:
        client = self.client()
        self.assertRaises(NotRegistered, client.offer, UUID(B), "x")

    def test_default_uuid_and_name_are_set(self) -> None:
        client = RelayClient(self.clock, "wss://localhost", self.received.append)
        self.assertIsInstance(client.uuid, UUID)
        self.assertTrue(client.name)
