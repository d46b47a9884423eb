"""The settings of relay.toml: name, type, range, default and meaning of each. Pure.

The reference of settings is generated from these docstrings. Rules that a type cannot
say are in `proxyrelay.config.rules`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import Meta, Struct

from proxyrelay.config.cluster import Cluster
from proxyrelay.config.places import socket_path
from proxyrelay.net.ip import ip

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
"""Names of log levels, as the reference relay spells them."""

Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(ge=0, le=86400)]
PositiveSeconds = Annotated[float, Meta(ge=0.1, le=86400)]
Count = Annotated[int, Meta(ge=1, le=10_000_000)]
HeldCount = Annotated[int, Meta(ge=0, le=65_536)]
PerSecond = Annotated[float, Meta(ge=0.01, le=1_000_000)]

ALL_INTERFACES = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound
"""Hosts that stand for all interfaces, each with an address to connect to."""

AUTHENTICATION_MARGIN_SECONDS = 0.5
"""Least difference of ``timeouts.authentication`` and ``auth.kwargs.timeout``."""

PROXYSTORE_RELAY = "ebd5bbed-95e2-47cf-9c80-39e2064274bd"
"""ProxyStore's own relay application. Its clients get tokens for it by default."""

_ADDRESS_AND_PORT = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9.-]+)):(?P<port>[0-9]{1,5})"
)


