"""Certificates and keys: what is in the files, and what TLS is served with."""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from socket import socket
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
from OpenSSL import SSL, crypto
from twisted.internet.ssl import AcceptableCiphers, CertificateOptions, TLSVersion

from proxyrelay.errors import ConfigError, Problem

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: forward secrecy and authenticated encryption only, as Mozilla's
intermediate profile has it."""

CIPHERSUITES = b":".join(
    (
        b"TLS_AES_128_GCM_SHA256",
        b"TLS_AES_256_GCM_SHA384",
        b"TLS_CHACHA20_POLY1305_SHA256",
    )
)
"""For TLS 1.3: all that it has. OpenSSL would have the second one first, whose hash
makes a handshake take a tenth longer."""

HTTP = b"http/1.1"

CURVES = ("secp256r1", "secp384r1", "secp521r1")
"""Curves of the ECDSA keys that current clients accept."""

SHORTEST_RSA = 2048
"""Bits of the shortest RSA key that current clients accept."""

SHORT_LIFETIME = timedelta(days=10)
"""Below this lifetime a certificate is due for renewal when half of it is left. Others
are when a third is left."""


LABELS_SHOWN = 5
"""PEM labels of a file that an error names."""

_LABEL = re.compile(rb"^-----BEGIN ([A-Z0-9 ]{1,40})-----", re.MULTILINE)

_RSA_PSS = 912
"""``EVP_PKEY_RSA_PSS`` of OpenSSL."""


@dataclass(frozen=True)
class KeyPair:
    """A certificate with its chain and its private key, which match.

    Attributes:
        chain: The server's certificate first, then those that complete it.
        key: The private key.
    """

    chain: tuple[x509.Certificate, ...]
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

    def names(self) -> list[str]:
        """The host names and addresses that the certificate is for."""
        try:
            names = self.chain[0].extensions.get_extension_for_class(
                x509.SubjectAlternativeName
            )
        except (x509.ExtensionNotFound, ValueError):  # none, or a malformed one
            return []
        return [str(name.value) for name in names.value]

    @property
    def renewal(self) -> datetime:
        """When the certificate is due for renewal: from then on it expires soon."""
        start = self.chain[0].not_valid_before_utc
        end = self.chain[0].not_valid_after_utc
        return end - (end - start) / (2 if end - start < SHORT_LIFETIME else 3)

    def problems(self, now: datetime) -> Iterator[Problem]:
        """Why clients that verify will refuse it.

        Args:
            now: The time, aware of its zone.
        """
        for certificate in self.chain:
            subject = _name(certificate.subject)
            end = certificate.not_valid_after_utc
            digest = certificate.signature_hash_algorithm
            if isinstance(digest, hashes.MD5 | hashes.SHA1) and not _is_root(
                certificate
            ):
                yield Problem(
                    "certfile",
                    f"{subject} is signed with {digest.name}, which clients refuse",
                )
            if now > end:
                yield Problem("certfile", f"{subject} expired on {_day(end)}")
            if now < certificate.not_valid_before_utc:
                start = _day(certificate.not_valid_before_utc)
                yield Problem("certfile", f"{subject} is not valid before {start}")
        for lower, upper in zip(self.chain, self.chain[1:], strict=False):
            try:
                lower.verify_directly_issued_by(upper)
            except (  # noqa: PERF203
                ValueError,
                TypeError,
                InvalidSignature,
                UnsupportedAlgorithm,
            ):
                yield Problem(
                    "certfile",
                    f"the chain is broken: {_name(lower.subject)} is followed by "
                    f"{_name(upper.subject)}, which has not issued it; each "
                    "certificate must be followed by its issuer's",
                )

    def warnings(self, now: datetime) -> Iterator[Problem]:
        """What the operator should know, or do soon.

        Args:
            now: The time, aware of its zone.
        """
        end = self.chain[0].not_valid_after_utc
        if self.renewal < now <= end:
            yield Problem("certfile", f"expires soon, on {_day(end)}: renew it")
        if not self.names():
            yield Problem(
                "certfile", "names no host (subjectAltName): clients will refuse it"
            )
        last = self.chain[-1]
        if _is_root(last):
            if len(self.chain) == 1:
                yield Problem(
                    "certfile",
                    "is self-signed: clients must trust this very certificate, or "
                    "not verify at all",
                )
        elif not _anchored(self.chain):
            yield Problem(
                "certfile",
                f"the chain ends at {_name(last.issuer)}, which is neither in the "
                "file nor trusted by this machine: if intermediate certificates are "
                "missing, append them (a file often called fullchain.pem); if this "
                "is an authority of your own, all clients must trust it",
            )


def load(certfile: Path, keyfile: Path | None) -> KeyPair:
    """Read a certificate, its chain and its key.

    Args:
        certfile: PEM file with one or more certificates.
        keyfile: PEM file with the key; None if ``certfile`` has it.

    Raises:
        ConfigError: They cannot be read, or do not belong together.
    """
    setting, place = ("keyfile", keyfile) if keyfile else ("certfile", certfile)
    problems: list[Problem] = []
    chain: tuple[x509.Certificate, ...] = ()
    key = None
    try:
        chain = _load_chain(certfile)
    except ConfigError as error:
        problems += error.problems
    try:
        key = _load_key(setting, place)
    except ConfigError as error:
        problems += (problem for problem in error.problems if problem not in problems)
    if problems or key is None:
        raise ConfigError(problems)
    _look_through(chain, certfile)
    own = [c for c in chain if _public(c.public_key()) == _public(key.public_key())]
    if not own:
        raise _wrong(
            setting, f"the key in {place} is not that of the certificate in {certfile}"
        )
    if own[0] is not chain[0]:
        raise _wrong(
            "certfile",
            f"the certificates in {certfile} are in the wrong order: that of the key "
            "must come first, each followed by its issuer's",
        )
    return KeyPair(chain, key)


def context(pair: KeyPair) -> CertificateOptions:
    """What TLS connections are made with.

    Raises:
        ConfigError: OpenSSL refuses the pair.
    """
    options = CertificateOptions(
        privateKey=crypto.PKey.from_cryptography_key(pair.key),
        certificate=crypto.X509.from_cryptography(pair.chain[0]),
        extraCertChain=[crypto.X509.from_cryptography(c) for c in pair.chain[1:]],
        raiseMinimumTo=TLSVersion.TLSv1_2,
        acceptableCiphers=AcceptableCiphers.fromOpenSSLCipherString(CIPHERS),
        # Who comes back with one saves both sides the costly part of the handshake, and
        # the relay keeps nothing for it.
        enableSessionTickets=True,
    )
    try:
        made = options.getContext()
        made.set_tls13_ciphersuites(CIPHERSUITES)
        # Twisted's own function asks for the protocol that its own transports know.
        made.set_alpn_select_callback(_choose_protocol)
    except SSL.Error as error:
        reasons = ", ".join(str(reason) for _, _, reason in error.args[0])
        raise _wrong("certfile", f"is refused by OpenSSL: {reasons}") from None
    return options


def _choose_protocol(
    _: SSL.Connection, offered: Sequence[bytes]
) -> bytes | SSL._NoOverlappingProtocols:
    """Answer a client that says what it would speak (RFC 7301)."""
    return HTTP if HTTP in offered else SSL.NO_OVERLAPPING_PROTOCOLS


class Contexts:
    """Begins TLS connections with the pair of the day.

    Connections that have begun keep the one that they began with.

    Args:
        pair: Certificate and key.

    Attributes:
        pair: Those that the next connection begins with.

    Raises:
        ConfigError: OpenSSL refuses the pair.
    """

    pair: KeyPair

    def __init__(self, pair: KeyPair) -> None:
        self.use(pair)

    def use(self, pair: KeyPair) -> None:
        """Begin connections with another pair from now on.

        Raises:
            ConfigError: OpenSSL refuses it. Nothing has changed.
        """
        self._context = context(pair).getContext()
        self.pair = pair

    def begin(self, sock: socket) -> SSL.Connection:
        """Make OpenSSL's part of a connection."""
        connection = SSL.Connection(self._context, sock)
        connection.set_accept_state()
        return connection


