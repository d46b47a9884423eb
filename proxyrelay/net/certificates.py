"""Certificates and keys: loading and checking the files.

`proxyrelay.service.reload.CertificateWatch` serves renewed files.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from stat import S_ISREG

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from OpenSSL import crypto

from proxyrelay.errors import ConfigError, Problem
from proxyrelay.net.files import NotRegular, read_small

CURVES = ("secp256r1", "secp384r1", "secp521r1")
"""Curves of the ECDSA keys that current clients accept."""

MIN_RSA_BITS = 2048
"""Length of the shortest RSA key that current clients accept."""

SHORT_LIFETIME = timedelta(days=10)
"""A certificate with a shorter lifetime is due for renewal with half of it left. Others
are due with a third left."""

_RSA_PSS = 912
"""``EVP_PKEY_RSA_PSS`` of OpenSSL."""

_NO_ISSUER = {2, 20, 21}
"""OpenSSL's errors for an unknown last issuer (X509_V_ERR_UNABLE_TO_...). Other errors,
such as an expired certificate, are found elsewhere."""

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

FileFingerprint = tuple[tuple[int, int, int] | None, ...]
"""Inode, modification time and size of each file; None for a missing one."""


def names_of(certificate: x509.Certificate) -> list[str]:
    """Host names and addresses of a certificate."""
    try:
        names = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except (x509.ExtensionNotFound, ValueError):  # none, or a malformed one
        return []
    return [str(name.value) for name in names.value]


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its private key, which match.

    The chain has the server's certificate first, then those that complete it.
    """

    chain: tuple[x509.Certificate, ...]
    key: PrivateKey

    def names(self) -> list[str]:
        """Host names and addresses of the certificate."""
        return names_of(self.chain[0])

    @property
    def renewal(self) -> datetime:
        """Time of the due renewal. From then on the certificate expires soon."""
        start = self.chain[0].not_valid_before_utc
        end = self.chain[0].not_valid_after_utc
        return end - (end - start) / (2 if end - start < SHORT_LIFETIME else 3)

    def problems(self, now: datetime) -> Iterator[Problem]:
        """Reasons of verifying clients to refuse it at a time, aware of its zone."""
        for certificate in self.chain:
            subject = _name(certificate.subject)
            start = certificate.not_valid_before_utc
            end = certificate.not_valid_after_utc
            digest = certificate.signature_hash_algorithm
            is_weak = isinstance(digest, hashes.MD5 | hashes.SHA1)
            if digest and is_weak and not _is_root(certificate):
                yield _fault(
                    f"{subject} is signed with {digest.name}, which clients refuse"
                )
            if now > end:
                yield _fault(f"{subject} expired on {end.date()}")
            if now < start:
                yield _fault(f"{subject} is not valid before {start.date()}")
        for lower, upper in pairwise(self.chain):
            if not _has_issued(upper, lower):
                yield _fault(
                    f"the chain is broken: {_name(lower.subject)} is followed by "
                    f"{_name(upper.subject)}, which has not issued it; each "
                    "certificate must be followed by its issuer's"
                )

    def warnings(self, now: datetime) -> Iterator[Problem]:
        """Advice for the operator at a time, aware of its zone."""
        end = self.chain[0].not_valid_after_utc
        if self.renewal < now <= end:
            yield _fault(f"expires soon, on {end.date()}: renew it")
        if not self.names():
            yield _fault("names no host (subjectAltName): clients will refuse it")
        last = self.chain[-1]
        if _is_root(last):
            if len(self.chain) == 1:
                yield _fault(
                    "is self-signed: clients must trust this very certificate, or "
                    "not verify at all"
                )
        elif not _anchored(self.chain):
            yield _fault(
                f"the chain ends at {_name(last.issuer)}, which is neither in the "
                "file nor trusted by this machine: if intermediate certificates are "
                "missing, append them (a file often called fullchain.pem); if this "
                "is an authority of your own, all clients must trust it"
            )


def load(certfile: Path, keyfile: Path | None) -> KeyPair:
    """Read a certificate, its chain and its key from PEM files, or from one.

    Raises:
        ConfigError: A file cannot be read, or the key does not match.
    """
    setting, place = ("keyfile", keyfile) if keyfile else ("certfile", certfile)
    problems: dict[Problem, None] = {}
    chain: tuple[x509.Certificate, ...] = ()
    key: PrivateKey | None = None
    try:
        chain = load_chain(certfile)
    except ConfigError as error:
        problems.update(dict.fromkeys(error.problems))
    try:
        key = _load_key(setting, place)
    except ConfigError as error:
        problems.update(dict.fromkeys(error.problems))
    if problems or key is None:
        raise ConfigError([*problems])
    for number, certificate in enumerate(chain, 1):
        _check_readable(certificate, f"certificate {number} in {certfile}")
    owners = [_public(certificate) == _public(key) for certificate in chain]
    if not any(owners):
        raise _wrong(
            setting, f"the key in {place} is not that of the certificate in {certfile}"
        )
    if not owners[0]:
        raise _wrong(
            "certfile",
            f"the certificates in {certfile} are in the wrong order: that of the key "
            "must come first, each followed by its issuer's",
        )
    return KeyPair(chain, key)


