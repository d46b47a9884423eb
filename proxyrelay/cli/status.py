"""What a running relay says about itself, asked for and put into words.

Clients have chosen some of these words. They are written as Python would, so that they
cannot control a terminal.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, IncompleteRead
from pathlib import Path
from typing import TypeVar

import msgspec

from proxyrelay.admin.report import Clients, Status
from proxyrelay.config import Secret
from proxyrelay.errors import Unanswered

TIMEOUT = 10
"""Seconds for each step of an answer."""

ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound
"""Where what listens on all interfaces can be called."""

T = TypeVar("T")


class _SocketConnection(HTTPConnection):
    """HTTP over a socket in the file system."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(str(self._path))


class Console:
    """Asks the private listener of a relay.

    Args:
        place: Host and port, or the path of a socket.
        token: What has to be brought; None for nothing.
    """

    def __init__(self, place: tuple[str, int] | Path, token: Secret | None) -> None:
        self._place = place
        self._token = token

    def status(self) -> Status:
        """The relay in one piece.

        Raises:
            Unanswered: It is not to be had.
        """
        return _decoded(self.ask("/status"), Status)

    def clients(self) -> Clients:
        """All its clients.

        Raises:
            Unanswered: They are not to be had.
        """
        return _decoded(self.ask("/clients"), Clients)

    def ask(self, path: str) -> bytes:
        """The answer to a request, as it comes.

        Raises:
            Unanswered: There is none.
        """
        connection = self._connection()
        headers = {}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token.reveal()}"
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            body = response.read()
        except (ConnectionResetError, BrokenPipeError, IncompleteRead):
            raise Unanswered(
                f"{self.where} closes the connection before it has answered"
            ) from None
        except HTTPException:
            raise Unanswered(f"{self.where} does not speak HTTP") from None
        except UnicodeError:
            raise Unanswered(f"{self.where}: no host has such a name") from None
        except OSError as error:
            reason = error.strerror or "it does not answer in time"
            raise Unanswered(
                f"no private listener answers at {self.where}: {reason.lower()}"
            ) from None
        finally:
            connection.close()
        self._check(response.status)
        return body

    @property
    def where(self) -> str:
        """The place, in words."""
        if isinstance(self._place, Path):
            return f"unix:{self._place}"
        host, port = self._place
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _connection(self) -> HTTPConnection:
        if isinstance(self._place, Path):
            return _SocketConnection(self._place)
        host, port = self._place
        return HTTPConnection(ANYWHERE.get(host, host), port, timeout=TIMEOUT)

    def _check(self, status: int) -> None:
        if status == HTTPStatus.UNAUTHORIZED and self._token is None:
            raise Unanswered(
                f"the relay at {self.where} wants a token: name the file that holds it "
                "with --token-file"
            )
        if status == HTTPStatus.UNAUTHORIZED:
            raise Unanswered(f"the relay at {self.where} has another token")
        if status != HTTPStatus.OK:
            raise Unanswered(f"{self.where} answers with HTTP {status}")


def _decoded(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Unanswered("what answers there is no relay of this version") from None


def plain_json(body: bytes, indent: int | None = 2) -> str:
    """JSON in ASCII, which a terminal can be shown.

    Args:
        body: The JSON.
        indent: Spaces of a step; None for all of it in one line.

    Raises:
        Unanswered: It is none.
    """
    try:
        return json.dumps(json.loads(body), indent=indent)
    except (ValueError, RecursionError):
        raise Unanswered("what answers there is no relay") from None


def status_lines(status: Status) -> Iterator[str]:
    """A relay, in lines for people."""
    yield (
        f"proxyrelay {_plain(status.version)}, process {status.pid}, "
        f"up for {_duration(status.uptime)}"
    )
    yield f"serves: {_listed(status.listening)}"
    yield f"authentication: {_plain(status.authentication)}"
    yield f"state: {_state(status)}"
    yield (
        f"clients: {status.clients} (connections: {status.connections}, users: "
        f"{status.users})"
    )
    yield f"registrations: {status.registrations}"
    forwarded = status.forwarded
    yield f"forwarded: offers {forwarded.offer}, answers {forwarded.answer}"
    yield f"returned: {_counts(status.returned)}"
    yield f"dropped: {_counts(status.dropped)}"
    yield f"held: {status.held}"
    unanswered = status.unanswered
    yield (
        f"unanswered: {unanswered.clients} clients, at most {unanswered.most} offers "
        "in a row"
    )
    yield f"refused: {_counts(status.refused)}"
    yield f"rejected: {_counts(status.rejected)}"
    answering, waiting, lag = status.offer_to_answer, status.offer_wait, status.lag
    yield (
        f"offer to answer: median {_span(answering.median)}, 99 % within "
        f"{_span(answering.p99)}"
    )
    yield (
        f"wait of offers: median {_span(waiting.median)}, 99 % within "
        f"{_span(waiting.p99)}"
    )
    yield (
        f"event loop is late by: median {_span(lag.median)}, 99 % within "
        f"{_span(lag.p99)}, most {_span(lag.max)}"
    )
    if status.certificate is not None:
        yield f"certificate: valid until {_moment(status.certificate.expires)}"
    if status.globus is not None:
        asked = status.globus.breaker == "closed"
        yield f"globus: {'answers' if asked else 'does not answer'}"


def status_line(status: Status) -> str:
    """The same in one line, for a file or a pipe."""
    return (
        f"{_moment(status.started + status.uptime)} {_state(status)}, "
        f"clients {status.clients}, connections {status.connections}, "
        f"registrations {status.registrations}, "
        f"offers {status.forwarded.offer}, answers {status.forwarded.answer}, "
        f"late by {_span(status.lag.p99)}"
    )


def client_lines(listed: Clients, now: float) -> Iterator[str]:
    """Clients, one in a line, those first that have been there for longest.

    Args:
        listed: The clients.
        now: The time, in seconds since 1970.
    """
    yield f"clients: {listed.total}"
    for client in sorted(listed.clients, key=lambda client: client.since):
        marks = f": {', '.join(map(_plain, client.marks))}" if client.marks else ""
        offered = "never"
        if client.last_offer is not None:
            offered = f"{_duration(now - client.last_offer)} ago"
        yield (
            f"{_plain(client.uuid)} name={client.name!a} user={client.user!a} from "
            f"{_plain(client.address)} for {_duration(now - client.since)} (messages: "
            f"{client.sent} sent, {client.received} received; last offer: {offered}; "
            f"unanswered: {client.unanswered}){marks}"
        )


def _plain(text: str) -> str:
    return ascii(text)[1:-1]


def _state(status: Status) -> str:
    return "ready" if status.ready else f"not ready ({_listed(status.reasons, '; ')})"


def _listed(words: Iterable[str], comma: str = ", ") -> str:
    return comma.join(map(_plain, words)) or "none"


def _counts(counts: Mapping[str, int]) -> str:
    return _listed(f"{name} {count}" for name, count in sorted(counts.items()))


def _span(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{1000 * seconds:.1f} ms"


def _moment(time: float) -> str:
    return datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")


def _duration(seconds: float) -> str:
    """A duration, in its two largest units."""
    parts: list[str] = []
    left = max(0, int(seconds))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
