"""The proxy of the environment, beside the choice of stock clients' own library."""

from __future__ import annotations

import os
from itertools import combinations
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase
from websockets.proxy import get_proxy
from websockets.uri import parse_uri

from proxyrelay.client.environment import environment_proxy
from proxyrelay.client.url import RelayUrl

VARIABLES = {
    "HTTP_PROXY": "http://a:1",
    "https_proxy": "http://b:2",
    "WSS_PROXY": "http://c:3",
    "ws_proxy": "http://d:4",
    "SOCKS_PROXY": "socks5://e:5",
    "ALL_PROXY": "http://f:6",
    "NO_PROXY": "example.org,localhost",
}


class EnvironmentTests(SynchronousTestCase):
    def test_proxy_is_that_of_stock_clients(self) -> None:
        found = set()
        for number in range(len(VARIABLES) + 1):
            for names in combinations(VARIABLES, number):
                chosen = {name: VARIABLES[name] for name in names}
                with mock.patch.dict(os.environ, chosen, clear=True):
                    for url in (
                        *("ws://relay.example", "wss://relay.example:8700"),
                        *("ws://localhost:1", "wss://relay.example.org"),
                    ):
                        proxy = environment_proxy(RelayUrl.parse(url))
                        value = None if proxy is None else proxy[1]
                        self.assertEqual(value, get_proxy(parse_uri(url)), (url, names))
                        found.add(proxy)
        self.assertEqual(len(found), 6)
        self.assertIn(("WSS_PROXY", "http://c:3"), found)
