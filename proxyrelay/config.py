"""relay.toml, the command line, and what they become: one frozen `Config`.

Each setting stands once, below, with its type, range, default and meaning. All
problems of a file are found in one go, each with its key, its line and what
would be right. No value of a setting is ever part of a message, so that no
secret is.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
import tomlkit
from msgspec import Meta, Struct
from tomlkit.exceptions import KeyAlreadyPresent, TOMLKitError
from tomlkit.items import AoT

from proxyrelay.errors import Problem
from proxyrelay.net.proxy_header import Proxies

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
"""Names of log levels, as the reference relay spells them."""

Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(ge=0, le=86400)]
Wait = Annotated[float, Meta(ge=0.1, le=86400)]
Limit = Annotated[int, Meta(ge=1, le=10_000_000)]
Held = Annotated[int, Meta(ge=0, le=65_536)]
Rate = Annotated[float, Meta(ge=0.01, le=1_000_000)]


SHORTEST_INTERVAL = 0.1
"""Seconds between two lists of clients that leave the relay time for anything else."""


class Secret:
    """A text that shows itself only when asked by name.

    Args:
        text: What nobody may read by accident.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(...)"

    def __str__(self) -> str:
        return "(hidden)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


MARGIN = 0.5
"""Seconds by which ``timeouts.authentication`` exceeds ``auth.kwargs.timeout``."""

PROXYSTORE_RELAY = "ebd5bbed-95e2-47cf-9c80-39e2064274bd"
"""ProxyStore's own relay application, for which its clients get tokens by default."""


class AuthArguments(Struct, frozen=True):
    """``[auth.kwargs]``: what Globus Auth needs.

    Attributes:
        client_id: Client ID of the relay's Globus application, a UUID; else from the
            environment variable ``PROXYSTORE_GLOBUS_CLIENT_ID``. Its case does not
            matter.
        client_secret: A secret of that application; else from the environment
            variable ``PROXYSTORE_GLOBUS_CLIENT_SECRET``.
        client_secret_file: File that holds the secret, and nothing else.
        audience: The application that tokens must have been issued for: its client ID,
            a UUID, whose case does not matter.
        required_scopes: Scopes that tokens must have, as whole strings; an empty list
            for none. Without it, the scope ``relay_all`` of the relay's own application
            if tokens are meant for that (``audience`` is ``client_id``), and otherwise
            none.
        service_url: Where Globus Auth is: an ``https`` URL, perhaps with a port and a
            path.
        timeout: Seconds until the answer about a token must be there, further
            attempts included; at least `MARGIN` less than ``timeouts.authentication``.
        cache_ttl: Seconds for which an answer is used again.
        cache_size: How many answers are kept.
        stale_if_error: Seconds for which an older answer is used while Globus cannot be
            asked; 0 turns that off.
        allowed_users: If this or ``allowed_domains`` is set, only these identities (by
            their ID, in lower case), or those of these domains, are let in.
        allowed_domains: The same by all that follows the ``@`` of their name: no
            wildcards, no subdomains.
        denied_users: Identities that are never let in.
        denied_domains: The same by domain.
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
    """``[auth]``: how clients prove who they are.

    Attributes:
        method: ``globus``, or none: then everybody is the same user.
        kwargs: What the method needs.
    """

    method: Literal["globus"] | None = None
    kwargs: AuthArguments = msgspec.field(default_factory=AuthArguments)


class Logging(Struct, frozen=True):
    """``[logging]``: what is logged, and where besides standard output.

    Attributes:
        log_dir: Folder for rotated log files, made if it is missing.
        default_level: The least severe level of the relay's lines.
        websockets_level: The same for the WebSocket library's lines.
        current_client_interval: Seconds between two lists of the connected
            clients; 0 turns them off.
        current_client_limit: Up to this many clients are listed one by one;
            above, only their number is logged.
        format: Lines for people, or one JSON object a line for machines.
        audit_log: File that says, in one JSON object a line, who registered, was
            refused, was connected to whom, and left. It is rotated as the log is.
        privacy: Whether users and addresses are replaced by pseudonyms in all that the
            relay shows of its clients.
        privacy_key_file: File with the key of the pseudonyms, made if it is missing;
            without it they are others after each start.
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
    """``[timeouts]``: how long each phase of a connection may last, in seconds.

    Attributes:
        tls_handshake: From accept to the end of the TLS handshake.
        opening_handshake: From then to the whole request. Clients themselves
            give up after 10 s.
        authentication: From the request to the authenticator's answer; 8 at most,
            as clients wait 10 s for the whole upgrade.
        registration: From the upgrade to the first registration.
        ping_interval: How long a client that says nothing is left alone before the
            relay pings it. If it has said something meanwhile, as stock clients do,
            the time begins anew.
        ping_timeout: From that ping to its pong. A client that does not read
            what is sent to it cannot answer, and is ended then.
        close_handshake: From the relay's close frame to the answer, and again
            from there to the end of the connection.
        stop: How long a stopping relay waits for its clients' goodbye.
    """

    tls_handshake: Wait = 12
    opening_handshake: Wait = 12
    authentication: Annotated[float, Meta(ge=0.1, le=8)] = 8
    registration: Wait = 12
    ping_interval: Wait = 20
    ping_timeout: Wait = 20
    close_handshake: Wait = 5
    stop: Seconds = 10


