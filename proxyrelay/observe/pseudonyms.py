"""Pseudonyms of users and addresses, for logs and pages. Pure.

Every user and address that is shown passes through here. The rules never see a
pseudonym: they compare the users themselves.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable

from proxyrelay.switchboard.event import Event
from proxyrelay.switchboard.user import ANONYMOUS

LENGTH = 16
"""Letters of a pseudonym: 64 bits, so that no two of a million are the same."""

LOCAL = "local"
"""Text of `proxyrelay.net.addresses.text` for a client without an IP address."""

_MAPPED = "::ffff:"


class Clear:
    """Shows everything as it is."""

    def user(self, sub: str) -> str:
        """Text for a user.

        Args:
            sub: The user's `proxyrelay.switchboard.user.User.sub`.
        """
        return sub

    def shown(self, event: Event, names: Iterable[str]) -> dict[str, object]:
        """Some fields of an event, with the user as it is shown."""
        fields = {name: getattr(event, name) for name in names}
        if "user" in fields:
            fields["user"] = self.user(fields["user"])
        return fields

    def address(self, text: str) -> str:
        """Text for an address.

        Args:
            text: The address, as `proxyrelay.net.addresses.text` spells it, with or
                without a port.
        """
        return text


class Pseudonyms(Clear):
    """Shows the same letters for the same user or host.

    The letters are a keyed hash (HMAC-SHA256), cut short. Without the key nobody can
    find an address by trying all. A port is left out, so that all connections of a host
    look the same.

    Args:
        key: Secret of this installation; 32 bytes or more.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def user(self, sub: str) -> str:
        """Text for a user; ``anonymous`` stays."""
        return sub if sub == ANONYMOUS.sub else self._name("user", sub)

    def address(self, text: str) -> str:
        """Text for an address, without its port."""
        if text == LOCAL:
            return text
        bracket, _, rest = text.partition("[")
        host = rest.partition("]")[0] if not bracket else text.partition(":")[0]
        return self._name("address", host.removeprefix(_MAPPED))

    def _name(self, kind: str, text: str) -> str:
        # A user and an address of one spelling must look different.
        whole = f"{kind} {text}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, whole, "sha256").hex()[:LENGTH]
