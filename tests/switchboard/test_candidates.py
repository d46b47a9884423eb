"""Which kinds of candidates a session description carries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.switchboard.candidates import (
    HOST,
    ICE,
    MAX_CANDIDATES,
    MAX_SDP_CHARACTERS,
    MDNS,
    PRIVATE_IPV4,
    PRIVATE_IPV6,
    PUBLIC_IPV4,
    PUBLIC_IPV6,
    RELAY,
    SRFLX,
    Cause,
    cause_of,
    count,
    is_private_only,
    kinds_of,
    words,
)
from tests.support.candidates import candidate, description

PRIVATE = (
    *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    *("100.64.0.1", "100.127.255.255", "169.254.1.1", "127.0.0.1"),
)

PRIVATE_6 = ("fc00::1", "fd12:3456::1", "fe80::1", "fe80::1%eth0", "::1")

PUBLIC = (
    *("203.0.113.5", "198.51.100.1", "8.8.8.8", "172.15.0.1", "172.32.0.1"),
    *("100.63.255.255", "100.128.0.1", "192.169.0.1"),
)

NOWHERE = (
    *("0.0.0.0", "::", "example.org", "", "1.2.3", "1.2.3.4.5", "01.2.3.4", ":::"),
    *("999.1.1.1", "²2.1.1.1", "1" * 20_000, ":" * 20_000, "1." * 9_000, "a" * 65),
    "a" * 64 + ".local",
)

LAN = ICE | HOST | PRIVATE_IPV4
STUN = LAN | SRFLX | PUBLIC_IPV4
TURN = STUN | RELAY
OPEN = ICE | HOST | PUBLIC_IPV4
OPEN_6 = ICE | HOST | PUBLIC_IPV6


class KindsTests(SynchronousTestCase):
    def test_kinds_of_addresses(self) -> None:
        for addresses, kind in (
            (PRIVATE, PRIVATE_IPV4),
            (("::ffff:10.0.0.1",), PRIVATE_IPV4),
            (PUBLIC, PUBLIC_IPV4),
            (("::ffff:8.8.8.8",), PUBLIC_IPV4),
            (PRIVATE_6, PRIVATE_IPV6),
            (("2001:db8::1", "2600::", "64:ff9b::1"), PUBLIC_IPV6),
            (("0b0f8a9e-5d3a-4a5e-9a58-0c7d4e1f2a3b.local", "A.LOCAL"), MDNS),
        ):
            for address in addresses:
                found = kinds_of(description(candidate(address)))
                self.assertEqual(found, ICE | HOST | kind, address)

    def test_kinds_of_addresses_that_lead_nowhere_are_none(self) -> None:
        for address in NOWHERE:
            self.assertEqual(
                kinds_of(description(candidate(address))), ICE, address[:80]
            )

    def test_kinds_of_candidate_types(self) -> None:
        for word, kind in (("host", HOST), ("srflx", SRFLX), ("relay", RELAY)):
            found = kinds_of(description(candidate("10.0.0.1", word)))
            self.assertEqual(found, ICE | kind | PRIVATE_IPV4)
        for word in ("prflx", "HOST", "hosts", "type"):
            self.assertEqual(kinds_of(description(candidate("10.0.0.1", word))), ICE)

    def test_kinds_of_related_address_do_not_count(self) -> None:
        line = candidate("203.0.113.5", "srflx") + " raddr 10.0.0.1 rport 4711"
        self.assertEqual(kinds_of(description(line)), ICE | SRFLX | PUBLIC_IPV4)

    def test_kinds_of_several_candidates_are_joined(self) -> None:
        text = description(
            candidate("192.168.1.1"),
            candidate("fd00::1"),
            candidate("203.0.113.5", "srflx"),
            candidate("2001:db8::1", "relay"),
        )
        for each in (text, text.replace("\r\n", "\n")):
            self.assertEqual(
                words(kinds_of(each)),
                [
                    *("host", "srflx", "relay", "private_ipv4"),
                    *("public_ipv4", "private_ipv6", "public_ipv6"),
                ],
            )

    def test_kinds_of_texts_without_ice_are_unknown(self) -> None:
        line = candidate("10.0.0.1")
        for text in (
            "",
            "v=0",
            line,
            f"v=0\r\n{line}",
            "a=ice-ufrag:x",
            "\0",
            "\udc80",
        ):
            self.assertEqual(kinds_of(text), 0, text)
        self.assertIsNone(words(0))

    def test_kinds_of_description_without_candidates_are_none(self) -> None:
        self.assertEqual(words(kinds_of(description())), [])

    def test_kinds_of_malformed_lines_do_not_count(self) -> None:
        good = candidate("10.0.0.1")
        for line in (
            *("", good.replace(" typ", " "), good.replace("typ", "type")),
            *(good.removesuffix(" host"), good.replace(" ", ""), good.upper()),
            *(f"b={good}", f" {good}", good.replace(" 10", "\n10")),
        ):
            self.assertEqual(kinds_of(description(line)), ICE, line)

    def test_kinds_of_hostile_texts_are_read_in_part(self) -> None:
        lines = [candidate("10.0.0.1")] * MAX_CANDIDATES
        public = candidate("8.8.8.8")
        first = kinds_of(description(public, *lines[1:], public))
        self.assertEqual(first, OPEN | PRIVATE_IPV4)
        self.assertEqual(kinds_of(description(*lines, public)), LAN)
        late = description("a=x:" + MAX_SDP_CHARACTERS * "x", public)
        self.assertEqual(kinds_of(late), ICE)
        for text in ("\na=candidate:", "\na=candidate: ", " ", "\n", "\na=ice-ufrag:"):
            kinds_of(description(text * (1_000_000 // len(text))))

    @given(st.text(), st.text())
    def test_kinds_of_any_text_raise_nothing(self, one: str, other: str) -> None:
        kinds_of(one)
        kinds_of(description(candidate(one, other), f"a=candidate:{one} {other}"))


class ReachTests(SynchronousTestCase):
    def test_private_only_needs_an_address_and_no_public_one(self) -> None:
        for kinds in (LAN, ICE | HOST | MDNS, ICE | SRFLX | PRIVATE_IPV6):
            self.assertTrue(is_private_only(kinds))
        for kinds in (0, ICE, STUN, TURN, OPEN, OPEN_6, LAN | RELAY):
            self.assertFalse(is_private_only(kinds))

    def test_count_has_each_client_by_each_of_its_kinds(self) -> None:
        found, private_only = count([0, ICE, LAN, LAN, STUN])
        self.assertEqual(private_only, 2)
        expected = {"host": 3, "srflx": 1, "private_ipv4": 3, "public_ipv4": 1}
        self.assertEqual({k: n for k, n in found.items() if n}, expected)

    def test_cause_is_the_same_from_both_sides(self) -> None:
        for one, other, cause in (
            (0, STUN, Cause.UNKNOWN),
            (0, 0, Cause.UNKNOWN),
            (ICE, STUN, Cause.NO_ADDRESS),
            (LAN, LAN, Cause.PRIVATE),
            (LAN, ICE | HOST | MDNS, Cause.PRIVATE),
            (LAN, STUN, Cause.STUN),
            (LAN, OPEN_6, Cause.FAMILY),
            (LAN, ICE | HOST | PRIVATE_IPV6, Cause.FAMILY),
            (LAN | PRIVATE_IPV6, OPEN_6, Cause.STUN),
            (ICE | HOST | MDNS, OPEN_6, Cause.STUN),
            (STUN, STUN, Cause.NAT),
            (STUN, OPEN, Cause.NAT),
            (OPEN, OPEN_6, Cause.FAMILY),
            (OPEN | PUBLIC_IPV6, OPEN_6, Cause.NAT),
            (TURN, STUN, Cause.TURN),
            (TURN, LAN, Cause.TURN),
            (TURN, ICE, Cause.NO_ADDRESS),
        ):
            self.assertIs(cause_of(one, other), cause)
            self.assertIs(cause_of(other, one), cause)
