"""Metrics of a relay in a cluster. Without one they have no values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from proxyrelay.admin import nodes
from proxyrelay.admin.prometheus import (
    Metric,
    Summary,
    Values,
    counter,
    gauge,
    summary,
)
from proxyrelay.admin.view import View
from proxyrelay.switchboard.events import BounceReason

if TYPE_CHECKING:
    from proxyrelay.cluster.member import Member


def _cluster(read: Callable[[Member], Any]) -> Callable[[View], Any]:
    """Read numbers of the cluster; there are none without it."""
    return lambda view: None if view.member is None else read(view.member)


def _by_word(
    name: str,
    about: str,
    label: str,
    known: Mapping[str, str],
    counts: Callable[[Member], Mapping[str, int]],
) -> Metric:
    """Count by known words; each has a value of the label."""

    def read(member: Member) -> Values:
        found = counts(member)
        return {(value,): found.get(word, 0) for word, value in known.items()}

    values = tuple(known.values())
    return counter(name, about, _cluster(read), (label,), values)


_FORWARD_RESULTS = {
    "SENT": "sent",
    "HOLD": "held",
    "NONE": "unknown",
    "FOREIGN": "foreign",
    "NotSent": "not_sent",
    "NoReply": "no_reply",
    "Refused": "refused",
}
"""Values of a label by the engine's words, and by the errors of the link."""

RETURN_REASONS = {
    word: word
    for word in ("gone", "answer", *(why.name.lower() for why in BounceReason))
}
"""Values of a label by the reasons of other relays."""

CLUSTER_METRICS = (
    gauge(
        "cluster_ready",
        "Whether the engine of the cluster can be reached: 1 if so.",
        _cluster(lambda member: member.link.ready),
    ),
    gauge(
        "cluster_lease_age_seconds",
        "Seconds since this relay has renewed its lease; none before the first one.",
        _cluster(nodes.lease_age),
    ),
    gauge(
        "cluster_unsynced",
        "Registered clients that the engine may not know.",
        _cluster(lambda member: len(member.claims.unsynced)),
    ),
    _by_word(
        "cluster_forwards_total",
        "Offers for clients of other relays, by the engine's reply.",
        "result",
        _FORWARD_RESULTS,
        lambda member: member.node.forwards,
    ),
    _by_word(
        "cluster_returns_total",
        "Offers and answers that other relays sent back, by the reason.",
        "reason",
        RETURN_REASONS,
        lambda member: member.node.returns,
    ),
    counter(
        "cluster_stale_total",
        "Registrations for which the engine named another relay.",
        _cluster(lambda member: member.claims.stale),
    ),
    counter(
        "cluster_asserted_total",
        "Registrations that the engine was told again.",
        _cluster(lambda member: member.claims.asserted),
    ),
    counter(
        "cluster_ignored_total",
        "Messages of other relays that were repeated, too late, or malformed.",
        _cluster(lambda member: member.node.ignored),
    ),
    counter(
        "cluster_connects_total",
        "How often the engine could be reached anew.",
        _cluster(lambda member: member.link.connects),
    ),
    summary(
        "cluster_engine_seconds",
        "Calls of the engine.",
        _cluster(lambda member: Summary(member.calls, member.engine_seconds)),
    ),
)
