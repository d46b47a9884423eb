"""Answers of the private listener that are errors, come later, or come in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

from msgspec import Struct
from twisted.internet.interfaces import IPullProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from proxyrelay.admin.site import PrivateRequest, encode_json

_log = Logger()

Found = TypeVar("Found")


class Trouble(Exception):
    """An HTTP status and an error text in place of an answer."""


def guarded(request: PrivateRequest, answer: Callable[[], bytes | int]) -> bytes | int:
    """An answer, or an error in its place."""
    try:
        return answer()
    except Trouble as trouble:
        status, text = trouble.args
        return request.json({"error": text}, status)
    except Exception:
        _log.failure("a request to the private listener failed")
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        return request.json({"error": "see the log of the relay"}, status)


def later(
    request: PrivateRequest,
    ask: Callable[[Callable[[Found], None]], None],
    answer: Callable[[Found], bytes | int],
) -> int:
    """Answer a request when something is known, if the caller is still there.

    Args:
        request: The request.
        ask: Asks for it.
        answer: Makes an answer of it, as for `guarded`.
    """
    gone: list[Failure] = []
    request.notifyFinish().addErrback(gone.append)

    def known(found: Found) -> None:
        if gone:
            return
        body = guarded(request, partial(answer, found))
        if isinstance(body, bytes):
            request.setHeader("Content-Length", str(len(body)))
            request.write(body)
            request.finish()

    ask(known)
    return NOT_DONE_YET


def in_pieces(
    request: PrivateRequest, head: Struct, batches: Iterable[list[Any]]
) -> int:
    """Answer with batches of a list; ``head`` has that list last, and empty."""
    request.setHeader("Content-Type", "application/json")
    pieces = _pieces(encode_json(head).removesuffix(b"]}"), batches)
    request.registerProducer(PieceProducer(request, pieces), False)
    return NOT_DONE_YET


def _pieces(head: bytes, batches: Iterable[list[Any]]) -> Iterator[bytes]:
    yield head
    comma = b""
    for batch in filter(None, batches):
        yield comma + b",".join(map(encode_json, batch))
        comma = b","
    yield b"]}"


@implementer(IPullProducer)
class PieceProducer:
    """Sends an answer in pieces, one in a turn of the reactor.

    A long answer at once blocks the reactor, and fills the memory for a slow reader.
    """

    def __init__(self, request: Request, pieces: Iterator[bytes]) -> None:
        self._request = request
        self._pieces = pieces

    def resumeProducing(self) -> None:
        """Send one piece."""
        piece = next(self._pieces, None)
        if piece is None:
            self._request.unregisterProducer()
            self._request.finish()
        else:
            self._request.write(piece)

    def stopProducing(self) -> None:
        """Stop, since the reader is gone."""
        self._pieces = iter(())
