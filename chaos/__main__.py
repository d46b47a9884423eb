"""Honest clients and troublemakers on one relay, for a while.

``python -m chaos`` runs a relay on the loopback interface, with TLS and a stand-in for
Globus Auth that fails now and then. The exit status is 0 if everything was as it must
be, and 1 otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import trustme

from benchmarks import processes
from chaos import honest, trouble
from chaos.child import ENDS, Child
from chaos.honest import COMING, SHOWN, Tally
from chaos.line import HOST, Place
from chaos.plan import KINDS, RELOADS, WELL_AGAIN, Step, plan
from chaos.report import (
    BUSY,
    PROMPT,
    STOPS,
    Check,
    Vitals,
    counted,
    indented,
    kept,
    megabytes,
    suspicious,
    table,
)
from chaos.trouble import PROXY, TROUBLES, Mischief
from tests.support import shifted
from tests.support.globus_service import CLIENT_ID, SECRET, GlobusService
from tests.support.processes import RelayProcess, environment

ROOT = Path(__file__).parents[1]

LONGEST = 300.0
"""Seconds that the chaos may last: the stand-in for Globus ends after 600."""

LEAST = 7.0
"""Seconds that it must last, so that the service fails once."""

LATENCY = 0.1
"""Seconds that the introspection service takes when it is well."""

SETTLING = 40.0
"""Seconds in which the relay must have let go of all connections."""

AFTERMATH = 6.0
"""Seconds after that for what is remembered of those who have left."""

FEW = 10
"""Honest pairs at the relay without authentication."""

RELOADED = {
    "good": "reloaded, changed: timeouts.ping_interval, certificate$",
    "bad": "nothing is reloaded; problems: 1$",
}
"""What the relay says of each of `RELOADS`."""

ALL = (*KINDS, *dict.fromkeys(kind.group for kind in TROUBLES))
"""All kinds of trouble: what is done from outside, and groups of troublemakers."""

SERVED = (
    f'host = "{HOST}"',
    "port = 0",
    'certfile = "cert.pem"',
    'keyfile = "privkey.pem"',
)
"""Settings of both relays."""

TRUSTED = ("[limits]", f'trusted_proxies = ["{PROXY}"]')
"""More of them."""

PACE = 0.2
"""Seconds from one look to the next at whether it has."""


@dataclass(frozen=True)
class Order:
    """Who comes.

    Attributes:
        pairs: How many honest pairs there are.
        pause: Seconds between two exchanges of a pair, on average.
        seed: Of what is left to chance.
    """

    pairs: int
    pause: float
    seed: int


@dataclass(frozen=True)
class Round:
    """What came of one round.

    Attributes:
        steps: What was done from outside.
        tally: What became of the honest clients.
        small: What became of those at the relay without authentication.
        mischief: What the others did.
        busy: Share of a core that the relay took.
        height: What it had while all were there.
        after: What it had when all had left.
    """

    steps: list[Step]
    tally: Tally
    small: Tally
    mischief: Mischief
    busy: float
    height: Vitals
    after: Vitals


class Site:
    """Two relays, the files that they read, and the service that one of them asks.

    Args:
        folder: For the files.
        kinds: What is done to them.

    Attributes:
        relay: With authentication, and all the trouble but one.
        unlocked: Without, for the attack upon the table of offers.
    """

    def __init__(self, folder: Path, kinds: Collection[str]) -> None:
        self._folder = folder
        self._logs = folder / "logs"
        self._shift = folder / "shift"
        variables = {}
        if "clock" in kinds:
            library = shifted.build(folder)
            variables = shifted.environment(library, self._shift)
        self._authority = trustme.CA()
        self._reloads = 0
        root = folder / "root.pem"
        root.write_bytes(self._authority.cert_pem.bytes())
        self._issue()
        self.globus = GlobusService(folder / "cert.pem", folder / "privkey.pem", ROOT)
        try:
            self.globus.tell(latency=LATENCY)
            config = self._write(good=True)
            variables |= {"SSL_CERT_FILE": str(root)}
            # The smallest pipe is full at once.
            self.relay = RelayProcess(
                ["--config", config],
                folder,
                env=environment(**variables),
                pipesize=1,
            )
        except BaseException:
            self.globus.end()
            raise
        try:
            unlocked = folder / "unlocked.toml"
            unlocked.write_text("\n".join((*SERVED, *TRUSTED, "")))
            self.unlocked = RelayProcess(["--config", unlocked], folder)
        except BaseException:
            self.relay.end()
            self.globus.end()
            raise
        self.place = Place(self.relay.port, root)
        self.unlocked_place = Place(self.unlocked.port, root)

    def end(self) -> None:
        """End all."""
        self.relay.end()
        self.unlocked.end()
        self.globus.end()

    def _issue(self) -> None:
        """Renew the certificate."""
        issued = self._authority.issue_cert(
            "localhost", HOST, key_type=trustme.KeyType.ECDSA
        )
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        (self._folder / "cert.pem").write_bytes(chain)
        (self._folder / "privkey.pem").write_bytes(issued.private_key_pem.bytes())

    def _write(self, *, good: bool) -> Path:
        path = self._folder / "relay.toml"
        path.touch(mode=0o600)
        path.write_text(settings(self.globus.url, self._reloads, good=good))
        return path

    def reload(self, kind: str) -> None:
        """Have the relay read settings that are good or bad, and wait for its word.

        Raises:
            SystemExit: It does not say what it should.
        """
        good = kind == RELOADS[0]
        if good:
            self._reloads += 1
            self._issue()
        self._write(good=good)
        self.relay.send(signal.SIGHUP)
        try:
            self.relay.wait_for_next(RELOADED[kind])
        except AssertionError:
            # It has the whole log in it.
            raise SystemExit(f"chaos: no word of a reload of {kind} settings") from None

    def vitals(self) -> Vitals:
        """What the relay has now.

        Its memory is what of its RSS belongs to no file: PSS would move with the number
        of other Python processes, which share libraries with it.
        """
        process = Path(f"/proc/{self.relay.pid}")
        smaps = (process / "smaps_rollup").read_text()
        return Vitals(
            len(list((process / "fd").iterdir())),
            1024 * processes.kilobytes(smaps, "Anonymous"),
        )

    def settled(self, descriptors: int = sys.maxsize) -> Vitals:
        """Wait until nobody is there, the relay's idle connections to Globus included.

        Args:
            descriptors: How many files are open then, at most.

        Returns:
            What the relay has then, or after too long a time.
        """
        self.globus.tell(listen=False)
        end = time.monotonic() + SETTLING
        while time.monotonic() < end and self.vitals().descriptors > descriptors:
            time.sleep(PACE)
        time.sleep(AFTERMATH)
        self.globus.tell(listen=True)
        return self.vitals()

    def do(self, step: Step) -> None:
        """Do something from outside."""
        if step.command is not None:
            self.globus.tell(**step.command)
        if step.reload:
            self.reload(step.reload)
        if step.clock is not None:
            shifted.shift(self._shift, step.clock)
        if step.reads is not None:
            (self.relay.reads.set if step.reads else self.relay.reads.clear)()
        if step.logs:
            self._change_logs(step.logs)

    def _change_logs(self, what: str) -> None:
        """Have the relay write no log files, or have it write them again."""
        if what in {"full", "room"}:
            # Its writes to files fail then, as on a full disk; the rest goes on.
            _, hard = resource.prlimit(self.relay.pid, resource.RLIMIT_FSIZE)
            soft = 0 if what == "full" else hard
            resource.prlimit(self.relay.pid, resource.RLIMIT_FSIZE, (soft, hard))
        elif what == "removed":
            shutil.rmtree(self._logs)
        else:
            self._logs.mkdir(exist_ok=True)

    def logged(self) -> Check:
        """Whether the relay writes log files."""
        size = sum(path.stat().st_size for path in self._logs.glob("*"))
        return Check("log files are written", size > 0, f"{size} bytes")


def settings(service_url: str, number: int, *, good: bool) -> str:
    """relay.toml: the defaults, but for what has to come to pass within the time.

    Args:
        service_url: Of the introspection service.
        number: Makes these settings differ from others.
        good: Whether they can be served.
    """
    wrong = [] if good else ["prot = 8700"]
    lines = [
        *wrong,
        *SERVED,
        "max_unread_bytes = 65536",
        "[auth]",
        'method = "globus"',
        "[auth.kwargs]",
        f"client_id = {json.dumps(CLIENT_ID)}",
        f"client_secret = {json.dumps(SECRET)}",
        f"audience = {json.dumps(CLIENT_ID)}",
        f"service_url = {json.dumps(service_url)}",
        "timeout = 2",
        "cache_ttl = 5",
        # As many as there are after the warm-up, so that it is no growth.
        "cache_size = 1000",
        "[timeouts]",
        f"ping_interval = {10 + number % 2}",
        "ping_timeout = 10",
        "[logging]",
        'log_dir = "logs"',
        *TRUSTED,
        "messages_per_client = 500",
        "burst = 3",
        "unregistered_per_address = 10",
        "connections_per_address = 20",
        "registrations_per_address = 5",
        "[offers]",
        "recent = 5",
    ]
    return "\n".join((*lines, ""))


def ordeal(
    site: Site, order: Order, kinds: Collection[str], seconds: float, descriptors: int
) -> Round:
    """Do one round.

    Args:
        site: The relay.
        order: Who comes.
        kinds: Of trouble.
        seconds: How long it lasts.
        descriptors: How many files the relay has open when nobody is there.
    """
    place, pairs, seed, limit = site.place, order.pairs, order.seed, seconds + 2 * ENDS
    others = site.unlocked_place
    steps = plan(seconds, kinds)
    with (
        Child(honest.main, place, pairs, order.pause, seed, limit) as crowd,
        Child(honest.main, others, FEW, order.pause, seed, limit) as few,
    ):
        crowd.hear(COMING + ENDS)
        few.hear(COMING + ENDS)
        makers = (trouble.main, place, others, kinds, pairs, seed, limit)
        with Child(*makers) as company:
            spent, began = processes.cpu(site.relay.pid), time.monotonic()
            for step in [*steps, Step(seconds, "the end")]:
                time.sleep(max(0.0, began + step.at - time.monotonic()))
                site.do(step)
            busy = processes.cpu(site.relay.pid) - spent
            busy /= time.monotonic() - began
            height = site.vitals()
            mischief = company.leave()
        tally, small = crowd.leave(), few.leave()
    return Round(steps, tally, small, mischief, busy, height, site.settled(descriptors))


def told(start: Vitals, warm_up: Round, chaos: Round) -> Iterator[str]:
    """All that was done, in lines."""
    tally = chaos.tally
    done = Counter(step.words for step in chaos.steps if step.words != WELL_AGAIN)
    yield "from outside:"
    yield indented(f"{words}: {many}" for words, many in done.items())
    yield "troublemakers:"
    ends = chaos.mischief.ends
    kinds = {kind.name: kind.group for kind in TROUBLES if kind.name in ends}
    yield indented(table(kinds, ends))
    yield "honest pairs:"
    yield indented(
        (
            f"exchanges: {_exchanges(tally)}",
            f"exchanges without authentication: {_exchanges(chaos.small)}",
            f"registrations: {tally.entries}, "
            f"the slowest {tally.longest_way:.1f} s with all attempts",
            f"leaves: {counted(tally.leaves)}",
            f"retries: {counted(tally.retries)}",
            f"offers made again: {counted(tally.returned)}",
        )
    )
    yield "the relay:"
    yield indented(
        f"{when:15} {vitals.descriptors:5} descriptors, {megabytes(vitals.memory):>8}"
        for when, vitals in (
            ("at first", start),
            ("in the warm-up", warm_up.height),
            ("after it", warm_up.after),
            ("in the chaos", chaos.height),
            ("after it", chaos.after),
        )
    )
    yield indented([f"CPU: {chaos.busy:.0%} of a core"])
    if chaos.busy > BUSY:
        yield indented(["that is much: the machine is too slow for this"])


def _exchanges(tally: Tally) -> str:
    return (
        f"{tally.exchanges}, the slowest {tally.slowest:.2f} s, over 1 s {tally.late}"
    )


def checks(rounds: Sequence[Round], log: Sequence[str]) -> Iterator[Check]:
    """All that must be so while the relay serves."""
    tallies = [tally for each in rounds for tally in (each.tally, each.small)]
    exchanges = sum(tally.exchanges for tally in tallies)
    failures = [words for tally in tallies for words in tally.failures]
    yield Check(
        "honest clients are served", not failures, f"{exchanges} exchanges complete"
    )
    slowest = max(tally.slowest for tally in tallies)
    yield Check(
        f"no exchange takes over {PROMPT:g} s",
        slowest <= PROMPT,
        f"{slowest:.2f} s at most",
    )
    failures += (more := [words for each in rounds for words in each.mischief.failures])
    many = sum(c.total() for each in rounds for c in each.mischief.ends.values())
    yield Check("trouble has an end", not more, f"{many} times")
    yield from kept(rounds[0].after, rounds[-1].after)
    bad = suspicious(log)
    yield Check("nothing in the log", not bad, f"{len(log)} lines")
    for words in (*failures, *bad[:SHOWN]):
        yield Check(words, False)


def stopped(relay: RelayProcess) -> Check:
    """Whether a relay stops as it should."""
    began = time.monotonic()
    try:
        status = relay.stop()
    except AssertionError:
        return Check("the relay stops", False, "never")
    took = time.monotonic() - began
    said = " ".join(relay.errors)
    return Check(
        "the relay stops",
        status == 0 and took <= STOPS and not said,
        f"status {status} after {took:.1f} s {said}".rstrip(),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=_seconds, default=60.0, help="of chaos")
    parser.add_argument(
        "--warm-up", type=_seconds, default=20.0, help="the same before"
    )
    parser.add_argument("--pairs", type=_count, default=500, help="of honest clients")
    parser.add_argument(
        "--pause", type=float, default=2.0, help="s between two exchanges of a pair"
    )
    parser.add_argument("--seed", type=int, help="of what is left to chance")
    parser.add_argument(
        "--only",
        type=_kinds,
        default=ALL,
        metavar="KIND,...",
        help=f"kinds of trouble, out of: {', '.join(ALL)}",
    )
    parser.add_argument("--log", type=Path, help="file to write the relay's log to")
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not LEAST <= seconds <= LONGEST:
        raise argparse.ArgumentTypeError(f"from {LEAST:g} to {LONGEST:g}, please")
    return seconds


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(text.split(","))
    if unknown := set(kinds) - set(ALL):
        raise argparse.ArgumentTypeError(f"there is no {', '.join(sorted(unknown))}")
    return kinds


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("at least one, please")
    return count


def main(arguments: Sequence[str] | None = None) -> int:
    """Do as the command line says; the exit status."""
    options = _parser().parse_args(arguments)
    # So that nothing is left behind then, either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("chaos: terminated"))
    processes.allow_files()
    seed = options.seed
    if seed is None:
        seed = random.SystemRandom().getrandbits(32)
    kinds = set(options.only)
    if "clock" in kinds and shutil.which("cc") is None:
        print("SKIPPED: clock, as there is no C compiler", flush=True)
        kinds.remove("clock")
    order = Order(options.pairs, options.pause, seed)
    print(f"{order.pairs} pairs, {options.seconds:g} s, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        site = Site(Path(folder), kinds)
        stack.callback(site.end)
        if options.log is not None:
            stack.callback(
                lambda: options.log.write_text("\n".join([*site.relay.output, ""]))
            )
        start = site.settled()
        rounds = [
            ordeal(site, order, kinds, seconds, start.descriptors)
            for seconds in (options.warm_up, options.seconds)
        ]
        relays = (site.relay, site.unlocked)
        verdicts = [stopped(relay) for relay in relays]
        log = [line for relay in relays for line in relay.output]
        verdicts += [site.logged(), *checks(rounds, log)]
    print("\n".join(told(start, *rounds)))
    print("\n".join(map(str, verdicts)))
    return 0 if all(verdict.passed for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
