"""Trusted proxies, and the client that they name in ``X-Forwarded-For``."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.net.proxies import Proxies


class ProxiesTests(SynchronousTestCase):
    """Trust in an address, and in the header of a request."""

    proxies = Proxies(("192.0.2.0/24", "198.51.100.1", "2001:db8::/32"))

    def test_trust_covers_the_networks_only(self) -> None:
        for host in (
            *("192.0.2.0", "192.0.2.255", "198.51.100.1", "2001:db8:1::2"),
            *("::ffff:192.0.2.1", "2001:db8::1%eth0"),
        ):
            self.assertTrue(self.proxies.trust(host), host)
        for host in ("192.0.3.0", "198.51.100.2", "2001:db9::", "", "local", "::1"):
            self.assertFalse(self.proxies.trust(host), host)

    def test_proxies_are_none_by_default(self) -> None:
        nobody = Proxies()
        self.assertFalse(nobody.trust("192.0.2.1"))
        self.assertEqual(nobody.client("192.0.2.1", "203.0.113.1"), "192.0.2.1")

    def test_proxies_refuse_a_text_that_is_no_network(self) -> None:
        for network in ("", "a", "192.0.2.1/24", "192.0.2.0/33"):
            self.assertRaises(ValueError, Proxies, (network,))

    def test_client_is_the_last_that_is_no_proxy(self) -> None:
        for forwarded, host in {
            "203.0.113.1": "203.0.113.1",
            " 203.0.113.1 ": "203.0.113.1",
            "203.0.113.1, 198.51.100.1": "203.0.113.1",
            "203.0.113.9, 203.0.113.1,192.0.2.9": "203.0.113.1",
            "192.0.2.8,203.0.113.1": "203.0.113.1",
            "192.0.2.8, 192.0.2.9": "192.0.2.8",
            "2001:DB9::1": "2001:db9::1",
            "[2001:db9::1]": "2001:db9::1",
            "[2001:db9::1]:443": "2001:db9::1",
            "203.0.113.1:443": "203.0.113.1",
        }.items():
            self.assertEqual(self.proxies.client("192.0.2.1", forwarded), host)

    def test_client_before_an_unreadable_entry_is_ignored(self) -> None:
        for bad in (
            "",
            "unknown",
            "_hidden",
            "203.0.113.1:x",
            "300.1.1.1",
            "[::1",
            "%",
        ):
            for more, host in (("", "192.0.2.1"), (", 192.0.2.9", "192.0.2.9")):
                forwarded = f"203.0.113.1, {bad}{more}"
                self.assertEqual(self.proxies.client("192.0.2.1", forwarded), host)

    def test_client_of_a_stranger_is_the_stranger(self) -> None:
        host = self.proxies.client("203.0.113.1", "198.51.100.77")
        self.assertEqual(host, "203.0.113.1")

    def test_client_is_searched_in_the_last_entries_only(self) -> None:
        forwarded = ", ".join(["203.0.113.1", *["192.0.2.5"] * 1000])
        self.assertEqual(self.proxies.client("192.0.2.1", forwarded), "192.0.2.5")

    @given(st.text(st.sampled_from("0123456789abcdef.:[], %xX"), max_size=80))
    def test_client_is_always_an_address(self, forwarded: str) -> None:
        ip_address(self.proxies.client("192.0.2.1", forwarded))