Stamp = tuple[tuple[int, int, int] | None, ...]
"""What changes when a file is replaced or written, for each file; None without one."""


def stamp(*paths: Path | None) -> Stamp:
    """Tell the present state of files from others, without reading them."""
    return tuple(_stamp(path) for path in paths if path is not None)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    if not S_ISREG(found.st_mode):
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _is_root(certificate: x509.Certificate) -> bool:
    return certificate.issuer == certificate.subject


def now() -> datetime:
    """The time, aware of its zone."""
    return datetime.now(timezone.utc)


def _wrong(setting: str, message: str) -> ConfigError:
    return ConfigError([Problem(setting, message)])


def _read(setting: str, path: Path) -> bytes:
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise _wrong(setting, f"{path} is not a regular file")
        return path.read_bytes()
    except OSError as error:
        raise _wrong(setting, f"{path} cannot be read: {error.strerror}") from None


def _load_chain(path: Path) -> tuple[x509.Certificate, ...]:
    pem = _read("certfile", path)
    # The library passes over a certificate with another label.
    if b"TRUSTED CERTIFICATE" not in _LABEL.findall(pem):
        with contextlib.suppress(ValueError):
            return tuple(x509.load_pem_x509_certificates(pem))
    raise _wrong(
        "certfile",
        f"{path} holds no PEM certificate (-----BEGIN CERTIFICATE-----) that can be "
        f"read{_found(pem)}",
    )


