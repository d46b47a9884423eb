"""A stand-in for Globus Auth: an HTTPS server of its own process, which misbehaves.

``python -m tests.support.globus_service CERTIFICATE KEY`` prints its port, reads
commands from its standard input, a JSON object on each line, and answers each with a
line. It ends with its standard input.

The answer about a token stands in the token itself: see `token`.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import select
import socket
import subprocess
import sys
from collections import Counter
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
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

reactor: Any = installed

CLIENT_ID = "3f7c9d52-0c4e-4a3b-8a55-6d1f0e9b7c21"
SECRET = "correct+horse/battery=staple"

RELAY_ALL = f"https://auth.globus.org/scopes/{CLIENT_ID}/relay_all"

LIFETIME_SECONDS = 600.0
"""Time after which the server ends, come what may."""

PATIENCE_SECONDS = 30.0
"""Time after which a command to the server fails."""

MODES = (
    "well",
    "hang",
    "status",
    "wrong-type",
    "broken-json",
    "oversized",
    "slow-body",
)

INTROSPECT = "/v2/oauth2/token/introspect"
CLIENT = f"/v2/api/clients/{CLIENT_ID}"

_MARK = "tok-"


def token(user: str = "jo", **fields: Any) -> str:
    """A new bearer token that holds the server's answer about it.

    Args:
        user: Its ``sub`` is made from this, and its user name.
        **fields: Replace fields of the answer; None leaves one out.
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
        **fields,
    }
    kept = {name: value for name, value in answer.items() if value is not None}
    kept["serial"] = str(uuid4())
    text = base64.urlsafe_b64encode(json.dumps(kept).encode()).decode()
    return _MARK + text.rstrip("=")


def sub(user: str) -> str:
    """The identity that a user's tokens have."""
    return str(UUID(bytes=user.encode()[:16].rjust(16, b"\1")))


def said_of(text: str) -> dict[str, Any]:
    """The answer about a token; inactive if it holds none."""
    body = text.removeprefix(_MARK)
    try:
        answer = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (binascii.Error, ValueError):
        answer = None
    if body == text or not isinstance(answer, dict) or not answer.get("active"):
        return {"active": False}
    answer.pop("serial", None)
    return answer


class GlobusService:
    """The server as its parent sees it; ``folder`` holds the package of this module."""

    def __init__(self, certificate: Path, key: Path, folder: Path) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", __name__, str(certificate), str(key)],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        try:
            self.port = int(self._answer()["port"])
        except BaseException:
            self.end()
            raise
        self.url = f"https://127.0.0.1:{self.port}"

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        ready = select.poll()
        ready.register(self._child.stdout, select.POLLIN)
        line = ""
        if ready.poll(PATIENCE_SECONDS * 1000):
            line = self._child.stdout.readline()
        answer: dict[str, Any] = json.loads(line or "{}")
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
        try:
            self._child.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.communicate()


