"""The link to the engine, with a real Redis and the real reactor."""

from __future__ import annotations

import itertools
import random
import signal
import time
from typing import Any, cast

import redis
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    DNSLookupError,
)
from twisted.internet.interfaces import IProtocol, IStreamClientEndpoint, ITransport
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase, TestCase

from proxyrelay.cluster import link, scripts
from proxyrelay.cluster.bus import NoReply, NotSent
from proxyrelay.cluster.link import CONNECT_SECONDS, Link
from proxyrelay.cluster.link_settings import LinkSettings
from tests.support.capture import Capture
from tests.support.engine import Engine

reactor: Any = _reactor

PATIENCE_SECONDS = 20.0


class Recorder:
    """An observer that fires Deferreds."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []
        self.is_admitted = True
        self._awaited: list[tuple[str, Deferred[tuple[Any, ...]]]] = []

    def when(
        self, what: str, seconds: float = PATIENCE_SECONDS
    ) -> Deferred[tuple[Any, ...]]:
        """Fires at the next report of a kind."""
        deferred: Deferred[tuple[Any, ...]] = Deferred()
        self._awaited.append((what, deferred))
        return deferred.addTimeout(seconds, reactor)

    def _say(self, *report: Any) -> None:
        self.said.append(report)
        due = [deferred for what, deferred in self._awaited if what == report[0]]
        self._awaited = [pair for pair in self._awaited if pair[1] not in due]
        for deferred in due:
            deferred.callback(report)

    def admits(self, nodes: list[bytes]) -> bool:
        self._say("nodes", nodes)
        return self.is_admitted

    def link_ready(self, is_lost: bool) -> None:
        self._say("ready", is_lost)

    def link_down(self, reason: str) -> None:
        self._say("down", reason)

    def registrations_lost(self) -> None:
        self._say("lost")

    def inbox_received(self, message: bytes) -> None:
        self._say("message", message)

    def replied(self, seconds: float) -> None:
        """Ignore it."""


class DeafEndpoint:
    """An engine that does not answer.

    Attributes:
        calls: Number of attempts.
    """

    def __init__(self) -> None:
        self.calls = 0

    def connect(self, _: object) -> Deferred[IProtocol]:
        self.calls += 1
        return Deferred(self._give_up)

    def _give_up(self, connecting: Deferred[IProtocol]) -> None:
        # As Twisted's endpoints do it.
        connecting.errback(ConnectingCancelledError(None))


class DeafEngineTests(SynchronousTestCase):
    """Without a reply to the attempt to connect."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.engine = DeafEndpoint()
        settings = LinkSettings("n1", "relay:1", 6.0, 0.5)
        endpoint = cast(IStreamClientEndpoint, self.engine)
        self.link = Link(self.clock, endpoint, settings, Recorder())
        self.link.start()

    def test_attempt_without_an_end_is_given_up_and_repeated(self) -> None:
        self.clock.advance(CONNECT_SECONDS)
        self.clock.advance(1)
        self.assertEqual(self.engine.calls, 2)
        self.link.stop()

    def test_stop_during_an_attempt_ends_the_link(self) -> None:
        self.link.stop()
        self.clock.advance(CONNECT_SECONDS)
        self.assertEqual(self.engine.calls, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class FailingEndpoint:
    """An engine whose endpoint fails at once."""

    def __init__(self, error: Exception) -> None:
        self.calls = 0
        self._error = error

    def connect(self, _: object) -> Deferred[IProtocol]:
        self.calls += 1
        return fail(self._error)


class FailureTests(SynchronousTestCase):
    """Attempts that fail, each in its own way."""

    def test_link_tries_on_whatever_the_failure(self) -> None:
        for error, is_known in (
            (ConnectError(), True),
            (DNSLookupError(), True),
            (ValueError("no such case"), False),
        ):
            clock, engine = Clock(), FailingEndpoint(error)
            settings = LinkSettings("n1", "relay:1", 6.0, 0.5)
            endpoint = cast(IStreamClientEndpoint, engine)
            tried = Link(clock, endpoint, settings, Recorder())
            tried.start()
            for attempts in (2, 3, 4):
                clock.advance(2.5)
                self.assertEqual(engine.calls, attempts)
            tried.stop()
            self.assertEqual(clock.getDelayedCalls(), [])
            # Only the first one is logged.
            count = 0 if is_known else 1
            self.assertEqual(len(self.flushLoggedErrors(ValueError)), count)


class CountingEndpoint:
    """Counts attempts to connect, and tells of the one of a number."""

    def __init__(self, endpoint: Any, number: int) -> None:
        self.reached: Deferred[None] = Deferred()
        self._left = number
        self._endpoint = endpoint

    def connect(self, factory: Any) -> Any:
        self._left -= 1
        if self._left == 0:
            self.reached.callback(None)
        return self._endpoint.connect(factory)


class WebServer(Protocol):
    """Answers as a web server does."""

    def dataReceived(self, _: bytes) -> None:
        cast(ITransport, self.transport).write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


class LinkTestCase(TestCase):
    """An engine and a link to it."""

    options: tuple[str, ...] = ()

    def setUp(self) -> None:
        self.engine = Engine(*self.options)
        self.addCleanup(self.engine.stop)
        self.observer = Recorder()
        self.password = ""
        self.link = self.new_link("n1")

    def new_link(self, node: str, **settings: Any) -> Link:
        settings = {"lease": 6.0, "call_timeout": 0.5, **settings}
        link = Link(
            reactor,
            UNIXClientEndpoint(reactor, str(self.engine.socket)),
            LinkSettings(node, "relay:1", password=lambda: self.password, **settings),
            self.observer,
        )
        self.addCleanup(link.stop)
        return link

    async def start(self) -> None:
        ready = self.observer.when("ready")
        self.link.start()
        await ready


class LinkTests(LinkTestCase):
    """The link in order, and after faults of the engine."""

    async def test_link_ready_registers_and_forwards_to_itself(self) -> None:
        await self.start()
        reply = await self.link.call(
            *("register", "uuid", "n1", 1, "user", 1, "new", 0, 1000)
        )
        self.assertEqual(reply, [b"OK", 0, 0])
        message = self.observer.when("message")
        reply = await self.link.call("forward", "uuid", "user", "n1", 0, b"\x00text")
        self.assertEqual(reply, [b"SENT", b"n1", b"1"])
        self.assertTrue((await message)[1].endswith(b"\n\x00text"))

    async def test_engine_time_is_that_of_the_engine(self) -> None:
        await self.start()
        seconds, microseconds = self.engine.client.time()
        there = seconds * 1_000_000 + microseconds
        here = self.link.engine_clock.time(self.link._boottime())
        self.assertLess(abs(here - there), 1_000_000)

    async def test_engine_whose_clock_was_set_is_believed_at_once(self) -> None:
        await self.start()
        before = self.link.engine_clock.time(0.0)
        slow = itertools.count(self.link._boottime(), 0.1)
        self.patch(self.link, "_boottime", slow.__next__)
        for step in (-60, 60):
            seconds, microseconds = self.engine.client.time()
            reply = [1, str(seconds + step), str(microseconds), self.link._epoch]
            self.patch(self.link, "_call", lambda *_, reply=reply: succeed(reply))
            await self.link._take_lease()
            shift = (self.link.engine_clock.time(0.0) - before) / 1e6
            self.assertLess(abs(shift - step), 1)

    async def test_call_before_the_link_is_ready_is_not_sent(self) -> None:
        await self.assertFailure(self.link.call("reap", "n2", "0", 1), NotSent)

    async def test_killed_engine_comes_back_empty(self) -> None:
        await self.start()
        down = self.observer.when("down")
        self.engine.kill()
        await down
        await self.assertFailure(self.link.call("reap", "n2", "0", 1), NotSent)
        ready = self.observer.when("ready")
        self.engine.start()
        self.assertEqual(await ready, ("ready", True))

    async def test_lost_connection_keeps_the_registrations(self) -> None:
        await self.start()
        ready = self.observer.when("ready")
        self.engine.client.client_kill_filter(_type="pubsub")
        self.assertEqual(await ready, ("ready", False))

    async def test_stopped_engine_leaves_the_outcome_unknown(self) -> None:
        await self.start()
        self.engine.signal(signal.SIGSTOP)
        ready = self.observer.when("ready")
        try:
            await self.assertFailure(self.link.call("reap", "n2", "0", 1), NoReply)
        finally:
            self.engine.signal(signal.SIGCONT)
        await ready

    async def test_calls_to_a_stopped_engine_are_not_carried_out_later(self) -> None:
        await self.start()
        self.engine.signal(signal.SIGSTOP)
        try:
            early = [self.register(number) for number in range(3)]
            for call in early:
                await self.assertFailure(call, NoReply)
            for number in range(3, 50):
                await self.assertFailure(self.register(number), NotSent)
            ready = self.observer.when("ready")
        finally:
            self.engine.signal(signal.SIGCONT)
        await ready
        # The engine may have read those that were sent before it stood still.
        carried_out = {int(key[-2:]) for key in self.engine.client.keys("*:u:*")}
        self.assertLessEqual(carried_out, {0, 1, 2})

    def register(self, number: int) -> Deferred[Any]:
        return self.link.call(
            *("register", f"u{number:02}", "n1", number, "user", 1, "new", 0, 1000)
        )

    async def test_engine_that_is_back_is_ready_within_three_seconds(self) -> None:
        await self.start()
        endpoint = CountingEndpoint(self.link._endpoint, 8)
        self.link._endpoint = cast(IStreamClientEndpoint, endpoint)
        self.engine.kill()
        await endpoint.reached  # the longest wait between two attempts
        ready = self.observer.when("ready", 3.0)
        self.engine.start()
        await ready

    async def test_loading_engine_is_tried_until_it_has_loaded(self) -> None:
        for number in range(20):
            self.engine.client.set(f"key{number}", random.randbytes(2000))
        self.engine.client.save()
        self.engine.kill()
        self.engine.start(
            *("--key-load-delay", "50000"),
            *("--loading-process-events-interval-bytes", "1024"),
        )
        self.assertRaises(redis.BusyLoadingError, self.engine.client.get, "key1")
        await self.start()
        self.assertTrue(self.engine.client.exists("key1"))

    async def test_something_else_than_an_engine_is_told_and_left(self) -> None:
        path = f"{self.engine.socket}.web"
        listening = reactor.listenUNIX(path, Factory.forProtocol(WebServer))
        self.addCleanup(listening.stopListening)
        there = UNIXClientEndpoint(reactor, path)
        endpoint = CountingEndpoint(there, 2)
        self.link._endpoint = cast(IStreamClientEndpoint, endpoint)
        logged = Capture(self)
        self.link.start()
        await endpoint.reached
        self.assertEqual(
            logged.lines(),
            [
                "the engine cannot be reached: something else than an engine answers",
            ],
        )

    async def test_engine_with_too_many_clients_is_told_and_tried_again(self) -> None:
        client, logged = self.engine.client, Capture(self)
        # The client of this test has one of them; the inbox finds none left.
        client.config_set("maxclients", 2)
        endpoint = CountingEndpoint(self.link._endpoint, 4)
        self.link._endpoint = cast(IStreamClientEndpoint, endpoint)
        ready = self.observer.when("ready")
        self.link.start()
        await endpoint.reached
        self.assertEqual(
            logged.lines(),
            ["the engine cannot be reached: ERR max number of clients reached"],
        )
        client.config_set("maxclients", 9)
        await ready

    async def test_right_that_is_missing_is_logged_once(self) -> None:
        self.patch(link, "REFUSED_SECONDS", 0.1)
        user = "ACL SETUSER default -@all +script +evalsha +exists +set +sadd +ping"
        self.engine.client.execute_command(user)
        logged = Capture(self)
        endpoint = CountingEndpoint(self.link._endpoint, 7)
        self.link._endpoint = cast(IStreamClientEndpoint, endpoint)
        self.link.start()
        await endpoint.reached
        (line,) = logged.lines(LogLevel.error)
        self.assertRegex(
            line, "the engine refuses this relay: .*can't run this command"
        )

    async def test_flushed_scripts_are_loaded_again(self) -> None:
        await self.start()
        self.engine.client.script_flush()
        await self.assertFailure(self.link.call("reap", "n2", "0", 1), NotSent)
        await self.link.publish("n1", b"message")  # the scripts go before it
        self.assertEqual(await self.link.call("reap", "n2", "0", 1), b"0")

    async def test_flushed_scripts_are_loaded_once_for_many_calls(self) -> None:
        await self.start()
        client = self.engine.client
        client.script_flush()
        client.config_resetstat()
        calls = [self.link.call("nodes") for _ in range(20)]
        for call in calls:
            await self.assertFailure(call, NotSent)
        await self.link.publish("n1", b"")  # after the scripts
        loads = client.info("commandstats")["cmdstat_script|load"]["calls"]
        self.assertEqual(loads, len(scripts.SCRIPTS))

    async def test_reply_that_came_during_a_pause_of_the_process_counts(self) -> None:
        await self.start()
        call = self.link.call("nodes")
        time.sleep(0.7)  # noqa: ASYNC251 - longer than the wait for a reply
        self.assertEqual((await call)[0], b"n1")
        self.assertTrue(self.link.ready)

    async def test_flushed_data_are_noticed_at_the_next_renewal(self) -> None:
        await self.start()
        lost = self.observer.when("lost")
        self.engine.client.flushall()
        await lost

    async def test_replica_is_left(self) -> None:
        await self.start()
        down = self.observer.when("down")
        self.engine.client.replicaof("127.0.0.1", 1)
        call = self.link.call("register", "u", "n1", 1, "u", 1, "new", 0, 1000)
        await self.assertFailure(call, NotSent)
        self.assertIn("READONLY", (await down)[1])


class CredentialTests(LinkTestCase):
    """An engine that asks for a password."""

    options = ("--requirepass", "secret")

    async def test_right_password_after_a_wrong_one_makes_it_ready(self) -> None:
        self.patch(link, "REFUSED_SECONDS", 0.1)
        self.password = "wrong"
        ready = self.observer.when("ready")
        self.link.start()
        reactor.callLater(0.3, setattr, self, "password", "secret")
        await ready
        self.flushLoggedErrors()

    async def test_password_is_not_logged_if_the_engine_quotes_it(self) -> None:
        self.engine.kill()
        self.engine.start("--rename-command", "AUTH", "")
        self.password = "open sesame"
        logged = Capture(self)
        endpoint = CountingEndpoint(self.link._endpoint, 2)
        self.patch(link, "REFUSED_SECONDS", 0.1)
        self.link._endpoint = cast(IStreamClientEndpoint, endpoint)
        self.link.start()
        await endpoint.reached
        self.assertEqual(
            logged.lines(),
            ["the engine refuses this relay: ERR unknown command 'AUTH'"],
        )

    async def test_engine_that_stands_at_the_password_is_left_in_time(self) -> None:
        self.password = "secret"
        endpoint = CountingEndpoint(self.link._endpoint, 3)
        self.link._endpoint = cast(IStreamClientEndpoint, endpoint)
        self.engine.signal(signal.SIGSTOP)
        try:
            self.link.start()
            await endpoint.reached.addTimeout(5, reactor)
        finally:
            self.engine.signal(signal.SIGCONT)
