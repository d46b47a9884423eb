"""``proxyrelay turn``: credentials of a TURN server, as endpoints read them."""

from __future__ import annotations

import hmac
import re
import stat
import sys
import time
from argparse import ArgumentTypeError, Namespace
from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path

from proxyrelay.config import Secret
from proxyrelay.config.places import LABEL
from proxyrelay.errors import ConfigError, Problem
from proxyrelay.net.files import read_small

MIN_SECRET_CHARACTERS, MAX_SECRET_CHARACTERS = 16, 1000
"""Bounds of the shared secret. From a short one, its credentials let it be guessed."""

DAY_SECONDS = 86400

MIN_LIFETIME_SECONDS, MAX_LIFETIME_SECONDS = 60, 3650 * DAY_SECONDS
"""Bounds of ``--lifetime``."""

LIFETIMES = "expected 60 seconds to 3650 days, such as 30d, 12h, 90m or 3600"
"""The lifetimes that are allowed, in words."""

MAX_PORT = 65535

_SECRET = re.compile("[!-~]+")

_UNITS = {"": 1, "m": 60, "h": 3600, "d": DAY_SECONDS}
"""Seconds of each unit of a lifetime."""

_LIFETIME = re.compile(r"([0-9]{1,9})([mhd]?)")

_USER = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
"""Names without a colon, which separates the time from the name."""

_URL = re.compile(
    rf"turn(?P<tls>s?):(?P<host>{LABEL}(?:\.{LABEL})*)(?::(?P<port>[0-9]{{1,5}}))?"
    r"(?:\?transport=(?P<transport>udp|tcp))?"
)
"""URLs of TURN servers that endpoints understand: a part of RFC 7065."""


def turn(arguments: Namespace) -> int:
    """Print the table of a TURN server for an endpoint.

    Makes credentials from the secret of a TURN server, and prints them as a table for
    the endpoint's config.toml. An endpoint reads it once, at its start: the lifetime
    must cover its run. The secret itself is not printed.

    Example:
        proxyrelay turn --secret-file secret turn:turn.example.org:3478
    """
    try:
        secret = read_secret(arguments.secret_file)
    except ConfigError as error:
        # Standard output may be the endpoint's file.
        print(f"problem: {error}", file=sys.stderr)
        return 1
    expiry = int(time.time()) + arguments.lifetime
    print(table(arguments.url, credentials(secret, expiry, arguments.user), expiry))
    return 0


def lifetime(text: str) -> int:
    """Parse ``30d``, ``12h``, ``90m`` or a number of seconds; return seconds.

    Raises:
        ArgumentTypeError: It is no lifetime, or out of bounds.
    """
    matched = _LIFETIME.fullmatch(text)
    seconds = int(matched[1]) * _UNITS[matched[2]] if matched else 0
    if not MIN_LIFETIME_SECONDS <= seconds <= MAX_LIFETIME_SECONDS:
        raise ArgumentTypeError(LIFETIMES)
    return seconds


def user(text: str) -> str:
    """Check a user's name.

    Raises:
        ArgumentTypeError: It has other characters, or is too long.
    """
    if not _USER.fullmatch(text):
        raise ArgumentTypeError("expected 1 to 64 letters, digits, or any of _.@-")
    return text


def ice_urls(text: str) -> list[str]:
    """Parse the URL of a TURN server; return the URLs for an endpoint.

    Endpoints use one TURN server and one STUN server, each the first of its kind. Over
    UDP, the TURN server is the STUN server, too. Over TCP, a STUN server is left out:
    where UDP is blocked, it delays each connection by five seconds.

    Raises:
        ArgumentTypeError: Endpoints do not understand the URL, or ignore it.
    """
    matched = _URL.fullmatch(text)
    if matched is None or not 0 < int(matched["port"] or 1) <= MAX_PORT:
        raise ArgumentTypeError(
            "expected a URL such as turn:turn.example.org:3478, "
            "turn:192.0.2.1?transport=tcp or turns:turn.example.org:5349; "
            "endpoints take no IPv6 address in it"
        )
    if matched["tls"] and matched["transport"] == "udp":
        raise ArgumentTypeError("endpoints ignore turns: over UDP")
    if matched["tls"] or matched["transport"] == "tcp":
        return [text]
    port = f":{matched['port']}" if matched["port"] else ""
    return [f"stun:{matched['host']}{port}", text]


def read_secret(file: Path) -> Secret:
    """Read the secret that the TURN server knows, too.

    Raises:
        ConfigError: The file cannot be read, others may read it, or it has no secret.
    """
    try:
        data = read_small(file, MAX_SECRET_CHARACTERS + 2)
        mode = file.stat().st_mode
    except OSError as error:
        raise _wrong(f"{file} cannot be read: {error.strerror}") from None
    if mode & stat.S_IRWXO:
        raise _wrong(f"others may read {file}: chmod o= it")
    text = data.decode("ascii", "replace").strip()
    has_length = MIN_SECRET_CHARACTERS <= len(text) <= MAX_SECRET_CHARACTERS
    if not has_length or not _SECRET.fullmatch(text):
        raise _wrong(
            f"{file} must hold static-auth-secret of the TURN server and nothing else: "
            f"{MIN_SECRET_CHARACTERS} or more characters without a space, such as "
            "'openssl rand -hex 32' prints"
        )
    return Secret(text)


def _wrong(message: str) -> ConfigError:
    return ConfigError([Problem("--secret-file", message)])


def credentials(secret: Secret, expiry: int, name: str | None) -> tuple[str, str]:
    """Make user name and password for a TURN server with ``use-auth-secret``.

    See draft-uberti-behave-turn-rest-00, section 2.2.

    Args:
        secret: What the TURN server has as ``static-auth-secret``.
        expiry: Unix time in seconds; later allocations are refused.
        name: Name for the TURN server's quota; None for none.
    """
    username = f"{expiry}:{name}" if name else str(expiry)
    digest = hmac.digest(secret.reveal().encode(), username.encode(), "sha1")
    return username, b64encode(digest).decode()


def table(urls: list[str], pair: tuple[str, str], expiry: int) -> str:
    """The TOML table of ICE servers, as `EndpointRelayICEServerConfig` reads it.

    Args:
        urls: From `ice_urls`.
        pair: From `credentials`.
        expiry: Unix time in seconds.
    """
    username, password = pair
    quoted = ", ".join(f'"{url}"' for url in urls)
    end = datetime.fromtimestamp(expiry, UTC)
    return "\n".join(
        (
            f"# Valid until {end:%Y-%m-%d %H:%M:%S} UTC. An endpoint reads this once,",
            "# at its start: replace it and restart the endpoint before that time.",
            "[[relay.ice_servers]]",
            f"urls = [{quoted}]",
            f'username = "{username}"',
            f'credential = "{password}"',
        )
    )
