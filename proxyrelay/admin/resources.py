"""The resources of the private listener.

::

    GET  /                          the page
    GET  /page/<file>               its files
    GET  /metrics                   for Prometheus
    GET  /livez  /readyz            for supervisors and load balancers
    GET  /status  /clients          JSON
    GET  /pairs?client=<uuid>       JSON
    GET  /cluster                   JSON, of all nodes of a cluster
    GET  /cluster/clients           JSON, likewise
    GET  /history?since=<time>      JSON
    GET  /events?since=<number>     JSON
    POST /drain  /reload            JSON
    POST /clients/<uuid>/disconnect JSON
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import Struct
from twisted.web.resource import Resource

from proxyrelay.admin import nodes
from proxyrelay.admin.access import Access
from proxyrelay.admin.answers import Trouble, guarded, in_pieces, later
from proxyrelay.admin.control import Reloadable, ReloadOutcome
from proxyrelay.admin.history import FIELDS, SAMPLE_INTERVAL_SECONDS, History
from proxyrelay.admin.metrics import METRICS
from proxyrelay.admin.prometheus import Metrics
from proxyrelay.admin.recent_events import RecentEvents
from proxyrelay.admin.report import Clients, Pairs
from proxyrelay.admin.site import HEADERS, PLAIN_TEXT, PrivateRequest
from proxyrelay.admin.view import View
from proxyrelay.net import addresses
from proxyrelay.switchboard.events import Operator, WrongAdminToken
from proxyrelay.switchboard.messages import canonical_uuid

if TYPE_CHECKING:
    from proxyrelay.cluster.member import Member
    from proxyrelay.cluster.queries import Answers

PAGE = Path(__file__).parent / "page"
"""The page and its files."""

CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
"""Content types by suffix; other files are plain text."""

DISCONNECT_EFFECT = (
    "closed with 4004, which ends the process of a stock endpoint: its supervisor "
    "starts it anew (after any other code it would register again, and read nothing)"
)

_CLIENT = re.compile("/clients/([^/]+)/disconnect")

_FILE = re.compile("/page/([A-Za-z0-9._-]+)")


class _DrainBody(Struct):
    """Body of a request to drain: the process of the relay that is to drain."""

    pid: int | None = None


class _Route(NamedTuple):
    """A resource: GET looks, POST changes something; an open one needs no token."""

    answer: Callable[[PrivateRequest], bytes | int]
    method: str = "GET"
    is_open: bool = False


class Root(Resource):
    """All resources.

    If the place is shared with another relay, callers must name the process to drain.
    """

    isLeaf = True

    def __init__(
        self,
        access: Access,
        view: View,
        events: RecentEvents,
        history: History,
        reload: Reloadable,
        shared: bool,
    ) -> None:
        super().__init__()
        self._access = access
        self._view = view
        self._metrics = Metrics(METRICS, view)
        self._events = events
        self._history = history
        self._reload = reload
        self._shared = shared
        self._files = files(PAGE)
        self._routes = {
            "/": _Route(
                lambda asked: self._send_file(asked, "index.html"), "GET", True
            ),
            "/livez": _Route(lambda asked: asked.text("ok\n"), is_open=True),
            "/readyz": _Route(self._send_readiness, is_open=True),
            "/metrics": _Route(self._send_metrics),
            "/status": _Route(lambda asked: asked.json(view.status())),
            "/clients": _Route(self._list_clients),
            "/pairs": _Route(self._list_pairs),
            "/cluster": _Route(self._ask_nodes),
            "/cluster/clients": _Route(self._ask_clients),
            "/history": _Route(self._send_history),
            "/events": _Route(self._send_events),
            "/drain": _Route(self._drain, "POST"),
            "/reload": _Route(self._read_settings, "POST"),
        }

    def render(self, request: PrivateRequest) -> bytes | int:
        """Answer a request, if the caller may make it."""
        for name, value in HEADERS.items():
            request.setHeader(name, value)
        answer = guarded(request, partial(self._answer, request))
        if request.method == b"HEAD" and isinstance(answer, bytes):
            request.setHeader("Content-Length", str(len(answer)))
            return b""
        return answer

    def _answer(self, request: PrivateRequest) -> bytes | int:
        if not self._access.knows(request.header("host")):
            raise Trouble(
                HTTPStatus.MISDIRECTED_REQUEST,
                "this listener is not called so; see admin.allowed_hosts",
            )
        path, method = request.path.decode("latin-1"), request.method.decode("latin-1")
        route = self._route(path)
        if route is None or not route.is_open:
            self._authenticate(request)
        if route is None:
            raise Trouble(HTTPStatus.NOT_FOUND, "there is nothing here")
        if method not in {route.method, "HEAD" if route.method == "GET" else ""}:
            request.setHeader("Allow", route.method)
            raise Trouble(HTTPStatus.METHOD_NOT_ALLOWED, f"use {route.method} here")
        if route.method == "POST" and not _is_deliberate(request):
            raise Trouble(
                HTTPStatus.FORBIDDEN,
                "add 'Content-Type: application/json' or 'X-Proxyrelay: 1'",
            )
        return route.answer(request)

    def _authenticate(self, request: PrivateRequest) -> None:
        authorization = request.header("authorization")
        if self._access.admits(authorization):
            return
        if authorization is not None:
            self._view.factory.observer(WrongAdminToken(self._caller(request)))
        request.setHeader("WWW-Authenticate", 'Bearer realm="proxyrelay"')
        raise Trouble(
            HTTPStatus.UNAUTHORIZED,
            "bring the token of admin.token_file (Authorization: Bearer ...)",
        )

    def _route(self, path: str) -> _Route | None:
        client, file = _CLIENT.fullmatch(path), _FILE.fullmatch(path)
        if client is not None:
            return _Route(lambda asked: self._disconnect(asked, client[1]), "POST")
        if file is not None:
            return _Route(lambda asked: self._send_file(asked, file[1]), is_open=True)
        return self._routes.get(path)

    # -- looking

    def _send_file(self, request: PrivateRequest, name: str) -> bytes:
        content = self._files.get(name)
        if content is None:
            raise Trouble(HTTPStatus.NOT_FOUND, "there is no such file")
        kind = CONTENT_TYPES.get(Path(name).suffix, PLAIN_TEXT)
        request.setHeader("Content-Type", kind)
        return content

    def _send_readiness(self, request: PrivateRequest) -> bytes:
        obstacles = self._view.obstacles()
        status = HTTPStatus.SERVICE_UNAVAILABLE if obstacles else HTTPStatus.OK
        degraded = (f"degraded: {reason}" for reason in self._view.degraded)
        return request.text("\n".join([*(obstacles or ["ok"]), *degraded, ""]), status)

    def _send_metrics(self, request: PrivateRequest) -> bytes:
        text, kind = self._metrics.text(request.header("accept") or "")
        request.setHeader("Content-Type", kind)
        return text

    def _list_clients(self, request: PrivateRequest) -> int:
        total = len(self._view.factory.registry)
        return in_pieces(request, Clients(total, []), self._view.clients())

    def _list_pairs(self, request: PrivateRequest) -> bytes | int:
        client = request.args.get(b"client")
        if client is not None:
            peers = self._view.peers(client[0].decode("latin-1"))
            return request.json(Pairs(len(peers), peers))
        total = len(self._view.unconnected())
        return in_pieces(request, Pairs(total, []), self._view.pairs())

    def _send_history(self, request: PrivateRequest) -> bytes:
        return request.json(
            {
                "interval": SAMPLE_INTERVAL_SECONDS,
                "fields": FIELDS,
                "samples": self._history.since(_since(request)),
            }
        )

    def _send_events(self, request: PrivateRequest) -> bytes:
        events = self._events.since(int(_since(request)))
        return request.json({"events": events, "last": self._events.last})

    # -- asking the other nodes

    def _member(self) -> Member:
        member = self._view.member
        if member is None:
            raise Trouble(HTTPStatus.NOT_FOUND, "this relay is in no cluster")
        return member

    def _ask_nodes(self, request: PrivateRequest) -> int:
        member = self._member()
        return later(
            request,
            member.queries.ask_nodes,
            lambda found: request.json(nodes.nodes(member, found)),
        )

    def _ask_clients(self, request: PrivateRequest) -> int:
        member = self._member()

        def answer(found: Answers) -> int:
            head = nodes.clients(member, found)
            return in_pieces(request, head, nodes.rows(found, self._view.wall()))

        return later(request, member.queries.ask_clients, answer)

    # -- acting

    def _caller(self, request: PrivateRequest) -> str:
        place = addresses.text(request.getClientAddress())
        return self._view.relay.pseudonyms.address(place)

    def _report(
        self, request: PrivateRequest, action: str, uuid: str | None = None
    ) -> None:
        self._view.factory.observer(Operator(action, self._caller(request), uuid))

    def _drain(self, request: PrivateRequest) -> bytes:
        pid, own = _pid(request), os.getpid()
        if pid is None and self._shared:
            raise Trouble(
                HTTPStatus.CONFLICT,
                "other relays may listen here, too: say which one is to drain; "
                f'this one is {{"pid": {own}}}',
            )
        if pid not in {None, own}:
            raise Trouble(HTTPStatus.CONFLICT, f"this is process {own}, and not {pid}")
        self._report(request, "drain")
        self._view.relay.drain()
        factory = self._view.factory
        detail = (
            f"draining; clients left: {len(factory.registry)}, "
            f"connections: {len(factory.connections)}"
        )
        return request.json({"ok": True, "detail": detail}, HTTPStatus.ACCEPTED)

    def _read_settings(self, request: PrivateRequest) -> bytes:
        self._report(request, "reload")
        done = self._reload.reload()
        if done.outcome is ReloadOutcome.REFUSED:
            raise Trouble(HTTPStatus.CONFLICT, done.detail)
        return request.json({"ok": True, "detail": done.detail})

    def _disconnect(self, request: PrivateRequest, uuid: str) -> bytes | int:
        try:
            uuid = canonical_uuid(uuid)
        except ValueError:
            raise Trouble(HTTPStatus.NOT_FOUND, "this is no UUID") from None
        relay, member = self._view.factory.relay, self._view.member
        peer = relay.disconnect(uuid, self._caller(request))
        if peer is not None:
            self._events.note("disconnected", f"{uuid} at {peer.address}")
            return request.json(
                {"ok": True, "detail": f"{uuid} is {DISCONNECT_EFFECT}"}
            )
        if member is None:
            raise Trouble(HTTPStatus.NOT_FOUND, f"{uuid} is not registered")
        self._report(request, "disconnect", uuid)
        return later(
            request,
            partial(member.queries.disconnect, uuid),
            partial(self._disconnected, request, uuid),
        )

    def _disconnected(
        self, request: PrivateRequest, uuid: str, found: Answers
    ) -> bytes:
        for report in found.reports:
            if report.is_done:
                self._events.note("disconnected", f"{uuid} at node {report.node!a}")
                detail = f"{uuid} at node {report.node!a} is {DISCONNECT_EFFECT}"
                return request.json({"ok": True, "detail": detail})
        if not found.silent:
            raise Trouble(HTTPStatus.NOT_FOUND, f"{uuid} is not registered")
        raise Trouble(
            HTTPStatus.GATEWAY_TIMEOUT,
            f"{uuid} is at no node that replies; silent: {', '.join(found.silent)}",
        )


def files(folder: Path) -> dict[str, bytes]:
    """The visible files of a folder, by name."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith(".")
    }


def _is_deliberate(request: PrivateRequest) -> bool:
    """Whether it has a header that no form of another page can send."""
    kind = (request.header("content-type") or "").partition(";")[0].strip().lower()
    return kind == "application/json" or request.header("x-proxyrelay") == "1"


def _pid(request: PrivateRequest) -> int | None:
    """The process in the body; None without one."""
    body = request.content.read()
    try:
        return msgspec.json.decode(body, type=_DrainBody).pid if body else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Trouble(
            HTTPStatus.BAD_REQUEST, 'the body must be like {"pid": 4711}, or empty'
        ) from None


def _since(request: PrivateRequest) -> float:
    """The number ``since`` of the query; 0 without one."""
    try:
        number = float(request.args.get(b"since", [b"0"])[0])
        int(number)
    except (ValueError, OverflowError):
        raise Trouble(HTTPStatus.BAD_REQUEST, "since must be a number") from None
    return number
