"""Client of a relay's private listener."""

from __future__ import annotations

import socket
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, IncompleteRead
from pathlib import Path
from typing import TypeVar

import msgspec

from proxyrelay.admin.report import Clients, Status
from proxyrelay.config import Secret
from proxyrelay.errors import Unanswered

TIMEOUT_SECONDS = 10
"""Timeout of each step of a request."""

LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound
"""Address to connect to, for a listener on all interfaces."""

T = TypeVar("T")


class _UnixHTTPConnection(HTTPConnection):
    """HTTP over a socket in the file system."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(str(self._path))


class AdminClient:
    """Sends requests to the private listener; each one may raise `Unanswered`.

    Args:
        place: Host and port, or the path of a socket.
        token: Bearer token of the listener, or None.
    """

    def __init__(self, place: tuple[str, int] | Path, token: Secret | None) -> None:
        self._place = place
        self._token = token

    def status(self) -> Status:
        """State of the relay."""
        return _decoded(self.get("/status"), Status)

    def clients(self) -> Clients:
        """All clients of the relay."""
        return _decoded(self.get("/clients"), Clients)

    def get(self, path: str) -> bytes:
        """Body of the answer to a GET request.

        Raises:
            Unanswered: There is no answer, or it is an error.
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
        """Place of the listener, for messages."""
        if isinstance(self._place, Path):
            return f"unix:{self._place}"
        host, port = self._place
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _connection(self) -> HTTPConnection:
        if isinstance(self._place, Path):
            return _UnixHTTPConnection(self._place)
        host, port = self._place
        return HTTPConnection(LOOPBACK.get(host, host), port, timeout=TIMEOUT_SECONDS)

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
