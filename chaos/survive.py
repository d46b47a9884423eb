"""Honest clients that stay connected while their relay is killed and restarted.

``python -m chaos.survive`` runs a relay under ``proxyrelay keep``, or under a systemd
of its own. Half of the clients come through HAProxy, which ends TLS. The relay is
killed, then restarted, then replaced by another version. The exit status is 0 if
everything was as it must be, and 1 otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from unittest import SkipTest

import trustme

from benchmarks import processes
from chaos import stayers
from chaos.child import Child
from chaos.line import HOST, Place
from chaos.report import STOPS, Check, counted, indented, suspicious
from chaos.stayers import COMPLETE, SILENCE, Exchange, Record
from chaos.travellers import PING
from tests.support.kept import KeptRelay
from tests.support.processes import SCRIPTS, Process, environment
from tests.support.systemd import Systemd, shipped_unit

ROOT = Path(__file__).parents[1]

BACK = 1.0
"""Seconds in which the relay serves again."""

WAIT = 45.0
"""Seconds for what must happen soon, and for what must not take long at first."""

PACE = 0.02
"""Seconds between two looks at something."""

PAUSE = 3.0
"""Seconds between two exchanges of a pair, on average."""

PAIRS, QUICK_PAIRS, QUICK_PAUSE = 1000, 80, 1.0

PROXY = "127.0.0.9"
"""Address that HAProxy connects from, unlike the other clients."""

UNIT = "proxyrelay.service"

VERSION = "0.1.1"
"""The version of the upgrade."""

NAMES = ("with TLS", "plain")
"""The two places."""

BUILDING = 200.0
"""Seconds in which a wheel is built and installed."""


@dataclass(frozen=True)
class Fault:
    """What is done to the relay.

    Attributes:
        name: What it is called.
        number: The signal.
        times: How often it is sent in a whole run.
        quick: The same in a quick one.
        seconds: Time until the next one.
    """

    name: str
    number: signal.Signals
    times: int
    quick: int
    seconds: float


FAULTS = (
    Fault("kill", signal.SIGKILL, 6, 2, 10.0),
    Fault("restart", signal.SIGTERM, 10, 2, 8.0),
    Fault("upgrade", signal.SIGTERM, 1, 1, 8.0),
)
"""All of them, in the order in which they come."""


@dataclass(frozen=True)
class Blow:
    """A fault that has happened.

    Attributes:
        fault: What it was.
        at: When, in seconds of the monotonic clock.
    """

    fault: Fault
    at: float


# -- the relay and its parent


class Parent(Protocol):
    """Holds the relay's descriptors."""

    def send(self, number: int) -> None:
        """Send the relay a signal."""

    def kept(self) -> int:
        """How many descriptors it has."""

    def lines(self) -> list[str]:
        """What the relay has logged."""

    def stop(self) -> str:
        """Stop the relay with goodbyes; gives what is wrong with its end."""

    def end(self) -> None:
        """End all processes."""


class Keep:
    """The relay under ``proxyrelay keep``.

    Args:
        scripts: Where the programs are.
        settings: The text of relay.toml.
        folder: For files.
    """

    def __init__(self, scripts: Path, settings: str, folder: Path) -> None:
        config = folder / "relay.toml"
        config.write_text(settings)
        self._relay = KeptRelay(["--config", config], folder, scripts)

    def send(self, number: int) -> None:
        """Send the relay a signal."""
        self._relay.send_relay(number)

    def kept(self) -> int:
        """How many descriptors it has."""
        return self._relay.descriptors()

    def lines(self) -> list[str]:
        """What the relay has logged."""
        return [*self._relay.output, *self._relay.errors]

    def stop(self) -> str:
        """Stop the relay with goodbyes; gives what is wrong with its end."""
        self._relay.send(signal.SIGTERM)
        try:
            status = self._relay.wait(STOPS)
        except AssertionError:
            return "it does not end"
        return f"status {status}" if status else ""

    def end(self) -> None:
        """End all processes."""
        self._relay.end()


