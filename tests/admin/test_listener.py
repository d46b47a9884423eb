"""The private listener as a service."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from proxyrelay.admin import listener, site, sockets
from proxyrelay.config import Admin, Config
from proxyrelay.errors import StartError
from proxyrelay.service.app import makeService
from proxyrelay.service.options import Options
from tests.support.capture import Capture
from tests.support.recording import A
from tests.support.watched import Caller, WatchedTestCase

reactor: Any = _reactor


class LifeTests(WatchedTestCase):
    """It begins before the relay serves, and ends after it."""

    def test_a_taken_port_is_found_at_once(self) -> None:
        (bound,) = sockets.listen(("127.0.0.1", 0), False)
        self.addCleanup(bound.close)
        port = bound.getsockname()[1]
        with self.assertRaises(StartError) as caught:
            self.serve(Config(admin=Admin(listen=f"127.0.0.1:{port}")))
        self.assertTrue(str(caught.exception).startswith("admin.listen: cannot listen"))
        for bound in self.relay.ports.sockets:
            bound.close()

    def test_says_where_it_is(self) -> None:
        captured = Capture(self)
        self.serve()
        self.reactor.run()
        self.assertIn(f"the private listener is {self.admin.urls[0]}", captured.lines())

    def test_is_seen_until_the_last_client_has_gone(self) -> None:
        self.serve()
        client = self.registered(A)
        caller = Caller(self.admin)
        ended: Deferred[Any] = self.admin.stopService()
        self.relay.stopService()
        self.assertFalse(caller.wire.disconnecting)
        self.assertEqual(self.ask("/readyz").body, b"stopping\n")
        self.lose(client)
        self.assertTrue(caller.wire.disconnecting)
        self.assertNoResult(ended)
        caller.lose()
        self.successResultOf(ended)
        self.reload.stopService()
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_ends_who_does_not_read(self) -> None:
        self.serve()
        caller = Caller(self.admin)
        aborted: list[None] = []
        caller.wire.abortConnection = lambda: aborted.append(None)  # type: ignore[method-assign]
        self.relay.stopService()
        ended: Deferred[Any] = self.admin.stopService()
        self.reactor.advance(site.CLOSE_SECONDS)
        self.assertEqual(aborted, [None])
        caller.lose()
        self.successResultOf(ended)

    def test_stays_while_the_relay_drains(self) -> None:
        self.serve()
        self.registered()
        self.relay.drain()
        self.assertNotEqual(self.admin.urls, [])

    def test_leaves_its_place_to_the_relay_that_takes_over(self) -> None:
        self.serve(shared=True)
        self.registered()
        caller = Caller(self.admin)
        self.relay.drain()
        self.assertEqual(self.admin.urls, [])
        caller.ask("/readyz")
        self.assertIn(b"draining", caller.wire.value())


class BoundsTests(WatchedTestCase):
    """What a caller may cost."""

    def setUp(self) -> None:
        super().setUp()
        self.serve()
        self.aborted = 0

    def caller(self) -> Caller:
        caller = Caller(self.admin)
        caller.wire.abortConnection = self.abort  # type: ignore[method-assign]
        return caller

    def abort(self) -> None:
        self.aborted += 1

    def test_connections(self) -> None:
        """Who asks for nothing keeps nobody out, and goes first."""
        first, second, *_ = [self.caller() for _ in range(site.MAX_CALLERS)]
        self.assertEqual(self.aborted, 0)
        first.ask("/livez")
        further = self.caller()
        self.assertEqual(self.aborted, 1)
        self.assertEqual(len(self.admin.site.open), site.MAX_CALLERS)
        self.assertIn(first.channel, self.admin.site.open)
        self.assertNotIn(second.channel, self.admin.site.open)
        further.ask("/livez")
        self.assertIn(b" 200 OK", further.wire.value())
        second.lose()
        self.assertEqual(len(self.admin.site.open), site.MAX_CALLERS)

    def test_silence(self) -> None:
        self.caller()
        self.reactor.advance(site.FIRST_REQUEST_SECONDS - 1)
        self.assertEqual(self.aborted, 0)
        self.reactor.advance(1)
        self.assertEqual(self.aborted, 1)

    def test_a_request_byte_by_byte(self) -> None:
        caller = self.caller()
        for _ in range(site.FIRST_REQUEST_SECONDS):
            caller.send(b"G")
            self.reactor.advance(1)
        self.assertEqual(self.aborted, 1)

    def test_a_connection_that_was_of_use_and_is_idle(self) -> None:
        caller = self.caller()
        self.reactor.advance(site.FIRST_REQUEST_SECONDS - 1)
        caller.ask("/livez")
        self.reactor.advance(site.REQUEST_SECONDS - 1)
        self.assertEqual(self.aborted, 0)
        self.reactor.advance(1)
        self.assertEqual(self.aborted, 1)

    def test_an_answer_that_is_not_read(self) -> None:
        caller = self.caller()
        caller.wire.producerState = "paused"
        caller.ask("/clients")
        caller.channel.pauseProducing()
        self.reactor.advance(site.ANSWER_SECONDS)
        self.assertEqual(self.aborted, 1)
        caller.lose()

    def test_a_last_answer_that_is_not_read(self) -> None:
        self.caller().ask("/livez", Connection="close")
        self.reactor.advance(site.ANSWER_SECONDS - 1)
        self.assertEqual(self.aborted, 0)
        self.reactor.advance(1)
        self.assertEqual(self.aborted, 1)

    def test_bodies(self) -> None:
        caller = self.caller()
        caller.ask(
            "/reload", "POST", b"x" * site.MAX_REQUEST_BODY_BYTES, X_Proxyrelay="1"
        )
        self.assertIn(b" 200 OK", caller.wire.value())
        self.assertEqual(self.aborted, 0)
        caller = self.caller()
        size = site.MAX_REQUEST_BODY_BYTES + 1
        caller.ask("/reload", "POST", b"x" * size, X_Proxyrelay="1")
        self.assertEqual(self.aborted, 1)

    def test_bodies_in_chunks(self) -> None:
        caller = self.caller()
        caller.ask("/reload", "POST", Content_Length="", Transfer_Encoding="chunked")
        for _ in range(site.MAX_REQUEST_BODY_BYTES // 1024 + 1):
            caller.send(b"400\r\n" + b"x" * 1024 + b"\r\n")
        self.assertGreaterEqual(self.aborted, 1)

    def test_heads(self) -> None:
        caller = self.caller()
        caller.send(b"GET / HTTP/1.1\r\n")
        caller.send(b"A: b\r\n" * 20_000)
        self.assertIn(b" 400 ", caller.wire.value())


class PipelineTests(WatchedTestCase):
    """Requests that come before the answer to the one in front of them."""

    def setUp(self) -> None:
        super().setUp()
        self.serve()
        self.caller = Caller(self.admin)

    def answers(self) -> int:
        sent: bytes = self.caller.wire.value()
        return sent.count(b"HTTP/1.1 ")

    def check_one(self) -> None:
        self.assertEqual(self.answers(), 1)
        self.assertIn(b"\r\nConnection: close\r\n", self.caller.wire.value())
        self.assertTrue(self.caller.wire.disconnecting)

    def test_many_in_one_read(self) -> None:
        """They were all answered in one go, which took megabytes and seconds."""
        one = b"GET /page/uPlot.iife.min.js HTTP/1.1\r\n\r\n"
        self.caller.send(one * (64 * 1024 // len(one)))
        self.check_one()

    def test_behind_a_body(self) -> None:
        one = b"POST /reload HTTP/1.1\r\nX-Proxyrelay: 1\r\nContent-Length: 2\r\n\r\n{}"
        self.caller.send(one * 2)
        self.check_one()

    def test_behind_a_body_in_chunks(self) -> None:
        one = (
            b"POST /reload HTTP/1.1\r\nX-Proxyrelay: 1\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
        )
        self.caller.send(one * 2)
        self.check_one()

    def test_part_of_one(self) -> None:
        self.caller.send(b"GET /livez HTTP/1.1\r\n\r\nG")
        self.check_one()

    def test_one_after_the_other(self) -> None:
        for _ in range(3):
            self.caller.ask("/livez")
            self.caller.ask("/reload", "POST", b"{}", X_Proxyrelay="1")
            self.caller.ask(
                "/reload",
                "POST",
                b"2\r\n{}\r\n0\r\n\r\n",
                X_Proxyrelay="1",
                Content_Length="",
                Transfer_Encoding="chunked",
            )
        self.assertEqual(self.answers(), 9)
        self.assertNotIn(b"Connection: close", self.caller.wire.value())
        self.assertFalse(self.caller.wire.disconnecting)


class LogTests(WatchedTestCase):
    """What is logged of callers: that one is wrong, and nothing that it has sent."""

    def test_no_token_and_no_request(self) -> None:
        captured = Capture(self)
        self.serve(token="0123456789abcdef")
        before = len(captured.events)
        for given in ("0123456789abcdef", "wrong-wrong-wrong"):
            self.ask("/status?token=evil", Authorization=f"Bearer {given}")
            self.ask("/status", "HEAD", Authorization=f"Bearer {given}")
        caller = Caller(self.admin)
        self.reactor.advance(site.FIRST_REQUEST_SECONDS)
        caller.lose()
        events = captured.events[before:]
        self.assertEqual([event["event"] for event in events], ["admin_unauthorized"])
        for secret in ("0123456789abcdef", "wrong-wrong-wrong", "evil"):
            self.assertNotIn(secret, repr(events))


class FileTests(TestCase):
    """One that listens on a socket in the file system."""

    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        self.path = folder / "s"

    def serve(self, shared: bool = False, **more: Any) -> listener.AdminService:
        case = WatchedTestCase()
        case.reactor = reactor
        case.addCleanup = self.addCleanup  # type: ignore[method-assign]
        settings = Admin(listen=f"unix:{self.path.absolute()}")
        # The path from here is short enough for a socket; that in full may not be.
        self.patch(Admin, "place", property(lambda _: self.path))
        case.serve(Config(admin=settings), shared=shared, **more)
        self.case = case
        return case.admin

    def call(self) -> bytes:
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(20)
            caller.connect(str(self.path))
            caller.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
            received = b""
            while piece := caller.recv(65536):
                received += piece
        return received

    async def test_answers_and_leaves_nothing_behind(self) -> None:
        admin = self.serve()
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o660)
        self.assertEqual(admin.urls, [f"unix:{self.path}"])
        received = await deferToThread(self.call)
        self.assertTrue(received.endswith(b"\r\n\r\nok\n"), received)
        await admin.stopService()
        self.assertFalse(self.path.exists())

    async def test_leaves_that_of_another_one(self) -> None:
        admin = self.serve()
        other = sockets.listen(self.path, True)
        await admin.stopService()
        await deferLater(reactor, 0)
        self.assertTrue(self.path.exists())
        other[0].close()

    async def test_takes_its_place_back_when_another_one_is_gone(self) -> None:
        admin = self.serve(shared=True)
        (other,) = sockets.listen(self.path, True)
        theirs = sockets.identity(self.path)
        admin._take_sample()
        self.assertEqual(sockets.identity(self.path), theirs)
        self.path.unlink()
        other.close()
        admin._take_sample()
        received = await deferToThread(self.call)
        self.assertTrue(received.endswith(b"\r\n\r\nok\n"), received)
        ours = sockets.identity(self.path)
        admin._take_sample()
        self.assertEqual(sockets.identity(self.path), ours)
        await admin.stopService()
        self.assertFalse(self.path.exists())

    async def test_takes_its_place_back_from_one_that_crashed(self) -> None:
        admin = self.serve(shared=True)
        (other,) = sockets.listen(self.path, True)
        other.close()
        admin._take_sample()
        received = await deferToThread(self.call)
        self.assertTrue(received.endswith(b"\r\n\r\nok\n"), received)

    async def test_takes_no_place_back_when_it_drains(self) -> None:
        admin = self.serve(shared=True)
        self.case.relay.drained()
        admin._take_sample()
        self.assertFalse(self.path.exists())

    async def test_leaves_one_that_was_handed_over_as_it_is(self) -> None:
        """It may be somebody else's, and the next relay listens on it, too."""
        held = socket.socket(socket.AF_UNIX)
        self.addCleanup(held.close)
        held.bind(str(self.path))
        held.listen()
        self.path.chmod(0o600)
        admin = self.serve(inherited=[held.dup().detach()])
        self.assertEqual(self.case.post("/drain").status, 409)
        received = await deferToThread(self.call)
        self.assertTrue(received.endswith(b"\r\n\r\nok\n"), received)
        await admin.stopService()
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)