class Secret:
    """A text that ``repr`` and ``str`` hide."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(...)"

    def __str__(self) -> str:
        return "(hidden)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


class AuthArguments(Struct, frozen=True):
    """``[auth.kwargs]``: access to Globus Auth, and the rules for its users.

    Attributes:
        client_id: Client ID of the relay's Globus application, a UUID in any case.
            Default: the environment variable ``PROXYSTORE_GLOBUS_CLIENT_ID``.
        client_secret: A secret of that application. Default: the environment variable
            ``PROXYSTORE_GLOBUS_CLIENT_SECRET``.
        client_secret_file: File with the secret and nothing else.
        audience: Client ID of the application that tokens must be issued for, a UUID
            in any case.
        required_scopes: Scopes that each token must have, as whole strings; an empty
            list for none. Default: the scope ``relay_all`` of the relay's own
            application if ``audience`` is ``client_id``, otherwise none.
        service_url: Address of Globus Auth: an ``https`` URL, with a port and a path
            if needed.
        timeout: Seconds until the answer about a token must be there, with all
            retries; at least `AUTHENTICATION_MARGIN_SECONDS` less than
            ``timeouts.authentication``.
        cache_ttl: Seconds for which an answer is reused.
        cache_size: Most answers in the cache.
        stale_if_error: Seconds for which an older answer is used while Globus Auth
            does not answer; 0 for never.
        allowed_users: IDs of identities, in lower case. If this or
            ``allowed_domains`` is set, all other users are refused.
        allowed_domains: Domains of identities: the whole text after the ``@`` of the
            name. No wildcards, no subdomains.
        denied_users: IDs of identities that are always refused.
        denied_domains: Domains of identities that are always refused.
    """

    client_id: str | None = None
    client_secret: Secret | None = None
    client_secret_file: Path | None = None
    audience: str = PROXYSTORE_RELAY
    required_scopes: tuple[str, ...] | None = None
    service_url: str = "https://auth.globus.org"
    timeout: Annotated[float, Meta(ge=0.1, le=7.5)] = 7
    cache_ttl: Annotated[float, Meta(ge=0, le=3600)] = 60
    cache_size: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    stale_if_error: Seconds = 300
    allowed_users: tuple[str, ...] = ()
    allowed_domains: tuple[str, ...] = ()
    denied_users: tuple[str, ...] = ()
    denied_domains: tuple[str, ...] = ()


class Auth(Struct, frozen=True):
    """``[auth]``: authentication of clients.

    Attributes:
        method: ``globus``, or none: then all clients are the same user.
        kwargs: Arguments of the method.
    """

    method: Literal["globus"] | None = None
    kwargs: AuthArguments = msgspec.field(default_factory=AuthArguments)


class Logging(Struct, frozen=True):
    """``[logging]``: log, log files and audit log.

    Attributes:
        log_dir: Folder for rotated log files, beside standard output. The relay makes
            it if it is missing.
        default_level: Least severe level of the relay's lines.
        websockets_level: Least severe level of the WebSocket library's lines.
        current_client_interval: Seconds between two lists of the connected
            clients; 0 turns them off.
        current_client_limit: Up to this number of clients the list names each one;
            above it, only their number is logged.
        format: ``text`` for people, ``json`` for one JSON object a line.
        audit_log: File with one JSON object a line for each registration, refusal,
            connection between clients, and departure. It is rotated as the log is.
        privacy: Whether pseudonyms replace users and addresses in all output about
            clients.
        privacy_key_file: File with the key of the pseudonyms. The relay makes it if it
            is missing. Without it the pseudonyms change at each start.
    """

    log_dir: Path | None = None
    default_level: Level = "INFO"
    websockets_level: Level = "WARNING"
    current_client_interval: Seconds = 60
    current_client_limit: Annotated[int, Meta(ge=0)] = 32
    format: Literal["text", "json"] = "text"
    audit_log: Path | None = None
    privacy: bool = False
    privacy_key_file: Path | None = None


class Timeouts(Struct, frozen=True):
    """``[timeouts]``: longest duration of each phase of a connection, in seconds.

    Attributes:
        tls_handshake: From accept to the end of the TLS handshake.
        opening_handshake: From there to the whole request. Stock clients give up
            after 10 s.
        authentication: From the request to the authenticator's answer; at most 8, as
            clients wait 10 s for the whole upgrade.
        registration: From the upgrade to the first registration.
        ping_interval: Least silence of a client before the relay's ping, which comes
            one to two intervals after the client's last data. Stock clients send pings
            themselves, so the relay seldom does.
        ping_timeout: From that ping to its pong. A client that reads nothing cannot
            answer, and its connection is ended.
        close_handshake: From the relay's close frame to the answer, and again
            from there to the end of the connection.
        stop: Longest wait of a stopping relay for the close handshakes.
    """

    tls_handshake: PositiveSeconds = 12
    opening_handshake: PositiveSeconds = 12
    authentication: Annotated[float, Meta(ge=0.1, le=8)] = 8
    registration: PositiveSeconds = 12
    ping_interval: PositiveSeconds = 20
    ping_timeout: PositiveSeconds = 20
    close_handshake: PositiveSeconds = 5
    stop: Seconds = 10


class Limits(Struct, frozen=True):
    """``[limits]``: numbers and rates of clients.

    A client over a limit of connections or registrations is asked to come back later. A
    registered client that sends too fast is read from more slowly. No registered client
    is closed, except one that registers again and again on one connection. An address
    is an IPv4 address or an IPv6 network of 64 bits. The limits per address apply
    neither to this machine's own addresses nor to trusted proxies.

    Attributes:
        connections: Connections in total; further ones wait to be accepted. Default:
            the process's limit of open files, less 64, which always applies.
        connections_per_user: Connections of one user, if clients are authenticated.
        connections_per_address: Connections of one address. There may be a campus
            behind it.
        unregistered: Unregistered connections in total. Near this number, the oldest
            of the address with the most is closed, if it is older than 3 s; further
            ones wait until there is room.
        unregistered_per_address: Unregistered connections of one address. Above this
            number, the oldest of them is closed, if it is older than 3 s.
        registrations_per_address: Registrations of one address in a second.
        registrations_per_client: Registrations of one connection in a second, after
            its first. Stock clients register once.
        messages_per_address: Frames of all kinds from one address in a second.
        messages_per_client: Frames of all kinds of one connection in a second. A frame
            that needs an answer, such as an offer that comes back with an error, counts
            as ten, and a change of TLS keys as one. A client over it is read from once
            a second, but each read is processed whole, so small messages are bounded
            only roughly.
        burst: Seconds' worth of all these rates that may come at once.
        trusted_proxies: Networks of proxies. The relay believes their
            ``X-Forwarded-For`` or PROXY protocol header about a client's address.
        proxy_protocol: Whether these proxies begin each connection with a header of
            the PROXY protocol, version 1 or 2. Then it is required.
    """

    connections: Count | None = None
    connections_per_user: Count = 10_000
    connections_per_address: Count = 5_000
    unregistered: Count = 4096
    unregistered_per_address: Count = 1024
    registrations_per_address: PerSecond = 100
    registrations_per_client: PerSecond = 10
    messages_per_address: PerSecond = 5_000
    messages_per_client: PerSecond = 1_000
    burst: Annotated[float, Meta(ge=1, le=3600)] = 20
    trusted_proxies: tuple[str, ...] = ()
    proxy_protocol: bool = False


class Offers(Struct, frozen=True):
    """``[offers]``: protection of stock clients that connect to each other.

    Attributes:
        shield: Whether messages that would end the process of a stock client are
            dropped. Without it this whole table is off, and every message is forwarded,
            as proxystore-relay does.
        answer_timeout: Seconds after which an unanswered offer goes back to its
            sender. Stock clients wait for 30 s, and can never reach the peer again
            after that.
        hold: Seconds for which an offer waits for a peer that has just left; 0 turns
            that off.
        recent: Seconds after which a peer no longer counts as having just left, and the
            relay as having just started.
        crossing: Longest wait, in seconds, of an offer for a crossing offer of its
            receiver, which would end the process of one of the two; 0 turns that off.
            The wait ends after some 10 ms if the receiver answers pings without delay:
            it makes no offer then. After an answer, offers between the two do not wait
            for 10 s, unless one of them registers anew.
        held_per_user: Most waiting offers of one user. Without authentication it
            applies to each address, except this machine's own and trusted proxies.
        held_total: Most waiting offers in total. At this number, the user or address
            with the most makes room.
        close_deaf: Whether a client that came back and answers no offers since is
            closed with 4004. That ends its process, so a supervisor can restart it.
            Offers from three addresses in a row must be unanswered, so one stranger
            cannot have a client closed.
    """

    shield: bool = True
    answer_timeout: Annotated[float, Meta(ge=1, le=24)] = 20
    hold: Annotated[float, Meta(ge=0, le=20)] = 5
    recent: Annotated[float, Meta(ge=0, le=3600)] = 120
    crossing: Annotated[float, Meta(ge=0, le=5)] = 0.5
    held_per_user: HeldCount = 64
    held_total: HeldCount = 1024
    close_deaf: bool = False


class Admin(Struct, frozen=True):
    """``[admin]``: the private listener for operators.

    Attributes:
        listen: An address and a port (``127.0.0.1:8701``, ``[::1]:8701``; port 0 takes
            a free one, and the log names it), or the path of a socket
            (``unix:/run/proxyrelay/admin.sock``). None for no listener.
        token_file: File with the token that callers must send, and nothing else.
            Required if other machines reach the listener.
        allowed_hosts: Further names for browsers to call it by, such as that of a
            proxy, beside this machine's names and the address in ``listen``.
    """

    listen: str | None = None
    token_file: Path | None = None
    allowed_hosts: tuple[str, ...] = ()

    @property
    def place(self) -> tuple[str, int] | Path | None:
        """Host and port, or the path of a socket; None for no listener."""
        return None if self.listen is None else admin_place(self.listen)

    @property
    def is_private(self) -> bool:
        """Whether no other machine reaches the listener."""
        place = self.place
        return not isinstance(place, tuple) or _is_loopback(place[0])


class Survive(Struct, frozen=True):
    """``[survive]``: connections that outlive the process.

    The supervisor must keep descriptors: systemd with ``FileDescriptorStoreMax``, or
    ``proxyrelay keep``. Connections over TLS of the relay itself are not kept.

    Attributes:
        enabled: Whether registered connections are kept. After a restart, an upgrade or
            a crash, the next process goes on with them.
        capacity: Most connections that are kept; at most 30000. The store of the
            supervisor has to take ten descriptors more.
    """

    enabled: bool = False
    capacity: Annotated[int, Meta(ge=1, le=30_000)] = 10_000


class Config(Struct, frozen=True):
    """The settings of a relay.

    Attributes:
        host: Address or name of the interface to listen on; none for all.
        port: TCP port; 0 takes a free one, and the log names it.
        certfile: PEM file with the certificate and its chain; turns TLS on.
        keyfile: PEM file with the private key; none if it is in ``certfile``.
        certificate_interval: Seconds between two looks for renewed certificate files;
            0 for none.
        reuse_port: Whether another relay of the same user may listen on the same
            port at the same time (``SO_REUSEPORT``), so that it can take over.
        drain_max: Seconds after which a draining relay closes its remaining clients.
        max_message_bytes: Longest message of a client, in bytes of UTF-8. None
            for 1 MiB, which always applies.
        max_unread_bytes: Most unread bytes of a client, beside the buffers of the
            transport. Above it, messages for the client go back to their senders.
        allowed_origins: Patterns with ``*`` for the ``Origin`` header of
            browsers. Clients without that header are always accepted.
        auth: See `Auth`.
        logging: See `Logging`.
        timeouts: See `Timeouts`.
        limits: See `Limits`.
        offers: See `Offers`.
        admin: See `Admin`.
        survive: See `Survive`.
        cluster: See `Cluster`.
    """

    host: Annotated[str, Meta(min_length=1)] | None = None
    port: Port = 8700
    certfile: Path | None = None
    keyfile: Path | None = None
    certificate_interval: Seconds = 60
    reuse_port: bool = False
    drain_max: Annotated[float, Meta(ge=0, le=31_536_000)] = 604_800
    max_message_bytes: Annotated[int, Meta(ge=1)] | None = None
    max_unread_bytes: Annotated[int, Meta(ge=65536)] = 512 * 1024
    allowed_origins: tuple[str, ...] = ("*",)
    auth: Auth = msgspec.field(default_factory=Auth)
    logging: Logging = msgspec.field(default_factory=Logging)
    timeouts: Timeouts = msgspec.field(default_factory=Timeouts)
    limits: Limits = msgspec.field(default_factory=Limits)
    offers: Offers = msgspec.field(default_factory=Offers)
    admin: Admin = msgspec.field(default_factory=Admin)
    survive: Survive = msgspec.field(default_factory=Survive)
    cluster: Cluster = msgspec.field(default_factory=Cluster)

    @property
    def scheme(self) -> str:
        """``wss`` with TLS, ``ws`` without."""
        return "ws" if self.certfile is None else "wss"

    def exposure(self) -> str | None:
        """Describe the exposure to strangers in one sentence; None for none."""
        if _is_loopback(self.host):
            return None
        if self.auth.method is not None:
            if self.certfile is not None:
                return None
            return (
                "bearer tokens travel in clear text, as this relay is without TLS: set "
                "certfile, or let only a proxy that ends TLS reach it"
            )
        lacks = "authentication (set [auth])"
        if self.certfile is None:
            lacks = f"TLS (set certfile) and without {lacks}"
        return (
            f"other machines reach this relay without {lacks}: keep it inside a "
            "trusted network"
        )


def settings(
    kind: Any = Config, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """Yield every table and setting as a path of names."""
    for name, hint in get_type_hints(kind).items():
        yield (*path, name)
        if isinstance(hint, type) and issubclass(hint, Struct):
            yield from settings(hint, (*path, name))


def admin_place(listen: str) -> tuple[str, int] | Path:
    """Parse an address and a port, or ``unix:`` and an absolute path.

    Raises:
        ValueError: It is neither.
    """
    if listen.startswith("unix:/"):
        return socket_path(listen)
    found = _ADDRESS_AND_PORT.fullmatch(listen)
    if found is None or int(found["port"]) >= 1 << 16:
        raise ValueError("no address and port")
    if found["six"]:
        ipaddress.IPv6Address(found["six"])
    return found["six"] or found["host"], int(found["port"])


def _is_loopback(host: str | None) -> bool:
    try:
        return host is not None and ip(host).is_loopback
    except ValueError:
        return host == "localhost"
