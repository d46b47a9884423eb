"""TLS contexts, in handshakes with real clients."""

from __future__ import annotations

import contextlib
from socket import socket

from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.errors import ConfigError
from proxyrelay.net import certificates
from proxyrelay.net.tls_context import TlsContexts, server_context
from tests.net.test_certificates import DAY, Issued, Key, ecdsa, rsa_key


class HandshakeTests(SynchronousTestCase):
    """What is served, over a handshake in memory."""

    def setUp(self) -> None:
        self.root = Issued("root", end=certificates.now() + DAY)
        self.middle = Issued("intermediate", self.root, end=certificates.now() + DAY)
        self.leaf = self.issued(ecdsa())

    def issued(self, key: Key) -> Issued:
        hosts = ["relay.example"]
        return Issued(
            "leaf", self.middle, key, hosts=hosts, end=certificates.now() + DAY
        )

    def server(self, leaf: Issued | None = None) -> SSL.Context:
        pair = (leaf or self.leaf).pair(self.middle)
        context: SSL.Context = server_context(pair).getContext()
        return context

    def client(self, version: int, ciphers: bytes = b"ALL:@SECLEVEL=0") -> SSL.Context:
        """A client of one version of TLS, which takes whatever is offered."""
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_cipher_list(ciphers)
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
        return context

    def shake(self, server: SSL.Context, client: SSL.Context) -> SSL.Connection:
        """Shake hands; returns the client's side.

        Raises:
            SSL.Error: A side refused the other.
        """
        sides = (SSL.Connection(client), SSL.Connection(server))
        sides[0].set_connect_state()
        sides[1].set_accept_state()
        for _ in range(5):
            for side, other in (sides, sides[::-1]):
                with contextlib.suppress(SSL.WantReadError):
                    side.do_handshake()
                self.carry(side, other)
        return sides[0]

    @staticmethod
    def carry(side: SSL.Connection, other: SSL.Connection) -> None:
        with contextlib.suppress(SSL.WantReadError):
            while True:
                other.bio_write(side.bio_read(65536))

    def test_context_speaks_tls_1_2_and_1_3(self) -> None:
        for version, spelt in (
            (SSL.TLS1_2_VERSION, "TLSv1.2"),
            (SSL.TLS1_3_VERSION, "TLSv1.3"),
        ):
            for key in (self.leaf.key, rsa_key(2048)):
                server = self.server(self.issued(key))
                side = self.shake(server, self.client(version))
                self.assertEqual(side.get_protocol_version_name(), spelt)

    def test_context_refuses_tls_1_1_and_1_0(self) -> None:
        for version in (SSL.TLS1_1_VERSION, SSL.TLS1_VERSION):
            with self.assertRaises(SSL.Error) as caught:
                self.shake(self.server(), self.client(version))
            self.assertIn("unsupported protocol", str(caught.exception))

    def test_context_rules_out_old_versions(self) -> None:
        options = self.server().set_options(0)
        for old in (SSL.OP_NO_SSLv3, SSL.OP_NO_TLSv1, SSL.OP_NO_TLSv1_1):
            self.assertTrue(options & old)
        for new in (SSL.OP_NO_TLSv1_2, SSL.OP_NO_TLSv1_3):
            self.assertFalse(options & new)

    def test_context_offers_modern_ciphers_only(self) -> None:
        ciphers = SSL.Connection(self.server()).get_cipher_list()
        self.assertNotEqual(ciphers, [])
        for cipher in ciphers:
            self.assertTrue(cipher.startswith(("ECDHE-", "TLS_")), cipher)
            self.assertTrue("GCM" in cipher or "CHACHA20" in cipher, cipher)

    def test_context_takes_each_cipher_of_mozilla_and_no_weaker(self) -> None:
        keys = {"ECDSA": self.leaf.key, "RSA": rsa_key(2048)}
        for kind, key in keys.items():
            server = self.server(self.issued(key))
            for suite in (
                "AES128-GCM-SHA256",
                "AES256-GCM-SHA384",
                "CHACHA20-POLY1305",
            ):
                cipher = f"ECDHE-{kind}-{suite}"
                client = self.client(SSL.TLS1_2_VERSION, cipher.encode())
                self.assertEqual(self.shake(server, client).get_cipher_name(), cipher)
            for cipher in (
                f"ECDHE-{kind}-AES128-SHA",
                f"ECDHE-{kind}-AES128-SHA256",
                f"ECDHE-{kind}-AES256-SHA384",
                "DHE-RSA-AES128-GCM-SHA256",
                "AES128-GCM-SHA256",
            ):
                client = self.client(SSL.TLS1_2_VERSION, cipher.encode())
                with self.assertRaises(SSL.Error) as caught:
                    self.shake(server, client)
                self.assertIn("no shared cipher", str(caught.exception), cipher)

    def test_context_chooses_http_1_1_if_offered(self) -> None:
        for offered, chosen in (
            ([b"http/1.1"], b"http/1.1"),
            ([b"h2", b"http/1.1"], b"http/1.1"),
            ([b"unheard-of"], b""),
        ):
            client = self.client(SSL.TLS1_3_VERSION)
            client.set_alpn_protos(offered)
            side = self.shake(self.server(), client)
            self.assertEqual(side.get_alpn_proto_negotiated(), chosen)

    def test_context_prefers_the_quicker_suite_of_tls_1_3(self) -> None:
        side = self.shake(self.server(), self.client(SSL.TLS1_3_VERSION))
        self.assertEqual(side.get_cipher_name(), "TLS_AES_128_GCM_SHA256")
        client = self.client(SSL.TLS1_3_VERSION)
        client.set_tls13_ciphersuites(b"TLS_CHACHA20_POLY1305_SHA256")
        side = self.shake(self.server(), client)
        self.assertEqual(side.get_cipher_name(), "TLS_CHACHA20_POLY1305_SHA256")

    def test_context_sends_the_chain_and_asks_for_none(self) -> None:
        side = self.shake(self.server(), self.client(SSL.TLS1_3_VERSION))
        chain = side.get_peer_cert_chain(as_cryptography=True)
        self.assertEqual(chain, [self.leaf.certificate, self.middle.certificate])
        self.assertEqual(side.get_client_ca_list(), [])

    def test_context_satisfies_a_client_that_trusts_the_root(self) -> None:
        client = self.client(SSL.TLS1_3_VERSION)
        client.set_verify(SSL.VERIFY_PEER)
        with self.assertRaises(SSL.Error):
            self.shake(self.server(), client)
        store = client.get_cert_store()
        assert store is not None
        store.add_cert(crypto.X509.from_cryptography(self.root.certificate))
        self.shake(self.server(), client)

    # -- another pair, while connections come and stay

    def context_of(self, contexts: TlsContexts) -> SSL.Context:
        """What a new connection begins with."""
        with socket() as sock:
            return contexts.begin(sock).get_context()

    def served(self, contexts: TlsContexts) -> x509.Certificate:
        """The certificate that a new connection is shown."""
        side = self.shake(self.context_of(contexts), self.client(SSL.TLS1_3_VERSION))
        shown = side.get_peer_certificate()
        assert shown is not None
        return shown.to_cryptography()

    def test_use_serves_new_connections_with_the_pair(self) -> None:
        pair, other = (self.issued(ecdsa()).pair(self.middle) for _ in "ab")
        contexts = TlsContexts(pair)
        before = self.context_of(contexts)
        self.assertEqual(self.served(contexts), pair.chain[0])
        contexts.use(other)
        self.assertEqual(contexts.certificate, other)
        self.assertEqual(self.served(contexts), other.chain[0])
        self.assertIsNot(self.context_of(contexts), before)

    def test_use_of_a_refused_pair_changes_nothing(self) -> None:
        pair, other = (self.issued(ecdsa()).pair(self.middle) for _ in "ab")
        contexts = TlsContexts(pair)
        with self.assertRaises(ConfigError):
            contexts.use(certificates.KeyPair(pair.chain, other.key))
        self.assertIs(contexts.certificate, pair)
        self.assertEqual(self.served(contexts), pair.chain[0])
