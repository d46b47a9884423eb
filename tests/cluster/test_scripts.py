"""The scripts of the engine, on a real Redis."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import redis
from twisted.trial.unittest import SynchronousTestCase

from tests.cluster.racer import PREFIX
from tests.support.engine import Engine

RECENT_MS = 60_000
UUID = "7c9e6679-7425-40de-944b-e07fc1f90ae7"

SCRIPTS = tuple(
    file.name.removesuffix(".lua")
    for file in (files("proxyrelay.cluster") / "lua").iterdir()
)

SCHEDULES = 1000
STEPS = 25

RACERS = 4
CALLS = 1500

END = "end"

RACER = Path(__file__).with_name("racer.py")

Reply = Any


class Scripts:
    """The scripts, with short argument lists."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self._scripts = {
            name: client.register_script(
                (files("proxyrelay.cluster") / "lua" / f"{name}.lua").read_text()
            )
            for name in SCRIPTS
        }

    def run(self, script: str, *arguments: str | int) -> Reply:
        reply = self._scripts[script](args=[PREFIX, *arguments])
        return _text(reply)

    def lease(self, node: str, epoch: str = "epoch") -> Reply:
        return self.run("lease", node, 60_000, "info", epoch)

    def register(
        self,
        *who: str | int,
        stamp: int = 1,
        mode: str = "new",
        limit: int = 0,
    ) -> Reply:
        """Register UUID, node, connection and user."""
        return self.run("register", *who, stamp, mode, limit, RECENT_MS)

    def unregister(self, uuid: str, node: str, connection: int) -> Reply:
        return self.run("unregister", uuid, node, connection, RECENT_MS)

    def forward(self, uuid: str, user: str, hold_ms: int = 5000) -> Reply:
        return self.run("forward", uuid, user, "n1", hold_ms, "text")

    def reap(self, node: str) -> Reply:
        cursor = "0"
        while True:
            cursor = self.run("reap", node, cursor, RECENT_MS)
            if cursor in {"0", "-1"}:
                return cursor

    def crash(self, node: str) -> None:
        """End the lease of a node."""
        self.client.delete(f"{PREFIX}:n:{node}")


def _text(reply: Reply) -> Reply:
    if isinstance(reply, list):
        return [_text(part) for part in reply]
    return reply.decode() if isinstance(reply, bytes) else reply


class ScriptTestCase(SynchronousTestCase):
    """An empty engine with two nodes."""

    def setUp(self) -> None:
        self.engine = Engine()
        self.addCleanup(self.engine.stop)
        self.scripts = Scripts(self.engine.client)
        for node in ("n1", "n2"):
            self.scripts.lease(node)

    def inbox(self, node: str) -> redis.client.PubSub:
        """Subscribe to what reaches a node."""
        inbox: redis.client.PubSub = self.engine.client.pubsub()
        self.addCleanup(inbox.close)
        inbox.subscribe(f"{PREFIX}:in:{node}")
        return inbox

    def received(self, inbox: redis.client.PubSub) -> list[str]:
        """What has reached a node."""
        for channel in inbox.channels:
            self.engine.client.publish(channel, END)
        texts = (
            message["data"].decode()
            for message in inbox.listen()
            if message["type"] == "message"
        )
        return list(iter(lambda: next(texts), END))


class LeaseTests(ScriptTestCase):
    """The lease script."""

    def test_lease_renewed_says_that_it_was_there(self) -> None:
        self.assertEqual(self.scripts.lease("n1")[0], 1)
        self.scripts.crash("n1")
        self.assertEqual(self.scripts.lease("n1")[0], 0)

    def test_epoch_stays_until_the_data_are_lost(self) -> None:
        self.assertEqual(self.scripts.lease("n1", "another")[3], "epoch")
        self.engine.client.flushall()
        self.assertEqual(self.scripts.lease("n1", "another")[3], "another")


