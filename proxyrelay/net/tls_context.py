"""The TLS contexts of the server: ciphers, ALPN, and the present certificate."""

from __future__ import annotations

from socket import socket

from OpenSSL import SSL, crypto
from twisted.internet.ssl import AcceptableCiphers, CertificateOptions, TLSVersion

from proxyrelay.errors import ConfigError, Problem
from proxyrelay.net.certificates import KeyPair

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: forward secrecy and authenticated encryption only, as Mozilla's
intermediate profile has it."""

CIPHERSUITES = (
    b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
)
"""For TLS 1.3: all of its suites. OpenSSL prefers the second one; its hash makes a
handshake a tenth slower."""

HTTP_ALPN = b"http/1.1"
"""The only application protocol (ALPN, RFC 7301)."""


def server_context(certificate: KeyPair) -> CertificateOptions:
    """Context of TLS connections with a certificate.

    Raises:
        ConfigError: OpenSSL refuses the certificate or its key.
    """
    options = CertificateOptions(
        privateKey=crypto.PKey.from_cryptography_key(certificate.key),
        certificate=crypto.X509.from_cryptography(certificate.chain[0]),
        extraCertChain=[
            crypto.X509.from_cryptography(c) for c in certificate.chain[1:]
        ],
        raiseMinimumTo=TLSVersion.TLSv1_2,
        acceptableCiphers=AcceptableCiphers.fromOpenSSLCipherString(CIPHERS),
        # A returning client with a ticket saves both sides the costly part of the
        # handshake. The relay keeps nothing for it.
        enableSessionTickets=True,
    )
    try:
        made = options.getContext()
        made.set_tls13_ciphersuites(CIPHERSUITES)
        # Twisted's own callback answers for the protocols of its own transports.
        made.set_alpn_select_callback(
            lambda _, offered: (
                HTTP_ALPN if HTTP_ALPN in offered else SSL.NO_OVERLAPPING_PROTOCOLS
            )
        )
    except SSL.Error as error:
        reasons = ", ".join(str(reason) for _, _, reason in error.args[0])
        problem = Problem("certfile", f"is refused by OpenSSL: {reasons}")
        raise ConfigError([problem]) from None
    return options


class TlsContexts:
    """Begins TLS connections with the present certificate.

    Earlier connections keep the certificate of their beginning.

    Raises:
        ConfigError: OpenSSL refuses the certificate or its key.
    """

    def __init__(self, certificate: KeyPair) -> None:
        self.use(certificate)

    def use(self, certificate: KeyPair) -> None:
        """Begin connections with another certificate from now on.

        Raises:
            ConfigError: OpenSSL refuses it. Nothing has changed.
        """
        self._context = server_context(certificate).getContext()
        self.certificate = certificate

    def begin(self, sock: socket) -> SSL.Connection:
        """Make the OpenSSL side of a connection."""
        connection = SSL.Connection(self._context, sock)
        connection.set_accept_state()
        return connection
