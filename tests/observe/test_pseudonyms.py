"""Names in the place of users and addresses."""

from __future__ import annotations

import hashlib
import hmac

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.net import addresses
from proxyrelay.observe.pseudonyms import Clear, Pseudonyms
from proxyrelay.switchboard.user import ANONYMOUS

KEY = b"k" * 32


class ClearTests(SynchronousTestCase):
    """Nothing is hidden unless that is asked for."""

    def test_shows_everything_as_it_is(self) -> None:
        self.assertEqual(Clear().user("a"), "a")
        self.assertEqual(Clear().address("192.0.2.1:80"), "192.0.2.1:80")


class PseudonymsTests(SynchronousTestCase):
    """What is shown of users and addresses."""

    def setUp(self) -> None:
        self.names = Pseudonyms(KEY)

    def test_are_the_start_of_a_keyed_hash(self) -> None:
        whole = hmac.new(KEY, b"user me", hashlib.sha256).hexdigest()
        self.assertEqual(self.names.user("me"), whole[:16])
        whole = hmac.new(KEY, b"address 192.0.2.1", hashlib.sha256).hexdigest()
        self.assertEqual(self.names.address("192.0.2.1:80"), whole[:16])

    def test_are_others_with_another_key(self) -> None:
        other = Pseudonyms(b"l" * 32)
        self.assertNotEqual(self.names.user("me"), other.user("me"))
        self.assertNotEqual(self.names.address("::1"), other.address("::1"))

    def test_a_user_is_no_address(self) -> None:
        self.assertNotEqual(
            self.names.user("192.0.2.1"), self.names.address("192.0.2.1")
        )

    def test_nobody_is_not_hidden(self) -> None:
        self.assertEqual(self.names.user(ANONYMOUS.sub), ANONYMOUS.sub)
        self.assertEqual(self.names.address("local"), "local")

    def test_a_host_is_the_same_at_every_port(self) -> None:
        for host, other in (("192.0.2.1", "192.0.2.11"), ("2001:db8::1", "2001:db8::")):
            kind = IPv6Address if ":" in host else IPv4Address
            shown = {
                self.names.address(addresses.text(kind("TCP", host, port)))
                for port in (0, 1, 65535)
            }
            self.assertEqual(len(shown), 1)
            text = addresses.text(kind("TCP", other, 1))
            self.assertNotIn(self.names.address(text), shown)

    def test_an_address_mapped_into_ipv6_is_the_same(self) -> None:
        self.assertEqual(
            self.names.address("[::ffff:192.0.2.1]:5"),
            self.names.address("192.0.2.1:80"),
        )

    @given(st.text(st.characters(exclude_categories=())))
    def test_are_sixteen_digits_whatever_is_hidden(self, text: str) -> None:
        for shown in (self.names.user(f"!{text}"), self.names.address(f"!{text}")):
            self.assertRegex(shown, r"\A[0-9a-f]{16}\Z")
