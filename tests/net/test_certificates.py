"""Certificates and keys: what is read, what is refused, and what is served."""

from __future__ import annotations

import os
from base64 import encodebytes
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
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

from proxyrelay.errors import ConfigError, Problem
from proxyrelay.net import certificates
from proxyrelay.net.tls_context import server_context

NOW = datetime(2026, 6, 1, 12, tzinfo=timezone.utc)
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
    """A certificate and its key, that can issue others.

    Args:
        subject: Its common name.
        issuer: Signs it; None for a self-signed one.
        key: Its key; None for a new one.
        start: When it begins to be valid.
        end: When it ends.
        hosts: Host names and addresses that it is for.
    """

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

    def write(self, file: str, *pieces: bytes) -> Path:
        path = self.folder / file
        path.write_bytes(b"".join(pieces))
        return path

    def refusal(self, certfile: Path, keyfile: Path | None) -> Problem:
        """The only problem with two files."""
        with self.assertRaises(ConfigError) as caught:
            certificates.load(certfile, keyfile)
        problem: Problem
        (problem,) = caught.exception.problems
        return problem


class LoadTests(FilesTestCase):
    """What can be read."""

    def test_reads_an_ecdsa_pair(self) -> None:
        for curve in (ec.SECP256R1(), ec.SECP384R1()):
            leaf = Issued("leaf", key=ecdsa(curve))
            pair = certificates.load(
                self.write("cert.pem", leaf.pem), self.write("key.pem", leaf.key_pem())
            )
            self.assertEqual(pair.chain, (leaf.certificate,))
            self.assertEqual(
                pair.key.private_numbers(), leaf.pair().key.private_numbers()
            )
            server_context(pair)

    def test_reads_an_rsa_pair(self) -> None:
        leaf = Issued("leaf", key=rsa_key(2048))
        for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
            pair = certificates.load(
                self.write("cert.pem", leaf.pem),
                self.write("key.pem", leaf.key_pem(form)),
            )
            self.assertEqual(pair.chain, (leaf.certificate,))
            server_context(pair)

    def test_reads_the_chain_in_its_order(self) -> None:
        root, middle = authorities()
        leaf = Issued("leaf", middle)
        pair = certificates.load(
            self.write("cert.pem", leaf.pem, middle.pem, b"a comment\n", root.pem),
            self.write("key.pem", leaf.key_pem()),
        )
        self.assertEqual(
            pair.chain, (leaf.certificate, middle.certificate, root.certificate)
        )

    def test_reads_a_key_from_the_certfile(self) -> None:
        _root, middle = authorities()
        leaf = Issued("leaf", middle)
        for pieces in (
            (leaf.pem, middle.pem, leaf.key_pem()),
            (leaf.key_pem(), leaf.pem, middle.pem),
            (leaf.pem, leaf.key_pem(PrivateFormat.TraditionalOpenSSL), middle.pem),
        ):
            pair = certificates.load(self.write("both.pem", *pieces), None)
            self.assertEqual(pair.chain, (leaf.certificate, middle.certificate))

    def test_reads_a_key_behind_its_parameters(self) -> None:
        leaf = Issued("leaf")
        key = leaf.key_pem(PrivateFormat.TraditionalOpenSSL)
        certfile = self.write("cert.pem", leaf.pem)
        certificates.load(certfile, self.write("key.pem", EC_PARAMETERS, key))
        certificates.load(self.write("both.pem", leaf.pem, EC_PARAMETERS, key), None)

    def test_reads_line_ends_of_windows(self) -> None:
        leaf = Issued("leaf")
        certificates.load(
            self.write("cert.pem", leaf.pem.replace(b"\n", b"\r\n")),
            self.write("key.pem", leaf.key_pem().replace(b"\n", b"\r\n")),
        )

    def test_tells_the_names(self) -> None:
        hosts = ["relay.example", "*.example.org", "192.0.2.1", "2001:db8::1"]
        self.assertEqual(Issued("leaf", hosts=hosts).pair().names(), hosts)
        self.assertEqual(Issued("leaf").pair().names(), [])