class Limits(Struct, frozen=True):
    """``[limits]``: how many clients there may be, and how fast.

    Who is over a limit of connections or registrations is asked to come back later; who
    registered and sends too fast is read from more slowly. Nobody who is there is
    closed, but for who registers again and again on one connection. An address is an
    IPv4 address or an IPv6 network of 64 bits. The limits of one address do not apply
    to this machine's own, which may be those of a proxy, nor to trusted proxies.

    Attributes:
        connections: In total; further ones wait to be accepted. None for as many as the
            process may have open files, less 64, which nothing exceeds anyway.
        connections_per_user: For each user, if clients have to prove who they are.
        connections_per_address: For each address, behind which there may be a campus.
        unregistered: Connections in total that have not registered yet. When there are
            nearly so many, the oldest of the address that has the most is closed, if it
            has had 3 s, and further ones wait until there is room.
        unregistered_per_address: For each address. When there is one more, the oldest
            of them is closed, if it has had 3 s.
        registrations_per_address: For each address, in a second.
        registrations_per_client: For each connection, in a second, after its first.
            Stock clients register once.
        messages_per_address: Frames of all kinds, in a second.
        messages_per_client: The same for each connection, where what is answered, such
            as an offer that comes back with an error, counts as ten. A client over it
            is read from once a second at most, but what one read brings is acted upon,
            so this bounds small messages only roughly. A change of TLS keys counts as a
            message.
        burst: How many seconds' worth of all these may come at once.
        trusted_proxies: Networks of proxies that are believed when they say where a
            client comes from, with ``X-Forwarded-For`` or the PROXY protocol.
        proxy_protocol: Whether these proxies begin each connection with the header of
            that protocol, version 1 or 2. Then they must.
    """

    connections: Limit | None = None
    connections_per_user: Limit = 10_000
    connections_per_address: Limit = 5_000
    unregistered: Limit = 4096
    unregistered_per_address: Limit = 1024
    registrations_per_address: Rate = 100
    registrations_per_client: Rate = 10
    messages_per_address: Rate = 5_000
    messages_per_client: Rate = 1_000
    burst: Annotated[float, Meta(ge=1, le=3600)] = 20
    trusted_proxies: tuple[str, ...] = ()
    proxy_protocol: bool = False


class Offers(Struct, frozen=True):
    """``[offers]``: what the relay does for clients that want to reach each other.

    Attributes:
        shield: Whether messages that would end the process of a stock client are
            dropped. Without it all of this table is off, and whatever a client sends is
            passed on, as proxystore-relay does.
        answer_timeout: Seconds after which an offer that is not answered goes back to
            its sender. Stock clients wait for 30, and can never reach the peer again
            when these are over.
        hold: Seconds for which an offer waits for a peer that has just left; 0 turns
            that off.
        recent: Seconds after which a peer no longer counts as having just left, and the
            relay as having just started.
        crossing: Seconds for which an offer waits, at most, for one of its receiver to
            its sender, which would end the process of one of them; 0 turns that off.
            The wait ends after some 10 ms if the receiver answers pings without delay:
            it makes no offer then. After an answer, offers between the two do not wait
            for 10 s, as long as neither registers anew.
        held_per_user: How many offers of a user wait, at most. Without authentication
            it holds for each address, but for this machine's own and trusted proxies.
        held_total: The same for all. When so many wait, the user or address with the
            most makes room.
        close_deaf: Whether clients that came back and answer no offers since are closed
            with 4004, which ends their processes: a supervisor can start them anew.
            Offers from three addresses must have stayed unanswered in a row, so that
            one stranger cannot have a client closed.
    """

    shield: bool = True
    answer_timeout: Annotated[float, Meta(ge=1, le=24)] = 20
    hold: Annotated[float, Meta(ge=0, le=20)] = 5
    recent: Annotated[float, Meta(ge=0, le=3600)] = 120
    crossing: Annotated[float, Meta(ge=0, le=5)] = 0.5
    held_per_user: Held = 64
    held_total: Held = 1024
    close_deaf: bool = False


