"""Metrics for Prometheus, read from the counters at each scrape.

Labels have few values, and none is a client's choice.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from autobahn import __version__ as autobahn_version  # type: ignore[attr-defined]
from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

import twisted
from proxyrelay import __version__
from proxyrelay.admin.control import ReloadOutcome
from proxyrelay.admin.view import View
from proxyrelay.auth.stats import CacheResult, IntrospectionOutcome
from proxyrelay.errors import Refusal
from proxyrelay.net.timing import Timing
from proxyrelay.switchboard import events
from proxyrelay.switchboard.events import BounceReason
from proxyrelay.switchboard.offers import DropReason
from proxyrelay.switchboard.peer import LeaveReason
from proxyrelay.websocket.lifecycle import Phase
from proxyrelay.websocket.state import RelayState

PREFIX = "proxyrelay_"

Labels = tuple[str, ...]

Values = float | Mapping[Labels, float] | Timing | None


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: Name without `PREFIX`.
        kind: Type in Prometheus.
        about: Meaning in one sentence.
        read: Reads the value, or one for each tuple of labels; None without a value.
        labels: Names of the labels.
        values: Values of the only label, if they are a few words.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    about: str
    read: Callable[[View], Values]
    labels: Labels = ()
    values: tuple[str, ...] = ()


def _words(kind: type[Enum], counts: Mapping[Any, int]) -> dict[Labels, float]:
    """A count for each member of an enumeration, by its value."""
    return {(member.value,): counts.get(member, 0) for member in kind}


def _values(kind: type[Enum]) -> tuple[str, ...]:
    return tuple(member.value for member in kind)


def _names(kind: type[Enum]) -> tuple[str, ...]:
    return tuple(member.name.lower() for member in kind)


def _codes(known: Iterable[int], counts: Mapping[int, int]) -> dict[Labels, float]:
    """A count for each code; known codes begin with 0."""
    return {(str(code),): counts.get(code, 0) for code in sorted({*known, *counts})}


def _phases(view: View) -> Values:
    queues = view.relay.factory.lifecycle.queues
    return {(phase.name.lower(),): len(queues[phase]) for phase in queues}


def _closes(view: View) -> Values:
    return {
        (str(code) if code else "other", "client" if by_client else "relay"): count
        for (code, by_client), count in view.counts.closes.items()
    }


def _kinds(view: View) -> Values:
    return {("offer",): view.counts.offers, ("answer",): view.counts.answers}


def _drops(view: View) -> Values:
    drops = view.counts.by_label(events.Shielded)
    return {(why.name.lower(),): drops[why] for why in DropReason}


def _deaf(view: View) -> Values:
    found = (peer.registration for peer in view.relay.factory.registry)
    return sum(one is not None and one.deaf for one in found)


def _introspections(view: View) -> Values:
    globus = view.globus
    return (
        None if globus is None else _words(IntrospectionOutcome, globus.stats.outcomes)
    )


def _introspecting(view: View) -> Values:
    return None if view.globus is None else view.globus.stats.durations


def _cache(view: View) -> Values:
    return (
        None
        if view.globus is None
        else _words(CacheResult, view.globus.stats.cache_results)
    )


def _breaker(view: View) -> Values:
    return None if view.globus is None else view.globus.breaker != "closed"


_BUILD: Mapping[Labels, float] = {
    (
        __version__,
        platform.python_version(),
        twisted.__version__,
        autobahn_version,
    ): 1
}

_REFUSALS = frozenset(kind.code for kind in Refusal.__subclasses__())

_STATUSES = (400, 403, 405, 426, 431, 505)

_FAILURES = (1002, 1007, 1008, 1009)

METRICS = (
    Metric(
        "build_info",
        "gauge",
        "1, with the versions in its labels.",
        lambda _: _BUILD,
        ("version", "python", "twisted", "autobahn"),
    ),
    Metric(
        "ready",
        "gauge",
        "Whether new clients are served: 1 if so, as /readyz says.",
        lambda view: not view.obstacles(),
    ),
    Metric(
        "draining",
        "gauge",
        "Whether new clients are left to another relay: 1 if so.",
        lambda view: view.relay.factory.state is RelayState.DRAINING,
    ),
    Metric(
        "clients",
        "gauge",
        "Registered clients.",
        lambda view: len(view.relay.factory.registry),
    ),
    Metric(
        "connections",
        "gauge",
        "Open connections, by the phase of their life.",
        _phases,
        ("phase",),
        tuple(name for name in _names(Phase) if name != Phase.GONE.name.lower()),
    ),
    Metric(
        "users",
        "gauge",
        "Users with connections, who have proved who they are.",
        lambda view: view.relay.factory.limits.users,
    ),
    Metric(
        "unregistered",
        "gauge",
        "Connections that hold no UUID yet.",
        lambda view: view.relay.factory.limits.unregistered,
    ),
    Metric(
        "deaf_clients",
        "gauge",
        "Registered clients that came back and seem to read nothing since.",
        _deaf,
    ),
    Metric(
        "unanswered_clients",
        "gauge",
        "Registered clients that left the last offer to them unanswered.",
        lambda view: view.unanswered().clients,
    ),
    Metric(
        "unanswered_offers_max",
        "gauge",
        "The most offers in a row that a registered client left unanswered.",
        lambda view: view.unanswered().most,
    ),
    Metric(
        "accepted_connections_total",
        "counter",
        "Accepted connections.",
        lambda view: view.counts.accepted,
    ),
    Metric(
        "registrations_total",
        "counter",
        "Accepted registrations, further ones of a client included.",
        lambda view: view.counts.total(events.Registered),
    ),
    Metric(
        "departures_total",
        "counter",
        "Clients that hold their UUID no longer, by the cause.",
        lambda view: _words(LeaveReason, view.counts.by_label(events.Left)),
        ("cause",),
        _values(LeaveReason),
    ),
    Metric(
        "refusals_total",
        "counter",
        "Clients that were closed for what they did or are, by the close code.",
        lambda view: _codes(_REFUSALS, view.counts.by_label(events.Refused)),
        ("code",),
    ),
    Metric(
        "rejections_total",
        "counter",
        "Requests that were answered with an HTTP error, by the status.",
        lambda view: _codes(_STATUSES, view.counts.by_label(events.Rejected)),
        ("status",),
    ),
    Metric(
        "failures_total",
        "counter",
        "Clients that broke the WebSocket protocol, by the close code.",
        lambda view: _codes(_FAILURES, view.counts.by_label(events.Failed)),
        ("code",),
    ),
    Metric(
        "dropped_connections_total",
        "counter",
        "Connections without a UUID that ended without a close handshake.",
        lambda view: view.counts.total(events.Dropped),
    ),
    Metric(
        "probes_total",
        "counter",
        "Connections that their clients have closed before they sent a byte.",
        lambda view: view.counts.total(events.Probed),
    ),
    Metric(
        "closes_total",
        "counter",
        "Close handshakes, by the code and by who has begun them.",
        _closes,
        ("code", "by"),
    ),
    Metric(
        "slowed_total",
        "counter",
        "Clients that sent faster than they may.",
        lambda view: view.counts.total(events.Slowed),
    ),
    Metric(
        "messages_forwarded_total",
        "counter",
        "Messages that were handed to their receivers.",
        _kinds,
        ("kind",),
        ("offer", "answer"),
    ),
    Metric(
        "messages_returned_total",
        "counter",
        "Messages that went back to their senders with an error, by the reason.",
        lambda view: _words(BounceReason, view.counts.by_label(events.Returned)),
        ("reason",),
        _values(BounceReason),
    ),
    Metric(
        "messages_dropped_total",
        "counter",
        "Messages that were dropped since they would have harmed their receivers.",
        _drops,
        ("reason",),
        _names(DropReason),
    ),
    Metric(
        "offers_held_total",
        "counter",
        "Offers that had to wait for a peer to come back.",
        lambda view: view.counts.total(events.Held),
    ),
    Metric(
        "offers_outstanding",
        "gauge",
        "Offers that were neither answered nor returned yet.",
        lambda view: len(view.relay.factory.relay.broker.ledger),
    ),
    Metric(
        "offers_waiting",
        "gauge",
        "Those of them that were not passed on yet.",
        lambda view: view.relay.factory.relay.broker.ledger.held,
    ),
    Metric(
        "received_bytes_total",
        "counter",
        "Bytes that clients have sent, as WebSocket and HTTP count them.",
        lambda view: view.counts.received_bytes,
    ),
    Metric(
        "sent_bytes_total",
        "counter",
        "The same that they were sent.",
        lambda view: view.counts.sent_bytes,
    ),
    Metric(
        "offer_to_answer_seconds",
        "histogram",
        "From the passing on of an offer to its answer.",
        lambda view: view.counts.answering,
    ),
    Metric(
        "offer_wait_seconds",
        "histogram",
        "From an offer that waits to its passing on.",
        lambda view: view.counts.waiting,
    ),
    Metric(
        "handshake_seconds",
        "histogram",
        "From the accepted connection to the end of the opening handshake.",
        lambda view: view.counts.handshakes,
    ),
    Metric(
        "introspection_seconds",
        "histogram",
        "Questions to Globus Auth about a token.",
        _introspecting,
    ),
    Metric(
        "introspections_total",
        "counter",
        "The same, by what came of them.",
        _introspections,
        ("outcome",),
        _values(IntrospectionOutcome),
    ),
    Metric(
        "introspection_cache_total",
        "counter",
        "Whether the answer about a token was known; stale answers follow on misses.",
        _cache,
        ("result",),
        _values(CacheResult),
    ),
    Metric(
        "introspection_breaker_open",
        "gauge",
        "Whether Globus Auth is left alone since it does not answer: 1 if so.",
        _breaker,
    ),
    Metric(
        "event_loop_lag_seconds",
        "histogram",
        "How late the event loop is, four times a second.",
        lambda view: view.lag,
    ),
    Metric(
        "certificate_expiry_timestamp_seconds",
        "gauge",
        "When the certificate that is served expires, in seconds since 1970.",
        lambda view: view.expiry,
    ),
    Metric(
        "log_lines_lost_total",
        "counter",
        "Lines that could not be written, by the log: the usual one or the audit log.",
        lambda view: {(log,): n for log, n in view.relay.lost_lines.items()},
        ("log",),
        ("log", "audit"),
    ),
    Metric(
        "certificate_renewal_timestamp_seconds",
        "gauge",
        "From when it is due for renewal: a third of its lifetime is left, or half of "
        "one below ten days.",
        lambda view: view.renewal,
    ),
    Metric(
        "reloads_total",
        "counter",
        "Reloads of the settings, by what came of them.",
        lambda view: _words(ReloadOutcome, view.reloads),
        ("outcome",),
        _values(ReloadOutcome),
    ),
)
"""All metrics, beside ``process_`` and ``python_`` ones."""


class Metrics(Collector):
    """Collects all metrics.

    Args:
        view: Reads the relay.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def describe(self) -> Iterable[Family]:
        """Name all metrics, without their values."""
        return [_family(metric) for metric in METRICS]

    def collect(self) -> Iterator[Family]:
        """Read all metrics."""
        for metric in METRICS:
            yield _filled(metric, metric.read(self._view))

    def text(self, accept: str) -> tuple[bytes, str]:
        """All metrics in the format of a request.

        Args:
            accept: The ``Accept`` header.

        Returns:
            The text, and its content type.
        """
        try:
            encoder, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # an unknown version
            encoder, content_type = choose_encoder("")
        return encoder(self._registry), content_type


def _family(metric: Metric) -> Any:
    kinds = {
        "counter": CounterMetricFamily,
        "gauge": GaugeMetricFamily,
        "histogram": HistogramMetricFamily,
    }
    return kinds[metric.kind](PREFIX + metric.name, metric.about, labels=metric.labels)


def _filled(metric: Metric, values: Values) -> Any:
    family = _family(metric)
    if isinstance(values, Timing):
        family.add_metric((), list(values.buckets()), values.total)
    elif isinstance(values, Mapping):
        for labels, value in values.items():
            family.add_metric(labels, value)
    elif values is not None:
        family.add_metric((), float(values))
    return family
