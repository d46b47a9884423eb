"""Stock clients behind the proxies of conf/, while the relay comes and goes."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from pathlib import Path
from socket import socket
from unittest import SkipTest
from uuid import UUID, uuid4

from proxystore.p2p.relay.client import RelayClient
from websockets.sync.client import connect

from tests.integration.test_twistd import TwistdTestCase
from tests.support.certificates import SETTINGS, Authority
from tests.support.cluster import ClusterTestCase
from tests.support.processes import PATIENCE, PAUSE, RelayProcess
from tests.support.recording import B, answer, offer, registration

CONF = Path(__file__).parent.parent.parent / "conf"

PROXY = "127.0.0.1"

SOON = 2.0
"""Seconds after which a client gives up waiting, in place of its usual 10."""


class HaproxyTests(TwistdTestCase):
    """conf/haproxy.cfg, and what holds for each proxy."""

    program = "haproxy"
    settings = "proxy_protocol = true\n"

    def setUp(self) -> None:
        super().setUp()
        # Debian keeps servers out of the path of users.
        path = shutil.which(self.program, path=f"{os.environ['PATH']}:/usr/sbin")
        if path is None:
            raise SkipTest(f"no {self.program} on this machine")
        self.path = path
        self.authority = authority = Authority()
        self.certfile, self.keyfile = authority.write(self.folder)
        self.context = authority.client_context()
        self.port, self.relay_port = self.reserve(), self.reserve()
        self.url = f"wss://{PROXY}:{self.port}"
        proxy = self.start(path, *self.options())
        # No proxy tells by itself that it listens.
        deadline = time.monotonic() + PATIENCE
        with socket() as client:
            while client.connect_ex((PROXY, self.port)) != 0:
                if time.monotonic() > deadline:
                    raise AssertionError(f"{self.program} does not listen")
                PAUSE.wait(0.02)
        self.assertEqual(proxy.said, "")

    def example(self, name: str, **replaced: str) -> str:
        """A file of conf/, with the ports and paths of the test."""
        text = (CONF / name).read_text()
        ports = {"127.0.0.1:8700": f"127.0.0.1:{self.relay_port}"}
        for old, new in {**ports, **replaced}.items():
            assert old in text, old
            text = text.replace(old, new)
        return text

    def options(self) -> list[str | Path]:
        both, file = self.folder / "both.pem", self.folder / "haproxy.cfg"
        both.write_text(self.certfile.read_text() + self.keyfile.read_text())
        places = {":443": f"{PROXY}:{self.port}", "/etc/haproxy/relay.pem": str(both)}
        text = self.example("haproxy.cfg", **places)
        file.write_text(f"global\n    maxconn 100\n{text}")
        return ["-db", "-f", file]

    def serve(self) -> RelayProcess:
        limits = f"[limits]\ntrusted_proxies = ['{PROXY}']\n"
        path = self.write_config(limits + self.settings)
        return self.relay("--config", path, port=self.relay_port)

    def client(self, uuid: UUID) -> RelayClient:
        return RelayClient(
            self.url, client_uuid=uuid, ssl_context=self.context, timeout=SOON
        )

    def test_client_waits_until_the_relay_is_there(self) -> None:
        """One that is answered anything, or cut off, raises and does not come back."""
        uuid = uuid4()

        async def scenario() -> None:
            client = self.client(uuid)
            coming = asyncio.create_task(client.connect())
            relay = await asyncio.to_thread(self.serve)
            await coming
            relay.wait_for(f"registered {uuid} ")
            await client.close()

        self.play(scenario())

    def test_client_survives_another_relay(self) -> None:
        relay = self.serve()
        uuid = uuid4()

        async def scenario() -> None:
            async with self.client(uuid) as client:
                relay.wait_for(f"registered {uuid} ")
                self.assertEqual(await asyncio.to_thread(relay.stop), 0)
                after = await asyncio.to_thread(self.serve)
                await asyncio.to_thread(after.wait_for, f"registered {uuid} ")
                # One that is closed while it comes back does not end.
                await client.connect()

        self.play(scenario())

    def test_relay_knows_where_a_client_comes_from(self) -> None:
        relay = self.serve()
        uuid = str(uuid4())
        client = connect(
            self.url,
            ssl=self.context,
            source_address=("127.0.0.2", 0),
            open_timeout=PATIENCE,
        )
        self.addCleanup(client.close)
        client.send(registration(uuid).decode())
        relay.wait_for(rf"registered {uuid} .* from 127\.0\.0\.2\b")


class HaproxyClusterTests(HaproxyTests, ClusterTestCase):
    """conf/haproxy-cluster.cfg, in front of two nodes; a third one never comes."""

    def options(self) -> list[str | Path]:
        text = (CONF / "haproxy-cluster.cfg").read_text()
        both, file = self.folder / "both.pem", self.folder / "haproxy.cfg"
        both.write_text(self.certfile.read_text() + self.keyfile.read_text())
        self.ports = [(self.reserve(), self.reserve()) for _ in range(3)]
        for number, (port, admin) in enumerate(self.ports):
            host = f"192.0.2.{11 + number}"
            checked = f"{host}:8700 check port 8701"
            self.assertIn(checked, text)
            text = text.replace(checked, f"{PROXY}:{port} check port {admin}")
            text = text.replace(f"{host}:8700 backup", f"{PROXY}:{port} backup")
        for old, new in (
            ("bind :443", f"bind {PROXY}:{self.port}"),
            ("/etc/haproxy/relay.pem", str(both)),
            ("/etc/haproxy/nodes.pem", str(self.authority.write_root(self.folder))),
        ):
            self.assertIn(old, text)
            text = text.replace(old, new)
        file.write_text(f"global\n    maxconn 100\n{text}")
        trial = self.start(self.path, "-c", "-f", file)
        self.assertEqual(trial.wait(), 0, trial.said)
        self.assertEqual(trial.errors, [])
        return ["-q", "-db", "-f", file]  # or it reports each node that is away

    def serve(self, number: int = 0) -> RelayProcess:
        port, admin = self.ports[number]
        text = (
            f"{SETTINGS}[limits]\ntrusted_proxies = ['{PROXY}']\n{self.settings}"
            f"[admin]\nlisten = '{PROXY}:{admin}'\n"
        )
        return self.node(f"node{number}", text, port)

    def test_draining_node_is_left_out_and_keeps_its_clients(self) -> None:
        first = self.serve()
        one = self.registered(self.url, self.context)
        second = self.serve(1)
        first.send(signal.SIGUSR2)
        first.wait_for("draining: ")
        two = self.registered(self.url, self.context, uuid=B)
        second.wait_for(f"registered {B} ")
        for source, target, text in ((one, two, offer()), (two, one, answer())):
            source.send(text.decode())
            self.assertEqual(target.recv(), text.decode())
        one.close()
        self.assertEqual(first.wait(), 0)
        two.ping()

    def test_client_of_a_killed_node_comes_back_to_the_other(self) -> None:
        nodes = [self.serve(0), self.serve(1)]
        uuid = uuid4()

        async def scenario() -> None:
            client = RelayClient(
                self.url, client_uuid=uuid, ssl_context=self.context, timeout=PATIENCE
            )
            async with client:
                home = ["node0", "node1"].index(self.holder(uuid) or "")
                await asyncio.to_thread(nodes[home].stop, signal.SIGKILL)
                other = nodes[1 - home]
                await asyncio.to_thread(other.wait_for, f"registered {uuid} ")
                await client.connect()

        self.play(scenario())


class NginxTests(HaproxyTests):
    program = "nginx"
    settings = ""

    def options(self) -> list[str | Path]:
        text = self.example(
            "nginx.conf",
            **{
                "    listen [::]:443 ssl;\n": "",
                "listen 443": f"listen {PROXY}:{self.port}",
                "/etc/nginx/relay/fullchain.pem": str(self.certfile),
                "/etc/nginx/relay/privkey.pem": str(self.keyfile),
            },
        )
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        places = "".join(f"{kind}_temp_path {self.folder};" for kind in kinds)
        file = self.folder / "nginx.conf"
        file.write_text(
            f"daemon off; master_process off; pid {self.folder}/nginx.pid;\n"
            "error_log stderr crit;\n"
            "events { worker_connections 100; }\n"
            f"http {{ access_log off; {places}\n{text}}}\n"
        )
        return ["-e", "stderr", "-c", file]