class Admin(Struct, frozen=True):
    """``[admin]``: the private listener, for those who look after the relay.

    Attributes:
        listen: Where it listens: an address and a port (``127.0.0.1:8701``,
            ``[::1]:8701``; port 0 takes a free one, which the log names), or the path
            of a socket (``unix:/run/proxyrelay/admin.sock``). None for no listener.
        token_file: File that holds the token that callers have to bring, and nothing
            else. Needed where others than this machine reach it.
        allowed_hosts: Names by which browsers may call it, beside those of this
            machine and the address in ``listen``, such as that of a proxy.
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
        """Whether only this machine reaches the listener, if there is one."""
        place = self.place
        return not isinstance(place, tuple) or _is_loopback(place[0])


class Config(Struct, frozen=True):
    """The settings of a relay.

    Attributes:
        host: Address or name of the interface to listen on; none for all.
        port: TCP port; 0 takes a free one, which the log names.
        certfile: PEM file with the certificate and its chain; turns TLS on.
        keyfile: PEM file with the private key; none if it is in ``certfile``.
        certificate_interval: Seconds between two looks at whether these files have
            been renewed; 0 for none.
        reuse_port: Whether another relay of the same user may listen on the same
            port at the same time (``SO_REUSEPORT``), so that it can take over.
        drain_max: Seconds after which a relay that another one replaces closes the
            clients that have not left by themselves.
        max_message_bytes: Longest message of a client, in bytes of UTF-8. None
            for 1 MiB, which nothing exceeds anyway.
        max_unread_bytes: How much a client may leave unread, beside what fits
            into the buffers of the transport, before messages for it go back to
            their senders.
        allowed_origins: Patterns with ``*`` for the ``Origin`` header of
            browsers. Clients that send none are always let in.
        auth: See `Auth`.
        logging: See `Logging`.
        timeouts: See `Timeouts`.
        limits: See `Limits`.
        offers: See `Offers`.
        admin: See `Admin`.
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

    @property
    def scheme(self) -> str:
        """``wss`` with TLS, ``ws`` without."""
        return "ws" if self.certfile is None else "wss"

    def exposure(self) -> str | None:
        """What a stranger on the network could do, in one sentence, or None."""
        if _is_loopback(self.host):
            return None
        if self.certfile is None and self.auth.method is not None:
            return (
                "bearer tokens travel in clear text, as this relay is without TLS: set "
                "certfile, or let only a proxy that ends TLS reach it"
            )
        lacks = []
        if self.certfile is None:
            lacks.append("TLS (set certfile)")
        if self.auth.method is None:
            lacks.append("authentication (set [auth])")
        if not lacks:
            return None
        return (
            f"other machines reach this relay without {' and without '.join(lacks)}: "
            "keep it inside a trusted network"
        )


def _is_loopback(host: str | None) -> bool:
    if host is None:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _meet(one: tuple[str | None, int], other: tuple[str | None, int]) -> bool:
    """Whether two places to listen are one, or one is within the other."""
    hosts = {one[0], other[0]}
    return one[1] == other[1] != 0 and (len(hosts) == 1 or bool(hosts & _EVERYWHERE))


_EVERYWHERE = frozenset({None, "0.0.0.0", "::"})  # noqa: S104 - nobody listens here
"""Hosts that stand for all interfaces. One that stands for all of IPv4 and one of IPv6
do not meet, but nobody will look for the two at the same port."""


