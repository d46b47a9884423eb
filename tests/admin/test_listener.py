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

from proxyrelay.admin import listener, sockets
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

    def test_listener_at_taken_port_fails_at_once(self) -> None:
        (bound,) = sockets.listen(("127.0.0.1", 0), False)
        self.addCleanup(bound.close)
        port = bound.getsockname()[1]
        with self.assertRaises(StartError) as caught:
            self.serve(Config(admin=Admin(listen=f"127.0.0.1:{port}")))
        self.assertTrue(str(caught.exception).startswith("admin.listen: cannot listen"))
        for bound in self.relay.ports.sockets:
            bound.close()

    def test_listener_after_start_logs_its_place(self) -> None:
        captured = Capture(self)
        self.serve()
        self.reactor.run()
        self.assertIn(f"the private listener is {self.admin.urls[0]}", captured.lines())

    def test_listener_at_stop_outlives_the_last_client(self) -> None:
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

    def test_listener_while_draining_keeps_its_place(self) -> None:
        self.serve()
        self.registered()
        self.relay.drain()
        self.assertNotEqual(self.admin.urls, [])

    def test_listener_that_is_shared_leaves_its_place_at_drain(self) -> None:
        self.serve(shared=True)
        self.registered()
        caller = Caller(self.admin)
        self.relay.drain()
        self.assertEqual(self.admin.urls, [])
        caller.ask("/readyz")
        self.assertIn(b"draining", caller.wire.value())

    def test_listener_with_callers_logs_no_secret(self) -> None:
        captured = Capture(self)
        self.serve(token="0123456789abcdef")
        before = len(captured.events)
        for given in ("0123456789abcdef", "wrong-wrong-wrong"):
            self.ask("/status?token=evil", Authorization=f"Bearer {given}")
            self.ask("/status", "HEAD", Authorization=f"Bearer {given}")
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

    async def check_answers(self) -> None:
        received = await deferToThread(self.call)
        self.assertTrue(received.endswith(b"\r\n\r\nok\n"), received)

    async def test_file_after_stop_is_gone(self) -> None:
        admin = self.serve()
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o660)
        self.assertEqual(admin.urls, [f"unix:{self.path}"])
        await self.check_answers()
        await admin.stopService()
        self.assertFalse(self.path.exists())

    async def test_file_of_another_relay_is_left(self) -> None:
        admin = self.serve()
        (other,) = sockets.listen(self.path, True)
        self.addCleanup(other.close)
        await admin.stopService()
        await deferLater(reactor, 0)
        self.assertTrue(self.path.exists())

    async def test_file_of_relay_that_is_gone_is_taken_back(self) -> None:
        for has_crashed in (False, True):
            admin = self.serve(shared=True)
            (other,) = sockets.listen(self.path, True)
            theirs = sockets.identity(self.path)
            admin._take_sample()
            self.assertEqual(sockets.identity(self.path), theirs)
            if not has_crashed:
                self.path.unlink()
            other.close()
            admin._take_sample()
            await self.check_answers()
            ours = sockets.identity(self.path)
            admin._take_sample()
            self.assertEqual(sockets.identity(self.path), ours)
            await admin.stopService()
            self.assertFalse(self.path.exists())

    async def test_file_after_drain_is_not_taken_back(self) -> None:
        admin = self.serve(shared=True)
        self.case.relay.drained()
        admin._take_sample()
        self.assertFalse(self.path.exists())

    async def test_file_that_was_handed_over_is_left(self) -> None:
        """It may be somebody else's, and the next relay listens on it, too."""
        held = socket.socket(socket.AF_UNIX)
        self.addCleanup(held.close)
        held.bind(str(self.path))
        held.listen()
        self.path.chmod(0o600)
        admin = self.serve(inherited=[held.dup().detach()])
        self.assertEqual(self.case.post("/drain").status, 409)
        await self.check_answers()
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

LOADED = {
    *("prometheus_client", "twisted.web.server", "twisted.web.resource"),
    *("proxyrelay.observe.counters", "proxyrelay.admin.listener"),
}
"""Modules of a relay with a private listener."""


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

    def test_relay_without_listener_loads_none_of_it(self) -> None:
        found = self.loaded("")
        self.assertEqual(found & LOADED, set())
        admin = {name for name in found if name.startswith("proxyrelay.admin.")}
        self.assertLessEqual(admin, {"proxyrelay.admin.control"})
        found = self.loaded("[admin]\nlisten = '127.0.0.1:0'\n")
        self.assertLessEqual(LOADED, found)

    def test_relay_without_listener_counts_no_bytes(self) -> None:
        options = Options()
        options.parseOptions(["--host=127.0.0.1", "--port=0"])
        application: Any = makeService(options)
        relay = list(application)[1]
        self.assertEqual(relay.factory.protocol.__mro__[1].__name__, "RelayProtocol")
        for bound in relay.ports.sockets:
            bound.close()
