"""The resources of the private listener.

::

    GET  /                          the page
    GET  /page/<file>               its files
    GET  /metrics                   for Prometheus
    GET  /livez  /readyz            for supervisors and load balancers
    GET  /status  /clients          JSON
    GET  /history?since=<time>      JSON
    GET  /events?since=<number>     JSON
    POST /drain  /reload            JSON
    POST /clients/<uuid>/disconnect JSON
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from twisted.internet.interfaces import IPullProducer
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from proxyrelay.admin.access import Access
from proxyrelay.admin.control import Reloadable, ReloadOutcome
from proxyrelay.admin.events import Events
from proxyrelay.admin.history import FIELDS, INTERVAL, History
from proxyrelay.admin.metrics import Metrics
from proxyrelay.admin.report import Client
from proxyrelay.admin.view import View
from proxyrelay.errors import Disconnected
from proxyrelay.net import addresses
from proxyrelay.switchboard.event import Event
from proxyrelay.switchboard.events import Operator, WrongAdminToken
from proxyrelay.switchboard.messages import canonical_uuid

PAGE = Path(__file__).parent / "page"
"""The page and its files."""

INDEX = "index.html"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content Security Policy: the page loads its own files, and asks this listener."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
    "Server": "proxyrelay",
}

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
"""Content types by suffix; other files are plain text."""

TEXT = "text/plain; charset=utf-8"

ENDED = (
    "closed with 4004, which ends the process of a stock endpoint: its supervisor "
    "starts it anew (after any other code it would register again, and read nothing)"
)
"""Effect of a disconnection, for the caller."""

_CLIENT = re.compile("/clients/([^/]+)/disconnect")

_FILE = re.compile("/page/([A-Za-z0-9._-]+)")

_UNPRINTABLE = re.compile("[^ -~]+")

_encoder = msgspec.json.Encoder()


def _encode(body: object) -> bytes:
    """JSON in printable ASCII, since it holds clients' texts and terminals show it."""
    encoded = _encoder.encode(body).decode()
    return _UNPRINTABLE.sub(lambda found: json.dumps(found[0])[1:-1], encoded).encode()


class _Meant(Struct):
    """The body of a request to drain.

    Attributes:
        pid: Process of the relay that is to drain.
    """

    pid: int | None = None


