"""Client of a relay's private listener."""

from __future__ import annotations

import socket
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, IncompleteRead
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import msgspec

from proxyrelay.admin.report import Clients, FarClients, Nodes, Pairs, Status
from proxyrelay.config import ALL_INTERFACES, Secret
from proxyrelay.errors import NotDone, Unanswered

STEP_TIMEOUT_SECONDS = 10
"""Timeout of each step of a request."""

Report = TypeVar("Report", Status, Clients, Nodes, FarClients, Pairs)
Body = TypeVar("Body", bound=msgspec.Struct)


class _Done(msgspec.Struct):
    """Answer to a command."""

    detail: str


class _Refused(msgspec.Struct):
    """Answer in the place of another one."""

    error: str


def _said(body: bytes) -> str:
    """What the relay says about a refusal, each line escaped; it may say nothing."""
    try:
        error = msgspec.json.decode(body, type=_Refused).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    return "\n".join(ascii(line)[1:-1] for line in error.splitlines())


class _UnixHTTPConnection(HTTPConnection):
    """HTTP over a socket in the file system."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class AdminClient:
    """Sends requests to the private listener; each one may raise `Unanswered`.

    Args:
        place: Host and port, or the path of a socket.
        token: Token of the private listener, if it needs one.
        timeout: Seconds for each step of a request.
    """

    def __init__(
        self,
        place: tuple[str, int] | Path,
        token: Secret | None,
        timeout: float = STEP_TIMEOUT_SECONDS,
    ) -> None:
        self._place = place
        self._token = token
        self._timeout = timeout

    def status(self) -> Status:
        """State of the relay."""
        return self._report("/status", Status)

    def clients(self) -> Clients:
        """All clients of the relay."""
        return self._report("/clients", Clients)

    def pairs(self) -> Pairs:
        """All pairs of clients that do not connect."""
        return self._report("/pairs", Pairs)

    def nodes(self) -> Nodes:
        """State of all nodes of the relay's cluster."""
        return self._report("/cluster", Nodes)

    def all_clients(self) -> FarClients:
        """Clients of all nodes."""
        return self._report("/cluster/clients", FarClients)

    def disconnect(self, uuid: str) -> str:
        """Disconnect a client of any node; return what was done."""
        body = self._request("POST", f"/clients/{quote(uuid, safe='')}/disconnect")
        return self._decoded(body, _Done).detail

    def reload(self) -> str:
        """Make the relay read its configuration; return what has changed.

        Raises:
            NotDone: The configuration has problems. Nothing has changed.
        """
        return self._decoded(self._request("POST", "/reload"), _Done).detail

    def drain(self) -> str:
        """Make the relay drain; return how many clients are left.

        Raises:
            NotDone: Another relay may listen there, too.
        """
        return self._decoded(self._request("POST", "/drain"), _Done).detail

    def _report(self, path: str, kind: type[Report]) -> Report:
        return self._decoded(self.get(path), kind)

    def _decoded(self, body: bytes, kind: type[Body]) -> Body:
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise Unanswered("what answers there is no relay of this version") from None

    def get(self, path: str) -> bytes:
        """Body of the answer to a GET request."""
        return self._request("GET", path)

    def _request(self, method: str, path: str) -> bytes:
        connection, where = self._connection()
        headers = {"X-Proxyrelay": "1"} if method == "POST" else {}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token.reveal()}"
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            body = response.read()
        except (ConnectionResetError, BrokenPipeError, IncompleteRead):
            text = f"{where} closes the connection before it has answered"
            raise Unanswered(text) from None
        except HTTPException:
            raise Unanswered(f"{where} does not speak HTTP") from None
        except UnicodeError:
            raise Unanswered(f"{where}: no host has such a name") from None
        except OSError as error:
            reason = (error.strerror or "it does not answer in time").lower()
            text = f"no private listener answers at {where}: {reason}"
            raise Unanswered(text) from None
        finally:
            connection.close()
        if response.status in {HTTPStatus.OK, HTTPStatus.ACCEPTED}:
            return body
        if response.status == HTTPStatus.CONFLICT:
            raise NotDone(_said(body) or f"{where} answers with HTTP 409")
        if response.status != HTTPStatus.UNAUTHORIZED:
            said = _said(body).replace("\n", "; ")
            reason = f": {said}" if said else ""
            raise Unanswered(f"{where} answers with HTTP {response.status}{reason}")
        if self._token is not None:
            raise Unanswered(f"the relay at {where} has another token")
        raise Unanswered(
            f"the relay at {where} wants a token: name the file that holds it with "
            "--token-file"
        )

    def _connection(self) -> tuple[HTTPConnection, str]:
        """A new connection, and its place for messages."""
        if isinstance(self._place, Path):
            unix = _UnixHTTPConnection(self._place, self._timeout)
            return unix, f"unix:{self._place}"
        host, port = self._place
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        host = ALL_INTERFACES.get(host, host)
        return HTTPConnection(host, port, timeout=self._timeout), where