class RegisterTests(ScriptTestCase):
    """The registration script."""

    def test_register_without_a_lease_changes_nothing(self) -> None:
        self.scripts.crash("n1")
        self.assertEqual(self.scripts.register(UUID, "n1", 1, "u"), ["LEASE"])
        self.assertFalse(self.engine.client.exists(f"{PREFIX}:u:{UUID}"))

    def test_newer_connection_elsewhere_kicks_the_older_one(self) -> None:
        inbox = self.inbox("n1")
        self.scripts.register(UUID, "n1", 1, "u", stamp=1)
        self.assertEqual(
            self.scripts.register(UUID, "n2", 9, "u", stamp=2), ["OK", 1, 1]
        )
        self.assertEqual(self.received(inbox), [f"kick {UUID} 1 4004\n"])

    def test_older_connection_elsewhere_is_stale(self) -> None:
        self.scripts.register(UUID, "n1", 1, "u", stamp=2)
        self.assertEqual(
            self.scripts.register(UUID, "n2", 1, "u", stamp=1), ["STALE", "n1", "1"]
        )

    def test_takeovers_in_a_row_are_counted(self) -> None:
        for rounds in range(4):
            node = f"n{1 + rounds % 2}"
            reply = self.scripts.register(UUID, node, rounds, "u", stamp=rounds)
            self.assertEqual(reply[:2], ["OK", rounds])

    def test_other_user_is_foreign_unless_it_was_there_before(self) -> None:
        inbox = self.inbox("n1")
        self.scripts.register(UUID, "n1", 1, "u", stamp=5_000_000)
        for mode, stamp in (("new", 0), ("new", 9_000_000), ("again", 4_000_001)):
            reply = self.scripts.register(UUID, "n2", 2, "v", stamp=stamp, mode=mode)
            self.assertEqual(reply, ["FOREIGN", "n1", "1"])
        reply = self.scripts.register(UUID, "n2", 2, "v", stamp=3_999_999, mode="again")
        self.assertEqual(reply[0], "OK")
        self.assertEqual(self.received(inbox), [f"kick {UUID} 1 4002\n"])

    def test_record_of_a_dead_node_yields(self) -> None:
        self.scripts.register(UUID, "n1", 1, "u", stamp=2)
        self.scripts.crash("n1")
        self.assertEqual(
            self.scripts.register(UUID, "n2", 1, "v", stamp=1), ["OK", 0, 1]
        )

    def test_limit_of_a_user_counts_all_nodes(self) -> None:
        self.scripts.register("a", "n1", 1, "u")
        self.scripts.register("b", "n2", 1, "u")
        self.assertEqual(self.scripts.register("c", "n1", 2, "u", limit=2), ["FULL"])
        again = self.scripts.register("b", "n2", 1, "u", mode="again", limit=2)
        self.assertEqual(again, ["OK", 0, 0])
        self.scripts.unregister("a", "n1", 1)
        self.assertEqual(self.scripts.register("c", "n1", 2, "u", limit=2)[0], "OK")

    def test_waiting_nodes_hear_of_an_arrival_once(self) -> None:
        self.scripts.register(UUID, "n2", 1, "u")
        self.scripts.unregister(UUID, "n2", 1)
        self.assertEqual(self.scripts.forward(UUID, "u"), ["HOLD"])
        inbox = self.inbox("n1")
        for connection in (2, 3):
            self.scripts.register(UUID, "n2", connection, "u")
        self.assertEqual(self.received(inbox), [f"arrived {UUID}\n"])


class ForwardTests(ScriptTestCase):
    """The script that forwards."""

    def test_message_reaches_the_inbox_of_the_holder(self) -> None:
        self.scripts.register(UUID, "n2", 7, "u")
        inbox = self.inbox("n2")
        self.assertEqual(self.scripts.forward(UUID, "u"), ["SENT", "n2", "7"])
        (text,) = self.received(inbox)
        head, _, body = text.partition("\n")
        self.assertEqual((head.split()[:3], body), (["message", UUID, "7"], "text"))

    def test_message_of_another_user_is_foreign(self) -> None:
        self.scripts.register(UUID, "n2", 7, "u")
        self.assertEqual(self.scripts.forward(UUID, "v"), ["FOREIGN"])

    def test_message_to_an_unknown_uuid_is_for_none(self) -> None:
        self.assertEqual(self.scripts.forward(UUID, "u"), ["NONE"])

    def test_offer_to_an_absent_client_waits_for_its_own_user_only(self) -> None:
        self.scripts.register(UUID, "n2", 7, "u")
        # Nobody listens to the inbox of this node: its process is gone.
        for absent in (None, lambda: self.scripts.crash("n2")):
            if absent is not None:
                absent()
            self.assertEqual(self.scripts.forward(UUID, "u"), ["HOLD"])
            self.assertEqual(self.scripts.forward(UUID, "u", 0), ["NONE"])
        self.assertEqual(self.scripts.forward(UUID, "v"), ["NONE"])


class ReapTests(ScriptTestCase):
    """The script that removes the registrations of a dead node."""

    def test_dead_node_leaves_tombstones(self) -> None:
        uuids = [f"u{number}" for number in range(1200)]
        for uuid in uuids:
            self.scripts.register(uuid, "n1", 1, "u")
        self.scripts.register("moved", "n1", 2, "u", stamp=1)
        self.scripts.register("moved", "n2", 1, "u", stamp=2)
        self.assertEqual(self.scripts.reap("n1"), "-1")
        self.scripts.crash("n1")
        self.assertEqual(self.scripts.reap("n1"), "0")
        client = self.engine.client
        self.assertEqual(
            {client.hget(f"{PREFIX}:u:{uuid}", "n") for uuid in uuids}, {b""}
        )
        self.assertEqual(client.hget(f"{PREFIX}:u:moved", "n"), b"n2")
        self.assertEqual(client.smembers(f"{PREFIX}:nodes"), {b"n2"})
        self.assertEqual(client.zrange(f"{PREFIX}:c:u", 0, -1), [b"moved"])


