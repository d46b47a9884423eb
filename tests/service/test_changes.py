"""Settings that can change, and those that need a restart."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.config import Admin, Auth, AuthArguments, Config, Logging, Timeouts
from proxyrelay.service.changes import applicable, differences


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
