"""Real endpoints in networks that do not reach each other, and Debian's coturn."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from unittest import SkipTest
from uuid import uuid4

from proxystore.endpoint.config import (
    EndpointConfig,
    EndpointRelayConfig,
    get_log_filepath,
    write_config,
)
from proxystore.endpoint.config import EndpointRelayICEServerConfig as Server

from proxyrelay.cli import turn
from proxyrelay.config import Secret
from tests.integration.test_real_clients import RealTestCase
from tests.support.namespaces import Namespace
from tests.support.processes import SCRIPTS, Process, RelayProcess, environment

CONF = Path(__file__).parents[2] / "conf"

PUBLIC = "203.0.113.1"
"""Address of the relay and of the TURN server, which both networks reach."""

CLIENTS = ("clients", "--pairs", "--admin", "127.0.0.1:8701")
"""Arguments of the command that asks the relay about its clients."""

ATTEMPTS = 3
"""Failing attempts of one pair."""

HASTE_SECONDS, PATIENCE_SECONDS = 4, 30
"""How long an endpoint waits for a connection to a peer; 30 is its own default."""

ENDPOINT = """
import functools, sys
import proxystore.endpoint.cli
from proxystore.endpoint import serve

async def nothing():
    pass

serve.check_nat_and_log = nothing
serve.PeerManager = functools.partial(serve.PeerManager, timeout=int(sys.argv.pop(1)))
proxystore.endpoint.cli.cli()
"""
"""``proxystore-endpoint`` with a timeout, and without its check by public servers."""

PUT = """
import json, sys
from proxystore.connectors.endpoint import EndpointConnector

home, mine = sys.argv[1:]
with EndpointConnector([mine], proxystore_dir=home) as connector:
    print("key", json.dumps(connector.put(b"an object")), flush=True)
"""

GET = """
import json, sys
from proxystore.connectors.endpoint import EndpointConnector, EndpointKey

home, mine, key = sys.argv[1:]
with EndpointConnector([mine], proxystore_dir=home) as connector:
    print("got", connector.get(EndpointKey(*json.loads(key))), flush=True)
"""
"""Programs of a user: one stores an object, the other fetches it elsewhere."""

ALLOCATE = """
import asyncio, sys
from aioice.stun import TransactionFailed
from aioice.turn import create_turn_endpoint

async def main(host, username, password):
    try:
        transport, _ = await create_turn_endpoint(
            asyncio.DatagramProtocol, (host, 3478), username, password
        )
    except TransactionFailed as error:
        print("refused with", error.response.error_code, flush=True)
    else:
        print("allocated", transport.get_extra_info("sockname"), flush=True)
        transport.close()