class RefusedTests(FilesTestCase):
    """What cannot be read, or does not belong together."""

    def setUp(self) -> None:
        super().setUp()
        self.leaf = Issued("leaf")
        self.certfile = self.write("cert.pem", self.leaf.pem)
        self.keyfile = self.write("key.pem", self.leaf.key_pem())

    def test_waits_for_nobody_to_write_into_a_pipe(self) -> None:
        pipe = self.folder / "pipe.pem"
        os.mkfifo(pipe)
        for files in ((pipe, self.keyfile), (self.certfile, pipe), (pipe, None)):
            problem = self.refusal(*files)
            self.assertIn("pipe.pem is not a regular file", problem.message)
        self.assertEqual(certificates.file_fingerprint(pipe), (None,))

    def test_refuses_what_cannot_be_looked_at_later(self) -> None:
        """Some parts of a certificate are read only when they are asked for."""
        der = self.leaf.certificate.public_bytes(Encoding.DER)
        mark = bytes.fromhex("06072a8648ce3d0201")  # an elliptic curve's key
        self.assertIn(mark, der)
        broken = der.replace(mark, mark[:-1] + b"\x7f")
        pem = x509.load_der_x509_certificate(broken).public_bytes(Encoding.PEM)
        chain = self.write("odd.pem", self.leaf.pem, pem)
        problem = self.refusal(chain, self.keyfile)
        self.assertEqual(problem.key, "certfile")
        self.assertIn("certificate 2 in", problem.message)

    def test_refuses_encrypted_keys(self) -> None:
        encryption = BestAvailableEncryption(b"passphrase")
        for form, mark in (
            (PrivateFormat.PKCS8, b"BEGIN ENCRYPTED PRIVATE KEY"),
            (PrivateFormat.TraditionalOpenSSL, b"Proc-Type: 4,ENCRYPTED"),
        ):
            pem = self.leaf.key_pem(form, encryption)
            self.assertIn(mark, pem)
            problem = self.refusal(self.certfile, self.write("key.pem", pem))
            self.assertEqual(problem.key, "keyfile")
            self.assertIn(f"{self.keyfile} is encrypted", problem.message)
            self.assertIn(f"openssl pkey -in {self.keyfile}", problem.message)
            problem = self.refusal(self.write("both.pem", self.leaf.pem, pem), None)
            self.assertEqual(problem.key, "certfile")
            self.assertIn(
                f"openssl pkey -in {self.folder / 'both.pem'}", problem.message
            )

    def test_refuses_the_key_of_another_certificate(self) -> None:
        for other in (Issued("other"), Issued("other", key=rsa_key(2048))):
            problem = self.refusal(
                self.certfile, self.write("other.pem", other.key_pem())
            )
            self.assertEqual(problem.key, "keyfile")
            self.assertIn("other.pem is not that of the certificate", problem.message)
            self.assertIn(str(self.certfile), problem.message)

    def test_refuses_a_certfile_that_starts_with_the_issuer(self) -> None:
        root, middle = authorities()
        leaf = Issued("leaf", middle)
        problem = self.refusal(
            self.write("cert.pem", middle.pem, leaf.pem, root.pem),
            self.write("key.pem", leaf.key_pem()),
        )
        self.assertEqual(problem.key, "certfile")
        self.assertIn("wrong order", problem.message)
        self.assertIn("must come first", problem.message)

    def test_tells_of_both_files_at_once(self) -> None:
        missing = self.folder / "missing.pem"
        with self.assertRaises(ConfigError) as caught:
            certificates.load(missing, self.write("key.pem", b"garbage"))
        self.assertEqual(
            [problem.key for problem in caught.exception.problems],
            ["certfile", "keyfile"],
        )

    def test_tells_once_of_one_file(self) -> None:
        self.refusal(self.folder / "missing.pem", None)

    def test_refuses_short_rsa_keys(self) -> None:
        leaf = Issued("leaf", key=rsa_key(1024))
        problem = self.refusal(
            self.write("cert.pem", leaf.pem), self.write("key.pem", leaf.key_pem())
        )
        self.assertEqual(problem.key, "keyfile")
        self.assertIn("has 1024 bits", problem.message)
        self.assertIn("at least 2048", problem.message)

    def test_refuses_ed25519(self) -> None:
        leaf = Issued("leaf", key=ed25519.Ed25519PrivateKey.generate())
        problem = self.refusal(
            self.write("cert.pem", leaf.pem), self.write("key.pem", leaf.key_pem())
        )
        self.assertEqual(problem.key, "keyfile")
        self.assertIn("of the type Ed25519", problem.message)
        self.assertIn("neither an ECDSA nor an RSA key", problem.message)

    def test_refuses_rsa_pss(self) -> None:
        """OpenSSL would only say that no certificate is assigned."""
        leaf = Issued("leaf", key=rsa_key(2048))
        pem = pss_pem(rsa_key(2048))
        for certfile, keyfile in (
            (self.write("cert.pem", leaf.pem), self.write("key.pem", pem)),
            (self.write("both.pem", leaf.pem, pem), None),
        ):
            problem = self.refusal(certfile, keyfile)
            self.assertIn("of the type RSA-PSS", problem.message)

    def test_names_the_labels_that_it_finds(self) -> None:
        key = self.leaf.key_pem()
        trusted = self.leaf.pem.replace(b" CERTIFICATE", b" TRUSTED CERTIFICATE")
        for pem in (trusted, trusted + self.leaf.pem):
            problem = self.refusal(
                self.write("cert.pem", pem), self.write("key.pem", key)
            )
            self.assertEqual(problem.key, "certfile")
            self.assertIn("found in it: TRUSTED CERTIFICATE", problem.message)
        problem = self.refusal(
            self.write("cert.pem", self.leaf.pem), self.write("key.pem", self.leaf.pem)
        )
        self.assertEqual(problem.key, "keyfile")
        self.assertIn("found in it: CERTIFICATE", problem.message)
        ssh = b"-----BEGIN OPENSSH PRIVATE KEY-----\nx\n" * 9
        problem = self.refusal(
            self.write("cert.pem", self.leaf.pem), self.write("key.pem", ssh)
        )
        self.assertTrue(
            problem.message.endswith("found in it: OPENSSH PRIVATE KEY"), problem
        )

    def test_refuses_curves_that_clients_do_not_take(self) -> None:
        leaf = Issued("leaf", key=ecdsa(ec.SECP256K1()))
        problem = self.refusal(self.write("both.pem", leaf.pem, leaf.key_pem()), None)
        self.assertEqual(problem.key, "certfile")
        self.assertIn("secp256k1", problem.message)
        self.assertIn("secp256r1", problem.message)

    def test_refuses_certfiles_without_a_certificate(self) -> None:
        der = self.leaf.certificate.public_bytes(Encoding.DER)
        for data in (
            b"",
            b"garbage",
            b"\x00\xff" * 100,
            der,
            self.leaf.key_pem(),
            self.leaf.pem[:200],
            self.leaf.pem.decode().encode("utf-16"),
            self.leaf.pem[:200] + b"####" + self.leaf.pem[204:],
        ):
            problem = self.refusal(self.write("cert.pem", data), self.keyfile)
            self.assertEqual(problem.key, "certfile")
            self.assertIn("-----BEGIN CERTIFICATE-----", problem.message)
            self.assertIn(str(self.certfile), problem.message)

    def test_refuses_keyfiles_without_a_key(self) -> None:
        for data in (
            b"",
            b"garbage",
            b"\x00\xff" * 100,
            self.leaf.pem,
            EC_PARAMETERS,
            self.leaf.key_pem()[:60],
        ):
            problem = self.refusal(self.certfile, self.write("key.pem", data))
            self.assertEqual(problem.key, "keyfile")
            self.assertIn("-----BEGIN PRIVATE KEY-----", problem.message)
            self.assertIn(str(self.keyfile), problem.message)

    def test_refuses_a_certfile_without_the_key(self) -> None:
        problem = self.refusal(self.certfile, None)
        self.assertEqual(problem.key, "certfile")
        self.assertIn("-----BEGIN PRIVATE KEY-----", problem.message)

    def test_refuses_what_cannot_be_opened(self) -> None:
        missing = self.folder / "missing.pem"
        for certfile, keyfile, key, path, why in (
            (missing, self.keyfile, "certfile", missing, "No such file"),
            (self.certfile, missing, "keyfile", missing, "No such file"),
            (self.folder, self.keyfile, "certfile", self.folder, "Is a directory"),
            (self.certfile, self.folder, "keyfile", self.folder, "Is a directory"),
        ):
            problem = self.refusal(certfile, keyfile)
            self.assertEqual(problem.key, key)
            self.assertIn(f"{path} cannot be read: {why}", problem.message)

    def test_refuses_what_may_not_be_read(self) -> None:
        self.keyfile.chmod(0)
        if os.access(self.keyfile, os.R_OK):
            self.skipTest("this user may read everything")
        problem = self.refusal(self.certfile, self.keyfile)
        self.assertEqual(problem.key, "keyfile")
        self.assertIn("Permission denied", problem.message)

    def test_refuses_what_openssl_refuses(self) -> None:
        weak = Issued("leaf", key=ecdsa(ec.SECP192R1()))
        with self.assertRaises(ConfigError) as caught:
            server_context(weak.pair())
        (problem,) = caught.exception.problems
        self.assertEqual(problem.key, "certfile")
        self.assertIn("ee key too small", problem.message)

    def test_speaks_plainly_of_what_openssl_refuses(self) -> None:
        weak = Issued("leaf", key=ecdsa(ec.SECP192R1()))
        with self.assertRaises(ConfigError) as caught:
            server_context(weak.pair())
        self.assertNotIn("[(", str(caught.exception))

    def test_refuses_a_malformed_extension(self) -> None:
        key = ecdsa()
        oid = x509.SubjectAlternativeName.oid
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name("leaf"))
            .issuer_name(name("leaf"))
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(NOW - DAY)
            .not_valid_after(NOW + DAY)
            .add_extension(x509.UnrecognizedExtension(oid, b"garbage"), False)
            .sign(key, hashes.SHA256())
        )
        pair = certificates.KeyPair((certificate,), key)
        self.assertIsInstance(list(pair.warnings(NOW)), list)