class Managed:
    """The relay under a systemd of its own, by the shipped unit.

    Args:
        scripts: Where the programs are.
        settings: The text of relay.toml.
        folder: For files, and with the programs.
    """

    def __init__(self, scripts: Path, settings: str, folder: Path) -> None:
        self._systemd = Systemd(folder)
        try:
            (self._systemd.folder / "relay.toml").write_text(settings)
            # Another folder is the unit's own /tmp.
            unit = shipped_unit(scripts, f"BindReadOnlyPaths={folder}\n")
            self._systemd.write_unit(UNIT, unit)
            self._systemd.control("start", UNIT)
        except BaseException:
            self.end()
            raise

    def send(self, number: int) -> None:
        """Send the relay a signal."""
        self._systemd.kill(UNIT, number)

    def kept(self) -> int:
        """How many descriptors it has."""
        return int(self._systemd.show(UNIT, "NFileDescriptorStore"))

    def lines(self) -> list[str]:
        """What the relay has logged."""
        log = self._systemd.folder / "relay.log"
        return log.read_text(errors="replace").splitlines()

    def stop(self) -> str:
        """Stop the relay with goodbyes; gives what is wrong with its end."""
        if self._state() != "active":
            return f"it is {self._state()}"
        self.send(signal.SIGINT)
        if not until(lambda: self._state() == "inactive", STOPS):
            return f"it is {self._state()}"
        result = self._systemd.show(UNIT, "Result")
        return "" if result == "success" else result

    def _state(self) -> str:
        return self._systemd.show(UNIT, "ActiveState")

    def end(self) -> None:
        """End all processes."""
        self._systemd.end()


def until(happens: Callable[[], bool], seconds: float) -> bool:
    """Wait for something; whether it happens in time."""
    end = time.monotonic() + seconds
    while not happens():
        if time.monotonic() > end:
            return False
        time.sleep(PACE)
    return True


# -- programs and files


class Installation:
    """An environment with the relay's programs, in which the version changes.

    Args:
        folder: For the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._home = folder / "environment"
        venv.create(self._home)
        libraries = sysconfig.get_path("purelib", vars={"base": str(self._home)})
        # Everything but the relay comes from the environment that runs this.
        found = [path for path in sys.path if path.endswith("-packages")]
        Path(libraries, "dependencies.pth").write_text("\n".join(found))
        self.scripts = self._home / "bin"
        # That of Twisted, for this environment.
        _, text = (SCRIPTS / "twistd").read_text().split("\n", 1)
        twistd = self.scripts / "twistd"
        twistd.write_text(f"#!{self.scripts}/python\n{text}")
        twistd.chmod(0o755)
        self._wheels = [self._build(""), self._build(VERSION)]
        self.install(0)

    def _build(self, version: str) -> Path:
        """Build a wheel, with another version if there is one."""
        copy, wheels = (
            self._folder / f"sources{version}",
            self._folder / f"wheel{version}",
        )
        left_out = shutil.ignore_patterns("__pycache__", "dropin.cache")
        for name in ("proxyrelay", "twisted"):
            shutil.copytree(ROOT / name, copy / name, ignore=left_out)
        for name in ("setup.cfg", "pyproject.toml", "README.rst", "LICENSE"):
            shutil.copy(ROOT / name, copy)
        if version:
            path = copy / "proxyrelay" / "__init__.py"
            spelt = f'__version__ = "{version}"'
            path.write_text(re.sub("__version__ = .*", spelt, path.read_text()))
        _pip("wheel", "--no-deps", "--wheel-dir", wheels, copy)
        (wheel,) = wheels.iterdir()
        return wheel

    def install(self, number: int) -> None:
        """Install the first version, or the second."""
        python = self.scripts / "python"
        options = ("--no-deps", "--no-index", "--force-reinstall")
        _pip("--python", python, "install", *options, self._wheels[number])


def _pip(*arguments: str | Path) -> None:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "pip", "--quiet", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=BUILDING,
        env=environment(PIP_DISABLE_PIP_VERSION_CHECK="1"),
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"chaos: {done.stdout}")


class Site:
    """The relay, its parent, and the proxy.

    Args:
        folder: For the files.
        stack: Ends what has been started.
        options: The command line.

    Attributes:
        places: Where clients connect, and whether with TLS.

    Raises:
        SkipTest: There is no HAProxy, or no systemd.
    """

    def __init__(
        self, folder: Path, stack: contextlib.ExitStack, options: argparse.Namespace
    ) -> None:
        # Debian keeps servers out of the path of users.
        haproxy = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
        if haproxy is None:
            raise SkipTest("haproxy is not installed")
        folder.chmod(0o755)
        root = folder / "root.pem"
        self._issue(folder, root)
        relay, proxy = (self._reserve(stack) for _ in range(2))
        (folder / "haproxy.cfg").write_text(proxied(folder, relay, proxy))
        self.installation: Installation | None = None
        scripts = SCRIPTS
        if any(fault.name == "upgrade" for fault in options.only):
            self.installation = Installation(folder)
            scripts = self.installation.scripts
        kind = Managed if options.systemd else Keep
        self.parent: Parent = kind(scripts, settings(relay), folder)
        stack.callback(self.parent.end)
        child = Process([haproxy, "-q", "-db", "-f", folder / "haproxy.cfg"], folder)
        stack.callback(child.end)
        if not until(lambda: _listens(proxy), WAIT):
            raise SystemExit(f"chaos: HAProxy does not listen: {child.said}")
        self.places = [(Place(proxy, root), True), (Place(relay, root), False)]

    @staticmethod
    def _issue(folder: Path, root: Path) -> None:
        authority = trustme.CA()
        root.write_bytes(authority.cert_pem.bytes())
        issued = authority.issue_cert("localhost", HOST, key_type=trustme.KeyType.ECDSA)
        both = issued.private_key_and_cert_chain_pem.bytes()
        (folder / "relay.pem").write_bytes(both)

    @staticmethod
    def _reserve(stack: contextlib.ExitStack) -> int:
        """A port that the system gives to nobody else."""
        holder = stack.enter_context(socket.socket())
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((HOST, 0))
        port: int = holder.getsockname()[1]
        return port


def idle() -> tuple[int, int]:
    """Ticks in which the machine's cores had nothing to do, and all ticks."""
    first, _, _ = Path("/proc/stat").read_text().partition("\n")
    ticks = [*map(int, first.split()[1:])]
    return ticks[3], sum(ticks)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((HOST, port)) == 0


