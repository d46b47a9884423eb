"""The endpoint of a master that sentinels name, with real ones."""

from __future__ import annotations

import signal
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from proxyrelay.cluster.link import Link
from proxyrelay.cluster.link_settings import LinkSettings
from proxyrelay.cluster.sentinel import SentinelEndpoint
from tests.cluster.test_link import Recorder
from tests.support.engine import SentinelGroup, free_port

reactor: Any = _reactor


DOWN_AFTER_SECONDS = 1.0
"""Silence of a master after which the sentinels here take another one."""

FOLLOW_SECONDS = 6.0
"""Longest time from there to a link that is ready."""


def tcp(host: str, port: int) -> TCP4ClientEndpoint:
    """An endpoint that gives up soon."""
    return TCP4ClientEndpoint(reactor, host, port, timeout=1)


class SentinelTests(TestCase):
    """A link that follows the master."""

    timeout = 60

    def setUp(self) -> None:
        self.group = SentinelGroup(round(DOWN_AFTER_SECONDS * 1000))
        self.addCleanup(self.group.stop)
        self.observer = Recorder()
        self.endpoint = SentinelEndpoint(
            reactor,
            [tcp("127.0.0.1", port) for port in (free_port(), *self.group.sentinels)],
            "relay",
            tcp,
        )
        self.link = Link(
            reactor,
            self.endpoint,
            LinkSettings("n1", "relay:1", lease=6, call_timeout=1),
            self.observer,
            needs_master=True,
        )
        self.endpoint.moved = self.link.drop
        self.endpoint.start()
        self.addCleanup(self.endpoint.stop)
        self.addCleanup(self.link.stop)

    async def follow(self) -> None:
        """Wait until both connections are those of the former replica."""
        ready = self.observer.when("ready", DOWN_AFTER_SECONDS + FOLLOW_SECONDS)
        self.assertEqual(await ready, ("ready", True))
        kinds = {
            client["flags"]
            for client in self.group.replica.client.client_list()
            if client["cmd"] in {"evalsha", "subscribe", "publish"}
        }
        self.assertEqual(kinds, {"N", "P"})

    async def start(self) -> None:
        ready = self.observer.when("ready")
        self.link.start()
        await ready

    async def test_killed_master_is_followed_by_both_connections(self) -> None:
        await self.start()
        self.group.master.kill()
        await self.follow()

    async def test_stopped_master_is_left_by_both_connections(self) -> None:
        await self.start()
        self.group.master.signal(signal.SIGSTOP)
        await self.follow()

    async def test_sentinel_without_a_password_is_asked_all_the_same(self) -> None:
        self.endpoint._credentials = lambda: ("relay", "secret")
        await self.start()

    async def test_master_of_another_name_is_a_failure_to_connect(self) -> None:
        endpoint = SentinelEndpoint(
            *(reactor, [tcp("127.0.0.1", self.group.sentinels[0])], "other"),
            tcp,
        )
        connecting = endpoint.connect(Factory.forProtocol(Protocol))
        await self.assertFailure(connecting, ConnectError)
