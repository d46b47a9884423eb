"""The client for Twisted programs against real relays, ours and the reference."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, ClassVar

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from proxyrelay.auth import Authenticator
from proxyrelay.client import NotConnected, PeerConnection, Rejected, RelayClient
from proxyrelay.errors import Unauthorized
from tests.support.certificates import SETTINGS, Authority
from tests.support.processes import (
    PATIENCE,
    SCRIPTS,
    Process,
    ProcessTestCase,
    RelayProcess,
    environment,
)
from tests.support.served import RelayTestCase, StillAuthenticator

reactor: Any = _reactor


def description(kind: str) -> str:
    """A session description that says nothing about how to connect."""
    return json.dumps({"sdp": "v=0", "type": kind})


class Pair:
    """Two clients, the second of which answers each offer."""

    def __init__(self, url: str, **options: Any) -> None:
        self.answers: list[PeerConnection] = []
        self.lost: list[Exception] = []
        self.news: Deferred[PeerConnection] = Deferred()
        options.update(lost=lambda why, _: self.lost.append(why))
        self.one = RelayClient(reactor, url, self._answered, **options)
        self.two = RelayClient(reactor, url, self._offered, **options)

    def _answered(self, message: PeerConnection) -> None:
        self.news.callback(message)

    def _offered(self, message: PeerConnection) -> None:
        assert message.description_type == "offer"
        self.two.answer(self.one.uuid, description("answer"))

    def start(self) -> None:
        self.one.start()
        self.two.start()

    async def registered(self) -> None:
        await self.one.registered().addTimeout(PATIENCE, reactor)
        await self.two.registered().addTimeout(PATIENCE, reactor)

    async def exchange(self) -> PeerConnection:
        self.news = Deferred()
        self.news.addTimeout(PATIENCE, reactor)
        self.one.offer(self.two.uuid, description("offer"))
        return await self.news

    async def stop(self) -> None:
        await self.one.stop()
        await self.two.stop()


def scenario(
    method: Callable[[Any], Coroutine[Any, Any, None]],
) -> Callable[[Any], Deferred[None]]:
    """Run a coroutine on the reactor of the tests."""
    return lambda self: Deferred.fromCoroutine(method(self))


def trust(folder: Path, authority: Authority) -> Any:
    """An authority as a client's trust root."""
    pem = authority.write_root(folder).read_bytes()
    return trustRootFromCertificates([Certificate.loadPEM(pem)])


