"""Relays that are one cluster, on an engine of the tests' own."""

from __future__ import annotations

from typing import Any

from tests.support.engine import Engine
from tests.support.processes import ProcessTestCase, RelayProcess

PREFIX = "proxyrelay:1"


class ClusterTestCase(ProcessTestCase):
    """Starts an engine, and nodes that join it."""

    def setUp(self) -> None:
        super().setUp()
        self.engine = Engine()
        self.addCleanup(self.engine.stop)

    def node(self, name: str, text: str = "", port: int = 0) -> RelayProcess:
        """Run a relay, and wait until it has joined the cluster."""
        path = self.folder / f"{name}.toml"
        engine = f"[cluster]\nengine = 'unix:{self.engine.socket}'\nlease = 6\n"
        path.write_text(text + engine)
        options = ("--config", path, "--node", name, "--log-level", "DEBUG")
        relay = self.relay(*options, port=port)
        relay.wait_for("the link to the engine is ready")
        return relay

    def leases(self) -> set[str]:
        """Names of the nodes that have a lease."""
        keys: Any = self.engine.client.keys(f"{PREFIX}:n:*")
        return {key.decode().split(":")[3] for key in keys}

    def holder(self, uuid: object) -> str | None:
        """Name of the node that has a client; empty once it has left it."""
        found: Any = self.engine.client.hget(f"{PREFIX}:u:{uuid}", "n")
        return None if found is None else found.decode().partition(":")[0]
