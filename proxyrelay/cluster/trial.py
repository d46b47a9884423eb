"""A trial of the engine for ``proxyrelay check``: each call blocks until its reply."""

from __future__ import annotations

import re
import secrets
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha1
from importlib.resources import files as resources
from typing import Any, cast

import hiredis

from proxyrelay.cluster import files
from proxyrelay.cluster.bus import FORMAT
from proxyrelay.config.cluster import Cluster, Place, place
from proxyrelay.errors import ConfigError, Problem

LEAST_VERSION = (7, 0)
"""First version of Redis that the scripts need. Each one of Valkey is later."""

READ_BYTES = 65536

TRIAL_MS = 1000
"""Life of the key that the trial makes."""

TRIAL_SCRIPT = "return 1"

ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "SELECT": ("{database}",),
    "SET": ("{key}", "v", "PX", str(TRIAL_MS)),
    "EXISTS": ("{key}",),
    "GET": ("{key}",),
    "HDEL": ("{key}", "f"),
    "HMGET": ("{key}", "f"),
    "HSET": ("{key}", "f", "v"),
    "PEXPIRE": ("{key}", str(TRIAL_MS)),
    "SADD": ("{key}", "m"),
    "SMEMBERS": ("{key}",),
    "SREM": ("{key}", "m"),
    "SSCAN": ("{key}", "0"),
    "ZADD": ("{key}", "1", "m"),
    "ZCARD": ("{key}",),
    "ZREM": ("{key}", "m"),
    "ZREMRANGEBYSCORE": ("{key}", "0", "1"),
    "ZSCORE": ("{key}", "m"),
    "DEL": ("{key}",),
    "TIME": (),
    "PUBLISH": ("{channel}", "trial"),
    "SCRIPT LOAD": ("{script}",),
    "EVALSHA": ("{hash}", "0"),
    "ROLE": (),
    "SUBSCRIBE": ("{channel}",),
}
"""Harmless arguments of each command that the relay or its scripts may use."""

OF_THE_LINK = ("EVALSHA", "PUBLISH", "SCRIPT LOAD", "SUBSCRIBE")

_CALL = re.compile(r"redis\.call\('([A-Z]+)'")


def commands(cluster: Cluster) -> list[str]:
    """Commands that the relay and its scripts use, sorted."""
    found = {
        name
        for script in (resources("proxyrelay.cluster") / "lua").iterdir()
        for name in _CALL.findall(script.read_text("ascii"))
    }
    found |= {"ROLE"} if cluster.sentinels else set()
    found |= {"SELECT"} if cluster.database else set()
    return sorted(found | {*OF_THE_LINK})


def acl(cluster: Cluster) -> str:
    """The engine command for an ACL user with exactly these rights."""
    rights = " ".join(_right(command) for command in commands(cluster))
    name, (keys, channels) = cluster.username or "relay", _patterns(cluster)
    return (
        f"ACL SETUSER {name} on >PASSWORD resetkeys {keys} resetchannels {channels} "
        f"-@all {rights}"
    )


def _right(command: str) -> str:
    return f"+{command.lower().replace(' ', '|')}"


def _patterns(cluster: Cluster) -> tuple[str, str]:
    return f"~{cluster.prefix}:*", f"&{cluster.prefix}:*:in:*"


@dataclass
class Report:
    """What the trial has found.

    Attributes:
        lines: About the engine.
        problems: Why it refuses the relay.
        warnings: Why it cannot be reached at present, and other advice.
    """

    lines: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


