"""Settings and certificates that change while a relay serves."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import trustme
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
    Timeouts,
)
from proxyrelay.errors import ConfigError, Problem
from proxyrelay.net import certificates
from proxyrelay.service.checks import Inspection
from proxyrelay.service.reload import Reload, applicable, differences
from tests.service.test_app import Capture
from tests.support.certificates import Authority

INTERVAL = 60


class Relay:
    """Keeps what it is to serve with."""

    def __init__(
        self,
        config: Config,
        pair: certificates.KeyPair | None,
        authenticator: Authenticator,
    ) -> None:
        self.refuses = False
        self.changes = -1
        self.change(config, pair, authenticator)

    def change(
        self,
        config: Config,
        pair: certificates.KeyPair | None,
        authenticator: Authenticator,
    ) -> None:
        if self.refuses:
            raise ConfigError([Problem("certfile", "is refused by OpenSSL")])
        self.config, self.pair, self.authenticator = config, pair, authenticator
        self.changes += 1


class ApplicableTests(SynchronousTestCase):
    """Which settings can change, and which must wait."""

    def test_most_can(self) -> None:
        after = Config(
            max_message_bytes=1,
            timeouts=Timeouts(stop=1),
            auth=Auth(kwargs=AuthArguments(cache_ttl=1)),
        )
        self.assertEqual(applicable(Config(), after), (after, []))

    def test_some_must_wait(self) -> None:
        after = Config(
            host="a",
            port=1,
            reuse_port=True,
            logging=Logging(
                log_dir=Path("/a"),
                current_client_limit=1,
                format="json",
                audit_log=Path("/b"),
                privacy=True,
                privacy_key_file=Path("/c"),
            ),
            admin=Admin(listen="127.0.0.1:1"),
        )
        settings, waiting = applicable(Config(), after)
        self.assertEqual(
            settings, Config(logging=Logging(current_client_limit=1, format="json"))
        )
        self.assertEqual(
            waiting,
            [
                *(("host",), ("port",), ("reuse_port",), ("logging", "log_dir")),
                *(("logging", "audit_log"), ("logging", "privacy")),
                *(("logging", "privacy_key_file"), ("admin", "listen")),
            ],
        )

    def test_who_may_call_waits_with_where(self) -> None:
        """A token that is no longer needed there may be needed here."""
        before = Config(admin=Admin("0.0.0.0:1", Path("a"), ("a",)))
        after = Config(admin=Admin("127.0.0.1:1"))
        self.assertEqual(applicable(before, after), (before, [("admin", "listen")]))
        other = Config(admin=Admin("0.0.0.0:1", Path("b"), ("b",)))
        self.assertEqual(applicable(before, other), (other, []))

    def test_tls_is_not_turned_on_or_off(self) -> None:
        plain, secure = Config(), Config(certfile=Path("a"), keyfile=Path("b"))
        for before, after in ((plain, secure), (secure, plain)):
            settings, waiting = applicable(before, after)
            self.assertEqual(settings, before)
            self.assertEqual(waiting, [("certfile",), ("keyfile",)])

    def test_other_files_can_be_named(self) -> None:
        before, after = Config(certfile=Path("a")), Config(certfile=Path("b"))
        self.assertEqual(applicable(before, after), (after, []))

    def test_a_method_waits_with_all_that_belongs_to_it(self) -> None:
        after = Config(auth=Auth("globus", AuthArguments(cache_ttl=1)))
        for one, other in ((Config(), after), (after, Config())):
            self.assertEqual(applicable(one, other), (one, [("auth", "method")]))

    def test_differences_are_of_single_settings(self) -> None:
        after = Config(timeouts=Timeouts(stop=1), port=1)
        self.assertEqual(
            list(differences(Config(), after)), [("port",), ("timeouts", "stop")]
        )


class ReloadTestCase(SynchronousTestCase):
    """A relay, and what is found when the settings are looked at."""

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
        self.reload = Reload(
            self.relay, credentials, lambda: self.found, None, self.clock
        )
        self.reload.startService()
        self.addCleanup(self.reload.stopService)


class TokenTests(ReloadTestCase):
    """What callers of the private listener bring."""

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
        self.reload = Reload(
            self.relay, None, lambda: self.found, None, self.clock, Secret("first")
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


class WatchTests(ReloadTestCase):
    """The certificate files, looked at from time to time."""

    def setUp(self) -> None:
        super().setUp()
        self.old, self.new = Authority(), Authority()
        certfile, keyfile = self.old.write(self.folder)
        self.serve(Config(certfile=certfile, keyfile=keyfile), self.old.pair())

    def look(self) -> list[str]:
        """What is logged at the next look."""
        self.captured.events.clear()
        self.clock.advance(INTERVAL)
        return self.captured.lines()

    def served(self) -> Authority:
        assert self.relay.pair is not None
        chain = self.relay.pair.chain
        return self.new if chain == self.new.pair().chain else self.old

    def test_are_served_when_they_are_new(self) -> None:
        self.assertEqual(self.look(), [])
        self.new.write(self.folder)
        (line,) = self.look()
        self.assertTrue(line.startswith("serving a renewed certificate, valid until "))
        self.assertIs(self.served(), self.new)
        self.assertEqual(self.look(), [])
        self.assertEqual(self.relay.changes, 1)

    def test_expired_certificate_that_is_served_is_not_told_of_again(self) -> None:
        expired = Authority(end=datetime(2020, 1, 1, tzinfo=timezone.utc))
        expired.write(self.folder)
        self.relay.pair = expired.pair()
        self.assertEqual([self.look(), self.look()], [[], []])
        self.new.write(self.folder)
        (line,) = self.look()
        self.assertTrue(line.startswith("serving a renewed certificate"))

    def test_may_be_written_again(self) -> None:
        self.look()
        self.old.write(self.folder)
        self.assertEqual(self.look(), [])
        self.assertEqual(self.relay.changes, 0)

    def test_that_do_not_match_are_looked_at_again(self) -> None:
        certfile, keyfile = self.folder / "cert.pem", self.folder / "privkey.pem"
        key = keyfile.read_bytes()
        self.new.write(self.folder)
        new = keyfile.read_bytes()
        keyfile.write_bytes(key)
        self.assertEqual(self.look(), [])  # perhaps they are just being written
        wrong, result = self.look()
        self.assertIn(f"is not that of the certificate in {certfile}", wrong)
        self.assertEqual(result, "the certificate that was read before is served on")
        self.assertEqual(self.look(), [])
        self.assertIs(self.served(), self.old)
        keyfile.write_bytes(new)
        self.assertEqual(len(self.look()), 1)
        self.assertIs(self.served(), self.new)

    def test_that_are_missing_are_looked_at_again(self) -> None:
        self.look()
        (self.folder / "cert.pem").unlink()
        self.assertEqual([len(self.look()) for _ in range(3)], [0, 2, 0])
        self.old.write(self.folder)
        self.assertEqual(self.look(), [])

    def test_that_clients_would_refuse_are_not_served(self) -> None:
        yesterday = certificates.now() - timedelta(days=1)
        issued = trustme.CA().issue_cert(
            "localhost",
            not_before=yesterday - timedelta(days=1),
            not_after=yesterday,
            key_type=trustme.KeyType.ECDSA,
        )
        self.new.issued = issued
        self.new.write(self.folder)
        self.assertEqual(self.look(), [])
        self.assertIn("expired on", self.look()[0])
        self.assertIs(self.served(), self.old)

    def test_that_openssl_refuses_are_not_served(self) -> None:
        self.new.write(self.folder)
        self.relay.refuses = True
        self.assertEqual(self.look(), [])
        self.assertIn("is refused by OpenSSL", self.look()[0])
        self.relay.refuses = False
        self.assertEqual(len(self.look()), 1)

    def test_are_not_looked_at_without_tls(self) -> None:
        self.serve(Config())
        self.assertEqual(self.look(), [])

    def test_a_defect_is_logged(self) -> None:
        unlikely: Any = msgspec.structs.replace(self.relay.config, certfile=5)
        self.relay.config = unlikely
        self.look()
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)
        self.assertIn(
            "the certificate files are no longer watched", self.captured.lines()[0]
        )
