"""An engine in memory, whose replies and messages come when the test says so."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from proxyrelay.cluster.bus import NoReply, NotSent
from proxyrelay.cluster.claims import Claims
from proxyrelay.cluster.node import Node
from proxyrelay.cluster.queries import Facts, Queries
from proxyrelay.cluster.seal import Seal
from proxyrelay.config import Offers
from proxyrelay.errors import PeerGone
from proxyrelay.switchboard.events import Event
from proxyrelay.switchboard.relay import Relay
from tests.support.recording import RecordingPeer, RecordingWaiting, registration

CLIENT_WAIT_SECONDS = 30.0
"""Longest wait of a stock client for an answer."""

START_US = 1_700_000_000_000_000


@dataclass(eq=False)
class Message:
    """A message on its way to a node. It may be lost or repeated; a reply may not."""

    bus: FakeBus
    text: bytes

    def __call__(self) -> None:
        self.bus.receive(self.text)


@dataclass(eq=False)
class Reply:
    """A reply on its way to a node. If the connection is lost, its call has none."""

    done: Callable[[Any], None]
    reply: Any

    def __call__(self) -> None:
        self.done(self.reply)

    def lose(self) -> None:
        is_failure = isinstance(self.reply, Exception)
        self.done(self.reply if is_failure else NoReply())


@dataclass(eq=False)
class FakeBus:
    """One node's way to the engine: calls and what comes back, each in order."""

    engine: FakeEngine
    name: str
    ready: bool = True
    calls: deque[tuple[Callable[[Any], None], str, tuple[Any, ...]]] = field(
        default_factory=deque
    )
    events: deque[Callable[[], None]] = field(default_factory=deque)
    receive: Callable[[bytes], None] = lambda _: None

    def call(self, done: Callable[[Any], None], script: str, *arguments: Any) -> None:
        self.calls.append((done, script, arguments))

    def publish(self, done: Callable[[Any], None], node: str, message: bytes) -> None:
        self.calls.append((done, "publish", (node, message)))

    def engine_time(self, boottime: float | None = None) -> int:
        when = self.engine.now if boottime is None else boottime
        return START_US + round(when * 1e6)

    def step(self) -> bool:
        """Carry out the oldest call, or deliver the oldest event."""
        if self.events:
            self.events.popleft()()
        elif self.calls:
            done, script, arguments = self.calls.popleft()
            if self.ready:
                reply = getattr(self.engine, script)(*arguments)
                self.events.append(Reply(done, reply))
            else:
                self.events.append(Reply(done, NotSent()))
        else:
            return False
        return True

    def cut(self, carried_out: int) -> None:
        """Lose the connection; the engine has carried out some of the calls."""
        self.ready = False
        events, self.events = self.events, deque()
        calls, self.calls = self.calls, deque()
        for event in events:
            if isinstance(event, Reply):
                event.lose()
        for number, (done, script, arguments) in enumerate(calls):
            if number < carried_out:
                getattr(self.engine, script)(*arguments)
            done(NoReply())


