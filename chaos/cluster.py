"""Honest clients on a cluster of relays, of which one part after another fails.

``python -m chaos.cluster`` runs three relays on the loopback interface, with TLS and a
stand-in for Globus Auth, and Redis behind a fault line for each. The exit status is 0
if everything was as it must be, and 1 otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import SkipTest

import trustme

from benchmarks import processes
from chaos import travellers
from chaos.child import Child
from chaos.faults import FaultLines
from chaos.line import HOST, Place
from chaos.report import Check, Vitals, counted, indented, kept, suspicious
from chaos.travellers import CALM, SPAN, Journal, Score
from tests.support.engine import Engine
from tests.support.globus_service import CLIENT_ID, SECRET, GlobusService
from tests.support.processes import RelayProcess, environment

ROOT = Path(__file__).parents[1]

CALM_SECONDS = 8.0
"""Time between two faults."""

BEGINS = 60.0
"""Seconds in which all clients have come, and each pair has completed an exchange."""

AGREES = 10.0
"""Seconds after a fault in which relays and engine agree on the owner of each UUID."""

AGREES_STOPPED = 20.0
"""The same after a relay stood still."""

THERE = 0.9
"""Share of the clients that must be there to agree on."""

PROBE = 30.0
"""Seconds in which each pair completes an exchange after a fault, at most."""

QUICK_PROBE = 5.0
"""The same in a quick run, in which pairs with an older offer are left out."""

LOCAL = 0.999
"""Share of the exchanges at one relay that are prompt while the engine fails."""

ACROSS = 0.99
"""Share of the exchanges between two relays that are complete in calm."""

SETTLING = 40.0
"""Seconds in which the relays must have let go of all connections."""

AFTERMATH = 6.0
"""Seconds after that for what is remembered of those who have left."""

LATENCY = 0.05
"""Seconds that the introspection service takes."""

PACE = 0.2
"""Seconds between two looks at something."""

SLOW = 0.25
"""Seconds that a message takes each way on a slow line."""

PREFIX = "proxyrelay:1"
"""Start of the engine's keys."""

LEASES = {"full": (15.0, 2.0), "quick": (5.0, 1.5)}
"""Settings ``lease`` and ``call_timeout``."""

QUICK_SCALE = 0.2
QUICK_PAIRS = 60


class Node:
    """A relay of the cluster, and those that took its place.

    Args:
        site: What it needs.
        number: Its number.

    Attributes:
        relay: The process.
        retired: Processes before it.
        names: Names that its clients may be registered under.
        is_new: Whether it is another process than at first.
    """

    def __init__(self, site: Site, number: int) -> None:
        self._site = site
        self._number = number
        self._generation = 0
        self.retired: list[RelayProcess] = []
        self.relay = self._start(0)
        self.names = [self._name]
        self.is_new = False

    @property
    def _name(self) -> str:
        return f"node-{self._number}-{self._generation}"

    def _start(self, port: int) -> RelayProcess:
        config = self._site.write_settings(self._name, self._number, port)
        return RelayProcess(
            ["--config", config], self._site.folder, env=self._site.environment
        )

    def replace(self) -> RelayProcess:
        """Start another process at the same port; gives the one before."""
        before, port = self.relay, self.relay.port
        self._generation += 1
        self.relay = self._start(port)
        self.retired.append(before)
        self.names = [self.names[-1], self._name]
        self.is_new = True
        return before

    def vitals(self) -> Vitals:
        """What the process has now."""
        process = Path(f"/proc/{self.relay.pid}")
        smaps = (process / "smaps_rollup").read_text()
        return Vitals(
            len(list((process / "fd").iterdir())),
            1024 * processes.kilobytes(smaps, "Anonymous"),
        )

    def end(self) -> None:
        """End all processes."""
        for relay in (self.relay, *self.retired):
            relay.end()


