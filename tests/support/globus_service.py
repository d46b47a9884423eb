"""A stand-in for Globus Auth: an HTTPS server of its own process, which misbehaves.

``python -m tests.support.globus_service --certificate FILE --key FILE`` prints its
port, reads commands from its standard input, a JSON object on each line, and answers
each with a line. It ends with its standard input.

What it says of a token stands in the token itself: see `token`.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import contextlib
import json
import queue
import re
import socket
import subprocess
import sys
import threading
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.protocol import connectionDone
from twisted.internet.ssl import CertificateOptions, PrivateCertificate
from twisted.internet.stdio import StandardIO
from twisted.internet.task import LoopingCall
from twisted.protocols.basic import LineReceiver
from twisted.protocols.policies import WrappingFactory
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.http import NOT_FOUND, OK, UNAUTHORIZED
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

reactor: Any = installed

CLIENT_ID = "3f7c9d52-0c4e-4a3b-8a55-6d1f0e9b7c21"
SECRET = "correct+horse/battery=staple"
"""What the server takes unless it is told otherwise."""

RELAY_ALL = f"https://auth.globus.org/scopes/{CLIENT_ID}/relay_all"

LIFETIME = 600.0
"""Seconds after which the server ends, come what may."""

PATIENCE = 30.0
"""Seconds after which a command to the server fails."""

MODES = (
    "well",
    "hang",
    "status",
    "wrong-type",
    "broken-json",
    "oversized",
    "slow-body",
)

_MARK = "tok-"
_serial = count()


def token(user: str = "jo", **fields: Any) -> str:
    """A bearer token that says what the server is to answer about it.

    Args:
        user: Its ``sub`` is made from this, and its user name.
        **fields: Replace fields of the answer; None leaves one out.

    Returns:
        A token that no other call returns.
    """
    answer: dict[str, Any] = {
        "active": True,
        "sub": sub(user),
        "username": f"{user}@example.org",
        "name": user.title(),
        "email": None,
        "aud": [CLIENT_ID],
        "scope": RELAY_ALL,
        "client_id": "6c7a2a4c-3c3f-4d9c-a8a6-cb7a3a4c8f1d",
        "iss": "https://auth.globus.org",
        "exp": 4102444800,
        "iat": 1700000000,
        "nbf": 1700000000,
        "token_type": "Bearer",
    }
    answer |= fields
    kept = {name: value for name, value in answer.items() if value is not None}
    kept["serial"] = f"{uuid4()}-{next(_serial)}"
    text = base64.urlsafe_b64encode(json.dumps(kept).encode()).decode()
    return _MARK + text.rstrip("=")


def sub(user: str) -> str:
    """The identity that a user's tokens have."""
    return str(UUID(bytes=user.encode()[:16].rjust(16, b"\1")))


def said_of(text: str) -> dict[str, Any]:
    """What a token says of itself; inactive if it says nothing."""
    body = text.removeprefix(_MARK)
    try:
        raw = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
        answer = json.loads(raw)
    except (binascii.Error, ValueError):
        return {"active": False}
    if body == text or not isinstance(answer, dict):
        return {"active": False}
    if not answer.get("active"):
        return {"active": False}
    answer.pop("serial", None)
    return answer