class _Connection:
    """A connection to an engine or a sentinel.

    Raises:
        OSError: It cannot be reached.
    """

    def __init__(self, at: Place, cluster: Cluster) -> None:
        seconds = cluster.call_timeout
        if at.kind == "unix":
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(seconds)
            self._socket.connect(at.host)
        else:
            self._socket = socket.create_connection((at.host, at.port), seconds)
        if at.kind == "tls":
            context = ssl.create_default_context(cafile=cluster.ca_file)
            if cluster.client_certfile is not None:
                context.load_cert_chain(cluster.client_certfile, cluster.client_keyfile)
            self._socket = context.wrap_socket(self._socket, server_hostname=at.host)
        self._reader = hiredis.Reader()

    def ask(self, *command: str) -> Any:
        """Send a command, and return its reply; a `hiredis.ReplyError` for an error.

        Raises:
            OSError: There is none.
        """
        self._socket.sendall(hiredis.pack_command(cast(Any, command)))
        try:
            while (reply := self._reader.gets()) is False:
                data = self._socket.recv(READ_BYTES)
                if not data:
                    raise ConnectionResetError(0, "it closed the connection")
                self._reader.feed(data)
        except hiredis.ProtocolError:
            raise ConnectionResetError(0, "it is no engine") from None
        return reply

    def close(self) -> None:
        """End the connection."""
        self._socket.close()


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLEOFError):
        return "TLS failed: it closed the connection; it may want a client certificate"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    return error.strerror or str(error)


def try_engine(cluster: Cluster) -> Report:
    """Connect as the relay does, and try each command that it needs.

    The files of the cluster must have been read without a problem.
    """
    report = Report()
    name = "cluster.sentinels" if cluster.sentinels else "cluster.engine"
    at = _master(cluster, report) if cluster.sentinels else place(cluster.engine or "")
    if at is None:
        return report
    shown = at.host if at.kind == "unix" else f"{at.host}:{at.port}"
    try:
        with closing(_Connection(at, cluster)) as connection:
            _Trial(cluster, connection, report, shown).run()
    except ssl.SSLError as error:
        wrong = f"{shown} is refused, or refuses this relay: {_why(error)}"
        report.problems.append(Problem(name, wrong))
    except OSError as error:
        serves = cluster.without_engine == "serve"
        rest = "serves its own clients alone" if serves else "refuses new clients"
        advice = (
            f"{shown} cannot be reached: {_why(error)}. Until it can, the relay "
            f"{rest}: start the engine, or correct the address"
        )
        report.warnings.append(Problem(name, advice))
    return report


def _master(cluster: Cluster, report: Report) -> Place | None:
    """Ask all sentinels for the master."""
    found: set[tuple[str, int]] = set()
    silent = 0
    credentials = _credentials(cluster)
    for text, at in zip(cluster.sentinels, cluster.places, strict=True):
        try:
            with closing(_Connection(at, cluster)) as sentinel:
                if credentials:
                    sentinel.ask("AUTH", *credentials)
                reply = sentinel.ask(
                    "SENTINEL", "GET-MASTER-ADDR-BY-NAME", cluster.master
                )
        except OSError as error:
            silent += 1
            wrong = f"{text} cannot be reached: {_why(error)}"
            report.warnings.append(Problem("cluster.sentinels", wrong))
            continue
        if isinstance(reply, hiredis.ReplyError):
            wrong = f"{text} refuses this relay: {reply}"
            report.problems.append(Problem("cluster.sentinels", wrong))
        elif reply is not None:
            found.add((reply[0].decode(), int(reply[1])))
    if len(found) > 1:
        wrong = f"they name {len(found)} masters: they may be about to change"
        report.warnings.append(Problem("cluster.sentinels", wrong))
    if not found and silent < len(cluster.sentinels) and not report.problems:
        wrong = f"no sentinel knows a master {cluster.master!r}"
        report.problems.append(Problem("cluster.master", wrong))
    for host, port in found:
        return Place(cluster.places[0].kind, host, port)
    return None


def _credentials(cluster: Cluster) -> list[str]:
    password = files.password(cluster)
    return [*filter(None, (cluster.username, password))] if password else []


