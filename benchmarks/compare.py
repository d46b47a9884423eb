"""This relay beside proxystore-relay, under the same load.

Each thing is measured of one relay and then of the other, again and again, so that a
machine that becomes slower meanwhile does so for both.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, TypeVar
from unittest import SkipTest

from benchmarks import load, plot, processes, servers
from benchmarks.client import Client, Failed, Hub, Target, trusting
from benchmarks.figures import ROWS, Result, document, percentile, table
from benchmarks.servers import (
    CEILING,
    CLUSTERED,
    KEPT,
    OBSERVED,
    OURS,
    THEIRS,
    Certificate,
    Server,
)
from tests.support.engine import Engine

T = TypeVar("T")

PAIRS = 16
IN_FLIGHT = 32

AT_ONCE = 32
"""Connections that are being opened at a time. The reference's backlog is 100."""

WARM_UP = 0.2
"""Seconds of load before anything is measured."""

SETTLED = 1.0
"""Seconds after the last registration until idle clients are looked at."""

BESIDE = {
    "forward_observed": (OBSERVED, OURS),
    "connect_ceiling": (OURS, CEILING),
    "cluster": (CLUSTERED, OURS),
    "cluster_connect": (CLUSTERED, OURS),
    "cluster_connect_tls": (CLUSTERED, OURS),
    "cluster_idle": (CLUSTERED, OURS),
    "survive": (KEPT, OURS),
    "survive_connect": (KEPT, OURS),
    "survive_idle": (KEPT, OURS),
}
"""Rows that compare other servers than this relay and the reference."""

