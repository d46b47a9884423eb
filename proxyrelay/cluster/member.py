"""This relay as a member of its cluster: all parts put together."""

from __future__ import annotations

import random
import secrets
import socket
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import (
    HostnameEndpoint,
    UNIXClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.logger import Logger

from proxyrelay import __version__
from proxyrelay.cluster import files
from proxyrelay.cluster.bus import FORMAT, ignore
from proxyrelay.cluster.claims import Claims, Stamps
from proxyrelay.cluster.link import Link
from proxyrelay.cluster.link_bus import LinkBus
from proxyrelay.cluster.link_settings import LinkSettings
from proxyrelay.cluster.node import Node
from proxyrelay.cluster.queries import Facts, Queries
from proxyrelay.cluster.seal import Seal
from proxyrelay.cluster.sentinel import SentinelEndpoint
from proxyrelay.config import Config
from proxyrelay.config.cluster import Cluster, Place, place
from proxyrelay.errors import ConfigError
from proxyrelay.net.timers import Heartbeat
from proxyrelay.switchboard.relay import Relay

REAP_SECONDS = 30.0
"""Interval between two looks at the other nodes."""


class NodeInfo(msgspec.Struct):
    """What the lease of a node tells the others, as JSON.

    Attributes:
        version: Of proxyrelay.
        identity: Fingerprint of what must agree: who the users are.
        terms: Fingerprint of what should agree: the settings of offers.
        keys: Fingerprints of its keys.
        is_draining: Whether it waits for its clients to leave.
    """

    version: str
    identity: str
    terms: str
    keys: list[str] = []
    is_draining: bool = False


def _fingerprint(*values: object) -> str:
    return sha256(repr(values).encode()).hexdigest()[:8]


class Member:
    """This relay in its cluster.

    Args:
        config: The settings.
        relay: The rules of this relay, whose directory it becomes.
        reactor: Connects to the engine.
        clock: Time in seconds, and timers.
        stamps: When connections were accepted.
        shown_user: Spells a user as logs do.

    Attributes:
        name: Name of this node, with its incarnation.
        link: The link to the engine.
        claims: The UUIDs of this node.
        node: Messages of this node.
        queries: Questions of operators to all nodes.
        is_ready: Whether new clients are served. It may be replaced.
        is_excluded: Whether other nodes know users in another way, so that this one
            stays alone.
        strangers: Nodes that do not fit since a reload, with the setting.
        engine_seconds: Time that the engine has taken for all calls.
        calls: Number of these calls.
        predecessor: Name of this node in the process before, whose connections it has;
            empty if there was none. May be set.

    Raises:
        ConfigError: A file cannot be read.
    """

    _log = Logger()

    def __init__(
        self,
        config: Config,
        relay: Relay,
        reactor: Any,
        clock: IReactorTime,
        stamps: Stamps,
        shown_user: Callable[[str], str] = str,
    ) -> None:
        cluster = config.cluster
        host = cluster.node or socket.gethostname().partition(".")[0]
        self.name = f"{host}:{secrets.token_hex(4)}"
        self.is_excluded = False
        self.strangers: dict[str, str] = {}
        self.is_draining = False
        self.is_ready: Callable[[], bool] = lambda: not self.is_draining
        self.engine_seconds = 0.0
        self.calls = 0
        self.predecessor = ""
        self._config = config
        self._relay = relay
        self._reactor = reactor
        self._clock = clock
        self._sentinel: SentinelEndpoint | None = None
        self._terms: dict[str, str] = {}
        self._files = files.read(cluster)
        self._seal = Seal(self._files.keys)
        self.link = Link(
            clock,
            self._endpoint(cluster),
            LinkSettings(
                self.name,
                f"{cluster.prefix}:{FORMAT}",
                cluster.lease,
                cluster.call_timeout,
                cluster.username,
                self._password,
                cluster.database,
                self._info,
                ", ".join(cluster.sentinels) or cluster.engine or "",
            ),
            self,
            needs_master=bool(cluster.sentinels),
        )
        if self._sentinel is not None:
            self._sentinel.moved = self.link.drop
        bus = LinkBus(self.link, clock)
        issuer = config.auth.method or ""
        self.claims = Claims(
            *(self.name, bus, relay, issuer, stamps, clock.seconds),
            limit=_limit(config),
            serve_alone=cluster.without_engine == "serve",
        )
        self.node = Node(
            *(self.name, bus, relay, self.claims, self._seal, issuer),
            clock.seconds,
        )
        self.queries = Queries(
            *(self.name, bus, relay, self.claims.say, clock.seconds),
            facts=self._facts,
            shown_user=shown_user,
            is_sealed=lambda: bool(self._seal.fingerprints),
        )
        self.node.further = self.queries.received
        self._started = clock.seconds()
        self._bus = bus
        self._heartbeat = Heartbeat(clock, REAP_SECONDS, self._look_around)

    @property
    def keys(self) -> list[str]:
        """Public names of its keys, the first of which seals."""
        return self._seal.fingerprints

    def start(self) -> None:
        """Join the cluster, as soon as the engine can be reached."""
        self._relay.undelivered.directory = self.node
        if self._sentinel is not None:
            self._sentinel.start()
        self.link.start()
        self._heartbeat.start()

    def tick(self) -> None:
        """Do the regular work; to be called twice a second."""
        self.claims.tick()
        self.queries.tick()

    def stop(self) -> Deferred[None]:
        """Leave the cluster, after the last client has left.

        Returns:
            Fires when the engine knows it, or cannot be told.
        """
        self._heartbeat.stop()
        if self._sentinel is not None:
            self._sentinel.stop()
        leaving: Deferred[Any] = (
            self.link.call("leave", self.name) if self.link.ready else succeed(None)
        )
        return leaving.addBoth(lambda _: self.link.stop())

    def apply(self, config: Config) -> None:
        """Serve with other settings.

        The keys stay if the file cannot be read. It may have gone with settings that
        wait for a restart.
        """
        cluster = config.cluster
        try:
            self._seal.use(files.keys(cluster))
        except ConfigError as error:
            self._log.error("{problem}", event="problem", problem=str(error))
        self._config = config
        self.claims.limit = _limit(config)
        self.claims.serve_alone = cluster.without_engine == "serve"
        self.link.change(cluster.call_timeout)

    @property
    def peers(self) -> dict[str, NodeInfo | None]:
        """The other nodes, as they were seen last; None without a lease."""
        return {
            name: _node_info(lease)
            for name, lease in self.queries.seen.items()
            if name != self.name
        }

    def _facts(self) -> Facts:
        return Facts(
            self._clock.seconds() - self._started,
            len(self.claims.unsynced),
            self.is_ready(),
            self.is_draining,
        )

    # -- the engine

    def _endpoint(self, cluster: Cluster) -> IStreamClientEndpoint:
        if not cluster.sentinels:
            return self._endpoint_of(place(cluster.engine or ""))
        places = cluster.places
        kind = places[0].kind

        def master(host: str, port: int) -> IStreamClientEndpoint:
            return self._endpoint_of(Place(kind, host, port))

        self._sentinel = SentinelEndpoint(
            self._clock,
            [self._endpoint_of(each) for each in places],
            cluster.master,
            master,
            self._credentials,
        )
        return self._sentinel

    def _endpoint_of(self, at: Place) -> IStreamClientEndpoint:
        cluster, reactor = self._config.cluster, self._reactor
        if at.kind == "unix":
            return UNIXClientEndpoint(reactor, at.host, cluster.call_timeout)
        plain = HostnameEndpoint(reactor, at.host, at.port, cluster.call_timeout)
        if at.kind == "tcp":
            return plain
        return wrapClientTLS(files.tls_options(self._files, at.host), plain)

    def _password(self) -> str:
        try:
            return files.password(self._config.cluster)
        except ConfigError as error:
            self._log.error("{problem}", event="problem", problem=str(error))
            return ""

    def _credentials(self) -> tuple[str, ...]:
        password, user = self._password(), self._config.cluster.username
        return tuple(filter(None, (user, password))) if password else ()

    def _info(self) -> bytes:
        config, offers = self._config, self._config.offers
        kwargs = config.auth.kwargs
        return msgspec.json.encode(
            NodeInfo(
                __version__,
                _fingerprint(
                    config.auth.method, config.auth.method and kwargs.service_url
                ),
                _fingerprint(
                    kwargs.audience, offers.crossing > 0, offers.answer_timeout
                ),
                self._seal.fingerprints,
                self.is_draining,
            )
        )

    # -- what the link tells

    def admits(self, nodes: list[bytes]) -> bool:
        """Compare the settings of this node with those of the others."""
        self.queries.note(nodes)
        mine = msgspec.json.decode(self._info(), type=NodeInfo)
        terms = {}
        for name, text in zip(nodes[::2], nodes[1::2], strict=True):
            other, node = _node_info(text), name.decode("ascii", "replace")
            if other is None or node == self.name:
                continue
            if what := _misfit(mine, other):
                self._stay_alone(node, what)
                return False
            terms[node] = other.terms
        self.is_excluded = False
        for node, theirs in terms.items():
            if theirs != mine.terms and self._terms.get(node) != theirs:
                self._log.warn(
                    "node {node!a} has other settings in [auth] or [offers]",
                    event="cluster_differs",
                    node=node,
                )
        self._terms = terms
        return True

    def _stay_alone(self, node: str, what: str) -> None:
        was_excluded, self.is_excluded = self.is_excluded, True
        if not was_excluded:
            self._log.error(
                "this relay stays alone: {what} of node {node!a} differs from its own",
                event="cluster_alone",
                what=what,
                node=node,
            )

    def link_ready(self, is_lost: bool) -> None:  # noqa: ARG002
        """Assert all registrations, and pass on waiting offers."""
        if self.predecessor:
            # Its lease may still run. Its UUIDs are this node's.
            self._bus.call(ignore, "leave", self.predecessor)
        self.claims.assert_all()
        self.node.resume()

    def link_down(self, reason: str) -> None:
        """Serve the clients of this node."""

    def registrations_lost(self) -> None:
        """Assert all registrations."""
        self.claims.assert_all()

    def inbox_received(self, message: bytes) -> None:
        """Act on a message of another node."""
        self.node.received(message)

    def replied(self, seconds: float) -> None:
        """Count a call."""
        self.calls += 1
        self.engine_seconds += seconds

    # -- the other nodes

    def _look_around(self) -> None:
        if self.link.ready:
            self._bus.call(self._reap, "nodes")
            self._check_held(b"0")

    def _reap(self, reply: Any) -> None:
        if isinstance(reply, Exception):
            return
        self.queries.note(reply)
        self._compare(reply)
        dead = [
            name.decode()
            for name, info in zip(reply[::2], reply[1::2], strict=True)
            if not info
        ]
        for node in random.sample(dead, len(dead)):
            self.node.forget(node)
            self._reap_page(node, b"0")

    def _compare(self, nodes: list[bytes]) -> None:
        """Notice a reload, here or elsewhere, after which messages stay closed."""
        mine, known = msgspec.json.decode(self._info(), type=NodeInfo), self.strangers
        self.strangers = {}
        for name, text in zip(nodes[::2], nodes[1::2], strict=True):
            other, node = _node_info(text), name.decode("ascii", "replace")
            if other is None or node == self.name:
                continue
            what = _misfit(mine, other)
            if not what:
                continue
            self.strangers[node] = what
            if node not in known:
                self._log.error(
                    "{what} of node {node!a} differs: messages between it and this "
                    "node are lost",
                    event="cluster_stranger",
                    what=what,
                    node=node,
                )

    def _reap_page(self, node: str, cursor: bytes) -> None:
        recent_ms = round(self._config.offers.recent * 1000)

        def again(reply: Any) -> None:
            if not isinstance(reply, Exception) and reply not in {b"0", b"-1"}:
                self._reap_page(node, reply)

        self._bus.call(again, "reap", node, cursor, recent_ms)

    def _check_held(self, cursor: bytes) -> None:
        def correct(reply: Any) -> None:
            if isinstance(reply, Exception):
                return
            for uuid, connection in zip(reply[1::2], reply[2::2], strict=True):
                self.claims.disown(uuid.decode(), int(connection))
            if reply[0] != b"0":
                self._check_held(reply[0])

        self._bus.call(correct, "held", self.name, cursor)


def _node_info(lease: bytes) -> NodeInfo | None:
    """Read the text of a lease; None without one, or if it is of another kind."""
    try:
        return msgspec.json.decode(lease or b"null", type=NodeInfo | None)
    except msgspec.MsgspecError:
        return None


def _misfit(mine: NodeInfo, other: NodeInfo) -> str:
    """Setting for which two nodes do not fit; empty if they do."""
    if other.identity != mine.identity:
        return "[auth]"
    opens = _opens(mine.keys, other.keys) and _opens(other.keys, mine.keys)
    return "" if opens else "key_file"


def _opens(keys: list[str], others: list[str]) -> bool:
    """Whether a node with these keys opens what one with others seals."""
    return others[0] in keys if others else not keys


def _limit(config: Config) -> int:
    everywhere = config.cluster.users_everywhere
    return config.limits.connections_per_user or 0 if everywhere else 0
