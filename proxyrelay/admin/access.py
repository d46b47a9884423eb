"""Access to the private listener. No I/O.

A foreign name in ``Host`` means DNS rebinding: another page points its name here. A
token must be right, if there is one. Commands also need a header that no form of
another page can send.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

from proxyrelay.auth.policy import bearer
from proxyrelay.config import ALL_INTERFACES, Secret

_HOST = re.compile(r"(?:\[(?P<six>[^][]*)\]|(?P<name>[^]:[]+))(?::[0-9]*)?")

OWN_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names of this machine."""


class Access:
    """Checks callers of a place by its names, and by a token, if there is one."""

    def __init__(
        self, place: tuple[str, int] | Path, names: Iterable[str], token: Secret | None
    ) -> None:
        self._host = place[0].lower() if isinstance(place, tuple) else None
        self.change(names, token)

    def change(self, names: Iterable[str], token: Secret | None) -> None:
        """Apply other names and another token."""
        own = {*OWN_NAMES, self._host or "", *map(str.lower, names)}
        self._names = own - {"", *ALL_INTERFACES}  # these are no names
        self._token = None if token is None else token.reveal().encode()

    def knows(self, host: str | None) -> bool:
        """Whether a request with this ``Host`` header is meant for this listener."""
        if host is None or self._host is None:
            # Browsers send the header. No page reaches a socket in the file system.
            return True
        found = _HOST.fullmatch(host)  # RFC 9110, section 7.2
        name = "" if found is None else (found["six"] or found["name"]).lower()
        if name in self._names:
            return True
        # An address in place of a name cannot be rebound.
        return self._host in ALL_INTERFACES and _is_address(name)

    def admits(self, authorization: str | None) -> bool:
        """Whether this ``Authorization`` header has the token, if there is one."""
        if self._token is None:
            return True
        given = bearer(authorization or "")
        return given is not None and hmac.compare_digest(given.encode(), self._token)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