PACKAGES = (
    *("proxyrelay", "twisted", "autobahn", "msgspec", "pyopenssl"),
    *("proxystore", "websockets", "uvloop", "picows"),
)


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes:
        rounds: How often each relay's turn comes.
        seconds: How long offers are forwarded, each time.
        crowd_rounds: How often each relay is started for a crowd.
        crowd: Clients that connect.
        crowd_tls: The same, over TLS.
        single: Clients that connect one by one.
        idlers: Clients that idle.
        idle_seconds: How long.
        storm: Clients that come back all at once.
        storm_tls: The same, over TLS.
        assertions: How often a node asserts 100,000 clients.
    """

    rounds: int = 7
    seconds: float = 2.0
    crowd_rounds: int = 5
    crowd: int = 2000
    crowd_tls: int = 1000
    single: int = 300
    idlers: int = 5000
    idle_seconds: float = 20.0
    storm: int = 5000
    storm_tls: int = 1500
    assertions: int = 3


QUICK = Plan(2, 0.4, 1, 500, 250, 100, 500, 5.0, 1000, 200, 1)


class Comparison:
    """Measures the relays, and collects the results.

    Args:
        plan: How much.
        names: Which relays.
        folder: For their files.
        ceiling: Whether the switchboard is measured wherever it can be.
        quiet: Whether the relays log warnings only.

    Attributes:
        results: By the key of their row.
    """

    def __init__(
        self,
        plan: Plan,
        names: Sequence[str],
        folder: Path,
        *,
        ceiling: bool = False,
        quiet: bool = False,
    ) -> None:
        self.results = {row.key: Result(row) for row in ROWS}
        self._plan = plan
        self._names = names
        self._more = [*names, CEILING] if ceiling else names
        self._folder = folder
        self._quiet = quiet
        self._certificate = servers.certificate(folder)
        self._tls = trusting(anything=True)

    def forwarding(self) -> None:
        """Offers, in plain."""
        with self._running(self._more) as relays:
            for relay in self._turns(relays, self._plan.rounds):
                self._forward(relay, "forward", IN_FLIGHT)
                took = self._forward(relay, "forward_single", 1)
                self._note("latency_median", relay, median(took))
                self._note("latency_p99", relay, percentile(took, 0.99))
                self._forward(relay, "forward_alone", 1, turns=True)
                self._forward(relay, "forward_loop", PAIRS, loop=True)

    def forwarding_tls(self) -> None:
        """Offers over TLS, and connections one by one."""
        with self._running(self._more, self._certificate) as relays:
            for relay in self._turns(relays, self._plan.rounds):
                self._forward(relay, "forward_tls", IN_FLIGHT)
                self._forward(relay, "forward_loop_tls", PAIRS, loop=True)
                took = load.one_by_one(self._target(relay), self._plan.single)
                self._note("connect_tls_p99", relay, percentile(took, 0.99))

    def observing(self) -> None:
        """What it costs to be observed: this relay beside itself."""
        with self._running([OBSERVED, OURS]) as relays:
            for relay in self._turns(relays, 2 * self._plan.rounds):
                self._forward(relay, "forward_observed", IN_FLIGHT)

    def crowds(self) -> None:
        """Clients connect and register, and then take memory.

        The switchboard is always measured over TLS: a goal is set beside it.
        """
        for number in range(self._plan.crowd_rounds):
            for name in _order([*self._names, CEILING], number):
                if name in self._more:
                    self._crowd(name, "", self._plan.crowd, None)
                self._crowd(name, "_tls", self._plan.crowd_tls, self._certificate)

    def idling(self) -> None:
        """Clients only ping. Both relays have theirs at the same time."""
        with self._running(self._names) as relays:
            self._idle(relays, "idle")

    def clustering(self) -> None:
        """Two relays of a cluster, beside one that is alone."""
        with contextlib.ExitStack() as stack:
            try:
                engine = Engine()
            except SkipTest as reason:
                print(f"SKIPPED: {reason}", file=sys.stderr)
                return
            stack.callback(engine.stop)
            names, socket = [CLUSTERED, CLUSTERED, OURS], engine.socket
            with self._running(names, engine=socket) as (one, other, alone):
                for number in range(self._plan.rounds):
                    for in_flight in (IN_FLIGHT, 1):
                        self._two((one, other, alone), engine.pid, in_flight, number)
            for number in range(self._plan.crowd_rounds):
                for name in _order([CLUSTERED, OURS], number):
                    self._cluster_crowds(name, socket)
            with self._running([CLUSTERED, OURS], engine=socket) as relays:
                self._idle(relays, "cluster_idle")
        for _ in range(self._plan.assertions):
            took, stall = _assertion()
            self.results["cluster_assert"].ours.append(took)
            self.results["cluster_stall"].ours.append(stall)

    def surviving(self) -> None:
        """What it costs to keep all connections: this relay beside itself."""
        with self._running([KEPT, OURS]) as relays:
            for relay in self._turns(relays, 2 * self._plan.rounds):
                self._forward(relay, "survive", IN_FLIGHT)
        for number in range(2 * self._plan.crowd_rounds):
            for name in _order([KEPT, OURS], number):
                with self._start(name) as relay:
                    spent, _ = self._come(relay, self._plan.crowd)
                self._note("survive_connect", relay, spent / self._plan.crowd)
        with self._running([KEPT, OURS]) as relays:
            self._idle(relays, "survive_idle")

    def _two(
        self,
        relays: tuple[Server, Server, Server],
        engine: int,
        in_flight: int,
        number: int,
    ) -> None:
        """Forward at one relay of a cluster, between both, and at one alone."""
        one, other, alone = relays
        found: dict[str, list[float]] = {}

        def forward(name: str, at: Server, to: Server, *pids: int) -> None:
            goals = self._target(at), self._target(to)
            traffic = load.traffic(goals[0], PAIRS, in_flight, other=goals[1])
            found[name] = self._spent(traffic, *pids)[0]

        ways = (
            partial(forward, "near", one, one, one.pid),
            partial(forward, "far", one, other, one.pid, other.pid, engine),
            partial(forward, "alone", alone, alone, alone.pid),
        )
        for way in _order(ways, number):
            way()
        (near,), (here, there, between), (by_itself,) = (
            *(found["near"], found["far"]),
            found["alone"],
        )
        pairs = {"cluster_two_single": here + there}
        if in_flight > 1:
            pairs = {
                "cluster": near,
                "cluster_two": here + there,
                "cluster_engine": between,
            }
        for key, value in pairs.items():
            self.results[key].ours.append(value)
            self.results[key].theirs.append(by_itself)

    def _cluster_crowds(self, name: str, engine: Path) -> None:
        for suffix, count, pair in (
            ("", self._plan.crowd, None),
            ("_tls", self._plan.crowd_tls, self._certificate),
        ):
            with self._start(name, pair, engine) as relay:
                spent, _ = self._come(relay, count)
            self._note(f"cluster_connect{suffix}", relay, spent / count)

    def _idle(self, relays: Sequence[Server], key: str) -> None:
        hub = Hub()
        crowds: list[list[Client]] = []
        with contextlib.ExitStack() as stack:
            for relay in relays:
                uuids = load.identities(self._plan.idlers)
                crowds.append(load.connect(hub, self._target(relay), uuids, AT_ONCE))
            # In turn one of each relay.
            clients = [c for few in zip(*crowds, strict=True) for c in few]
            stack.callback(load.close, clients)
            load.idle(hub, clients, SETTLED)
            before = [processes.cpu(relay.pid) for relay in relays]
            began = time.perf_counter()
            load.idle(hub, clients, self._plan.idle_seconds)
            passed = time.perf_counter() - began
            for relay, earlier in zip(relays, before, strict=True):
                cores = (processes.cpu(relay.pid) - earlier) / passed
                self._note(key, relay, cores)

    def storms(self) -> None:
        """All clients come back at once."""
        for name in self._names:
            self._storm(name, "storm", self._plan.storm, None)
            self._storm(name, "storm_tls", self._plan.storm_tls, self._certificate)

    def _storm(self, name: str, key: str, count: int, pair: Certificate | None) -> None:
        with self._start(name, pair) as relay:
            try:
                outcome = load.storm(self._target(relay), count)
            except Failed as error:
                print(f"{name} in the storm: {error}", file=sys.stderr)
                return
        if outcome.refused:
            print(f"{name} in the storm: {outcome.why}", file=sys.stderr)
        self._note(f"{key}_refused", relay, outcome.refused)
        self._note(f"{key}_stall", relay, outcome.stall)
        self._note(f"{key}_seconds", relay, outcome.seconds)

    # -- what they consist of

    def _start(
        self, name: str, pair: Certificate | None = None, engine: Path | None = None
    ) -> AbstractContextManager[Server]:
        return servers.running(name, self._folder, pair, self._quiet, engine)

    @contextlib.contextmanager
    def _running(
        self,
        names: Sequence[str],
        pair: Certificate | None = None,
        engine: Path | None = None,
    ) -> Iterator[list[Server]]:
        with contextlib.ExitStack() as stack:
            yield [
                stack.enter_context(self._start(name, pair, engine)) for name in names
            ]

    def _turns(self, relays: Sequence[Server], rounds: int) -> Iterator[Server]:
        for number in range(rounds):
            yield from _order(relays, number)

    def _target(self, relay: Server) -> Target:
        return Target(relay.url, self._tls if relay.url.startswith("wss:") else None)

    def _note(self, key: str, relay: Server, value: float) -> None:
        result = self.results[key]
        ours, theirs = BESIDE.get(key, (OURS, THEIRS))
        values = {CEILING: result.ceiling, ours: result.ours, theirs: result.theirs}
        values[relay.name].append(value)

    def _forward(
        self, relay: Server, key: str, in_flight: int, **rhythm: Any
    ) -> list[float]:
        """Forward for a while, and note the CPU of a message; gives the latencies."""
        traffic = load.traffic(self._target(relay), PAIRS, in_flight, **rhythm)
        (spent,), took = self._spent(traffic, relay.pid)
        self._note(key, relay, spent)
        return took

    def _spent(
        self, traffic: load.Traffic, *pids: int
    ) -> tuple[list[float], list[float]]:
        """Let traffic run for a while.

        Returns:
            The CPU of a message in each of some processes, and the latencies.
        """
        traffic.run(WARM_UP)
        before = [processes.cpu(pid) for pid in pids]
        took = traffic.run(self._plan.seconds)
        after = [processes.cpu(pid) for pid in pids]
        traffic.close()
        spent = [b - a for a, b in zip(before, after, strict=True)]
        return [each / traffic.messages for each in spent], took

    def _crowd(
        self, name: str, suffix: str, count: int, pair: Certificate | None
    ) -> None:
        with self._start(name, pair) as relay:
            spent, grown = self._come(relay, count)
        self._note(f"connect{suffix}", relay, spent / count)
        self._note(f"memory{suffix}", relay, grown / count)
        if pair is not None and name != THEIRS:
            self._note("connect_ceiling", relay, spent / count)

    def _come(self, relay: Server, count: int) -> tuple[float, int]:
        """Let clients come; gives the CPU and the memory that they take."""
        hub, target = Hub(), self._target(relay)
        clients = load.connect(hub, target, load.identities(AT_ONCE), AT_ONCE)
        memory, cpu = processes.memory(relay.pid), processes.cpu(relay.pid)
        clients += load.connect(hub, target, load.identities(count), AT_ONCE)
        spent = processes.cpu(relay.pid) - cpu
        load.idle(hub, clients, SETTLED)
        grown = processes.memory(relay.pid) - memory
        load.close(clients)
        return spent, grown


def _assertion() -> tuple[float, float]:
    """Seconds until a relay has asserted its clients, and of the longest other call."""
    command = [sys.executable, "-m", "benchmarks.reassert"]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603
    took, longest = json.loads(ran.stdout)
    return took, longest


def _order(items: Sequence[T], number: int) -> Sequence[T]:
    """Forwards and backwards in turn, so that nobody is always the first."""
    return items[::-1] if number % 2 else items


def about(plan: Plan, quiet: bool) -> dict[str, object]:
    """How and where it is measured."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "plan": asdict(plan),
        "quiet": quiet,
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": versions,
    }


