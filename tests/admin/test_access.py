"""Who may call the private listener."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.admin.access import Access
from proxyrelay.config import Secret

TOKEN = "0123456789abcdef"

LOCAL = ("127.0.0.1", 8701)


class HostTests(SynchronousTestCase):
    """Names under which a page may not reach it."""

    def check(
        self, place: tuple[str, int] | Path, known: bool, *hosts: str | None
    ) -> None:
        access = Access(place, ["relay.example.org"], None)
        for host in hosts:
            self.assertIs(access.knows(host), known, (place, host))

    def test_host_of_this_machine_is_known(self) -> None:
        self.check(LOCAL, True, "127.0.0.1:8701", "localhost", "LOCALHOST:1")
        self.check(LOCAL, True, "[::1]:8701", "[::1]", None)
        self.check(LOCAL, True, "relay.example.org", "RELAY.example.org:1")
        self.check(("192.0.2.1", 8701), True, "192.0.2.1:8701")
        self.check(("Relay", 8701), True, "relay:8701")

    def test_host_of_another_is_unknown(self) -> None:
        self.check(LOCAL, False, "evil.example", "evil.example:8701", "", "192.0.2.1")
        self.check(LOCAL, False, "127.0.0.1.evil.example", "localhost.evil.example")
        self.check(LOCAL, False, "[::1].evil.example", "::1")
        self.check(("192.0.2.1", 8701), False, "192.0.2.2:8701")

    def test_host_on_all_interfaces_may_be_any_address(self) -> None:
        for host in ("0.0.0.0", "::"):
            self.check((host, 1), True, "192.0.2.1:1", "[2001:db8::1]:1")
            self.check((host, 1), False, "evil.example")

    def test_host_at_a_file_may_be_anything(self) -> None:
        self.check(Path("/run/a"), True, "anything.example")


class TokenTests(SynchronousTestCase):
    """The token of callers."""

    def setUp(self) -> None:
        self.access = Access(LOCAL, (), Secret(TOKEN))

    def test_token_that_is_right_is_admitted(self) -> None:
        for spelling in (f"Bearer {TOKEN}", f"bearer  {TOKEN} "):
            self.assertTrue(self.access.admits(spelling))

    def test_token_that_is_wrong_is_refused(self) -> None:
        for wrong in (
            *(None, "", "Bearer", "Bearer ", f"Basic {TOKEN}", TOKEN),
            *(f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer \xff\u20ac"),
        ):
            self.assertFalse(self.access.admits(wrong), wrong)

    def test_token_after_change_is_the_new_one(self) -> None:
        self.access.change((), Secret("another-one-0123456789"))
        self.assertFalse(self.access.admits(f"Bearer {TOKEN}"))
        self.assertTrue(self.access.admits("Bearer another-one-0123456789"))
        self.access.change((), None)
        self.assertTrue(self.access.admits(None))
