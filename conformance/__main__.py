"""The official WebSocket test suite against the relay.

``python -m conformance FOLDER`` installs ``autobahntestsuite`` in the folder, serves
relays on the loopback interface and lets the suite at them. The exit status is 0 if all
cases end as expected, or where there is no CPython 2.7 to run the suite; 1 if one does
not; 2 if the suite could not be run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as Overdue
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import react
from twisted.python.failure import Failure

from conformance.report import (
    ECHO,
    RELAY,
    Expectation,
    Outcome,
    ReportError,
    read,
    summary,
)
from conformance.suite import (
    SUITE,
    SuiteError,
    candidates,
    environment,
    find_python,
    install,
)
from proxyrelay.auth.anonymous import AnonymousAuthenticator
from proxyrelay.config import Config, Timeouts
from proxyrelay.errors import PeerGone
from proxyrelay.service.relay_service import RelayService
from proxyrelay.websocket.protocol import RelayProtocol
from proxyrelay.websocket.state import Phase

LIMIT = 300.0
"""Seconds after which a run of the suite fails. The longest takes half a minute."""

AGENT = "proxyrelay"

BINARY = 2


def echo(protocol: RelayProtocol, payload: bytes, isBinary: bool) -> None:
    """Send a message back. It takes the place of ``RelayProtocol.onMessage``."""
    if protocol.state != protocol.STATE_OPEN:
        return
    if protocol.phase is Phase.REGISTERING:
        # The first message takes the place of a registration, too.
        protocol._enter(Phase.READY)
    if isBinary:
        protocol.sendFrame(opcode=BINARY, payload=payload)
        return
    with contextlib.suppress(PeerGone):
        protocol.answer(payload)


def echoing(served: type[RelayProtocol]) -> type[RelayProtocol]:
    """The protocol that a relay serves, with an echo for its rules.

    Args:
        served: ``RelayFactory.protocol``, which carries the options.
    """
    return type("EchoProtocol", (served,), {"onMessage": echo})


def relay(reactor: Any) -> RelayService:
    """A relay as it is."""
    return RelayService(
        Config(host="127.0.0.1", port=0), AnonymousAuthenticator(), None, reactor
    )


def echo_relay(reactor: Any) -> RelayService:
    """A relay that sends everything back, and waits for no registration."""
    service = RelayService(
        Config(host="127.0.0.1", port=0, timeouts=Timeouts(registration=86400)),
        AnonymousAuthenticator(),
        None,
        reactor,
    )
    served: Any = service.factory.protocol
    service.factory.protocol = echoing(served)
    return service


class Child(ProcessProtocol):
    """A process that the reactor runs.

    Attributes:
        ended: Fires with its output. Cancel it to kill the process.
    """

    transport: Any

    def __init__(self) -> None:
        self.ended: Deferred[str] = Deferred(lambda _: self.kill())
        self._output = bytearray()

    def kill(self) -> None:
        """End the process, if it has not ended yet."""
        with contextlib.suppress(ProcessExitedAlready):
            self.transport.signalProcess("KILL")

    def childDataReceived(
        self,
        childFD: int,  # noqa: ARG002, N803
        data: bytes,
    ) -> None:
        """Keep what it says."""
        self._output += data

    def processEnded(self, reason: Failure) -> None:  # noqa: ARG002, N802
        """End. The suite's exit status says nothing."""
        if not self.ended.called:
            self.ended.callback(self._output.decode(errors="replace"))


async def fuzz(
    reactor: Any, wstest: Path, service: RelayService, expected: Expectation, out: Path
) -> dict[str, Outcome]:
    """Run the suite's cases against a relay.

    Args:
        reactor: Runs everything.
        wstest: The suite's command.
        service: The relay.
        expected: Which cases.
        out: Where the reports go.

    Raises:
        SuiteError: It did not end.
        ReportError: It has left no report.
    """
    service.startService()
    try:
        spec = _order(service.urls[0], expected, out)
        child = Child()
        command = [str(wstest), "--mode=fuzzingclient", f"--spec={spec}"]
        reactor.spawnProcess(child, command[0], command, environment(), str(out))
        trigger = reactor.addSystemEventTrigger("before", "shutdown", child.kill)
        try:
            said = await child.ended.addTimeout(LIMIT, reactor)
        except Overdue:
            raise SuiteError(f"the suite did not end within {LIMIT:g} s") from None
        finally:
            reactor.removeSystemEventTrigger(trigger)
    finally:
        await service.stopService()
    return _reported(out, said)


def _order(url: str, expected: Expectation, out: Path) -> Path:
    """Write down what the suite has to do; an older report goes."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    order = {
        "outdir": str(out),
        "servers": [{"agent": AGENT, "url": url}],
        "cases": expected.cases,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    spec = out / "spec.json"
    spec.write_text(json.dumps(order), encoding="utf-8")
    return spec


def _reported(out: Path, said: str) -> dict[str, Outcome]:
    index = out / "index.json"
    if not index.exists():
        raise ReportError(f"the suite has left no report:\n{said}")
    return read(index.read_text(encoding="utf-8"), AGENT)


def runs(reactor: Any) -> Iterator[tuple[str, RelayService, Expectation]]:
    """Each run: its name, what is tested, and what it has to give."""
    yield "echo", echo_relay(reactor), ECHO
    yield "relay", relay(reactor), RELAY


async def conform(reactor: Any, wstest: Path, reports: Path) -> None:
    """Do all runs, and print what comes of them.

    Raises:
        SystemExit: With the exit status, unless that is 0.
    """
    differ = False
    for name, service, expected in runs(reactor):
        try:
            found = await fuzz(reactor, wstest, service, expected, reports / name)
        except (SuiteError, ReportError) as error:
            print(f"conformance: {name}: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        differences = expected.differences(found)
        differ = differ or bool(differences)
        verdict = "NOT as expected" if differences else "as expected"
        print(f"{name}: {verdict}; see {reports / name / 'index.html'}")
        for line in (*summary(found), *differences):
            print(f"  {line}")
    if differ:
        raise SystemExit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m conformance")
    parser.add_argument("folder", type=Path, help="where suite and reports are kept")
    parser.add_argument("--python27", metavar="FILE", help="a CPython 2.7")
    options = parser.parse_args(arguments)
    given: str | None = options.python27
    python = find_python([given] if given else candidates(os.environ))
    if python is None and given:
        parser.error(f"{given} is no CPython 2.7")
    if python is None:
        print("conformance: SKIPPED: no CPython 2.7, which alone runs the suite")
        return
    folder: Path = options.folder.resolve()
    print(f"conformance: {SUITE} under {python}", flush=True)
    try:
        wstest = install(python, folder / "wstest")
    except SuiteError as error:
        print(f"conformance: no suite: {error}", file=sys.stderr)
        sys.exit(2)
    react(
        lambda reactor: Deferred.fromCoroutine(
            conform(reactor, wstest, folder / "reports")
        )
    )


if __name__ == "__main__":
    main()
