"""Where clients come from."""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay import addresses


def four(host: str) -> IPv4Address:
    """An address as Twisted gives it."""
    return IPv4Address("TCP", host, 80)


def six(host: str) -> IPv6Address:
    """The same for IPv6."""
    return IPv6Address("TCP", host, 80)


class AddressTests(SynchronousTestCase):
    """Spelt, and counted."""

    def test_as_in_a_url(self) -> None:
        self.assertEqual(addresses.text(four("192.0.2.1")), "192.0.2.1:80")
        self.assertEqual(addresses.text(six("::1")), "[::1]:80")
        self.assertEqual(addresses.text(UNIXAddress(b"/run/x")), "local")

    def test_a_source_is_one_address(self) -> None:
        self.assertEqual(addresses.source(four("192.0.2.1")), "192.0.2.1")
        self.assertEqual(addresses.source(UNIXAddress(b"/run/x")), "local")

    def test_or_one_network(self) -> None:
        for host in ("2001:db8:1:2::1", "2001:db8:1:2:ffff::", "2001:db8:1:2::%eth0"):
            self.assertEqual(addresses.source(six(host)), "2001:db8:1:2::/64")
        self.assertEqual(addresses.source(six("2001:db8:1:3::1")), "2001:db8:1:3::/64")

    def test_mapped_into_the_other_family(self) -> None:
        self.assertEqual(addresses.source(six("::ffff:192.0.2.1")), "192.0.2.1")
        self.assertEqual(addresses.source(six("::ffff:c000:201")), "192.0.2.1")
