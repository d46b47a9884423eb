"""Offers, answers and claims between nodes, on an engine in memory."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.cluster import codec
from proxyrelay.cluster.bus import hashed_user
from proxyrelay.cluster.claims import BATCH
from proxyrelay.config import Offers
from proxyrelay.errors import TryAgainLater
from proxyrelay.switchboard import delivery
from proxyrelay.switchboard.candidates import kinds_of
from proxyrelay.switchboard.pairs import EXCHANGES
from proxyrelay.switchboard.user import ANONYMOUS, User
from tests.cluster.fake import FakeEngine, FakeNode, StockClient, settle
from tests.support.candidates import candidate, description
from tests.support.recording import A, B, answer, offer, registration

USER, OTHER = User("one"), User("other")


class NodeTestCase(SynchronousTestCase):
    """Two nodes, and clients that end as stock ones do."""

    keys: tuple[bytes, ...] = ()
    settings = Offers(crossing=0.5)

    def setUp(self) -> None:
        self.engine = FakeEngine()
        self.nodes = [
            FakeNode(self.engine, name, self.keys, self.settings)
            for name in ("n1:x", "n2:x")
        ]
        self.clients: list[StockClient] = []

    def client(
        self, uuid: str, node: int, user: User = USER, **fields: Any
    ) -> StockClient:
        """Connect a client, and wait until it is registered."""
        client = self.connecting(uuid, node, user, **fields)
        settle(self.nodes)
        return client

    def connecting(
        self, uuid: str, node: int, user: User = USER, **fields: Any
    ) -> StockClient:
        fields = {"accepted_at": self.engine.now, **fields}
        client = StockClient(user=user, uuid=uuid, node=self.nodes[node], **fields)
        self.clients.append(client)
        client.register()
        return client

    def offer(self, source: StockClient, target: str, mark: str = "v=0") -> None:
        source.offers[target] = mark
        source.node.relay.receive(source, offer(source.uuid, target, sdp=mark))

    def answer(self, source: StockClient, target: str) -> None:
        mark = source.received.pop(target)
        source.node.relay.receive(source, answer(source.uuid, target, sdp=mark))

    def settle(self) -> None:
        settle(self.nodes)

    def wake(self) -> None:
        """Deliver everything, the offers that wait for crossing ones too."""
        for _ in range(3):
            settle(self.nodes)
            for node in self.nodes:
                node.wake()
        settle(self.nodes)

    def advance(self, seconds: float) -> None:
        for _ in range(round(seconds * 2)):
            self.engine.now += 0.5
            for node in self.nodes:
                node.tick()
            self.settle()

    def tearDown(self) -> None:
        self.assertEqual([c.breaches for c in self.clients if c.breaches], [])


class ExchangeTests(NodeTestCase):
    """Offers and answers between two nodes."""

    def test_offer_and_answer_between_nodes_reach_their_clients(self) -> None:
        a, b = self.client(A, 0), self.client(B, 1)
        self.offer(a, B, "mark")
        self.wake()
        self.assertEqual(b.received, {A: "mark"})
        self.answer(b, A)
        self.settle()
        self.assertEqual(a.ends, [(B, "mark", "answered")])
        self.assertEqual([len(n.relay.broker.table) for n in self.nodes], [0, 0])

    def test_second_offer_after_an_answer_does_not_wait(self) -> None:
        a, b = self.client(A, 0), self.client(B, 1)
        self.engine.now += 1
        self.offer(a, B)
        self.wake()
        self.answer(b, A)
        self.settle()
        self.offer(a, B, "second")
        self.settle()
        self.assertEqual(b.received, {A: "second"})

    def test_offer_to_an_unknown_client_comes_back(self) -> None:
        a = self.client(A, 0)
        self.offer(a, B)
        self.settle()
        self.assertEqual(a.ends[0][2], delivery.UNKNOWN.format(B))

    def test_offer_to_another_user_comes_back(self) -> None:
        a = self.client(A, 0)
        self.client(B, 1, OTHER)
        self.offer(a, B)
        self.settle()
        self.assertEqual(a.ends[0][2], delivery.FOREIGN.format(B))

    def test_offer_to_a_client_that_has_left_waits_for_it_on_any_node(self) -> None:
        a, b = self.client(A, 0), self.client(B, 1)
        b.leave()
        self.settle()
        self.offer(a, B)
        self.settle()
        self.assertEqual(a.ends, [])
        b = self.client(B, 1)
        self.wake()
        self.assertEqual(b.received, {A: "v=0"})

    def test_arrival_that_overtakes_the_reply_is_not_lost(self) -> None:
        a, b = self.client(A, 0), self.client(B, 1)
        b.leave()
        self.settle()
        self.offer(a, B)
        bus = self.nodes[0].bus
        bus.step()  # it should wait; the reply is on its way
        again = self.connecting(B, 1)
        self.nodes[1].bus.step()
        bus.events.rotate(1)
        self.wake()
        self.assertEqual(again.received, {A: "v=0"})

    def test_offer_to_a_client_that_stays_away_comes_back_once(self) -> None:
        a, b = self.client(A, 0), self.client(B, 1)
        b.leave()
        self.settle()
        self.offer(a, B)
        self.advance(30)
        self.assertEqual([end for _, _, end in a.ends], [delivery.UNKNOWN.format(B)])

    def test_offer_whose_receiver_leaves_comes_back(self) -> None:
        a, b = self.client(A, 0), self.client(B, 1)
        self.offer(a, B)
        self.wake()
        b.leave()
        self.settle()
        self.assertEqual(a.ends[0][2], delivery.LEFT.format(B))

    def test_offer_whose_receiver_moves_while_it_waits_goes_after_it(self) -> None:
        a, b = self.client(A, 0), self.client(B, 1)
        self.offer(a, B)
        self.settle()
        self.engine.now += 1
        moved = self.client(B, 0)
        self.wake()
        self.assertEqual((b.received, b.closed and b.closed[0]), ({}, 4004))
        self.assertEqual(moved.received, {A: "v=0"})

    def test_offer_without_an_answer_comes_back_once(self) -> None:
        a, b = self.client(A, 0), self.client(B, 1)
        self.offer(a, B)
        self.wake()
        self.advance(40)
        self.assertEqual([end for _, _, end in a.ends], [delivery.SILENT.format(B)])
        self.assertEqual(b.received, {A: "v=0"})
        self.assertEqual([len(n.relay.broker.table) for n in self.nodes], [0, 0])

    def test_answer_whose_sender_of_the_offer_has_left_goes_back(self) -> None:
        a, b = self.client(A, 0), self.client(B, 1)
        self.offer(a, B)
        self.wake()
        a.leave()
        before = len(b.breaches)
        self.answer(b, A)
        self.settle()
        self.assertEqual(len(b.breaches), before)


class CrossingTests(NodeTestCase):
    """Offers that cross on their way between nodes."""

    def test_crossing_offers_leave_that_of_the_lower_uuid(self) -> None:
        low, high = sorted((A, B))
        for first in (0, 1):
            with self.subTest(first=first):
                one, other = self.client(low, 0), self.client(high, 1)
                pairs = [(one, high), (other, low)]
                for client, peer in pairs[first:] + pairs[:first]:
                    self.offer(client, peer, client.uuid)
                self.wake()
                self.assertEqual(other.received, {low: low})
                self.assertEqual(other.ends[0][2], delivery.CROSSED.format(low))
                self.assertEqual((one.received, one.ends), ({}, []))
                self.answer(other, low)
                self.settle()
                self.assertEqual(one.ends[0][2], "answered")
                one.leave()
                other.leave()
                self.settle()

    def test_offer_of_a_client_to_which_one_went_elsewhere_is_passed_on(self) -> None:
        a, b = self.client(A, 0), self.client(B, 1)
        self.offer(a, B)
        self.wake()
        self.engine.now += 1
        a.leave()
        self.settle()
        a = self.client(A, 1)
        self.engine.now += 1
        b.leave()
        self.settle()
        b = self.client(B, 0)
        self.engine.now += 1
        self.offer(b, A, "other")
        self.wake()
        self.assertEqual(a.received, {B: "other"})

    def test_offer_reaches_a_client_that_comes_to_the_same_node_meanwhile(self) -> None:
        a = self.client(A, 0)
        b = self.connecting(B, 0)
        self.offer(a, B)
        self.wake()
        self.assertEqual(b.received, {A: "v=0"})
        self.answer(b, A)
        self.settle()
        self.assertEqual(a.ends, [(B, "v=0", "answered")])

    def test_returned_answer_spares_an_exchange_that_has_begun_since(self) -> None:
        a, b = self.client(A, 0), self.client(B, 1)
        self.offer(a, B)
        self.wake()
        a.leave()
        self.settle()
        self.answer(b, A)
        self.nodes[1].bus.step()
        self.nodes[0].bus.step()  # it will go back
        again = self.connecting(A, 1)
        for _ in range(3):
            self.nodes[1].bus.step()
        self.assertTrue(again.accepted)
        self.offer(b, A)
        self.wake()
        self.assertEqual(again.received, {B: "v=0"})

    def test_answer_to_a_client_that_left_closes_the_offer(self) -> None:
        a, b = self.client(A, 0), self.client(B, 1)
        self.offer(a, B)
        self.wake()
        a.leave()
        self.answer(b, A)
        self.settle()
        self.assertEqual([len(n.relay.broker.table) for n in self.nodes], [0, 0])

    def test_registration_whose_acceptance_is_on_its_way_is_not_given_up(self) -> None:
        a = self.connecting(A, 0)
        self.nodes[0].claims.asked(codec.Question(1, "n2:x", A, a.arrival))
        self.settle()
        self.assertEqual(self.engine.records[A]["node"], "n1:x")

    def test_offer_of_a_client_that_registered_anew_waits_for_a_crossing_one(
        self,
    ) -> None:
        for node in (0, 1):
            a, b = self.client(A, 0), self.client(B, 1)
            self.engine.now += 1
            self.offer(a, B)
            self.wake()
            self.answer(b, A)
            self.settle()
            moving = (a, b)[node]
            moving.leave()
            self.engine.now += 1
            a, b = (self.client(A, 0), b) if node == 0 else (a, self.client(B, 1))
            self.offer(a, B, "second")
            self.settle()
            self.assertEqual(b.received, {}, node)
            self.wake()
            self.assertEqual(b.received, {A: "second"}, node)
            a.leave()
            b.leave()
            self.engine.now += 200

    def test_offer_that_crosses_a_waiting_one_comes_back(self) -> None:
        a, b = self.client(A, 0), self.client(B, 1)
        self.offer(a, B)
        self.settle()  # it waits at the node of B
        self.offer(b, A)
        self.wake()
        self.assertEqual(b.ends[0][2], delivery.CROSSED.format(A))
        self.assertEqual(b.received, {A: "v=0"})


class FaultTests(NodeTestCase):
    """What the engine loses, repeats, delays or gets wrong."""

    def test_answer_to_a_given_up_offer_does_not_pass_for_another(self) -> None:
        a, b = self.client(A, 0), self.client(B, 1)
        self.offer(a, B, "old")
        self.wake()
        self.answer(b, A)  # it is on its way
        self.advance_without_delivery(25)
        self.assertEqual(a.ends[0][2], delivery.SILENT.format(B))
        self.offer(a, B, "new")
        self.wake()
        self.assertEqual(b.received, {A: "new"})

    def advance_without_delivery(self, seconds: float) -> None:
        for _ in range(round(seconds * 2)):
            self.engine.now += 0.5
            for node in self.nodes:
                node.relay.tick()

    def test_offer_that_lay_in_a_stopped_node_comes_back(self) -> None:
        a, b = self.client(A, 0), self.client(B, 1)
        self.offer(a, B)
        while self.nodes[0].bus.step():
            pass
        self.engine.now += 6
        self.wake()
        self.assertEqual(b.received, {})
        self.assertEqual(a.ends[0][2], delivery.SILENT.format(B))

    def test_repeated_message_is_ignored(self) -> None:
        a, b = self.client(A, 0), self.client(B, 1)
        self.offer(a, B)
        while self.nodes[0].bus.step():
            pass
        events = self.nodes[1].bus.events
        events.append(events[-1])
        self.wake()
        self.assertEqual((b.received, self.nodes[1].node.ignored), ({A: "v=0"}, 1))

    def test_own_wrong_record_is_repaired_by_the_next_offer(self) -> None:
        a, ghost = self.client(A, 0), self.client(B, 0)
        self.patch(self.engine, "unregister", lambda *_: 0)
        ghost.leave()
        self.settle()
        del self.engine.unregister
        self.offer(a, B)
        self.settle()
        self.assertEqual(self.engine.records[B]["node"], "")

    def test_old_offer_that_is_repeated_to_another_node_is_not_passed_on(self) -> None:
        a, b = self.client(A, 0), self.client(B, 1)
        sealed: list[bytes] = []
        self.patch(self.nodes[1].bus, "receive", sealed.append)
        self.offer(a, B)
        self.settle()
        self.engine.now += 61
        head, _, envelope = sealed[-1].partition(b"\n")
        words = head.split()
        words[-1] = str(self.nodes[1].bus.engine_time()).encode()
        self.nodes[1].node.received(b" ".join(words) + b"\n" + envelope)
        self.wake()
        self.assertEqual(b.received, {})

    def test_wrong_records_return_an_offer_twice_at_most(self) -> None:
        a, b = self.client(A, 0), self.client(B, 1)
        self.engine.records[B]["connection"] += 1000
        unregister = self.engine.unregister
        self.patch(self.engine, "unregister", lambda *_: 0)
        self.offer(a, B)
        self.wake()
        self.assertEqual(self.nodes[0].node.returns, {"gone": 2})
        self.assertIsNone(b.closed)
        self.patch(self.engine, "unregister", unregister)
        self.advance(130)
        self.assertEqual(self.engine.records[B]["connection"], b.arrival)
        self.assertIsNone(b.closed)

    def test_lost_farewell_is_repaired_by_the_next_offer(self) -> None:
        a, b = self.client(A, 0), self.client(B, 1)
        self.patch(self.engine, "unregister", lambda *_: 0)
        b.leave()
        self.settle()
        del self.engine.unregister
        self.offer(a, B)
        self.settle()
        self.assertEqual(self.engine.records[B]["node"], "")

    def test_engine_away_serves_the_clients_of_a_node(self) -> None:
        for node in self.nodes:
            node.bus.cut(0)
        a, b = self.client(A, 0), self.client(B, 0)
        self.assertTrue(a.accepted and b.accepted)
        self.offer(a, B)
        self.wake()
        self.assertEqual(b.received, {A: "v=0"})

    def test_offer_elsewhere_waits_for_the_engine(self) -> None:
        a, b = self.client(A, 0), self.client(B, 1)
        self.nodes[0].bus.cut(0)
        self.offer(a, B)
        self.settle()
        self.assertEqual((a.ends, b.received), ([], {}))
        self.nodes[0].heal()
        self.wake()
        self.assertEqual(b.received, {A: "v=0"})

    def test_offer_without_a_reply_is_not_sent_again(self) -> None:
        a, b = self.client(A, 0), self.client(B, 1)
        self.offer(a, B)
        self.nodes[0].bus.cut(1)
        self.nodes[0].heal()
        self.wake()
        self.assertEqual(b.received, {A: "v=0"})
        self.answer(b, A)
        self.settle()
        self.assertEqual(a.ends[0][2], "answered")

    def test_emptied_engine_is_filled_again(self) -> None:
        a, b = self.client(A, 0), self.client(B, 1)
        self.engine.records.clear()
        for node in self.nodes:
            node.claims.assert_all()
        self.settle()
        self.offer(a, B)
        self.wake()
        self.assertEqual(b.received, {A: "v=0"})


class ClaimTests(NodeTestCase):
    """UUIDs that several nodes claim."""

    def test_newer_connection_elsewhere_replaces_the_older_one(self) -> None:
        old = self.client(A, 0)
        self.engine.now += 1
        new = self.client(A, 1)
        self.assertEqual(old.closed and old.closed[0], 4004)
        self.assertTrue(new.accepted and new.registration)
        assert new.registration is not None
        self.assertEqual(new.registration.takeovers, 1)
        self.assertTrue(new.registration.is_reconnect)

    def test_kick_of_an_older_connection_spares_the_newer_one(self) -> None:
        self.client(A, 0)
        self.engine.now += 1
        self.connecting(A, 1)
        self.nodes[1].bus.step()
        kick = self.nodes[0].bus.events.pop()
        self.engine.now += 1
        newer = self.client(A, 0)
        kick()
        self.settle()
        self.assertIsNone(newer.closed)
        self.assertEqual(self.engine.records[A]["connection"], newer.arrival)

    def test_kick_that_overtakes_an_acceptance_is_not_lost(self) -> None:
        old = self.connecting(A, 0)
        bus = self.nodes[0].bus
        bus.step()  # accepted; the reply is on its way
        self.engine.now += 1
        new = self.connecting(A, 1)
        self.nodes[1].bus.step()
        bus.events.rotate(1)
        self.settle()
        self.assertEqual((old.closed and old.closed[0], new.closed), (4004, None))

    def test_claim_of_a_client_that_is_refused_meanwhile_lets_it_close(self) -> None:
        client = self.connecting(A, 0)
        self.nodes[0].relay.refuse(client, TryAgainLater("too late"))
        self.assertFalse(client.awaits)
        self.settle()
        self.assertFalse(client.accepted)

    def test_older_connection_that_is_decided_later_is_superseded(self) -> None:
        self.engine.now += 10
        new = self.client(A, 0)
        late = self.client(A, 1, accepted_at=5.0)
        self.assertEqual(late.closed and late.closed[0], 4004)
        self.assertIsNone(new.closed)

    def test_stale_record_of_a_connection_that_is_gone_closes_nobody(self) -> None:
        self.engine.now += 10
        ghost = self.client(A, 0)
        self.patch(self.engine, "unregister", lambda *_: 0)
        ghost.leave()
        self.settle()
        del self.engine.unregister
        late = self.client(A, 1, accepted_at=5.0)
        self.assertTrue(late.accepted)
        self.assertIsNone(late.closed)

    def test_stale_node_that_does_not_answer_makes_a_client_come_again(self) -> None:
        self.engine.now += 10
        self.client(A, 0)
        late = self.connecting(A, 1, accepted_at=5.0)
        while self.nodes[1].bus.step():
            pass
        self.engine.now += 3
        self.nodes[1].claims.tick()
        self.assertEqual(late.closed and late.closed[0], 1013)

    def test_uuid_of_another_user_is_forbidden(self) -> None:
        holder = self.client(A, 0)
        other = self.client(A, 1, OTHER)
        self.assertEqual(other.closed and other.closed[0], 4002)
        self.assertIsNone(holder.closed)

    def test_foreign_record_of_a_connection_that_is_gone_closes_nobody(self) -> None:
        ghost = self.client(A, 0)
        self.patch(self.engine, "unregister", lambda *_: 0)
        ghost.leave()
        self.settle()
        del self.engine.unregister
        other = self.client(A, 1, OTHER)
        self.assertTrue(other.accepted)
        self.assertIsNone(other.closed)

    def test_claims_of_two_users_leave_the_first_one(self) -> None:
        one, other = self.connecting(A, 0), self.connecting(A, 0, OTHER)
        self.settle()
        self.assertTrue(one.accepted)
        self.assertIsNone(one.closed)
        self.assertEqual(other.closed and other.closed[0], 1013)

    def test_limit_of_a_user_does_not_count_clients_without_one(self) -> None:
        limits = []
        self.nodes[0].claims.limit = 5
        for uuid, user in (A, USER), (B, ANONYMOUS):
            self.connecting(uuid, 0, user)
            _, script, arguments = self.nodes[0].bus.calls[-1]
            limits.append((script, arguments[-2]))
        self.assertEqual(limits, [("register", 5), ("register", 0)])

    def test_users_that_met_without_the_engine_leave_the_earlier_one(self) -> None:
        for node in self.nodes:
            node.bus.cut(0)
        early = self.client(A, 0)
        self.engine.now += 5
        late = self.client(A, 1, OTHER)
        self.assertTrue(early.accepted and late.accepted)
        for node in reversed(self.nodes):
            node.heal()
        self.advance(5)
        self.assertIsNone(early.closed)
        self.assertEqual(late.closed and late.closed[0], 4002)

    def test_client_that_leaves_while_it_claims_leaves_no_record(self) -> None:
        client = self.connecting(A, 0)
        client.leave()
        self.settle()
        self.assertEqual(self.engine.records[A]["node"], "")
        self.assertFalse(client.accepted)

    def test_claim_without_a_reply_of_a_client_that_left_leaves_no_record(self) -> None:
        for serve_alone in (True, False):
            self.nodes[0].claims.serve_alone = serve_alone
            client = self.connecting(A, 0)
            if serve_alone:
                client.leave()
            self.nodes[0].bus.cut(1)
            self.assertIsNotNone(client.closed)
            self.nodes[0].heal()
            self.settle()
            self.assertEqual(self.engine.records[A]["node"], "")

    def test_many_farewells_are_sent_a_few_at_a_time(self) -> None:
        node, count = self.nodes[0], 2 * BATCH + 10
        node.bus.ready = False
        for number in range(count):
            node.claims.disown(f"uuid {number}", number)
        told: dict[str, int] = {}
        self.patch(self.engine, "unregister", lambda uuid, *_: told.setdefault(uuid, 1))
        node.heal()
        self.assertEqual(len(node.bus.calls), BATCH)
        self.settle()
        self.assertEqual(len(told), count)

    def test_two_connections_of_a_node_leave_the_latest(self) -> None:
        one, two = self.connecting(A, 0), self.connecting(A, 0)
        self.settle()
        self.assertEqual(one.closed and one.closed[0], 4004)
        self.assertTrue(two.accepted)
        self.assertEqual(self.engine.records[A]["connection"], two.arrival)

    def test_claim_yields_to_the_uuid_that_the_client_holds(self) -> None:
        client = self.client(A, 0)
        for uuid in (B, A):
            client.node.relay.receive(client, registration(uuid))
        self.settle()
        self.assertIs(self.nodes[0].relay.registry.get(A), client)
        self.assertIsNone(self.nodes[0].relay.registry.get(B))
        self.assertEqual(self.engine.records[B]["node"], "")

    def test_claim_holds_back_what_the_client_sends(self) -> None:
        client = self.connecting(A, 0)
        self.assertTrue(client.awaits)
        self.settle()
        self.assertFalse(client.awaits)

    def test_engine_away_refuses_clients_if_it_is_set_so(self) -> None:
        self.nodes[0].claims.serve_alone = False
        self.nodes[0].bus.cut(0)
        client = self.client(A, 0)
        self.assertEqual(client.closed and client.closed[0], 1013)


class SealedExchangeTests(ExchangeTests):
    """The same with sealed messages."""

    keys = (b"k" * 32,)


class UserHashTests(SynchronousTestCase):
    """The engine's name of a user."""

    def test_user_hash_tells_issuers_apart_and_names_no_anonymous_user(self) -> None:
        self.assertNotEqual(hashed_user("a", "sub"), hashed_user("b", "sub"))
        self.assertEqual(hashed_user("a", ANONYMOUS.sub), "-")
        self.assertNotIn("sub", hashed_user("a", "sub"))