class Model:
    """The same rules, written down once more."""

    def __init__(self) -> None:
        self.leases: set[str] = set()
        self.records: dict[str, dict[str, Any]] = {}

    def register(
        self, uuid: str, node: str, connection: int, user: str, stamp: int, mode: str
    ) -> list[str]:
        if node not in self.leases:
            return ["LEASE"]
        record = self.records.get(uuid)
        if record is not None and record["node"] in self.leases - {node}:
            older = stamp + 1_000_000 < record["stamp"]
            if record["user"] != user:
                if not (mode == "again" and older):
                    return ["FOREIGN", record["node"], str(record["connection"])]
            elif (record["stamp"], f"{record['node']}:{record['connection']}") > (
                stamp,
                f"{node}:{connection}",
            ):
                return ["STALE", record["node"], str(record["connection"])]
        self.records[uuid] = {
            "node": node,
            "connection": connection,
            "user": user,
            "stamp": stamp,
        }
        return ["OK"]

    def unregister(self, uuid: str, node: str, connection: int) -> int:
        record = self.records.get(uuid)
        if record is None or (record["node"], record["connection"]) != (
            node,
            connection,
        ):
            return 0
        record["node"] = ""
        return 1

    def forward(self, uuid: str, user: str) -> list[str]:
        record = self.records.get(uuid)
        if record is None:
            return ["NONE"]
        if record["node"] in self.leases and record["user"] != user:
            return ["FOREIGN"]
        # Nobody listens in this test.
        return ["HOLD"] if record["user"] == user else ["NONE"]

    def reap(self, node: str) -> str:
        if node in self.leases:
            return "-1"
        for record in self.records.values():
            if record["node"] == node:
                record["node"] = ""
        return "0"


class ScheduleTests(ScriptTestCase):
    """Random schedules of three nodes and two users, beside the model."""

    def test_scripts_agree_with_the_model(self) -> None:
        for seed in range(SCHEDULES):
            self.engine.client.flushall()
            self.run_schedule(random.Random(seed), f"seed {seed}")

    def run_schedule(self, chance: random.Random, name: str) -> None:
        """Send a schedule at once, and compare the replies."""
        model, expected = Model(), []
        pipeline = self.engine.client.pipeline(transaction=False)
        scripts = Scripts(pipeline)
        for _ in range(STEPS):
            node = chance.choice(["n1", "n2", "n3"])
            uuid = chance.choice(["a", "b"])
            connection = chance.randrange(3)
            user = chance.choice(["u", "u", "u", "v"])
            step = chance.choice(["lease", "crash", *["register"] * 5, "unregister"])
            step = chance.choice([step, step, "forward", "reap"])
            here: Reply = None
            if step == "lease":
                model.leases.add(node)
                scripts.lease(node)
            elif step == "crash":
                model.leases.discard(node)
                scripts.crash(node)
            elif step == "register":
                stamp = chance.choice([0, 500_000, 1_000_001, 3_000_000])
                mode = chance.choice(["new", "again"])
                scripts.register(uuid, node, connection, user, stamp=stamp, mode=mode)
                here = model.register(uuid, node, connection, user, stamp, mode)
            elif step == "unregister":
                scripts.unregister(uuid, node, connection)
                here = model.unregister(uuid, node, connection)
            elif step == "forward":
                scripts.forward(uuid, user)
                here = model.forward(uuid, user)
            else:
                scripts.run("reap", node, "0", RECENT_MS)
                here = model.reap(node)
            expected.append(here)
        for here, there in zip(expected, map(_text, pipeline.execute()), strict=True):
            if here is not None:
                # A registration tells more than the model does.
                length = len(here) if isinstance(here, list) else None
                self.assertEqual(there[:length] if length else there, here, name)


class RaceTests(ScriptTestCase):
    """Four processes that register and leave as fast as they can."""

    def test_each_acceptance_ends_once(self) -> None:
        inboxes = {name: self.inbox(name) for name in map("r{}".format, range(RACERS))}
        racers = [
            subprocess.Popen(
                [
                    *(sys.executable, str(RACER), str(self.engine.socket)),
                    *(str(number), str(CALLS)),
                ],
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(RACERS)
        ]
        results = [json.loads(racer.communicate(timeout=60)[0]) for racer in racers]
        kicks = [
            (name, kick)
            for name, inbox in inboxes.items()
            for kick in self.received(inbox)
        ]
        owners = sum(
            self.engine.client.hget(f"{PREFIX}:u:{uuid}", "n") != b""
            for uuid in "abcde"
        )
        total = {key: sum(result[key] for result in results) for key in results[0]}
        self.assertEqual(len(kicks), len(set(kicks)))
        self.assertGreater(len(kicks), CALLS // 4)
        self.assertEqual(total["accepted"], len(kicks) + total["left"] + owners)
