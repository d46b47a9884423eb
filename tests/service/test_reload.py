"""Settings that change while a relay serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.admin.control import Reloaded, ReloadOutcome
from proxyrelay.auth import Authenticator, authenticator
from proxyrelay.auth.anonymous import AnonymousAuthenticator
from proxyrelay.auth.credentials import Credentials
from proxyrelay.config import Admin, Auth, Config, Secret, Timeouts
from proxyrelay.errors import ConfigError, Problem
from proxyrelay.net import certificates
from proxyrelay.service.checks import Inspection
from proxyrelay.service.reload import Reload
from tests.support.capture import Capture
from tests.support.certificates import Authority


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


class ReloadTestCase(SynchronousTestCase):
    """A relay, and the inspection of its next reload."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.captured = Capture(self)
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def serve(
        self,
        config: Config,
        pair: certificates.KeyPair | None = None,
        credentials: Credentials | None = None,
        serving: Authenticator | None = None,
    ) -> None:
        self.relay = Relay(config, pair, serving or AnonymousAuthenticator())
        self.found = Inspection(config, pair=pair, credentials=credentials)
        relay: Any = self.relay
        self.reload = Reload(relay, credentials, lambda: self.found, self.clock)
        self.reload.startService()
        self.addCleanup(self.reload.stopService)


class TokenTests(ReloadTestCase):
    """The token of the private listener."""

    def setUp(self) -> None:
        super().setUp()
        self.serve(Config(admin=Admin("0.0.0.0:1", Path("a"))))
        self.told: list[Reloaded] = []
        self.reload.reloaded = self.told.append
        self.found.token = Secret("another")

    def test_is_told_of(self) -> None:
        done = self.reload.reload()
        expected = Reloaded(ReloadOutcome.CHANGED, "changed: token", Secret("another"))
        self.assertEqual(done, expected)
        self.assertEqual(self.told, [expected])
        self.assertEqual(self.reload.reload().outcome, ReloadOutcome.UNCHANGED)
        self.assertNotIn("another", repr(done))

    def test_stays_while_there_are_problems(self) -> None:
        self.found.problems.append(Problem("port", "is wrong"))
        done = self.reload.reload()
        self.assertEqual(done, Reloaded(ReloadOutcome.REFUSED, "port: is wrong", None))

    def test_stays_where_another_place_waits(self) -> None:
        self.found.config = Config(admin=Admin("127.0.0.1:1"))
        self.found.token = None
        relay: Any = self.relay
        self.reload = Reload(
            relay, None, lambda: self.found, self.clock, Secret("first")
        )
        done = self.reload.reload()
        self.assertEqual(done.token, Secret("first"))
        self.assertEqual(
            done.detail,
            "nothing has changed; only when it is started anew: admin.listen",
        )


class SettingsTests(ReloadTestCase):
    """All that the settings say."""

    def test_are_applied(self) -> None:
        self.serve(Config())
        self.found = Inspection(Config(max_message_bytes=1, timeouts=Timeouts(stop=1)))
        self.reload.reload()
        self.assertEqual(self.relay.config, self.found.config)
        self.assertEqual(
            self.captured.lines(),
            ["reloaded, changed: max_message_bytes, timeouts.stop"],
        )

    def test_may_be_the_same(self) -> None:
        self.serve(Config())
        before = self.relay.authenticator
        self.reload.reload()
        self.assertIs(self.relay.authenticator, before)
        self.assertEqual(self.captured.lines(), ["reloaded, changed: nothing"])

    def test_with_a_problem_or_a_fault_change_nothing(self) -> None:
        self.serve(Config())
        wrong = [Problem("port", "is odd"), Problem("host", "too")]
        for problems, faults in ((wrong, []), ([], wrong)):
            self.captured.events.clear()
            config = Config(max_message_bytes=1)
            self.found = Inspection(config, problems, faults)
            self.reload.reload()
            self.assertEqual((self.relay.config, self.relay.changes), (Config(), 0))
            self.assertEqual(
                self.captured.lines(LogLevel.error),
                ["port: is odd", "host: too", "nothing is reloaded; problems: 2"],
            )

    def test_warnings_and_what_must_wait_are_logged(self) -> None:
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

    def test_another_certificate_is_named(self) -> None:
        old, new = Authority().pair(), Authority().pair()
        self.serve(Config(certfile=Path("a")), old)
        self.found = Inspection(self.relay.config, pair=new)
        self.reload.reload()
        self.assertIs(self.relay.pair, new)
        self.assertEqual(self.captured.lines(), ["reloaded, changed: certificate"])

    def test_credentials_are_named(self) -> None:
        """A secret may stand in a file of its own."""
        auth = Auth("globus")
        old = Credentials("0-1", Secret("old-secret"))
        self.serve(Config(auth=auth), None, old, authenticator(auth, old, self.clock))
        before = self.relay.authenticator
        new = Credentials("0-1", Secret("new-secret"))
        self.found = Inspection(self.relay.config, credentials=new)
        for names in ("credentials", "nothing"):
            self.reload.reload()
            self.assertEqual(self.captured.lines()[-1], f"reloaded, changed: {names}")
            self.assertIsNot(self.relay.authenticator, before)

    def test_of_the_watch_are_taken_on(self) -> None:
        self.serve(Config())
        for interval in (5, 0, 7):
            config = Config(certificate_interval=interval)
            self.found = Inspection(config)
            self.reload.reload()
            calls = [call.getTime() for call in self.clock.getDelayedCalls()]
            self.assertEqual(calls, [interval] if interval else [])