ALIASES: Mapping[tuple[str, ...], str] = {
    ("logging", "default_log_level"): "default_level",
    ("logging", "websockets_log_level"): "websockets_level",
    ("logging", "connected_client_logging_interval"): "current_client_interval",
    ("logging", "connected_client_logging_limit"): "current_client_limit",
}
"""Spellings in ProxyStore's documentation that its relay never read."""

_LEVEL_SPELLINGS: Mapping[object, str] = {
    "WARN": "WARNING",
    "FATAL": "CRITICAL",
    10: "DEBUG",
    20: "INFO",
    30: "WARNING",
    40: "ERROR",
    50: "CRITICAL",
}

_ORIGINS_HINT = 'a list of origins, such as ["https://*.example.org"]'

_HINTS: Mapping[tuple[str, ...], str] = {
    ("admin", "allowed_hosts"): 'a list of names, such as ["relay.example.org"]',
    ("admin", "listen"): (
        'an address and a port, such as "127.0.0.1:8701" or "[::1]:8701", or an '
        'absolute path, such as "unix:/run/proxyrelay/admin.sock"'
    ),
    ("host",): "a text: an address or a name of this machine",
    ("port",): "a whole number from 0 to 65535",
    ("allowed_origins",): _ORIGINS_HINT,
    ("auth", "kwargs", "audience"): (
        f'a text: the client ID of an application, such as "{PROXYSTORE_RELAY}"'
    ),
    ("auth", "kwargs", "service_url"): (
        "an address that starts with https://, then a name or an IPv4 address, and "
        "perhaps a port and a path, such as https://auth.globus.org"
    ),
    ("auth", "method"): '"globus", or nothing for a relay without authentication',
    ("limits", "trusted_proxies"): (
        'a list of networks, such as ["192.0.2.0/24", "2001:db8::1"], whose bits '
        "behind the prefix are 0"
    ),
    ("logging", "default_level"): "DEBUG, INFO, WARNING, ERROR or CRITICAL",
    ("logging", "format"): '"text" or "json"',
    ("logging", "websockets_level"): "DEBUG, INFO, WARNING, ERROR or CRITICAL",
}


_IDENTITY = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_DOMAIN = re.compile(r"[^@*\s]+")

_SCOPE = re.compile(r"(?=[^:]+:)[!#-;=?-\[\]-~]+")
"""A URL or a URN in the letters of RFC 6749, section 3.3, and no place-holder."""

_NEAR = 0.8
"""How much a name must be like that of a table to stand for it."""

# Twisted's agent takes no IPv6 address, and raises on labels that IDNA does not know.
_LABEL = r"(?!..--)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"

_ADDRESS = re.compile(
    rf"https://(?P<host>(?:{_LABEL}\.)*{_LABEL})(?::(?P<port>[0-9]{{1,5}}))?"
    r"(?:/[A-Za-z0-9._~%!$&'()*+,;=:@/-]*)?"
)

_HOST_CEILING = 253
"""Characters of the longest name of a host (RFC 1035, section 2.3.4)."""


def application_id(text: str) -> str:
    """The ID of an application as Globus prints it: a UUID in lower case.

    Raises:
        ValueError: It is no UUID.
    """
    lower = text.lower()
    if not _IDENTITY.fullmatch(lower):
        raise ValueError("no ID")
    return lower


def _address(url: str) -> str:
    """An address that requests can be sent to.

    Raises:
        ValueError: It is none.
    """
    found = _ADDRESS.fullmatch(url)
    if found is None or len(found["host"]) > _HOST_CEILING:
        raise ValueError("no address")
    if not 0 < int(found["port"] or "443") < 1 << 16:
        raise ValueError("no port")
    return url


_PLACE = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9.-]+)):(?P<port>[0-9]{1,5})"
)

_ADMIN_LISTEN = re.compile(
    r"^[ \t]*\[[ \t]*admin[ \t]*\].*\n(?:(?![ \t]*\[).*\n)*?[ \t]*(?P<line>listen\b.*)",
    re.MULTILINE,
)

_SOCKET_CEILING = 107
"""Bytes of the longest path of a socket (unix(7))."""