class GlobusService:
    """The server as its parent sees it.

    Args:
        certificate: PEM file with the certificate.
        key: PEM file with its key.
        folder: From where Python finds this module.

    Attributes:
        port: Where it listens.
        url: The same as an address.
    """

    def __init__(self, certificate: Path, key: Path, folder: Path) -> None:
        self._answers: queue.Queue[str] = queue.Queue()
        self._child = subprocess.Popen(
            [
                *(sys.executable, "-m", __name__),
                *("--certificate", str(certificate), "--key", str(key)),
            ],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.port = int(self._answer()["port"])
        except BaseException:
            self.end()
            raise
        self.url = f"https://127.0.0.1:{self.port}"

    def _read(self) -> None:
        assert self._child.stdout is not None
        with self._child.stdout as stream:
            for line in stream:
                self._answers.put(line)
        self._answers.put("{}")

    def _answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._answers.get(timeout=PATIENCE))
        if not answer or "problem" in answer:
            raise AssertionError(f"the stand-in for Globus says {answer}")
        return answer

    def tell(self, **command: Any) -> dict[str, Any]:
        """Give one command, and wait until it has been followed.

        Args:
            **command: ``mode`` (one of `MODES`), with ``status`` and ``retry_after``,
                and with ``times`` for how many answers (0: until told otherwise),
                ``latency`` (seconds before each answer), ``listen`` (False closes the
                port and each connection, True opens it again), ``reset`` (forget the
                counts), or nothing.

        Returns:
            The counts: ``total``, ``in_flight``, ``in_flight_max``, ``unauthorized``,
            and ``tokens``, those of each token.
        """
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(command) + "\n")
        self._child.stdin.flush()
        return self._answer()

    def end(self) -> None:
        """End the server."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        try:
            self._child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait(PATIENCE)
        self._reader.join(PATIENCE)


class _State:
    """How the server behaves, and what it was asked."""

    def __init__(self, client_id: str, secret: str) -> None:
        self.basic = base64.b64encode(f"{client_id}:{secret}".encode()).decode()
        self.client_id = client_id
        self.scopes: dict[str, dict[str, Any]] = {}
        self.mode = "well"
        self.times = 0
        self.status = 503
        self.retry_after: str | None = None
        self.latency = 0.0
        self.reset()
        self.in_flight = 0

    def reset(self) -> None:
        self.total = 0
        self.in_flight_max = 0
        self.unauthorized = 0
        self.tokens: Counter[str] = Counter()

    def counts(self) -> dict[str, Any]:
        return {
            "total": self.total,
            "in_flight": self.in_flight,
            "in_flight_max": self.in_flight_max,
            "unauthorized": self.unauthorized,
            "tokens": self.tokens,
        }


class _Api(Resource):
    """Answers everything: the paths are few."""

    isLeaf = True

    def __init__(self, state: _State) -> None:
        super().__init__()
        self._state = state

    def render(self, request: Request) -> int:
        state = self._state
        state.in_flight += 1
        state.in_flight_max = max(state.in_flight, state.in_flight_max)
        ended: Deferred[Any] = request.notifyFinish()
        ended.addBoth(self._ended)
        status, body = self._answer(request)
        if state.mode == "hang":
            return NOT_DONE_YET
        if state.latency:
            late = reactor.callLater(
                state.latency, _write, state, request, status, body
            )
            ended.addBoth(lambda _: late.active() and late.cancel())
        else:
            _write(state, request, status, body)
        return NOT_DONE_YET

    def _ended(self, _result: object) -> None:
        self._state.in_flight -= 1

    def _answer(self, request: Request) -> tuple[int, Any]:
        state = self._state
        path = request.path.decode()
        introspects = path == "/v2/oauth2/token/introspect"
        if introspects:
            state.total += 1
            asked = request.args.get(b"token", [b""])[0].decode()
            state.tokens[asked] += 1
        if request.getHeader("authorization") != f"Basic {state.basic}":
            state.unauthorized += 1
            return UNAUTHORIZED, {"error": "invalid_client"}
        if introspects and request.method == b"POST":
            return OK, said_of(asked)
        return self._api(request.method, path, request)

    def _api(self, method: bytes, path: str, request: Request) -> tuple[int, Any]:
        state = self._state
        client = f"/v2/api/clients/{state.client_id}"
        if (method, path) == (b"GET", client):
            named = {"id": state.client_id, "name": "A relay", "public_client": False}
            return OK, {"client": {**named, "scopes": list(state.scopes)}}
        if (method, path) == (b"POST", f"{client}/scopes"):
            assert request.content is not None
            return self._new_scope(json.load(request.content)["scope"])
        scope = re.fullmatch("/v2/api/scopes/(.+)", path)
        if method == b"GET" and scope and scope[1] in state.scopes:
            return OK, {"scope": state.scopes[scope[1]]}
        problem = {"code": "NOT_FOUND", "status": "404", "title": "Not found"}
        return NOT_FOUND, {"errors": [problem]}

    def _new_scope(self, wanted: dict[str, Any]) -> tuple[int, Any]:
        state = self._state
        known = {
            *("name", "description", "scope_suffix", "dependent_scopes"),
            *("advertised", "allows_refresh_token"),
        }
        suffix = wanted.pop("scope_suffix", None)
        taken = any(
            scope["scope_string"].endswith(f"/{suffix}")
            for scope in state.scopes.values()
        )
        if not suffix or taken or wanted.keys() - known:
            problem = {"code": "BAD_REQUEST", "detail": "is no new scope"}
            return 400, {"errors": [problem]}
        made = {
            "id": str(uuid4()),
            "client": state.client_id,
            "scope_string": f"https://auth.globus.org/scopes/{state.client_id}/{suffix}",
            **wanted,
        }
        state.scopes[made["id"]] = made
        return 201, {"scopes": [made]}


def _write(state: _State, request: Request, status: int, body: Any) -> None:
    """Answer in the way of the mode."""
    text = json.dumps(body).encode()
    kind = "application/json"
    mode = state.mode
    if state.times:
        state.times -= 1
        state.mode = mode if state.times else "well"
    if mode == "status":
        status, text = state.status, b'{"errors": [{"code": "TROUBLE"}]}'
        if state.retry_after is not None:
            request.setHeader("Retry-After", state.retry_after)
    elif mode == "wrong-type":
        kind = "text/html; charset=utf-8"
    elif mode == "broken-json":
        text = text[:-1]
    elif mode == "oversized":
        text += b" " * 1_000_000
    request.setResponseCode(status)
    request.setHeader("Content-Type", kind)
    if mode == "slow-body":
        request.setHeader("Content-Length", str(len(text)))
        _drip(request, text)
        return
    request.write(text)
    request.finish()


def _drip(request: Request, text: bytes) -> None:
    """Write a body byte by byte, while the other side reads it."""
    left = list(text)

    def drop() -> None:
        request.write(bytes([left.pop(0)]))
        if not left:
            dripping.stop()
            request.finish()

    def gone(_failure: object) -> None:
        if dripping.running:
            dripping.stop()

    dripping = LoopingCall(drop)
    request.notifyFinish().addErrback(gone)
    dripping.start(0.1)


class _Server:
    """The listening socket, which opens and closes, and always on one port."""

    def __init__(self, state: _State, certificate: PrivateCertificate) -> None:
        self.connections = WrappingFactory(_Site(_Api(state), timeout=LIFETIME))
        self._options = CertificateOptions(
            certificate=certificate.original,
            privateKey=certificate.privateKey.original,
            acceptableProtocols=[b"http/1.1"],
        )
        self._listening: Any = None
        # Bound without being listened on: nobody else gets the port.
        self._holder = socket.socket()
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._holder.bind(("127.0.0.1", 0))
        self.port: int = self._holder.getsockname()[1]

    def open(self) -> None:
        if self._listening is None:
            self._listening = reactor.listenSSL(
                self.port,
                self.connections,
                self._options,
                backlog=1024,
                interface="127.0.0.1",
            )

    def close(self) -> Deferred[Any]:
        listening, self._listening = self._listening, None
        for connection in list(self.connections.protocols):
            connection.transport.abortConnection()
        return maybeDeferred(listening.stopListening if listening else lambda: None)


class _Site(Site):
    """A site that logs nothing."""

    noisy = False

    def log(self, request: http.Request) -> None:
        pass


class _Control(LineReceiver):
    """Reads commands, and follows them."""

    delimiter = b"\n"

    def __init__(self, state: _State, server: _Server) -> None:
        self._state = state
        self._server = server

    def connectionMade(self) -> None:
        self._say({"port": self._server.port})

    def lineReceived(self, line: bytes) -> None:
        command = json.loads(line)
        followed = maybeDeferred(self._follow, command)
        followed.addCallback(lambda _: self._say(self._state.counts()))
        followed.addErrback(lambda f: self._say({"problem": f.getErrorMessage()}))

    def _follow(self, command: dict[str, Any]) -> Deferred[Any] | None:
        state = self._state
        if command.pop("reset", False):
            state.reset()
        if command.get("mode", "well") not in MODES:
            raise ValueError("no such mode")
        listen = command.pop("listen", None)
        for name, value in command.items():
            if name not in {"mode", "times", "status", "retry_after", "latency"}:
                raise ValueError("no such command")
            setattr(state, name, value)
        if listen:
            self._server.open()
        return self._server.close() if listen is False else None

    def _say(self, answer: dict[str, Any]) -> None:
        self.sendLine(json.dumps(answer).encode())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        with contextlib.suppress(ReactorNotRunning):
            reactor.stop()


def main() -> None:
    """Serve until the standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--certificate", type=Path, required=True)
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--client-id", default=CLIENT_ID)
    parser.add_argument("--secret", default=SECRET)
    arguments = parser.parse_args()
    pem = arguments.certificate.read_bytes() + arguments.key.read_bytes()
    state = _State(arguments.client_id, arguments.secret)
    server = _Server(state, PrivateCertificate.loadPEM(pem))
    server.open()
    StandardIO(_Control(state, server))
    reactor.callLater(LIFETIME, reactor.stop)
    reactor.run()


if __name__ == "__main__":
    main()
