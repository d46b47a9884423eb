"""The TLS step of ``proxyrelay probe``: Python's checks, as stock clients have them."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from contextlib import closing, suppress
from datetime import UTC, datetime

from cryptography import x509
from OpenSSL import SSL

from proxyrelay.cli.probe_report import UNKNOWN, CertificateFound, ProbeFailure
from proxyrelay.cli.probe_way import Target, Way, connect_again, left, silent
from proxyrelay.client.endpoint import MAX_HEAD_BYTES
from proxyrelay.net.certificates import names_of

_EXPIRED, _NOT_YET, _SELF_SIGNED, _PRIVATE_ROOT = 10, 9, 18, 19
_NO_ISSUER = (2, 20, 21)
_WRONG_NAME = (62, 64)
"""Verification errors of OpenSSL (X509_V_ERR_...)."""


def handshake(
    sock: socket.socket, target: Target, way: Way, deadline: float
) -> ssl.SSLSocket:
    """Speak TLS, with the checks of a stock client.

    Raises:
        ProbeFailure: The handshake fails.
    """
    try:
        context = ssl.create_default_context(
            cafile=None if target.ca_file is None else str(target.ca_file)
        )
    except (OSError, ssl.SSLError):
        raise ProbeFailure(
            f"{target.ca_file} has no certificates that can be read",
            "Name a PEM file of the authority.",
            UNKNOWN,
        ) from None
    sock.settimeout(left(deadline))
    try:
        return context.wrap_socket(sock, server_hostname=target.url.place.host)
    except ssl.SSLCertVerificationError as error:
        raise _unverified(error, target, way, deadline) from None
    except TimeoutError:
        raise silent(
            "the TLS handshake",
            "What listens there may not speak TLS: try ws://. A firewall may also hold "
            "TLS back.",
        ) from None
    except ssl.SSLError as error:
        reason = error.reason or ""
        if reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"}:
            raise ProbeFailure(
                "the port does not speak TLS",
                "Use ws:// for this port, or set certfile in relay.toml.",
            ) from None
        if "ALERT" in reason or "UNSUPPORTED_PROTOCOL" in reason:
            raise ProbeFailure(
                f"the peer declines the TLS handshake: {reason.lower()}",
                "Both sides must know a common version: endpoints want TLS 1.2 or "
                "later. A proxy in front may not serve this host name.",
            ) from None
        raise _cut_off() from None
    except OSError:
        raise _cut_off() from None


def _cut_off() -> ProbeFailure:
    return ProbeFailure(
        "the peer ends the connection in the TLS handshake",
        "A firewall or a proxy may do that, or what listens there speaks no TLS: look "
        "at the relay's log, and try ws://.",
    )


def _unverified(
    error: ssl.SSLCertVerificationError, target: Target, way: Way, deadline: float
) -> ProbeFailure:
    chain = sent_chain(target, way, deadline)
    leaf, last = chain[0], chain[-1]
    trust = (
        "make each endpoint trust it: SSL_CERT_FILE in its environment. The probe "
        "takes it as --ca-file."
    )
    what = f"the certificate is refused: {error.verify_message}"
    advice = "Get another certificate; 'proxyrelay check' shows its problems."
    code = error.verify_code
    if code in _WRONG_NAME:
        names = " ".join(names_of(leaf)) or "no host"
        what = f"the certificate is for {names}, not for {target.url.place.host}"
        advice = "Use one of its names as the address, or get another certificate."
    elif code == _EXPIRED:
        ended = min(each.not_valid_after_utc for each in chain)
        what = f"a certificate has expired on {ended.date()}"
        advice = (
            "Renew it; the relay then reads it by itself, or after 'proxyrelay "
            "reload'. Look at the clock of this machine, too."
        )
    elif code == _NOT_YET:
        start = max(each.not_valid_before_utc for each in chain)
        what = f"a certificate is not valid before {start.date()}"
        advice = "Look at the clock of this machine, and at that of the issuer."
    elif code == _SELF_SIGNED:
        what = "the certificate is self-signed"
        advice = f"Get one from an authority, or {trust}"
    elif code == _PRIVATE_ROOT:
        what = f"the authority {_name(last.issuer)} is not trusted here"
        advice = f"It is a private one: {trust}"
    elif code in _NO_ISSUER and len(chain) == 1:
        what = (
            f"the relay sends one certificate, whose issuer {_name(leaf.issuer)} is "
            "unknown here: the chain may lack an intermediate"
        )
        advice = (
            "Set certfile to the file with the whole chain (fullchain.pem). If the "
            f"issuer is a private authority, {trust}"
        )
    elif code in _NO_ISSUER:
        what = f"the issuer {_name(last.issuer)} is unknown here"
        advice = (
            "The chain in certfile may lack a further intermediate. If the issuer is a "
            f"private authority, {trust}"
        )
    return ProbeFailure(what, advice)


def certificate(target: Target, way: Way, deadline: float) -> CertificateFound:
    """What the relay sends as its certificate."""
    chain = sent_chain(target, way, deadline)
    inner = [each for each in chain if each.issuer != each.subject] or chain
    end = min(each.not_valid_after_utc for each in inner)
    return CertificateFound(
        names=tuple(names_of(chain[0])),
        issuer=_name(chain[-1].issuer),
        not_after=end,
        days_left=(end - datetime.now(UTC)).days,
        sent=len(chain),
    )


def sent_chain(target: Target, way: Way, deadline: float) -> list[x509.Certificate]:
    """The certificates that the peer sends, on a second connection without a check.

    Raises:
        ProbeFailure: There is none.
        TimeoutError: It takes too long.
    """
    connection = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
    connection.set_connect_state()
    host = target.url.place.host
    if not _is_address(host):
        connection.set_tlsext_host_name(host.encode("idna"))
    try:
        with closing(connect_again(target, way, deadline)) as sock:
            _shake_hands(connection, sock, deadline)
    except TimeoutError:
        raise
    except (OSError, SSL.Error):
        raise ProbeFailure(
            "a second TLS connection fails",
            "The relay, a proxy or a firewall may limit connections: look at [limits] "
            "in relay.toml, and at the logs.",
        ) from None
    return list(connection.get_peer_cert_chain(as_cryptography=True) or ())


def _shake_hands(
    connection: SSL.Connection, sock: socket.socket, deadline: float
) -> None:
    while True:
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            sock.settimeout(left(deadline))
            with suppress(SSL.WantReadError):  # nothing to send
                sock.sendall(connection.bio_read(MAX_HEAD_BYTES))
            connection.bio_write(_bytes(sock.recv(MAX_HEAD_BYTES)))
        else:
            return


def _bytes(data: bytes) -> bytes:
    if not data:
        raise ConnectionResetError
    return data


def _name(name: x509.Name) -> str:
    return name.rfc4514_string()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
