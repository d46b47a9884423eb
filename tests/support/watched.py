"""A relay with a private listener, on a reactor without a network."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import MemoryReactor, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.admin.listener import AdminService, Instrumentation
from proxyrelay.auth import Authenticator
from proxyrelay.auth.anonymous import AnonymousAuthenticator
from proxyrelay.config import Admin, Config, Offers, Secret
from proxyrelay.config.cluster import Cluster
from proxyrelay.net import certificates
from proxyrelay.net.descriptor_store import DescriptorStore
from proxyrelay.service.checks import Inspection
from proxyrelay.service.relay_service import RelayService
from proxyrelay.service.reload import Reload
from proxyrelay.survive.handed import Handed
from proxyrelay.survive.survival import Survival
from proxyrelay.websocket.protocol import RelayProtocol
from tests.support.clock import EagerClock
from tests.support.frames import TEXT, frame
from tests.support.recording import A, registration
from tests.support.served import upgrade
from tests.support.supervisor import Supervisor

LISTENER = Admin(listen="127.0.0.1:0")

AT_ONCE = Offers(crossing=0)
"""Offers wait for none that may cross them."""

START = 1_800_000_000.0
"""When the reactor's clock begins, in seconds since 1970."""


class EagerReactor(MemoryReactor, EagerClock):
    """Where work is paced, the next turn comes at once."""

    def __init__(self) -> None:
        MemoryReactor.__init__(self)
        EagerClock.__init__(self)
        self.rightNow = START
        self.stops = 0

    def stop(self) -> None:
        self.stops += 1

    def adoptStreamPort(self, *arguments: Any) -> Any:  # noqa: N802
        port = super().adoptStreamPort(*arguments)
        port.stopReading = port.doRead = lambda: None
        port.connectionLost = lambda reason: None
        port.fileno = lambda: -1
        port.socket = SimpleNamespace(shutdown=lambda how: None)
        return port


class Wire(StringTransport):
    """A transport that can be aborted, and forgives a second `unregisterProducer`."""

    has_unwritten = False

    def abortConnection(self) -> None:  # noqa: N802
        self.disconnecting = True

    def unregisterProducer(self) -> None:  # noqa: N802
        if self.producer is not None:
            super().unregisterProducer()


class Caller:
    """Somebody who has connected to the private listener."""

    def __init__(self, admin: AdminService) -> None:
        self.wire = Wire()
        self.channel = admin.site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        if self.channel is not None:
            self.channel.makeConnection(self.wire)

    def send(self, data: bytes) -> None:
        self.channel.dataReceived(data)

    def ask(
        self, path: str, method: str = "GET", body: bytes = b"", **headers: str
    ) -> None:
        """Send a request; header fields are spelt with ``_`` for ``-``."""
        fields = {"Host": "127.0.0.1:8701", "Content-Length": str(len(body))}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{name}: {value}" for name, value in fields.items() if value]
        head = "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""])
        self.send(head.encode("latin-1") + body)

    def lose(self) -> None:
        self.channel.stopProducing()
        self.channel.connectionLost(Failure(ConnectionDone()))


class Answer:
    """An answer, taken apart."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(status.split()[1])
        self.headers = {
            name.lower(): value
            for name, _, value in (one.partition(": ") for one in lines)
        }

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def whole(self) -> bytes:
        """The body of an answer in pieces (RFC 9112, section 7.1)."""
        body, left = b"", self.body
        while left:
            size, _, left = left.partition(b"\r\n")
            body, left = body + left[: int(size, 16)], left[int(size, 16) + 2 :]
        return body


class WatchedTestCase(SynchronousTestCase):
    """Has a relay that is looked at."""

    def setUp(self) -> None:
        self.reactor = EagerReactor()

    def serve(
        self,
        config: Config = Config(offers=AT_ONCE),  # noqa: B008 - frozen
        authenticator: Authenticator | None = None,
        pair: certificates.KeyPair | None = None,
        token: str | None = None,
        shared: bool = False,
        survival: Survival | None = None,
        **more: Any,
    ) -> None:
        """Start it; its sockets are bound, but on no reactor.

        More arguments are those of `Instrumentation.listener`.
        """
        admin = config.admin if config.admin.listen else LISTENER
        settings = replace(config, host="127.0.0.1", port=0, admin=admin)
        self.watch = Instrumentation(self.reactor, self.reactor.seconds)
        self.relay = RelayService(
            settings,
            authenticator or AnonymousAuthenticator(),
            pair,
            self.reactor,
            survival=survival,
            further=self.watch.observers,
            on_forward=(self.watch.counts.forwarded,),
            kind=self.watch.kind,
        )
        secret = None if token is None else Secret(token)
        self.found = Inspection(settings, pair=pair, token=secret)
        self.reload = Reload(self.relay, None, lambda: self.found, self.reactor, secret)
        self.admin = self.watch.listener(
            self.relay, self.reload, secret, shared, **more
        )
        for service in (self.relay, self.reload, self.admin):
            service.startService()
        self.addCleanup(self.stop)

    def serve_in_cluster(self, **settings: Any) -> None:
        """Start it in a cluster whose engine is not there."""
        cluster = Cluster(engine="unix:/nowhere", node="n1", **settings)
        self.serve(Config(offers=AT_ONCE, cluster=cluster))

    def serve_under_supervisor(self, capacity: int) -> Survival:
        """Start it under a supervisor that keeps descriptors."""
        supervisor = Supervisor()
        self.addCleanup(supervisor.close)
        store = DescriptorStore(supervisor.address, self.reactor)
        survival = Survival(Config(), Handed(), store, capacity)
        self.serve(survival=survival)
        return survival

    def stop(self) -> None:
        if self.relay.member is not None:
            self.relay.member.link.ready = False  # a test may have said otherwise
        self.relay.factory.abort_all()
        for connection in list(self.relay.factory.connections):
            connection.connectionLost()
        for service in (self.admin, self.reload, self.relay):
            if service.running:
                service.stopService()

    # -- clients

    def connect(self, *lines: str, host: str = "192.0.2.1") -> RelayProtocol:
        client = self.accept(host)
        client.dataReceived(upgrade(*lines))
        return client

    def accept(self, host: str = "192.0.2.1") -> RelayProtocol:
        place = IPv4Address("TCP", host, 4711)
        client: RelayProtocol = self.relay.factory.buildProtocol(place)
        client.makeConnection(Wire())
        return client

    def registered(
        self, uuid: str = A, name: str = "a", legacy: bool = False
    ) -> RelayProtocol:
        client = self.connect()
        self.send(client, registration(uuid, name, legacy))
        return client

    def send(self, client: RelayProtocol, text: bytes) -> None:
        client.dataReceived(frame(TEXT, text))

    def lose(self, client: RelayProtocol) -> None:
        client.connectionLost(Failure(ConnectionDone()))

    # -- callers

    def ask(self, path: str, method: str = "GET", **options: Any) -> Answer:
        caller = Caller(self.admin)
        caller.ask(path, method, **options)
        answer = Answer(caller.wire.value())
        caller.lose()
        return answer

    def post(self, path: str, **options: Any) -> Answer:
        return self.ask(path, "POST", X_Proxyrelay="1", **options)

    def metrics(self) -> dict[str, float]:
        """What Prometheus is told: each sample by its name with its labels."""
        text = self.ask("/metrics").body.decode()
        return {
            f"{sample.name}{{{','.join(f'{k}={v}' for k, v in sample.labels.items())}}}"
            if sample.labels
            else sample.name: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