def admin_place(listen: str) -> tuple[str, int] | Path:
    """Take apart where to listen.

    Args:
        listen: An address and a port, or ``unix:`` and an absolute path.

    Returns:
        Host and port, or the path.

    Raises:
        ValueError: It is neither.
    """
    if listen.startswith("unix:/"):
        path = Path(listen.removeprefix("unix:"))
        if "\0" in listen or len(bytes(path)) > _SOCKET_CEILING:
            raise ValueError("no path of a socket")
        return path
    found = _PLACE.fullmatch(listen)
    if found is None or int(found["port"]) >= 1 << 16:
        raise ValueError("no address and port")
    if found["six"]:
        ipaddress.IPv6Address(found["six"])
    return found["six"] or found["host"], int(found["port"])


def admin_listen(path: Path) -> str | None:
    """What a file says for ``admin.listen``, whatever else is wrong with it.

    A health check must not take a mistake in a file for one of the relay, which serves
    on with what it has read before.

    Args:
        path: The TOML file, or what was meant to be one.

    Returns:
        The text, which may be no place; None if there is none.

    Raises:
        OSError: The file cannot be read.
    """
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    line = _ADMIN_LISTEN.search(text)
    # Where a mistake spoils all of the file, its line may be sound by itself.
    for part in (text, f"[admin]\n{line['line']}" if line else ""):
        with suppress(TOMLKitError):
            admin = tomlkit.parse(part).unwrap().get("admin")
            listen = admin.get("listen") if isinstance(admin, dict) else None
            return listen if isinstance(listen, str) else None
    return None


def _listen(listen: str | None) -> str | None:
    """Where one can listen.

    Raises:
        ValueError: Nobody can there.
    """
    if listen is not None:
        admin_place(listen)
    return listen


def _networks(networks: tuple[str, ...]) -> tuple[str, ...]:
    """Networks that there can be.

    Raises:
        ValueError: One is none.
    """
    Proxies(networks)
    return networks


_READ_AS: Mapping[tuple[str, ...], Callable[[Any], Any]] = {
    ("admin", "listen"): _listen,
    ("auth", "kwargs", "audience"): application_id,
    ("auth", "kwargs", "service_url"): _address,
    ("limits", "trusted_proxies"): _networks,
}
"""What becomes of values that have the right type."""


@dataclass
class Loaded:
    """What became of a file and a command line.

    Attributes:
        config: The settings; the default stands in for each that is of a wrong type.
        problems: Why they cannot be served.
        warnings: What should be changed, but can be served.
        text: What the file says; empty without a file.
        file: Its name, or None.
        options: The options that win over settings, by the setting's dotted name.
    """

    config: Config
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    text: str = field(default="", repr=False)
    file: str | None = None
    options: dict[str, str] = field(default_factory=dict)

    def sound(self, *keys: str) -> bool:
        """Whether none of some settings, or of their options, has a problem."""
        spelt = {*keys, *(self.options.get(key, key) for key in keys)}
        return not any(problem.key in spelt for problem in self.problems)

    def located(self, problem: Problem) -> Problem:
        """A problem with a setting, with the place where the setting stands."""
        if problem.key in self.options:
            return replace(problem, key=self.options[problem.key])
        if self.file is None:
            return problem
        line = _line(self.text, tuple(problem.key.split(".")))
        return replace(problem, line=line, file=self.file)


def load(
    path: Path | None, overrides: Mapping[str, str | None] | None = None
) -> Loaded:
    """Read the settings.

    Args:
        path: The TOML file, or None for the defaults. Relative paths in it start
            from its folder.
        overrides: What the command line says, by the name of the option
            (``--log-dir``); None where it says nothing. It wins over the file.

    Returns:
        The settings, with all problems found: it does not raise.
    """
    message_debt: dict[str, Any] = {
        option: value
        for option, value in (overrides or {}).items()
        if value is not None
    }
    if message_debt.get("--port", "").isdecimal():
        message_debt["--port"] = int(message_debt["--port"][:9])
    if path is None:
        return _Reader("", Path(), None, message_debt).read({})
    try:
        text = path.read_text(encoding="utf-8-sig")
        table = tomlkit.parse(text).unwrap()
    except OSError as error:
        problem = Problem("", f"cannot be read: {error.strerror}", file=str(path))
    except UnicodeDecodeError:
        problem = Problem("", "is not UTF-8 text", file=str(path))
    except TOMLKitError as error:
        line = getattr(error, "line", None) or _line_of_repetition(text)
        words = re.sub(r" at line \d+ col (\d+)$", r" (column \1)", str(error))
        words = words.replace("'\\x00'", "the end of the file")
        words = words.replace(" (column 0)", "")
        if (
            not isinstance(error, KeyAlreadyPresent)
            and line is not None
            and _UNQUOTED.match("".join(text.splitlines()[line - 1 : line]))
        ):
            words += '; a text needs quotes: "..."'
        problem = Problem("", f"is not valid TOML: {words}", line, str(path))
    else:
        return _Reader(text, path.parent, str(path), message_debt).read(table)
    return Loaded(Config(), [problem])


