"""JSON bodies of the private listener. Pure."""

from __future__ import annotations

from msgspec import Struct


class MessageCounts(Struct):
    """Messages that reached their receivers."""

    offer: int
    answer: int


class Certificate(Struct):
    """Expiry of the certificate, and time to renew it, in seconds since 1970."""

    expires: float
    renewal: float


class Quantiles(Struct):
    """Quantiles of the most recent durations in seconds; None without durations."""

    median: float | None
    p99: float | None


class Lateness(Quantiles):
    """Lag of the event loop in the last minute, in seconds."""

    max: float | None


class Silence(Struct):
    """Number of clients that left the last offers to them unanswered.

    ``most`` is the largest number of offers in a row that one of them left unanswered.
    """

    clients: int
    most: int


class GlobusAuth(Struct):
    """State of the circuit breaker: ``closed``, ``open`` or ``half-open``."""

    breaker: str


class Status(Struct):
    """The whole relay; times in seconds since 1970, durations in seconds."""

    version: str
    pid: int
    started: float
    uptime: float
    listening: list[str]
    tls: bool
    authentication: str
    draining: bool
    ready: bool
    reasons: list[str]
    clients: int
    connections: int
    users: int
    registrations: int
    forwarded: MessageCounts
    returned: dict[str, int]
    dropped: dict[str, int]
    held: int
    unanswered: Silence
    refused: dict[str, int]
    rejected: dict[str, int]
    certificate: Certificate | None
    lag: Lateness
    offer_to_answer: Quantiles
    offer_wait: Quantiles
    globus: GlobusAuth | None


class Client(Struct):
    """A registered client; times in seconds since 1970."""

    uuid: str
    name: str
    user: str
    address: str
    since: float
    last_offer: float | None
    sent: int
    received: int
    unanswered: int
    marks: list[str]


class Clients(Struct):
    """All registered clients."""

    total: int
    clients: list[Client]
