"""Globus Auth, with a stand-in for the service: clients, outages, secrets, commands."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus
from uuid import uuid4

from proxystore.p2p.relay.client import RelayClient
from proxystore.p2p.relay.messages import PeerConnectionRequest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from proxyrelay.auth.http import MAX_CONNECTIONS
from tests.integration.test_real_clients import RealTestCase, request
from tests.support.certificates import Authority
from tests.support.globus_service import (
    CLIENT_ID,
    RELAY_ALL,
    SECRET,
    GlobusService,
    sub,
    token,
)
from tests.support.processes import PATIENCE, SCRIPTS, RelayProcess, environment
from tests.support.recording import offer, registration

ROOT = Path(__file__).parents[2]

OTHER_ID = "ebd5bbed-95e2-47cf-9c80-39e2064274bd"

WRONG_SECRET = "no-secret-of-anybody"

FROM_OUTSIDE = (
    "PROXYSTORE_GLOBUS_CLIENT_ID",
    "PROXYSTORE_GLOBUS_CLIENT_SECRET",
    "CREDENTIALS_DIRECTORY",
)


class Watched(RelayClient):
    """Tells when the relay has sent it away."""

    def __init__(self, address: str, **options: object) -> None:
        super().__init__(address, **options)  # type: ignore[arg-type]
        self.refused = asyncio.Event()

    async def _register(self, timeout: float) -> ClientConnection:
        try:
            return await super()._register(timeout)
        except ConnectionClosed:
            self.refused.set()
            raise


class GlobusTestCase(RealTestCase):
    """Gives each test a stand-in for Globus, whose certificate relays trust."""

    def setUp(self) -> None:
        super().setUp()
        self.authority = Authority()
        certificate, key = self.authority.write(self.folder)
        self.context = self.authority.client_context()
        root = self.authority.write_root(self.folder)
        self.environment = environment(SSL_CERT_FILE=str(root))
        for name in FROM_OUTSIDE:
            self.environment.pop(name, None)
        self.globus = GlobusService(certificate, key, ROOT)
        self.addCleanup(self.globus.end)

    def configure(self, **arguments: object) -> Path:
        """Write a relay.toml for wss and Globus Auth; None leaves a default out."""
        given: dict[str, object] = {
            "client_id": CLIENT_ID,
            "client_secret": SECRET,
            "audience": CLIENT_ID,
            "service_url": self.globus.url,
            **arguments,
        }
        lines = [
            'certfile = "cert.pem"',
            'keyfile = "privkey.pem"',
            "[logging]",
            'default_level = "DEBUG"',
            'websockets_level = "DEBUG"',
            "[auth]",
            'method = "globus"',
            "[auth.kwargs]",
        ]
        lines += [
            f"{name} = {json.dumps(value)}"
            for name, value in given.items()
            if value is not None
        ]
        config = self.folder / "relay.toml"
        config.write_text("\n".join(lines) + "\n")
        return config

    def globus_relay(self, **arguments: object) -> RelayProcess:
        """Run a relay that asks the stand-in, and has tried its credentials."""
        config = self.configure(**arguments)
        relay = self.relay("--config", config, env=self.environment)
        relay.wait_for("Globus Auth (knows|.*(could not be tried|secret is wrong))")
        return relay

    def proxyrelay(
        self, *arguments: str | Path, stdin: str | None = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run the command to its end, with nothing to read if ``stdin`` is None."""
        done = subprocess.run(
            [SCRIPTS / "proxyrelay", *arguments],
            cwd=self.folder,
            env=self.environment,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        self.assertNotIn("Traceback", done.stderr)
        self.assertNotIn(SECRET, done.stdout + done.stderr)
        return done

    def headers(self, bearer: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {bearer}"}

    def client(
        self, relay: RelayProcess, bearer: str, kind: type[RelayClient] = RelayClient
    ) -> RelayClient:
        """The real client, with a token."""
        return kind(
            relay.url, ssl_context=self.context, extra_headers=self.headers(bearer)
        )

    async def upgrade(
        self, relay: RelayProcess, headers: dict[str, str] | None
    ) -> ClientConnection:
        """Open a WebSocket, which always succeeds."""
        return await connect(
            relay.url,
            ssl=self.context,
            additional_headers=headers,
            compression=None,
            open_timeout=PATIENCE,
        )

    async def end_of(
        self, relay: RelayProcess, headers: dict[str, str] | None
    ) -> tuple[int | None, str | None]:
        """How the relay closes a new connection."""
        client = await self.upgrade(relay, headers)
        await asyncio.wait_for(client.wait_closed(), PATIENCE)
        return client.close_code, client.close_reason

    async def refused(self, relay: RelayProcess, bearer: str) -> str | None:
        """Why a token is refused for good."""
        code, reason = await self.end_of(relay, self.headers(bearer))
        self.assertEqual(code, 4002)
        return reason

    async def sent_away(self, relay: RelayProcess, bearer: str) -> None:
        """A token gets a client told to come back."""
        code, _ = await self.end_of(relay, self.headers(bearer))
        self.assertEqual(code, 1013)

    async def enter(
        self, relay: RelayProcess, bearer: str, uuid: str | None = None
    ) -> ClientConnection:
        """Connect and register."""
        client = await self.upgrade(relay, self.headers(bearer))
        await client.send(registration(uuid or uuid4()).decode())
        reply = await asyncio.wait_for(client.recv(), PATIENCE)
        self.assertIn('"success": true', str(reply))
        return client

    async def exchange(self, one: RelayClient, two: RelayClient) -> None:
        """An offer goes one way, and an answer the other."""
        for source, target, kind in ((one, two, "offer"), (two, one, "answer")):
            sent = request(source, target, kind)
            await source.send(sent)
            received = await asyncio.wait_for(target.recv(), PATIENCE)
            self.assertEqual(received, sent)

    def assert_silent(self, text: str, *secrets: str) -> None:
        """Nothing that could be used instead of a secret is in a text."""
        self.assertNotEqual(text, "")
        for secret in secrets:
            encoded = base64.b64encode(secret.encode()).decode()
            for spelling in (
                *(secret, quote(secret), quote_plus(secret), quote(secret, safe="")),
                *(encoded, encoded.rstrip("=")),
            ):
                self.assertNotIn(spelling, text)


class ClientTests(GlobusTestCase):
    """Who gets in, and who meets whom."""

    def test_a_real_client_registers_and_exchanges_an_offer(self) -> None:
        relay = self.globus_relay()

        async def scenario() -> None:
            async with (
                self.client(relay, token()) as one,
                self.client(relay, token()) as two,
            ):
                await self.exchange(one, two)
                relay_line = f"registered {one.uuid} .* user='{sub('jo')}' "
                await asyncio.to_thread(relay.wait_for, relay_line)

        self.play(scenario())
        self.assertEqual(relay.stop(), 0)
        self.assertEqual(relay.errors, [])

    def test_who_does_not_say_who_it_is(self) -> None:
        relay = self.globus_relay()
        lacking = "UnauthorizedError: The request has no Authorization header."
        no_bearer = "UnauthorizedError: The Authorization header holds no bearer token."
        malformed = "UnauthorizedError: The bearer token is malformed."
        cases: list[tuple[dict[str, str] | None, str]] = [
            (None, lacking),
            ({"Authorization": "Basic am86am8="}, no_bearer),
            ({"Authorization": token()}, no_bearer),
            ({"Authorization": "Bearer"}, malformed),
            ({"Authorization": "Bearer two words"}, malformed),
            ({"Authorization": 'Bearer "quoted"'}, malformed),
        ]

        async def scenario() -> None:
            for headers, reason in cases:
                self.assertEqual(await self.end_of(relay, headers), (4001, reason))

        self.play(scenario())
        self.assertEqual(self.globus.tell()["total"], 0)

    def test_whose_token_is_not_taken(self) -> None:
        relay = self.globus_relay(
            denied_users=[sub("eve")], denied_domains=["evil.example"]
        )
        stopped = "The token is expired or has been revoked."
        audience = f"The token is not meant for {CLIENT_ID}."
        scope = f"The token lacks the scope {CLIENT_ID}/relay_all."
        listed = "This identity may not use this relay."
        cases = [
            (token(active=False), stopped),
            ("unknown-to-globus", stopped),
            (token(exp=1700000001), "The token has expired."),
            (token(aud=[OTHER_ID]), audience),
            (token(aud=None), audience),
            (token(scope="openid email"), scope),
            (token(scope=None), scope),
            (token("eve"), listed),
            (token(username="Jo@Evil.Example"), listed),
        ]

        async def scenario() -> None:
            for bearer, reason in cases:
                refused = await self.refused(relay, bearer)
                self.assertEqual(refused, f"ForbiddenError: {reason}")
            taken = token(scope=f"openid {RELAY_ALL}", aud=[OTHER_ID, CLIENT_ID])
            await (await self.enter(relay, taken)).close()

        self.play(scenario())

    def test_only_listed_users(self) -> None:
        relay = self.globus_relay(
            allowed_users=[sub("jo")], allowed_domains=["Lab.Example"]
        )

        async def scenario() -> None:
            await (await self.enter(relay, token("jo"))).close()
            member = token("kim", username="kim@lab.example")
            await (await self.enter(relay, member)).close()
            await self.refused(relay, token("ann"))

        self.play(scenario())

    def test_refusals_are_final_for_a_real_client(self) -> None:
        relay = self.globus_relay(denied_users=[sub("eve")])
        cases: list[tuple[dict[str, str], int]] = [
            ({}, 4001),
            (self.headers("not a token"), 4001),
            (self.headers(token(active=False)), 4002),
            (self.headers(token(aud=[OTHER_ID])), 4002),
            (self.headers(token(scope="openid")), 4002),
            (self.headers(token("eve")), 4002),
        ]

        async def scenario() -> None:
            for headers, code in cases:
                client = RelayClient(
                    relay.url, ssl_context=self.context, extra_headers=headers
                )
                # It would retry, and so never return, if it could.
                with self.assertRaises(ConnectionClosed) as caught:
                    await asyncio.wait_for(client.connect(), PATIENCE)
                received = caught.exception.rcvd
                assert received is not None
                self.assertEqual(received.code, code)
                await client.close()

        self.play(scenario())

    def test_an_uuid_belongs_to_one_user(self) -> None:
        relay = self.globus_relay()
        uuid = str(uuid4())

        async def scenario() -> None:
            owner = await self.enter(relay, token("jo"), uuid)
            thief = await self.upgrade(relay, self.headers(token("eve")))
            await thief.send(registration(uuid).decode())
            await asyncio.wait_for(thief.wait_closed(), PATIENCE)
            self.assertEqual(
                (thief.close_code, thief.close_reason),
                (
                    4002,
                    f"ForbiddenError: The client UUID {uuid} is already registered to "
                    "another user.",
                ),
            )
            # Another token of the same user takes over.
            heir = await self.enter(relay, token("jo"), uuid)
            await asyncio.wait_for(owner.wait_closed(), PATIENCE)
            self.assertEqual(owner.close_code, 4004)
            await heir.close()

        self.play(scenario())

    def test_messages_stay_with_one_user(self) -> None:
        relay = self.globus_relay()

        async def scenario() -> None:
            async with (
                self.client(relay, token("jo")) as one,
                self.client(relay, token("ann")) as other,
                self.client(relay, token("jo")) as two,
            ):
                await one.send(request(one, other, "offer"))
                returned = await asyncio.wait_for(one.recv(), PATIENCE)
                assert isinstance(returned, PeerConnectionRequest)
                self.assertEqual(
                    returned.error,
                    f"The requested peer {other.uuid} is owned by a different user.",
                )
                # Had it arrived, it would be the first to be read.
                await self.exchange(one, two)
                async with self.client(relay, token("ann")) as friend:
                    await self.exchange(friend, other)

        self.play(scenario())

    def test_a_token_is_asked_about_once(self) -> None:
        self.globus.tell(latency=0.3)
        relay = self.globus_relay()
        bearer = token()

        async def scenario() -> None:
            clients = await asyncio.gather(
                *(self.enter(relay, bearer) for _ in range(20))
            )
            self.assertEqual(self.globus.tell()["tokens"], {bearer: 1})
            clients.append(await self.enter(relay, bearer))
            await asyncio.gather(*(client.close() for client in clients))

        self.play(scenario())
        self.assertEqual(self.globus.tell()["tokens"], {bearer: 1})

    def test_tokens_share_connections(self) -> None:
        self.globus.tell(latency=0.2)
        relay = self.globus_relay()

        async def scenario() -> None:
            clients = await asyncio.gather(
                *(self.enter(relay, token()) for _ in range(80))
            )
            await asyncio.gather(*(client.close() for client in clients))

        self.play(scenario())
        counts = self.globus.tell()
        self.assertEqual(counts["total"], 80)
        self.assertLessEqual(counts["in_flight_max"], MAX_CONNECTIONS)


class TroubleTests(GlobusTestCase):
    """Globus misbehaves, or does not know the relay."""

    def test_wrong_credentials_are_the_operators_fault(self) -> None:
        relay = self.globus_relay(client_secret=WRONG_SECRET)

        async def scenario() -> None:
            for _ in range(2):
                await self.sent_away(relay, token())

        self.play(scenario())
        relay.wait_for(
            r"(?i)error.*Globus Auth answered 401 \(invalid_client\): .*client ID from "
            "auth.kwargs.client_id, secret from auth.kwargs.client_secret"
        )
        # Once by the relay, before anybody came.
        self.assertEqual(self.globus.tell()["unauthorized"], 3)
        self.assertEqual(relay.stop(), 0)
        self.assertEqual(relay.said.count("invalid_client"), 1)
        self.assert_silent(relay.said, WRONG_SECRET, f"{CLIENT_ID}:{WRONG_SECRET}")

    def test_answers_that_make_no_sense(self) -> None:
        said = {
            "hang": "did not answer within",
            "status": "answered 503 ",
            "wrong-type": "answered with something else than JSON",
            "broken-json": "answered with JSON that makes no sense",
            "oversized": "answered with over 65536 bytes",
            "slow-body": "did not answer within",
        }
        for mode, words in said.items():
            self.globus.tell(mode=mode)
            relay = self.globus_relay(timeout=0.8)
            self.play(self.sent_away(relay, token()))
            relay.wait_for(f"Globus Auth {words}.*could not be tried")
            relay.wait_for(f"Globus Auth {words}.*new clients are asked to come back")
            # The connection to Globus is as good as before.
            self.globus.tell(mode="well")
            self.play(self.well(relay))
            relay.wait_for("Globus Auth answers again")
            self.assertEqual(relay.stop(), 0)
            self.assertEqual(relay.errors, [], mode)
            self.assertNotIn("Traceback", relay.said)
            self.assertEqual(self.globus.tell()["in_flight"], 0)

    async def well(self, relay: RelayProcess) -> None:
        async with self.client(relay, token()):
            pass

    def test_a_short_trouble_is_not_noticed(self) -> None:
        relay = self.globus_relay()
        for status in (429, 500, 502, 503, 504):
            self.globus.tell(reset=True, mode="status", status=status, times=2)
            bearer = token()

            async def scenario(bearer: str = bearer) -> None:
                await (await self.enter(relay, bearer)).close()

            self.play(scenario())
            self.assertEqual(self.globus.tell()["tokens"], {bearer: 3})

    def test_waits_as_long_as_globus_asks(self) -> None:
        relay = self.globus_relay()
        self.globus.tell(mode="status", status=429, retry_after="1", times=1)
        bearer = token()

        async def scenario() -> None:
            began = time.monotonic()
            await (await self.enter(relay, bearer)).close()
            self.assertGreaterEqual(time.monotonic() - began, 1)

        self.play(scenario())
        self.assertEqual(self.globus.tell()["tokens"], {bearer: 2})

    def test_does_not_trust_anybody_else(self) -> None:
        stranger = self.folder / "stranger"
        stranger.mkdir()
        root = Authority().write_root(stranger)
        self.environment["SSL_CERT_FILE"] = str(root)
        relay = self.globus_relay(timeout=1)
        self.play(self.sent_away(relay, token()))
        relay.wait_for(
            "Globus Auth cannot be reached: .*certificate verify failed.* come back"
        )
        self.assertEqual(self.globus.tell()["total"], 0)

    def test_an_outage(self) -> None:
        """Hanging, then refusing, then failing: the connected never notice."""
        patience = 1.5
        relay = self.globus_relay(timeout=patience, cache_ttl=0)
        known = token("jo")

        async def stage(one: RelayClient, two: RelayClient) -> None:
            async def talk() -> None:
                for _ in range(20):
                    await self.exchange(one, two)

            strangers = [self.sent_away(relay, token()) for _ in range(6)]
            entering = asyncio.create_task(self.enter(relay, known))
            await asyncio.gather(entering, talk(), *strangers)
            await (await entering).close()
            # Whoever comes now is not made to wait, but for a probe now and then.
            took = []
            for _ in range(3):
                began = time.monotonic()
                await self.sent_away(relay, token())
                took.append(time.monotonic() - began)
                await self.exchange(one, two)
            self.assertLess(min(took), patience / 2)

        async def scenario() -> None:
            async with (
                self.client(relay, known) as one,
                self.client(relay, token("jo")) as two,
            ):
                before = (one.websocket, two.websocket)
                self.globus.tell(mode="hang")
                await stage(one, two)
                self.globus.tell(listen=False)
                await stage(one, two)
                self.globus.tell(listen=True, mode="status", status=503)
                await stage(one, two)

                late = self.client(relay, token("jo"), Watched)
                assert isinstance(late, Watched)
                coming = asyncio.create_task(late.connect())
                await asyncio.wait_for(late.refused.wait(), PATIENCE)
                self.globus.tell(mode="well")
                await asyncio.wait_for(coming, PATIENCE)
                await self.exchange(one, late)
                await self.exchange(late, two)
                await late.close()
                self.assertEqual((one.websocket, two.websocket), before)

        self.play(scenario())
        relay.wait_for("Globus Auth answers again")
        self.assertEqual(relay.stop(), 0)
        self.assertEqual(relay.errors, [])
        self.assertNotIn("Traceback", relay.said)
        self.assertNotIn(" with 4", relay.said)
        self.assertIn("let in on an older answer", relay.said)

    def test_clients_that_give_up_are_not_globus_fault(self) -> None:
        relay = self.globus_relay()
        self.globus.tell(latency=3)

        async def scenario() -> None:
            for _ in range(6):
                headers = self.headers(token())
                opening = asyncio.create_task(self.upgrade(relay, headers))
                await self.asked(1)
                opening.cancel()
                await asyncio.gather(opening, return_exceptions=True)
                await self.asked(0)
            self.globus.tell(latency=0)
            await (await self.enter(relay, token())).close()

        self.play(scenario())
        self.assertEqual(relay.stop(), 0)
        self.assertNotIn("Traceback", relay.said)
        self.assertNotIn("ERROR", relay.said)

    async def asked(self, count: int) -> None:
        """Wait until so many questions are under way."""
        end = time.monotonic() + PATIENCE
        while self.globus.tell()["in_flight"] != count:
            self.assertLess(time.monotonic(), end)
            await asyncio.sleep(0)

    def test_stops_while_it_asks(self) -> None:
        relay = self.globus_relay(timeout=2)
        self.globus.tell(mode="hang")

        async def scenario() -> None:
            opening = asyncio.create_task(self.end_of(relay, self.headers(token())))
            await self.asked(1)
            self.assertEqual(await asyncio.to_thread(relay.stop), 0)
            code, _ = await opening
            self.assertEqual(code, 1001)

        self.play(scenario())
        self.assertEqual(relay.errors, [])
        self.assertNotIn("Traceback", relay.said)

    def test_stops_while_it_tries_its_credentials(self) -> None:
        self.globus.tell(mode="hang")
        relay = self.relay("--config", self.configure(), env=self.environment)
        self.play(self.asked(1))
        self.assertEqual(relay.stop(), 0)
        self.play(self.asked(0))
        self.assertEqual(relay.errors, [])
        self.assertNotIn("Traceback", relay.said)
        self.assertNotIn("could not be tried", relay.said)

    def test_serves_without_globus(self) -> None:
        self.globus.tell(listen=False)
        relay = self.globus_relay()
        relay.wait_for("WARNING .*Globus Auth cannot be reached: .*service_url is ")
        self.globus.tell(listen=True)
        self.play(self.well(relay))
        self.assertEqual(relay.stop(), 0)
        self.assertNotIn("ERROR", relay.said)


class SecretTests(GlobusTestCase):
    """Where the secret comes from, and that it goes nowhere."""

    def test_nothing_is_told(self) -> None:
        relay = self.globus_relay(timeout=1, cache_ttl=0, denied_users=[sub("eve")])
        known = token()
        taken, inactive, wrong = token(), token(active=False), token(aud=[OTHER_ID])
        denied = token("eve")
        troubles: list[dict[str, Any]] = [
            {"mode": "status", "status": 400},
            {"mode": "wrong-type"},
            {"mode": "broken-json"},
            {"mode": "hang"},
            {"listen": False},
        ]
        late = [token() for _ in troubles]
        malformed = f"{token()}=x"

        async def scenario() -> None:
            uuid = str(uuid4())
            client = await self.enter(relay, known, uuid)
            heir = await self.enter(relay, taken, uuid)
            await heir.send(offer(uuid, str(uuid4())).decode())
            await asyncio.wait_for(heir.recv(), PATIENCE)
            await heir.send("undecodable")
            for bearer in (inactive, wrong, denied):
                await self.refused(relay, bearer)
            code, _ = await self.end_of(relay, self.headers(malformed))
            self.assertEqual(code, 4001)
            code, _ = await self.end_of(relay, {"Authorization": f"Basic {malformed}"})
            self.assertEqual(code, 4001)
            with self.assertRaises(ConnectionClosed):
                await asyncio.wait_for(client.recv(), PATIENCE)
            for trouble, bearer in zip(troubles, late, strict=True):
                self.globus.tell(**trouble)
                await self.sent_away(relay, bearer)
            friend = await self.enter(relay, known)
            await friend.close()

        self.play(scenario())
        self.assertEqual(relay.stop(), 0)
        self.assertIn("Globus Auth", relay.said)
        self.assert_silent(
            relay.said,
            *(known, taken, inactive, wrong, denied, malformed, *late),
            *(SECRET, f"{CLIENT_ID}:{SECRET}"),
        )

    def works(self, **arguments: object) -> None:
        """The relay finds credentials, and they are right."""
        relay = self.globus_relay(**arguments)
        bearer = token()

        async def scenario() -> None:
            await (await self.enter(relay, bearer)).close()

        self.play(scenario())
        self.assertEqual(relay.stop(), 0)
        self.assert_silent(relay.said, SECRET, f"{CLIENT_ID}:{SECRET}", bearer)

    def test_from_environment_variables(self) -> None:
        self.environment["PROXYSTORE_GLOBUS_CLIENT_ID"] = CLIENT_ID
        self.environment["PROXYSTORE_GLOBUS_CLIENT_SECRET"] = SECRET
        self.works(client_id=None, client_secret=None)

    def test_from_a_file(self) -> None:
        (self.folder / "secret").write_text(f"{SECRET}\n")
        self.works(client_secret=None, client_secret_file="secret")

    def test_from_the_service_manager(self) -> None:
        folder = self.folder / "credentials"
        folder.mkdir()
        (folder / "globus_client_secret").write_text(f"{SECRET}\n")
        self.environment["CREDENTIALS_DIRECTORY"] = str(folder)
        self.works(client_secret=None)

    def test_from_nowhere(self) -> None:
        config = self.configure(client_id=None, client_secret=None)
        process = self.start(
            *(SCRIPTS / "twistd", "-n", "--pidfile=", "proxyrelay"),
            *("--host", "127.0.0.1", "--port", "0", "--config", config),
            env=self.environment,
        )
        self.assertEqual(process.wait(), 1)
        self.assertIn("auth.kwargs.client_id: is missing", process.said)
        self.assertIn("auth.kwargs.client_secret: is missing", process.said)
        self.assertNotIn("Traceback", process.said)


class CheckTests(GlobusTestCase):
    """``proxyrelay check`` with Globus Auth."""

    def check(
        self, *options: str, **arguments: object
    ) -> subprocess.CompletedProcess[str]:
        config = self.configure(**arguments)
        return self.proxyrelay("check", "--config", config, "--port", "0", *options)

    def test_good_credentials(self) -> None:
        done = self.check()
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("authentication: globus", done.stdout)
        self.assertIn("credentials: work, for the application 'A relay'", done.stdout)

    def test_wrong_credentials(self) -> None:
        done = self.check(client_secret=WRONG_SECRET)
        self.assertEqual(done.returncode, 1)
        self.assertIn("Globus Auth answered 401 (invalid_client)", done.stdout)
        self.assert_silent(done.stdout + done.stderr, WRONG_SECRET)

    def test_wrong_credentials_offline(self) -> None:
        done = self.check("--offline", client_secret=WRONG_SECRET)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("credentials: not tried (--offline)", done.stdout)
        self.assertEqual(self.globus.tell()["unauthorized"], 0)

    def test_globus_is_out_of_reach(self) -> None:
        self.globus.tell(listen=False)
        done = self.check()
        self.assertEqual(done.returncode, 1)
        self.assertRegex(
            done.stdout,
            r"relay.toml:\d+: auth.kwargs.service_url: Globus Auth cannot be reached: "
            ".*refused",
        )

    def test_unknown_arguments(self) -> None:
        done = self.check("--offline", audiance=CLIENT_ID, token_server="nowhere")
        self.assertEqual(done.returncode, 1)
        self.assertRegex(
            done.stdout,
            r"relay.toml:\d+: auth.kwargs.audiance: unknown setting; "
            r"did you mean audience in \[auth.kwargs\]\?",
        )
        self.assertIn("auth.kwargs.token_server: unknown setting", done.stdout)

    def test_an_address_without_tls(self) -> None:
        done = self.check(service_url="http://127.0.0.1:1")
        self.assertEqual(done.returncode, 1)
        self.assertIn("expected an address that starts with https://", done.stdout)


class GlobusCommandTests(GlobusTestCase):
    """``proxyrelay globus``."""

    def test_setup_twice(self) -> None:
        config = self.configure()
        for outcome in ("has been created", "is there"):
            done = self.proxyrelay("globus", "setup", "--config", config)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertIn(f"application: 'A relay', client ID {CLIENT_ID}", done.stdout)
            self.assertIn(f"scope: {RELAY_ALL} {outcome}", done.stdout)
            self.assertIn(f'audience = "{CLIENT_ID}"', done.stdout)

    def test_setup_with_options(self) -> None:
        (self.folder / "secret").write_text(SECRET)
        config = self.configure(client_id=None, client_secret=WRONG_SECRET)
        done = self.proxyrelay(
            *("globus", "setup", "--config", config, "--client-id", CLIENT_ID),
            *("--client-secret-file", "secret"),
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("has been created", done.stdout)

    def test_setup_with_wrong_credentials(self) -> None:
        config = self.configure(client_secret=WRONG_SECRET)
        done = self.proxyrelay("globus", "setup", "--config", config)
        self.assertEqual(done.returncode, 1)
        self.assertIn("problem: Globus Auth answered 401", done.stdout)

    def check(self, bearer: str) -> subprocess.CompletedProcess[str]:
        config = self.configure(denied_users=[sub("eve")])
        done = self.proxyrelay("globus", "check", "--config", config, stdin=bearer)
        if bearer:
            self.assert_silent(done.stdout + done.stderr, bearer)
        return done

    def test_check_an_empty_token(self) -> None:
        done = self.check("")
        self.assertEqual(done.returncode, 1)
        self.assertIn("problem: standard input: is empty", done.stdout)

    def test_check_without_a_token(self) -> None:
        config = self.configure()
        done = self.proxyrelay("globus", "check", "--config", config, stdin=None)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(
            done.stdout, "credentials: work, for the application 'A relay'\n"
        )

    def test_check_an_accepted_token(self) -> None:
        done = self.check(token() + "\n")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("token: belongs to 'jo@example.org'", done.stdout)
        self.assertIn("token: expires on 2100-01-01T00:00:00", done.stdout)
        self.assertIn("token: accepted by this relay", done.stdout)

    def test_check_refused_tokens(self) -> None:
        cases = {
            "two words": "4001: UnauthorizedError: The bearer token is malformed.",
            f"Bearer {token(aud=[])}": "4002: ForbiddenError: The token is not meant "
            f"for {CLIENT_ID}.",
            token(active=False): "4002: ForbiddenError: The token is expired or has "
            "been revoked.",
            token(aud=[OTHER_ID]): "4002: ForbiddenError: The token is not meant for "
            f"{CLIENT_ID}.",
            token(scope="openid"): "4002: ForbiddenError: The token lacks the scope "
            f"{CLIENT_ID}/relay_all.",
            token("eve"): "4002: ForbiddenError: This identity may not use this relay.",
        }
        for bearer, words in cases.items():
            done = self.check(bearer)
            self.assertEqual(done.returncode, 1, done.stdout)
            self.assertIn(f"token: refused with {words}\n", done.stdout)

    def test_check_during_an_outage(self) -> None:
        self.globus.tell(mode="status", status=503)
        done = self.check(token())
        self.assertEqual(done.returncode, 1)
        self.assertIn("problem: Globus Auth answered 503", done.stdout)