class _Api(Resource):
    """Answers everything: the paths are few."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.basic = base64.b64encode(f"{CLIENT_ID}:{SECRET}".encode()).decode()
        self.scopes: dict[str, dict[str, Any]] = {}
        self.mode = "well"
        self.times = 0
        self.status = 503
        self.retry_after: str | None = None
        self.latency = 0.0
        self.in_flight = 0
        self.reset()

    def reset(self) -> None:
        self.total = 0
        self.in_flight_max = 0
        self.unauthorized = 0
        self.tokens: Counter[str] = Counter()

    def counts(self) -> dict[str, Any]:
        names = ("total", "in_flight", "in_flight_max", "unauthorized", "tokens")
        return {name: getattr(self, name) for name in names}

    def render(self, request: Request) -> int:
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight, self.in_flight_max)
        ended: Deferred[Any] = request.notifyFinish()
        ended.addBoth(self._ended)
        status, body = self._answer(request)
        if self.mode == "hang":
            return NOT_DONE_YET
        if self.latency:
            late = reactor.callLater(self.latency, self._write, request, status, body)
            ended.addBoth(lambda _: late.active() and late.cancel())
        else:
            self._write(request, status, body)
        return NOT_DONE_YET

    def _ended(self, _result: object) -> None:
        self.in_flight -= 1

    def _answer(self, request: Request) -> tuple[int, Any]:
        path = request.path.decode()
        asked = ""
        if path == INTROSPECT:
            asked = request.args.get(b"token", [b""])[0].decode()
            self.total += 1
            self.tokens[asked] += 1
        if request.getHeader("authorization") != f"Basic {self.basic}":
            self.unauthorized += 1
            return http.UNAUTHORIZED, {"error": "invalid_client"}
        asked_for = f"{request.method.decode()} {path}"
        if asked_for == f"POST {INTROSPECT}":
            return http.OK, said_of(asked)
        if asked_for == f"GET {CLIENT}":
            client = {"id": CLIENT_ID, "name": "A relay", "public_client": False}
            return http.OK, {"client": {**client, "scopes": list(self.scopes)}}
        if asked_for == f"POST {CLIENT}/scopes":
            assert request.content is not None
            return self._new_scope(json.load(request.content)["scope"])
        scope = asked_for.removeprefix("GET /v2/api/scopes/")
        if scope in self.scopes:
            return http.OK, {"scope": self.scopes[scope]}
        problem = {"code": "NOT_FOUND", "status": "404", "title": "Not found"}
        return http.NOT_FOUND, {"errors": [problem]}

    def _new_scope(self, wanted: dict[str, Any]) -> tuple[int, Any]:
        known = {
            *("name", "description", "scope_suffix", "dependent_scopes"),
            *("advertised", "allows_refresh_token"),
        }
        suffix = wanted.get("scope_suffix")
        text = f"https://auth.globus.org/scopes/{CLIENT_ID}/{suffix}"
        is_taken = any(text == scope["scope_string"] for scope in self.scopes.values())
        if not suffix or is_taken or wanted.keys() - known:
            problem = {"code": "BAD_REQUEST", "detail": "is no new scope"}
            return http.BAD_REQUEST, {"errors": [problem]}
        made = {"id": str(uuid4()), "client": CLIENT_ID, "scope_string": text}
        self.scopes[made["id"]] = made
        return http.CREATED, {"scopes": [made]}

    def _write(self, request: Request, status: int, body: Any) -> None:
        """Answer in the way of the mode."""
        text = json.dumps(body).encode()
        kind = "application/json"
        mode = self.mode
        if self.times:
            self.times -= 1
            self.mode = mode if self.times else "well"
        if mode == "status":
            status, text = self.status, b'{"errors": [{"code": "TROUBLE"}]}'
            if self.retry_after is not None:
                request.setHeader("Retry-After", self.retry_after)
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


class _Site(Site):
    """A site that logs nothing."""

    noisy = False

    def log(self, request: http.Request) -> None:
        pass


class _Control(LineReceiver):
    """Reads commands, and follows them; the port opens and closes, and is always one.

    Args:
        certificate: Certificate of the server.
    """

    delimiter = b"\n"

    def __init__(self, certificate: PrivateCertificate) -> None:
        self._api = _Api()
        self._connections = WrappingFactory(_Site(self._api, timeout=LIFETIME_SECONDS))
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

    def connectionMade(self) -> None:
        self._open()
        self._say({"port": self._holder.getsockname()[1]})

    def lineReceived(self, line: bytes) -> None:
        followed = maybeDeferred(self._follow, json.loads(line))
        followed.addCallback(lambda _: self._say(self._api.counts()))
        followed.addErrback(lambda f: self._say({"problem": f.getErrorMessage()}))

    def _follow(self, command: dict[str, Any]) -> Deferred[Any] | None:
        if command.pop("reset", False):
            self._api.reset()
        if command.get("mode", "well") not in MODES:
            raise ValueError("no such mode")
        listen = command.pop("listen", None)
        for name, value in command.items():
            if name not in {"mode", "times", "status", "retry_after", "latency"}:
                raise ValueError("no such command")
            setattr(self._api, name, value)
        if listen:
            self._open()
        return self._close() if listen is False else None

    def _open(self) -> None:
        if self._listening is None:
            self._listening = reactor.listenSSL(
                self._holder.getsockname()[1],
                self._connections,
                self._options,
                backlog=1024,
                interface="127.0.0.1",
            )

    def _close(self) -> Deferred[Any]:
        listening, self._listening = self._listening, None
        for connection in list(self._connections.protocols):
            connection.transport.abortConnection()
        return maybeDeferred(listening.stopListening if listening else lambda: None)

    def _say(self, answer: dict[str, Any]) -> None:
        self.sendLine(json.dumps(answer).encode())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        with contextlib.suppress(ReactorNotRunning):
            reactor.stop()


def main(certificate: str, key: str) -> None:
    """Serve until the standard input ends."""
    pem = Path(certificate).read_bytes() + Path(key).read_bytes()
    StandardIO(_Control(PrivateCertificate.loadPEM(pem)))
    reactor.callLater(LIFETIME_SECONDS, reactor.stop)
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
