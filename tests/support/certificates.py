"""An authority that issues certificates to tests."""

from __future__ import annotations

import ssl
from datetime import datetime
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from proxyrelay.net import certificates

SETTINGS = "certfile = 'cert.pem'\nkeyfile = 'privkey.pem'\n"
"""What relay.toml says of the files that an `Authority` writes beside it."""


class Authority:
    """A root authority and a server certificate for the loopback interface."""

    def __init__(self, rsa_key: bool = False, end: datetime | None = None) -> None:
        self._root = trustme.CA()
        kind = trustme.KeyType.RSA if rsa_key else trustme.KeyType.ECDSA
        self.issued = self._root.issue_cert(
            "localhost", "127.0.0.1", key_type=kind, not_after=end
        )

    def pair(self) -> certificates.KeyPair:
        key = load_pem_private_key(self.issued.private_key_pem.bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
        chain = tuple(
            certificate
            for blob in self.issued.cert_chain_pems
            for certificate in x509.load_pem_x509_certificates(blob.bytes())
        )
        return certificates.KeyPair(chain, key)

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write certificate and key; returns the two paths."""
        certfile, keyfile = folder / "cert.pem", folder / "privkey.pem"
        certfile.write_bytes(b"".join(b.bytes() for b in self.issued.cert_chain_pems))
        keyfile.write_bytes(self.issued.private_key_pem.bytes())
        return certfile, keyfile

    def write_root(self, folder: Path) -> Path:
        path = folder / "root.pem"
        path.write_bytes(self._root.cert_pem.bytes())
        return path

    def client_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self._root.configure_trust(context)
        return context
