"""Questions of operators to all nodes, on an engine in memory."""

from __future__ import annotations

from typing import Any

from proxyrelay import __version__
from proxyrelay.cluster import codec, queries
from proxyrelay.cluster.queries import REPLY_SECONDS, Answers
from proxyrelay.errors import Disconnected
from proxyrelay.switchboard.events import Operator
from proxyrelay.switchboard.user import User
from tests.cluster.test_node import NodeTestCase
from tests.support.recording import A, B, registration

USER = User("jo")

KEY = bytes(32)


class QueryTestCase(NodeTestCase):
    """Two nodes, the first of which asks."""

    def setUp(self) -> None:
        super().setUp()
        self.here, self.there = self.nodes
        self.found: list[Answers] = []

    def answers(self) -> Answers:
        """The answers to the only question."""
        self.assertEqual(len(self.found), 1)
        return self.found.pop()

    def ask_clients(self) -> Answers:
        self.here.queries.ask_clients(self.found.append)
        self.settle()
        return self.answers()


class NodeQueryTests(QueryTestCase):
    """Who is there, and how they are."""

    def test_question_to_all_nodes_is_answered_by_all(self) -> None:
        self.engine.now += 7
        self.client(A, 1)
        self.here.queries.ask_nodes(self.found.append)
        self.assertEqual(self.found, [])
        self.settle()
        found = self.answers()
        self.assertEqual([r.node for r in found.reports], ["n1:x", "n2:x"])
        self.assertEqual([r.clients for r in found.reports], [0, 1])
        other = found.reports[1]
        self.assertEqual((other.version, other.uptime), (__version__, 7))
        self.assertEqual((other.is_ready, other.is_draining), (True, False))
        self.assertEqual((found.silent, other.rows), ([], []))

    def test_question_to_a_node_that_stands_still_names_it(self) -> None:
        self.there.bus.receive = lambda _: None
        self.here.queries.ask_nodes(self.found.append)
        self.advance(REPLY_SECONDS - 0.5)
        self.assertEqual(self.found, [])
        self.advance(0.5)
        found = self.answers()
        self.assertEqual([r.node for r in found.reports], ["n1:x"])
        self.assertEqual(found.silent, ["n2:x"])

    def test_question_to_a_node_without_inbox_is_over_at_once(self) -> None:
        self.there.bus.ready = False
        self.here.queries.ask_nodes(self.found.append)
        self.settle()
        self.assertEqual(self.answers().silent, ["n2:x"])

    def test_question_without_the_engine_names_the_nodes_seen_last(self) -> None:
        self.here.queries.note(self.engine.nodes())
        self.here.bus.ready = False
        self.here.queries.ask_nodes(self.found.append)
        self.settle()
        found = self.answers()
        self.assertEqual([r.node for r in found.reports], ["n1:x"])
        self.assertEqual(found.silent, ["n2:x"])

    def test_question_to_a_slow_engine_ends_in_time(self) -> None:
        self.here.queries.ask_nodes(self.found.append)
        self.engine.now += REPLY_SECONDS
        self.here.queries.tick()
        self.assertEqual(self.answers().silent, [])
        self.settle()
        self.assertEqual(self.found, [])

    def test_node_without_a_lease_is_not_asked(self) -> None:
        self.engine.leases.remove("n2:x")
        self.here.queries.ask_nodes(self.found.append)
        self.settle()
        found = self.answers()
        self.assertEqual((len(found.reports), found.silent), (1, []))
        self.assertEqual(self.here.queries.seen, {"n1:x": b"{}", "n2:x": b""})

    def test_equal_questions_at_once_are_asked_once(self) -> None:
        said: list[Any] = []
        self.here.queries._say = lambda *what: said.append(what)
        for _ in range(3):
            self.here.queries.ask_nodes(self.found.append)
        self.here.queries.ask_clients(self.found.append)
        self.settle()
        self.assertEqual(len(said), 2)
        self.advance(REPLY_SECONDS)
        self.assertEqual(len(self.found), 4)

    def test_report_that_is_late_or_unasked_changes_nothing(self) -> None:
        heard: list[bytes] = []
        self.there.bus.receive = heard.append
        self.here.queries.ask_nodes(self.found.append)
        self.advance(REPLY_SECONDS)
        self.assertEqual(self.answers().silent, ["n2:x"])
        for message in heard:
            self.there.node.received(message)
        self.settle()
        self.here.queries.ask_nodes(self.found.append)
        forged = codec.Report(1, "n3:x", 2, "", 0, 0, 0, True, False)
        self.here.queries.received(forged)
        self.settle()
        self.assertEqual(self.found, [])

    def test_question_of_an_unknown_kind_gets_no_report(self) -> None:
        self.here.queries._ask("weather", "", self.found.append)
        self.settle()
        self.assertEqual(self.found, [])
        self.advance(REPLY_SECONDS)
        self.assertEqual(self.answers().silent, ["n2:x"])