class Site:
    """The cluster, the service that it asks, and the files of both.

    Args:
        folder: For the files.
        stack: Ends what has been started.
        count: How many relays.
        clients: How many clients.
        timing: Settings ``lease`` and ``call_timeout``.

    Raises:
        SkipTest: There is no ``redis-server``.
    """

    def __init__(
        self,
        folder: Path,
        stack: contextlib.ExitStack,
        count: int,
        clients: int,
        timing: tuple[float, float],
    ) -> None:
        self.folder = folder
        self.clients = clients
        self._timing = timing
        root = folder / "root.pem"
        self._issue(root)
        self.environment = environment(SSL_CERT_FILE=str(root))
        self.engine = Engine()
        stack.callback(self.engine.stop)
        self.lines = stack.enter_context(FaultLines(folder, self.engine.socket, count))
        self.globus = GlobusService(folder / "cert.pem", folder / "privkey.pem", ROOT)
        stack.callback(self.globus.end)
        self.globus.tell(latency=LATENCY)
        self.nodes: list[Node] = []
        for number in range(count):
            self.nodes.append(Node(self, number))
            stack.callback(self.nodes[-1].end)
        for node in self.nodes:
            node.relay.wait_for("the link to the engine is ready")
        self.places = [Place(node.relay.port, root) for node in self.nodes]

    def _issue(self, root: Path) -> None:
        authority = trustme.CA()
        root.write_bytes(authority.cert_pem.bytes())
        issued = authority.issue_cert("localhost", HOST, key_type=trustme.KeyType.ECDSA)
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        (self.folder / "cert.pem").write_bytes(chain)
        (self.folder / "privkey.pem").write_bytes(issued.private_key_pem.bytes())

    def write_settings(self, name: str, number: int, port: int) -> Path:
        """Write the settings of a relay."""
        line = self.lines.lines[number].path
        path = self.folder / f"{name}.toml"
        path.touch(mode=0o600)
        text = settings(self.globus.url, name, port, line, self._timing)
        path.write_text(text)
        return path

    def owners(self, uuids: Sequence[str]) -> list[str]:
        """Names of the nodes that hold some UUIDs, as the engine knows it."""
        pipeline = self.engine.client.pipeline(transaction=False)
        for uuid in uuids:
            pipeline.hget(f"{PREFIX}:u:{uuid}", "n")
        found = [(name or b"").decode() for name in pipeline.execute()]
        live = {
            name
            for name in set(found)
            if self.engine.client.exists(f"{PREFIX}:n:{name}")
        }
        return [name if name in live else "" for name in found]

    def disagreement(self, child: Child) -> list[str]:
        """UUIDs that the engine does not know where they are, of those that stay."""
        before = child.tell("where")
        if len(before) < THERE * self.clients:
            return [f"only {len(before)} of {self.clients} clients are there"]
        uuids = list(before)
        owners = dict(zip(uuids, self.owners(uuids), strict=True))
        after = child.tell("where")
        return [
            f"{uuid} is at node {place[0]}, not at {owners[uuid] or 'none'}"
            for uuid, place in before.items()
            if after.get(uuid) == place
            and owners[uuid].partition(":")[0] not in self.nodes[place[0]].names
        ]

    def settled(self, descriptors: Sequence[int] = ()) -> list[Vitals]:
        """Wait until nobody is there; what the relays have then.

        Args:
            descriptors: How many files each has open then.
        """
        self.globus.tell(listen=False)
        end = time.monotonic() + SETTLING
        while time.monotonic() < end and any(
            node.vitals().descriptors > most
            for node, most in zip(self.nodes, descriptors, strict=False)
        ):
            time.sleep(PACE)
        time.sleep(AFTERMATH)
        self.globus.tell(listen=True)
        return [node.vitals() for node in self.nodes]


def settings(
    service_url: str, name: str, port: int, line: Path, timing: tuple[float, float]
) -> str:
    """relay.toml: the defaults, but for what a cluster needs.

    Args:
        service_url: Of the introspection service.
        name: Of the node.
        port: Where it listens; 0 for any.
        line: The fault line to the engine.
        timing: Settings ``lease`` and ``call_timeout``.
    """
    lease, call_timeout = timing
    lines = [
        f'host = "{HOST}"',
        f"port = {port}",
        "reuse_port = true",
        'certfile = "cert.pem"',
        'keyfile = "privkey.pem"',
        "[auth]",
        'method = "globus"',
        "[auth.kwargs]",
        f"client_id = {json.dumps(CLIENT_ID)}",
        f"client_secret = {json.dumps(SECRET)}",
        f"audience = {json.dumps(CLIENT_ID)}",
        f"service_url = {json.dumps(service_url)}",
        "cache_size = 1000",
        "[cluster]",
        f'engine = "unix:{line}"',
        f'node = "{name}"',
        f"lease = {lease:g}",
        f"call_timeout = {call_timeout:g}",
        "[offers]",
        "recent = 5",
    ]
    return "\n".join((*lines, ""))


