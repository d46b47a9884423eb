"""What can be found out about the settings before anything is served."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay import config
from proxyrelay.auth.credentials import (
    ID_VARIABLE,
    SECRET_VARIABLE,
    Credentials,
)
from proxyrelay.auth.globus_api import Globus
from proxyrelay.config import PROXYSTORE_RELAY, Auth, AuthArguments, Config, Secret
from proxyrelay.errors import Problem
from proxyrelay.service.checks import Inspection, inspect, open_to_all
from proxyrelay.switchboard.messages import MESSAGE_CEILING
from tests.net.test_certificates import Issued, ecdsa
from tests.support.globus import CLIENT_ID

NOW = datetime(2026, 6, 1, 12, tzinfo=timezone.utc)
DAY = timedelta(days=1)

HOST = "host = '127.0.0.1'\n"

GLOBUS = f"[auth]\nmethod = 'globus'\n[auth.kwargs]\nclient_id = '{CLIENT_ID}'\n"


class InspectionTests(SynchronousTestCase):
    """Problems, faults and warnings of a file."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.path = self.folder / "relay.toml"
        self.authority = trustme.CA()
        self.environment: dict[str, str] = {}

    def inspect(self, text: str, **overrides: str) -> Inspection:
        self.path.write_text(text)
        self.path.chmod(0o600)
        loaded = config.load(
            self.path,
            {f"--{name.replace('_', '-')}": text for name, text in overrides.items()},
        )
        return inspect(loaded, NOW, self.environment)

    def certificates(
        self, start: datetime = NOW - DAY, end: datetime = NOW + 90 * DAY
    ) -> str:
        """Write a pair; returns the settings that name it."""
        issued = self.authority.issue_cert(
            "relay.example", not_before=start, not_after=end
        )
        (self.folder / "cert.pem").write_bytes(
            issued.cert_chain_pems[0].bytes() + self.authority.cert_pem.bytes()
        )
        (self.folder / "key.pem").write_bytes(issued.private_key_pem.bytes())
        return HOST + "certfile = 'cert.pem'\nkeyfile = 'key.pem'\n"

    def problem(self, key: str, message: str, line: int | None) -> Problem:
        return Problem(key, message, line, str(self.path))

    def test_finds_nothing_wrong(self) -> None:
        found = self.inspect(HOST)
        self.assertEqual(
            (found.problems, found.faults, found.warnings, found.pair),
            ([], [], [], None),
        )
        self.assertEqual(found.config, Config(host="127.0.0.1"))
        self.assertIsNone(found.credentials)

    def test_keeps_what_reading_found(self) -> None:
        found = self.inspect(
            "host = 1\nport = 'x'\n[logging]\ndefault_log_level = 'INFO'\n"
        )
        self.assertEqual([p.key for p in found.problems], ["host", "port"])
        self.assertEqual([p.key for p in found.warnings], ["logging.default_log_level"])

    def test_does_not_change_what_was_loaded(self) -> None:
        self.path.write_text("certfile = 'missing.pem'\n")
        loaded = config.load(self.path)
        inspect(loaded, NOW, {})
        self.assertEqual((loaded.problems, loaded.warnings), ([], []))

    def test_reads_the_pair(self) -> None:
        found = self.inspect(self.certificates())
        self.assertEqual((found.problems, found.faults, found.warnings), ([], [], []))
        assert found.pair is not None
        self.assertEqual(found.pair.names(), ["relay.example"])

    def test_finds_what_is_wrong_with_the_pair(self) -> None:
        found = self.inspect(HOST + "\ncertfile = 'missing.pem'\n")
        path = self.folder / "missing.pem"
        self.assertEqual(
            found.problems,
            [
                self.problem(
                    "certfile", f"{path} cannot be read: No such file or directory", 3
                )
            ],
        )
        self.assertIsNone(found.pair)

    def test_finds_that_the_key_is_another(self) -> None:
        text = self.certificates()
        other = self.authority.issue_cert("relay.example").private_key_pem.bytes()
        (self.folder / "key.pem").write_bytes(other)
        (problem,) = self.inspect(text).problems
        self.assertEqual((problem.key, problem.line), ("keyfile", 3))

    def test_finds_what_openssl_refuses(self) -> None:
        weak = Issued("leaf", key=ecdsa(ec.SECP192R1()))
        (self.folder / "both.pem").write_bytes(weak.pem + weak.key_pem())
        (problem,) = self.inspect(HOST + "certfile = 'both.pem'\n").problems
        self.assertEqual((problem.key, problem.line), ("certfile", 2))

    def test_an_expired_certificate_is_a_fault(self) -> None:
        found = self.inspect(self.certificates(NOW - 9 * DAY, NOW - DAY))
        self.assertEqual(found.problems, [])
        (fault,) = found.faults
        self.assertEqual((fault.key, fault.line), ("certfile", 2))
        self.assertIn("expired on 2026-05-31", fault.message)
        self.assertIsNotNone(found.pair)

    def test_a_certificate_that_expires_soon_is_a_warning(self) -> None:
        found = self.inspect(self.certificates(NOW - 2 * DAY, NOW + DAY))
        self.assertEqual((found.problems, found.faults), ([], []))
        (warning,) = found.warnings
        self.assertEqual((warning.key, warning.line), ("certfile", 2))
        self.assertIn("expires soon, on 2026-06-02", warning.message)

    def test_does_not_open_what_was_refused(self) -> None:
        for text in ("certfile = 1\n", "certfile = 'missing.pem'\nkeyfile = 1\n"):
            self.assertEqual(len(self.inspect(HOST + text).problems), 1, text)

    def test_authentication_that_cannot_be_had_lets_nobody_in(self) -> None:
        found = self.inspect(HOST + "[auth]\nmethod = 'globus'\n")
        self.assertIsNone(found.credentials)
        self.assertEqual(
            [(problem.key, problem.file) for problem in found.problems],
            [
                ("auth.kwargs.client_id", str(self.path)),
                ("auth.kwargs.client_secret", str(self.path)),
            ],
        )

    def test_credentials_may_be_in_the_environment(self) -> None:
        self.environment = {ID_VARIABLE: CLIENT_ID, SECRET_VARIABLE: "b"}
        found = self.inspect(HOST + "[auth]\nmethod = 'globus'\n")
        self.assertEqual(found.problems, [])
        self.assertEqual(found.credentials, Credentials(CLIENT_ID, Secret("b")))

    def test_credentials_are_not_looked_for_without_a_method(self) -> None:
        self.environment = {ID_VARIABLE: CLIENT_ID, SECRET_VARIABLE: "b"}
        found = self.inspect(HOST)
        self.assertEqual((found.problems, found.credentials), ([], None))

    def test_a_secret_that_cannot_be_read_is_a_problem_of_its_line(self) -> None:
        found = self.inspect(HOST + GLOBUS + "client_secret_file = 'missing'\n")
        path = self.folder / "missing"
        self.assertEqual(
            found.problems,
            [
                self.problem(
                    "auth.kwargs.client_secret_file",
                    f"{path} cannot be read: No such file or directory",
                    6,
                )
            ],
        )

    def globus(self, text: str, start: str = HOST) -> list[tuple[str, int | None]]:
        """Keys and lines of the warnings about a relay with Globus Auth."""
        found = self.inspect(start + GLOBUS + text)
        self.assertEqual(found.problems, [])
        return [(warning.key, warning.line) for warning in found.warnings]

    def test_warns_of_an_audience_that_was_forgotten(self) -> None:
        secret = "client_secret = 'b'\n"
        unset = ("auth.kwargs.audience", None)
        self.assertEqual(self.globus(secret), [unset])
        for audience in (CLIENT_ID, PROXYSTORE_RELAY):
            self.assertEqual(self.globus(f"{secret}audience = '{audience}'\n"), [])
        found = self.inspect(
            HOST + GLOBUS.replace(CLIENT_ID, PROXYSTORE_RELAY) + secret
        )
        self.assertEqual((found.problems, found.warnings), ([], []))

    def test_warns_of_secrets_that_everybody_can_read(self) -> None:
        secret = self.folder / "secret"
        secret.write_text("b\n")
        text = f"audience = '{CLIENT_ID}'\nclient_secret_file = 'secret'\n"
        key = "auth.kwargs.client_secret_file"
        for mode, warnings in ((0o600, []), (0o640, []), (0o644, [(key, 7)])):
            secret.chmod(mode)
            self.assertEqual(self.globus(text), warnings)

    def test_warns_of_settings_with_a_secret_that_everybody_can_read(self) -> None:
        self.path.write_text(
            HOST + GLOBUS + f"audience = '{CLIENT_ID}'\nclient_secret = 'b'\n"
        )
        for mode, lines in ((0o600, []), (0o644, [7])):
            self.path.chmod(mode)
            found = inspect(config.load(self.path), NOW, {})
            self.assertEqual([warning.line for warning in found.warnings], lines)
        self.path.write_text(HOST + GLOBUS + f"audience = '{CLIENT_ID}'\n")
        found = inspect(config.load(self.path), NOW, {SECRET_VARIABLE: "b"})
        self.assertEqual(found.warnings, [])

    def test_warns_of_a_trust_store_that_is_not_there(self) -> None:
        text = f"audience = '{CLIENT_ID}'\nclient_secret = 'b'\n"
        for path in (self.folder / "missing", self.folder):
            self.environment = {"SSL_CERT_FILE": str(path)}
            self.assertEqual(self.globus(text), [("SSL_CERT_FILE", None)])
            self.assertEqual(self.inspect(HOST).warnings, [])
        for there in (str(self.path), ""):
            self.environment = {"SSL_CERT_FILE": there}
            self.assertEqual(self.globus(text), [])

    def test_warns_of_tokens_in_clear_text(self) -> None:
        text = f"audience = '{CLIENT_ID}'\nclient_secret = 'b'\n"
        self.assertEqual(self.globus(text, ""), [("", None)])
        (warning,) = self.inspect(GLOBUS + text).warnings
        self.assertIn("bearer tokens travel in clear text", warning.message)
        self.assertIn("a proxy that ends TLS", warning.message)

    def test_credentials_are_not_missed_beside_other_mistakes(self) -> None:
        for text, key in (
            ("[auth]\nmethod = 'globus'\nkwargs.client_id = 12\n", "client_id"),
            (GLOBUS + "client_secret_fil = 'secret'\n", "client_secret_fil"),
            ("[auth]\nmethod = 'Globus'\nkwargs.client_secret = 'b'\n", "method"),
            ("[auth]\nmethod = 'globus'\n[auth.kwarg]\nclient_id = 'b'\n", "kwarg"),
            ("auth = 1\n", "auth"),
        ):
            (problem,) = self.inspect(HOST + text).problems
            self.assertEqual(problem.key.rpartition(".")[2], key)

    def test_log_dir_may_be_missing_and_is_not_made(self) -> None:
        found = self.inspect(HOST + "logging.log_dir = 'a/b/c'\n")
        self.assertEqual(found.problems, [])
        self.assertEqual(list(self.folder.iterdir()), [self.path])

    def test_log_dir_may_be_there(self) -> None:
        (self.folder / "logs").mkdir()
        found = self.inspect(HOST + "logging.log_dir = 'logs'\n")
        self.assertEqual(found.problems, [])
        self.assertEqual(list((self.folder / "logs").iterdir()), [])

    def test_log_dir_must_be_a_folder(self) -> None:
        for name in ("relay.toml", "relay.toml/logs"):
            found = self.inspect(HOST + f"logging.log_dir = '{name}'\n")
            self.assertEqual(
                found.problems,
                [
                    self.problem(
                        "logging.log_dir",
                        f"{self.folder / name} is no folder that can be written or "
                        "made",
                        2,
                    )
                ],
            )

    def test_arguments_without_a_method_would_let_everybody_in(self) -> None:
        found = self.inspect(HOST + "[auth.kwargs]\nclient_id = 'a'\n")
        (problem,) = found.problems
        self.assertEqual(problem.key, "auth.kwargs")
        self.assertIn("everybody would be let in", problem.message)

    def test_tells_who_means_to_authenticate(self) -> None:
        self.assertEqual(open_to_all(Auth("globus")), [])
        for auth, key in (
            (Auth(), "auth"),
            (Auth(None, AuthArguments(client_id="a")), "auth.kwargs"),
        ):
            (problem,) = open_to_all(auth)
            self.assertEqual(problem.key, key)
            self.assertIn("everybody would be let in", problem.message)

    def test_credentials_that_cannot_be_right_are_a_problem_of_their_line(
        self,
    ) -> None:
        found = self.inspect(
            HOST + "[auth]\nmethod = 'globus'\n[auth.kwargs]\nclient_id = 'a b'\n"
            "client_secret = 'hunter 2'\n"
        )
        self.assertEqual(
            [(problem.key, problem.line) for problem in found.problems],
            [("auth.kwargs.client_id", 5), ("auth.kwargs.client_secret", 6)],
        )

    def test_an_address_that_is_taken_can_be_asked(self) -> None:
        for url in (
            "https://auth.example.org/",
            "https://Localhost:8443/~globus/%20;a=b",
            "https://192.0.2.1:65535",
            f"https://{'x' * 63}.1.2-3",
        ):
            found = self.inspect(
                HOST + GLOBUS + f"client_secret = 'b'\nservice_url = '{url}'\n"
            )
            self.assertEqual(found.problems, [])
            assert found.credentials is not None
            service = Globus.connect(
                MemoryReactorClock(),
                found.config.auth.kwargs.service_url,
                found.credentials,
                1,
            )
            self.assertNoResult(service.client(1))

    def test_log_dir_must_be_writable(self) -> None:
        locked = self.folder / "locked"
        locked.mkdir(mode=0o500)
        if os.access(locked, os.W_OK):
            self.skipTest("this user may write everywhere")
        for name in ("locked", "locked/logs"):
            found = self.inspect(HOST + f"logging.log_dir = '{name}'\n")
            self.assertEqual([p.key for p in found.problems], ["logging.log_dir"])

    def test_the_log_file_must_be_writable(self) -> None:
        (self.folder / "logs" / "proxyrelay.log").mkdir(parents=True)
        found = self.inspect(HOST + "logging.log_dir = 'logs'\n")
        self.assertEqual([p.key for p in found.problems], ["logging.log_dir"])

    def test_the_audit_log_and_the_key_may_be_missing_and_are_not_made(self) -> None:
        found = self.inspect(
            HOST + "[logging]\naudit_log = 'a/b.log'\nprivacy = true\n"
            "privacy_key_file = 'key'\n"
        )
        self.assertEqual((found.problems, found.warnings), ([], []))
        self.assertEqual(list(self.folder.iterdir()), [self.path])

    def test_the_audit_log_must_be_a_file(self) -> None:
        (self.folder / "logs").mkdir()
        os.mkfifo(self.folder / "fifo")
        for name, text in (
            ("logs", "is no regular file that can be written"),
            ("fifo", "is no regular file that can be written"),
            ("relay.toml/a.log", "is no folder that can be written or made"),
            ("/dev/null", "is no regular file that can be written"),
        ):
            found = self.inspect(HOST + f"logging.audit_log = '{name}'\n")
            (problem,) = found.problems
            self.assertEqual((problem.key, problem.line), ("logging.audit_log", 2))
            self.assertIn(text, problem.message)

    def test_the_audit_log_is_no_open_file_of_a_process(self) -> None:
        """Also where that is a regular file: it would lose its name when it is long."""
        with (self.folder / "out").open("w") as out:
            (self.folder / "link").symlink_to(f"/dev/fd/{out.fileno()}")
            (self.folder / "file").symlink_to("out")
            number = out.fileno()
            for name in (f"/dev/fd/{number}", f"/proc/self/fd/{number}", "link"):
                found = self.inspect(HOST + f"logging.audit_log = '{name}'\n")
                (problem,) = found.problems
                self.assertEqual(problem.key, "logging.audit_log")
                self.assertIn("is an open file of a process", problem.message)
        found = self.inspect(HOST + "logging.audit_log = 'file'\n")
        self.assertEqual(found.problems, [])

    def test_the_audit_log_is_not_the_log(self) -> None:
        for name in ("logs/proxyrelay.log", "logs/../logs/proxyrelay.log"):
            found = self.inspect(
                HOST + f"[logging]\nlog_dir = 'logs'\naudit_log = '{name}'\n"
            )
            (problem,) = found.problems
            self.assertEqual((problem.key, problem.line), ("logging.audit_log", 4))
            self.assertIn("is the log itself", problem.message)

    def test_the_key_of_the_pseudonyms_must_be_one(self) -> None:
        text = HOST + "[logging]\nprivacy = true\nprivacy_key_file = "
        for name, wrong in (("nowhere/key", "is no folder"), (".", "no regular")):
            (problem,) = self.inspect(f"{text}'{name}'\n").problems
            self.assertEqual(
                (problem.key, problem.line), ("logging.privacy_key_file", 4)
            )
            self.assertIn(wrong, problem.message)
        (self.folder / "key").write_text("short")
        (problem,) = self.inspect(f"{text}'key'\n").problems
        self.assertNotIn("short", problem.message)
        # Nobody reads it then.
        found = self.inspect(f"{text}'key'\n".replace("true", "false"))
        self.assertEqual(found.problems, [])
        (warning,) = found.warnings
        self.assertIn("no effect without privacy = true", warning.message)

    def test_warns_of_a_key_that_everybody_can_read(self) -> None:
        text = HOST + "[logging]\nprivacy = true\nprivacy_key_file = 'key'\n"
        (self.folder / "key").write_text("k" * 32)
        for mode, count in ((0o600, 0), (0o640, 0), (0o644, 1)):
            (self.folder / "key").chmod(mode)
            found = self.inspect(text)
            self.assertEqual(found.problems, [])
            self.assertEqual(len(found.warnings), count)
        self.assertIn("chmod o-r", found.warnings[0].message)

    def test_a_problem_of_an_option_has_no_line_of_the_file(self) -> None:
        found = self.inspect(
            HOST + "logging.log_dir = 'logs'\n", log_dir=str(self.path)
        )
        (problem,) = found.problems
        self.assertIn(str(self.path), problem.message)
        self.assertEqual((problem.line, problem.file), (None, None))

    def test_messages_have_a_ceiling(self) -> None:
        found = self.inspect(HOST + f"\nmax_message_bytes = {MESSAGE_CEILING + 1}\n")
        self.assertEqual(found.problems, [])
        (warning,) = found.warnings
        self.assertEqual((warning.key, warning.line), ("max_message_bytes", 3))
        self.assertIn(str(MESSAGE_CEILING), warning.message)
        found = self.inspect(HOST + f"max_message_bytes = {MESSAGE_CEILING}\n")
        self.assertEqual(found.warnings, [])

    def test_warns_of_strangers(self) -> None:
        (warning,) = self.inspect("").warnings
        self.assertEqual((warning.key, warning.file), ("", None))
        self.assertIn("without TLS", warning.message)

    def test_does_not_warn_of_strangers_beside_problems(self) -> None:
        # The defaults stand in for what is wrong, so that it may not be true.
        self.assertEqual(self.inspect("certfile = 1\n").warnings, [])

    def test_finds_everything_at_once(self) -> None:
        found = self.inspect(
            "port = 'x'\ncertfile = 'missing.pem'\n[logging]\nlog_dir = 'relay.toml'\n"
        )
        self.assertEqual(
            [(p.key, p.line) for p in found.problems],
            [("port", 1), ("certfile", 2), ("logging.log_dir", 4)],
        )

    def test_the_private_listener_has_a_token(self) -> None:
        (self.folder / "token").write_text("0123456789abcdef\n")
        (self.folder / "token").chmod(0o600)
        text = HOST + "[admin]\nlisten = '127.0.0.1:0'\ntoken_file = 'token'\n"
        found = self.inspect(text)
        self.assertEqual((found.problems, found.warnings), ([], []))
        self.assertEqual(found.token, Secret("0123456789abcdef"))
        self.assertNotIn("0123456789abcdef", repr(found))
        (self.folder / "token").chmod(0o644)
        (warning,) = self.inspect(text).warnings
        self.assertEqual((warning.key, warning.line), ("admin.token_file", 4))
        self.assertIn("everybody on this machine can read", warning.message)

    def test_a_token_that_is_none(self) -> None:
        text = HOST + "[admin]\nlisten = '127.0.0.1:0'\ntoken_file = 'token'\n"
        file = self.folder / "token"
        (problem,) = self.inspect(text).problems
        self.assertEqual((problem.key, problem.line), ("admin.token_file", 4))
        self.assertIn("cannot be read: No such file", problem.message)
        for content in ("", "short", "a" * 4097, "two words 0123456789", "\xe9" * 20):
            file.write_text(content)
            found = self.inspect(text)
            (problem,) = found.problems
            self.assertIn("must hold one token of 16 or more", problem.message)
            self.assertIsNone(found.token)
        file.unlink()
        os.mkfifo(file)
        (problem,) = self.inspect(text).problems
        self.assertIn("is no regular file", problem.message)

    def test_who_else_may_come_to_the_private_listener(self) -> None:
        for listen, word in (
            ("127.0.0.1:0", "whoever has an account on this machine"),
            ("unix:/run/proxyrelay/admin.sock", ""),
        ):
            warnings = self.inspect(HOST + f"[admin]\nlisten = '{listen}'\n").warnings
            self.assertEqual(len(warnings), int(bool(word)))
            self.assertIn(word, "".join(map(str, warnings)))

    def test_a_token_in_clear_text(self) -> None:
        (self.folder / "token").write_text("0123456789abcdef")
        (self.folder / "token").chmod(0o600)
        (warning,) = self.inspect(
            HOST + "[admin]\nlisten = '0.0.0.0:0'\ntoken_file = 'token'\n"
        ).warnings
        self.assertIn("the token travels in clear text", warning.message)

    def test_no_token_is_looked_for_without_a_listener(self) -> None:
        found = self.inspect(HOST + "[admin]\ntoken_file = 'missing'\n")
        self.assertEqual((found.problems, found.token), ([], None))