asyncio.run(main(*sys.argv[1:]))
"""
"""A client of the TURN server, with the library of endpoints."""


class Site:
    """A private network with an endpoint, behind a gateway."""

    def __init__(self, name: str, network: Namespace, folder: Path) -> None:
        self.name, self.network = name, network
        self.home = folder / name
        self.uuid = str(uuid4())
        self.log = Path(get_log_filepath(str(self.home / name)))

    def configure(self, url: str, ice_servers: list[Server] | None = None) -> None:
        config = EndpointConfig(
            name=self.name,
            uuid=self.uuid,
            host="127.0.0.1",
            host_type="static",
            port=8701,
            relay=EndpointRelayConfig(address=url, ice_servers=ice_servers),
        )
        write_config(config, str(self.home / self.name))

    def add(self, table: str) -> None:
        """Append to the configuration, as a user does."""
        path = self.home / self.name / "config.toml"
        with path.open("a", encoding="utf-8") as file:
            file.write(table)


class TurnTests(RealTestCase):
    def setUp(self) -> None:
        super().setUp()
        if shutil.which("turnserver") is None:
            raise SkipTest("no coturn on this machine")
        self.public = self.namespace()
        self.one, self.two = (
            Site(name, self.namespace(), self.folder) for name in ("one", "two")
        )
        self.sites = (self.one, self.two)
        for number, site in enumerate(self.sites, start=1):
            gateway = f"10.0.{number}.1"
            self.public.connect(site.network, f"{gateway}/24", f"10.0.{number}.2/24")
            site.network.ip("route", "add", "default", "via", gateway)
        self.public.ip("address", "add", f"{PUBLIC}/32", "dev", "lo")
        self.secret = self.folder / "secret"
        self.secret.touch(0o600)
        self.secret.write_text("0123456789abcdef" * 4)

    def namespace(self) -> Namespace:
        namespace = Namespace()
        self.addCleanup(namespace.end)
        return namespace

    def start_in(
        self, network: Namespace, *command: str | Path, **more: str
    ) -> Process:
        return self.start(*network.prefix, *command, env=environment(**more))

    def start_relay(self) -> RelayProcess:
        path = self.write_config(
            f"host = '{PUBLIC}'\nport = 8700\n[admin]\nlisten = '127.0.0.1:8701'\n"
        )
        relay = RelayProcess(
            ["--config", path, "--log-level", "DEBUG"],
            self.folder,
            prefix=self.public.prefix,
        )
        self.addCleanup(relay.end)
        return relay

    def start_turn_server(self) -> Process:
        """Start coturn with conf/turnserver.conf. It gives root up."""
        text = (CONF / "turnserver.conf").read_text()
        text += f"listening-ip={PUBLIC}\n"
        secret = self.secret.read_text()
        for old, new in (
            ("# static-auth-secret=", f"static-auth-secret={secret}"),
            ("# proc-user=", "proc-user="),
            ("# proc-group=", "proc-group="),
        ):
            self.assertIn(old, text)
            text = text.replace(old, new)
        path = self.folder / "turnserver.conf"
        path.touch(0o600)
        path.write_text(text)
        server = self.start_in(self.public, "turnserver", "-c", path, "--pidfile=")
        server.wait_for("New UID: turnserver")
        self.assertNotIn("Bad configuration", server.said)
        return server

    def start_endpoints(self, relay: RelayProcess, timeout: int) -> None:
        """Start both, whose waits for a connection take so many seconds."""
        started = [
            self.start_in(
                site.network,
                *(sys.executable, "-c", ENDPOINT, str(timeout)),
                *("start", site.name, "--no-detach"),
                PROXYSTORE_HOME=str(site.home),
            )
            for site in self.sites
        ]
        for site, endpoint in zip(self.sites, started, strict=True):
            endpoint.wait_for("Uvicorn running on")
            relay.wait_for(f"registered .* name='{site.name}' ")

    def put(self, site: Site) -> str:
        """Store an object at a site; returns its key."""
        program = (sys.executable, "-c", PUT, site.home, site.uuid)
        return self.start_in(site.network, *program).wait_for("key (.*)")[1]

    def get(self, site: Site, key: str) -> Process:
        """Fetch an object at a site."""
        program = (sys.executable, "-c", GET, site.home, site.uuid, key)
        return self.start_in(site.network, *program)

    def assert_relay_tells_why(self, relay: RelayProcess) -> None:
        """The relay has seen each attempt of two private addresses fail."""
        for kind, source in (("offer", self.two), ("answer", self.one)):
            said = relay.said.count(f" forwarded {kind} of {source.uuid} ")
            self.assertEqual(said, ATTEMPTS)
        listed = self.start_in(self.public, SCRIPTS / "proxyrelay", *CLIENTS)
        self.assertEqual(listed.wait(), 0, listed.said)
        for site in self.sites:
            self.assertIn(site.uuid, listed.said)
        why = "both sides offer private addresses only"
        self.assertIn(why, listed.said)
        relay.wait_for(why)

    def test_sites_apart_do_not_connect_by_themselves(self) -> None:
        relay = self.start_relay()
        for site in self.sites:
            site.configure(relay.url, ice_servers=[])
        self.start_endpoints(relay, HASTE_SECONDS)
        key = self.put(self.one)
        for _ in range(ATTEMPTS):
            user = self.get(self.two, key)
            self.assertEqual(user.wait(), 1, user.said)
            self.assertIn("Get failed with error code 500", user.said)
        for site in self.sites:
            self.assertIn("Timeout waiting for peer to peer", site.log.read_text())
        self.assert_relay_tells_why(relay)

    def test_sites_apart_exchange_an_object_through_turn(self) -> None:
        """One site speaks UDP with the TURN server, and the other one TCP."""
        command = (SCRIPTS / "proxyrelay", "turn", "--secret-file", self.secret)
        url = f"turn:{PUBLIC}:3478"
        users = (
            self.start(*command, "--user", "one", url),
            self.start(*command, "--user", "two", f"{url}?transport=tcp"),
        )
        self.start_turn_server()
        relay = self.start_relay()
        for site, user in zip(self.sites, users, strict=True):
            self.assertEqual(user.wait(), 0, user.said)
            site.configure(relay.url)
            site.add("\n".join([*user.output, ""]))
        self.start_endpoints(relay, PATIENCE_SECONDS)
        user = self.get(self.two, self.put(self.one))
        self.assertEqual(user.wait_for("got (.*)")[1], "b'an object'")

    def test_turn_server_takes_credentials_until_they_expire(self) -> None:
        self.start_turn_server()
        secret, now = Secret(self.secret.read_text()), int(time.time())
        for pair, expected in (
            (turn.credentials(secret, now + 600, "one"), "allocated"),
            (turn.credentials(secret, now + 600, None), "allocated"),
            (turn.credentials(secret, now - 600, "one"), "401"),
            (turn.credentials(Secret("another"), now + 600, "one"), "401"),
        ):
            program = (sys.executable, "-c", ALLOCATE, PUBLIC, *pair)
            user = self.start_in(self.one.network, *program)
            user.wait_for(expected)