class _Trial:
    """What follows the connection."""

    def __init__(
        self, cluster: Cluster, connection: _Connection, report: Report, shown: str
    ) -> None:
        self._cluster = cluster
        self._ask = connection.ask
        self._report = report
        self._shown = shown

    def run(self) -> None:
        """Authenticate, and look at the engine and the user."""
        if self._authenticates() and self._is_of_the_right_kind():
            self._look_at_memory()
            self._try_commands()

    def _refuse(self, setting: str, message: str) -> None:
        self._report.problems.append(Problem(f"cluster.{setting}", message))

    def _authenticates(self) -> bool:
        try:
            credentials = _credentials(self._cluster)
        except ConfigError as error:
            self._report.problems += error.problems
            return False
        reply = self._ask("AUTH", *credentials) if credentials else self._ask("HELLO")
        if not isinstance(reply, hiredis.ReplyError):
            return True
        if credentials:
            user = self._cluster.username or "default"
            reason, line = str(reply).rstrip("."), acl(self._cluster)
            self._refuse(
                "password_file",
                f"the engine refuses user {user!a}: {reason}. To make it: {line}",
            )
        else:
            self._refuse("engine", f"{self._shown} refuses this relay: {reply}")
        return False

    def _is_of_the_right_kind(self) -> bool:
        reply = self._ask("HELLO")
        if isinstance(reply, hiredis.ReplyError):
            self._refuse("engine", f"{self._shown} is no Redis 7.0 or Valkey: {reply}")
            return False
        about = dict(zip(reply[::2], reply[1::2], strict=True))
        server, version, mode, role = (
            about.get(key, b"").decode("ascii", "replace")
            for key in (b"server", b"version", b"mode", b"role")
        )
        numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
        if server == "redis" and numbers < LEAST_VERSION:
            self._refuse("engine", f"Redis {version} is too old: 7.0 is needed")
        if mode == "cluster":
            self._refuse("engine", "a Redis Cluster cannot be used: take one engine")
        if role != "master":
            self._refuse("engine", f"{self._shown} is a {role}: the master is needed")
        self._report.lines.append(f"engine: {server} {version} at {self._shown}")
        return not self._report.problems

    def _try_commands(self) -> None:
        cluster = self._cluster
        missing = [*dict.fromkeys(self._missing())]
        user = cluster.username or "default"
        if missing:
            self._refuse(
                "username" if cluster.username else "engine",
                f"user {user!a} of the engine lacks {' '.join(missing)}. To make a "
                f"user that suffices: {acl(cluster)}",
            )
            return
        count = len(commands(cluster))
        self._report.lines += [
            f"engine: user {user!a} may run all {count} commands that the relay needs",
            f"engine: a user that suffices: {acl(cluster)}",
        ]

    def _missing(self) -> Iterator[str]:
        """Yield rules of the ACL that the user lacks."""
        cluster = self._cluster
        start, unique = f"{cluster.prefix}:{FORMAT}", secrets.token_hex(8)
        values = {
            "key": f"{start}:trial:{unique}",
            "channel": f"{start}:in:trial:{unique}",
            "database": str(cluster.database),
            "script": TRIAL_SCRIPT,
            "hash": sha1(TRIAL_SCRIPT.encode(), usedforsecurity=False).hexdigest(),
        }
        needed = commands(cluster)
        keys, channels = _patterns(cluster)
        # The key that SET makes ends by itself. After SUBSCRIBE, nothing else works.
        for command in filter(needed.__contains__, ARGUMENTS):
            arguments = (text.format_map(values) for text in ARGUMENTS[command])
            reply = self._ask(*command.split(), *arguments)
            if not isinstance(reply, hiredis.ReplyError):
                continue
            reason = str(reply)
            if command == "SELECT" and not reason.startswith("NOPERM"):
                self._refuse("database", f"the engine has no such one: {reason}")
            elif reason.startswith("NOPERM"):
                about_channel = "channel" in reason
                allowed = channels if about_channel else keys
                yield _right(command) if "to run the" in reason else allowed

    def _look_at_memory(self) -> None:
        """Warn of an engine that may forget keys, if it tells."""
        reply = self._ask("CONFIG", "GET", "maxmemory-policy")
        if isinstance(reply, list) and reply[1:] not in ([], [b"noeviction"]):
            policy = reply[1].decode("ascii", "replace")
            advice = (
                f"{self._shown} may forget registrations: set maxmemory-policy to "
                f"noeviction, not {policy}"
            )
            self._report.warnings.append(Problem("cluster.engine", advice))
