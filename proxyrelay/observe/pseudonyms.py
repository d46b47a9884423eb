"""Names in the place of users and addresses, for those who read what is shown. Pure.

Whoever shows a user or an address, in a log or on a page, shows what one of these makes
of it. The rules never see a user's pseudonym: they compare the users themselves.
"""

from __future__ import annotations

import hmac

from proxyrelay.switchboard.user import ANONYMOUS

LENGTH = 16
"""Letters of a pseudonym: 64 bits, so that no two of a million are the same."""

LOCAL = "local"
"""What `proxyrelay.net.addresses.text` says of a client without an IP address."""

_MAPPED = "::ffff:"


class Clear:
    """Shows everything as it is."""

    def user(self, sub: str) -> str:
        """What to show for a user.

        Args:
            sub: The user's `proxyrelay.auth.policy.User.sub`.
        """
        return sub

    def address(self, text: str) -> str:
        """What to show for an address.

        Args:
            text: As `proxyrelay.net.addresses.text` spells it, with or without a port.
        """
        return text


class Pseudonyms(Clear):
    """Shows the same letters for the same user or host.

    They are a keyed hash (HMAC-SHA256), cut short: nobody can try all addresses without
    the key. A port is left out, so that all connections of a host look the same.

    Args:
        key: What only this installation knows; 32 bytes or more.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def user(self, sub: str) -> str:
        """What to show for a user; nobody is hidden behind ``anonymous``."""
        return sub if sub == ANONYMOUS.sub else self._name("user", sub)

    def address(self, text: str) -> str:
        """What to show for an address, whatever its port is."""
        if text == LOCAL:
            return text
        bracket, _, rest = text.partition("[")
        host = rest.partition("]")[0] if not bracket else text.partition(":")[0]
        return self._name("address", host.removeprefix(_MAPPED))

    def _name(self, kind: str, text: str) -> str:
        # A user must not look like an address that is spelt the same.
        whole = f"{kind} {text}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, whole, "sha256").hex()[:LENGTH]