class FakeEngine:
    """The scripts once more, in Python; `tests.cluster.test_scripts` compares them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.buses: dict[str, FakeBus] = {}
        self.leases: set[str] = set()
        self.records: dict[str, dict[str, Any]] = {}
        self.waiting: dict[str, set[str]] = {}

    def _tell(self, node: str, message: bytes) -> int:
        bus = self.buses.get(node)
        if bus is None or not bus.ready:
            return 0
        bus.events.append(Message(bus, message))
        return 1

    def publish(self, node: str, message: bytes) -> int:
        return self._tell(node, message)

    def nodes(self) -> list[bytes]:
        return [
            text
            for name in self.buses
            for text in (name.encode(), b"{}" if name in self.leases else b"")
        ]

    def register(
        self,
        uuid: str,
        node: str,
        connection: int,
        user: str,
        stamp: int,
        mode: str,
        _limit: int,
        _recent: int,
    ) -> list[Any]:
        if node not in self.leases:
            return [b"LEASE"]
        record = self.records.get(uuid)
        rounds = code = 0
        if record and record["node"] in self.leases - {node}:
            holder = [record["node"].encode(), str(record["connection"]).encode()]
            if record["user"] != user:
                if not (mode == "again" and stamp + 1_000_000 < record["stamp"]):
                    return [b"FOREIGN", *holder]
                code = 4002
            else:
                theirs = record["stamp"], f"{record['node']}:{record['connection']}"
                if theirs > (stamp, f"{node}:{connection}"):
                    return [b"STALE", *holder]
                code = 4004
            rounds = record["rounds"] + 1
            kick = f"kick {uuid} {record['connection']} {code}\n"
            self._tell(record["node"], kick.encode())
        again = record is not None and (record["node"], record["connection"]) != (
            node,
            connection,
        )
        self.records[uuid] = {
            "node": node,
            "connection": connection,
            "user": user,
            "stamp": stamp,
            "rounds": rounds,
        }
        for waiting in sorted(self.waiting.pop(uuid, ())):
            self._tell(waiting, f"arrived {uuid}\n".encode())
        return [b"OK", rounds, int(again)]

    def again(self, node: str, recent: int, *words: Any) -> list[list[Any]]:
        found = []
        for start in range(0, len(words), 4):
            uuid, connection, user, stamp = words[start : start + 4]
            found.append(
                self.register(uuid, node, connection, user, stamp, "again", 0, recent)
            )
        return found

    def unregister(self, uuid: str, node: str, connection: int, _recent: int) -> int:
        record = self.records.get(uuid)
        if record and (record["node"], record["connection"]) == (node, connection):
            record["node"] = ""
            return 1
        return 0

    def forward(
        self, uuid: str, user: str, node: str, hold_ms: int, envelope: bytes
    ) -> list[Any]:
        record = self.records.get(uuid)
        if record is None:
            return [b"NONE"]
        if record["node"] in self.leases:
            if record["user"] != user:
                return [b"FOREIGN"]
            time = START_US + round(self.now * 1e6)
            head = f"message {uuid} {record['connection']} {time}\n"
            if self._tell(record["node"], head.encode() + envelope):
                return [b"SENT", record["node"].encode(), b"1"]
        if not hold_ms or record["user"] != user:
            return [b"NONE"]
        self.waiting.setdefault(uuid, set()).add(node)
        return [b"HOLD"]


class FakeNode:
    """A relay with its node, its clients, and its way to the engine."""

    def __init__(
        self,
        engine: FakeEngine,
        name: str,
        keys: tuple[bytes, ...] = (),
        settings: Offers = Offers(),  # noqa: B008 - frozen
    ) -> None:
        self.engine = engine
        self.name = name
        self.bus = engine.buses[name] = FakeBus(engine, name)
        engine.leases.add(name)
        self.waiting = RecordingWaiting()
        self.observed: list[Event] = []
        self.relay = Relay(self.observed.append, self.clock, self.waiting, settings)
        self.claims = Claims(
            name, self.bus, self.relay, "issuer", self.accepted_at, self.clock
        )
        self.node = Node(
            *(name, self.bus, self.relay, self.claims, Seal(keys), "issuer"),
            self.clock,
        )
        self.queries = Queries(
            *(name, self.bus, self.relay, self.claims.say, self.clock),
            facts=lambda: Facts(self.clock(), len(self.claims.unsynced), True, False),
            shown_user=str.upper,
            is_sealed=lambda: bool(keys),
        )
        self.node.further = self.queries.received
        self.relay.undelivered.directory = self.node
        self.bus.receive = self.node.received

    def clock(self) -> float:
        return self.engine.now

    def accepted_at(self, peer: Any) -> float:
        return float(peer.accepted_at)

    def heal(self) -> None:
        """Reach the engine again, as the link does it."""
        self.bus.ready = True
        self.engine.leases.add(self.name)
        self.claims.assert_all()
        self.node.resume()

    def tick(self) -> None:
        self.relay.tick()
        self.claims.tick()
        self.queries.tick()

    def look_around(self) -> None:
        """Correct what the engine knows of this node, as a member does."""
        for uuid, record in self.engine.records.items():
            if record["node"] == self.name:
                self.claims.disown(uuid, record["connection"])

    def wake(self) -> None:
        """End the wait of all offers that may be crossed."""
        offers, self.waiting.offers = self.waiting.offers, []
        for offer in offers:
            self.relay.broker.pass_on(offer)


@dataclass(eq=False)
class StockClient(RecordingPeer):
    """A client that ends at whatever ends a stock one, and says why.

    Attributes:
        offers: Marks of its offers that wait for an answer, by peer.
        received: Marks of the offers that it has not answered, by peer.
        breaches: What it was sent against the rules.
    """

    uuid: str = ""
    node: Any = None
    accepted_at: float = 0.0
    accepted: bool = False
    offers: dict[str, str] = field(default_factory=dict)
    waits_since: dict[str, float] = field(default_factory=dict)
    received: dict[str, str] = field(default_factory=dict)
    ends: list[tuple[str, str, str]] = field(default_factory=list)
    late: int = 0
    breaches: list[str] = field(default_factory=list)

    def register(self) -> None:
        self.node.relay.receive(self, registration(self.uuid))

    def answer(self, text: bytes) -> None:
        if self.closed:
            raise PeerGone
        message = json.loads(text)
        if message["message_type"] == "relay_response":
            self.accepted = True
            return
        kind, error = message["description_type"], message["error"]
        if error is not None:
            self._returned(kind, message)
        elif kind == "offer":
            self._offered(message)
        else:
            self._answered(message)

    def give_up(self, now: float) -> None:
        """Wait no longer for the answers to its old offers."""
        for peer, since in list(self.waits_since.items()):
            if now - since >= CLIENT_WAIT_SECONDS and self.offers.pop(peer, ""):
                self.late += 1

    def _mark(self, message: dict[str, Any]) -> str:
        return str(json.loads(message["description"])["sdp"])

    def _returned(self, kind: str, message: dict[str, Any]) -> None:
        peer = message["peer_uuid"]
        if kind == "answer":
            if peer in self.offers:
                self.breaches.append(
                    f"{self.uuid}: an old error for an offer to {peer}"
                )
            return
        mark = self.offers.pop(peer, None)
        if mark is None:
            self.breaches.append(f"{self.uuid}: an error for no offer to {peer}")
        else:
            self.ends.append((peer, mark, message["error"]))

    def _offered(self, message: dict[str, Any]) -> None:
        source, mark = message["source_uuid"], self._mark(message)
        if source in self.offers:
            self.breaches.append(f"{self.uuid}: an offer of {source} crosses its own")
        if self.received.get(source) == mark:
            self.breaches.append(f"{self.uuid}: the same offer of {source} again")
        self.received[source] = mark

    def _answered(self, message: dict[str, Any]) -> None:
        peer, mark = message["source_uuid"], self._mark(message)
        expected = self.offers.pop(peer, None)
        if expected is None:
            self.breaches.append(f"{self.uuid}: an answer of {peer} to no offer")
        elif expected != mark:
            self.breaches.append(f"{self.uuid}: {peer} answers {mark}, not {expected}")
        else:
            self.ends.append((peer, mark, "answered"))

    def leave(self) -> None:
        """Close the connection."""
        if self.closed is None:
            self.closed = (1000, "left")
            self.node.relay.leave(self, "left")


def settle(nodes: list[FakeNode]) -> None:
    """Carry out all calls, and deliver all events."""
    for _ in range(100_000):
        steps = [node.bus.step() for node in nodes]
        if not any(steps):
            return
    raise AssertionError("the nodes do not come to rest")
