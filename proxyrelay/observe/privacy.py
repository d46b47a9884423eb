"""The key of the pseudonyms, and the file that holds it."""

from __future__ import annotations

import os
from pathlib import Path
from secrets import token_bytes, token_hex

from proxyrelay.config import Logging
from proxyrelay.errors import ConfigError, Problem
from proxyrelay.observe.pseudonyms import Clear, Pseudonyms

SETTING = "logging.privacy_key_file"

KEY_BYTES = 32
"""Bytes of a new key, and of the shortest key file."""

KEY_CEILING = 1000
"""Bytes of the longest key file."""


def pseudonyms(settings: Logging) -> Clear:
    """Build the pseudonyms of users and addresses.

    Args:
        settings: The settings. A key file that does not exist is created.

    Raises:
        ConfigError: The key can be neither read nor made.
    """
    if not settings.privacy:
        return Clear()
    if settings.privacy_key_file is None:
        return Pseudonyms(token_bytes(KEY_BYTES))
    return Pseudonyms(_key(settings.privacy_key_file))


def problem(path: Path) -> str | None:
    """Problem of a key file, or None. Creates nothing."""
    try:
        _read(path)
    except FileNotFoundError:
        folder = path.parent
        if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
            return f"{folder} is no folder that {path.name} can be made in"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    except ValueError as error:
        return f"{path} {error}"
    return None


def _key(path: Path) -> bytes:
    try:
        try:
            return _read(path)
        except FileNotFoundError:
            return _make(path)
    except OSError as error:
        wrong = f"{path} cannot be read or made: {error.strerror}"
    except ValueError as error:
        wrong = f"{path} {error}"
    raise ConfigError([Problem(SETTING, wrong)])


def _read(path: Path) -> bytes:
    """The key in a file, without white space around it.

    Raises:
        OSError: It cannot be read.
        ValueError: It holds no key; the text says why.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError("is no regular file")
    with path.open("rb") as file:
        key = file.read(KEY_CEILING + 1).strip()
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