# -- faults


Undo = Callable[[], None]


def kill_node(site: Site, child: Child) -> Undo:
    """Kill a relay, and start it again."""
    number = len(site.nodes) - 1
    node = site.nodes[number]
    child.tell("down", number)
    node.relay.end()

    def restart() -> None:
        node.replace()
        child.tell("up", number)

    return restart


def stop_node(site: Site, child: Child) -> Undo:
    """Let a relay stand still."""
    number = min(1, len(site.nodes) - 1)
    relay = site.nodes[number].relay
    child.tell("down", number)
    relay.send(signal.SIGSTOP)

    def go_on() -> None:
        relay.send(signal.SIGCONT)
        child.tell("up", number)

    return go_on


def kill_engine(site: Site, child: Child) -> Undo:  # noqa: ARG001
    """Kill the engine, and start it again without its data."""
    site.engine.kill()
    return site.engine.start


def stop_engine(site: Site, child: Child) -> Undo:  # noqa: ARG001
    """Let the engine stand still."""
    site.engine.signal(signal.SIGSTOP)
    return lambda: site.engine.signal(signal.SIGCONT)


def black_hole(site: Site, child: Child) -> Undo:  # noqa: ARG001
    """Let nothing through between one relay and the engine."""
    site.lines.do(lambda line: line.passes.clear(), 0)
    return lambda: site.lines.do(lambda line: line.heal(), 0)


def cut(site: Site, child: Child) -> Undo:  # noqa: ARG001
    """End all connections to the engine."""
    site.lines.do(lambda line: line.cut())
    return lambda: site.lines.do(lambda line: line.heal())


def slow(site: Site, child: Child) -> Undo:  # noqa: ARG001
    """Slow all connections to the engine down."""
    site.lines.do(lambda line: setattr(line, "delay", SLOW))
    return lambda: site.lines.do(lambda line: line.heal())


def flush(site: Site, child: Child) -> Undo:  # noqa: ARG001
    """Have the engine forget everything, and lose no connection."""
    site.engine.client.flushall()
    return lambda: None


def hand_over(site: Site, child: Child) -> Undo:
    """Replace a relay by a new process, and have its clients leave it."""
    number = min(1, len(site.nodes) - 1)
    node = site.nodes[number]
    before = node.replace()
    before.send(signal.SIGUSR2)
    before.wait_for("draining: clients that are connected are served until they")

    def leave() -> None:
        child.tell("vacate", number)
        try:
            status = before.wait()
        except AssertionError:
            raise SystemExit("chaos: a drained relay does not end") from None
        if status:
            raise SystemExit(f"chaos: a drained relay ends with status {status}")

    return leave


@dataclass(frozen=True)
class Fault:
    """Something that fails.

    Attributes:
        name: What it is called.
        begin: Lets it fail; gives what mends it.
        seconds: How long it lasts, in a whole run.
        least: The same, at least.
        is_of_engine: Whether relays serve as before, but for one another.
        agrees: Seconds in which all agree afterwards.
    """

    name: str
    begin: Callable[[Site, Child], Undo]
    seconds: float
    least: float
    is_of_engine: bool = True
    agrees: float = AGREES


FAULTS = (
    Fault("kill-node", kill_node, 5.0, 1.0, False),
    Fault("stop-node", stop_node, 30.0, 8.0, False, AGREES_STOPPED),
    Fault("kill-engine", kill_engine, 4.0, 1.0),
    Fault("stop-engine", stop_engine, 5.0, 3.0),
    Fault("black-hole", black_hole, 20.0, 8.0),
    Fault("cut", cut, 2.0, 1.0),
    Fault("slow", slow, 10.0, 3.0),
    Fault("flush", flush, 1.0, 1.0),
    Fault("hand-over", hand_over, 10.0, 2.0, False),
)
"""All of them, in the order in which they come."""


@dataclass(frozen=True)
class Outcome:
    """What came of a fault.

    Attributes:
        fault: The fault.
        agreed: Seconds until all agreed; None if they did not in time.
        wrong: On what they did not agree.
        unprobed: Pairs without an exchange afterwards.
    """

    fault: Fault
    agreed: float | None
    wrong: list[str]
    unprobed: list[str]


