"""Twisted and treq: the behaviour behind ``proxyrelay/auth``."""

from __future__ import annotations

import gzip
import inspect
from typing import Any

import treq
from treq.client import HTTPClient
from twisted.internet import _sslverify
from twisted.internet.address import IPv4Address
from twisted.internet.defer import DeferredSemaphore
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import (
    Agent,
    BrowserLikePolicyForHTTPS,
    HostnameCachingHTTPSPolicy,
    ResponseNeverReceived,
)

from tests.support.globus import PendingAgent


class SemaphoreTests(SynchronousTestCase):
    """`DeferredSemaphore`; see `proxyrelay.auth.fair_queue.FairSemaphore`."""

    def test_release_with_waiters_recurses(self) -> None:
        semaphore, depths = DeferredSemaphore(1), list[int]()
        self.successResultOf(semaphore.acquire())
        for _ in range(10):
            waiter = semaphore.acquire()
            waiter.addCallback(lambda _: depths.append(len(inspect.stack(0))))
            waiter.addCallback(lambda _: semaphore.release())
        semaphore.release()
        self.assertEqual(depths, sorted(set(depths)))  # each one is deeper


class AgentTests(SynchronousTestCase):
    """Agents; see `proxyrelay.auth.http`."""

    def test_treq_with_gzip_inflates_any_size(self) -> None:
        agent = PendingAgent()
        asked = HTTPClient(agent).get("https://auth.example.org/")
        self.assertEqual(agent.last.headers.getRawHeaders("Accept-Encoding"), ["gzip"])
        response = agent.last.respond(headers={"Content-Encoding": "gzip"})
        body = treq.content(self.successResultOf(asked))
        response.feed(gzip.compress(b" " * 1_000_000))
        response.end()
        self.assertEqual(len(self.successResultOf(body)), 1_000_000)

    def test_request_cancelled_fails_with_response_never_received(self) -> None:
        memory = MemoryReactorClock()
        asked = Agent(memory).request(b"GET", b"http://127.0.0.1:1/")
        _, _, factory, _, _ = memory.tcpClients[0]
        protocol: Any = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        protocol.makeConnection(StringTransport())
        asked.cancel()
        self.failureResultOf(asked, ResponseNeverReceived)

    def test_browser_policy_loads_a_trust_store_each_time_unless_cached(self) -> None:
        loaded: list[object] = []

        def platform_trust() -> object:
            loaded.append(_sslverify.OpenSSLDefaultPaths())
            return loaded[-1]

        self.patch(_sslverify, "platformTrust", platform_trust)
        browser = BrowserLikePolicyForHTTPS()
        for policy, count in ((browser, 2), (HostnameCachingHTTPSPolicy(browser), 1)):
            loaded.clear()
            for _ in range(2):
                policy.creatorForNetloc(b"a.example", 443)
            self.assertEqual(len(loaded), count)