def _found(pem: bytes) -> str:
    """The PEM labels of a file, for an error."""
    labels = dict.fromkeys(_LABEL.findall(pem))
    if not labels:
        return ""
    shown = ", ".join(label.decode("ascii") for label in list(labels)[:LABELS_SHOWN])
    return f"; found in it: {shown}"


def _look_through(chain: Iterable[x509.Certificate], path: Path) -> None:
    """Refuse certificates of which something cannot be read: some are read lazily.

    Raises:
        ConfigError: There is one.
    """
    for number, certificate in enumerate(chain, 1):
        try:
            _public(certificate.public_key())
            _name(certificate.subject)
            _name(certificate.issuer)
            _ = certificate.signature_hash_algorithm
            _ = certificate.not_valid_after_utc, certificate.not_valid_before_utc
            crypto.X509.from_cryptography(certificate)
        except Exception:  # noqa: PERF203
            # The libraries raise a dozen kinds.
            raise _wrong(
                "certfile",
                f"certificate {number} in {path} is broken, or of a kind that is not "
                "supported",
            ) from None


def _load_key(
    setting: str, path: Path
) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
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
            f"be read{_found(pem)}",
        ) from None
    kind = type(key).__name__.removesuffix("PrivateKey")
    if isinstance(key, rsa.RSAPrivateKey) and _is_pss(pem):
        kind = "RSA-PSS"
    elif isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < SHORTEST_RSA:
            raise _wrong(
                setting,
                f"the RSA key in {path} has {key.key_size} bits; clients want at "
                f"least {SHORTEST_RSA}",
            )
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey):
        if key.curve.name not in CURVES:
            raise _wrong(
                setting,
                f"the ECDSA key in {path} is on the curve {key.curve.name}; clients "
                f"want one of {', '.join(CURVES)}",
            )
        return key
    raise _wrong(
        setting,
        f"the key in {path} is of the type {kind}: neither an ECDSA nor an RSA key",
    )


def _is_pss(pem: bytes) -> bool:
    """Whether a key may only sign with RSA-PSS. The library calls it an RSA key."""
    return crypto.load_privatekey(crypto.FILETYPE_PEM, pem).type() == _RSA_PSS


def _public(key: object) -> bytes:
    encoded: bytes = key.public_bytes(  # type: ignore[attr-defined]
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def _anchored(chain: tuple[x509.Certificate, ...]) -> bool:
    """Whether a chain ends at an authority that this machine's TLS clients trust."""
    places = ssl.get_default_verify_paths()
    store = crypto.X509Store()
    for file, folder in ((places.cafile, None), (None, places.capath)):
        if file or folder:
            with contextlib.suppress(crypto.Error):
                store.load_locations(file, folder)
    leaf, *others = map(crypto.X509.from_cryptography, chain)
    try:
        crypto.X509StoreContext(store, leaf, others).verify_certificate()
    except crypto.X509StoreContextError as error:
        return error.errors[0] not in _NO_ISSUER
    return True


_NO_ISSUER = {2, 20, 21}
"""What OpenSSL says of a chain whose last issuer is unknown (X509_V_ERR_UNABLE_TO_...).
Other errors, such as an expired certificate, are found elsewhere."""


def _name(name: x509.Name) -> str:
    return ascii(name.rfc4514_string()) if name.rdns else "a nameless certificate"


def _day(moment: datetime) -> str:
    return moment.date().isoformat()