def settings(port: int) -> str:
    """relay.toml: the defaults, but for keeping connections, and for the proxy."""
    lines = (
        f'host = "{HOST}"',
        f"port = {port}",
        "[limits]",
        f'trusted_proxies = ["{PROXY}"]',
        "proxy_protocol = true",
        "[survive]",
        "enabled = true",
    )
    return "\n".join((*lines, ""))


def proxied(folder: Path, relay: int, port: int) -> str:
    """conf/haproxy.cfg, with the ports and paths of this run."""
    text = (ROOT / "conf" / "haproxy.cfg").read_text()
    for old, new in (
        ("bind :443", f"bind {HOST}:{port}"),
        ("/etc/haproxy/relay.pem", str(folder / "relay.pem")),
        (
            "127.0.0.1:8700 send-proxy-v2",
            f"{HOST}:{relay} send-proxy-v2 source {PROXY}",
        ),
    ):
        if old not in text:
            raise SystemExit(f"chaos: conf/haproxy.cfg has no {old!r}")
        text = text.replace(old, new)
    return f"global\n    maxconn 8000\n{text}"


# -- the report. Pure


@dataclass(frozen=True)
class Window:
    """The time from one fault to the next.

    Attributes:
        blow: The fault.
        until: When the next one came, or the end, in seconds.
    """

    blow: Blow
    until: float


def windows(blows: Sequence[Blow], end: float) -> list[Window]:
    """The time after each fault."""
    ends = [*(blow.at for blow in blows[1:]), end]
    return [Window(blow, until) for blow, until in zip(blows, ends, strict=True)]


def is_met(exchange: Exchange, blow: Blow) -> bool:
    """Whether an exchange was under way at a fault, or until the relay is back."""
    return exchange.began <= blow.at + BACK and exchange.ended >= blow.at


def absence(exchanges: Sequence[Exchange], window: Window) -> float:
    """Seconds until an exchange that was begun later is complete, and between two."""
    at, end = window.blow.at, min(window.until, window.blow.at + 5 * BACK)
    complete = [one for one in exchanges if one.end == COMPLETE]
    first = min((one.ended for one in complete if one.began >= at), default=end)
    ends = sorted(one.ended for one in complete if at <= one.ended <= end)
    gaps = (other - one for one, other in itertools.pairwise([at, *ends, end]))
    return max(first - at, *gaps)


