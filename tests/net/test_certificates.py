"""Certificates and keys: read, refused, and warned of."""

from __future__ import annotations

import os
from base64 import encodebytes
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from OpenSSL import crypto
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.errors import ConfigError
from proxyrelay.net import certificates
from proxyrelay.net.tls_context import server_context

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

EC_PARAMETERS = (
    b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
)
"""What ``openssl ecparam -genkey`` writes before a key: the name of its curve."""


def ecdsa(curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    """A new ECDSA key."""
    return ec.generate_private_key(curve or ec.SECP256R1())


@cache
def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    """An RSA key, always the same, since it takes time to find one."""
    return rsa.generate_private_key(65537, bits)


def pss_pem(key: rsa.RSAPrivateKey) -> bytes:
    """A key as RSA-PSS (RFC 4055, section 3.1), which the library does not write."""
    form = PrivateFormat.TraditionalOpenSSL
    inner = key.private_bytes(Encoding.DER, form, NoEncryption())
    body = bytes.fromhex("020100 300b 06092a864886f70d01010a 0482")
    body += len(inner).to_bytes(2, "big") + inner
    der = b"\x30\x82" + len(body).to_bytes(2, "big") + body
    return b"-----BEGIN PRIVATE KEY-----\n%b-----END PRIVATE KEY-----\n" % (
        encodebytes(der)
    )


def name(text: str) -> x509.Name:
    """A name of an owner or issuer."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Issued:
    """A certificate and its key, self-signed unless it has an issuer."""

    def __init__(
        self,
        subject: str,
        issuer: Issued | None = None,
        key: Key | None = None,
        start: datetime = NOW - 30 * DAY,
        end: datetime = NOW + 60 * DAY,
        hosts: Iterable[str] = (),
    ) -> None:
        self.key = key or ecdsa()
        self.certificate: x509.Certificate
        signer = issuer.key if issuer else self.key
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(issuer.certificate.subject if issuer else name(subject))
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
        )
        if hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_host(host) for host in hosts]), False
            )
        else:
            builder = builder.add_extension(x509.BasicConstraints(True, None), True)
        self.certificate = builder.sign(
            signer,
            None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256(),
        )

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def key_pem(
        self,
        form: PrivateFormat = PrivateFormat.PKCS8,
        encryption: KeySerializationEncryption | None = None,
    ) -> bytes:
        return self.key.private_bytes(Encoding.PEM, form, encryption or NoEncryption())

    def pair(self, *issuers: Issued) -> certificates.KeyPair:
        """What would be served with it, without files."""
        assert not isinstance(self.key, ed25519.Ed25519PrivateKey)
        chain = (self.certificate, *(issuer.certificate for issuer in issuers))
        return certificates.KeyPair(chain, self.key)


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def authorities() -> tuple[Issued, Issued]:
    """A root and an intermediate authority."""
    root = Issued("root")
    return root, Issued("intermediate", root)


class FilesTestCase(SynchronousTestCase):
    """Writes files into a folder of its own."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.leaf = Issued("leaf")
        self.certfile = self.write("cert.pem", self.leaf.pem)
        self.keyfile = self.write("key.pem", self.leaf.key_pem())

    def write(self, file: str, *pieces: bytes) -> Path:
        path = self.folder / file
        path.write_bytes(b"".join(pieces))
        return path

    def assert_refused(
        self, certfile: Path, keyfile: Path | None, key: str, *parts: str
    ) -> None:
        """Two files have one problem, with parts of its text."""
        with self.assertRaises(ConfigError) as caught:
            certificates.load(certfile, keyfile)
        (problem,) = caught.exception.problems
        self.assertEqual(problem.key, key)
        for part in parts:
            self.assertIn(part, problem.message)


class LoadTests(FilesTestCase):
    """Files that can be read."""

    def test_load_of_each_kind_of_key_returns_the_pair(self) -> None:
        pkcs8, traditional = PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL
        for key, form in (
            (ecdsa(ec.SECP256R1()), pkcs8),
            (ecdsa(ec.SECP384R1()), traditional),
            (rsa_key(2048), pkcs8),
            (rsa_key(2048), traditional),
        ):
            leaf = Issued("leaf", key=key)
            for end in (b"\n", b"\r\n"):
                pair = certificates.load(
                    self.write("cert.pem", leaf.pem.replace(b"\n", end)),
                    self.write("key.pem", leaf.key_pem(form).replace(b"\n", end)),
                )
                self.assertEqual(pair.chain, (leaf.certificate,))
                self.assertEqual(
                    pair.key.private_numbers(), leaf.pair().key.private_numbers()
                )
                server_context(pair)

    def test_load_keeps_the_order_of_the_chain(self) -> None:
        root, middle = authorities()
        leaf = Issued("leaf", middle)
        pair = certificates.load(
            self.write("cert.pem", leaf.pem, middle.pem, b"a comment\n", root.pem),
            self.write("key.pem", leaf.key_pem()),
        )
        self.assertEqual(
            pair.chain, (leaf.certificate, middle.certificate, root.certificate)
        )

    def test_load_of_one_file_finds_the_key(self) -> None:
        _root, middle = authorities()
        leaf = Issued("leaf", middle)
        traditional = leaf.key_pem(PrivateFormat.TraditionalOpenSSL)
        for pieces in (
            (leaf.pem, middle.pem, leaf.key_pem()),
            (leaf.key_pem(), leaf.pem, middle.pem),
            (leaf.pem, traditional, middle.pem),
            (leaf.pem, EC_PARAMETERS, traditional, middle.pem),
        ):
            pair = certificates.load(self.write("both.pem", *pieces), None)
            self.assertEqual(pair.chain, (leaf.certificate, middle.certificate))

    def test_names_are_hosts_and_addresses(self) -> None:
        hosts = ["relay.example", "*.example.org", "192.0.2.1", "2001:db8::1"]
        self.assertEqual(Issued("leaf", hosts=hosts).pair().names(), hosts)
        self.assertEqual(Issued("leaf").pair().names(), [])


class RefusedTests(FilesTestCase):
    """Files that cannot be read, or do not match."""

    def test_load_of_a_pipe_does_not_wait(self) -> None:
        pipe = self.folder / "pipe.pem"
        os.mkfifo(pipe)
        why = "pipe.pem is not a regular file"
        self.assert_refused(pipe, self.keyfile, "certfile", why)
        self.assert_refused(self.certfile, pipe, "keyfile", why)
        self.assert_refused(pipe, None, "certfile", why)
        self.assertEqual(certificates.file_fingerprint(pipe), (None,))

    def test_load_of_a_broken_field_is_refused(self) -> None:
        der = self.leaf.certificate.public_bytes(Encoding.DER)
        mark = bytes.fromhex("06072a8648ce3d0201")  # an elliptic curve's key
        self.assertIn(mark, der)
        broken = der.replace(mark, mark[:-1] + b"\x7f")
        pem = x509.load_der_x509_certificate(broken).public_bytes(Encoding.PEM)
        chain = self.write("odd.pem", self.leaf.pem, pem)
        self.assert_refused(chain, self.keyfile, "certfile", "certificate 2 in")

    def test_load_of_an_encrypted_key_is_refused(self) -> None:
        encryption = BestAvailableEncryption(b"passphrase")
        for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
            pem = self.leaf.key_pem(form, encryption)
            self.assertIn(b"ENCRYPTED", pem)
            keyfile, both = (
                self.write("key.pem", pem),
                self.write("both.pem", self.leaf.pem, pem),
            )
            for certfile, key, setting, place in (
                (self.certfile, keyfile, "keyfile", keyfile),
                (both, None, "certfile", both),
            ):
                self.assert_refused(
                    certfile,
                    key,
                    setting,
                    f"{place} is encrypted",
                    f"openssl pkey -in {place}",
                )

    def test_load_of_another_key_is_refused(self) -> None:
        for other in (Issued("other"), Issued("other", key=rsa_key(2048))):
            self.assert_refused(
                self.certfile,
                self.write("other.pem", other.key_pem()),
                "keyfile",
                "other.pem is not that of the certificate",
                str(self.certfile),
            )

    def test_load_of_a_wrong_order_is_refused(self) -> None:
        root, middle = authorities()
        leaf = Issued("leaf", middle)
        self.assert_refused(
            self.write("cert.pem", middle.pem, leaf.pem, root.pem),
            self.write("key.pem", leaf.key_pem()),
            "certfile",
            "wrong order",
            "must come first",
        )

    def test_load_names_the_problems_of_both_files(self) -> None:
        missing = self.folder / "missing.pem"
        with self.assertRaises(ConfigError) as caught:
            certificates.load(missing, self.write("key.pem", b"garbage"))
        self.assertEqual(
            [problem.key for problem in caught.exception.problems],
            ["certfile", "keyfile"],
        )
        self.assert_refused(missing, None, "certfile")

    def test_load_of_an_unfit_key_is_refused(self) -> None:
        rsa_leaf = Issued("leaf", key=rsa_key(2048))
        short = Issued("leaf", key=rsa_key(1024))
        edwards = Issued("leaf", key=ed25519.Ed25519PrivateKey.generate())
        curve = Issued("leaf", key=ecdsa(ec.SECP256K1()))
        for leaf, key, parts in (
            (short, short.key_pem(), ("has 1024 bits", "at least 2048")),
            (
                edwards,
                edwards.key_pem(),
                ("of the type Ed25519", "neither an ECDSA nor an RSA key"),
            ),
            # OpenSSL would only say that no certificate is assigned.
            (rsa_leaf, pss_pem(rsa_key(2048)), ("of the type RSA-PSS",)),
            (curve, curve.key_pem(), ("secp256k1", "secp256r1")),
        ):
            self.assert_refused(
                self.write("cert.pem", leaf.pem),
                self.write("key.pem", key),
                "keyfile",
                *parts,
            )
            both = self.write("both.pem", leaf.pem, key)
            self.assert_refused(both, None, "certfile", *parts)

    def test_load_without_a_certificate_is_refused(self) -> None:
        pem = self.leaf.pem
        for data in (
            b"",
            b"\x00\xff" * 100,
            self.leaf.certificate.public_bytes(Encoding.DER),
            self.leaf.key_pem(),
            pem[:200],
            pem.decode().encode("utf-16"),
            pem[:200] + b"####" + pem[204:],
            pem + pem.replace(b" CERTIFICATE", b" TRUSTED CERTIFICATE"),
        ):
            odd = self.write("odd.pem", data)
            wanted = "-----BEGIN CERTIFICATE-----"
            self.assert_refused(odd, self.keyfile, "certfile", wanted, str(odd))

    def test_load_without_a_key_is_refused(self) -> None:
        wanted = "-----BEGIN PRIVATE KEY-----"
        key = self.leaf.key_pem()[:60]
        for data in (b"", b"\x00\xff" * 100, self.leaf.pem, EC_PARAMETERS, key):
            odd = self.write("odd.pem", data)
            self.assert_refused(self.certfile, odd, "keyfile", wanted, str(odd))
        self.assert_refused(self.certfile, None, "certfile", wanted)

    def test_load_of_an_unreadable_file_is_refused(self) -> None:
        missing = self.folder / "missing.pem"
        for path, why in ((missing, "No such file"), (self.folder, "Is a directory")):
            text = f"{path} cannot be read: {why}"
            self.assert_refused(path, self.keyfile, "certfile", text)
            self.assert_refused(self.certfile, path, "keyfile", text)

    def test_load_without_permission_is_refused(self) -> None:
        self.keyfile.chmod(0)
        if os.access(self.keyfile, os.R_OK):
            self.skipTest("this user may read everything")
        self.assert_refused(self.certfile, self.keyfile, "keyfile", "Permission denied")

    def test_context_of_a_weak_key_is_refused(self) -> None:
        weak = Issued("leaf", key=ecdsa(ec.SECP192R1()))
        with self.assertRaises(ConfigError) as caught:
            server_context(weak.pair())
        (problem,) = caught.exception.problems
        self.assertEqual(problem.key, "certfile")
        self.assertIn("ee key too small", problem.message)
        self.assertNotIn("[(", problem.message)


def nameless(*extensions: x509.ExtensionType) -> certificates.KeyPair:
    """An expired certificate without a name, and its key."""
    key = ecdsa()
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - 2 * DAY)
        .not_valid_after(NOW - DAY)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, False)
    return certificates.KeyPair((builder.sign(key, hashes.SHA256()),), key)