class ReachTests(NodeTestCase):
    """Pairs of clients of two nodes that do not connect."""

    lan = description(candidate("192.168.1.7"))

    def exchange(self, source: StockClient, target: StockClient) -> None:
        """Let a minute pass, and exchange an offer and its answer."""
        self.engine.now += 60
        self.offer(source, target.uuid, self.lan)
        self.wake()
        self.answer(target, source.uuid)
        self.settle()

    def unconnected(self) -> list[list[tuple[str, int]]]:
        """The pairs of each node: who answers, and with which candidates."""
        tables = (node.relay.broker.reach.pairs for node in self.nodes)
        return [
            [(pair.target, pair.target_kinds) for pair in table.unconnected()]
            for table in tables
        ]

    def test_pair_is_known_where_the_offers_come_from(self) -> None:
        a, b = self.client(A, 0), self.client(B, 1)
        for _ in range(EXCHANGES):
            self.assertEqual(self.unconnected(), [[], []])
            self.exchange(a, b)
        self.assertEqual(self.unconnected(), [[(B, kinds_of(self.lan))], []])

    def test_pair_begins_anew_when_the_other_side_registers(self) -> None:
        a, b = self.client(A, 0), self.client(B, 1)
        for _ in range(3):
            self.exchange(a, b)
            self.exchange(a, b)
            b.leave()
            self.settle()
            self.engine.now += 1
            b = self.client(B, 1)
        self.assertEqual(self.unconnected(), [[], []])

    def test_answer_of_an_older_version_is_read(self) -> None:
        fields = ["answer", 1, "n", 7, A, B, b"text"]
        found = codec.decode(msgspec.msgpack.encode(fields))
        self.assertEqual(found, codec.Answered(1, "n", 7, A, B, b"text"))
