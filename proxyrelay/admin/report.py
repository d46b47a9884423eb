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


class Peer(Struct):
    """Another node, as it was seen last.

    ``version`` is empty if the node has no ``lease``: it counts as gone.
    """

    node: str
    version: str
    draining: bool
    lease: bool


class Membership(Struct):
    """This relay in its cluster.

    ``ready`` tells whether the engine can be reached, ``lease_age`` the seconds since
    the lease was renewed, ``unsynced`` how many clients the engine may not know.
    """

    node: str
    ready: bool
    lease_age: float | None
    unsynced: int
    peers: list[Peer]


class Survival(Struct):
    """Connections that the supervisor keeps for the next process.

    ``works`` tells whether the supervisor is there. ``unkept`` counts those over the
    ``capacity``. The rest is about the last start: connections of the process before
    that were ``resumed`` or ``lost``, and its offers that were resumed.
    """

    works: bool
    kept: int
    unkept: int
    capacity: int
    resumed: int
    lost: int
    resumed_offers: int


class Reach(Struct):
    """What offers and answers tell about the reach of clients.

    ``candidates`` has the number of clients by the kinds of their candidates. A client
    may have several. ``private_only`` counts those that peers on other networks cannot
    reach, ``unconnected_pairs`` the pairs of ``/pairs``.
    """

    candidates: dict[str, int]
    private_only: int
    unconnected_pairs: int


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
    degraded: list[str] = []
    cluster: Membership | None = None
    survival: Survival | None = None
    reach: Reach | None = None


class Client(Struct):
    """A registered client; times in seconds since 1970.

    ``candidates`` names the kinds of its candidates, ``None`` before its first offer.
    """

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
    candidates: list[str] | None = None


class PairSide(Struct):
    """A client of a pair; ``name`` is None if it is not here."""

    uuid: str
    name: str | None
    candidates: list[str] | None


class Pair(Struct):
    """Two clients that do not connect; times in seconds since 1970.

    ``source`` made the last offer. ``exchanges`` counts the answered offers between
    ``since`` and ``last``. ``cause`` is the likely cause in one word, and ``text`` the
    same in a sentence.
    """

    source: PairSide
    target: PairSide
    user: str
    exchanges: int
    since: float
    last: float
    cause: str
    text: str


class Pairs(Struct):
    """All pairs that do not connect."""

    total: int
    pairs: list[Pair]


class Clients(Struct):
    """All registered clients."""

    total: int
    clients: list[Client]


class NodeStatus(Struct):
    """A node of the cluster; all but its name is None if it does not reply.

    Such a node is ``silent`` if it has a lease, and else ``gone``.
    """

    node: str
    silent: bool = False
    gone: bool = False
    version: str | None = None
    uptime: float | None = None
    clients: int | None = None
    unsynced: int | None = None
    ready: bool | None = None
    draining: bool | None = None


class Nodes(Struct):
    """All nodes; ``node`` is the one that answers, ``silent`` those that do not."""

    node: str
    nodes: list[NodeStatus]
    silent: list[str]
    degraded: list[str]


class FarClient(Client, kw_only=True):
    """A client of a node. Name, user and address may be missing from other nodes."""

    node: str


class FarClients(Struct):
    """Clients of all nodes; ``cut`` names the nodes that have more than are listed."""

    total: int
    silent: list[str]
    cut: list[str]
    degraded: list[str]
    clients: list[FarClient]
