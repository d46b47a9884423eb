"""What the private listener says in JSON, and what reads it. Pure."""

from __future__ import annotations

from msgspec import Struct


class Forwarded(Struct):
    """Messages that have reached their receivers."""

    offer: int
    answer: int


class Certificate(Struct):
    """Expiry of the certificate that is served, and when its renewal is due.

    Both are in seconds since 1970.
    """

    expires: float
    renewal: float


class Lateness(Struct):
    """How late the event loop was in the last minute, in seconds."""

    median: float | None
    p99: float | None
    max: float | None


class Answering(Struct):
    """How long the last answers took, in seconds, after the offer was passed on."""

    median: float | None
    p99: float | None


class Waiting(Struct):
    """How long the last offers that had to wait did so, in seconds."""

    median: float | None
    p99: float | None


class Silence(Struct):
    """Clients that left the last offers to them unanswered.

    Attributes:
        clients: How many such clients there are.
        most: The most offers in a row that one of them left unanswered.
    """

    clients: int
    most: int


class GlobusAuth(Struct):
    """Whether Globus Auth is asked: ``closed`` if so, ``open`` or ``half-open``."""

    breaker: str


class Status(Struct):
    """A relay in one piece; times in seconds since 1970, durations in seconds."""

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
    forwarded: Forwarded
    returned: dict[str, int]
    dropped: dict[str, int]
    held: int
    unanswered: Silence
    refused: dict[str, int]
    rejected: dict[str, int]
    certificate: Certificate | None
    lag: Lateness
    offer_to_answer: Answering
    offer_wait: Waiting
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
