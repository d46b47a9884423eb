"""Members of a cluster, on a real Redis and the real reactor."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import trustme
from msgspec import structs
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import TestCase

from proxyrelay.cluster import link
from proxyrelay.cluster.member import Member
from proxyrelay.config import Auth, AuthArguments, Config, Offers
from proxyrelay.config.cluster import Cluster
from proxyrelay.switchboard.relay import Relay
from tests.support.engine import Engine, SentinelGroup, free_port
from tests.support.recording import A, B, RecordingWaiting

reactor: Any = _reactor

PATIENCE_SECONDS = 20.0

SOON_SECONDS = 0.1
"""Wait after a refusal, in these tests."""

KEYS = ("0a" * 32, "0b" * 32, "0c" * 32)


class Log:
    """Keeps the named events of the log, and tells of the next one of a name."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []
        self._awaited: list[tuple[str, Deferred[LogEvent]]] = []

    def __call__(self, event: LogEvent) -> None:
        self.events.append(event)
        for pair in [pair for pair in self._awaited if pair[0] == event.get("event")]:
            self._awaited.remove(pair)
            pair[1].callback(event)

    def when(self, name: str) -> Deferred[LogEvent]:
        """Fires at the next event of a name."""
        deferred: Deferred[LogEvent] = Deferred()
        self._awaited.append((name, deferred))
        return deferred.addTimeout(PATIENCE_SECONDS, reactor)

    def named(self, name: str) -> list[LogEvent]:
        """All events of a name."""
        return [event for event in self.events if event.get("event") == name]


class MemberTestCase(TestCase):
    """Members, and a folder for their files."""

    options: ClassVar[tuple[str, ...]] = ()

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.log = Log()
        observer = cast(ILogObserver, self.log)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.patch(link, "REFUSED_SECONDS", SOON_SECONDS)
        self.engine = Engine(*self.options)
        self.addCleanup(self.engine.stop)

    def write(self, name: str, text: str | bytes) -> Path:
        file = self.folder / name
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        file.chmod(0o600)
        return file

    def member(self, config: Config = Config(), **cluster: Any) -> Member:  # noqa: B008
        """A member that does not join yet."""
        cluster = {
            "engine": f"unix:{self.engine.socket}",
            "node": "n1",
            "lease": 6,
            "call_timeout": 1,
            **cluster,
        }
        config = structs.replace(config, cluster=Cluster(**cluster))
        self.relay = Relay(
            lambda _: None, reactor.seconds, RecordingWaiting(), config.offers
        )
        member = Member(config, self.relay, reactor, reactor, lambda _: 0.0)
        self.addCleanup(member.stop)
        return member

    async def joined(self, config: Config = Config(), **cluster: Any) -> Member:  # noqa: B008
        """A member that has joined."""
        member, ready = self.member(config, **cluster), self.log.when("cluster_ready")
        member.start()
        await ready
        return member

    async def until(self, condition: Callable[[], bool]) -> None:
        """Look until something is so."""
        deadline = reactor.seconds() + PATIENCE_SECONDS
        while not condition():
            self.assertLess(reactor.seconds(), deadline)
            await deferLater(reactor, SOON_SECONDS / 10)

    async def reason(self, event: str, member: Member) -> str:
        """Reason of the first event of a name after the start of a member."""
        found = self.log.when(event)
        member.start()
        return str((await found)["reason"])


class PasswordTests(MemberTestCase):
    """An engine that asks for a password."""

    options = ("--requirepass", "secret{}")

    async def test_password_is_read_anew_for_each_attempt(self) -> None:
        file = self.write("password", "wrong\n")
        member = self.member(password_file=file)
        reason = await self.reason("cluster_refused", member)
        self.assertTrue(reason.startswith("WRONGPASS"), reason)
        ready = self.log.when("cluster_ready")
        self.write("password", "secret{}\n")
        await ready
        # The same refusal has one line, however often it was tried.
        self.assertEqual(len(self.log.named("cluster_refused")), 1)
        self.assertNotIn("secret", repr([self.log.named("cluster_refused")]))

    async def test_password_that_became_readable_is_not_used(self) -> None:
        member = self.member(password_file=self.write("password", "secret{}"))
        (self.folder / "password").chmod(0o644)
        reason = await self.reason("cluster_refused", member)
        self.assertTrue(reason.startswith("NOAUTH"), reason)
        (event, *_) = self.log.named("problem")
        self.assertIn("others may read", event["problem"])


