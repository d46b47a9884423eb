"""Who may call the private listener."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.admin.access import Access
from proxyrelay.config import Secret

TOKEN = "0123456789abcdef"


class HostTests(SynchronousTestCase):
    """Names under which a page may not reach it."""

    def known(self, place: tuple[str, int] | Path, *hosts: str | None) -> list[bool]:
        access = Access(place, ["relay.example.org"], None)
        return [access.knows(host) for host in hosts]

    def test_names_of_this_machine_are_its_own(self) -> None:
        hosts = ("127.0.0.1:8701", "localhost", "LOCALHOST:1", "[::1]:8701", "[::1]")
        self.assertEqual(self.known(("127.0.0.1", 8701), *hosts), [True] * 5)

    def test_names_of_others_are_not(self) -> None:
        hosts = (
            *("evil.example", "evil.example:8701", "127.0.0.1.evil.example", ""),
            *("192.0.2.1", "localhost.evil.example", "[::1].evil.example", "::1"),
        )
        found = self.known(("127.0.0.1", 8701), *hosts)
        self.assertEqual(found, [False] * 8)

    def test_what_it_listens_on_is_its_own(self) -> None:
        found = self.known(("192.0.2.1", 8701), "192.0.2.1:8701", "192.0.2.2:8701")
        self.assertEqual(found, [True, False])
        self.assertEqual(self.known(("Relay", 8701), "relay:8701"), [True])

    def test_further_names_can_be_allowed(self) -> None:
        found = self.known(("127.0.0.1", 1), "relay.example.org", "RELAY.example.org:1")
        self.assertEqual(found, [True, True])

    def test_any_address_may_be_its_own_on_all_interfaces(self) -> None:
        for host in ("0.0.0.0", "::"):
            found = self.known(
                (host, 1), "192.0.2.1:1", "[2001:db8::1]:1", "evil.example", host
            )
            self.assertEqual(found[:3], [True, True, False], host)

    def test_no_browser_leaves_it_out(self) -> None:
        self.assertEqual(self.known(("127.0.0.1", 1), None), [True])

    def test_no_page_reaches_a_file(self) -> None:
        self.assertEqual(self.known(Path("/run/a"), "anything.example"), [True])


class TokenTests(SynchronousTestCase):
    """What callers bring."""

    def setUp(self) -> None:
        self.access = Access(("127.0.0.1", 1), (), Secret(TOKEN))

    def test_the_token_is_let_in(self) -> None:
        for spelling in (f"Bearer {TOKEN}", f"bearer  {TOKEN} "):
            self.assertTrue(self.access.admits(spelling))

    def test_nothing_else_is(self) -> None:
        for wrong in (
            *(None, "", "Bearer", "Bearer ", f"Basic {TOKEN}", TOKEN),
            *(f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer \xff\u20ac"),
        ):
            self.assertFalse(self.access.admits(wrong), wrong)

    def test_another_one_takes_its_place(self) -> None:
        self.access.change((), Secret("another-one-0123456789"))
        self.assertFalse(self.access.admits(f"Bearer {TOKEN}"))
        self.assertTrue(self.access.admits("Bearer another-one-0123456789"))

    def test_without_one_everybody_is_let_in(self) -> None:
        self.access.change((), None)
        self.assertTrue(self.access.admits(None))
