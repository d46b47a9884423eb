"""``[cluster]``: settings of several relays that act as one. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Struct

from proxyrelay.config.places import LABEL, socket_path

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})

LEASE_TIMEOUTS = 3
"""Waits for a reply that fit into a lease, at least."""

Name = Annotated[str, Meta(pattern="^[A-Za-z0-9_.-]{1,64}$")]

_PLACE = re.compile(
    r"(?P<kind>tcp|tls):(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9.-]+))"
    r":(?P<port>[0-9]{1,5})"
)
_HOST = re.compile(rf"(?:{LABEL}\.)*{LABEL}")


class Place(NamedTuple):
    """Where an engine or a sentinel is.

    Attributes:
        kind: ``unix``, ``tcp`` or ``tls``.
        host: Name or address; the path for ``unix``.
        port: 0 for ``unix``.
    """

    kind: str
    host: str
    port: int

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine."""
        return self.kind == "unix" or self.host in LOCAL_HOSTS


def place(text: str) -> Place:
    """Read ``unix:/path``, ``tcp:host:port`` or ``tls:host:port``.

    Raises:
        ValueError: It is none of them.
    """
    if text.startswith("unix:"):
        return Place("unix", str(socket_path(text)), 0)
    found = _PLACE.fullmatch(text)
    if found is None or not 0 < int(found["port"]) < 1 << 16:
        raise ValueError("no address and port")
    if found["six"]:
        ipaddress.IPv6Address(found["six"])
    elif not _HOST.fullmatch(found["host"]):
        raise ValueError("no name of a host")
    return Place(found["kind"], found["six"] or found["host"], int(found["port"]))


class Cluster(Struct, frozen=True):
    """``[cluster]``: several relays that act as one, through Redis or Valkey.

    Needs the extra ``proxyrelay[cluster]``. Without ``engine`` and ``sentinels``, the
    relay is alone.

    Attributes:
        engine: Where the engine is: ``unix:/run/redis/relay.sock``,
            ``tcp:127.0.0.1:6379``, or ``tls:redis.example.org:6380``.
        sentinels: Where the sentinels are, such as ``["tls:a.example.org:26379"]``. The
            engine is the master that they name.
        master: Name of the service that the sentinels watch.
        username: User of the engine's ACL; the default user if it is empty.
        password_file: File with the password. It is read anew for each connection. Only
            the relay's user and group may read it. Sentinels get the same.
        ca_file: Certificates of the authorities for ``tls:``; the system's by default.
        client_certfile: Certificate that the relay shows to the engine.
        client_keyfile: Its key.
        database: Number of the engine's database.
        prefix: Start of the cluster's keys and channels. Relays with one prefix are one
            cluster.
        node: Name of this relay; the host's name by default.
        lease: Seconds after which a relay that has stopped counts as gone.
        call_timeout: Longest wait for a reply of the engine, in seconds.
        key_file: File with keys of 64 hexadecimal digits, one in each line. Messages
            between relays are sealed with the first one, and opened with all. Only the
            relay's user and group may read it. Required for an engine on another
            machine without TLS.
        without_engine: ``serve`` accepts new clients while the engine cannot be
            reached; ``refuse`` has them come back later.
        users_everywhere: Whether ``limits.connections_per_user`` counts the clients of
            all relays.
    """

    engine: str | None = None
    sentinels: tuple[str, ...] = ()
    master: Name = "proxyrelay"
    username: Annotated[str, Meta(pattern=r"^[!-~]{0,128}$")] = ""
    password_file: Path | None = None
    ca_file: Path | None = None
    client_certfile: Path | None = None
    client_keyfile: Path | None = None
    database: Annotated[int, Meta(ge=0, le=1023)] = 0
    prefix: Name = "proxyrelay"
    node: Annotated[str, Meta(pattern="^[A-Za-z0-9_.-]{0,64}$")] = ""
    lease: Annotated[float, Meta(ge=5, le=60)] = 15
    call_timeout: Annotated[float, Meta(ge=0.5, le=5)] = 2
    key_file: Path | None = None
    without_engine: Literal["serve", "refuse"] = "serve"
    users_everywhere: bool = True

    @property
    def is_set(self) -> bool:
        """Whether this relay is part of a cluster."""
        return self.engine is not None or bool(self.sentinels)

    @property
    def places(self) -> list[Place]:
        """The sentinels, or else the engine."""
        texts = self.sentinels or (() if self.engine is None else (self.engine,))
        return [place(text) for text in texts]


def problems(cluster: Cluster, shield: bool) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield settings of the cluster that do not go together."""
    if not cluster.is_set:
        return
    if not shield:
        yield ("offers", "shield"), "must be true beside [cluster]"
    if cluster.lease < LEASE_TIMEOUTS * cluster.call_timeout:
        yield (
            ("cluster", "lease"),
            f"expected at least {LEASE_TIMEOUTS} times call_timeout",
        )
    pair = ("client_certfile", "client_keyfile")
    for name, other in (pair, pair[::-1]):
        if getattr(cluster, name) is not None and getattr(cluster, other) is None:
            yield ("cluster", name), f"needs {other} beside it"
    is_open = any(each.kind == "tcp" and not each.is_local for each in cluster.places)
    if is_open and cluster.key_file is None:
        yield (
            ("cluster", "sentinels" if cluster.sentinels else "engine"),
            "needs a key_file beside it, or tls: messages cross the network unsealed",
        )


def warnings(cluster: Cluster) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield settings of the cluster that have no effect."""
    if not cluster.is_set:
        if cluster != Cluster():
            yield ("cluster",), "has no effect without engine or sentinels"
        return
    if cluster.sentinels and cluster.engine is not None:
        yield ("cluster", "engine"), "has no effect beside sentinels"
    if cluster.username and cluster.password_file is None:
        yield ("cluster", "username"), "has no effect without a password_file"
    if all(each.kind != "tls" for each in cluster.places):
        for name in ("ca_file", "client_certfile"):
            if getattr(cluster, name) is not None:
                yield ("cluster", name), "has no effect without tls:"