def deaf(
    exchanges: Sequence[Exchange], window: Window, pairs: int, pause: float
) -> list[int]:
    """Pairs without a complete exchange after a fault.

    Those are left out that wait for the end of an offer until the next fault.
    """
    at, end = window.blow.at, window.until
    back = at + absence(exchanges, window)
    well = {
        one.pair
        for one in exchanges
        if (one.end == COMPLETE and (at <= one.began < end or back <= one.ended < end))
        or (one.end != COMPLETE and one.began < end and one.ended > end - 3 * pause)
    }
    return [pair for pair in range(pairs) if pair not in well]


def unexplained(exchanges: Sequence[Exchange], blows: Sequence[Blow]) -> list[str]:
    """Exchanges that are not complete, and were not met by a fault that may do that."""
    found = []
    for one in exchanges:
        met = {blow.fault.name for blow in blows if is_met(one, blow)}
        if one.end != COMPLETE and not (met & {"kill"} if one.end == SILENCE else met):
            found.append(f"{one.began:.2f}: pair {one.pair}: {one.end}")
    return found


def not_made_again(
    exchanges: Sequence[Exchange], blows: Sequence[Blow], pairs: int
) -> list[str]:
    """Exchanges that fail a second time, without another fault."""
    last: dict[int, Exchange] = {}
    found = []
    for one in sorted(exchanges, key=lambda one: one.began):
        before = last.get(one.pair)
        last[one.pair] = one
        if before is None or COMPLETE in {before.end, one.end}:
            continue
        if not any(is_met(one, blow) for blow in blows):
            found.append(f"pair {one.pair}: {before.end}, then {one.end}")
    silent = [pair for pair in range(pairs) if pair not in last]
    found += [f"pair {pair}: no exchange" for pair in silent]
    return found + [
        f"pair {one.pair}: {one.end} at last"
        for one in last.values()
        if one.end != COMPLETE
    ]


def told(record: Record, spans: Sequence[Window]) -> Iterator[str]:
    """All that was done, in lines."""
    total = Counter(one.end for one in record.exchanges)
    yield f"exchanges: {counted(total)}"
    yield f"pings answered: {record.pongs}; pings of the relay: {record.probes}"
    for window in spans:
        blow = window.blow
        met = Counter(
            one.end for one in record.exchanges if one.began <= blow.at <= one.ended
        )
        away = absence(record.exchanges, window)
        came = ", ".join(
            f"{NAMES[entry.place]} {entry.why or f'{entry.seconds:.2f} s'}"
            for entry in entries(record, window)
        )
        yield f"{blow.fault.name} at {blow.at:.2f}:"
        yield indented(
            (
                f"away {away:.2f} s; new clients: {came}",
                f"exchanges under way: {counted(met)}",
            )
        )


def entries(record: Record, window: Window) -> list[stayers.Entry]:
    """New clients after a fault."""
    at, end = window.blow.at, window.until
    return [entry for entry in record.entries if at <= entry.began < end]


def checks(
    record: Record, blows: Sequence[Blow], end: float, pairs: int, pause: float
) -> Iterator[Check]:
    """All that must be so, as far as clients know."""
    exchanges, spans = record.exchanges, windows(blows, end)
    lost = [f"{sent:.2f}" for sent in record.unanswered if end - sent > PING]
    for words, failures in (
        ("no honest connection is closed", record.closed),
        ("no client gets what ends it: nothing comes twice", record.breaches),
        ("each ping has its pong", lost),
        ("clients do their work", record.others),
        ("only exchanges at a fault fail", unexplained(exchanges, blows)),
        ("they succeed when made again", not_made_again(exchanges, blows, pairs)),
    ):
        yield Check(words, not failures, _some(failures))
    for window in spans:
        blow = window.blow
        words = f"{blow.fault.name} at {blow.at:.2f}"
        away = absence(exchanges, window)
        yield Check(f"{words}: back within {BACK:g} s", away <= BACK, f"{away:.2f} s")
        missing = [f"pair {p}" for p in deaf(exchanges, window, pairs, pause)]
        yield Check(f"{words}: no pair is deaf", not missing, _some(missing))
        found = entries(record, window)
        late = [
            f"{NAMES[entry.place]}: {entry.why or f'{entry.seconds:.2f} s'}"
            for entry in found
            if entry.seconds is None or entry.seconds > BACK
        ]
        yield Check(
            f"{words}: new clients are served within {BACK:g} s",
            len(found) == len(NAMES) and not late,
            _some(late),
        )


