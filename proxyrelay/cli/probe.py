"""``proxyrelay probe``: the relay as an endpoint sees it."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
import traceback
from argparse import ArgumentTypeError, Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.task import react

from proxyrelay.cli import probe_report
from proxyrelay.cli.probe_exchange import exchange
from proxyrelay.cli.probe_report import UNKNOWN, ProbeFailure, Report, plain
from proxyrelay.cli.probe_steps import look
from proxyrelay.cli.probe_way import Target, Way
from proxyrelay.client import RelayUrl
from proxyrelay.net.clock import use_monotonic_time
from proxyrelay.net.files import read_small

MAX_TOKEN_BYTES = 16 * 1024
"""Longest token."""

MAX_COUNT = 1000
"""Most exchanges of a probe."""

TIMEOUT_ADVICE = {
    "name": "The name servers hang: look at /etc/resolv.conf and at the network.",
    "exchange": "The relay takes offers and does not deliver them, or not their "
    "answers: look at its log and at its load.",
}
"""Advice about the step in which the time ends."""


def probe(arguments: Namespace) -> int:
    """Test a relay from outside, as an endpoint sees it.

    Takes each step to the relay, with its time: name, TCP, proxy, TLS, upgrade,
    registration, and an offer with its answer between two throw-away clients. A failed
    step says what it means, and what to do. The exit statuses are those of monitoring
    plugins: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.

    Example:
        proxyrelay probe wss://relay.example.org:8700
    """
    report = Report(_without_user(arguments.url))
    try:
        _run(arguments, report)
    except ProbeFailure as failure:
        report.failure = failure
    except Exception:
        # Python's own status 1 would be a warning.
        traceback.print_exc()
        report.failure = ProbeFailure("the probe has a defect", "Report it.", UNKNOWN)
    if arguments.textfile is not None:
        try:
            probe_report.write_metrics(report, arguments.textfile, time.time())
        except OSError as error:
            words = f"{arguments.textfile} cannot be written: {error.strerror}"
            report.current = ""
            report.failure = ProbeFailure(words, "Look at its folder.", UNKNOWN)
    if arguments.json:
        text = probe_report.as_json(report)
    else:
        text = "\n".join(probe_report.lines(report, arguments.days))
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError:
        traceback.print_exc()
        # Python flushes standard output again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNKNOWN
    return report.status


def wrong_usage() -> int:
    """Tell a monitoring system of a wrong command line; return the exit status."""
    print("UNKNOWN: the command line is wrong", flush=True)
    return UNKNOWN


def count(text: str) -> int:
    """Parse a number of exchanges; ArgumentTypeError out of bounds."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number <= MAX_COUNT:
        raise ArgumentTypeError(f"expected a number from 1 to {MAX_COUNT}")
    return number


def days(text: str) -> int:
    """Parse a number of days; ValueError below 0."""
    number = int(text)
    if number < 0:
        raise ValueError("no such days")
    return number


def _without_user(url: str) -> str:
    """An address that may not be valid, for output: it may have a password."""
    return plain(re.sub("//.*@", "//", url))


def _run(arguments: Namespace, report: Report) -> None:
    try:
        url = RelayUrl.parse(arguments.url)
    except ValueError as error:
        advice = "Write it as endpoints do: wss://relay.example.org:8700."
        raise ProbeFailure(str(error), advice, UNKNOWN) from None
    report.url = str(url)
    target = Target(
        *(url, _authorization(arguments.token_file)),
        *(arguments.ca_file, arguments.days),
    )
    deadline = time.monotonic() + arguments.timeout
    way = _look(target, report, arguments, deadline)
    _exchange(target, way, report, arguments, deadline)


def _authorization(path: Path | None) -> str | None:
    """Value of the Authorization header, from a file with a token."""
    if path is None:
        return None
    try:
        text = read_small(path, MAX_TOKEN_BYTES).decode("ascii").strip()
    except (OSError, UnicodeError) as error:
        words = getattr(error, "strerror", None) or "it is no text"
        raise ProbeFailure(
            f"{path} cannot be read: {words}", "Name a file with a token.", UNKNOWN
        ) from None
    token = text.removeprefix("Bearer ").strip()
    if not token or not token.isprintable() or " " in token:
        raise ProbeFailure(
            f"{path} has no token alone in one line", "Write one there.", UNKNOWN
        )
    return f"Bearer {token}"


def _look(target: Target, report: Report, arguments: Namespace, deadline: float) -> Way:
    """Take the first steps in a thread: nothing else ends a hanging name server."""
    outcome: list[Way | Exception] = []

    def run() -> None:
        try:
            # A step that ends by itself can tell more.
            outcome.append(look(target, report, deadline - arguments.timeout / 10))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(max(0.0, deadline - time.monotonic()))
    if not outcome or isinstance(outcome[0], TimeoutError):
        raise _late(report, arguments)
    found = outcome[0]
    if isinstance(found, Exception):
        raise found
    return found


def _exchange(
    target: Target, way: Way, report: Report, arguments: Namespace, deadline: float
) -> None:
    """Take the last steps on a reactor."""
    outcome: list[Exception | None] = []

    async def main(reactor: Any) -> None:
        steps = Deferred.fromCoroutine(
            exchange(reactor, target, way, arguments.count, report)
        )
        steps.addTimeout(max(0.0, deadline - reactor.seconds()), reactor)
        with suppress(CancelledError):  # an empty list means an interrupt
            outcome.append(await _error(steps))

    def start(reactor: Any) -> Deferred[None]:
        use_monotonic_time(reactor, time.monotonic)
        running = Deferred.fromCoroutine(main(reactor))
        reactor.addSystemEventTrigger("before", "shutdown", running.cancel)
        return running

    try:
        react(start)
    except SystemExit as ended:
        if ended.code:
            raise
    if not outcome:
        raise KeyboardInterrupt
    (error,) = outcome
    if isinstance(error, DeferredTimeout):
        raise _late(report, arguments)
    if error is not None:
        raise error


async def _error(steps: Deferred[None]) -> Exception | None:
    """Wait for the end; return the error, but for an interrupt."""
    try:
        await steps
    except CancelledError:
        raise
    except Exception as error:
        return error
    return None


def _late(report: Report, arguments: Namespace) -> ProbeFailure:
    if report.exchanges:
        done, seconds = len(report.exchanges), arguments.timeout
        return ProbeFailure(
            f"{done} of {arguments.count} exchanges within {seconds:g} s",
            "Raise --timeout, or lower --count. The slowest took "
            f"{probe_report.milliseconds(max(report.exchanges))}.",
        )
    advice = "A longer --timeout may tell more. Look at the relay's log and load."
    return ProbeFailure(
        "no end within the timeout", TIMEOUT_ADVICE.get(report.current, advice)
    )