class ProcessesTestCase(TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    async def relay(self, *options: str | Path, port: int = 0) -> RelayProcess:
        where = ["--host", "127.0.0.1", "--port", str(port)]
        relay: RelayProcess = await deferToThread(
            RelayProcess, [*where, *options], self.folder
        )
        self.addCleanup(relay.end)
        return relay

    def pair(self, url: str, **options: Any) -> Pair:
        pair = Pair(url, **options)
        self.addCleanup(lambda: Deferred.fromCoroutine(pair.stop()))
        return pair


class OurRelayTests(ProcessesTestCase):
    @scenario
    async def test_exchange_over_tls_goes_on_after_a_restart(self) -> None:
        authority = Authority()
        authority.write(self.folder)
        config = self.folder / "relay.toml"
        config.write_text(SETTINGS)
        relay = await self.relay("--config", config)
        url = relay.url.replace("127.0.0.1", "localhost")
        pair = self.pair(url, trust_root=trust(self.folder, authority))
        pair.start()
        await pair.registered()
        answer = await pair.exchange()
        self.assertEqual(answer.source_uuid, str(pair.two.uuid))

        self.assertEqual(await deferToThread(relay.stop, signal.SIGTERM), 0)
        relay = await self.relay("--config", config, port=relay.port)
        await pair.registered()
        answer = await pair.exchange()
        self.assertIsNone(answer.error)
        self.assertIn("1001", " ".join(map(str, pair.lost)))

    @scenario
    async def test_untrusted_certificate_is_no_connection(self) -> None:
        Authority().write(self.folder)
        config = self.folder / "relay.toml"
        config.write_text(SETTINGS)
        relay = await self.relay("--config", config)
        lost: Deferred[Exception] = Deferred()

        def tell(why: Exception, _: float) -> None:
            if not lost.called:
                lost.callback(why)

        client = RelayClient(
            *(reactor, relay.url, print),
            trust_root=trust(self.folder, Authority()),
            lost=tell,
        )
        client.start()
        why = await lost.addTimeout(PATIENCE, reactor)
        self.assertIsInstance(why, NotConnected)
        self.assertIn("certificate verify failed", str(why))
        await client.stop()

    @scenario
    async def test_offer_to_nobody_comes_back_with_an_error(self) -> None:
        relay = await self.relay()
        pair = self.pair(relay.url)
        pair.one.start()
        await pair.one.registered()
        answer = await pair.exchange()
        self.assertIn("not registered", answer.error or "")

    @scenario
    async def test_second_client_with_a_uuid_ends_the_first(self) -> None:
        relay = await self.relay()
        first = self.pair(relay.url).one
        first.start()
        await first.registered()
        ended = first.ended()
        second = RelayClient(reactor, relay.url, print, uuid=first.uuid)
        second.start()
        await second.registered()
        try:
            await ended.addTimeout(PATIENCE, reactor)
        except Rejected as why:
            self.assertEqual(why.code, 4004)
        else:
            self.fail("it goes on")
        await second.stop()


class ExampleTests(ProcessTestCase):
    def test_example_of_the_guide_exchanges_an_offer_and_its_answer(self) -> None:
        relay = self.relay()
        example = Path(__file__).parents[2] / "docs" / "guides" / "client.py"
        where = environment(PYTHONPATH=str(Path(__file__).parents[2]))
        command = [sys.executable, example, relay.url]
        first = self.start(*command, env=where)
        peer = first.wait_for("registered as (.+)")[1]
        second = self.start(*command, peer, env=where)
        own = second.wait_for("registered as (.+)")[1]
        second.wait_for(f"answer from {peer}")
        first.wait_for(f"offer from {own}")
        self.assertEqual(relay.stop(), 0)
        first.wait_for("^lost: 1001 ")
        for process in (first, second):
            process.stop(signal.SIGINT)
            self.assertNotIn("Traceback", process.said)

    def test_example_of_the_guide_without_a_relay_is_stopped_quietly(self) -> None:
        example = Path(__file__).parents[2] / "docs" / "guides" / "client.py"
        where = environment(PYTHONPATH=str(Path(__file__).parents[2]))
        process = self.start(sys.executable, example, "ws://127.0.0.1:1", env=where)
        process.wait_for("^lost: .*refused")
        process.stop(signal.SIGINT)
        self.assertEqual(process.output[-1], "stopped")
        self.assertEqual(process.errors, [])

    def test_example_of_the_guide_with_wrong_words_ends_in_one_line(self) -> None:
        example = Path(__file__).parents[2] / "docs" / "guides" / "client.py"
        where = environment(PYTHONPATH=str(Path(__file__).parents[2]))
        for words in (("http://a",), ("ws://127.0.0.1:1", "nope")):
            process = self.start(sys.executable, example, *words, env=where)
            self.assertEqual(process.wait(), 1)
            self.assertRegex(process.said, "^wrong argument: [^\n]+$")


class TokenAuthenticator(StillAuthenticator):
    """Takes one token."""

    def authenticate(self, headers: Any, source: str) -> Any:
        raise Unauthorized("Bearer token has expired.")


class RejectionTests(RelayTestCase):
    def authenticator(self) -> Authenticator:
        return TokenAuthenticator()

    @scenario
    async def test_wrong_token_ends_the_client(self) -> None:
        client = RelayClient(
            *(reactor, self.url, print), authorization=lambda: "Bearer wrong"
        )
        client.start()
        try:
            await client.registered().addTimeout(PATIENCE, reactor)
        except Rejected as why:
            self.assertEqual(why.code, 4001)
            self.assertIn("expired", why.reason)
        else:
            self.fail("it is registered")


class ReferenceTests(ProcessesTestCase):
    SETTINGS: ClassVar[dict[bool, str]] = {False: "", True: SETTINGS}

    async def reference(self, port: int, secure: bool) -> Process:
        config = self.folder / "reference.toml"
        config.write_text(f'host = "127.0.0.1"\nport = {port}\n{self.SETTINGS[secure]}')
        command = [str(SCRIPTS / "proxystore-relay"), "--config", str(config)]
        process = Process(command, self.folder)
        self.addCleanup(process.end)
        await deferToThread(process.wait_for, "listening|serving|Serving")
        return process

    def reserve(self) -> int:
        """A port that the system gives to nobody else until the test ends."""
        holder = socket.socket()
        self.addCleanup(holder.close)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        return port

    @scenario
    async def test_exchange_goes_on_after_a_restart(self) -> None:
        for secure in (False, True):
            authority = Authority()
            authority.write(self.folder)
            port = self.reserve()
            process = await self.reference(port, secure)
            scheme = "wss" if secure else "ws"
            pair = self.pair(
                f"{scheme}://localhost:{port}",
                trust_root=trust(self.folder, authority),
            )
            pair.start()
            await pair.registered()
            self.assertIsNone((await pair.exchange()).error)
            await deferToThread(process.end)
            process = await self.reference(port, secure)
            await pair.registered()
            self.assertIsNone((await pair.exchange()).error)
            await pair.stop()
