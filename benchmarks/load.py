"""A load generator for any ProxyStore relay.

It stands alone, and takes the address of any relay:

    python -m benchmarks.load ws://127.0.0.1:8700 forward --pairs 16 --in-flight 32

``--pid`` measures a relay on the same machine meanwhile.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from statistics import median
from uuid import uuid4

from benchmarks import frames, processes
from benchmarks.client import PATIENCE, Client, Failed, Hub, Target, trusting
from benchmarks.figures import percentile

GIVES_UP = 10.0
"""Seconds after which a real client gives up opening a connection."""

PING_INTERVAL = 20.0
"""Seconds between two pings of a real client."""

WITNESS_PACE = 0.005
"""Seconds between two messages of the witnesses of a storm."""


# -- connecting


def connect(
    hub: Hub, target: Target, uuids: Sequence[str], at_once: int
) -> list[Client]:
    """Connect and register clients.

    Args:
        hub: Runs them.
        target: The relay.
        uuids: Whom to register as.
        at_once: How many may be under way at a time.

    Returns:
        The clients, all of them registered.

    Raises:
        Failed: One is not registered.
    """
    clients: list[Client] = []
    waiting = iter(uuids)
    ready = 0

    def begin() -> None:
        for uuid in itertools.islice(waiting, 1):
            client = Client(hub, target, uuid)
            client.on_ready = registered
            clients.append(client)

    def registered(_: Client) -> None:
        nonlocal ready
        ready += 1
        begin()

    for _ in range(at_once):
        begin()
    hub.until(lambda: ready == len(uuids))
    return clients


def identities(count: int) -> list[str]:
    """New UUIDs."""
    return [str(uuid4()) for _ in range(count)]


def close(clients: Sequence[Client]) -> None:
    """End connections so that their ports are free again."""
    for client in clients:
        client.close(reset=True)


def one_by_one(target: Target, count: int) -> list[float]:
    """Connect and register one client after the other.

    Returns:
        Seconds that each took.
    """
    hub = Hub()
    took = []
    for uuid in identities(count):
        began = time.perf_counter()
        clients = connect(hub, target, [uuid], 1)
        took.append(time.perf_counter() - began)
        close(clients)
    return took


# -- forwarding


@dataclass
class Group:
    """Sources, which offer, and targets, which answer: each source to each target.

    Attributes:
        rounds: Rounds that have begun. Each source takes part in all of them.
    """

    rounds: int = 0


class Party:
    """A client in a group: it sends a message to each partner, and awaits theirs.

    A round is an offer of each source to each target, and the answers. A relay need not
    pass on an offer while the one before is not answered. A target answers when it has
    all offers. A source begins the next round when it has all answers.

    Args:
        client: The client.
        kind: The messages that it sends: ``offer`` or ``answer``.
        partners: The clients of the other side.
        group: The group.

    Attributes:
        texts: The messages that it sends.
        rounds: Rounds in which it has sent them.
        since: When it sent the latest ones, in seconds.
        took: Seconds that each message took from its sender, if there is one partner.
        partner: This partner.
        partners: UUIDs of all partners.
    """

    def __init__(
        self, client: Client, kind: str, partners: Sequence[Client], group: Group
    ) -> None:
        self.client = client
        self.offers = kind == "offer"
        self.texts = [frames.message(client.uuid, p.uuid, kind) for p in partners]
        self.rounds = 0
        self.since = 0.0
        self.took: list[float] = []
        self.partner: Party | None = None
        self.group = group
        self._frames = b"".join(frames.text(t, client.window) for t in self.texts)
        self.partners = frozenset(p.uuid.encode() for p in partners)
        self._awaited = set(self.partners)

    def begins(self, may_begin: bool) -> bool:
        """Whether this source takes part in another round.

        Args:
            may_begin: Whether it may be the first one.
        """
        if may_begin and self.rounds == self.group.rounds:
            self.group.rounds += 1
        return self.rounds < self.group.rounds

    def send(self) -> None:
        """Send a message to each partner."""
        self.rounds += 1
        self.since = time.perf_counter()
        self.client.send(self._frames)

    def hear(self, sender: bytes) -> bool:
        """Note a message; whether it is the last one of this round.

        Raises:
            KeyError: No message of this sender is awaited.
        """
        self._awaited.remove(sender)
        if self.partner is not None:
            self.took.append(time.perf_counter() - self.partner.since)
        if self._awaited:
            return False
        self._awaited.update(self.partners)
        return True


class Traffic:
    """Clients that exchange offers and answers.

    Args:
        hub: Runs the clients.
        groups: Sources and targets of each group. A client may be in many groups.
        turns: Whether one client sends at a time, each in its turn.

    Attributes:
        messages: Messages that arrived in the latest run.

    Raises:
        Failed: A message arrives otherwise than it was sent.
    """

    def __init__(
        self,
        hub: Hub,
        groups: Iterable[tuple[Sequence[Client], Sequence[Client]]],
        turns: bool = False,
    ) -> None:
        self.messages = 0
        self._hub = hub
        self._turns = turns
        self._sources: list[Party] = []
        self._targets: list[Party] = []
        common = Group()
        for sources, targets in groups:
            group = common if turns else Group()
            ours = [Party(client, "offer", targets, group) for client in sources]
            theirs = [Party(client, "answer", sources, group) for client in targets]
            if len(ours) == len(theirs) == 1:
                ours[0].partner, theirs[0].partner = theirs[0], ours[0]
            self._sources += ours
            self._targets += theirs
        self._parties = [*self._sources, *self._targets]
        by_sender: dict[Client, dict[bytes, Party]] = defaultdict(dict)
        for party in self._parties:
            parties = by_sender[party.client]
            parties.update(dict.fromkeys(party.partners, party))
            party.client.on_texts = partial(self._received, parties)
        self._verify()

    def run(self, seconds: float) -> list[float]:
        """Begin rounds for a while, and let them all end.

        Returns:
            Seconds that each message took.

        Raises:
            Failed: A message is not awaited, or the run ends inside a round.
        """
        for party in self._parties:
            party.took.clear()
        self.messages = self._under_way = 0
        self._open = True
        self._order = itertools.cycle(self._parties)
        for source in [next(self._order)] if self._turns else self._sources:
            self._go_on(source)
        deadline = time.perf_counter() + seconds
        self._hub.until(lambda: time.perf_counter() >= deadline)
        self._open = False
        self._hub.until(lambda: not self._under_way)
        if any(party.rounds < party.group.rounds for party in self._parties):
            raise Failed("the run ended inside a round")
        return [took for party in self._parties for took in party.took]

    def close(self) -> None:
        """End all connections."""
        close([party.client for party in self._parties])

    _texts: list[bytes] | None = None

    def _received(self, parties: Mapping[bytes, Party], texts: list[bytes]) -> None:
        if self._texts is not None:
            self._texts += texts
        for text in texts:
            sender = frames.sender(text)
            try:
                # The sender of a returned offer is its receiver, which awaits none.
                party = parties[sender]
                is_last = party.hear(sender)
            except KeyError:
                raise Failed("not awaited: " + text.decode()) from None
            self.messages += 1
            self._under_way -= 1
            if is_last:
                self._go_on(next(self._order) if self._turns else party)

    def _go_on(self, party: Party) -> None:
        if not party.offers or party.begins(self._open):
            self._under_way += len(party.texts)
            party.send()

    def _verify(self) -> None:
        """Let one exchange of each pair take place, and compare what arrives.

        The first offer of a pair may wait at the relay for one that crosses it. Those
        that are measured come after it.
        """
        self._texts = []
        self.run(0.0)
        sent = [text for party in self._parties for text in party.texts]
        if _spelled(self._texts) != _spelled(sent):
            raise Failed("a message arrives otherwise than it was sent")
        self._texts = None


def _spelled(texts: Iterable[bytes]) -> set[str]:
    """Different messages, in one spelling."""
    return {json.dumps(json.loads(text), sort_keys=True) for text in texts}


def traffic(
    target: Target,
    pairs: int,
    in_flight: int,
    turns: bool = False,
    loop: bool = False,
    other: Target | None = None,
) -> Traffic:
    """Connect clients that exchange offers and answers.

    Args:
        target: The relay.
        pairs: How many clients make offers.
        in_flight: Exchanges that each of these has under way, with as many others.
        turns: Whether pairs take turns: one message is in flight in all.
        loop: Whether clients react to each message at once, and not when they have
            one of each partner.
        other: The relay of those who answer; the same one by default.
    """
    hub = Hub()
    alone = turns or in_flight == 1
    others = pairs if alone else in_flight
    sides = (
        connect(hub, target, identities(pairs), 16),
        connect(hub, other or target, identities(others), 16),
    )
    if not alone and not loop:
        return Traffic(hub, [sides], turns)
    each = zip(*sides, strict=True) if alone else itertools.product(*sides)
    return Traffic(hub, [([source], [other]) for source, other in each], turns)


# -- idling


def idle(hub: Hub, clients: Sequence[Client], seconds: float) -> None:
    """Let clients do nothing but ping, each once in 20 s, spread evenly.

    Raises:
        Failed: A ping is not answered.
    """
    interval = PING_INTERVAL / len(clients)
    frame = frames.masked(frames.PING, b"beat")
    sent = 0
    before = sum(client.pongs for client in clients)
    began = time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        while sent * interval <= passed:
            clients[sent % len(clients)].send(frame)
            sent += 1
        hub.turn(min(sent * interval, seconds) - passed)
    hub.until(lambda: sum(client.pongs for client in clients) - before >= sent)


# -- a storm


@dataclass
class Storm:
    """How a storm went; times in seconds.

    Attributes:
        clients: That came back.
        registered: That were registered in the end.
        refused: Attempts that the relay ended, or that took longer than 10 s.
        why: What the first of them met with.
        offered: Until the last one had begun to connect.
        seconds: Until the last one was registered.
        slowest: From connecting to being registered, at most.
        calm: The longest that a message of others took before.
        stall: The same, in the storm.
    """

    clients: int
    registered: int = 0
    refused: int = 0
    why: str = ""
    offered: float = 0.0
    seconds: float = 0.0
    slowest: float = 0.0
    calm: float = 0.0
    stall: float = 0.0
    took: list[float] = field(default_factory=list, repr=False)


def storm(target: Target, count: int, within: float = 1.0) -> Storm:
    """Clients lose their connections all at once, and come back.

    Two others exchange messages meanwhile, in a process of their own.

    Args:
        target: The relay.
        count: How many clients.
        within: Seconds over which they come back, spread evenly.
    """
    outcome = Storm(count)
    uuids = identities(count)
    hub = Hub()
    before = connect(hub, target, uuids, 64)
    with Witness(target) as witness:
        outcome.calm = witness.worst(1.0)
        for client in before:
            client.close()
        after = _come_back(hub, target, uuids, within, outcome)
        outcome.stall = witness.worst(0.0)
    close(after)
    outcome.slowest = max(outcome.took, default=0.0)
    return outcome


def _come_back(
    hub: Hub, target: Target, uuids: list[str], within: float, outcome: Storm
) -> list[Client]:
    clients: list[Client] = []
    waiting = deque(uuids)
    began = time.perf_counter()

    def registered(client: Client) -> None:
        now = time.perf_counter()
        outcome.registered += 1
        outcome.took.append(now - client.began)
        outcome.seconds = now - began

    def refused(_: Client, why: str) -> None:
        outcome.refused += 1
        outcome.why = outcome.why or why

    def come(uuid: str) -> None:
        try:
            client = Client(hub, target, uuid)
        except OSError as error:
            outcome.refused += 1
            outcome.why = outcome.why or str(error)
            return
        client.on_ready, client.on_lost = registered, refused
        clients.append(client)

    interval = within / len(uuids)
    deadline = began + within + GIVES_UP
    while outcome.registered + outcome.refused < len(uuids):
        now = time.perf_counter()
        if now > deadline:
            break
        # Never more than a few at a time, so that what has come is dealt with.
        for _ in range(8):
            gone = len(uuids) - len(waiting)
            if waiting and gone * interval <= now - began:
                come(waiting.popleft())
                outcome.offered = now - began
        hub.turn(interval if waiting else deadline - now)
    late = [client for client in clients if not client.ready]
    if outcome.registered + outcome.refused < len(uuids):
        outcome.why = outcome.why or f"not registered within {GIVES_UP:g} s"
        outcome.refused = len(uuids) - outcome.registered
    close(late)
    return [client for client in clients if client.ready]


class Witness:
    """Two clients in a process of their own, who tell how long their messages take.

    Args:
        target: The relay. Everybody is trusted, if it has TLS.
    """

    def __init__(self, target: Target) -> None:
        spawning = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawning.Pipe()
        self._stop = spawning.Event()
        arguments = (target.url, target.bearer, theirs, self._stop)
        self._child = spawning.Process(target=_witness, args=arguments, daemon=True)

    def __enter__(self) -> Witness:
        """Begin.

        Raises:
            Failed: They are not registered.
        """
        self._child.start()
        if not self._pipe.poll(PATIENCE) or self._pipe.recv() is not None:
            raise Failed("the witnesses cannot register")
        return self

    def worst(self, seconds: float) -> float:
        """Wait, and hear of the slowest message since the last time, in seconds."""
        time.sleep(seconds)
        self._pipe.send(None)
        if not self._pipe.poll(2 * PATIENCE):
            raise Failed("the witnesses are silent")
        worst: float = self._pipe.recv()
        return worst

    def __exit__(self, *_: object) -> None:
        """End."""
        self._stop.set()
        self._child.join(PATIENCE)
        if self._child.is_alive():
            self._child.terminate()


def _witness(url: str, bearer: str | None, pipe: Connection, stop: Event) -> None:
    tls = trusting(anything=True) if url.startswith("wss:") else None
    pair = traffic(Target(url, tls, bearer), 1, 1)
    pipe.send(None)
    worst = 0.0
    while not stop.is_set():
        worst = max(worst, *pair.run(0.0))
        if pipe.poll(WITNESS_PACE):
            pipe.recv()
            pipe.send(worst)
            worst = 0.0
    pair.close()


# -- the command


def _measured(pid: int | None) -> Callable[[], float | None]:
    """Gives the CPU that a process has had since now, in seconds."""
    if pid is None:
        return lambda: None
    before = processes.cpu(pid)
    return lambda: processes.cpu(pid) - before


def _forward(target: Target, arguments: argparse.Namespace) -> dict[str, object]:
    pairs, in_flight = arguments.pairs, arguments.in_flight
    load = traffic(target, pairs, in_flight, arguments.turns, arguments.loop)
    load.run(min(0.5, arguments.seconds))
    spent, own = _measured(arguments.pid), time.process_time()
    began = time.perf_counter()
    took = load.run(arguments.seconds)
    passed, server = time.perf_counter() - began, spent()
    load.close()
    return {
        "messages": load.messages,
        "messages_per_second": load.messages / passed,
        "median": median(took) if took else None,
        "p99": percentile(took, 0.99) if took else None,
        "client_cpu": (time.process_time() - own) / load.messages,
        "server_cpu": None if server is None else server / load.messages,
    }


def _connect(target: Target, arguments: argparse.Namespace) -> dict[str, object]:
    hub = Hub()
    clients = connect(hub, target, identities(arguments.at_once), arguments.at_once)
    pid = arguments.pid
    before = processes.memory(pid) if pid else 0
    spent, own = _measured(pid), time.process_time()
    began = time.perf_counter()
    count = arguments.clients
    clients += connect(hub, target, identities(count), arguments.at_once)
    passed, server = time.perf_counter() - began, spent()
    own = time.process_time() - own
    idle(hub, clients, 1.0)
    grown = processes.memory(pid) - before if pid else None
    close(clients)
    return {
        "clients": count,
        "clients_per_second": count / passed,
        "client_cpu": own / count,
        "server_cpu": None if server is None else server / count,
        "server_bytes": None if grown is None else grown / count,
    }


def _one_by_one(target: Target, arguments: argparse.Namespace) -> dict[str, object]:
    took = one_by_one(target, arguments.clients)
    return {"median": median(took), "p99": percentile(took, 0.99), "worst": max(took)}


def _idle(target: Target, arguments: argparse.Namespace) -> dict[str, object]:
    hub = Hub()
    clients = connect(hub, target, identities(arguments.clients), 64)
    spent = _measured(arguments.pid)
    idle(hub, clients, arguments.seconds)
    server = spent()
    close(clients)
    cores = None if server is None else server / arguments.seconds
    return {"clients": arguments.clients, "server_cores": cores}


def _storm(target: Target, arguments: argparse.Namespace) -> dict[str, object]:
    outcome = asdict(storm(target, arguments.clients, arguments.within))
    del outcome["took"]
    return outcome


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", help="of the relay: ws://host:port or wss://host:port")
    parser.add_argument("--pid", type=int, help="a relay on this machine to measure")
    parser.add_argument("--bearer", help="token for a relay that wants one")
    parser.add_argument("--cafile", help="authority to trust instead of the system's")
    parser.add_argument("--insecure", action="store_true", help="trust everybody")
    scenarios = parser.add_subparsers(required=True, metavar="scenario")

    forward = scenarios.add_parser("forward", help="pairs send offers")
    forward.add_argument("--pairs", type=int, default=16)
    forward.add_argument("--in-flight", type=int, default=32, help="of each pair")
    rhythm = forward.add_mutually_exclusive_group()
    rhythm.add_argument(
        "--turns", action="store_true", help="pairs take turns, one message in all"
    )
    rhythm.add_argument(
        "--loop", action="store_true", help="clients react to each message at once"
    )
    forward.add_argument("--seconds", type=float, default=5.0)
    forward.set_defaults(run=_forward)

    connecting = scenarios.add_parser("connect", help="clients connect and register")
    connecting.add_argument("--clients", type=int, default=1000)
    connecting.add_argument("--at-once", type=int, default=32)
    connecting.set_defaults(run=_connect)

    single = scenarios.add_parser("one-by-one", help="one client after the other")
    single.add_argument("--clients", type=int, default=300)
    single.set_defaults(run=_one_by_one)

    idling = scenarios.add_parser("idle", help="clients only ping, each every 20 s")
    idling.add_argument("--clients", type=int, default=5000)
    idling.add_argument("--seconds", type=float, default=20.0)
    idling.set_defaults(run=_idle)

    storming = scenarios.add_parser("storm", help="all clients come back at once")
    storming.add_argument("--clients", type=int, default=5000)
    storming.add_argument("--within", type=float, default=1.0, help="seconds")
    storming.set_defaults(run=_storm)
    return parser


def main() -> int:
    """Put load on a relay, and print what was measured, as JSON."""
    arguments = _parser().parse_args()
    processes.allow_files()
    tls = None
    if arguments.url.startswith("wss:"):
        tls = trusting(arguments.cafile, anything=arguments.insecure)
    try:
        found = arguments.run(Target(arguments.url, tls, arguments.bearer), arguments)
    except (Failed, OSError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