def _some(failures: Sequence[str]) -> str:
    if not failures:
        return ""
    return f"{len(failures)}: {'; '.join(failures[:5])}"


# -- the command


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m chaos.survive",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pairs", type=int, help="of clients; 1000 by default")
    parser.add_argument(
        "--pause", type=float, help="seconds between two exchanges of a pair"
    )
    parser.add_argument("--seed", type=int, help="of what is left to chance")
    parser.add_argument("--quick", action="store_true", help="one minute, few clients")
    parser.add_argument(
        "--systemd", action="store_true", help="under systemd; needs root"
    )
    parser.add_argument(
        "--only",
        type=_faults,
        default=FAULTS,
        metavar="FAULT,...",
        help=f"some faults, out of: {', '.join(fault.name for fault in FAULTS)}",
    )
    parser.add_argument("--log", type=Path, help="file to write the log to")
    return parser


def _faults(text: str) -> tuple[Fault, ...]:
    known = {fault.name: fault for fault in FAULTS}
    names = text.split(",")
    if unknown := set(names) - set(known):
        raise argparse.ArgumentTypeError(f"there is no {', '.join(sorted(unknown))}")
    return tuple(known[name] for name in names)


def batter(site: Site, child: Child, options: argparse.Namespace) -> list[Blow]:
    """Do all that is done to the relay; gives when it was done."""
    blows = []
    for fault in options.only:
        for _ in range(fault.quick if options.quick else fault.times):
            time.sleep(fault.seconds)
            if fault.name == "upgrade" and site.installation is not None:
                site.installation.install(1)
            at = time.monotonic()
            site.parent.send(fault.number)
            child.tell("visit")
            blows.append(Blow(fault, at))
    return blows


def run(options: argparse.Namespace, seed: int) -> bool:
    """Do as the command line says; whether all was as it must be."""
    pairs = options.pairs or (QUICK_PAIRS if options.quick else PAIRS)
    pause = options.pause or (QUICK_PAUSE if options.quick else PAUSE)
    print(f"{pairs} pairs, seed {seed}", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="chaos-") as folder,
        contextlib.ExitStack() as stack,
    ):
        site = Site(Path(folder), stack, options)
        if options.log is not None:
            stack.callback(_write_log, site, options.log)
        made = (stayers.main, site.places, pairs, pause, seed)
        child = stack.enter_context(Child(*made))
        before = site.parent.kept()
        child.tell("begin")
        at_first = idle()
        blows = batter(site, child, options)
        time.sleep(options.only[-1].seconds)
        end, at_last = time.monotonic(), idle()
        record: Record = child.leave()
        until(lambda: site.parent.kept() <= before, WAIT)
        after = site.parent.kept()
        verdicts = [*checks(record, blows, end, pairs, pause)]
        kept = f"{before} before, {after} after"
        verdicts.append(Check("the parent's descriptors", after == before, kept))
        if site.installation is not None:
            served = any(
                f"proxyrelay {VERSION} serves" in x for x in site.parent.lines()
            )
            verdicts.append(Check("the other version serves", served))
        wrong = site.parent.stop()
        verdicts.append(Check("the relay stops", not wrong, wrong))
        bad = suspicious(site.parent.lines())
        verdicts.append(Check("nothing in the log", not bad, _some(bad)))
    rest, ticks = (last - first for first, last in zip(at_first, at_last, strict=True))
    print(f"the machine was idle for {rest / ticks:.0%} of the time")
    print("\n".join(told(record, windows(blows, end))))
    print("\n".join(map(str, verdicts)))
    return all(verdict.passed for verdict in verdicts)


def _write_log(site: Site, path: Path) -> None:
    path.write_text("\n".join([*site.parent.lines(), ""]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Do as the command line says; the exit status."""
    options = _parser().parse_args(arguments)
    # So that nothing is left behind then, either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("chaos: terminated"))
    # A relay that compiles its modules at each start is late.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
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
