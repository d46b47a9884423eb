"""What a request must look like."""

from __future__ import annotations

from http import HTTPStatus

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.errors import BadRequest
from proxyrelay.handshake import (
    HEAD_CEILING,
    HEADERS_CEILING,
    head_complete,
    origin_matcher,
)
from tests.support.served import upgrade


class HeadTests(SynchronousTestCase):
    """Looking at the bytes before anybody parses them."""

    def refused(self, data: bytes) -> HTTPStatus:
        error: BadRequest = self.assertRaises(BadRequest, head_complete, data)
        return error.status

    def test_takes_a_whole_head(self) -> None:
        self.assertTrue(head_complete(upgrade("Authorization: Bearer x")))

    def test_waits_for_every_prefix_of_a_head(self) -> None:
        head = upgrade("X-A:\tb c")
        for length in range(len(head)):
            self.assertFalse(head_complete(head[:length]))

    def test_a_head_that_was_looked_at_is_not_read_anew(self) -> None:
        head = upgrade("X-A: b")
        for seen in range(len(head)):
            self.assertTrue(head_complete(head, seen))
        self.assertEqual(self.refused(head[:-4] + b"\x85\r\n\r\n"), 400)

    def test_counts_headers(self) -> None:
        room = HEADERS_CEILING - upgrade().count(b"\r\n") + 2
        self.assertTrue(head_complete(upgrade(*["A: b"] * room)))
        self.assertEqual(self.refused(upgrade(*["A: b"] * (room + 1))), 431)

    def test_measures_heads(self) -> None:
        room = HEAD_CEILING - len(upgrade("A: "))
        self.assertTrue(head_complete(upgrade("A: " + "b" * room)))
        self.assertEqual(self.refused(upgrade("A: " + "b" * (room + 1))), 431)
        self.assertFalse(head_complete(b"G" * (HEAD_CEILING - 1)))
        self.assertEqual(self.refused(b"G" * HEAD_CEILING), 431)

    @given(st.binary(min_size=1).filter(lambda b: b.strip(bytes(range(32, 127)))))
    def test_no_other_byte_passes(self, strange: bytes) -> None:
        """Whatever is added to a header, it stays one header or is refused."""
        head = upgrade("X-A: ").replace(b"X-A: ", b"X-A: " + strange)
        try:
            whole = head_complete(head)
        except BadRequest:
            return
        self.assertTrue(whole)
        self.assertEqual(
            head.decode("latin-1").splitlines(),
            head.decode("latin-1").split("\r\n")[:-1],
        )

    def test_counts_authorization_in_any_case(self) -> None:
        self.assertEqual(
            self.refused(upgrade("AUTHORIZATION: a", "authorization:")), 400
        )
        self.assertTrue(
            head_complete(upgrade("Proxy-Authorization: a", "authorization:"))
        )


class OriginTests(SynchronousTestCase):
    """Which pages may connect."""

    def test_a_star_lets_everything_in(self) -> None:
        allowed = origin_matcher(["https://a.example", "*"])
        self.assertTrue(allowed("null"))
        self.assertTrue(allowed("https://b.example"))

    def test_an_empty_list_lets_no_page_in(self) -> None:
        self.assertFalse(origin_matcher([])("https://a.example"))

    def test_patterns_match_whole_origins(self) -> None:
        allowed = origin_matcher(["https://*.Good.example", "http://localhost:*"])
        for origin in ("https://WWW.good.example", "http://localhost:8080"):
            self.assertTrue(allowed(origin), origin)
        for origin in (
            "https://good.example",
            "https://www.good.example.evil.example",
            "https://wwwXgoodXexample",
            "https://evil.example/.good.example",
            "http://localhost",
        ):
            self.assertFalse(allowed(origin), origin)
