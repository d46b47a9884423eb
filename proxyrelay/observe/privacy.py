"""Pseudonyms of users and addresses, and the file with their key.

Every user and address that is shown passes through here. The rules never see a
pseudonym: they compare the users themselves.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable
from pathlib import Path
from secrets import token_bytes, token_hex

from proxyrelay.config import Logging
from proxyrelay.errors import ConfigError, Problem
from proxyrelay.net.files import NotRegular, read_small
from proxyrelay.switchboard.events import Event
from proxyrelay.switchboard.user import ANONYMOUS

SETTING = "logging.privacy_key_file"

KEY_BYTES = 32
"""Bytes of a new key, and of the shortest key file."""

KEY_CEILING = 1000
"""Bytes of the longest key file."""

PSEUDONYM_LETTERS = 16
"""Letters of a pseudonym: 64 bits, so that no two of a million are the same."""

LOCAL = "local"
"""Text of `proxyrelay.net.addresses.text` for a client without an IP address."""

_MAPPED = "::ffff:"


class Pseudonyms:
    """Shows the same letters for the same user or host.

    The letters are a keyed hash (HMAC-SHA256), cut short. Without the key nobody can
    find an address by trying all. A port is left out, so that all connections of a host
    look the same.

    Args:
        key: Secret of this installation, `KEY_BYTES` or more; None to show users and
            addresses as they are.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key

    def user(self, sub: str) -> str:
        """Text for a user; ``anonymous`` stays."""
        if self._key is None or sub == ANONYMOUS.sub:
            return sub
        return _pseudonym(self._key, "user", sub)

    def address(self, text: str) -> str:
        """Text for an address that `proxyrelay.net.addresses.text` spelt."""
        if self._key is None or text == LOCAL:
            return text
        bracket, _, rest = text.partition("[")
        host = rest.partition("]")[0] if not bracket else text.partition(":")[0]
        return _pseudonym(self._key, "address", host.removeprefix(_MAPPED))

    def shown(self, event: Event, names: Iterable[str]) -> dict[str, object]:
        """Some fields of an event, with the user as it is shown."""
        fields = {name: getattr(event, name) for name in names}
        if "user" in fields:
            fields["user"] = self.user(fields["user"])
        return fields


def _pseudonym(key: bytes, kind: str, text: str) -> str:
    # A user and an address of one spelling must look different.
    whole = f"{kind} {text}".encode("utf-8", "surrogatepass")
    return hmac.digest(key, whole, "sha256").hex()[:PSEUDONYM_LETTERS]


def pseudonyms(settings: Logging) -> Pseudonyms:
    """Build the pseudonyms; a key file that does not exist is created.

    Raises:
        ConfigError: The key can be neither read nor made.
    """
    path = settings.privacy_key_file
    if not settings.privacy:
        return Pseudonyms()
    if path is None:
        return Pseudonyms(token_bytes(KEY_BYTES))
    try:
        return Pseudonyms(_read(path) or _make(path))
    except OSError as error:
        wrong = f"{path} cannot be read or made: {error.strerror}"
    except ValueError as error:
        wrong = f"{path} {error}"
    raise ConfigError([Problem(SETTING, wrong)])


def problem(path: Path) -> str | None:
    """Problem of a key file, or None. Creates nothing."""
    folder = path.parent
    try:
        if _read(path) is None and os.path.lexists(path):
            return f"{path} is a link to a file that is not there"
        if _read(path) is None and not os.access(folder, os.W_OK | os.X_OK):
            return f"{folder} is no folder that {path.name} can be made in"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    except ValueError as error:
        return f"{path} {error}"
    return None


def _read(path: Path) -> bytes | None:
    """The key in a file, without white space around it; None if there is no file.

    Raises:
        OSError: It cannot be read.
        ValueError: It holds no key; the text says why.
    """
    try:
        key = read_small(path, KEY_CEILING + 1).strip()
    except FileNotFoundError:
        return None
    except (NotRegular, IsADirectoryError):
        raise ValueError("is no regular file") from None
    if not KEY_BYTES <= len(key) <= KEY_CEILING:
        raise ValueError(
            f"holds no key: expected {KEY_BYTES} to {KEY_CEILING} bytes that nobody "
            "can guess; delete it, and the relay makes one"
        )
    return key


def _make(path: Path) -> bytes:
    key = token_hex(KEY_BYTES).encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(key + b"\n")
    except OSError:
        path.unlink()  # Half a key would be refused at the next start.
        raise
    return key