class ProblemsTests(SynchronousTestCase):
    """Reasons of verifying clients to refuse a certificate."""

    def problems(self, pair: certificates.KeyPair, now: datetime = NOW) -> list[str]:
        found = list(pair.problems(now))
        self.assertEqual({problem.key for problem in found} - {"certfile"}, set())
        return [problem.message for problem in found]

    def test_problems_of_a_valid_chain_are_none(self) -> None:
        root, middle = authorities()
        leaf = Issued("leaf", middle)
        for pair in (
            leaf.pair(middle, root),
            leaf.pair(middle),
            leaf.pair(),
            root.pair(),
            Issued("leaf", key=rsa_key(2048)).pair(),
        ):
            self.assertEqual(self.problems(pair), [])

    def test_problems_name_certificates_out_of_their_time(self) -> None:
        root = Issued("root")
        middle = Issued("intermediate", root, end=NOW - DAY)
        for pair, problem in (
            (Issued("leaf", end=NOW - DAY).pair(), "'CN=leaf' expired on 2026-05-31"),
            (
                Issued("leaf", middle).pair(middle, root),
                "'CN=intermediate' expired on 2026-05-31",
            ),
            (
                Issued("leaf", start=NOW + DAY).pair(),
                "'CN=leaf' is not valid before 2026-06-02",
            ),
            (
                Issued("a\x1b[31mé\nb", end=NOW - DAY).pair(),
                r"'CN=a\x1b[31m\xe9\nb' expired on 2026-05-31",
            ),
            (nameless(), "a nameless certificate expired on 2026-05-31"),
        ):
            self.assertEqual(self.problems(pair), [problem])

    def test_problems_begin_after_the_ends_of_the_time(self) -> None:
        second = timedelta(seconds=1)
        pair = Issued("leaf", start=NOW, end=NOW + DAY).pair()
        self.assertEqual(self.problems(pair, NOW), [])
        self.assertEqual(self.problems(pair, NOW + DAY), [])
        self.assertIn("not valid before", self.problems(pair, NOW - second)[0])
        self.assertIn("expired", self.problems(pair, NOW + DAY + second)[0])

    def test_problems_of_a_wrong_order_name_each_pair(self) -> None:
        root, middle = authorities()
        leaf = Issued("leaf", middle)
        first, second = self.problems(leaf.pair(root, middle))
        self.assertIn("'CN=leaf' is followed by 'CN=root'", first)
        self.assertIn("'CN=root' is followed by 'CN=intermediate'", second)
        self.assertIn("must be followed by its issuer's", first)

    def test_problems_name_a_broken_chain(self) -> None:
        root, middle = authorities()
        leaf = Issued("leaf", root)
        for pair in (
            Issued("leaf", middle).pair(root),
            leaf.pair(Issued("root")),
            leaf.pair(Issued("root", key=rsa_key(2048))),
        ):
            (problem,) = self.problems(pair)
            self.assertIn("the chain is broken", problem)


