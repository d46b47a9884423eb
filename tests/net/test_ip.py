"""IP addresses, read from texts."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.net.ip import ip


class IpTests(SynchronousTestCase):
    def test_ip_has_no_scope_and_maps_no_ipv4(self) -> None:
        for text, expected in (
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:DB8::1", "2001:db8::1"),
            ("fe80::1%eth0", "fe80::1"),
        ):
            self.assertEqual(str(ip(text)), expected)

    def test_ip_of_another_text_is_an_error(self) -> None:
        for text in ("", "localhost", "192.0.2", "[::1]"):
            self.assertRaises(ValueError, ip, text)