class ProblemsTests(SynchronousTestCase):
    """Why clients that verify would refuse a certificate."""

    def problems(self, pair: certificates.KeyPair, now: datetime = NOW) -> list[str]:
        found = list(pair.problems(now))
        self.assertEqual({problem.key for problem in found} - {"certfile"}, set())
        return [problem.message for problem in found]

    def test_a_valid_chain_has_none(self) -> None:
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

    def test_an_expired_certificate(self) -> None:
        pair = Issued("leaf", end=NOW - DAY).pair()
        self.assertEqual(self.problems(pair), ["'CN=leaf' expired on 2026-05-31"])

    def test_an_expired_intermediate(self) -> None:
        root = Issued("root")
        middle = Issued("intermediate", root, end=NOW - DAY)
        self.assertEqual(
            self.problems(Issued("leaf", middle).pair(middle, root)),
            ["'CN=intermediate' expired on 2026-05-31"],
        )

    def test_a_certificate_of_tomorrow(self) -> None:
        pair = Issued("leaf", start=NOW + DAY).pair()
        self.assertEqual(
            self.problems(pair), ["'CN=leaf' is not valid before 2026-06-02"]
        )

    def test_the_ends_belong_to_the_time(self) -> None:
        second = timedelta(seconds=1)
        pair = Issued("leaf", start=NOW, end=NOW + DAY).pair()
        self.assertEqual(self.problems(pair, NOW), [])
        self.assertEqual(self.problems(pair, NOW + DAY), [])
        self.assertIn("not valid before", self.problems(pair, NOW - second)[0])
        self.assertIn("expired", self.problems(pair, NOW + DAY + second)[0])

    def test_a_chain_in_the_wrong_order(self) -> None:
        root, middle = authorities()
        leaf = Issued("leaf", middle)
        first, second = self.problems(leaf.pair(root, middle))
        self.assertIn("'CN=leaf' is followed by 'CN=root'", first)
        self.assertIn("'CN=root' is followed by 'CN=intermediate'", second)
        self.assertIn("must be followed by its issuer's", first)

    def test_a_chain_with_a_gap(self) -> None:
        root, middle = authorities()
        (problem,) = self.problems(Issued("leaf", middle).pair(root))
        self.assertIn("the chain is broken", problem)

    def test_a_chain_of_a_namesake(self) -> None:
        (problem,) = self.problems(Issued("leaf", Issued("root")).pair(Issued("root")))
        self.assertIn("the chain is broken", problem)

    def test_a_chain_of_another_kind_of_key(self) -> None:
        namesake = Issued("root", key=rsa_key(2048))
        (problem,) = self.problems(Issued("leaf", Issued("root")).pair(namesake))
        self.assertIn("the chain is broken", problem)

    def test_a_name_cannot_control_a_terminal(self) -> None:
        pair = Issued("a\x1b[31mé\nb", end=NOW - DAY).pair()
        (problem,) = self.problems(pair)
        self.assertTrue(problem.isprintable() and problem.isascii(), problem)