def ordeal(
    site: Site, child: Child, fault: Fault, scale: float, probe: float
) -> Outcome:
    """Let something fail, mend it, and see that all is well again."""
    began = time.monotonic()
    child.tell("fault", fault.name)
    mend = fault.begin(site, child)
    time.sleep(max(fault.least, scale * fault.seconds))
    mend()
    agreed, wrong = agreement(site, child, fault.agrees)
    unprobed = child.tell("probe", probe)
    child.tell("fault", CALM)
    passed = time.monotonic() - began
    well = "well" if not wrong and not unprobed else f"{wrong[:3]} {unprobed[:5]}"
    print(f"{fault.name}: {well} again, {passed:.1f} s", file=sys.stderr, flush=True)
    return Outcome(fault, agreed, wrong, unprobed)


def agreement(
    site: Site, child: Child, seconds: float
) -> tuple[float | None, list[str]]:
    """Wait until relays and engine agree; when they do, or on what they do not."""
    began = time.monotonic()
    while True:
        wrong = site.disagreement(child)
        passed = time.monotonic() - began
        if not wrong:
            return passed, []
        if passed > seconds:
            return None, wrong
        time.sleep(PACE)


# -- the report


def told(
    outcomes: Iterable[Outcome], journal: Journal, vitals: Iterable[str]
) -> Iterator[str]:
    """All that was done, in lines."""
    yield f"{'fault':12} {'agreed':>7}  exchanges at one relay, at two"
    for outcome in outcomes:
        name = outcome.fault.name
        agreed = "never" if outcome.agreed is None else f"{outcome.agreed:.1f} s"
        yield f"{name:12} {agreed:>7}  {_scores(journal, name)}"
    yield f"{'in calm':12} {'':7}  {_scores(journal, CALM)}"
    yield "clients:"
    yield indented(
        (
            f"offers: {journal.offers}, crossing exchanges: {journal.crossings}",
            f"registrations: {journal.entries}",
            f"leaves: {counted(journal.leaves)}",
            f"retries: {counted(journal.retries)}",
        )
    )
    yield "relays:"
    yield indented(vitals)


def _scores(journal: Journal, name: str) -> str:
    return "; ".join(
        f"{span} {score.complete} of {score.made}, {score.prompt} prompt, "
        f"{score.slowest:.1f} s at most"
        + (f" ({counted(score.others)})" if score.others else "")
        for span in SPAN
        if (score := journal.scores.get((name, span))) is not None
    )


def checks(outcomes: Sequence[Outcome], journal: Journal) -> Iterator[Check]:
    """All that must be so, as far as clients and engine know."""
    found = (
        ("no client ends at what it gets", journal.breaches),
        ("no healthy client is closed", journal.closed),
        ("each offer has an end in time", journal.endless),
        ("clients are served", journal.others),
    )
    for words, failures in found:
        yield Check(words, not failures, "; ".join(failures))
    for outcome in outcomes:
        fault = outcome.fault
        yield Check(
            f"{fault.name}: all agree within {fault.agrees:g} s",
            outcome.agreed is not None,
            f"{len(outcome.wrong)}: {'; '.join(outcome.wrong[:3])}"
            if outcome.wrong
            else "",
        )
        yield Check(
            f"{fault.name}: each pair speaks afterwards",
            not outcome.unprobed,
            "; ".join(outcome.unprobed[:5]),
        )
        if fault.is_of_engine:
            score = journal.scores.get((fault.name, SPAN[0]), Score())
            words = f"{fault.name}: {LOCAL:.1%} at one relay take 2 s at most"
            yield _enough(words, score.prompt, score.made, LOCAL)
    score = journal.scores.get((CALM, SPAN[1]), Score())
    words = f"in calm, {ACROSS:.0%} between two relays are complete"
    yield _enough(words, score.complete, score.made, ACROSS)


def _enough(words: str, good: int, made: int, share: float) -> Check:
    return Check(words, bool(made) and good >= share * made, f"{good} of {made}")


def grown(site: Site, before: list[Vitals], after: list[Vitals]) -> Iterator[Check]:
    """Whether the relays have given back what they had."""
    for number, node in enumerate(site.nodes):
        descriptors, memory = kept(before[number], after[number])
        yield Check(f"node {number}: {descriptors.words}", *_rest(descriptors))
        if not node.is_new:
            yield Check(f"node {number}: {memory.words}", *_rest(memory))


def _rest(check: Check) -> tuple[bool, str]:
    return check.passed, check.detail