class ReloadTests(MemberTestCase):
    """Settings that are applied while a relay serves."""

    async def test_new_keys_and_rules_are_applied(self) -> None:
        file = self.write("key", KEYS[0])
        member = await self.joined(key_file=file)
        before = member.keys
        self.write("key", f"{KEYS[1]}\n{KEYS[0]}")
        cluster = structs.replace(
            member._config.cluster, call_timeout=2, without_engine="refuse"
        )
        member.apply(structs.replace(member._config, cluster=cluster))
        self.assertEqual(member.keys[1:], before)
        self.assertFalse(member.claims.serve_alone)
        self.assertEqual(member.link._deadlines._seconds, 2)

    async def test_wrong_key_file_keeps_the_keys(self) -> None:
        file = self.write("key", KEYS[0])
        member = await self.joined(key_file=file)
        before = member.keys
        self.write("key", "0a")
        cluster = structs.replace(member._config.cluster, without_engine="refuse")
        config = structs.replace(member._config, cluster=cluster)
        member.apply(config)
        self.assertEqual(member.keys, before)
        self.assertFalse(member.claims.serve_alone)
        self.assertEqual(len(self.log.named("problem")), 1)


class AgreementTests(MemberTestCase):
    """Two members with settings that differ."""

    GLOBUS = Config(auth=Auth(method="globus"))

    async def test_other_identity_or_no_common_key_keeps_a_member_alone(self) -> None:
        key, other = (self.write(f"key{n}", KEYS[n]) for n in (0, 1))
        elsewhere = AuthArguments(service_url="https://auth.example.org")
        await self.joined(self.GLOBUS, key_file=key)
        for config, file, what in (
            (Config(), key, "[auth]"),
            (Config(auth=Auth("globus", elsewhere)), key, "[auth]"),
            (self.GLOBUS, other, "key_file"),
            (self.GLOBUS, None, "key_file"),
        ):
            member = self.member(config, node="n2", key_file=file)
            found = self.log.when("cluster_alone")
            member.start()
            self.assertEqual((await found)["what"], what)
            self.assertTrue(member.is_excluded)
            self.assertFalse(member.link.ready)
            # It leaves no lease to be compared with.
            await self.until(lambda: not self.engine.client.keys("*:n:n2:*"))
            await member.stop()
        self.assertEqual(len(self.log.named("cluster_alone")), 4)

    async def test_key_that_another_member_lacks_after_a_reload_is_told_once(
        self,
    ) -> None:
        key = self.write("key", KEYS[0])
        first = await self.joined(key_file=key)
        await self.joined(node="n2", key_file=key)
        told = self.log.when("cluster_stranger")
        self.write("key", KEYS[1])
        first.apply(first._config)
        for _ in range(2):
            first._look_around()
        self.assertEqual((await told)["what"], "key_file")
        self.assertEqual(list(first.strangers.values()), ["key_file"])
        self.write("key", KEYS[0])
        first.apply(first._config)
        first._look_around()
        await self.until(lambda: not first.strangers)
        self.assertEqual(len(self.log.named("cluster_stranger")), 1)

    async def test_member_alone_joins_when_the_others_fit(self) -> None:
        first = await self.joined(self.GLOBUS)
        member, alone = self.member(node="n2"), self.log.when("cluster_alone")
        member.start()
        await alone
        ready = self.log.when("cluster_ready")
        await first.stop()
        await ready
        self.assertFalse(member.is_excluded)
        self.assertEqual(len(self.log.named("cluster_alone")), 1)

    async def test_common_key_suffices(self) -> None:
        both = self.write("both", f"{KEYS[1]}\n{KEYS[0]}")
        await self.joined(key_file=self.write("key", KEYS[1]))
        await self.joined(node="n2", key_file=both)
        self.assertEqual(self.log.named("cluster_alone"), [])

    async def test_first_key_that_another_member_lacks_keeps_a_member_alone(
        self,
    ) -> None:
        both = self.write("both", f"{KEYS[0]}\n{KEYS[1]}")
        one = self.write("key", KEYS[1])
        for old, new in ((one, both), (both, one)):
            first = await self.joined(key_file=old)
            member = self.member(node="n2", key_file=new)
            found = self.log.when("cluster_alone")
            member.start()
            self.assertEqual((await found)["what"], "key_file")
            await member.stop()
            await first.stop()

    async def test_other_terms_are_warned_of_once(self) -> None:
        await self.joined()
        member = await self.joined(Config(offers=Offers(answer_timeout=9)), node="n2")
        ready = self.log.when("cluster_ready")
        member.link.drop("for the test")
        await ready
        (event,) = self.log.named("cluster_differs")
        self.assertTrue(event["node"].startswith("n1:"))


