"""A relay on a reactor without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth.anonymous import AnonymousAuthenticator
from proxyrelay.config import Config
from proxyrelay.net import certificates as tls
from proxyrelay.net import listening
from proxyrelay.service.options import Options
from proxyrelay.service.relay_service import RelayService
from tests.support.capture import Capture

LOOPBACK = Config(host="127.0.0.1", port=0)


class Connection:
    """Stands for an open connection."""

    def __init__(self) -> None:
        self.aborted = 0
        self.closed = 0

    def close_going_away(self) -> None:
        self.closed += 1

    def abort(self) -> None:
        self.aborted += 1

    def refuse_for_drain(self) -> None:
        """Stay: this client is registered."""


class FolderTestCase(SynchronousTestCase):
    """Has a folder of its own, a place for relay.toml, and the log."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.path = self.folder / "relay.toml"
        self.captured = Capture(self)


class ServiceTestCase(SynchronousTestCase):
    """Starts relays, and stops them in the end."""

    def serve(
        self, settings: Config = LOOPBACK, pair: tls.KeyPair | None = None
    ) -> RelayService:
        self.relay, self.memory = relay_service(settings, pair)
        self.relay.startService()
        self.addCleanup(self.stop)
        return self.relay

    def stop(self) -> None:
        """Stop the relay, which has no connection left."""
        self.relay.factory.connections.clear()
        self.successResultOf(self.relay.stopService())

    def connected(self) -> Connection:
        connection: Any = Connection()
        self.relay.factory.connections.add(connection)
        return connection  # type: ignore[no-any-return]


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
