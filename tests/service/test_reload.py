"""Settings that change while a relay serves."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from msgspec import structs
from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.admin.control import Reloaded, ReloadOutcome
from proxyrelay.auth import Authenticator, authenticator
from proxyrelay.auth.anonymous import AnonymousAuthenticator
from proxyrelay.auth.credentials import Credentials
from proxyrelay.config import (
    Admin,
    Auth,
    AuthArguments,
    Config,
    Logging,
    Secret,
    Survive,
    Timeouts,
)
from proxyrelay.config.cluster import Cluster
from proxyrelay.errors import ConfigError, Problem
from proxyrelay.net import certificates
from proxyrelay.service.checks import Inspection
from proxyrelay.service.reload import FIXED, Reload, applicable, differences
from tests.service.case import FolderTestCase
from tests.support.certificates import Authority


class ApplicableTests(SynchronousTestCase):
    """Which settings can change, and which must wait."""

    def test_applicable_most_settings_are_applied(self) -> None:
        after = Config(
            max_message_bytes=1,
            timeouts=Timeouts(stop=1),
            auth=Auth(kwargs=AuthArguments(cache_ttl=1)),
        )
        self.assertEqual(applicable(Config(), after), (after, []))

    def test_applicable_fixed_settings_wait(self) -> None:
        logging = Logging(
            log_dir=Path("/a"),
            current_client_limit=1,
            format="json",
            audit_log=Path("/b"),
            privacy=True,
            privacy_key_file=Path("/c"),
        )
        cluster = Cluster(
            engine="unix:/a",
            sentinels=("tls:a:1",),
            master="a",
            username="a",
            ca_file=Path("/a"),
            client_certfile=Path("/a"),
            client_keyfile=Path("/a"),
            database=1,
            prefix="a",
            node="a",
            lease=9,
        )
        admin = Admin(listen="127.0.0.1:1")
        after = Config(
            host="a",
            port=1,
            reuse_port=True,
            logging=logging,
            admin=admin,
            cluster=cluster,
            survive=Survive(enabled=True, capacity=1),
        )
        settings, waiting = applicable(Config(), after)
        self.assertEqual(
            settings, Config(logging=Logging(current_client_limit=1, format="json"))
        )
        self.assertEqual({*waiting}, {*FIXED} - {"auth.method"})

    def test_applicable_access_waits_with_place(self) -> None:
        """A token that is no longer needed there may be needed here."""
        before = Config(admin=Admin("0.0.0.0:1", Path("a"), ("a",)))
        after = Config(admin=Admin("127.0.0.1:1"))
        self.assertEqual(applicable(before, after), (before, ["admin.listen"]))
        other = Config(admin=Admin("0.0.0.0:1", Path("b"), ("b",)))
        self.assertEqual(applicable(before, other), (other, []))

    def test_applicable_settings_of_the_cluster_wait_with_its_engine(self) -> None:
        """A key that a near engine does not need may be needed for a far one."""
        far = Cluster(engine="tcp:a:1", key_file=Path("/a"))
        before = Config(cluster=far)
        after = Config(cluster=Cluster(engine="unix:/a", call_timeout=1))
        self.assertEqual(
            applicable(before, after),
            (before, ["cluster.engine", "cluster.call_timeout", "cluster.key_file"]),
        )
        other = Config(cluster=structs.replace(far, call_timeout=1, key_file=Path("b")))
        self.assertEqual(applicable(before, other), (other, []))

    def test_applicable_tls_is_not_turned_on_or_off(self) -> None:
        plain, secure = Config(), Config(certfile=Path("a"), keyfile=Path("b"))
        for before, after in ((plain, secure), (secure, plain)):
            self.assertEqual(
                applicable(before, after), (before, ["certfile", "keyfile"])
            )
        after = Config(certfile=Path("c"))
        self.assertEqual(
            applicable(Config(certfile=Path("a")), after),
            (after, []),
        )

    def test_applicable_arguments_wait_with_method(self) -> None:
        after = Config(auth=Auth("globus", AuthArguments(cache_ttl=1)))
        for one, other in ((Config(), after), (after, Config())):
            self.assertEqual(applicable(one, other), (one, ["auth.method"]))

    def test_differences_are_single_settings(self) -> None:
        after = Config(timeouts=Timeouts(stop=1), port=1)
        self.assertEqual([*differences(Config(), after)], ["port", "timeouts.stop"])


class Relay:
    """Stands for the relay service."""

    def __init__(
        self,
        config: Config,
        pair: certificates.KeyPair | None,
        authenticator: Authenticator,
    ) -> None:
        self.refuses = False
        self.changes = 0
        self.member: Any = None
        self.config, self.pair, self.authenticator = config, pair, authenticator

    def apply(self, config: Config) -> None:
        self.config = config

    def use_certificate(self, pair: certificates.KeyPair) -> None:
        if self.refuses:
            raise ConfigError([Problem("certfile", "is refused by OpenSSL")])
        self.pair = pair
        self.changes += 1

    def use_authenticator(self, authenticator: Authenticator) -> None:
        self.authenticator = authenticator


class ReloadTestCase(FolderTestCase):
    """A relay, and the inspection of its next reload."""

    def serve(
        self,
        config: Config,
        pair: certificates.KeyPair | None = None,
        credentials: Credentials | None = None,
        serving: Authenticator | None = None,
        token: Secret | None = None,
    ) -> None:
        self.clock = Clock()
        self.relay = Relay(config, pair, serving or AnonymousAuthenticator())
        self.found = Inspection(config, pair=pair, credentials=credentials)
        relay: Any = self.relay
        self.reload = Reload(relay, credentials, lambda: self.found, self.clock, token)
        self.reload.startService()
        self.addCleanup(self.reload.stopService)


class TokenTests(ReloadTestCase):
    """The token of the private listener."""

    def setUp(self) -> None:
        super().setUp()
        settings = Config(admin=Admin("0.0.0.0:1", Path("a")))
        self.serve(settings, token=Secret("first"))
        self.found.token = Secret("another")

    def test_reload_with_new_token_tells_of_it(self) -> None:
        told: list[Reloaded] = []
        self.reload.reloaded = told.append
        done = self.reload.reload()
        expected = Reloaded(ReloadOutcome.CHANGED, "changed: token", Secret("another"))
        self.assertEqual((done, told), (expected, [expected]))
        self.assertEqual(self.reload.reload().outcome, ReloadOutcome.UNCHANGED)
        self.assertNotIn("another", repr(done))

    def test_reload_with_problems_keeps_token(self) -> None:
        self.found.problems.append(Problem("port", "is wrong"))
        expected = Reloaded(ReloadOutcome.REFUSED, "port: is wrong", Secret("first"))
        self.assertEqual(self.reload.reload(), expected)

    def test_reload_with_waiting_place_keeps_token(self) -> None:
        self.found.config = Config(admin=Admin("127.0.0.1:1"))
        self.found.token = None
        text = "nothing has changed; waits for a new start: admin.listen"
        expected = Reloaded(ReloadOutcome.UNCHANGED, text, Secret("first"))
        self.assertEqual(self.reload.reload(), expected)


class ReloadTests(ReloadTestCase):
    """All that the settings say."""

    def test_reload_applies_settings_and_names_changes(self) -> None:
        self.serve(Config())
        before = self.relay.authenticator
        changed = Config(max_message_bytes=1, timeouts=Timeouts(stop=1))
        for config, names in (
            (Config(), "nothing"),
            (changed, "max_message_bytes, timeouts.stop"),
        ):
            self.found = Inspection(config)
            self.reload.reload()
            self.assertEqual(self.relay.config, config)
            self.assertIs(self.relay.authenticator, before)
            self.assertEqual(self.captured.lines()[-1], f"reloaded, changed: {names}")

    def test_reload_with_problem_or_fault_changes_nothing(self) -> None:
        self.serve(Config())
        wrong = [Problem("port", "is odd"), Problem("host", "too")]
        for problems, faults in ((wrong, []), ([], wrong)):
            self.captured.events.clear()
            self.found = Inspection(Config(max_message_bytes=1), problems, faults)
            self.reload.reload()
            self.assertEqual((self.relay.config, self.relay.changes), (Config(), 0))
            self.assertEqual(
                self.captured.lines(LogLevel.error),
                ["port: is odd", "host: too", "nothing is reloaded; problems: 2"],
            )

    def test_reload_logs_warnings_and_waiting_settings(self) -> None:
        self.serve(Config())
        self.found = Inspection(Config(port=1), warnings=[Problem("port", "is odd")])
        self.reload.reload()
        self.assertEqual(self.relay.config, Config())
        self.assertEqual(
            self.captured.lines(LogLevel.warn),
            [
                "port: is odd",
                "changed as well, but only for a relay that is started anew: port",
            ],
        )

    def test_reload_serves_and_names_new_certificate(self) -> None:
        new = Authority().pair()
        self.serve(Config(certfile=Path("a")), Authority().pair())
        self.found = Inspection(self.relay.config, pair=new)
        self.reload.reload()
        self.assertIs(self.relay.pair, new)
        self.assertEqual(self.captured.lines(), ["reloaded, changed: certificate"])

    def test_reload_names_new_credentials_once(self) -> None:
        """A secret may stand in a file of its own."""
        auth = Auth("globus")
        old = Credentials("0-1", Secret("old-secret"))
        clock = Clock()
        self.serve(Config(auth=auth), None, old, authenticator(auth, old, clock))
        before = self.relay.authenticator
        new = Credentials("0-1", Secret("new-secret"))
        self.found = Inspection(self.relay.config, credentials=new)
        for names in ("credentials", "nothing"):
            self.reload.reload()
            self.assertEqual(self.captured.lines()[-1], f"reloaded, changed: {names}")
            self.assertIsNot(self.relay.authenticator, before)

    def test_reload_names_new_keys_of_the_cluster(self) -> None:
        config = Config(cluster=Cluster(engine="unix:/a"))
        self.serve(config)
        self.relay.member = SimpleNamespace(keys=["a"])
        for keys, names in ((["a"], "nothing"), (["b", "a"], "cluster keys")):
            self.found = Inspection(config, cluster_keys=keys)
            self.reload.reload()
            self.assertEqual(self.captured.lines()[-1], f"reloaded, changed: {names}")
        # Keys of another engine wait with it.
        other = Config(cluster=Cluster(engine="unix:/b"))
        self.found = Inspection(other, cluster_keys=["b"])
        self.reload.reload()
        self.assertEqual(self.captured.lines()[-2], "reloaded, changed: nothing")

    def test_reload_changes_interval_of_certificate_watch(self) -> None:
        self.serve(Config())
        for interval in (5, 0, 7):
            self.found = Inspection(Config(certificate_interval=interval))
            self.reload.reload()
            calls = [call.getTime() for call in self.clock.getDelayedCalls()]
            self.assertEqual(calls, [interval] if interval else [])
