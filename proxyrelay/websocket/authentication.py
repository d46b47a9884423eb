"""The result of an authentication: a user, or a refusal. It never fails.

`proxyrelay.auth.policy` reads the bearer token; an `Authenticator` decides about it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from proxyrelay.auth import Authenticator
from proxyrelay.errors import Refusal, TryAgainLater
from proxyrelay.switchboard.user import User

_log = Logger()


def authenticate(
    authenticator: Authenticator,
    headers: Mapping[str, str],
    source: str,
    address: str,
    decided: Callable[[User | Refusal], None],
) -> Deferred[Any]:
    """Find the user of a request, and call ``decided``, also after a cancellation.

    The names of ``headers`` are in lower case. Limits know the ``source``, an address
    or a network. The log has the ``address``.
    """

    def refuse(failure: Failure) -> Refusal:
        if isinstance(failure.value, Refusal):
            # The frames of the traceback hold the token.
            return failure.value.with_traceback(None)
        if failure.check(CancelledError):
            return TryAgainLater("Authentication took too long.")
        _log.failure("authenticating {address} failed", failure, address=address)
        return TryAgainLater("Authentication is out of order.")

    asked: Deferred[Any] = maybeDeferred(authenticator.authenticate, headers, source)
    return asked.addErrback(refuse).addCallback(decided)
