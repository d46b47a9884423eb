"""The files that ``[cluster]`` names. Without the packages of the extra."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from OpenSSL.crypto import X509, PKey
from twisted.internet import ssl
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator

from proxyrelay.cluster import seal
from proxyrelay.config.cluster import Cluster
from proxyrelay.errors import ConfigError, Problem
from proxyrelay.net import certificates

MAX_PASSWORD_CHARACTERS = 512

OTHERS = 0o007
"""Bits of a file's mode for everybody but its user and group."""

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class Files:
    """What the files hold.

    Attributes:
        keys: Keys that seal messages.
        authorities: Certificates of the engine's authorities; None for the system's.
        pair: Certificate and key of this relay; None for none.
    """

    keys: list[bytes] = field(repr=False)
    authorities: tuple[x509.Certificate, ...] | None
    pair: certificates.KeyPair | None

    @property
    def fingerprints(self) -> list[str]:
        """Public names of the keys."""
        return [seal.fingerprint(key).hex() for key in self.keys]


def read(cluster: Cluster) -> Files:
    """Read all files.

    Raises:
        ConfigError: Some cannot be read, or hold something else; lists every problem.
    """
    problems: list[Problem] = []

    def collected(read_one: Callable[[Cluster], Parsed], instead: Parsed) -> Parsed:
        try:
            return read_one(cluster)
        except ConfigError as error:
            problems.extend(error.problems)
            return instead

    collected(password, "")
    files = Files(
        collected(keys, []), collected(_authorities, None), collected(_pair, None)
    )
    if problems:
        raise ConfigError(problems)
    return files


def keys(cluster: Cluster) -> list[bytes]:
    """Read the key file; empty without one.

    Raises:
        ConfigError: It cannot be read, others may read it, or it holds no keys.
    """
    return _parsed("key_file", cluster.key_file, seal.keys, [])


def password(cluster: Cluster) -> str:
    """Read the password file; empty without one.

    Raises:
        ConfigError: It cannot be read, others may read it, or it holds no password.
    """
    return _parsed("password_file", cluster.password_file, _one_line, "")


def tls_options(files: Files, host: str) -> IOpenSSLClientConnectionCreator:
    """Options of a TLS connection to an engine or a sentinel."""
    trust, own = None, {}
    if files.authorities is not None:
        trust = ssl.trustRootFromCertificates(
            ssl.Certificate(X509.from_cryptography(each)) for each in files.authorities
        )
    if files.pair is not None:
        leaf, *others = map(X509.from_cryptography, files.pair.chain)
        key = PKey.from_cryptography_key(files.pair.key)
        own = {"privateKey": key, "certificate": leaf, "extraCertChain": others}
    return ssl.optionsForClientTLS(host, trustRoot=trust, extraCertificateOptions=own)


def _one_line(text: str) -> str:
    line = text.strip()
    if not 0 < len(line) <= MAX_PASSWORD_CHARACTERS or len(line.splitlines()) != 1:
        raise ValueError("must hold one password, in one line")
    return line


def _parsed(
    setting: str, file: Path | None, parse: Callable[[str], Parsed], instead: Parsed
) -> Parsed:
    if file is None:
        return instead
    try:
        if file.exists() and not file.is_file():  # a read from a pipe could block
            raise _problem(setting, f"{file} is no regular file")
        if file.stat().st_mode & OTHERS:
            raise _problem(setting, f"others may read {file}: chmod o= it")
        return parse(file.read_text("utf-8"))
    except OSError as error:
        raise _problem(setting, f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _problem(setting, f"{file} is not UTF-8 text") from None
    except ValueError as error:
        raise _problem(setting, f"{file} {error}") from None


def _authorities(cluster: Cluster) -> tuple[x509.Certificate, ...] | None:
    file = cluster.ca_file
    if file is None:
        return None
    try:
        return certificates.load_chain(file)
    except ConfigError as error:
        raise _problem("ca_file", error.problems[0].message) from None


def _pair(cluster: Cluster) -> certificates.KeyPair | None:
    if cluster.client_certfile is None:
        return None
    try:
        return certificates.load(cluster.client_certfile, cluster.client_keyfile)
    except ConfigError as error:
        raise ConfigError(
            Problem(f"cluster.client_{each.key}", each.message)
            for each in error.problems
        ) from None


def _problem(setting: str, message: str) -> ConfigError:
    return ConfigError([Problem(f"cluster.{setting}", message)])
