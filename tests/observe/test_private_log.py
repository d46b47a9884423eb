"""With pseudonyms, no log line and no event of the page names users or addresses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from proxyrelay.auth import Authenticator
from proxyrelay.config import Config, Limits, Logging, Offers
from proxyrelay.errors import Forbidden
from proxyrelay.observe import log
from proxyrelay.switchboard.user import User
from tests.support.capture import Capture
from tests.support.frames import TEXT, frame
from tests.support.recording import A, B, C, answer, offer, registration
from tests.support.served import RelayTestCase, scenario, upgrade

ME = "d3adb33f-8bf9-3888-9912-ace4e6543002"

HOST = "192.0.2.7"

LINE = f"PROXY TCP4 {HOST} 192.0.2.2 4711 443\r\n".encode()


class Guests:
    """Lets everybody in as one user, unless a header says otherwise."""

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


class PrivateLogTests(RelayTestCase):
    """A relay with pseudonyms, behind a proxy."""

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
        self.events = Capture(self).events

    def client(self, *headers: str, sends: bytes = b"") -> Any:
        """A connection from behind the proxy."""
        connection = self.raw()
        connection.sendall(LINE + upgrade(*headers))
        self.assertTrue(connection.recv(12).startswith(b"HTTP/1.1 101"))
        if sends:
            connection.sendall(frame(TEXT, sends))
        return connection

    def assert_said(self, event: str, **fields: Any) -> None:
        """Wait for an event; its JSON has these fields among others."""
        self.until(lambda: any(each.get("event") == event for each in self.events))
        (found, *_) = (each for each in self.events if each.get("event") == event)
        line = json.loads(log.record(found) or "")
        self.assertEqual(line, {**line, **fields})

    @scenario
    def test_log_with_pseudonyms_names_no_user_and_no_address(self) -> None:
        names = self.service.pseudonyms
        here = names.address(HOST)
        self.assertNotEqual(here, HOST)

        self.raw().sendall(b"GET / HTTP/1.1\r\n\r\n")
        self.assert_said("dropped", address=names.address("127.0.0.1"))

        one = self.client(sends=registration(A))
        self.assert_said("registered", address=here, user=names.user(ME))
        other = self.client(sends=registration(B))
        self.until(lambda: len(self.service.factory.registry) == 2)
        for text in (offer(A, B), answer(A, B), offer(B, C)):
            one.sendall(frame(TEXT, text))
        for event in ("forwarded", "shielded", "returned"):
            self.assert_said(event, address=here)
        self.client(sends=registration(A))
        self.assert_said("replaced", address=here, old_address=here)
        self.assert_said("left", user=names.user(ME))

        other.sendall(b"\xff\xff")
        self.assert_said("failed", address=here)
        self.client("X-Wish: refused")
        self.assert_said("refused", address=here)
        self.client("X-Wish: broken")
        self.raw().sendall(LINE + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assert_said("rejected", address=here)
        registry = self.service.factory.registry
        self.in_reactor(self.service.log_observer.clients, registry, 9)
        self.assert_said("client", user=names.user(ME))

        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        for each in self.events:
            if each.get("event") == "serving":
                continue  # that is the relay's own address
            for line in (log.line(each), log.record(each)):
                for secret in (HOST, "127.0.0.1", ME):
                    self.assertNotIn(secret, line or "")
        (authenticating,) = (each for each in self.events if "log_failure" in each)
        self.assertEqual(authenticating["address"], here)