SERVED = """
import sys
from twisted.internet import reactor
from proxyrelay.service.app import makeService
from proxyrelay.service.options import Options
options = Options()
options.parseOptions(["--host=127.0.0.1", "--port=0", "--config", sys.argv[1]])
service = makeService(options)
service.privilegedStartService()
service.startService()
reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
reactor.callWhenRunning(reactor.stop)
reactor.run()
print(*sys.modules)
"""
"""Serves for a moment, and prints what is loaded."""


class OffTests(SynchronousTestCase):
    """A relay without one."""

    def loaded(self, settings: str) -> set[str]:
        """What a relay has loaded when it has served and stopped."""
        path = Path(self.mktemp())
        path.write_text(settings)
        done = subprocess.run(
            [sys.executable, "-c", SERVED, str(path.absolute())],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        found = set(done.stdout.splitlines()[-1].split())
        self.assertIn("proxyrelay.service.app", found)
        return found

    def test_loads_nothing_of_it(self) -> None:
        found = self.loaded("")
        for name in (
            *("prometheus_client", "twisted.web.server", "twisted.web.resource"),
            *("proxyrelay.observe.counters", "proxyrelay.admin.listener"),
        ):
            self.assertNotIn(name, found)
        admin = {name for name in found if name.startswith("proxyrelay.admin.")}
        self.assertLessEqual(admin, {"proxyrelay.admin.control"})

    def test_would_load_it(self) -> None:
        """Otherwise that says nothing."""
        found = self.loaded("[admin]\nlisten = '127.0.0.1:0'\n")
        self.assertLessEqual(
            {
                *("prometheus_client", "twisted.web.server", "twisted.web.resource"),
                *("proxyrelay.observe.counters", "proxyrelay.admin.listener"),
            },
            found,
        )

    def test_counts_no_bytes(self) -> None:
        options = Options()
        options.parseOptions(["--host=127.0.0.1", "--port=0"])
        application: Any = makeService(options)
        relay = list(application)[1]
        self.assertEqual(relay.factory.protocol.__mro__[1].__name__, "RelayProtocol")
        for bound in relay.ports.sockets:
            bound.close()
