"""Errors of requests to Globus. Pure."""

from __future__ import annotations

from http import HTTPStatus

from proxyrelay.errors import ProxyRelayError

_TRANSIENT = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)


class GlobusError(ProxyRelayError):
    """A failed request to Globus; never the fault of a client.

    Attributes:
        status: HTTP status; None without a response.
        code: Error code in the body, such as ``invalid_client``.
        retry_after: Pause in seconds that the server asks for.
    """

    def __init__(
        self,
        message: str,
        status: int | None = None,
        code: str | None = None,
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after

    @property
    def is_about_request(self) -> bool:
        """Whether only this request is at fault, neither Globus nor the account."""
        status = self.status or 0
        return (
            HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
            and status not in _TRANSIENT
            and status != HTTPStatus.UNAUTHORIZED
        )

    @property
    def is_transient(self) -> bool:
        """Whether another attempt soon may succeed."""
        return self.status is None or self.status in _TRANSIENT

    @property
    def is_about_address(self) -> bool:
        """Whether ``service_url`` may be wrong."""
        return self.status == HTTPStatus.NOT_FOUND


class Unreachable(GlobusError):
    """No connection to Globus, or no trust in its certificate."""

    @property
    def is_about_address(self) -> bool:
        """Connection failures may mean a wrong ``service_url``."""
        return True


class Late(GlobusError):
    """No complete answer in time."""


class MissingSubject(GlobusError):
    """An active token without a ``sub``."""

    @property
    def is_about_request(self) -> bool:
        """The answer about the next token may be whole."""
        return True