class TlsTests(MemberTestCase):
    """An engine with TLS, which asks for the certificate of the relay."""

    def setUp(self) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("localhost")
        own = authority.issue_cert("relay.example")
        self.port = free_port()
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        authority.cert_pem.write_to_path(str(folder / "ca"))
        for name, pair in (("engine", issued), ("own", own)):
            pair.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
            pair.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        self.files = folder
        self.options = (  # type: ignore[misc]
            *("--bind", "127.0.0.1", "-::1", "--tls-port", str(self.port)),
            *("--tls-cert-file", str(folder / "engine.pem")),
            *("--tls-key-file", str(folder / "engine.key")),
            *("--tls-ca-cert-file", str(folder / "ca")),
        )
        super().setUp()

    def settings(self, host: str = "localhost", own: bool = True) -> dict[str, Any]:
        pair = {
            "client_certfile": self.files / "own.pem",
            "client_keyfile": self.files / "own.key",
        }
        return {
            "engine": f"tls:{host}:{self.port}",
            "ca_file": self.files / "ca",
            **(pair if own else {}),
        }

    async def test_right_name_and_certificate_make_it_ready(self) -> None:
        member = await self.joined(**self.settings())
        (lease,) = self.engine.client.keys("*:n:n1:*")
        info = json.loads(cast(bytes, self.engine.client.get(lease)))
        self.assertEqual(info["keys"], member.keys)

    async def test_wrong_name_is_refused(self) -> None:
        member = self.member(**self.settings("127.0.0.1"))
        self.assertEqual(
            await self.reason("cluster_unreachable", member),
            "the engine's certificate is for another host",
        )

    async def test_unknown_authority_is_refused(self) -> None:
        other = self.folder / "other"
        trustme.CA().cert_pem.write_to_path(str(other))
        member = self.member(**{**self.settings(), "ca_file": other})
        self.assertIn(
            "certificate verify failed",
            await self.reason("cluster_unreachable", member),
        )

    async def test_missing_client_certificate_is_told(self) -> None:
        member = self.member(**self.settings(own=False))
        self.assertIn(
            "certificate required", await self.reason("cluster_unreachable", member)
        )


class LookTests(MemberTestCase):
    """What a member mends from time to time."""

    async def test_dead_member_is_reaped_and_lost_farewells_are_made_up(self) -> None:
        client = self.engine.client
        member = await self.joined()
        start = f"{member._config.cluster.prefix}:1"
        for node, uuid in (("n2:dead", A), (member.name, B)):
            client.sadd(f"{start}:nodes", node)
            client.sadd(f"{start}:s:{node}", uuid)
            client.hset(f"{start}:u:{uuid}", mapping={"n": node, "c": 5, "u": "-"})
        member._look_around()
        for uuid in (A, B):
            key = f"{start}:u:{uuid}"
            await self.until(partial(lambda key: client.hget(key, "n") == b"", key))
        self.assertEqual(client.smembers(f"{start}:nodes"), {member.name.encode()})


class SentinelTests(MemberTestCase):
    """A member whose engine is named by sentinels."""

    timeout = 60

    async def test_member_follows_the_master(self) -> None:
        group = SentinelGroup()
        self.addCleanup(group.stop)
        places = tuple(f"tcp:127.0.0.1:{port}" for port in group.sentinels)
        member = await self.joined(engine=None, sentinels=places, master="relay")
        self.assertEqual(len(group.master.client.keys("*:n:n1:*")), 1)
        ready = self.log.when("cluster_ready")
        group.master.kill()
        await ready
        self.assertEqual(len(group.replica.client.keys("*:n:n1:*")), 1)
        await member.stop()
        self.assertEqual(group.replica.client.keys("*:n:n1:*"), [])
