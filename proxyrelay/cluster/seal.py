"""Sealed messages between nodes: AES-256-GCM (RFC 5116). Pure.

A sealed message is bound to its receiver: a client, or a node. So the engine's other
users can neither read a message, nor forge one, nor pass one on to another receiver.
The scripts have no key. So any user of the engine with PUBLISH can close connections.
"""

from __future__ import annotations

import binascii
import os
from collections.abc import Iterable
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 12
FINGERPRINT_BYTES = 4


class Unsealable(Exception):
    """No key of this node opens the message."""


def keys(text: str) -> list[bytes]:
    """Read a key file: a key in each line, as 64 hexadecimal digits.

    Raises:
        ValueError: A line is no key, or there is none.
    """
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    found = []
    for number, line in enumerate(lines, 1):
        try:
            key = binascii.unhexlify(line)
        except ValueError:  # `binascii.Error` is one
            key = b""
        if len(key) != KEY_BYTES:
            raise ValueError(
                f"must hold {2 * KEY_BYTES} hexadecimal digits in each line, unlike "
                f"those of key {number}"
            )
        found.append(key)
    if not found:
        raise ValueError(
            f"holds no key, such as 'openssl rand -hex {KEY_BYTES}' prints"
        )
    return found


def fingerprint(key: bytes) -> bytes:
    """Public name of a key, in `FINGERPRINT_BYTES`."""
    return sha256(b"proxyrelay cluster key" + key).digest()[:FINGERPRINT_BYTES]


class Seal:
    """Seals with the first key, and opens with all.

    Args:
        keys: Keys of `KEY_BYTES` each; none leaves messages as they are.
    """

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        self.use(keys)

    def use(self, keys: Iterable[bytes]) -> None:
        """Use other keys."""
        self._keys = {fingerprint(key): AESGCM(key) for key in keys}

    @property
    def fingerprints(self) -> list[str]:
        """Public names of the keys, the first of which seals."""
        return [name.hex() for name in self._keys]

    def seal(self, text: bytes, bound_to: bytes) -> bytes:
        """Seal a message.

        Args:
            text: The message.
            bound_to: Bytes that the receiver must know to open it.
        """
        for name, key in self._keys.items():
            nonce = os.urandom(NONCE_BYTES)
            return name + nonce + key.encrypt(nonce, text, bound_to)
        return text

    def open(self, sealed: bytes, bound_to: bytes) -> bytes:
        """Open a message.

        Raises:
            Unsealable: No key opens it.
        """
        if not self._keys:
            return sealed
        name, rest = sealed[:FINGERPRINT_BYTES], sealed[FINGERPRINT_BYTES:]
        try:
            key = self._keys[name]
            return key.decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], bound_to)
        except (KeyError, ValueError, InvalidTag):
            raise Unsealable from None
