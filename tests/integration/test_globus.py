"""Globus Auth, with a stand-in for the service: clients, outages, secrets, commands."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import subprocess
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar
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
from tests.support.processes import (
    PATIENCE,
    SCRIPTS,
    ProcessTestCase,
    RelayProcess,
    environment,
)
from tests.support.recording import offer, registration

ROOT = Path(__file__).parents[2]

OTHER_ID = "ebd5bbed-95e2-47cf-9c80-39e2064274bd"

WRONG_SECRET = "no-secret-of-anybody"

CREDENTIAL_VARIABLES = (
    "PROXYSTORE_GLOBUS_CLIENT_ID",
    "PROXYSTORE_GLOBUS_CLIENT_SECRET",
    "CREDENTIALS_DIRECTORY",
)

SETTINGS = """
certfile = "cert.pem"
keyfile = "privkey.pem"
[logging]
default_level = "DEBUG"
websockets_level = "DEBUG"
[auth]
method = "globus"
[auth.kwargs]
"""

Headers = dict[str, str]


class Watched(RelayClient):
    """A client that tells when the relay has sent it away."""

    def __init__(self, address: str, **options: object) -> None:
        super().__init__(address, **options)  # type: ignore[arg-type]
        self.refused = asyncio.Event()

    async def _register(self, timeout: float) -> ClientConnection:  # noqa: ASYNC109 - of proxystore
        try:
            return await super()._register(timeout)
        except ConnectionClosed:
            self.refused.set()
            raise


def bearer_headers(bearer: str) -> Headers:
    """Header fields with a bearer token."""
    return {"Authorization": f"Bearer {bearer}"}


Case = TypeVar("Case", bound=ProcessTestCase)


def played(
    test: Callable[[Case], Coroutine[Any, Any, None]],
) -> Callable[[Case], None]:
    """Run a test as a coroutine, within bounds."""

    @functools.wraps(test)
    def run(case: Case) -> None:
        case.play(test(case))

    return run


class GlobusTestCase(RealTestCase):
    """A stand-in for Globus, whose certificate relays trust."""

    served: RelayProcess

    def setUp(self) -> None:
        super().setUp()
        authority = Authority()
        certificate, key = authority.write(self.folder)
        self.context = authority.client_context()
        root = authority.write_root(self.folder)
        self.environment = environment(SSL_CERT_FILE=str(root))
        for name in CREDENTIAL_VARIABLES:
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
        config = self.folder / "relay.toml"
        config.write_text(
            SETTINGS
            + "\n".join(
                f"{name} = {json.dumps(value)}"
                for name, value in given.items()
                if value is not None
            )
        )
        return config

    def serve(self, **arguments: object) -> RelayProcess:
        """Run a relay that asks the stand-in, and has tried its credentials."""
        config = self.configure(**arguments)
        self.served = self.relay("--config", config, env=self.environment)
        self.served.wait_for(
            "Globus Auth (knows|.*(could not be tried|secret is wrong))"
        )
        return self.served

    def stop(self, *unsaid: str) -> str:
        """Stop the relay; return its log, which lacks tracebacks and some texts."""
        self.assertEqual(self.served.stop(), 0)
        self.assertEqual(self.served.errors, [])
        for text in ("Traceback", *unsaid):
            self.assertNotIn(text, self.served.said)
        return self.served.said

    def proxyrelay(
        self, *arguments: str | Path, status: int = 0, stdin: str | None = ""
    ) -> str:
        """Run the command to its end, with /dev/null if ``stdin`` is None.

        Returns:
            Standard output.
        """
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
        self.assert_silent(done.stdout + done.stderr, SECRET, WRONG_SECRET)
        self.assertEqual(done.returncode, status, done.stdout)
        return done.stdout

    def client(self, bearer: str, kind: type[RelayClient] = RelayClient) -> RelayClient:
        """The real client, with a token."""
        return kind(
            self.served.url,
            ssl_context=self.context,
            extra_headers=bearer_headers(bearer),
        )

    async def upgrade(self, headers: Headers | None) -> ClientConnection:
        """Open a WebSocket, which always succeeds."""
        return await connect(
            self.served.url,
            ssl=self.context,
            additional_headers=headers,
            compression=None,
            open_timeout=PATIENCE,
        )

    async def closed(
        self, code: int, headers: Headers | None, reason: str | None = None
    ) -> None:
        """A new connection is closed with a code, and perhaps a reason."""
        client = await self.upgrade(headers)
        await asyncio.wait_for(client.wait_closed(), PATIENCE)
        self.assertEqual(client.close_code, code)
        if reason is not None:
            self.assertEqual(client.close_reason, reason)

    async def refused(self, bearer: str, reason: str | None = None) -> None:
        """A token is refused for good."""
        await self.closed(4002, bearer_headers(bearer), reason)

    async def sent_away(self, bearer: str | None = None) -> None:
        """A client is told to come back."""
        await self.closed(1013, bearer_headers(bearer or token()))

    async def enter(self, bearer: str, uuid: str | None = None) -> ClientConnection:
        """Connect and register."""
        client = await self.upgrade(bearer_headers(bearer))
        await client.send(registration(uuid or uuid4()).decode())
        reply = await asyncio.wait_for(client.recv(), PATIENCE)
        self.assertIn('"success": true', str(reply))
        return client

    async def enters(self, bearer: str | None = None) -> None:
        """A client registers, and leaves."""
        await (await self.enter(bearer or token())).close()

    async def exchange(self, one: RelayClient, two: RelayClient) -> None:
        """An offer goes one way, and an answer the other."""
        for source, target, kind in ((one, two, "offer"), (two, one, "answer")):
            sent = request(source, target, kind)
            await source.send(sent)
            received = await asyncio.wait_for(target.recv(), PATIENCE)
            self.assertEqual(received, sent)

    async def asked(self, count: int) -> None:
        """Wait until so many questions are under way."""
        end = time.monotonic() + PATIENCE
        while self.globus.tell()["in_flight"] != count:
            self.assertLess(time.monotonic(), end)
            await asyncio.sleep(0)

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
    """Admission, and messages between clients."""

    @played
    async def test_client_with_token_registers_and_exchanges_an_offer(self) -> None:
        relay = self.serve()
        async with self.client(token()) as one, self.client(token()) as two:
            await self.exchange(one, two)
            line = f"registered {one.uuid} .* user='{sub('jo')}' "
            await asyncio.to_thread(relay.wait_for, line)
        self.stop()

    @played
    async def test_client_without_token_is_refused_with_4001(self) -> None:
        self.serve()
        lacking = "The request has no Authorization header."
        no_bearer = "The Authorization header holds no bearer token."
        malformed = "The bearer token is malformed."
        await self.closed(4001, None, f"UnauthorizedError: {lacking}")
        for value, reason in (
            ("Basic am86am8=", no_bearer),
            (token(), no_bearer),
            ("Bearer", malformed),
            ("Bearer two words", malformed),
            ('Bearer "quoted"', malformed),
        ):
            headers = {"Authorization": value}
            await self.closed(4001, headers, f"UnauthorizedError: {reason}")
        self.assertEqual(self.globus.tell()["total"], 0)

    @played
    async def test_client_with_unfit_token_is_refused_with_4002(self) -> None:
        self.serve(denied_users=[sub("eve")], denied_domains=["evil.example"])
        stopped = "The token is expired or has been revoked."
        audience = f"The token is not meant for {CLIENT_ID}."
        scope = f"The token lacks the scope {CLIENT_ID}/relay_all."
        listed = "This identity may not use this relay."
        for bearer, reason in (
            (token(active=False), stopped),
            ("unknown-to-globus", stopped),
            (token(exp=1700000001), "The token has expired."),
            (token(aud=[OTHER_ID]), audience),
            (token(aud=None), audience),
            (token(scope="openid email"), scope),
            (token(scope=None), scope),
            (token("eve"), listed),
            (token(username="Jo@Evil.Example"), listed),
        ):
            await self.refused(bearer, f"ForbiddenError: {reason}")
        await self.enters(token(scope=f"openid {RELAY_ALL}", aud=[OTHER_ID, CLIENT_ID]))

    @played
    async def test_client_not_on_the_lists_is_refused(self) -> None:
        self.serve(allowed_users=[sub("jo")], allowed_domains=["Lab.Example"])
        await self.enters(token("jo"))
        await self.enters(token("kim", username="kim@lab.example"))
        await self.refused(token("ann"))

    @played
    async def test_client_of_proxystore_does_not_retry_a_refusal(self) -> None:
        relay = self.serve(denied_users=[sub("eve")])
        cases: list[tuple[Headers, int]] = [
            ({}, 4001),
            (bearer_headers("not a token"), 4001),
            (bearer_headers(token(active=False)), 4002),
            (bearer_headers(token("eve")), 4002),
        ]
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

    @played
    async def test_uuid_of_another_user_is_refused(self) -> None:
        self.serve()
        uuid = str(uuid4())
        owner = await self.enter(token("jo"), uuid)
        thief = await self.upgrade(bearer_headers(token("eve")))
        await thief.send(registration(uuid).decode())
        await asyncio.wait_for(thief.wait_closed(), PATIENCE)
        self.assertEqual(thief.close_code, 4002)
        self.assertEqual(
            thief.close_reason,
            f"ForbiddenError: The client UUID {uuid} is already registered to another "
            "user.",
        )
        # Another token of the same user takes over.
        heir = await self.enter(token("jo"), uuid)
        await asyncio.wait_for(owner.wait_closed(), PATIENCE)
        self.assertEqual(owner.close_code, 4004)
        await heir.close()

    @played
    async def test_message_to_another_user_is_returned(self) -> None:
        self.serve()
        async with (
            self.client(token("jo")) as one,
            self.client(token("ann")) as other,
            self.client(token("jo")) as two,
        ):
            await one.send(request(one, other, "offer"))
            returned = await asyncio.wait_for(one.recv(), PATIENCE)
            assert isinstance(returned, PeerConnectionRequest)
            text = f"The requested peer {other.uuid} is owned by a different user."
            self.assertEqual(returned.error, text)
            # Had it arrived, it would be the first to be read.
            await self.exchange(one, two)
            async with self.client(token("ann")) as friend:
                await self.exchange(friend, other)

    @played
    async def test_token_of_many_clients_is_asked_about_once(self) -> None:
        self.globus.tell(latency=0.3)
        self.serve()
        bearer = token()
        clients = await asyncio.gather(*(self.enter(bearer) for _ in range(20)))
        await self.enters(bearer)
        await asyncio.gather(*(client.close() for client in clients))
        self.assertEqual(self.globus.tell()["tokens"], {bearer: 1})

    @played
    async def test_tokens_at_once_share_the_connections(self) -> None:
        self.globus.tell(latency=0.2)
        self.serve()
        await asyncio.gather(*(self.enters() for _ in range(80)))
        counts = self.globus.tell()
        self.assertEqual(counts["total"], 80)
        self.assertLessEqual(counts["in_flight_max"], MAX_CONNECTIONS)


class TroubleTests(GlobusTestCase):
    """Globus misbehaves, or does not know the relay."""

    @played
    async def test_globus_refuses_credentials_names_their_places(self) -> None:
        relay = self.serve(client_secret=WRONG_SECRET)
        for _ in range(2):
            await self.sent_away()
        relay.wait_for(
            r"(?i)error.*Globus Auth answered 401 \(invalid_client\): .*client ID from "
            "auth.kwargs.client_id, secret from auth.kwargs.client_secret"
        )
        # Once by the relay, before anybody came.
        self.assertEqual(self.globus.tell()["unauthorized"], 3)
        said = self.stop()
        self.assertEqual(said.count("invalid_client"), 1)
        self.assert_silent(said, WRONG_SECRET, f"{CLIENT_ID}:{WRONG_SECRET}")

    def test_globus_misbehaves_clients_are_sent_away(self) -> None:
        for mode, words in {
            "hang": "did not answer within",
            "status": "answered 503 ",
            "wrong-type": "answered with something else than JSON",
            "broken-json": "answered with JSON that makes no sense",
            "oversized": "answered with over 65536 bytes",
            "slow-body": "did not answer within",
        }.items():
            self.globus.tell(mode=mode)
            relay = self.serve(timeout=0.8)
            self.play(self.sent_away())
            relay.wait_for(f"Globus Auth {words}.*could not be tried")
            relay.wait_for(f"Globus Auth {words}.*new clients are asked to come back")
            # The connection to Globus is as good as before.
            self.globus.tell(mode="well")
            self.play(self.enters())
            relay.wait_for("Globus Auth answers again")
            self.stop()
            self.assertEqual(self.globus.tell()["in_flight"], 0)

    @played
    async def test_globus_fails_shortly_client_enters(self) -> None:
        self.serve()
        for status in (429, 500, 502, 503, 504):
            self.globus.tell(reset=True, mode="status", status=status, times=2)
            bearer = token()
            await self.enters(bearer)
            self.assertEqual(self.globus.tell()["tokens"], {bearer: 3})

    @played
    async def test_globus_with_unknown_certificate_is_not_asked(self) -> None:
        stranger = self.folder / "stranger"
        stranger.mkdir()
        root = Authority().write_root(stranger)
        self.environment["SSL_CERT_FILE"] = str(root)
        relay = self.serve(timeout=1)
        await self.sent_away()
        relay.wait_for(
            "Globus Auth cannot be reached: .*certificate verify failed.* come back"
        )
        self.assertEqual(self.globus.tell()["total"], 0)

    @played
    async def test_outage_connected_clients_do_not_notice(self) -> None:
        patience = 1.5
        relay = self.serve(timeout=patience, cache_ttl=0)
        known = token("jo")

        async def stage(one: RelayClient, two: RelayClient) -> None:
            async def talk() -> None:
                for _ in range(20):
                    await self.exchange(one, two)

            strangers = [self.sent_away() for _ in range(6)]
            await asyncio.gather(self.enters(known), talk(), *strangers)
            # Whoever comes now is not made to wait, but for a probe now and then.
            took = []
            for _ in range(3):
                began = time.monotonic()
                await self.sent_away()
                took.append(time.monotonic() - began)
                await self.exchange(one, two)
            self.assertLess(min(took), patience / 2)

        async with self.client(known) as one, self.client(token("jo")) as two:
            before = (one.websocket, two.websocket)
            for trouble in (
                {"mode": "hang"},
                {"listen": False},
                {"listen": True, "mode": "status", "status": 503},
            ):
                self.globus.tell(**trouble)
                await stage(one, two)
            late = self.client(token("jo"), Watched)
            assert isinstance(late, Watched)
            coming = asyncio.create_task(late.connect())
            await asyncio.wait_for(late.refused.wait(), PATIENCE)
            self.globus.tell(mode="well")
            await asyncio.wait_for(coming, PATIENCE)
            await self.exchange(one, late)
            await self.exchange(late, two)
            await late.close()
            self.assertEqual((one.websocket, two.websocket), before)
        relay.wait_for("Globus Auth answers again")
        self.assertIn("let in on an older answer", self.stop(" with 4"))

    @played
    async def test_clients_that_give_up_do_not_count_as_failures(self) -> None:
        self.serve()
        self.globus.tell(latency=3)
        for _ in range(6):
            opening = asyncio.create_task(self.upgrade(bearer_headers(token())))
            await self.asked(1)
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
            await self.asked(0)
        self.globus.tell(latency=0)
        await self.enters()
        self.stop("ERROR")

    @played
    async def test_relay_stops_while_a_client_waits(self) -> None:
        relay = self.serve(timeout=2)
        self.globus.tell(mode="hang")
        opening = asyncio.create_task(self.closed(1001, bearer_headers(token())))
        await self.asked(1)
        await asyncio.to_thread(relay.stop)
        await opening
        self.stop()

    @played
    async def test_relay_stops_while_it_tries_its_credentials(self) -> None:
        self.globus.tell(mode="hang")
        self.served = self.relay("--config", self.configure(), env=self.environment)
        await self.asked(1)
        self.stop("could not be tried")
        await self.asked(0)

    @played
    async def test_relay_starts_without_globus(self) -> None:
        self.globus.tell(listen=False)
        relay = self.serve()
        relay.wait_for("WARNING .*Globus Auth cannot be reached: .*service_url is ")
        self.globus.tell(listen=True)
        await self.enters()
        self.stop("ERROR")


class SecretTests(GlobusTestCase):
    """Where the secret comes from, and that it goes nowhere."""

    @played
    async def test_secrets_and_tokens_reach_no_log(self) -> None:
        self.serve(timeout=1, cache_ttl=0, denied_users=[sub("eve")])
        known, taken = token(), token()
        unfit = [token(active=False), token(aud=[OTHER_ID]), token("eve")]
        troubles: list[dict[str, Any]] = [
            {"mode": "status", "status": 400},
            {"mode": "wrong-type"},
            {"mode": "broken-json"},
            {"mode": "hang"},
            {"listen": False},
        ]
        late = [token() for _ in troubles]
        malformed = f"{token()}=x"
        uuid = str(uuid4())
        client = await self.enter(known, uuid)
        heir = await self.enter(taken, uuid)
        await heir.send(offer(uuid, str(uuid4())).decode())
        await asyncio.wait_for(heir.recv(), PATIENCE)
        await heir.send("undecodable")
        for bearer in unfit:
            await self.refused(bearer)
        for scheme in ("Bearer", "Basic"):
            await self.closed(4001, {"Authorization": f"{scheme} {malformed}"})
        with self.assertRaises(ConnectionClosed):
            await asyncio.wait_for(client.recv(), PATIENCE)
        for trouble, bearer in zip(troubles, late, strict=True):
            self.globus.tell(**trouble)
            await self.sent_away(bearer)
        await self.enters(known)
        said = self.stop()
        self.assertIn("Globus Auth", said)
        pair = f"{CLIENT_ID}:{SECRET}"
        self.assert_silent(said, known, taken, malformed, *unfit, *late, SECRET, pair)

    @played
    async def test_secret_of_each_place_works_and_is_not_logged(self) -> None:
        (self.folder / "globus_client_secret").write_text(f"{SECRET}\n")
        id_, secret, systemd = CREDENTIAL_VARIABLES
        for variables, arguments in (
            ({id_: CLIENT_ID, secret: SECRET}, {"client_id": None}),
            ({}, {"client_secret_file": "globus_client_secret"}),
            ({systemd: str(self.folder)}, {}),
        ):
            before = self.environment
            self.environment = before | variables
            self.serve(client_secret=None, **arguments)
            self.environment = before
            bearer = token()
            await self.enters(bearer)
            self.assert_silent(self.stop(), SECRET, f"{CLIENT_ID}:{SECRET}", bearer)

    def test_secret_of_no_place_ends_the_relay(self) -> None:
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

    def check(self, *options: str, status: int = 0, **arguments: object) -> str:
        config = self.configure(**arguments)
        return self.proxyrelay(
            *("check", "--config", config, "--port", "0"), *options, status=status
        )

    def test_check_good_credentials_names_the_application(self) -> None:
        said = self.check()
        self.assertIn("authentication: globus", said)
        self.assertIn("credentials: work, for the application 'A relay'", said)

    def test_check_wrong_credentials_fails_unless_offline(self) -> None:
        said = self.check("--offline", client_secret=WRONG_SECRET)
        self.assertIn("credentials: not tried (--offline)", said)
        self.assertEqual(self.globus.tell()["unauthorized"], 0)
        said = self.check(client_secret=WRONG_SECRET, status=1)
        self.assertIn("Globus Auth answered 401 (invalid_client)", said)

    def test_check_unreachable_globus_names_the_line(self) -> None:
        self.globus.tell(listen=False)
        self.assertRegex(
            self.check(status=1),
            r"relay.toml:\d+: auth.kwargs.service_url: Globus Auth cannot be reached: "
            ".*refused",
        )


class GlobusCommandTests(GlobusTestCase):
    """``proxyrelay globus``."""

    def test_setup_twice_creates_the_scope_once(self) -> None:
        config = self.configure()
        for outcome in ("has been created", "is there"):
            said = self.proxyrelay("globus", "setup", "--config", config)
            self.assertIn(f"application: 'A relay', client ID {CLIENT_ID}", said)
            self.assertIn(f"scope: {RELAY_ALL} {outcome}", said)
            self.assertIn(f'audience = "{CLIENT_ID}"', said)

    def test_setup_options_replace_wrong_credentials(self) -> None:
        (self.folder / "secret").write_text(SECRET)
        config = self.configure(client_id=None, client_secret=WRONG_SECRET)
        command = ("globus", "setup", "--config", config, "--client-id", CLIENT_ID)
        said = self.proxyrelay(*command, status=1)
        self.assertIn("problem: Globus Auth answered 401", said)
        said = self.proxyrelay(*command, "--client-secret-file", "secret")
        self.assertIn("has been created", said)

    def check(self, bearer: str | None, status: int = 1) -> str:
        config = self.configure(denied_users=[sub("eve")])
        command = ("globus", "check", "--config", config)
        said = self.proxyrelay(*command, status=status, stdin=bearer)
        if bearer:
            self.assert_silent(said, bearer)
        return said

    def test_check_without_token_tries_the_credentials(self) -> None:
        works = "credentials: work, for the application 'A relay'\n"
        self.assertEqual(self.check(None, status=0), works)
        self.assertIn("problem: standard input: is empty", self.check(""))

    def test_check_accepted_token_is_explained(self) -> None:
        said = self.check(token() + "\n", status=0)
        self.assertIn("token: belongs to 'jo@example.org'", said)
        self.assertIn("token: expires on 2100-01-01T00:00:00", said)
        self.assertIn("token: accepted by this relay", said)

    def test_check_during_an_outage_names_the_error(self) -> None:
        self.globus.tell(mode="status", status=503)
        said = self.check(token())
        self.assertIn("problem: Globus Auth answered 503", said)
