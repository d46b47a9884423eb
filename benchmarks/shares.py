"""Where the CPU time of this relay goes, by py-spy's samples.

    python -m benchmarks.shares --output docs/explanation/profile.json

Each load is put on the relay twice: alone, for the CPU time of a message or connection,
and with py-spy (https://github.com/benfred/py-spy), for the shares. A sample counts for
the innermost function whose place is known.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import floor, processes, servers
from benchmarks.figures import percentile
from benchmarks.servers import OURS, SCRIPTS, Server

RATE = 400
"""Samples of a second."""

ATTACHED = 0.7
"""Seconds in which py-spy finds its way into the relay."""

LONGEST = 60
"""Seconds after which py-spy ends by itself."""

MESSAGES = 20_000
"""For a round of the floor."""

WAIT = "epoll_wait"
REST = "the rest"

PLACES = (
    ("recv and send", r"DirectWriteTransport\.(_read|writeSomeData) "),
    (WAIT, r"EPollReactor\.doPoll "),
    ("TLS", r" .*(OpenSSL/|proxyrelay/net/(tls_transport|certificates)\.py)"),
    ("JSON", r" .*proxyrelay/switchboard/messages\.py"),
    (
        "rules",
        r" .*proxyrelay/(switchboard/\w+|websocket/admission)\.py|__eq__ ",
    ),
    ("log", r" .*(proxyrelay/observe/|twisted/logger/)"),
    ("lane", r" .*proxyrelay/(net|websocket)/\w+\.py"),
    ("Autobahn", r" .*(autobahn|txaio)/"),
    ("Twisted", r" .*(twisted|zope|constantly|interface)/"),
)
"""Where a function is, and what it is counted for. Of what stands nowhere here, the
caller decides."""

GROUPS = (*(name for name, _ in PLACES), REST)


@dataclass(frozen=True)
class Situation:
    """One load.

    Attributes:
        key: Its name.
        title: The same in words.
        secure: Whether it is over TLS.
        times: How often it is put on the relay while py-spy looks.
        load: The command line of the load generator.
    """

    key: str
    title: str
    secure: bool
    times: int
    load: tuple[str, ...]


_FORWARD = ("forward", "--pairs", "16", "--seconds", "6")

SITUATIONS = (
    Situation(
        "forward", "message, many at once", False, 1, (*_FORWARD, "--in-flight", "32")
    ),
    Situation(
        "forward_single",
        "message, one in flight",
        False,
        1,
        (*_FORWARD, "--in-flight", "1"),
    ),
    Situation(
        "forward_tls", "message, many, wss", True, 1, (*_FORWARD, "--in-flight", "32")
    ),
    Situation("connect", "connection, ws", False, 4, ("connect", "--clients", "2000")),
    Situation(
        "connect_tls", "connection, wss", True, 3, ("connect", "--clients", "1500")
    ),
)


def place(stack: str) -> str:
    """What a sample counts for.

    Args:
        stack: Functions with their files, the innermost last, parted by semicolons:
            a line of py-spy's raw format, less the count.
    """
    for function in reversed(stack.split(";")):
        for name, pattern in PLACES:
            if re.match(pattern if pattern[0] != " " else f".*{pattern}", function):
                return name
    return REST


def samples(raw: Iterable[str]) -> Counter[str]:
    """Samples of each place, from the lines of py-spy's raw format."""
    found: Counter[str] = Counter()
    for line in raw:
        stack, _, count = line.rpartition(" ")
        found[place(stack)] += int(count)
    return found


def shares(found: Counter[str], awake: float) -> dict[str, float]:
    """Parts of the CPU time.

    A process that has just been woken counts as awake for py-spy, though it has no CPU
    yet. So of the wait, only as much counts as the CPU time leaves.

    Args:
        found: Samples of each place.
        awake: Samples that the CPU time amounts to.
    """
    others = found.total() - found[WAIT]
    waiting = found[WAIT] if others > awake else min(found[WAIT], awake - others)
    whole = others + waiting
    counts = {**{name: found[name] for name in GROUPS}, WAIT: waiting}
    return {name: counts[name] / whole for name in GROUPS}


def measure(situation: Situation, spy: str, folder: Path) -> dict[str, Any]:
    """Put a load on a new relay, without py-spy and with it."""
    pair = servers.certificate(folder) if situation.secure else None
    with servers.running(OURS, folder, pair) as relay:
        alone = [_load(relay, situation) for _ in range(3)]
        raw = folder / f"{situation.key}.raw"
        command = [spy, "record", "--pid", str(relay.pid), "--rate", str(RATE)]
        command += ["--duration", str(LONGEST), "--format", "raw", "--output", str(raw)]
        with subprocess.Popen(  # noqa: S603
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as watching:
            time.sleep(ATTACHED)
            before = processes.cpu(relay.pid)
            for _ in range(situation.times):
                _load(relay, situation)
            spent = processes.cpu(relay.pid) - before
            watching.send_signal(signal.SIGINT)
    found = samples(raw.read_text().splitlines())
    return {
        "key": situation.key,
        "title": situation.title,
        "microseconds": percentile(alone, 0.5) * 1e6,
        "samples": found.total(),
        "shares": shares(found, spent * RATE),
    }


def _load(relay: Server, situation: Situation) -> float:
    """CPU seconds of the relay for a message or a connection."""
    command = [sys.executable, "-m", "benchmarks.load", relay.url, "--insecure"]
    command += ["--pid", str(relay.pid), *situation.load]
    done = subprocess.run(  # noqa: S603
        command, check=True, capture_output=True, text=True, timeout=120
    )
    spent: float = json.loads(done.stdout)["server_cpu"]
    return spent


def table(found: Sequence[dict[str, Any]]) -> str:
    """All shares, a line for each place, in microseconds."""
    lines = [["us CPU", *(entry["title"] for entry in found)]]
    for name in GROUPS:
        shown = [entry["shares"][name] * entry["microseconds"] for entry in found]
        lines.append([name, *(f"{value:.1f}" for value in shown)])
    lines.append(["all", *(f"{entry['microseconds']:.1f}" for entry in found)])
    return "\n".join(
        f"{line[0]:14}" + "".join(cell.rjust(24) for cell in line[1:]) for line in lines
    )


def _floor() -> dict[str, float]:
    """What the kernel takes for a message, in microseconds."""
    found = {}
    for words, waiting in (("recv, send", False), ("epoll_wait, recv, send", True)):
        rounds = [
            floor.microseconds(MESSAGES, waiting=waiting) for _ in range(floor.ROUNDS)
        ]
        found[words] = percentile(rounds, 0.5)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.shares",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, help="file for JSON")
    output: Path | None = parser.parse_args(arguments).output
    beside = SCRIPTS / "py-spy"
    spy = str(beside) if beside.exists() else shutil.which("py-spy")
    if spy is None:
        print("there is no py-spy: pip install py-spy", file=sys.stderr)
        return 1
    processes.allow_files()
    with tempfile.TemporaryDirectory() as folder:
        found = [measure(situation, spy, Path(folder)) for situation in SITUATIONS]
    print(table(found))
    if output is not None:
        document = {"situations": found, "floor": _floor()}
        output.write_text(json.dumps(document, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
