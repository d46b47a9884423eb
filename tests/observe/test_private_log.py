"""Where users and addresses are hidden, nothing that a relay says names them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from proxyrelay.auth import Authenticator
from proxyrelay.config import Config, Limits, Logging, Offers
from proxyrelay.errors import Forbidden
from proxyrelay.observe import log
from proxyrelay.switchboard.user import User
from tests.support.frames import TEXT, frame
from tests.support.recording import A, B, C, answer, offer, registration
from tests.support.served import RelayTestCase, scenario, upgrade

ME = "d3adb33f-8bf9-3888-9912-ace4e6543002"

HOST = "192.0.2.7"

LINE = f"PROXY TCP4 {HOST} 192.0.2.2 4711 443\r\n".encode()


class Guests:
    """Lets everybody in as one user, but for who says otherwise."""

    def start(self) -> None:
        """Nothing has to be tried."""

    def stop(self) -> None:
        """Nothing was begun."""

    def authenticate(self, headers: Mapping[str, str], source: str) -> Deferred[User]:
        wish = headers.get("x-wish")
        if wish == "refused":
            refusal = Forbidden("no")
            refusal.sub = ME
            return fail(refusal)
        if wish == "broken":
            return fail(ValueError("why"))
        return succeed(User(ME))


class HiddenTests(RelayTestCase):
    """A relay that hides them, behind a proxy."""

    config = Config(
        host="127.0.0.1",
        port=0,
        limits=Limits(trusted_proxies=("127.0.0.1",), proxy_protocol=True),
        logging=Logging(default_level="DEBUG", privacy=True, format="json"),
        offers=Offers(crossing=0),
    )

    def authenticator(self) -> Authenticator:
        return Guests()

    def setUp(self) -> None:
        super().setUp()
        self.events: list[LogEvent] = []
        observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def client(self, *headers: str, sends: bytes = b"") -> Any:
        """A connection from behind the proxy."""
        connection = self.raw()
        connection.sendall(LINE + upgrade(*headers))
        self.assertTrue(connection.recv(12).startswith(b"HTTP/1.1 101"))
        if sends:
            connection.sendall(frame(TEXT, sends))
        return connection

    def said(self, event: str) -> dict[str, Any]:
        """Wait for an event, and take it as JSON has it."""
        self.until(lambda: any(each.get("event") == event for each in self.events))
        (found, *_) = (each for each in self.events if each.get("event") == event)
        line = log.record(found)
        assert line is not None
        fields: dict[str, Any] = json.loads(line)
        return fields

    @scenario
    def test_no_line_names_them(self) -> None:
        names = self.service.pseudonyms
        here = names.address(HOST)
        self.assertNotEqual(here, HOST)

        self.raw().sendall(b"GET / HTTP/1.1\r\n\r\n")
        dropped = self.said("dropped")
        self.assertEqual(dropped["address"], names.address("127.0.0.1"))

        one = self.client(sends=registration(A))
        self.assertEqual(self.said("registered")["address"], here)
        self.assertEqual(self.said("registered")["user"], names.user(ME))
        other = self.client(sends=registration(B))
        self.until(lambda: len(self.service.factory.registry) == 2)
        for text in (offer(A, B), answer(A, B), offer(B, C)):
            one.sendall(frame(TEXT, text))
        for event in ("forwarded", "shielded", "returned"):
            self.assertEqual(self.said(event)["address"], here)
        self.client(sends=registration(A))
        replaced = self.said("replaced")
        self.assertEqual((replaced["address"], replaced["old_address"]), (here, here))
        self.assertEqual(self.said("left")["user"], names.user(ME))

        other.sendall(b"\xff\xff")
        self.assertEqual(self.said("failed")["address"], here)
        self.client("X-Wish: refused")
        self.assertEqual(self.said("refused")["address"], here)
        self.client("X-Wish: broken")
        self.raw().sendall(LINE + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertEqual(self.said("rejected")["address"], here)
        self.in_reactor(self.service.journal.clients, self.service.factory.registry, 9)
        self.assertEqual(self.said("client")["user"], names.user(ME))

        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        for each in self.events:
            if each.get("event") == "serving":
                continue  # that is the relay's own address
            for line in (log.line(each), log.record(each)):
                for secret in (HOST, "127.0.0.1", ME):
                    self.assertNotIn(secret, line or "")
        (authenticating,) = (each for each in self.events if "log_failure" in each)
        self.assertEqual(authenticating["address"], here)
