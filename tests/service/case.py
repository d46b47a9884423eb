"""A relay on a reactor without a network."""

from __future__ import annotations

from twisted.internet.testing import MemoryReactorClock

from proxyrelay.auth.anonymous import AnonymousAuthenticator
from proxyrelay.config import Config
from proxyrelay.net import certificates as tls
from proxyrelay.net import listening
from proxyrelay.service.options import Options
from proxyrelay.service.relay_service import RelayService

LOOPBACK = Config(host="127.0.0.1", port=0)


class Connection:
    """Stands for an open connection."""

    def __init__(self) -> None:
        self.aborted = 0
        self.shuts = 0

    def close_going_away(self) -> None:
        self.shuts += 1

    def abort(self) -> None:
        self.aborted += 1


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    (bound,) = listening.bind("127.0.0.1", 0)
    port: int = bound.getsockname()[1]
    bound.close()
    return port


def relay_service(
    settings: Config = LOOPBACK, pair: tls.KeyPair | None = None
) -> tuple[RelayService, MemoryReactorClock]:
    """A relay on a reactor without a network."""
    memory = MemoryReactorClock()
    relay = RelayService(settings, AnonymousAuthenticator(), pair, memory)
    return relay, memory


def parsed(*arguments: str) -> Options:
    """A command line, read."""
    options = Options()
    options.parseOptions(list(arguments))
    return options
