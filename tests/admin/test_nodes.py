"""The cluster of a relay on the private listener; the engine is not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from proxyrelay import __version__
from proxyrelay.admin import nodes
from proxyrelay.admin.report import FarClients, Nodes, Status
from proxyrelay.cluster import codec
from proxyrelay.cluster.member import Member, NodeInfo
from proxyrelay.cluster.queries import Answers
from proxyrelay.errors import Disconnected
from tests.support.recording import A, B
from tests.support.watched import START, Answer, Caller, WatchedTestCase

reactor: Any = _reactor

AWAY = "cluster: the engine cannot be reached"

LEASE = msgspec.json.encode(NodeInfo("1.2.3", "", "", is_draining=True))


def report(node: str, clients: int = 0, **fields: Any) -> codec.Report:
    """A report of a node that is well."""
    return codec.Report(1, node, 1, "1.2.3", 60.0, clients, 0, True, False, **fields)


class NodesTestCase(WatchedTestCase):
    """A relay in a cluster."""

    def setUp(self) -> None:
        super().setUp()
        self.serve_in_cluster()

    def ask(self, path: str, method: str = "GET", **options: Any) -> Answer:
        caller = Caller(self.admin)
        caller.ask(path, method, **options)
        self.reactor.advance(0)
        answer = Answer(caller.wire.value())
        caller.lose()
        return answer

    @property
    def member(self) -> Member:
        found = self.relay.member
        assert found is not None
        return found

    def answered(self, *reports: codec.Report, silent: tuple[str, ...] = ()) -> None:
        """Have all questions answered at once."""
        answers = Answers([report(self.member.name), *reports], list(silent))

        def answer(*arguments: Any) -> None:
            done: Callable[[Answers], None] = arguments[-1]
            done(answers)

        for name in ("ask_nodes", "ask_clients", "disconnect"):
            setattr(self.member.queries, name, answer)


class ClusterHealthTests(NodesTestCase):
    """A relay without its engine."""

    def test_health_without_the_engine_is_ready_and_degraded(self) -> None:
        answer = self.ask("/readyz")
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.body.decode(), f"ok\ndegraded: {AWAY}\n")
        status = self.ask("/status").json
        self.assertEqual((status["ready"], status["degraded"]), (True, [AWAY]))

    def test_health_with_the_engine_is_not_degraded(self) -> None:
        self.member.link.ready = True
        self.assertEqual(self.ask("/readyz").body, b"ok\n")
        self.assertEqual(self.ask("/status").json["degraded"], [])

    def test_health_of_an_excluded_relay_says_why(self) -> None:
        self.member.is_excluded = True
        self.assertIn(b"degraded: cluster: other settings", self.ask("/readyz").body)

    def test_health_beside_a_node_that_does_not_fit_says_so(self) -> None:
        self.member.link.ready = True
        self.member.strangers = {"n2:1": "key_file"}
        self.assertEqual(
            self.ask("/readyz").body,
            b"ok\ndegraded: cluster: key_file of node 'n2:1' differs\n",
        )

    def test_node_with_an_obstacle_reports_it(self) -> None:
        self.assertTrue(self.member.is_ready())
        self.relay.ports.close()
        self.assertFalse(self.member.is_ready())


class ClusterStatusTests(NodesTestCase):
    """What is known of the cluster without asking."""

    def test_status_has_the_cluster_and_its_nodes(self) -> None:
        own = self.member.name.encode()
        self.member.queries.note([b"n3:c", b"", own, LEASE, b"n2:b", LEASE])
        self.registered(A)
        status = msgspec.json.decode(self.ask("/status").body, type=Status)
        found = status.cluster
        assert found is not None
        self.assertEqual((found.node, found.ready), (self.member.name, False))
        self.assertEqual((found.lease_age, found.unsynced), (None, 1))
        self.assertEqual(
            [(p.node, p.version, p.draining, p.lease) for p in found.peers],
            [("n2:b", "1.2.3", True, True), ("n3:c", "", False, False)],
        )

    def test_status_after_a_lease_has_its_age(self) -> None:
        self.member.link.connects = 1
        self.assertGreater(self.ask("/status").json["cluster"]["lease_age"], 0)


class ClusterNodesTests(NodesTestCase):
    """All nodes."""

    def nodes(self) -> Nodes:
        return msgspec.json.decode(self.ask("/cluster").body, type=Nodes)

    def test_nodes_without_the_engine_are_silent(self) -> None:
        self.member.queries.note([b"n2:b", LEASE])
        found = self.nodes()
        self.assertEqual((found.node, found.silent), (self.member.name, ["n2:b"]))
        self.assertEqual(found.degraded, [AWAY])
        own, other = found.nodes
        self.assertEqual((own.version, own.clients), (__version__, 0))
        self.assertEqual((own.ready, own.silent), (True, False))
        self.assertEqual((other.silent, other.clients), (True, None))

    def test_nodes_that_reply_are_shown_as_they_are(self) -> None:
        self.member.queries.note([b"n3:c", b""])
        self.answered(report("n2:b", 7), silent=("n4:d",))
        names = [(n.node, n.clients, n.silent, n.gone) for n in self.nodes().nodes[1:]]
        self.assertEqual(
            names,
            [
                ("n2:b", 7, False, False),
                ("n4:d", None, True, False),
                ("n3:c", None, False, True),
            ],
        )

    def test_nodes_for_a_caller_that_has_left_are_not_sent(self) -> None:
        asked: list[Callable[[Answers], None]] = []
        self.patch(self.member.queries, "ask_nodes", asked.append)
        caller = Caller(self.admin)
        caller.ask("/cluster")
        caller.lose()
        asked.pop()(Answers([], []))
        self.assertEqual(caller.wire.value(), b"")

    def test_defect_after_the_replies_is_hidden_from_the_caller(self) -> None:
        self.answered()
        self.patch(nodes, "nodes", lambda *_: 1 / 0)
        answer = self.ask("/cluster")
        self.assertEqual(answer.status, 500)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_nodes_of_a_relay_that_is_alone_are_not_found(self) -> None:
        self.stop()
        self.serve()
        for path in ("/cluster", "/cluster/clients"):
            answer = self.ask(path)
            self.assertEqual(answer.status, 404)
            self.assertEqual(answer.json["error"], "this relay is in no cluster")
        status = self.ask("/status").json
        self.assertEqual((status["cluster"], status["degraded"]), (None, []))

    def test_nodes_need_the_token(self) -> None:
        self.stop()
        self.serve(token="0123456789abcdef")
        for path in ("/cluster", "/cluster/clients"):
            self.assertEqual(self.ask(path).status, 401)


class ClusterClientsTests(NodesTestCase, TestCase):
    """Clients of all nodes, which come in pieces."""

    async def listed(self) -> FarClients:
        """Ask for them over the reactor of the tests, whose turns the pieces take."""
        caller = Caller(self.admin)
        caller.ask("/cluster/clients")
        self.reactor.advance(0)
        while not caller.wire.value().endswith(b"0\r\n\r\n"):
            await deferLater(reactor, 0)
        answer = Answer(caller.wire.value())
        caller.lose()
        return msgspec.json.decode(answer.whole, type=FarClients)

    async def test_clients_of_all_nodes_are_listed_in_batches(self) -> None:
        one = codec.Row(A, 60, None, 1, 2, 3, [], "a", candidates=3)
        rows = [one, codec.Row(B, 1, 0, 0, 0, 0, [])]
        self.patch(nodes, "ROWS_PER_BATCH", 1)
        self.answered(report("n2:b", 3, rows=rows), silent=("n3:c",))
        listed = await self.listed()
        self.assertEqual((listed.total, listed.silent), (3, ["n3:c"]))
        self.assertEqual((listed.cut, listed.degraded), (["n2:b"], [AWAY]))
        first, second = listed.clients
        kinds = [each.candidates for each in listed.clients]
        self.assertEqual(kinds, [["host"], None])
        self.assertEqual((first.uuid, first.node, first.name), (A, "n2:b", "a"))
        self.assertEqual((first.since, first.last_offer), (START - 60, None))
        self.assertEqual((second.uuid, second.last_offer), (B, START))

    async def test_clients_of_this_node_are_listed_with_their_names(self) -> None:
        self.registered(A, "it")
        (found,) = (await self.listed()).clients
        self.assertEqual((found.name, found.user), ("it", "anonymous"))
        self.assertEqual(found.address, "192.0.2.1:4711")


class ClusterDisconnectTests(NodesTestCase):
    """A client of any node is closed."""

    def disconnect(self) -> Any:
        return self.post(f"/clients/{B}/disconnect")

    def texts(self) -> list[tuple[str, str]]:
        found = self.ask("/events").json["events"]
        return [(event["kind"], event["text"]) for event in found]

    def test_disconnect_of_a_client_here_asks_nobody(self) -> None:
        self.answered(silent=("n2:b",))
        client = self.registered(B)
        self.assertEqual(self.disconnect().status, 200)
        self.assertEqual(client.localCloseCode, Disconnected.code)

    def test_disconnect_of_a_client_elsewhere_names_its_node(self) -> None:
        self.answered(report("n2:b", is_done=True), silent=("n3:c",))
        answer = self.disconnect()
        self.assertEqual(answer.status, 200)
        self.assertIn(f"{B} at node 'n2:b' is closed", answer.json["detail"])
        (asked, _), done = self.texts()
        self.assertEqual(
            (asked, done), ("operator", ("disconnected", f"{B} at node 'n2:b'"))
        )

    def test_disconnect_of_a_client_of_no_node_is_not_found(self) -> None:
        self.answered(report("n2:b"))
        answer = self.disconnect()
        self.assertEqual(answer.status, 404)
        self.assertEqual(answer.json["error"], f"{B} is not registered")

    def test_disconnect_with_a_silent_node_is_in_doubt(self) -> None:
        self.answered(silent=("n2:b", "n3:c"))
        answer = self.disconnect()
        self.assertEqual(answer.status, 504)
        self.assertTrue(answer.json["error"].endswith("silent: n2:b, n3:c"))

    def test_disconnect_without_the_engine_is_in_doubt(self) -> None:
        self.member.queries.note([b"n2:b", LEASE])
        self.assertEqual(self.disconnect().status, 504)
