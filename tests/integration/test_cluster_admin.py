"""The private listeners of two relays in a cluster, as an operator meets them."""

from __future__ import annotations

import json
import signal
from typing import Any

from tests.integration.test_twistd import TwistdTestCase, fetched
from tests.support.engine import Engine
from tests.support.processes import RelayProcess
from tests.support.recording import A, B, answer, offer

KEY = "0123456789abcdef" * 4

LEASE_SECONDS = 6


class Member(RelayProcess):
    """A relay of the cluster.

    Attributes:
        admin: Address of its private listener.
        node: Its name there, with the incarnation.
    """

    admin: str
    node: str


class ClusterAdminTests(TwistdTestCase):
    """Two relays, an engine, and the ``proxyrelay`` command."""

    def setUp(self) -> None:
        super().setUp()
        self.engine = Engine()
        self.addCleanup(self.engine.stop)

    def member(self, node: str, more: str = "") -> Member:
        """Start a relay, and wait until it reaches the engine."""
        config = self.folder / f"{node}.toml"
        config.write_text(
            f"host = '127.0.0.1'\nport = 0\n[admin]\nlisten = '127.0.0.1:0'\n"
            f"[cluster]\nengine = 'unix:{self.engine.socket}'\nnode = '{node}'\n"
            f"lease = {LEASE_SECONDS}\n{more}"
        )
        relay = Member(["--config", config], self.folder)
        self.addCleanup(relay.end)
        relay.admin = relay.wait_for(r"private listener is http://(\S+)")[1]
        relay.wait_for("the link to the engine is ready")
        relay.node = self.json(relay, "/status")["cluster"]["node"]
        return relay

    def json(self, relay: Member, path: str) -> Any:
        status, body = fetched(relay.admin, path)
        self.assertEqual(status, 200, body)
        return json.loads(body)

    def key(self) -> str:
        """A setting for sealed messages."""
        file = self.folder / "key"
        file.write_text(KEY)
        file.chmod(0o600)
        return f"key_file = '{file}'\n"

    def test_commands_in_a_cluster_reach_all_nodes(self) -> None:
        more = self.key()
        one, two = self.member("n1", more), self.member("n2", more)
        source, target = self.registered(one.url), self.registered(two.url, uuid=B)
        source.send(offer().decode())
        self.assertEqual(target.recv(), offer().decode())
        target.send(answer().decode())
        self.assertEqual(source.recv(), answer().decode())

        where = ("--admin", one.admin)
        status, lines = self.command("status", "--all", *where)
        self.assertEqual((status, lines[0]), (0, "nodes: 2, clients: 2, silent: none"))
        self.assertTrue(lines[1].startswith(f"{one.node}: ready, clients 1"), lines)
        self.assertTrue(lines[2].startswith(f"{two.node}: ready, clients 1"), lines)
        status, lines = self.command("clients", "--all", *where)
        self.assertEqual((status, lines[0], len(lines)), (0, "clients: 2", 3))
        self.assertRegex(lines[1], rf"^{A} name='a' .* from 127\.\S+ at {one.node} ")
        self.assertRegex(lines[2], rf"^{B} name='a' .* from 127\.\S+ at {two.node} ")

        _, text = fetched(one.admin, "/metrics")
        for line in (
            "cluster_ready 1.0",
            "cluster_connects_total 1.0",
            'cluster_forwards_total{result="sent"} 1.0',
            "cluster_ignored_total 0.0",
        ):
            self.assertIn(f"\nproxyrelay_{line}\n", text)
        self.assertRegex(text, r"\nproxyrelay_cluster_engine_seconds_count [1-9]")

        status, lines = self.command("disconnect", B, *where)
        self.assertEqual(status, 0)
        self.assertIn(f"{B} at node '{two.node}' is closed with 4004", lines[0])
        self.assert_closed(target, 4004)
        two.wait_for(f"disconnect of {B} is asked for from node {one.node}")
        one.wait_for(rf"disconnect of {B} is asked for from 127\.0\.0\.1")
        status, lines = self.command("disconnect", B, *where)
        self.assertEqual(status, 1)
        self.assertTrue(lines[0].endswith(f"HTTP 404: {B} is not registered"), lines)

    def test_commands_with_a_stopped_node_name_it(self) -> None:
        one, two = self.member("n1"), self.member("n2")
        self.registered(one.url)
        self.registered(two.url, uuid=B)
        where = ("--admin", one.admin)
        status, lines = self.command("clients", "--all", *where)
        self.assertEqual((status, len(lines)), (0, 3))
        self.assertIn(f"{A} name='a' ", lines[1])
        self.assertTrue(lines[2].startswith(f"{B} at {two.node} for "), lines)

        two.send(signal.SIGSTOP)
        self.addCleanup(two.send, signal.SIGCONT)
        status, lines = self.command("status", "--all", *where)
        first = f"nodes: 2, clients: 1, silent: {two.node}"
        self.assertEqual((status, lines[0], len(lines)), (0, first, 3))
        self.assertEqual(lines[2], f"{two.node}: silent")
        status, lines = self.command("disconnect", B, *where)
        self.assertEqual(status, 1)
        self.assertTrue(lines[0].endswith(f"silent: {two.node}"), lines)

    def test_relay_without_its_engine_is_ready_and_degraded(self) -> None:
        one = self.member("n1")
        self.engine.kill()
        one.wait_for("the link to the engine is down")
        status, body = fetched(one.admin, "/readyz")
        self.assertEqual(
            (status, body),
            (200, "ok\ndegraded: cluster: the engine cannot be reached\n"),
        )
        status, lines = self.command("status", "--all", "--admin", one.admin)
        self.assertEqual((status, lines[0]), (0, "nodes: 1, clients: 0, silent: none"))
        self.assertIn("degraded: cluster: the engine cannot be reached", lines)