class ClientQueryTests(QueryTestCase):
    """Clients of all nodes, over an engine that others may read."""

    def connect(self, uuid: str, node: int, name: str = "its name") -> None:
        client = self.connecting(uuid, node, USER, address="192.0.2.1:1")
        client.node.relay.receive(client, registration(uuid, name))
        self.settle()

    def test_clients_of_all_nodes_are_listed(self) -> None:
        self.connect(A, 0)
        self.connect(B, 1)
        self.engine.now += 9
        own, other = self.ask_clients().reports
        self.assertEqual([row.uuid for row in own.rows + other.rows], [A, B])
        self.assertEqual((other.rows[0].age, other.rows[0].idle), (9, None))

    def test_names_without_a_key_stay_at_their_node(self) -> None:
        self.connect(A, 0)
        self.connect(B, 1)
        own, other = (report.rows[0] for report in self.ask_clients().reports)
        self.assertEqual((own.name, own.user), ("its name", "JO"))
        self.assertEqual((other.name, other.user, other.address), ("", "", ""))

    def test_report_of_many_clients_is_cut(self) -> None:
        self.patch(queries, "MAX_ROWS", 1)
        self.connect(A, 1)
        self.connect(B, 1)
        other = self.ask_clients().reports[1]
        self.assertEqual((other.clients, len(other.rows)), (2, 1))

    def test_clients_in_trouble_have_marks(self) -> None:
        self.connect(A, 1)
        peer = self.there.relay.registry.get(A)
        assert peer is not None
        assert peer.registration is not None
        peer.registration.deaf = True
        self.assertEqual(self.ask_clients().reports[1].rows[0].marks, ["deaf"])


class SealedQueryTests(ClientQueryTests):
    """The same, with a key."""

    keys = (KEY,)

    def test_names_without_a_key_stay_at_their_node(self) -> None:
        """With one they travel sealed."""
        self.connect(A, 1, "\x1b[2J")
        other = self.ask_clients().reports[1].rows[0]
        self.assertEqual((other.name, other.user), ("\x1b[2J", "JO"))
        self.assertEqual(other.address, "192.0.2.1:1")


class DisconnectTests(QueryTestCase):
    """A client of another node is closed."""

    def disconnect(self, uuid: str) -> list[str]:
        """Have it closed; return the nodes that have done it."""
        self.here.queries.disconnect(uuid, self.found.append)
        self.settle()
        return [report.node for report in self.answers().reports if report.is_done]

    def test_disconnect_closes_the_client_of_another_node(self) -> None:
        client = self.client(B, 1, USER)
        self.assertEqual(self.disconnect(B), ["n2:x"])
        refusal = Disconnected()
        self.assertEqual(client.closed, (refusal.code, refusal.reason))
        asked = [e for e in self.there.observed if isinstance(e, Operator)]
        self.assertEqual(asked, [Operator("disconnect", "node n1:x", B)])

    def test_disconnect_of_a_client_of_no_node_does_nothing(self) -> None:
        client = self.client(B, 1, USER)
        self.assertEqual(self.disconnect(A), [])
        self.assertIsNone(client.closed)
        self.assertFalse([e for e in self.there.observed if isinstance(e, Operator)])

    def test_disconnect_twice_in_the_inbox_is_done_once(self) -> None:
        receive = self.there.bus.receive
        heard: list[bytes] = []

        def hear(message: bytes) -> None:
            heard.append(message)
            receive(message)

        self.there.bus.receive = hear
        self.client(B, 1, USER)
        self.assertEqual(self.disconnect(B), ["n2:x"])
        again = self.client(B, 1, USER)
        for message in heard:
            receive(message)
        self.settle()
        self.assertIsNone(again.closed)

    def test_disconnect_that_lay_in_a_stopped_node_is_not_done(self) -> None:
        client = self.client(B, 1, USER)
        heard: list[bytes] = []
        self.there.bus.receive = heard.append
        self.here.queries.disconnect(B, self.found.append)
        self.settle()
        self.advance(REPLY_SECONDS)
        self.assertEqual(self.answers().silent, ["n2:x"])
        self.engine.now += 0.5
        for message in heard:
            self.there.node.received(message)
        self.settle()
        self.assertIsNone(client.closed)

    def test_disconnect_by_a_node_with_an_evil_name_is_escaped(self) -> None:
        self.client(B, 1, USER)
        now = self.there.bus.engine_time()
        query = codec.Query(1, "\x1b[2J", 1, now, queries.DISCONNECT, B)
        self.there.queries.received(query)
        asked = [e for e in self.there.observed if isinstance(e, Operator)]
        self.assertEqual(asked[0].address, "node \\x1b[2J")