_UNQUOTED = re.compile(r"""\s*[\w.-]+\s*=\s*[^\s"'\[{#]""")
"""A line that sets something which is in no quotes, and no list or table."""

OVERRIDES: Mapping[str, tuple[str, ...]] = {
    "--host": ("host",),
    "--port": ("port",),
    "--log-dir": ("logging", "log_dir"),
    "--log-level": ("logging", "default_level"),
}
"""Options of the command line, and the settings that they override."""


class _Reader:
    """Turns one table into a `Loaded`, collecting problems on the way."""

    def __init__(
        self, text: str, folder: Path, file: str | None, overrides: dict[str, Any]
    ) -> None:
        self._text = text
        self._folder = folder.absolute()
        self._file = file
        self._overrides = overrides
        self._options = {
            path: option for option, path in OVERRIDES.items() if option in overrides
        }
        self._spelt: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._problems: list[Problem] = []
        self._warnings: list[Problem] = []

    def read(self, table: dict[str, Any]) -> Loaded:
        config: Config = self._struct(Config, table, ())
        if 0 < config.logging.current_client_interval < SHORTEST_INTERVAL:
            self._problem(
                ("logging", "current_client_interval"),
                f"expected 0 or a number >= {SHORTEST_INTERVAL}",
            )
        self._check_lists(config.auth.kwargs)
        self._check_patience(config)
        self._check_proxies(config.limits)
        if config.logging.privacy_key_file is not None and not config.logging.privacy:
            self._warnings.append(
                self._at(
                    ("logging", "privacy_key_file"),
                    "has no effect without privacy = true",
                )
            )
        self._check_admin(config)
        if config.keyfile is not None and "certfile" not in table:
            self._problem(("keyfile",), "needs a certfile beside it")
        self._problems.sort(key=lambda problem: problem.line or 0)
        options = {".".join(path): option for path, option in self._options.items()}
        return Loaded(
            config, self._problems, self._warnings, self._text, self._file, options
        )

    def _check_lists(self, arguments: AuthArguments) -> None:
        """Refuse entries that match nobody: a deny list would let them in."""
        for name in ("allowed_users", "denied_users"):
            if not all(map(_IDENTITY.fullmatch, getattr(arguments, name))):
                self._problem(
                    ("auth", "kwargs", name),
                    "expected IDs of identities, such as "
                    '"a3bb189e-8bf9-3888-9912-ace4e6543002", in lower case',
                )
        for name in ("allowed_domains", "denied_domains"):
            if not all(map(_DOMAIN.fullmatch, getattr(arguments, name))):
                self._problem(
                    ("auth", "kwargs", name),
                    'expected domains, such as "example.org", without @ and wildcards',
                )
        if not all(map(_SCOPE.fullmatch, arguments.required_scopes or ())):
            self._problem(
                ("auth", "kwargs", "required_scopes"),
                "expected whole scope strings, such as "
                f'"https://auth.globus.org/scopes/{PROXYSTORE_RELAY}/relay_all"',
            )
        for kind in ("users", "domains"):
            allowed = map(str.lower, getattr(arguments, f"allowed_{kind}"))
            denied = map(str.lower, getattr(arguments, f"denied_{kind}"))
            if set(allowed) & set(denied):
                self._warnings.append(
                    self._at(
                        ("auth", "kwargs", f"allowed_{kind}"),
                        f"has no effect for those that are in denied_{kind}, too",
                    )
                )

    def _check_patience(self, config: Config) -> None:
        """Refuse to give an answer up before its own time is over.

        The authenticator learns from each end of a question how Globus is; one that is
        given up from outside says nothing.
        """
        least = round(config.auth.kwargs.timeout + MARGIN, 9)
        if config.auth.method is not None and config.timeouts.authentication < least:
            self._problem(
                ("timeouts", "authentication"),
                f"expected at least {MARGIN} s more than auth.kwargs.timeout, which is "
                f"{AuthArguments().timeout:g} unless it is set",
            )

    def _check_proxies(self, limits: Limits) -> None:
        """Refuse a protocol that nobody may speak."""
        if any(network.endswith("/0") for network in limits.trusted_proxies):
            self._warnings.append(
                self._at(
                    ("limits", "trusted_proxies"),
                    "believes whoever connects: any client may say that it is another",
                )
            )
        if limits.proxy_protocol and not limits.trusted_proxies:
            self._problem(
                ("limits", "proxy_protocol"), "needs trusted_proxies beside it"
            )

    def _check_admin(self, config: Config) -> None:
        """Let nobody else in who has no token, and clients stay where they are."""
        admin = config.admin
        if isinstance(admin.place, tuple) and _meet(
            admin.place, (config.host, config.port)
        ):
            self._problem(
                ("admin", "listen"),
                f"is where clients come to (port {config.port}): take another port",
            )
        if not admin.is_private and admin.token_file is None:
            self._problem(
                ("admin", "listen"),
                "needs a token_file beside it: other machines reach this address",
            )

    def _struct(self, kind: Any, table: dict[str, Any], path: tuple[str, ...]) -> Any:
        table = self._spell(table, path)
        hints = get_type_hints(kind, include_extras=True)
        values: dict[str, Any] = {}
        for name, hint in hints.items():
            here = (*path, name)
            option = self._options.get(here)
            if option is not None:
                self._value(values, hint, self._overrides[option], here, option)
            elif isinstance(hint, type) and issubclass(hint, Struct):
                inner = table.get(name, {})
                if isinstance(inner, dict):
                    values[name] = self._struct(hint, inner, here)
                else:
                    self._problem(here, f"expected a table, [{'.'.join(here)}]")
                    values[name] = self._struct(hint, {}, here)
            elif name in table:
                self._value(values, hint, table[name], here, None)
        for name in table:
            if name not in hints:
                self._stranger((*path, name), table[name])
        return kind(**values)

    def _stranger(self, path: tuple[str, ...], value: Any) -> None:
        """Refuse a setting that does not exist, or each in a table that does not."""
        table = _near_table(path)
        if isinstance(value, dict) and table:
            self._problem(path, f"unknown table; did you mean [{'.'.join(table)}]?")
        elif isinstance(value, dict) and value:
            for name, inner in value.items():
                self._stranger((*path, name), inner)
        else:
            self._problem(path, _unknown(path))

    def _spell(self, table: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        """Replace aliases by the settings that they stand for."""
        spelt = dict(table)
        for alias, name in ALIASES.items():
            if alias[:-1] != path or alias[-1] not in table:
                continue
            value = spelt.pop(alias[-1])
            if name in table:
                self._problem(alias, f"is another spelling of {name}: keep only that")
            else:
                spelt[name] = value
                self._spelt[(*path, name)] = alias
                self._warnings.append(
                    self._at(alias, f"is a deprecated spelling: write {name}")
                )
        return spelt

    def _value(
        self,
        values: dict[str, Any],
        hint: Any,
        value: Any,
        path: tuple[str, ...],
        option: str | None,
    ) -> None:
        if hint is Level:
            spelling = value.upper() if isinstance(value, str) else value
            if not isinstance(spelling, bool) and isinstance(spelling, str | int):
                value = _LEVEL_SPELLINGS.get(spelling, spelling)
        folder = Path.cwd() if option else self._folder
        try:
            converted = msgspec.convert(
                value, hint, dec_hook=lambda kind, raw: _decode(kind, raw, folder)
            )
            values[path[-1]] = _READ_AS.get(path, lambda same: same)(converted)
        except ValueError as error:  # msgspec's are such, too
            text = f"expected {_HINTS[path]}" if path in _HINTS else _plain(str(error))
            if option:
                self._problems.append(Problem(option, text))
            else:
                self._problem(path, text)

    def _problem(self, path: tuple[str, ...], message: str) -> None:
        self._problems.append(self._at(path, message))

    def _at(self, path: tuple[str, ...], message: str) -> Problem:
        path = self._spelt.get(path, path)
        return Problem(".".join(path), message, _line(self._text, path), self._file)


def _decode(kind: type, raw: object, folder: Path) -> object:
    if not isinstance(raw, str):
        raise TypeError("Expected `str`")
    if not raw:
        raise ValueError("expected a text that is not empty")
    if kind is Secret:
        return Secret(raw)
    if "\0" in raw:
        raise ValueError("expected a path without null characters")
    try:
        return folder / Path(raw).expanduser()
    except RuntimeError:
        raise ValueError("expected a path; there is no such home folder") from None


def _plain(message: str) -> str:
    words = {
        " | null": "",
        "`int`": "a whole number",
        "`float`": "a number",
        "`str`": "a text",
        "`bool`": "true or false",
        "`array`": "a list",
        "`object`": "a table",
    }
    for word, plain in words.items():
        message = message.replace(word, plain)
    message = message.replace("`", "")
    return message[:1].lower() + message[1:]


def settings(
    kind: Any = Config, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """Every table and setting there is, as a path of names."""
    for name, hint in get_type_hints(kind).items():
        yield (*path, name)
        if isinstance(hint, type) and issubclass(hint, Struct):
            yield from settings(hint, (*path, name))


def _near_table(path: tuple[str, ...]) -> tuple[str, ...] | None:
    """The table that a misspelt one probably is."""
    tables = {other[:-1] for other in settings()}
    beside = [other[-1] for other in tables if other and other[:-1] == path[:-1]]
    near = get_close_matches(path[-1].lower(), beside, 1, _NEAR)
    return (*path[:-1], near[0]) if near else None


def _spelt(path: tuple[str, ...]) -> str:
    table = f" in [{'.'.join(path[:-1])}]" if path[:-1] else " at the top of the file"
    return path[-1] + table


def _unknown(path: tuple[str, ...]) -> str:
    """Say that there is no such setting, and which comes closest."""
    known = list(settings())
    same_name = [other for other in known if other[-1] == path[-1]]
    beside = [other[-1] for other in known if other[:-1] == path[:-1]]
    name = path[-1].lower()
    near = get_close_matches(name, beside, 1) or get_close_matches(
        name, [other[-1] for other in known], 1
    )
    if same_name:
        hint = _spelt(same_name[0])
    elif near:
        hint = _spelt(
            next(
                other
                for other in sorted(known, key=lambda other: other[:-1] != path[:-1])
                if other[-1] == near[0]
            )
        )
    else:
        hint = ""
    return f"unknown setting; did you mean {hint}?" if hint else "unknown setting"


def _line(text: str, path: tuple[str, ...]) -> int | None:
    """The line on which a setting stands in a TOML text.

    tomlkit keeps no positions, but writes a text as it was: so a mark is put in the
    place of the setting, and looked for in what is written.
    """
    document = tomlkit.parse(text)
    mark = _absent(text)
    item: Any = document
    for name in path:
        if not isinstance(item, MutableMapping) or name not in item:
            return None
        table, item = item, item[name]
    if isinstance(item, MutableMapping):
        return _line_of_table(text, path, document, item)
    if isinstance(item, AoT):
        item[0].comment(mark)
    else:
        table[path[-1]] = mark
    return _line_of(mark, document)


def _line_of_table(
    text: str, path: tuple[str, ...], document: tomlkit.TOMLDocument, table: Any
) -> int | None:
    """The line of a table's header, or where it has none of its first setting."""
    if hasattr(table, "comment"):
        mark = _absent(text)
        table.comment(mark)
        line = _line_of(mark, document)
        if line is not None:
            return line
    lines = (_line(text, (*path, name)) for name in table)
    return next((line for line in lines if line is not None), None)


def _absent(text: str) -> str:
    """A mark that does not occur in a text."""
    mark = "here"
    while mark in text:
        mark += "-"
    return mark


def _line_of(mark: str, document: tomlkit.TOMLDocument) -> int | None:
    before, found, _ = tomlkit.dumps(document).partition(mark)
    return before.count("\n") + 1 if found else None


def _line_of_repetition(text: str) -> int | None:
    """The line that names something again; tomlkit does not always tell."""
    lines = text.splitlines(keepends=True)
    for number in range(1, len(lines) + 1):
        try:
            tomlkit.parse("".join(lines[:number]))
        except KeyAlreadyPresent:  # noqa: PERF203
            return number
        except TOMLKitError:
            continue
    return None
