"""What real offers tell: candidates, and pairs that do not connect."""

from __future__ import annotations

import asyncio
import itertools
import json
import re

from aioice import ice
from proxystore.p2p.exceptions import PeerConnectionTimeoutError
from proxystore.p2p.manager import PeerManager
from proxystore.p2p.relay.client import RelayClient

from proxyrelay.switchboard.candidates import Cause, kinds_of, words
from proxyrelay.switchboard.pairs import EXCHANGES
from tests.integration.test_admin import AdminTestCase
from tests.integration.test_real_clients import RealTestCase
from tests.net.test_listening import NO_IPV6
from tests.support.cluster import ClusterTestCase
from tests.support.ice import MAPPED, OWN, RELAYED, descriptions
from tests.support.processes import PATIENCE
from tests.support.recording import A, B, answer, offer
from tests.support.served import Client

LAN = ["host", "private_ipv4"]

BY_STUN = ["host", "srflx", "private_ipv4", "public_ipv4"]

BY_TURN = ["host", "srflx", "relay", "private_ipv4", "public_ipv4"]


class ReachTestCase(AdminTestCase, RealTestCase):
    """Clients whose machine has one address."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(ice, "get_host_addresses", lambda **_: [OWN])

    def described(self, *schemes: str) -> tuple[str, str]:
        """A real offer and its answer."""
        return asyncio.run(asyncio.wait_for(descriptions(*schemes), PATIENCE))

    def exchange(self, one: Client, other: Client, offered: str, answered: str) -> None:
        one.send(offer(A, B, offered).decode())
        self.assertIn("description", other.recv())
        other.send(answer(B, A, sdp=answered).decode())
        self.assertIn("description", one.recv())

    def assert_hidden(self, *texts: str) -> None:
        """No text has an address of a description, or what else stands there."""
        for text in texts:
            for secret in (OWN, MAPPED, RELAYED, "ufrag", "candidate:"):
                self.assertNotIn(secret, text)


class DescriptionTests(ReachTestCase):
    def test_candidates_of_real_descriptions_are_found(self) -> None:
        for schemes, expected in (
            ((), LAN),
            (("stun",), BY_STUN),
            (("stun", "turn"), BY_TURN),
        ):
            for sdp in self.described(*schemes):
                self.assertEqual(words(kinds_of(sdp)), expected, sdp)


class ShownTests(ReachTestCase):
    def test_candidates_and_pairs_are_shown_without_addresses(self) -> None:
        audit = self.folder / "audit.log"
        relay = self.serve(
            f"[logging]\naudit_log = '{audit}'\ndefault_level = 'DEBUG'\n"
            "format = 'json'\n",
            token=False,
        )
        lan, _ = self.described()
        _, stun = self.described("stun")
        one, other = self.registered(relay.url), self.registered(relay.url, uuid=B)
        for _ in range(EXCHANGES):
            self.exchange(one, other, lan, stun)
        relay.wait_for('"event":"unconnected"')

        _, found = self.ask("/clients")
        shown = {each["uuid"]: each["candidates"] for each in found["clients"]}
        self.assertEqual(shown, {A: LAN, B: BY_STUN})
        _, pairs = self.ask("/pairs")
        (pair,) = pairs["pairs"]
        self.assertEqual((pairs["total"], pair["exchanges"]), (1, EXCHANGES))
        self.assertEqual((pair["source"]["uuid"], pair["target"]["uuid"]), (A, B))
        self.assertEqual(pair["source"]["candidates"], LAN)
        self.assertEqual((pair["cause"], pair["text"]), ("stun", Cause.STUN.value))
        _, status = self.ask("/status")
        self.assertEqual(status["reach"]["private_only"], 1)
        self.assertEqual(status["reach"]["unconnected_pairs"], 1)
        _, metrics = self.ask("/metrics")
        for line in (
            'candidate_clients{kind="host"} 2.0',
            'candidate_clients{kind="srflx"} 1.0',
            'candidate_clients{kind="relay"} 0.0',
            "private_only_clients 1.0",
            'unconnected_pairs{cause="stun"} 1.0',
            'unconnected_pairs{cause="nat"} 0.0',
        ):
            self.assertIn(f"\nproxyrelay_{line}\n", metrics)
        _, events = self.ask("/events")
        self.assertIn("unconnected", [each["kind"] for each in events["events"]])

        where = ["--admin", self.address]
        said = [
            self.command(*command, *where)[1]
            for command in (
                *(("clients",), ("clients", "--pairs"), ("status",)),
                ("clients", "--pairs", "--json"),
            )
        ]
        self.assertIn("candidates: host, private_ipv4)", said[0][1])
        self.assertEqual(said[1][0], "pairs that do not connect: 1")
        self.assertIn(f"{B} name='a' (host, srflx, ", said[1][1])
        self.assertIn(Cause.STUN.value, said[1][1])
        self.assertEqual(json.loads("".join(said[3]))["total"], 1)
        status_code, lines = self.command("clients", "--pairs", "--all", *where)
        self.assertEqual(status_code, 1, lines)

        self.assertEqual(relay.stop(), 0)
        self.assertEqual(relay.said.count('"event":"private_only"'), 1)
        self.assertEqual(relay.said.count('"event":"unconnected"'), 1)
        answers = (found, pairs, status, events, metrics, *said)
        self.assert_hidden(relay.said, audit.read_text(), *map(json.dumps, answers))


class StockClientTests(ReachTestCase):
    def test_stock_clients_without_a_way_to_each_other_are_told(self) -> None:
        if NO_IPV6 is not None:
            self.skipTest(NO_IPV6)
        # The one that makes the offer has IPv4 only, and the other one IPv6 only.
        addresses = itertools.cycle([[OWN], ["::1"]])
        self.patch(ice, "get_host_addresses", lambda **_: next(addresses))
        relay = self.relay()

        async def scenario() -> None:
            async with (
                PeerManager(RelayClient(relay.url), ice_servers=[], timeout=1) as one,
                PeerManager(RelayClient(relay.url), ice_servers=[], timeout=1) as other,
            ):
                for _ in range(EXCHANGES):
                    # The client itself waits, too. Its wait may end first.
                    with self.assertRaises(
                        (PeerConnectionTimeoutError, asyncio.CancelledError)
                    ):
                        await one.send(other.uuid, "hello", timeout=1)
                    while one._peers or other._peers:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                told = rf"{one.uuid} and {other.uuid} of user=.* by IPv6 only"
                await asyncio.to_thread(relay.wait_for, told)

        self.play(scenario())
        self.assertEqual((relay.stop(), relay.errors), (0, []))

    def test_stock_clients_that_connect_are_not_told(self) -> None:
        relay = self.relay()

        async def scenario() -> None:
            async with (
                PeerManager(RelayClient(relay.url), ice_servers=[]) as one,
                PeerManager(RelayClient(relay.url), ice_servers=[]) as other,
            ):
                for _ in range(2 * EXCHANGES):
                    await one.send(other.uuid, "hello")
                    self.assertEqual(await other.recv(), (one.uuid, "hello"))
                    await other.send(one.uuid, "hello")
                    self.assertEqual(await one.recv(), (other.uuid, "hello"))

        self.play(scenario())
        self.assertEqual((relay.stop(), relay.errors), (0, []))
        self.assertIn("carry private addresses only", relay.said)
        self.assertNotIn("do not connect", relay.said)


class ClusterReachTests(ClusterTestCase, ReachTestCase):
    def test_pair_of_two_relays_is_known_where_the_offers_come_from(self) -> None:
        nodes = [
            self.node(name, "[admin]\nlisten = '127.0.0.1:0'\n")
            for name in ("n1", "n2")
        ]
        ports = [
            int(node.wait_for(r"the private listener is http://127.0.0.1:(\d+)")[1])
            for node in nodes
        ]
        lan, stun = self.described()[0], self.described("stun")[1]
        one = self.registered(nodes[0].url)
        other = self.registered(nodes[1].url, uuid=B)
        for _ in range(EXCHANGES):
            self.exchange(one, other, lan, stun)
        nodes[0].wait_for(f"{A} and {B} of user=.* do not connect: .*STUN blocked")
        found = []
        for self.admin in ports:
            _, answered = self.ask("/pairs")
            found.append(answered["pairs"])
        (pair,), nothing = found
        self.assertEqual(nothing, [])
        self.assertEqual(pair["source"]["candidates"], LAN)
        self.assertEqual(
            pair["target"], {"uuid": B, "name": None, "candidates": BY_STUN}
        )
        _, listed = self.ask("/cluster/clients")
        shown = {each["uuid"]: each["candidates"] for each in listed["clients"]}
        self.assertEqual(shown, {A: LAN, B: BY_STUN})
        texts = [json.dumps([found, listed]), *(node.said for node in nodes)]
        self.assert_hidden(*texts)

        # A registration of the other side explains a further offer.
        other.close()
        nodes[1].wait_for(f"left {B} ")
        other = self.registered(nodes[1].url, uuid=B)
        self.exchange(one, other, lan, stun)
        self.admin = ports[0]
        self.assertEqual(self.ask("/pairs")[1]["pairs"], [])
        for node in nodes:
            self.assertEqual((node.stop(), node.errors), (0, []))
        lines = re.findall("do not connect", nodes[0].said + nodes[1].said)
        self.assertEqual(len(lines), 1)
