"""Random histories of a cluster: whatever happens, no client gets what would end it."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.config import Offers
from proxyrelay.switchboard.user import User
from tests.cluster.fake import FakeEngine, FakeNode, Message, StockClient, settle
from tests.support.recording import A, B, C, answer, offer

EXAMPLES = int(os.environ.get("CLUSTER_EXAMPLES", "100"))
"""Histories; ``make cluster-rules`` takes more."""

STEPS = 50

UUIDS = (A, B, C)

nodes = st.integers(0, 2)
uuids = st.sampled_from(UUIDS)


class ClusterMachine(RuleBasedStateMachine):
    """Three nodes, three UUIDs of one user, and an engine with all faults."""

    @initialize()
    def begin(self) -> None:
        self.engine = FakeEngine()
        terms = Offers(crossing=0.5)
        self.nodes = [
            FakeNode(self.engine, name, settings=terms) for name in ("n0", "n1", "n2")
        ]
        self.clients: list[StockClient] = []
        self.marks = 0

    def newest(self, uuid: str) -> StockClient | None:
        """The latest connection of a UUID, if it is open and registered."""
        mine = [client for client in self.clients if client.uuid == uuid]
        if mine and mine[-1].closed is None and mine[-1].accepted:
            return mine[-1]
        return None

    @rule(uuid=uuids, node=nodes)
    def connect(self, uuid: str, node: int) -> None:
        self.engine.now += 0.01
        client = StockClient(
            user=User("one"),
            uuid=uuid,
            node=self.nodes[node],
            accepted_at=self.engine.now,
        )
        self.clients.append(client)
        client.register()

    @rule(uuid=uuids)
    def leave(self, uuid: str) -> None:
        client = self.newest(uuid)
        if client is not None:
            client.leave()

    @rule(source=uuids, peer=uuids)
    def offer(self, source: str, peer: str) -> None:
        client = self.newest(source)
        if client is None or source == peer or peer in client.offers:
            return
        if peer in client.received:
            return  # A stock client answers instead.
        self.marks += 1
        client.offers[peer] = mark = f"offer {self.marks}"
        client.waits_since[peer] = self.engine.now
        client.node.relay.receive(client, offer(source, peer, sdp=mark))

    @rule(source=uuids, peer=uuids)
    def answer(self, source: str, peer: str) -> None:
        client = self.newest(source)
        if client is not None and peer in client.received:
            mark = client.received.pop(peer)
            client.node.relay.receive(client, answer(source, peer, sdp=mark))

    @rule(node=nodes, steps=st.integers(1, 6))
    def work(self, node: int, steps: int) -> None:
        for _ in range(steps):
            self.nodes[node].bus.step()

    @rule()
    def work_all(self) -> None:
        settle(self.nodes)

    @rule(node=nodes)
    def wake(self, node: int) -> None:
        self.nodes[node].wake()

    @rule(seconds=st.sampled_from([0.5, 3.0, 10.0]))
    def advance(self, seconds: float) -> None:
        self.engine.now += seconds
        for node in self.nodes:
            node.tick()

    @rule(node=nodes, carried_out=st.integers(0, 3))
    def cut(self, node: int, carried_out: int) -> None:
        self.nodes[node].bus.cut(carried_out)

    @rule(node=nodes)
    def heal(self, node: int) -> None:
        if not self.nodes[node].bus.ready:
            self.nodes[node].heal()

    @rule(node=nodes)
    def lose(self, node: int) -> None:
        """Lose what is on its way to a node, while its connection stays."""
        events = self.nodes[node].bus.events
        if events and isinstance(events[-1], Message):
            events.pop()

    @rule(node=nodes)
    def repeat(self, node: int) -> None:
        events = self.nodes[node].bus.events
        if events and isinstance(events[-1], Message):
            events.append(events[-1])

    @rule(node=nodes)
    def end_lease(self, node: int) -> None:
        self.engine.leases.discard(self.nodes[node].name)

    @rule()
    def empty(self) -> None:
        self.engine.records.clear()
        self.engine.waiting.clear()

    @rule(uuid=uuids, node=nodes)
    def corrupt(self, uuid: str, node: int) -> None:
        record = self.engine.records.get(uuid)
        if record is not None:
            record["node"] = self.nodes[node].name

    @precondition(lambda self: hasattr(self, "clients"))
    @invariant()
    def no_client_ends(self) -> None:
        for client in self.clients:
            client.give_up(self.engine.now)
        breaches = [breach for client in self.clients for breach in client.breaches]
        assert not breaches, breaches

    @precondition(lambda self: hasattr(self, "clients"))
    @invariant()
    def no_newest_client_is_closed(self) -> None:
        for uuid in UUIDS:
            mine = [client for client in self.clients if client.uuid == uuid]
            if mine and mine[-1].closed is not None:
                assert mine[-1].closed[0] in {1000, 1013}, mine[-1].closed

    def teardown(self) -> None:
        if not hasattr(self, "nodes"):
            return
        self.converge()
        for uuid in UUIDS:
            owners = [
                client
                for client in self.clients
                if client.uuid == uuid and client.closed is None
            ]
            assert len(owners) <= 1, (uuid, owners)
            record = self.engine.records.get(uuid, {"node": ""})
            if owners:
                assert record["node"] == owners[0].node.name, (uuid, record)
                assert record["connection"] == owners[0].arrival
            else:
                assert record["node"] == "", (uuid, record)
        for client in self.clients:
            client.give_up(self.engine.now)
            assert client.closed or not client.offers, (client.uuid, client.offers)

    def converge(self) -> None:
        """Mend the engine, and let two minutes pass."""
        for node in self.nodes:
            self.engine.leases.add(node.name)
            if not node.bus.ready:
                node.heal()
        for seconds in [0.5] * 50 + [5.0] * 26:
            self.engine.now += seconds
            for node in self.nodes:
                node.tick()
                node.look_around()
            settle(self.nodes)
        self.no_client_ends()
        self.no_newest_client_is_closed()


class ClusterTests(SynchronousTestCase):
    """Random histories."""

    def test_no_history_ends_a_client(self) -> None:
        run_state_machine_as_test(
            ClusterMachine,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                report_multiple_bugs=False,  # trial shows no group of errors
                suppress_health_check=list(HealthCheck),
            ),
        )
