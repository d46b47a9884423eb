"""What ``proxyrelay probe`` has found, as text, JSON and metrics."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from proxyrelay.errors import ProxyRelayError

OK, WARNING, CRITICAL, UNKNOWN = range(4)
"""Exit statuses of monitoring plugins."""

MAX_LINE_CHARACTERS = 500
"""Characters of a text that are shown. A certificate may have thousands of names."""

STATUS_NAMES = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


class ProbeFailure(ProxyRelayError):
    """A step has failed. The text says what that means.

    Attributes:
        advice: What to do about it.
        status: `CRITICAL`, or `UNKNOWN` if the probe cannot tell.
    """

    def __init__(self, what: str, advice: str, status: int = CRITICAL) -> None:
        super().__init__(plain(what))
        self.advice = plain(advice)
        self.status = status


@dataclass(frozen=True)
class Step:
    """A step that is done.

    Attributes:
        name: Its name.
        seconds: Its time.
        detail: What was found.
    """

    name: str
    seconds: float
    detail: str


@dataclass(frozen=True)
class CertificateFound:
    """The chain of certificates that the relay sends.

    Attributes:
        names: Hosts of the relay's own certificate.
        issuer: Issuer of the last one.
        not_after: Earliest end of those that are no root, aware of its zone.
        days_left: Days until then.
        sent: Number of certificates.
    """

    names: tuple[str, ...]
    issuer: str
    not_after: datetime
    days_left: int
    sent: int


@dataclass
class Report:
    """The state of a probe; one thread writes it at a time.

    Attributes:
        url: Address of the relay.
        steps: Steps that are done, in order.
        current: Name of the step that runs; empty between two steps.
        warnings: What is wrong, although the relay works.
        failure: Why the probe has ended early.
        exchanges: Seconds of each exchange.
        certificate: What the relay sends, over TLS.
    """

    url: str
    steps: list[Step] = field(default_factory=list)
    current: str = ""
    warnings: list[str] = field(default_factory=list)
    failure: ProbeFailure | None = None
    exchanges: list[float] = field(default_factory=list)
    certificate: CertificateFound | None = None

    @contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Time a step. The list takes the parts of its detail."""
        self.current = name
        start, parts = time.monotonic(), list[str]()
        yield parts
        self.done(name, time.monotonic() - start, ", ".join(parts))

    def done(self, name: str, seconds: float, detail: str) -> None:
        """Add a step that is done."""
        self.steps.append(Step(name, seconds, plain(detail)))
        self.current = ""

    def warn(self, words: str) -> None:
        """Add a warning."""
        self.warnings.append(plain(words))

    @property
    def status(self) -> int:
        """Exit status."""
        if self.failure is not None:
            return self.failure.status
        return WARNING if self.warnings else OK

    @property
    def summary(self) -> str:
        """One line without the status."""
        if self.failure is not None:
            step = f"{self.current}: " if self.current else ""
            return f"{step}{self.failure}"
        if self.warnings:
            return self.warnings[0]
        return f"{self.url} answers in {milliseconds(self.exchange_seconds[1])}"

    @property
    def exchange_seconds(self) -> tuple[float, float, float]:
        """Least, median and most seconds of an exchange."""
        found = self.exchanges or [0.0]
        return min(found), statistics.median(found), max(found)


def plain(text: str) -> str:
    """One short line of printable ASCII: peers choose some of the words."""
    spelt = text.encode("ascii", "backslashreplace").decode()
    line = "".join(c if c.isprintable() else " " for c in spelt)
    if len(line) <= MAX_LINE_CHARACTERS:
        return line
    return f"{line[:MAX_LINE_CHARACTERS]}..."


def milliseconds(seconds: float) -> str:
    """A time for people."""
    return f"{1000 * seconds:.1f} ms"


def lines(report: Report, days: int) -> Iterator[str]:
    """The report as a monitoring plugin prints it.

    Args:
        report: What was found.
        days: Days before the end of a certificate at which warnings begin.
    """
    summary = report.summary.replace("|", "/")
    measures = _measures(report, days)
    first = f"{STATUS_NAMES[report.status]}: {summary}"
    yield f"{first} | {measures}" if measures else first
    for step in report.steps:
        detail = step.detail.replace("|", "/")
        yield f"{step.name:<13}{milliseconds(step.seconds):>12}  {detail}".rstrip()
    if report.failure is not None:
        if report.current:
            yield f"{report.current:<13}{'failed':>12}  {summary.partition(': ')[2]}"
        yield f"what to do: {report.failure.advice}".replace("|", "/")
    for warning in report.warnings:
        yield f"warning: {warning}".replace("|", "/")


def _measures(report: Report, days: int) -> str:
    """Performance data of the Monitoring Plugins' guidelines."""
    found = [f"{step.name}={step.seconds:.6f}s" for step in report.steps]
    if report.certificate is not None:
        found.append(f"certificate_days={report.certificate.days_left};{days}:;0:")
    return " ".join(found)


def as_json(report: Report) -> str:
    """The report for programs."""
    failure, certificate = report.failure, report.certificate
    least, median, most = report.exchange_seconds
    found: dict[str, Any] = {
        "status": STATUS_NAMES[report.status],
        "exit_status": report.status,
        "url": report.url,
        "summary": report.summary,
        "failed_step": report.current if failure else None,
        "advice": failure.advice if failure else None,
        "warnings": report.warnings,
        "steps": [vars(step) for step in report.steps],
        "certificate": certificate
        and {**vars(certificate), "not_after": certificate.not_after.isoformat()},
        "exchanges": (
            report.exchanges
            and {
                "count": len(report.exchanges),
                "min_seconds": least,
                "median_seconds": median,
                "max_seconds": most,
            }
        )
        or None,
    }
    return json.dumps(found, indent=2)


def write_metrics(report: Report, path: Path, now: float) -> None:
    """Write a file for the textfile collector of Prometheus's node exporter.

    The file is replaced in one step.

    Args:
        report: What was found.
        path: The file; the collector wants a name that ends in ``.prom``.
        now: Seconds since 1970.

    Raises:
        OSError: It cannot be written.
    """
    registry = CollectorRegistry()

    def gauge(name: str, words: str, *labels: str) -> Gauge:
        return Gauge(
            f"proxyrelay_probe_{name}", words, ("url", *labels), registry=registry
        )

    gauge("status", "0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.").labels(report.url).set(
        report.status
    )
    gauge("time_seconds", "End of the probe, since 1970.").labels(report.url).set(now)
    steps = gauge("step_seconds", "Time of each step that is done.", "step")
    for step in report.steps:
        steps.labels(report.url, step.name).set(step.seconds)
    if report.certificate is not None:
        gauge("certificate_end_seconds", "End of the certificate, since 1970.").labels(
            report.url
        ).set(report.certificate.not_after.timestamp())
    if report.exchanges:
        exchange = gauge("exchange_seconds", "Time of an offer and its answer.", "of")
        names = ("min", "median", "max")
        for name, seconds in zip(names, report.exchange_seconds, strict=True):
            exchange.labels(report.url, name).set(seconds)
    write_to_textfile(str(path), registry)
