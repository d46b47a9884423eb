"""Where clients come from."""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.net import addresses


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

    def test_without_a_port_that_is_not_known(self) -> None:
        self.assertEqual(addresses.text(addresses.of("192.0.2.1")), "192.0.2.1")
        self.assertEqual(addresses.text(addresses.of("::1")), "[::1]")
        self.assertEqual(addresses.of("::1", 80), six("::1"))
        self.assertEqual(addresses.of("192.0.2.1", 80), four("192.0.2.1"))

    def test_of_this_machine(self) -> None:
        for here in (
            *(four("127.0.0.1"), four("127.9.9.9"), six("::1"), UNIXAddress(b"/run/x")),
            six("::ffff:127.0.0.1"),
        ):
            self.assertTrue(addresses.is_loopback(here), here)
        for there in (four("192.0.2.1"), six("fe80::1%eth0"), six("::ffff:192.0.2.1")):
            self.assertFalse(addresses.is_loopback(there), there)

    def test_a_source_is_one_address(self) -> None:
        self.assertEqual(addresses.source(four("192.0.2.1")), "192.0.2.1")
        self.assertEqual(addresses.source(UNIXAddress(b"/run/x")), "local")

    def test_or_one_network(self) -> None:
        for host in ("2001:db8:1:2::1", "2001:db8:1:2:ffff::", "2001:db8:1:2::%eth0"):
            self.assertEqual(addresses.source(six(host)), "2001:db8:1:2::/64")
        self.assertEqual(addresses.source(six("2001:db8:1:3::1")), "2001:db8:1:3::/64")

    def test_or_one_address_of_it(self) -> None:
        for host, spelt in (
            ("2001:db8:1:2::1", "2001:db8:1:2::1"),
            ("2001:DB8:1:2:0::1%eth0", "2001:db8:1:2::1"),
            ("2001:db8:1:2::", "2001:db8:1:2::"),
            ("::1", "::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
        ):
            self.assertEqual(addresses.source(six(host), alone=True), spelt)
        self.assertEqual(addresses.source(four("192.0.2.1"), alone=True), "192.0.2.1")

    def test_mapped_into_the_other_family(self) -> None:
        self.assertEqual(addresses.source(six("::ffff:192.0.2.1")), "192.0.2.1")
        self.assertEqual(addresses.source(six("::ffff:c000:201")), "192.0.2.1")