class WarningsTests(SynchronousTestCase):
    """What the operator should know of a certificate."""

    HOSTS = ("relay.example",)

    def setUp(self) -> None:
        nowhere = Path(self.mktemp())
        self.trust(SSL_CERT_FILE=nowhere / "none.pem", SSL_CERT_DIR=nowhere)

    def warnings(self, pair: certificates.KeyPair, now: datetime = NOW) -> list[str]:
        found = list(pair.warnings(now))
        self.assertEqual({problem.key for problem in found} - {"certfile"}, set())
        return [problem.message for problem in found]

    def test_a_whole_chain_has_none(self) -> None:
        root, middle = authorities()
        pair = Issued("leaf", middle, hosts=self.HOSTS).pair(middle, root)
        self.assertEqual(self.warnings(pair), [])

    def test_a_chain_to_a_trusted_authority_has_none(self) -> None:
        root, middle = authorities()
        pair = Issued("leaf", middle, hosts=self.HOSTS).pair(middle)
        folder = Path(self.mktemp())
        folder.mkdir()
        bundle = folder / "bundle.pem"
        bundle.write_bytes(root.pem)
        self.trust(SSL_CERT_FILE=bundle, SSL_CERT_DIR=folder)
        self.assertEqual(self.warnings(pair), [])

    def test_authorities_are_also_trusted_in_a_folder(self) -> None:
        root, middle = authorities()
        pair = Issued("leaf", middle, hosts=self.HOSTS).pair(middle)
        folder = Path(self.mktemp())
        folder.mkdir()
        number = crypto.X509.from_cryptography(root.certificate).subject_name_hash()
        (folder / f"{number:08x}.0").write_bytes(root.pem)
        self.trust(SSL_CERT_FILE=folder / "missing.pem", SSL_CERT_DIR=folder)
        self.assertEqual(self.warnings(pair), [])

    def trust(self, **places: Path) -> None:
        """Point OpenSSL to the authorities that this machine trusts."""
        for variable, place in places.items():
            before = os.environ.get(variable)
            if before is None:
                self.addCleanup(os.environ.pop, variable, None)
            else:
                self.addCleanup(os.environ.__setitem__, variable, before)
            os.environ[variable] = str(place.absolute())

    def test_a_leaf_without_its_intermediate(self) -> None:
        _root, middle = authorities()
        (warning,) = self.warnings(Issued("leaf", middle, hosts=self.HOSTS).pair())
        self.assertIn("'CN=intermediate'", warning)
        self.assertIn("fullchain.pem", warning)

    def test_a_self_signed_certificate(self) -> None:
        (warning,) = self.warnings(Issued("leaf", hosts=self.HOSTS).pair())
        self.assertIn("self-signed", warning)

    def test_a_certificate_without_hosts(self) -> None:
        root = Issued("root")
        (warning,) = self.warnings(Issued("leaf", root).pair(root))
        self.assertIn("subjectAltName", warning)

    def test_a_certificate_that_expires_soon(self) -> None:
        root = Issued("root")
        for lifetime, left in (
            (90 * DAY, 30 * DAY),
            (10 * DAY, 10 * DAY / 3),
            (9 * DAY, 4.5 * DAY),
            (6 * DAY, 3 * DAY),
            (DAY, DAY / 2),
        ):
            end = NOW + left
            pair = Issued(
                "leaf", root, hosts=self.HOSTS, start=end - lifetime, end=end
            ).pair(root)
            # Certificates count in seconds.
            for now in (end - lifetime, NOW - timedelta(seconds=1)):
                self.assertEqual(self.warnings(pair, now), [], lifetime)
            for now in (NOW + timedelta(seconds=1), end - timedelta(seconds=1)):
                (warning,) = self.warnings(pair, now)
                self.assertIn(f"expires soon, on {end.date()}: renew it", warning)

    def test_what_has_expired_does_not_expire_soon(self) -> None:
        root = Issued("root")
        pair = Issued("leaf", root, hosts=self.HOSTS, end=NOW - DAY).pair(root)
        self.assertEqual(self.warnings(pair), [])

    def test_a_certificate_without_a_name(self) -> None:
        key = ecdsa()
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(x509.Name([]))
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(NOW - 2 * DAY)
            .not_valid_after(NOW - DAY)
            .sign(key, hashes.SHA256())
        )
        (problem,) = certificates.KeyPair((certificate,), key).problems(NOW)
        self.assertIn("a nameless certificate expired", problem.message)


class FileFingerprintTests(FilesTestCase):
    """Whether files are as they were."""

    def test_changes_with_the_files(self) -> None:
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

    def test_knows_its_zone(self) -> None:
        self.assertEqual(certificates.now().utcoffset(), timedelta(0))
