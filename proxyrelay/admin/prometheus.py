"""Kinds of metrics, and their collection for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, Literal, NamedTuple

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from proxyrelay.admin.view import View
from proxyrelay.net.timing import Timing
from proxyrelay.switchboard.events import Event

PREFIX = "proxyrelay_"

FAMILIES: dict[str, Any] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
    "summary": SummaryMetricFamily,
}

Labels = tuple[str, ...]


class Summary(NamedTuple):
    """Number and sum of some durations in seconds."""

    number: int
    seconds: float


Values = float | Mapping[Labels, float] | Timing | Summary | None
"""A value, or one for each tuple of labels; None without a value."""

Counts = Callable[[View], Mapping[Any, int] | None]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: Name without `PREFIX`.
        about: Meaning in one sentence.
        values: Values of the only label, if they are a few words.
    """

    kind: Literal["counter", "gauge", "histogram", "summary"]
    name: str
    about: str
    read: Callable[[View], Values]
    labels: Labels = ()
    values: tuple[str, ...] = ()


counter = partial(Metric, "counter")
gauge = partial(Metric, "gauge")
histogram = partial(Metric, "histogram")
summary = partial(Metric, "summary")


def total(name: str, about: str, event: type[Event]) -> Metric:
    """Count an event."""
    return counter(name, about, lambda view: view.counts.total(event))


def words(
    name: str, about: str, label: str, members: Mapping[Enum, str], counts: Counts
) -> Metric:
    """Count by the members of an enumeration."""

    def read(view: View) -> Values:
        found = counts(view)
        if found is None:
            return None
        return {(word,): found.get(member, 0) for member, word in members.items()}

    return counter(name, about, read, (label,), tuple(members.values()))


def codes(
    name: str, about: str, label: str, known: Iterable[int], event: type[Event]
) -> Metric:
    """Count by code; known codes begin with 0."""

    def read(view: View) -> Values:
        counts = view.counts.by_label(event)
        return {(str(code),): counts[code] for code in sorted({*known, *counts})}

    return counter(name, about, read, (label,))


def by_label(event: type[Event]) -> Counts:
    """Numbers of an event by its label."""
    return lambda view: view.counts.by_label(event)


def by_value(kind: type[Enum]) -> dict[Enum, str]:
    """Members of an enumeration with their values."""
    return {member: member.value for member in kind}


class Metrics(Collector):
    """Collects metrics of a relay, and those of its process and of Python."""

    def __init__(self, metrics: Sequence[Metric], view: View) -> None:
        self._metrics = metrics
        self._view = view
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def collect(self) -> Iterator[Any]:
        """Read all metrics."""
        for metric in self._metrics:
            name = PREFIX + metric.name
            family = FAMILIES[metric.kind](name, metric.about, labels=metric.labels)
            values = metric.read(self._view)
            if isinstance(values, Timing):
                family.add_metric((), list(values.buckets()), values.total)
            elif isinstance(values, Summary):
                family.add_metric((), values.number, values.seconds)
            elif isinstance(values, Mapping):
                for labels, value in values.items():
                    family.add_metric(labels, value)
            elif values is not None:
                family.add_metric((), float(values))
            yield family

    def text(self, accept: str) -> tuple[bytes, str]:
        """All metrics, and their content type, for an ``Accept`` header."""
        try:
            encoder, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # an unknown version
            encoder, content_type = choose_encoder("")
        return encoder(self._registry), content_type
