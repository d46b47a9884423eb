"""Metrics for Prometheus, read from the counters at each scrape.

Labels have few values, and none is a client's choice.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from enum import Enum
from typing import Any

from autobahn import __version__ as autobahn_version  # type: ignore[attr-defined]

import twisted
from proxyrelay import __version__
from proxyrelay.admin.cluster_metrics import CLUSTER_METRICS
from proxyrelay.admin.control import ReloadOutcome
from proxyrelay.admin.prometheus import (
    Values,
    by_label,
    by_value,
    codes,
    counter,
    gauge,
    histogram,
    total,
    words,
)
from proxyrelay.admin.report import Survival
from proxyrelay.admin.view import View
from proxyrelay.auth.authenticator import GlobusAuthenticator
from proxyrelay.auth.stats import CacheResult, IntrospectionOutcome
from proxyrelay.errors import PolicyViolation, Refusal
from proxyrelay.switchboard import events
from proxyrelay.switchboard.candidates import WORDS, Cause
from proxyrelay.switchboard.events import BounceReason
from proxyrelay.switchboard.offers import DropReason
from proxyrelay.switchboard.peer import LeaveReason
from proxyrelay.websocket.state import Phase, RelayState


def _globus(read: Callable[[GlobusAuthenticator], Any]) -> Callable[[View], Any]:
    """Read numbers of Globus Auth; there are none without it."""
    return lambda view: None if view.globus is None else read(view.globus)


def _survival(read: Callable[[Survival], Any]) -> Callable[[View], Any]:
    """Read numbers of kept connections; there are none if they are not kept."""

    def found(view: View) -> Any:
        survival = view.survival
        return None if survival is None else read(survival)

    return found


_DROP_REASONS: dict[Enum, str] = {why: why.name.lower() for why in DropReason}

_CAUSES = {cause: cause.name.lower() for cause in Cause}

_PHASES = {phase: phase.name.lower() for phase in Phase if phase is not Phase.GONE}


def _connections(view: View) -> Values:
    queues = view.factory.lifecycle.queues
    return {(name,): len(queues[phase]) for phase, name in _PHASES.items()}


def _closes(view: View) -> Values:
    return {
        (str(code) if code else "other", "client" if by_client else "relay"): count
        for (code, by_client), count in view.counts.closes.items()
    }


def _deaf(view: View) -> Values:
    found = (peer.registration for peer in view.factory.registry)
    return sum(one is not None and one.deaf for one in found)


def _unconnected(view: View) -> Values:
    found = view.causes()
    return {(word,): found[cause] for cause, word in _CAUSES.items()}


_VERSIONS = (
    *(__version__, platform.python_version()),
    *(twisted.__version__, autobahn_version),
)

REFUSAL_CODES = frozenset(kind.code for kind in Refusal.__subclasses__()) - {
    PolicyViolation.code
}
"""Close codes of refusals. A policy violation counts among ``failures_total``."""

METRICS = (
    gauge(
        "build_info",
        "1, with the versions in its labels.",
        lambda _: {_VERSIONS: 1},
        ("version", "python", "twisted", "autobahn"),
    ),
    gauge(
        "ready",
        "Whether new clients are served: 1 if so, as /readyz says.",
        lambda view: not view.obstacles(),
    ),
    gauge(
        "draining",
        "Whether new clients are left to another relay: 1 if so.",
        lambda view: view.factory.state is RelayState.DRAINING,
    ),
    gauge("clients", "Registered clients.", lambda view: len(view.factory.registry)),
    gauge(
        "connections",
        "Open connections, by the phase of their life.",
        _connections,
        ("phase",),
        tuple(_PHASES.values()),
    ),
    gauge(
        "users",
        "Users with connections, who have proved who they are.",
        lambda view: view.factory.limits.users,
    ),
    gauge(
        "unregistered",
        "Connections that hold no UUID yet.",
        lambda view: view.factory.limits.unregistered,
    ),
    gauge(
        "deaf_clients",
        "Registered clients that came back and seem to read nothing since.",
        _deaf,
    ),
    gauge(
        "unanswered_clients",
        "Registered clients that left the last offer to them unanswered.",
        lambda view: view.unanswered().clients,
    ),
    gauge(
        "unanswered_offers_max",
        "The most offers in a row that a registered client left unanswered.",
        lambda view: view.unanswered().most,
    ),
    gauge(
        "candidate_clients",
        "Registered clients by the kinds of candidates that their last offer or answer "
        "carried. One client may count several times.",
        lambda view: {(kind,): n for kind, n in view.reach().candidates.items()},
        ("kind",),
        tuple(WORDS.values()),
    ),
    gauge(
        "private_only_clients",
        "Registered clients that offer private addresses only: peers on other networks "
        "cannot reach them.",
        lambda view: view.reach().private_only,
    ),
    gauge(
        "unconnected_pairs",
        "Pairs of clients that exchange offers and answers again and again, by the "
        "likely cause.",
        _unconnected,
        ("cause",),
        tuple(_CAUSES.values()),
    ),
    counter(
        "accepted_connections_total",
        "Accepted connections.",
        lambda view: view.counts.accepted,
    ),
    total(
        "registrations_total",
        "Accepted registrations, further ones of a client included.",
        events.Registered,
    ),
    words(
        "departures_total",
        "Clients that hold their UUID no longer, by the cause.",
        "cause",
        by_value(LeaveReason),
        by_label(events.Left),
    ),
    codes(
        "refusals_total",
        "Clients that were closed for what they did or are, by the close code.",
        "code",
        REFUSAL_CODES,
        events.Refused,
    ),
    codes(
        "rejections_total",
        "Requests that were answered with an HTTP error, by the status.",
        "status",
        (400, 403, 405, 426, 431, 505),
        events.Rejected,
    ),
    codes(
        "failures_total",
        "Clients that broke the WebSocket protocol, by the close code.",
        "code",
        (1002, 1007, 1008, 1009),
        events.Failed,
    ),
    total(
        "dropped_connections_total",
        "Connections without a UUID that ended without a close handshake.",
        events.Dropped,
    ),
    total(
        "probes_total",
        "Connections that their clients have closed before they sent a byte.",
        events.Probed,
    ),
    counter(
        "closes_total",
        "Close handshakes, by the code and by who has begun them.",
        _closes,
        ("code", "by"),
    ),
    total("slowed_total", "Clients that sent faster than they may.", events.Slowed),
    counter(
        "messages_forwarded_total",
        "Messages that were handed to their receivers.",
        lambda view: {("offer",): view.counts.offers, ("answer",): view.counts.answers},
        ("kind",),
        ("offer", "answer"),
    ),
    words(
        "messages_returned_total",
        "Messages that went back to their senders with an error, by the reason.",
        "reason",
        by_value(BounceReason),
        by_label(events.Returned),
    ),
    words(
        "messages_dropped_total",
        "Messages that were dropped since they would have harmed their receivers.",
        "reason",
        _DROP_REASONS,
        by_label(events.Shielded),
    ),
    total(
        "offers_held_total",
        "Offers that had to wait for a peer to come back.",
        events.Held,
    ),
    gauge(
        "offers_outstanding",
        "Offers that were neither answered nor returned yet.",
        lambda view: len(view.factory.relay.broker.table),
    ),
    gauge(
        "offers_waiting",
        "Those of them that were not passed on yet.",
        lambda view: view.factory.relay.broker.table.held,
    ),
    counter(
        "received_bytes_total",
        "Bytes that clients have sent, as WebSocket and HTTP count them.",
        lambda view: view.counts.received_bytes,
    ),
    counter(
        "sent_bytes_total",
        "The same that they were sent.",
        lambda view: view.counts.sent_bytes,
    ),
    histogram(
        "offer_to_answer_seconds",
        "From the passing on of an offer to its answer.",
        lambda view: view.counts.answering,
    ),
    histogram(
        "offer_wait_seconds",
        "From an offer that waits to its passing on.",
        lambda view: view.counts.waiting,
    ),
    histogram(
        "handshake_seconds",
        "From the accepted connection to the end of the opening handshake.",
        lambda view: view.counts.handshakes,
    ),
    histogram(
        "introspection_seconds",
        "Questions to Globus Auth about a token.",
        _globus(lambda globus: globus.stats.durations),
    ),
    words(
        "introspections_total",
        "The same, by what came of them.",
        "outcome",
        by_value(IntrospectionOutcome),
        _globus(lambda globus: globus.stats.outcomes),
    ),
    words(
        "introspection_cache_total",
        "Whether the answer about a token was known; stale answers follow on misses.",
        "result",
        by_value(CacheResult),
        _globus(lambda globus: globus.stats.cache_results),
    ),
    gauge(
        "introspection_breaker_open",
        "Whether Globus Auth is left alone since it does not answer: 1 if so.",
        _globus(lambda globus: globus.breaker != "closed"),
    ),
    histogram(
        "event_loop_lag_seconds",
        "How late the event loop is, four times a second.",
        lambda view: view.lag,
    ),
    gauge(
        "certificate_expiry_timestamp_seconds",
        "When the certificate that is served expires, in seconds since 1970.",
        lambda view: view.certificate.expires if view.certificate else None,
    ),
    counter(
        "log_lines_lost_total",
        "Lines that could not be written, by the log: the usual one or the audit log.",
        lambda view: {(log,): n for log, n in view.relay.lost_lines.items()},
        ("log",),
        ("log", "audit"),
    ),
    gauge(
        "certificate_renewal_timestamp_seconds",
        "From when it is due for renewal: a third of its lifetime is left, or half of "
        "one below ten days.",
        lambda view: view.certificate.renewal if view.certificate else None,
    ),
    words(
        "reloads_total",
        "Reloads of the settings, by what came of them.",
        "outcome",
        by_value(ReloadOutcome),
        lambda view: view.reloads,
    ),
    gauge(
        "survive_kept_connections",
        "Connections that the supervisor keeps for the next process.",
        _survival(lambda survival: survival.kept),
    ),
    gauge(
        "survive_unkept_connections",
        "Registered clients that it does not keep, for lack of room.",
        _survival(lambda survival: survival.unkept),
    ),
    gauge(
        "survive_capacity_connections",
        "Most connections that it keeps.",
        _survival(lambda survival: survival.capacity),
    ),
    gauge(
        "survive_resumed_connections",
        "Connections of the process before that went on at the start.",
        _survival(lambda survival: survival.resumed),
    ),
    gauge(
        "survive_lost_connections",
        "Connections of the process before that did not.",
        _survival(lambda survival: survival.lost),
    ),
    gauge(
        "survive_resumed_offers",
        "Outstanding offers of the process before that went on at the start.",
        _survival(lambda survival: survival.resumed_offers),
    ),
    *CLUSTER_METRICS,
)
"""All metrics, beside ``process_`` and ``python_`` ones."""