class WarningsTests(SynchronousTestCase):
    """Advice for the operator."""

    HOSTS = ("relay.example",)

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.root, self.middle = authorities()
        self.trust(self.folder / "missing.pem")

    def trust(self, bundle: Path) -> None:
        """Point OpenSSL to the authorities that this machine trusts."""
        for variable, place in (("FILE", bundle), ("DIR", self.folder)):
            self.patch(
                os,
                "environ",
                {**os.environ, f"SSL_CERT_{variable}": str(place.absolute())},
            )

    def warnings(self, pair: certificates.KeyPair, now: datetime = NOW) -> list[str]:
        found = list(pair.warnings(now))
        self.assertEqual({problem.key for problem in found} - {"certfile"}, set())
        return [problem.message for problem in found]

    def test_warnings_of_a_whole_chain_are_none(self) -> None:
        leaf = Issued("leaf", self.middle, hosts=self.HOSTS)
        self.assertEqual(self.warnings(leaf.pair(self.middle, self.root)), [])

    def test_warnings_of_a_chain_to_a_trusted_authority_are_none(self) -> None:
        pair = Issued("leaf", self.middle, hosts=self.HOSTS).pair(self.middle)
        number = crypto.X509.from_cryptography(
            self.root.certificate
        ).subject_name_hash()
        for file in ("bundle.pem", f"{number:08x}.0"):
            self.assertEqual(len(self.warnings(pair)), 1)
            path = self.folder / file
            path.write_bytes(self.root.pem)
            self.trust(self.folder / "bundle.pem")
            self.assertEqual(self.warnings(pair), [])
            path.unlink()

    def test_warnings_name_what_is_missing(self) -> None:
        for pair, parts in (
            (
                Issued("leaf", self.middle, hosts=self.HOSTS).pair(),
                ("'CN=intermediate'", "fullchain.pem"),
            ),
            (Issued("leaf", hosts=self.HOSTS).pair(), ("self-signed",)),
            (Issued("leaf", self.root).pair(self.root), ("subjectAltName",)),
        ):
            (warning,) = self.warnings(pair)
            for part in parts:
                self.assertIn(part, warning)

    def test_warnings_of_a_malformed_extension_are_given(self) -> None:
        oid = x509.SubjectAlternativeName.oid
        pair = nameless(x509.UnrecognizedExtension(oid, b"garbage"))
        self.assertIn("subjectAltName", self.warnings(pair)[0])

    def test_warnings_name_a_certificate_that_expires_soon(self) -> None:
        for lifetime, left in (
            (90 * DAY, 30 * DAY),
            (10 * DAY, 10 * DAY / 3),
            (9 * DAY, 4.5 * DAY),
            (6 * DAY, 3 * DAY),
            (DAY, DAY / 2),
        ):
            end = NOW + left
            pair = Issued(
                "leaf", self.root, hosts=self.HOSTS, start=end - lifetime, end=end
            ).pair(self.root)
            # Certificates count in seconds.
            second = timedelta(seconds=1)
            for now in (end - lifetime, NOW - second, end + second):
                self.assertEqual(self.warnings(pair, now), [], lifetime)
            for now in (NOW + second, end - second):
                (warning,) = self.warnings(pair, now)
                self.assertIn(f"expires soon, on {end.date()}: renew it", warning)


class FileFingerprintTests(SynchronousTestCase):
    """Changes of files."""

    def test_fingerprint_changes_with_the_files(self) -> None:
        path = Path(self.mktemp())
        seen = [certificates.file_fingerprint(path, None)]
        path.write_text("a")
        seen.append(certificates.file_fingerprint(path, None))
        os.utime(path, (1, 1))
        seen.append(certificates.file_fingerprint(path, None))
        self.assertEqual(seen[-1], certificates.file_fingerprint(path))
        newer = Path(self.mktemp())
        newer.write_text("b")
        os.utime(newer, (1, 1))
        newer.replace(path)
        seen.append(certificates.file_fingerprint(path))
        self.assertEqual(seen[0], (None,))
        self.assertEqual(len(set(seen)), 4)


class NowTests(SynchronousTestCase):
    """The time."""

    def test_now_knows_its_zone(self) -> None:
        self.assertEqual(certificates.now().utcoffset(), timedelta(0))