def file_fingerprint(*paths: Path | None) -> FileFingerprint:
    """Fingerprint of files. A write or a replacement changes it. Nothing is read."""
    return tuple(_fingerprint(path) for path in paths if path is not None)


def _fingerprint(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    if not S_ISREG(found.st_mode):
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def now() -> datetime:
    """Present time, with its zone."""
    return datetime.now(UTC)


def _fault(message: str) -> Problem:
    return Problem("certfile", message)


def _wrong(setting: str, message: str) -> ConfigError:
    return ConfigError([Problem(setting, message)])


def _read(setting: str, path: Path) -> bytes:
    try:
        return read_small(path)
    except NotRegular:
        raise _wrong(setting, f"{path} is not a regular file") from None
    except OSError as error:
        raise _wrong(setting, f"{path} cannot be read: {error.strerror}") from None


def load_chain(path: Path) -> tuple[x509.Certificate, ...]:
    """Read all certificates of a PEM file.

    Raises:
        ConfigError: It cannot be read, or holds none.
    """
    pem = _read("certfile", path)
    # The library skips a certificate with another label.
    if b"BEGIN TRUSTED CERTIFICATE" not in pem:
        with suppress(ValueError):
            return tuple(x509.load_pem_x509_certificates(pem))
    raise _wrong(
        "certfile",
        f"{path} holds no PEM certificate (-----BEGIN CERTIFICATE-----) that can be "
        "read",
    )


def _check_readable(certificate: x509.Certificate, place: str) -> None:
    """Read all fields of a certificate. The library parses some lazily."""
    try:
        _public(certificate)
        _name(certificate.subject)
        _name(certificate.issuer)
        _ = certificate.signature_hash_algorithm
        _ = certificate.not_valid_after_utc, certificate.not_valid_before_utc
        crypto.X509.from_cryptography(certificate)
    except Exception:
        # The libraries raise a dozen kinds of errors.
        raise _wrong(
            "certfile", f"{place} is broken, or of a kind that is not supported"
        ) from None


def _load_key(setting: str, path: Path) -> PrivateKey:
    pem = _read(setting, path)
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise _wrong(
            setting,
            f"the key in {path} is encrypted, and nobody is there to type its "
            f"passphrase: write it without (openssl pkey -in {path} -out ...)",
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise _wrong(
            setting,
            f"{path} holds no PEM private key (-----BEGIN PRIVATE KEY-----) that can "
            "be read",
        ) from None
    kind = type(key).__name__.removesuffix("PrivateKey")
    if isinstance(key, rsa.RSAPrivateKey):
        # The library calls a key that signs with RSA-PSS only an RSA key.
        if crypto.load_privatekey(crypto.FILETYPE_PEM, pem).type() == _RSA_PSS:
            kind = "RSA-PSS"
        elif key.key_size >= MIN_RSA_BITS:
            return key
        else:
            raise _wrong(
                setting,
                f"the RSA key in {path} has {key.key_size} bits; clients want at "
                f"least {MIN_RSA_BITS}",
            )
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        if key.curve.name in CURVES:
            return key
        raise _wrong(
            setting,
            f"the ECDSA key in {path} is on the curve {key.curve.name}; clients "
            f"want one of {', '.join(CURVES)}",
        )
    raise _wrong(
        setting,
        f"the key in {path} is of the type {kind}: neither an ECDSA nor an RSA key",
    )


def _public(owner: x509.Certificate | PrivateKey) -> bytes:
    return owner.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )


def _is_root(certificate: x509.Certificate) -> bool:
    return certificate.issuer == certificate.subject


def _has_issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _anchored(chain: tuple[x509.Certificate, ...]) -> bool:
    """Whether a chain ends at an authority that this machine trusts."""
    places = ssl.get_default_verify_paths()
    store = crypto.X509Store()
    for file, folder in ((places.cafile, None), (None, places.capath)):
        if file or folder:
            with suppress(crypto.Error):
                store.load_locations(file, folder)
    leaf, *others = map(crypto.X509.from_cryptography, chain)
    try:
        crypto.X509StoreContext(store, leaf, others).verify_certificate()
    except crypto.X509StoreContextError as error:
        return error.errors[0] not in _NO_ISSUER
    return True


def _name(name: x509.Name) -> str:
    return ascii(name.rfc4514_string()) if name.rdns else "a nameless certificate"