class _Trouble(Exception):
    """An error in the place of an answer.

    Attributes:
        status: HTTP status.
        headers: Further header fields.
    """

    def __init__(
        self, status: HTTPStatus, text: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers or {}


@dataclass(frozen=True)
class _Route:
    """A resource.

    Attributes:
        answer: Builds the answer.
        method: ``GET`` to look, ``POST`` to change something.
        is_open: Whether it needs no token.
    """

    answer: Callable[[Request], bytes | int]
    method: str = "GET"
    is_open: bool = False


class Root(Resource):
    """All resources.

    Args:
        access: Checks callers.
        view: Takes snapshots of the relay.
        events: The latest events.
        history: The last hour.
        reload: Reads the settings anew.
        shared: Whether another relay may listen here: callers must name the process
            to drain.
        page: Folder of the page, which is read once.
    """

    isLeaf = True

    _log = Logger()

    def __init__(
        self,
        access: Access,
        view: View,
        events: Events,
        history: History,
        reload: Reloadable,
        shared: bool = False,
        page: Path = PAGE,
    ) -> None:
        super().__init__()
        self._access = access
        self._view = view
        self._metrics = Metrics(view)
        self._events = events
        self._history = history
        self._reload = reload
        self._shared = shared
        self._files = files(page)
        self._routes = {
            "/": _Route(lambda request: self._send_file(request, INDEX), is_open=True),
            "/livez": _Route(lambda request: _text(request, "ok\n"), is_open=True),
            "/readyz": _Route(self._say_ready, is_open=True),
            "/metrics": _Route(self._measure),
            "/status": _Route(lambda request: _json(request, view.status())),
            "/clients": _Route(self._list_clients),
            "/history": _Route(self._remember),
            "/events": _Route(self._tell),
            "/drain": _Route(self._drain, "POST"),
            "/reload": _Route(self._read_settings, "POST"),
        }

    def render(self, request: Request) -> bytes | int:
        """Answer a request, if the caller may make it."""
        for name, value in HEADERS.items():
            request.setHeader(name, value)
        try:
            answer = self._answer(request)
        except _Trouble as trouble:
            for name, value in trouble.headers.items():
                request.setHeader(name, value)
            answer = _json(request, {"error": str(trouble)}, trouble.status)
        except Exception:
            self._log.failure("a request to the private listener failed")
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            answer = _json(request, {"error": "see the log of the relay"}, status)
        if request.method == b"HEAD" and isinstance(answer, bytes):
            request.setHeader("Content-Length", str(len(answer)))
            return b""
        return answer

    def _answer(self, request: Request) -> bytes | int:
        if not self._access.knows(_header(request, "host")):
            raise _Trouble(
                HTTPStatus.MISDIRECTED_REQUEST,
                "this listener is not called so; see admin.allowed_hosts",
            )
        path, method = request.path.decode("latin-1"), request.method.decode("latin-1")
        route = self._route(path)
        if not (route is not None and route.is_open) and not self._access.admits(
            _header(request, "authorization")
        ):
            if _header(request, "authorization") is not None:
                self._observe(WrongAdminToken(self._caller(request)))
            raise _Trouble(
                HTTPStatus.UNAUTHORIZED,
                "bring the token of admin.token_file (Authorization: Bearer ...)",
                {"WWW-Authenticate": 'Bearer realm="proxyrelay"'},
            )
        if route is None:
            raise _Trouble(HTTPStatus.NOT_FOUND, "there is nothing here")
        if method not in {route.method, "HEAD" if route.method == "GET" else ""}:
            raise _Trouble(
                HTTPStatus.METHOD_NOT_ALLOWED,
                f"use {route.method} here",
                {"Allow": route.method},
            )
        if route.method == "POST" and not _is_deliberate(request):
            raise _Trouble(
                HTTPStatus.FORBIDDEN,
                "add 'Content-Type: application/json' or 'X-Proxyrelay: 1'",
            )
        return route.answer(request)

    def _route(self, path: str) -> _Route | None:
        client, file = _CLIENT.fullmatch(path), _FILE.fullmatch(path)
        if client is not None:
            return _Route(lambda request: self._disconnect(request, client[1]), "POST")
        if file is not None:
            return _Route(
                lambda request: self._send_file(request, file[1]), is_open=True
            )
        return self._routes.get(path)

    # -- looking

    def _send_file(self, request: Request, name: str) -> bytes:
        content = self._files.get(name)
        if content is None:
            raise _Trouble(HTTPStatus.NOT_FOUND, "there is no such file")
        request.setHeader("Content-Type", TYPES.get(Path(name).suffix, TEXT))
        return content

    def _say_ready(self, request: Request) -> bytes:
        obstacles = self._view.obstacles()
        status = HTTPStatus.SERVICE_UNAVAILABLE if obstacles else HTTPStatus.OK
        return _text(request, "\n".join([*(obstacles or ["ok"]), ""]), status)

    def _measure(self, request: Request) -> bytes:
        text, kind = self._metrics.text(_header(request, "accept") or "")
        request.setHeader("Content-Type", kind)
        return text

    def _list_clients(self, request: Request) -> int:
        request.setHeader("Content-Type", "application/json")
        total = len(self._view.relay.factory.registry)
        request.registerProducer(_Listing(request, total, self._view.clients()), False)
        return NOT_DONE_YET

    def _remember(self, request: Request) -> bytes:
        samples = self._history.since(_number(request, "since"))
        body = {"interval": INTERVAL, "fields": FIELDS, "samples": samples}
        return _json(request, body)

    def _tell(self, request: Request) -> bytes:
        events = self._events
        since = int(_number(request, "since"))
        return _json(request, {"events": events.since(since), "last": events.last})

    # -- acting

    def _caller(self, request: Request) -> str:
        place = addresses.text(request.getClientAddress())
        return self._view.relay.pseudonyms.address(place)

    def _tell_of(self, request: Request, action: str, uuid: str | None = None) -> None:
        self._observe(Operator(action, self._caller(request), uuid))

    def _observe(self, event: Event) -> None:
        self._view.relay.factory.journal(event)

    def _drain(self, request: Request) -> bytes:
        meant, own = _meant(request), os.getpid()
        if meant is None and self._shared:
            raise _Trouble(
                HTTPStatus.CONFLICT,
                "other relays may listen here, too: say which one is to drain; "
                f'this one is {{"pid": {own}}}',
            )
        if meant not in {None, own}:
            raise _Trouble(
                HTTPStatus.CONFLICT, f"this is process {own}, and not {meant}"
            )
        self._tell_of(request, "drain")
        self._view.relay.drain()
        count = len(self._view.relay.factory.connections)
        return _done(request, f"draining; connections: {count}", HTTPStatus.ACCEPTED)

    def _read_settings(self, request: Request) -> bytes:
        self._tell_of(request, "reload")
        done = self._reload.reload()
        if done.outcome is ReloadOutcome.REFUSED:
            raise _Trouble(HTTPStatus.CONFLICT, done.detail)
        return _done(request, done.detail)

    def _disconnect(self, request: Request, uuid: str) -> bytes:
        rules = self._view.relay.factory.relay
        try:
            uuid = canonical_uuid(uuid)
        except ValueError:
            raise _Trouble(HTTPStatus.NOT_FOUND, "this is no UUID") from None
        peer = rules.registry.get(uuid)
        if peer is None:
            raise _Trouble(HTTPStatus.NOT_FOUND, f"{uuid} is not registered")
        self._tell_of(request, "disconnect", uuid)
        rules.refuse(peer, Disconnected())
        self._events.note("disconnected", f"{uuid} at {peer.address}")
        return _done(request, f"{uuid} is {ENDED}")


@implementer(IPullProducer)
class _Listing:
    """Lists clients, one batch in a turn of the reactor.

    Thousands at once would block the reactor, and fill the memory for a slow reader.

    Args:
        request: Takes the list.
        total: Registered clients.
        batches: The clients.
    """

    def __init__(
        self, request: Request, total: int, batches: Iterator[list[Client]]
    ) -> None:
        self._request = request
        self._batches = batches
        self._next = b'{"total":%d,"clients":[' % total

    def resumeProducing(self) -> None:
        """Write one batch."""
        batch = next(self._batches, None)
        if batch is None:
            self._request.write(self._next.rstrip(b",") + b"]}")
            self._request.unregisterProducer()
            self._request.finish()
            return
        written, self._next = self._next, b""
        if batch:
            written += b",".join(map(_encode, batch))
            self._next = b","
        self._request.write(written)

    def stopProducing(self) -> None:
        """Stop, since the reader is gone."""
        self._batches = iter(())


def files(folder: Path) -> dict[str, bytes]:
    """The visible files of a folder, by name."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith(".")
    }


def _header(request: Request, name: str) -> str | None:
    """A header field. It need not be UTF-8."""
    value = request.getHeader(name.encode())
    return None if value is None else value.decode("latin-1")


def _is_deliberate(request: Request) -> bool:
    """Whether it has a header that no form of another page can send."""
    kind = (_header(request, "content-type") or "").partition(";")[0].strip().lower()
    return kind == "application/json" or _header(request, "x-proxyrelay") == "1"


def _meant(request: Request) -> int | None:
    """The process in the body; None without one."""
    content: Any = request.content
    body = content.read()
    try:
        return msgspec.json.decode(body, type=_Meant).pid if body else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _Trouble(
            HTTPStatus.BAD_REQUEST, 'the body must be like {"pid": 4711}, or empty'
        ) from None


def _number(request: Request, name: str) -> float:
    """A number of the query; 0 without one."""
    values = request.args.get(name.encode(), [b"0"])
    try:
        number = float(values[0])
        int(number)
    except (ValueError, OverflowError):
        raise _Trouble(HTTPStatus.BAD_REQUEST, f"{name} must be a number") from None
    return number


def _json(request: Request, body: object, status: HTTPStatus = HTTPStatus.OK) -> bytes:
    request.setResponseCode(status.value, status.phrase.encode())
    request.setHeader("Content-Type", "application/json")
    return _encode(body)


def _text(request: Request, body: str, status: HTTPStatus = HTTPStatus.OK) -> bytes:
    request.setResponseCode(status.value)
    request.setHeader("Content-Type", TEXT)
    return body.encode()


def _done(request: Request, detail: str, status: HTTPStatus = HTTPStatus.OK) -> bytes:
    return _json(request, {"ok": True, "detail": detail}, status)
