"""Addresses of relays and proxies."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.client.url import Place, ProxyUrl, RelayUrl


class UrlTests(SynchronousTestCase):
    def test_addresses_are_read(self) -> None:
        for text, secure, place, resource in (
            ("ws://relay:8700", False, Place("relay", 8700), "/"),
            ("ws://relay", False, Place("relay", 80), "/"),
            ("wss://Relay.example/a?b=c", True, Place("relay.example", 443), "/a?b=c"),
            ("wss://[::1]:1/?b", True, Place("::1", 1), "/?b"),
        ):
            found = RelayUrl.parse(text)
            self.assertEqual(
                (found.secure, found.place, found.resource), (secure, place, resource)
            )
            self.assertEqual(RelayUrl.parse(str(found)), found)

    def test_other_addresses_are_refused_without_a_secret(self) -> None:
        for text in (
            *("relay:8700", "http://relay", "ws://", "ws://a:b", "ws://a:99999"),
            *("ws://me:secret@relay", "ws://a/#x", "ws://a/\xe4", "ws://[::1", ""),
            *("ws://a b/", "ws://a/b c", "ws://:80"),
        ):
            with self.assertRaises(ValueError) as caught:
                RelayUrl.parse(text)
            self.assertNotIn("secret", str(caught.exception))

    def test_proxies_are_read(self) -> None:
        self.assertEqual(ProxyUrl.parse("http://p"), ProxyUrl(Place("p", 80)))
        found = ProxyUrl.parse("http://me:se%40cret@p:3128/")
        self.assertEqual(found, ProxyUrl(Place("p", 3128), "me:se@cret"))
        self.assertNotIn("cret", f"{found} {found!r}")
        for text in ("socks5://p", "p:3128", "https://p"):
            self.assertRaises(ValueError, ProxyUrl.parse, text)
