"""Addresses of clients."""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.net import addresses


def four(host: str) -> IPv4Address:
    """An address as Twisted gives it."""
    return IPv4Address("TCP", host, 80)


def six(host: str) -> IPv6Address:
    """An IPv6 address as Twisted gives it."""
    return IPv6Address("TCP", host, 80)


class AddressTests(SynchronousTestCase):
    """Spelling and sources."""

    def test_text_is_spelt_as_in_a_url(self) -> None:
        self.assertEqual(addresses.text(four("192.0.2.1")), "192.0.2.1:80")
        self.assertEqual(addresses.text(six("::1")), "[::1]:80")
        self.assertEqual(addresses.text(UNIXAddress(b"/run/x")), "local")

    def test_text_leaves_out_an_unknown_port(self) -> None:
        self.assertEqual(addresses.text(addresses.of("192.0.2.1")), "192.0.2.1")
        self.assertEqual(addresses.text(addresses.of("::1")), "[::1]")
        self.assertEqual(addresses.of("::1", 80), six("::1"))
        self.assertEqual(addresses.of("192.0.2.1", 80), four("192.0.2.1"))

    def test_loopback_is_of_this_machine(self) -> None:
        for here in (
            *(four("127.0.0.1"), four("127.9.9.9"), six("::1"), UNIXAddress(b"/run/x")),
            six("::ffff:127.0.0.1"),
        ):
            self.assertTrue(addresses.is_loopback(here), here)
        for there in (four("192.0.2.1"), six("fe80::1%eth0"), six("::ffff:192.0.2.1")):
            self.assertFalse(addresses.is_loopback(there), there)

    def test_source_is_an_address_or_one_network(self) -> None:
        for address, shared, alone in (
            (four("192.0.2.1"), "192.0.2.1", "192.0.2.1"),
            (UNIXAddress(b"/run/x"), "local", "local"),
            (six("2001:db8:1:2::1"), "2001:db8:1:2::/64", "2001:db8:1:2::1"),
            (six("2001:db8:1:2:ffff::"), "2001:db8:1:2::/64", "2001:db8:1:2:ffff::"),
            (six("2001:DB8:1:2:0::1%eth0"), "2001:db8:1:2::/64", "2001:db8:1:2::1"),
            (six("2001:db8:1:3::1"), "2001:db8:1:3::/64", "2001:db8:1:3::1"),
            (six("::1"), "::/64", "::1"),
            (six("::ffff:192.0.2.1"), "192.0.2.1", "192.0.2.1"),
            (six("::ffff:c000:201"), "192.0.2.1", "192.0.2.1"),
        ):
            self.assertEqual(addresses.source(address), shared)
            self.assertEqual(addresses.source(address, alone=True), alone)