def stopped(site: Site) -> Iterator[Check]:
    """Whether the relays stop as they should, and what their logs have."""
    for number, node in enumerate(site.nodes):
        try:
            status = node.relay.stop()
        except AssertionError:
            status = -1
        said = " ".join(node.relay.errors)
        yield Check(f"node {number} stops", not status and not said, said)
    relays = [relay for node in site.nodes for relay in (*node.retired, node.relay)]
    lines = [line for relay in relays for line in [*relay.output, *relay.errors]]
    bad = suspicious(lines)
    yield Check("nothing in the logs", not bad, "; ".join(bad[:5]))


# -- the command


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m chaos.cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pairs", type=int, help="of honest clients; 200 by default")
    parser.add_argument("--nodes", type=int, default=3, choices=(2, 3, 4))
    parser.add_argument("--seed", type=int, help="of what is left to chance")
    parser.add_argument(
        "--quick", action="store_true", help="one minute, with a lease of 5 s"
    )
    parser.add_argument(
        "--scale", type=float, help="of all lengths; 1 is a run of six minutes"
    )
    parser.add_argument(
        "--only",
        type=_faults,
        default=FAULTS,
        metavar="FAULT,...",
        help=f"some faults, out of: {', '.join(fault.name for fault in FAULTS)}",
    )
    parser.add_argument(
        "--unmeasured", action="store_true", help="without memory and descriptors"
    )
    parser.add_argument("--log", type=Path, help="folder to write the logs to")
    return parser


def _faults(text: str) -> tuple[Fault, ...]:
    known = {fault.name: fault for fault in FAULTS}
    names = text.split(",")
    if unknown := set(names) - set(known):
        raise argparse.ArgumentTypeError(f"there is no {', '.join(sorted(unknown))}")
    return tuple(known[name] for name in names)


def run(options: argparse.Namespace, seed: int) -> bool:
    """Do as the command line says; whether all was as it must be."""
    scale = options.scale or (QUICK_SCALE if options.quick else 1.0)
    pairs = options.pairs or (QUICK_PAIRS if options.quick else 200)
    timing = LEASES["quick" if options.quick else "full"]
    probe = QUICK_PROBE if options.quick else PROBE
    print(f"{options.nodes} relays, {pairs} pairs, seed {seed}", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="chaos-") as folder,
        contextlib.ExitStack() as stack,
    ):
        site = Site(Path(folder), stack, options.nodes, 2 * pairs, timing)
        if options.log is not None:
            stack.callback(_write_logs, site, options.log)
        made = (travellers.main, site.places, pairs, seed, min(1.0, 2 * scale))
        child = stack.enter_context(Child(*made))
        before: list[Vitals] = []
        if not options.unmeasured:
            for number in range(options.nodes):
                child.tell("fill", number)
            before = site.settled()
        child.tell("begin")
        if failed := child.tell("probe", BEGINS, BEGINS + PROBE):
            print("\n".join(failed[:10]), file=sys.stderr)
        outcomes = []
        for fault in options.only:
            time.sleep(scale * CALM_SECONDS)
            outcomes.append(ordeal(site, child, fault, scale, probe))
        time.sleep(scale * CALM_SECONDS)
        journal: Journal = child.leave()
        verdicts = [*checks(outcomes, journal)]
        after: list[Vitals] = []
        if before:
            after = site.settled([vitals.descriptors for vitals in before])
            verdicts += grown(site, before, after)
        verdicts += stopped(site)
    shown = [
        f"node {number}: {one.memory / 1e6:.1f} MB, then {other.memory / 1e6:.1f} MB"
        for number, (one, other) in enumerate(zip(before, after, strict=True))
    ]
    print("\n".join(told(outcomes, journal, shown)))
    print("\n".join(map(str, verdicts)))
    return all(verdict.passed for verdict in verdicts)


def _write_logs(site: Site, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, node in enumerate(site.nodes):
        for life, relay in enumerate([*node.retired, node.relay]):
            path = folder / f"node-{number}-{life}.log"
            path.write_text("\n".join([*relay.output, *relay.errors, ""]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Do as the command line says; the exit status."""
    options = _parser().parse_args(arguments)
    # So that nothing is left behind then, either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("chaos: terminated"))
    processes.allow_files()
    seed = options.seed
    if seed is None:
        seed = random.SystemRandom().getrandbits(32)
    try:
        return 0 if run(options, seed) else 1
    except SkipTest as reason:
        print(f"chaos: {reason}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
