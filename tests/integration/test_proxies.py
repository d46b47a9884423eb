"""Stock clients behind the proxies of conf/, while the relay comes and goes."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any
from unittest import SkipTest
from uuid import uuid4

from proxystore.p2p.relay.client import RelayClient
from websockets.sync.client import connect

from tests.integration.test_twistd import TwistdTestCase
from tests.support.certificates import Authority
from tests.support.processes import PATIENCE, RelayProcess
from tests.support.recording import registration

CONF = Path(__file__).parent.parent.parent / "conf"

PROXY = "127.0.0.1"

PAUSE = threading.Event()

SOON = 2.0
"""Seconds after which a client gives up waiting, in place of its usual 10."""


class ProxyMixin:
    """What holds for each proxy.

    Attributes:
        program: The proxy.
        settings: What the relay needs for it.
    """

    program = ""
    settings = ""

    def setUp(self: Any) -> None:
        super().setUp()  # type: ignore[misc]
        if self.found() is None:
            raise SkipTest(f"no {self.program} on this machine")
        authority = Authority()
        authority.write(self.folder)
        self.context: ssl.SSLContext = authority.client_context()
        self.port, self.relay_port = self.reserve(), self.reserve()
        self.url = f"wss://{PROXY}:{self.port}"
        self.proxy()

    def found(self: Any) -> str | None:
        """Where the proxy is."""
        # Debian keeps servers out of the path of users.
        path = f"{os.environ['PATH']}:/usr/sbin"
        program: str = self.program
        return shutil.which(program, path=path)

    def proxy(self: Any) -> None:
        """Start it, and wait until it listens."""
        raise NotImplementedError

    def wait_until_it_listens(self: Any) -> None:
        """Ask; no proxy tells by itself."""
        deadline = time.monotonic() + PATIENCE
        with socket.socket() as client:
            while client.connect_ex((PROXY, self.port)) != 0:
                if time.monotonic() > deadline:
                    raise AssertionError(f"{self.program} does not listen")
                PAUSE.wait(0.02)

    def example(self: Any, name: str, **replaced: str) -> str:
        """A file of conf/, with the ports and paths of the test."""
        text = (CONF / name).read_text()
        ports = {"127.0.0.1:8700": f"127.0.0.1:{self.relay_port}"}
        for old, new in {**ports, **replaced}.items():
            assert old in text, old
            text = text.replace(old, new)
        return text

    def serve(self: Any) -> RelayProcess:
        """Start the relay."""
        path = self.write_config(f"[limits]\ntrusted_proxies = ['{PROXY}']\n")
        with path.open("a") as file:
            file.write(self.settings)
        relay: RelayProcess = self.relay("--config", path, port=self.relay_port)
        return relay

    def test_a_client_waits_until_the_relay_is_there(self: Any) -> None:
        """One that is answered anything, or cut off, raises and does not come back."""
        uuid = uuid4()

        async def scenario() -> None:
            client = RelayClient(
                self.url, client_uuid=uuid, ssl_context=self.context, timeout=SOON
            )
            coming = asyncio.create_task(client.connect())
            relay = await asyncio.to_thread(self.serve)
            await coming
            relay.wait_for(f"registered {uuid} ")
            await client.close()

        self.play(scenario())

    def test_a_client_survives_another_relay(self: Any) -> None:
        relay = self.serve()
        uuid = uuid4()

        async def scenario() -> None:
            async with RelayClient(
                self.url, client_uuid=uuid, ssl_context=self.context, timeout=SOON
            ) as client:
                relay.wait_for(f"registered {uuid} ")
                self.assertEqual(await asyncio.to_thread(relay.stop), 0)
                after = await asyncio.to_thread(self.serve)
                await asyncio.to_thread(after.wait_for, f"registered {uuid} ")
                # One that is closed while it comes back does not end.
                await client.connect()

        self.play(scenario())

    def test_the_relay_knows_where_a_client_comes_from(self: Any) -> None:
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


class HaproxyTests(ProxyMixin, TwistdTestCase):
    """conf/haproxy.cfg."""

    program = "haproxy"
    settings = "proxy_protocol = true\n"

    def proxy(self) -> None:
        both = self.folder / "both.pem"
        both.write_bytes(
            (self.folder / "cert.pem").read_bytes()
            + (self.folder / "privkey.pem").read_bytes()
        )
        text = self.example(
            "haproxy.cfg",
            **{
                ":443": f"{PROXY}:{self.port}",
                "/etc/haproxy/relay.pem": str(both),
            },
        )
        file = self.folder / "haproxy.cfg"
        file.write_text(f"global\n    maxconn 100\n{text}")
        proxy = self.start(str(self.found()), "-db", "-f", file)
        self.wait_until_it_listens()
        self.assertEqual(proxy.said, "")


class NginxTests(ProxyMixin, TwistdTestCase):
    """conf/nginx.conf."""

    program = "nginx"

    def proxy(self) -> None:
        text = self.example(
            "nginx.conf",
            **{
                "    listen [::]:443 ssl;\n": "",
                "listen 443": f"listen {PROXY}:{self.port}",
                "/etc/nginx/relay/fullchain.pem": str(self.folder / "cert.pem"),
                "/etc/nginx/relay/privkey.pem": str(self.folder / "privkey.pem"),
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
        proxy = self.start(str(self.found()), "-e", "stderr", "-c", file)
        self.wait_until_it_listens()
        self.assertEqual(proxy.said, "")