STAGES = {
    "forwarding": Comparison.forwarding,
    "forwarding-tls": Comparison.forwarding_tls,
    "observing": Comparison.observing,
    "crowds": Comparison.crowds,
    "idling": Comparison.idling,
    "storms": Comparison.storms,
    "cluster": Comparison.clustering,
    "survive": Comparison.surviving,
}


def main() -> int:
    """Compare, print a table, and write JSON and a picture."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument(
        "--only", choices=STAGES, action="append", help="some stages; repeatable"
    )
    parser.add_argument("--no-reference", action="store_true")
    parser.add_argument(
        "--ceiling", action="store_true", help="a switchboard in Cython in all rows"
    )
    parser.add_argument(
        "--quiet", action="store_true", help="the relays log warnings only"
    )
    parser.add_argument("--output", type=Path, help="folder for JSON and SVG")
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 if a goal is missed"
    )
    arguments = parser.parse_args()

    processes.allow_files()
    plan = QUICK if arguments.quick else Plan()
    names = [OURS] if arguments.no_reference else [OURS, THEIRS]
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(
            plan,
            names,
            Path(folder),
            ceiling=arguments.ceiling,
            quiet=arguments.quiet,
        )
        for stage, run in STAGES.items():
            if stage in (arguments.only or STAGES):
                print(f"{stage} ...", file=sys.stderr)
                run(comparison)

    results = [result for result in comparison.results.values() if result.ours]
    print(table(results))
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        written = (
            json.dumps(document(results, about(plan, arguments.quiet)), indent=2) + "\n"
        )
        (arguments.output / "comparison.json").write_text(written)
        if not arguments.no_reference:
            (arguments.output / "comparison.svg").write_text(plot.svg(results))
    missed = any(result.reached is False for result in results)
    return 1 if arguments.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
